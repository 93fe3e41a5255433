package main

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/servertest"
)

// Browsers of users who are about to log in are in one of these states.
var states = map[string]func(*browser){
	"without a cookie": func(*browser) {},
	"just logged out": func(b *browser) {
		b.login()
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		b.submit("/logout") // the notice is still to be shown
		b.client.CheckRedirect = nil
	},
	"logged in all along": func(b *browser) { b.login() },
}

// eachStore runs a test of the application in memory and on a server.
func eachStore(t *testing.T, test func(t *testing.T, s *again)) {
	for name, open := range map[string]func(*testing.T) session.Store{
		"memory": func(*testing.T) session.Store { return session.NewMemoryStore() },
		"redis": func(t *testing.T) session.Store {
			store, err := session.Open(t.Context(), servertest.Redis(t).Apart(t, "prefix"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close() })
			return store
		},
	} {
		t.Run(name, func(t *testing.T) {
			for state, prepare := range states {
				t.Run(state, func(t *testing.T) {
					people := newAccounts(1)
					if err := people.setPassword("ann", password); err != nil {
						t.Fatal(err)
					}
					s := &again{t: t, prepare: prepare, store: double.New(open(t))}
					var err error
					s.app, err = newApp(s.store, []byte(strings.Repeat("s", 32)), people, true, 0, 5*time.Minute)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { s.app.sessions.Close() })
					test(t, s)
				})
			}
		})
	}
}

// An again is what tests of logins that come again, or at the same time, have.
type again struct {
	t       *testing.T
	prepare func(*browser)
	store   *double.Store
	app     *app
}

// newBrowser returns a browser in the test's state.
func (s *again) newBrowser() *browser {
	s.t.Helper()
	b := newBrowser(s.t, "https://login.example.test", inProcess{s.app})
	s.prepare(b)
	return b
}

// Of two clicks on "log in" both are logged in, and so is whoever goes on with the cookies of either.
func TestTwoClicks(t *testing.T) {
	eachStore(t, func(t *testing.T, s *again) {
		b := s.newBrowser()
		if len(b.client.Jar.Cookies(b.base)) > 0 {
			s.store.Hook(double.Meet(2, double.Load)) // both find the session as it was before
		}
		clicks := [2]*browser{}
		var all, answered sync.WaitGroup
		answered.Add(len(clicks))
		for i := range clicks {
			click := sync.OnceFunc(answered.Done)
			// A browser goes where the last answer leads: what is under way to the first one's page is cut off, and may get 409.
			follow := func(*http.Request, []*http.Request) error { click(); answered.Wait(); return nil }
			clicks[i] = &browser{t: t, base: b.base, client: &http.Client{Jar: b.client.Jar, Transport: b.client.Transport, CheckRedirect: follow}}
			all.Go(func() {
				defer click()
				if err := clicks[i].tryLogin(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, click := range clicks {
			click.wants(http.StatusOK, "/", "Hello, ann")
		}
		b.get("/")
		b.wants(http.StatusOK, "/", "Hello, ann")
	})
}

// tryLogin is login for a goroutine of the test's.
func (b *browser) tryLogin() error {
	r, err := http.NewRequestWithContext(b.t.Context(), "POST", b.base.String()+"/login",
		strings.NewReader("user=ann&password="+strings.ReplaceAll(password, " ", "+")))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.try(r)
}

// Whoever does not get the answer to a login logs in again, as often as it takes.
func TestLoginAnswerLost(t *testing.T) {
	eachStore(t, func(t *testing.T, s *again) {
		b := s.newBrowser()
		for range 3 {
			network := b.client.Transport
			b.client.Transport = losing{network}
			if err := b.tryLogin(); !errors.Is(err, errLost) {
				t.Fatalf("the answer was not lost: %v", err)
			}
			b.client.Transport = network
		}
		if err := b.tryLogin(); err != nil {
			t.Fatal(err)
		}
		b.wants(http.StatusOK, "/", "Welcome, ann")
		b.get("/devices")
		b.wants(http.StatusOK, "/devices")
	})
}

// A losing network delivers requests and no answers.
type losing struct{ http.RoundTripper }

var errLost = errors.New("the answer is lost")

func (l losing) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body.Close()
		err = errLost
	}
	return nil, err
}

// Whoever is logged out from another device logs in again at once, whatever page is open there.
func TestLoggedOutElsewhere(t *testing.T) {
	pages := map[string]func(*browser){
		"a page":         func(b *browser) { b.get("/devices") },
		"a form":         func(b *browser) { b.submit("/logout") },
		"the login page": func(b *browser) { b.get("/login") },
	}
	eachStore(t, func(t *testing.T, s *again) {
		for name, open := range pages {
			laptop, phone := s.newBrowser(), s.newBrowser()
			for _, b := range []*browser{laptop, phone} {
				if err := b.tryLogin(); err != nil {
					t.Fatal(err)
				}
				b.wants(http.StatusOK, "/", "Welcome, ann")
			}
			laptop.get("/devices")
			laptop.post("/devices/end-others", session.FormTokenField, laptop.token())
			laptop.wants(http.StatusOK, "/devices", "this device only", "All your other devices are logged out")
			open(phone)
			phone.wants(http.StatusOK, "/login")
			if text := "You have been logged out"; !strings.Contains(phone.text, text) {
				t.Errorf("%s lacks %q:\n%s", name, text, phone.text)
			}
			phone.login()
			laptop.get("/devices")
			laptop.wants(http.StatusOK, "/devices", "2 devices")
			laptop.submit("/logout")
		}
	})
}

// Another site cannot have its visitors log in here, with an account of its own.
func TestCrossOriginLogin(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b := newBrowser()
		b.client.Transport = fromElsewhere{b.client.Transport}
		if err := b.tryLogin(); err != nil {
			t.Fatal(err)
		}
		b.wants(http.StatusForbidden, "/login")
		if got := b.client.Jar.Cookies(b.base); len(got) > 0 {
			t.Errorf("it got cookies: %v", got)
		}
	})
}

// A request fromElsewhere comes from a page of another site.
type fromElsewhere struct{ http.RoundTripper }

func (f fromElsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	return f.RoundTripper.RoundTrip(r)
}
