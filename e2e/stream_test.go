package e2e

import (
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const draft = "#text"

// streamLogin logs the profile in at examples/stream, and waits until it is connected.
func (b *tab) streamLogin() {
	b.t.Helper()
	b.open("/")
	b.do(chromedp.SendKeys(field("Name"), "ann"))
	b.press("Log in", "/", 200)
	b.connected()
}

// connected waits until the page has its streams.
func (b *tab) connected() {
	b.t.Helper()
	b.waitFor(`document.querySelector("#state").textContent === "Connected"`)
	b.waitFor(`document.querySelector("#counts").textContent !== ""`)
}

// shows waits until the page shows that text as saved.
func (b *tab) shows(text string) {
	b.t.Helper()
	b.waitFor(`document.querySelector("#shown").textContent === "` + text + `"`)
}

// ended waits until the page says that its session is over.
func (b *tab) ended() {
	b.t.Helper()
	b.waitFor(`!document.querySelector("#ended").hidden && document.querySelector("#text").readOnly`)
}

// Text typed in one tab is saved, and shown in the other; a logout in one ends the streams of both.
func TestStreams(t *testing.T) {
	for _, renew := range []string{"0", "1ms"} { // 1ms: the cookie is renewed as soon as it can be
		t.Run("renew="+renew, func(t *testing.T) {
			first := newProfile(t, example(t, "stream", "-every", "50ms", "-renew", renew).site)
			first.streamLogin()
			second := first.another()
			second.open("/")
			second.connected()
			first.do(chromedp.SendKeys(chromedp.CSS(draft), "Dear diary"))
			first.waitFor(`document.querySelector("#state").textContent.startsWith("Saved")`)
			first.shows("Dear diary")
			second.shows("Dear diary")
			second.waitFor(`document.querySelector("#text").value === "Dear diary"`)
			second.do(chromedp.SendKeys(chromedp.CSS(draft), kb.End+", hello"))
			first.shows("Dear diary, hello")

			second.open("/")
			second.connected()
			second.shows("Dear diary, hello")
			if got := get(second, chromedp.Value(chromedp.CSS(draft))); got != "Dear diary, hello" {
				t.Errorf("the new page has %q", got)
			}

			first.press("Log out", "/", 200)
			second.ended()
			second.press("Log in again", "/", 200)
			second.sees("Any name will do.")
		})
	}
}

// Logging out elsewhere ends the streams there, and not here; the other browser can log in again at once.
func TestStreamsLogOutElsewhere(t *testing.T) {
	s := example(t, "stream", "-every", "50ms").site
	phone, laptop := newProfile(t, s), newProfile(t, s)
	phone.streamLogin()
	laptop.streamLogin()
	laptop.press("Log out elsewhere", "/", 200)
	phone.ended()
	laptop.connected()
	laptop.do(chromedp.SendKeys(chromedp.CSS(draft), "still here"))
	laptop.shows("still here")
	phone.press("Log in again", "/", 200)
	phone.streamLogin()
}

// The page survives the server: it connects again, and what was typed meanwhile is saved then.
func TestStreamsReconnect(t *testing.T) {
	store := "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions"
	args := []string{"-every", "50ms", "-store", store}
	p := example(t, "stream", args...)
	b := newProfile(t, p.site)
	b.streamLogin()
	b.do(chromedp.SendKeys(chromedp.CSS(draft), "before"))
	b.shows("before")
	p.Stop()
	b.waitFor(`document.querySelector("#state").textContent === "Connecting again"`)
	b.do(chromedp.SendKeys(chromedp.CSS(draft), kb.End+" and after"))
	example(t, "stream", append(args, "-addr", "127.0.0.1:"+p.port)...)
	b.shows("before and after")
}
