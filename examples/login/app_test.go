package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// site runs a test of the application, without a network and with a clock that moves when all wait for it.
func site(t *testing.T, test func(t *testing.T, newBrowser func() *browser)) {
	t.Helper()
	siteOn(t, session.NewMemoryStore(), test)
}

func siteOn(t *testing.T, store session.Store, test func(t *testing.T, newBrowser func() *browser)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		people := newAccounts(1) // the hash has a test of its own
		if err := people.setPassword("ann", password); err != nil {
			t.Fatal(err)
		}
		a, err := newApp(store, []byte(strings.Repeat("s", 32)), people, true, 0, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer a.sessions.Close()
		test(t, func() *browser { return newBrowser(t, "https://login.example.test", inProcess{a}) })
	})
}

// login logs the browser in.
func (b *browser) login(values ...string) {
	b.t.Helper()
	b.get("/login")
	b.submit("/login", append(values, "user", "ann", "password", password)...)
	b.wants(http.StatusOK, "/", "Welcome, ann")
}

func TestCookie(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b := newBrowser()
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		b.get("/login")
		for _, remember := range []string{"", "yes"} {
			b.get("/login")
			b.submit("/login", "user", "ann", "password", password, "remember", remember)
			got := b.header.Get("Set-Cookie")
			name, rest, _ := strings.Cut(got, "=")
			_, attributes, _ := strings.Cut(rest, "; ")
			want := "Path=/; HttpOnly; Secure; SameSite=Lax"
			if remember != "" {
				want = "Path=/; Expires=Mon, 31 Jan 2000 00:00:00 GMT; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax"
			}
			if name != "__Host-session" || attributes != want {
				t.Errorf("remember %q: %s; %s, want %s", remember, name, attributes, want)
			}
			b.get("/")
			b.submit("/logout")
		}
	})
}

func TestTimeouts(t *testing.T) {
	tests := []struct {
		remember string
		idle     time.Duration // between two requests
		total    time.Duration
		ok       bool
	}{
		{"", 14 * time.Minute, 11 * time.Hour, true},
		{"", 16 * time.Minute, 16 * time.Minute, false},
		{"", 14 * time.Minute, 13 * time.Hour, false},
		{"yes", 24 * time.Hour, 29 * 24 * time.Hour, true},
		{"yes", 24 * time.Hour, 31 * 24 * time.Hour, false},
	}
	for _, test := range tests {
		site(t, func(t *testing.T, newBrowser func() *browser) {
			b := newBrowser()
			b.login("remember", test.remember)
			for passed := time.Duration(0); passed < test.total; passed += test.idle {
				time.Sleep(test.idle)
				b.get("/")
			}
			if ok := b.path == "/"; ok != test.ok {
				t.Errorf("remember %q, used every %v for %v: logged in is %v", test.remember, test.idle, test.total, ok)
			}
		})
	}
}

func TestFormTokens(t *testing.T) {
	posts := map[string][]string{
		"/login":              {"user", "ann", "password", password},
		"/logout":             nil,
		"/devices/end":        {"handle", "0"},
		"/devices/end-others": nil,
		"/confirm":            {"password", password},
		"/password":           {"password", password2, "again", password2},
	}
	for path, values := range posts {
		t.Run(path, func(t *testing.T) {
			site(t, func(t *testing.T, newBrowser func() *browser) {
				const refused = "That form was sent before"
				b, other := newBrowser(), newBrowser()
				other.login()
				b.login()
				used := b.token() // of the page that the login led to
				b.get("/devices")
				b.post(path, values...)
				b.wants(http.StatusOK, b.path, refused)
				b.post(path, append(values, session.FormTokenField, other.token())...)
				b.wants(http.StatusOK, b.path, refused)
				b.post(path, append(values, session.FormTokenField, used)...)
				if strings.Contains(b.text, refused) {
					t.Errorf("its own token is refused:\n%s", b.text)
				}
				b.post(path, append(values, session.FormTokenField, used)...)
				b.wants(http.StatusOK, b.path, refused)
			})
		})
	}
}

func TestDevices(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		a, b, c := newBrowser(), newBrowser(), newBrowser()
		for _, x := range []*browser{a, b, c} {
			x.login()
		}
		a.get("/devices")
		a.wants(http.StatusOK, "/devices", "3 devices")
		a.submit("/devices/end", "handle", first(t, a.text, `name="handle" value="([0-9a-f]+)"`))
		a.wants(http.StatusOK, "/devices", "2 devices")
		a.post("/devices/end-others", session.FormTokenField, a.token())
		a.wants(http.StatusOK, "/devices", "this device only", "All your other devices are logged out")
		for _, x := range []*browser{b, c} {
			x.get("/")
			x.wants(http.StatusConflict, "/login", "You are logged out")
			x.submitWithoutToken("/start-over")
			x.wants(http.StatusOK, "/login")
			x.submit("/login", "user", "ann", "password", password)
			x.wants(http.StatusOK, "/")
		}
	})
}

// Who starts over, but is logged in by then, stays so.
func TestStartOver(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b := newBrowser()
		b.login()
		b.post("/start-over")
		b.wants(http.StatusOK, "/")
	})
}

// A store that is down logs nobody out, and is not taken for a wrong password.
func TestStoreDown(t *testing.T) {
	store := &breakable{Store: session.NewMemoryStore()}
	siteOn(t, store, func(t *testing.T, newBrowser func() *browser) {
		b, stranger := newBrowser(), newBrowser()
		b.login()
		stranger.get("/login")
		store.down = true
		for _, path := range []string{"/", "/devices", "/password", "/login"} {
			b.get(path)
			b.wants(http.StatusServiceUnavailable, path, "If you were logged in, you still are")
		}
		stranger.post("/login", "user", "ann", "password", password, session.FormTokenField, stranger.token())
		stranger.wants(http.StatusServiceUnavailable, "/login", "Please try again")
		store.down = false
		b.get("/")
		b.wants(http.StatusOK, "/", "Hello, ann")
	})
}

// A breakable is a store that can be down.
type breakable struct {
	session.Store
	down bool
}

var errDown = errors.New("the store is down")

func (s *breakable) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if s.down {
		return session.Record{}, errDown
	}
	return s.Store.Load(ctx, id)
}

func (s *breakable) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if s.down {
		return errDown
	}
	return s.Store.Save(ctx, id, rec)
}

func TestPassword(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b, other := newBrowser(), newBrowser()
		other.login()
		b.login()
		b.get("/password")
		b.wants(http.StatusOK, "/password")
		time.Sleep(6 * time.Minute)
		b.submit("/password", "password", password2, "again", password2)
		b.wants(http.StatusOK, "/confirm", "enter your password once more")
		b.submit("/confirm", "password", "guessed")
		b.wants(http.StatusForbidden, "/confirm", "The password is wrong")
		before := b.cookie().Value
		b.submit("/confirm", "password", password)
		b.wants(http.StatusOK, "/password")
		if b.cookie().Value == before {
			t.Error("the cookie is the same after the password was entered")
		}
		for _, bad := range []struct{ password, again, text string }{
			{"too short", "too short", "15 to 256 characters"},
			{strings.Repeat("x", 257), strings.Repeat("x", 257), "15 to 256 characters"},
			{password2, password, "not the same"},
		} {
			b.submit("/password", "password", bad.password, "again", bad.again)
			b.wants(http.StatusUnprocessableEntity, "/password", bad.text)
		}
		other.get("/")
		other.wants(http.StatusOK, "/")
		before = b.cookie().Value
		b.submit("/password", "password", password2, "again", password2)
		b.wants(http.StatusOK, "/", "The password is changed")
		if b.cookie().Value == before {
			t.Error("the cookie is the same after the password was changed")
		}
		other.get("/")
		other.wants(http.StatusConflict, "/login", "You are logged out")
		other.submitWithoutToken("/start-over")
		other.submit("/login", "user", "ann", "password", password)
		other.wants(http.StatusForbidden, "/login")
		other.submit("/login", "user", "ann", "password", password2)
		other.wants(http.StatusOK, "/")
	})
}

func TestAccounts(t *testing.T) {
	people := newAccounts(1000)
	if err := people.setPassword("ann", password); err != nil {
		t.Fatal(err)
	}
	people.iterations = 2000 // old hashes stay good
	for _, test := range []struct {
		user, password string
		want           bool
	}{
		{"ann", password, true},
		{"ann", password + " ", false},
		{"ann", "", false},
		{"bob", password, false},
		{"bob", "", false},
		{"", "", false},
	} {
		if got := people.check(test.user, test.password); got != test.want {
			t.Errorf("check(%q, %q) is %v", test.user, test.password, got)
		}
	}
}

func TestRelative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for d, want := range map[time.Duration]string{
			0:                               "just now",
			-59 * time.Second:               "just now",
			-time.Minute:                    "1 minute ago",
			14*time.Minute + 59*time.Second: "in 15 minutes",
			-90 * time.Minute:               "2 hours ago",
			30 * 24 * time.Hour:             "in 30 days",
		} {
			if got := relative(time.Now().Add(d)); got != want {
				t.Errorf("%v: %q, want %q", d, got, want)
			}
		}
	})
}

func TestDevice(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":               "Chrome on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":           "Edge on Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1": "Safari on iPhone",
		"Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0":                                                "Firefox on Android",
		"curl/7.88.1": "curl",
		"":            "Unknown browser",
	} {
		if got := device(agent); got != want {
			t.Errorf("%s: %q, want %q", agent, got, want)
		}
	}
}

// submitWithoutToken is submit for a form of a page that has no session.
func (b *browser) submitWithoutToken(action string) {
	b.t.Helper()
	if !strings.Contains(b.text, `action="`+action+`"`) {
		b.t.Fatalf("%s has no form for %s:\n%s", b.path, action, b.text)
	}
	b.post(action)
}

// inProcess is the application without a network, which does not go with the clock of testing/synctest.
type inProcess struct{ handler http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r = r.Clone(r.Context())
	r.RemoteAddr = "192.0.2.1:1234"
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
	res := w.Result()
	res.Request = r
	return res, nil
}
