package sessiontest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/sessiontest"
)

// A shop is an application that has its own manager and calls it, as applications do.
type shop struct {
	http.Handler
	sessions *session.Manager
}

func newShop(t *testing.T, opts session.Options) *shop {
	t.Helper()
	s := &shop{sessions: sessiontest.NewManager(t, &opts)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /shop/login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser(r.FormValue("user"))
		http.Redirect(w, r, "/shop/devices", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /shop/devices", func(w http.ResponseWriter, r *http.Request) {
		list, err := s.sessions.Sessions(r.Context(), session.OfUser(s.sessions.FromContext(r.Context()).User()))
		for _, device := range list {
			fmt.Fprintf(w, "%s %s %v\n", device.UserAgent, device.RemoteAddr, device.Current)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /shop/end-others", func(w http.ResponseWriter, r *http.Request) {
		n, err := s.sessions.EndSessions(r.Context(), session.OfUser(s.sessions.FromContext(r.Context()).User()).Others())
		fmt.Fprint(w, n, err)
	})
	mux.HandleFunc("POST /shop/visit", func(w http.ResponseWriter, r *http.Request) {
		visits.Update(session.FromContext(r.Context()), func(n int) int { return n + 1 })
	})
	mux.HandleFunc("POST /shop/panic", func(w http.ResponseWriter, r *http.Request) {
		visits.Set(session.FromContext(r.Context()), 1000)
		panic("the handler")
	})
	// What recovers from panics is around the manager, as the README has it.
	inner := s.sessions.Handler(mux)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				http.Error(w, "sorry", http.StatusInternalServerError)
			}
		}()
		inner.ServeHTTP(w, r)
	})
	return s
}

// newDevice returns a browser at the shop, and an http.Client that uses it.
func (s *shop) newDevice(t *testing.T, agent, addr string) (*sessiontest.Client, *http.Client) {
	device := sessiontest.NewClient(t, s.sessions, s)
	device.Header.Set("User-Agent", agent)
	device.RemoteAddr = addr
	return device, &http.Client{Transport: device}
}

const shopURL = "https://shop.example/shop/"

// text returns the text of a response.
func text(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever an application's options are, its clients find their sessions, and so does the test.
func TestClientOfOwnManager(t *testing.T) {
	for name, opts := range map[string]session.Options{
		"defaults":  {},
		"cookie":    {Cookie: session.Cookie{Name: "__Host-shop"}},
		"path":      {Cookie: session.Cookie{Path: "/shop"}},
		"domain":    {Cookie: session.Cookie{Domain: "shop.example", Persistent: true}},
		"insecure":  {Cookie: session.Cookie{InsecureHTTP: true}},
		"namespace": {Namespace: "other"},
		"encrypted": {EncryptAtRest: true},
		"locking":   {Locking: true},
		"bound":     {Bind: session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil))},
		"limited":   {MaxSessionsPerUser: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, opts)
			phone, phoneHTTP := s.newDevice(t, "Phone", "198.51.100.7:1")
			laptop, laptopHTTP := s.newDevice(t, "Laptop", "203.0.113.9:1")
			phone.Set(map[string]any{"visits": 41}) // before any request
			phone.Do(post("/shop/visit"))
			if got := phone.Values()["visits"]; got != int64(42) {
				t.Errorf("visits: %v", got)
			}

			res, err := phoneHTTP.PostForm(shopURL+"login", url.Values{"user": {"ann"}})
			if got, want := text(t, res, err), "Phone 198.51.100.7 true\n"; got != want {
				t.Errorf("the devices are\n%swant\n%s", got, want)
			}
			laptop.Session(func(s *session.Session) { s.SetUser("ann") }) // as the login would
			if list, err := s.sessions.Sessions(t.Context(), session.OfUser("ann")); len(list) != 2 || err != nil {
				t.Errorf("ann's sessions: %v, %v", list, err)
			}
			res, err = laptopHTTP.Post(shopURL+"end-others", "", nil)
			if got := text(t, res, err); got != "1 <nil>" {
				t.Errorf("log out the others: %s", got)
			}
			if got := phone.Values(); len(got) != 0 {
				t.Errorf("logged out from the laptop, the phone has %v", got)
			}
			laptop.Session(func(s *session.Session) {
				if s.User() != "ann" {
					t.Errorf("the laptop is %q's", s.User())
				}
			})
		})
	}
}

func post(target string) *http.Request {
	r := get(target)
	r.Method = http.MethodPost
	return r
}

// What stands around the manager in the program stands around it in the test.
func TestClientKeepsOrder(t *testing.T) {
	phone, _ := newShop(t, session.Options{}).newDevice(t, "Phone", "")
	phone.Do(post("/shop/visit"))
	if res := phone.Do(post("/shop/panic")); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("a panic: %s", res.Status)
	}
	if got := phone.Values()["visits"]; got != int64(1) {
		t.Errorf("visits after a panic: %v", got)
	}
}

// Time moves on, and renewals, timeouts and locks go by it.
func TestClientInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, session.Options{LockWait: time.Minute, SweepInterval: 5 * time.Minute})
		phone, _ := s.newDevice(t, "Phone", "")
		first := sessionCookie(phone.Do(post("/shop/visit")))
		for range 6 {
			time.Sleep(5 * time.Minute)
			if next := sessionCookie(phone.Do(post("/shop/visit"))); next == first {
				t.Error("the cookie is not renewed")
			}
		}
		if got := phone.Values()["visits"]; got != int64(7) {
			t.Errorf("after half an hour, visits: %v", got)
		}

		locked, tooLate := make(chan struct{}), make(chan error, 1)
		began := time.Now()
		go phone.Session(func(s *session.Session) {
			if err := s.Lock(context.Background()); err != nil {
				t.Error(err)
			}
			close(locked)
			time.Sleep(20 * time.Second)
		})
		<-locked
		phone.Session(func(s *session.Session) { tooLate <- s.Lock(context.Background()) })
		if err := <-tooLate; err != nil || time.Since(began) < 20*time.Second {
			t.Errorf("the lock was had after %v, %v", time.Since(began), err)
		}

		time.Sleep(16 * time.Minute)
		if got := phone.Values(); len(got) != 0 {
			t.Errorf("after the idle timeout: %v", got)
		}
	})
}

// A manager that cannot be made ends the test.
func TestNewManagerFails(t *testing.T) {
	f := &fatal{TB: t}
	defer func() {
		if recover(); f.said == "" {
			t.Error("options that are wrong did not end the test")
		}
	}()
	sessiontest.NewManager(f, &session.Options{MaxSize: -1})
}
