package e2e

import (
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Somebody without a mouse logs in, and out of another device, by the keyboard alone.
func TestKeyboard(t *testing.T) {
	s := example(t, "login").site
	other := newProfile(t, s)
	other.login(false)
	b := newProfile(t, s)
	b.opens("/", "/login")
	b.do(chromedp.KeyEvent("ann" + kb.Tab + password + kb.Tab + " ")) // the name has the focus; the space ticks the box
	b.goes("/", 200, chromedp.KeyEvent(kb.Enter))
	b.sees("Hello, ann", "Welcome, ann.", "you stay logged in")
	b.do(chromedp.KeyEvent(kb.Tab)) // the first thing is a link over the navigation
	b.waitFor(`document.activeElement.textContent === "Skip to the content" && document.activeElement.getBoundingClientRect().left >= 0`)
	b.do(chromedp.KeyEvent(kb.Tab + kb.Tab))
	b.goes("/devices", 200, chromedp.KeyEvent(kb.Enter))
	b.sees("2 devices")
	b.do(chromedp.KeyEvent(kb.Tab + kb.Enter)) // to the content
	b.do(chromedp.KeyEvent(kb.Tab + kb.Tab))   // past a link
	b.waitFor(`document.activeElement.matches("button:focus-visible") && getComputedStyle(document.activeElement).outlineStyle === "solid"`)
	b.goes("/devices", 200, chromedp.KeyEvent(kb.Enter))
	b.sees("That device is logged out.", "this device only")
}

func TestWrongPassword(t *testing.T) {
	b := newProfile(t, example(t, "login").site)
	b.open("/login")
	for _, user := range []string{"ann", "nobody"} {
		b.do(
			chromedp.Clear(field("Name")),
			chromedp.SendKeys(field("Name"), user),
			chromedp.SendKeys(field("Password"), "guessed"),
		)
		b.press("Log in", "/login", 403)
		b.sees("The name or the password is wrong.")
		if got := get(b, chromedp.Value(field("Name"))); got != user {
			t.Errorf("the name is %q", got)
		}
	}
}

// The tabs of a browser are logged in and out together.
func TestTabs(t *testing.T) {
	s := example(t, "login").site
	first := newProfile(t, s)
	second := first.another()
	first.open("/login")
	second.open("/login")
	first.login(false)
	second.opens("/login", "/")
	second.sees("Hello, ann")
	first.press("Log out", "/login", 200)
	first.sees("You are logged out.")
	second.press("Devices", "/login", 200)
}

// Requests that a page sends at the same time, and of which one renews the cookie, all find the session.
func TestParallelRenewal(t *testing.T) {
	b := newProfile(t, example(t, "login", "-renew", "1ms").site)
	call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true}) // the site's pages have no scripts
	b.login(false)
	for range 5 {
		b.loginAgain()
		before := b.cookie().Value
		failed := get(b, chromedp.Evaluate[[]string](`
			Promise.all(Array.from({length: 12}, (_, i) => fetch(i % 2 ? "/" : "/devices")))
				.then((responses) => responses.filter((r) => r.status !== 200 || r.redirected))
				.then((responses) => responses.map((r) => r.status + " " + r.url))`, chromedp.EvalAwaitPromise))
		if len(failed) > 0 {
			t.Errorf("these did not find the session: %q", failed)
		}
		if b.cookie().Value == before {
			t.Error("the cookie is the same as before")
		}
		b.open("/devices")
		b.sees("this device only")
	}
}

// loginAgain has a script log in, and follow no redirect: the next request of the page is the first that has the cookie,
// and renews it if it is due.
func (b *tab) loginAgain() {
	b.t.Helper()
	get(b, chromedp.Evaluate[string](`
		fetch("/login", {method: "POST", redirect: "manual", body: new URLSearchParams({user: "ann", password: "`+password+`"})})
			.then((r) => r.type)`, chromedp.EvalAwaitPromise))
}

// A request that is under way while its session ends brings nothing back, whichever of the two the server sees first.
func TestLogoutInFlight(t *testing.T) {
	visit := chromedp.Click(labelled("Devices"))
	send := chromedp.Click(labelled("Log out"))
	for name, test := range map[string]struct {
		step     chromedp.Action[chromedp.Void]
		path     string // of the request
		response bool   // the response is late, not the request, and sets a cookie
		again    bool   // the browser is logged in again before it arrives
		want     string // where it leads to
	}{
		"a page":                           {visit, "/devices", false, false, "/login"},
		"a page, then another login":       {visit, "/devices", false, true, "/"},
		"a form":                           {send, "/logout", false, false, "/login"},
		"a form, then another login":       {send, "/logout", false, true, "/"},
		"the response, with a dead cookie": {visit, "/devices", true, false, "/devices"},
	} {
		t.Run(name, func(t *testing.T) {
			renew := "0"
			if test.response {
				renew = "1ms" // or there would be no cookie in it
			}
			g := newGate(t, example(t, "login", "-renew", renew).site)
			b := newProfile(t, g.site)
			call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})
			b.login(false)
			late := b.another()
			late.open("/")
			if test.response {
				b.loginAgain()
			}
			h := g.hold(t, test.path, test.response)
			done := make(chan error, 1)
			go func() {
				_, err := chromedp.RunResponse(late.ctx, test.step)
				done <- err
			}()
			<-h.arrived
			if test.response {
				b.open("/")
			}
			b.press("Log out", "/login", 200)
			if test.again {
				b.login(false)
			}
			before := b.cookieValue()
			h.letGo()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := late.path(); got != test.want {
				t.Errorf("the late one leads to %s, want %s:\n%s", got, test.want, late.text())
			}
			if changed := b.cookieValue() != before; changed != test.response {
				t.Errorf("the late one has changed the cookie: %v, want %v", changed, test.response)
			}
			switch {
			case test.again:
				b.open("/")
				b.sees("Hello, ann")
			default: // also with a cookie that the server had given while the session lived
				b.opens("/", "/login")
			}
		})
	}
}

// "Log out all other devices" ends the session of another browser, which can log in again at once.
func TestLogOutOthers(t *testing.T) {
	s := example(t, "login").site
	phone, laptop := newProfile(t, s), newProfile(t, s)
	phone.login(true)
	laptop.login(false)
	laptop.press("Devices", "/devices", 200)
	laptop.sees("2 devices", "This device")
	laptop.press("Log out all other devices", "/devices", 200)
	laptop.sees("All your other devices are logged out.", "this device only")
	phone.press("Devices", "/login", 200)
	phone.sees("You have been logged out. Please log in again.")
	phone.login(false)
	laptop.open("/devices")
	laptop.sees("2 devices")
}

// A change of password asks for the old one if the login is old, and ends all other sessions.
func TestChangePassword(t *testing.T) {
	const other = "a staple of another kind"
	s := example(t, "login", "-fresh", "-1s").site // no login is recent enough
	b := newProfile(t, s)
	b.login(false)
	b.press("Password", "/confirm", 200)
	b.sees("enter your password once more")

	s = example(t, "login").site
	b, phone := newProfile(t, s), newProfile(t, s)
	phone.login(true)
	b.login(false)
	b.press("Password", "/password", 200)
	before := b.cookie().Value
	b.do(chromedp.SendKeys(field("New password"), other), chromedp.SendKeys(field("The same once more"), other))
	b.press("Change the password", "/", 200)
	b.sees("The password is changed, and all your other devices are logged out.")
	if b.cookie().Value == before {
		t.Error("the cookie is the same as before")
	}
	phone.press("Devices", "/login", 200)
	phone.do(chromedp.SendKeys(field("Name"), "ann"), chromedp.SendKeys(field("Password"), password))
	phone.press("Log in", "/login", 403)
}

// After a logout, "back" leads to no page of the session.
func TestBack(t *testing.T) {
	b := newProfile(t, example(t, "login").site)
	b.login(false)
	b.press("Devices", "/devices", 200)
	b.sees("This device")
	b.press("Log out", "/login", 200)
	b.do(chromedp.NavigateBack())
	b.waitFor(`document.readyState === "complete"`)
	if b.path() != "/login" {
		t.Errorf("back leads to %s:\n%s", b.path(), b.text())
	}
	b.do(chromedp.NavigateBack())
	b.waitFor(`document.readyState === "complete"`)
	if b.path() != "/login" {
		t.Errorf("back leads to %s:\n%s", b.path(), b.text())
	}
}

// A form can be sent once.
func TestFormTokenReuse(t *testing.T) {
	b := newProfile(t, example(t, "login").site)
	call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})
	b.login(false)
	b.press("Devices", "/devices", 200)
	const send = `fetch("/devices/end-others", {
		method: "POST", body: new URLSearchParams(new FormData(document.querySelector("main form"))),
	}).then((r) => r.text())`
	first := get(b, chromedp.Evaluate[string](send, chromedp.EvalAwaitPromise))
	second := get(b, chromedp.Evaluate[string](send, chromedp.EvalAwaitPromise))
	contains(t, first, "All your other devices are logged out.")
	contains(t, second, "That form was sent before")
}

// Another site cannot have a form sent, logged in as the user may be.
func TestCrossSite(t *testing.T) {
	s := example(t, "login").site
	b := newProfile(t, s)
	b.login(false)
	evil := serve(t, page200(`<form method="post" action="`+s.home()+`/logout"><button>Win a prize</button></form>`))
	b.goes("/", 200, chromedp.Navigate(evil.at("evil.example.test")))
	b.goes("/logout", 403, chromedp.Click(labelled("Win a prize")))
	b.open("/")
	b.sees("Hello, ann")
}
