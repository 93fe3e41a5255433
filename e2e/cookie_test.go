package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// The browser stored what was meant.
func TestCookieAttributes(t *testing.T) {
	secure, plain := example(t, "login").site, exampleHTTP(t, "login").site
	for _, test := range []struct {
		site     site
		remember bool
		want     string
	}{
		{secure, false, "__Host-session, www.example.test/, secure true, httpOnly true, Lax, session true"},
		{secure, true, "__Host-session, www.example.test/, secure true, httpOnly true, Lax, session false"},
		{plain, false, "session, www.example.test/, secure false, httpOnly true, Lax, session true"},
	} {
		b := newProfile(t, test.site)
		b.login(test.remember)
		c := b.cookie()
		got := fmt.Sprintf("%s, %s%s, secure %v, httpOnly %v, %s, session %v",
			c.Name, c.Domain, c.Path, c.Secure, c.HTTPOnly, c.SameSite, c.Session)
		if got != test.want {
			t.Errorf("the cookie is %s,\nwant %s", got, test.want)
		}
		if test.remember {
			left := time.Until(time.Unix(int64(c.Expires), 0))
			if month := 30 * 24 * time.Hour; left > month || left < month-time.Hour {
				t.Errorf("the cookie expires in %v", left)
			}
		}
		if seen := get(b, chromedp.Evaluate[string]("document.cookie")); seen != "" {
			t.Errorf("a script sees %q", seen)
		}
		b.press("Log out", "/login", 200)
		if after := b.tokens(); len(after) > 0 { // the notice that began a session was shown
			t.Errorf("after the logout there is a cookie: %+v", after[0])
		}
	}
}

// "Stay logged in" outlives the browser, any other login does not.
func TestBrowserRestart(t *testing.T) {
	need(t, "chromium")
	s := example(t, "login").site
	for _, remember := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "profile")
		visit(t, dir, s, func(b *tab) { b.login(remember) })
		visit(t, dir, s, func(b *tab) {
			if remember {
				b.open("/")
				b.sees("Hello, ann")
			} else {
				b.opens("/", "/login")
			}
		})
	}
}

// visit starts a browser on dir, and ends it.
func visit(t *testing.T, dir string, s site, test func(*tab)) {
	t.Helper()
	ctx, closeBrowser, err := startBrowser(dir)
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	defer func() {
		if err := closeBrowser(); err != nil {
			t.Errorf("chromium: %v", err)
		}
	}()
	test(&tab{t, ctx, s})
}

// A Secure cookie, the default, works without TLS at localhost, as the README says, and nowhere else.
func TestSecureAtLocalhost(t *testing.T) {
	s := serveHTTP(t, visits(t, nil))
	for host, want := range map[string]string{
		"localhost":        "nobody, visit 3",
		"www.example.test": "nobody, visit 1",
	} {
		b := newProfile(t, s)
		for range 3 {
			b.goes("/", 200, chromedp.Navigate(s.at(host)))
		}
		if got := b.text(); got != want {
			t.Errorf("%s: the page shows %q, want %q", host, got, want)
		}
	}
}

// A cookie planted by a sibling host is no session, and hides none.
func TestPlantedCookie(t *testing.T) {
	app := visits(t, nil)
	s := serve(t, app)
	evil := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, cookie := range r.URL.Query()["cookie"] {
			w.Header().Add("Set-Cookie", cookie+"; Domain=example.test; Secure; HttpOnly")
		}
		page200("planted").ServeHTTP(w, r)
	}))
	plant := func(b *tab, cookies ...string) {
		t.Helper()
		b.goes("/", 200, chromedp.Navigate(evil.at("evil.example.test")+"/?"+url.Values{"cookie": cookies}.Encode()))
	}
	forged := strings.Repeat("A", 91)

	t.Run("forged, in front of the genuine one", func(t *testing.T) {
		b := newProfile(t, s)
		b.opens("/devices/login", "/devices/login")
		plant(b, "session_id="+forged+"; Path=/devices", "session_id=x; Path=/devices/again")
		b.open("/devices/again")
		b.sees("ann, visit 2")
		if n := len(cookiesAt(b, "/devices/again")); n != 3 {
			t.Errorf("%d cookies were sent, want 3: nothing was planted", n)
		}
	})

	t.Run("the attacker's, before the login", func(t *testing.T) {
		attacker := newProfile(t, s)
		attacker.open("/")
		attacker.sees("nobody, visit 1")
		known := attacker.cookie().Value

		b := newProfile(t, s)
		plant(b, "session_id="+known+"; Path=/")
		b.open("/")
		b.sees("nobody, visit 2") // it is one session as yet
		b.open("/login")
		b.sees("ann, visit 3")
		b.open("/")
		b.sees("ann, visit 4")
		attacker.goes("/read", 200, chromedp.Navigate(s.home()+"/read"))
		attacker.sees("nobody, visit 0")
	})

	t.Run("a __Host- name", func(t *testing.T) {
		s := serve(t, visits(t, &session.Options{Cookie: session.Cookie{Name: "__Host-session"}}))
		b := newProfile(t, s)
		plant(b, "__Host-session="+forged+"; Path=/", "__Host-session="+forged+"; Path=/devices", "other=1; Path=/")
		b.open("/")
		b.sees("nobody, visit 1")
		var names []string
		for _, c := range b.cookies() {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != "other __Host-session" && got != "__Host-session other" {
			t.Errorf("the browser holds %s", got)
		}
	})
}

func cookiesAt(b *tab, path string) []*network.Cookie {
	b.t.Helper()
	return call(b, network.GetCookies, network.GetCookiesParams{URLs: []string{b.site.home() + path}}).Cookies
}

// visits returns an application that counts visits. A path that ends with "login" logs ann in, one that ends with
// "read" changes nothing.
func visits(t *testing.T, options *session.Options) http.Handler {
	t.Helper()
	const visits session.Key[int] = "visits"
	m, err := session.New(session.NewMemoryStore(), []byte(strings.Repeat("s", 32)), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/favicon.ico" {
			http.NotFound(w, r)
			return
		}
		s := session.FromContext(r.Context())
		if strings.HasSuffix(r.URL.Path, "login") {
			s.SetUser("ann")
		}
		n := visits.GetOr(s, 0)
		if !strings.HasSuffix(r.URL.Path, "read") {
			n = visits.Update(s, func(n int) int { return n + 1 })
		}
		user := s.User()
		if user == "" {
			user = "nobody"
		}
		page200(fmt.Sprintf("%s, visit %d", user, n)).ServeHTTP(w, r)
	}))
}
