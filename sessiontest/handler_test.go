package sessiontest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/sessiontest"
)

const visits session.Key[int] = "visits"

// An app is a handler with one path for each thing that a session does.
func app() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/visit", func(w http.ResponseWriter, r *http.Request) {
		visits.Update(session.FromContext(r.Context()), func(n int) int { return n + 1 })
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.Regenerate()
		s.Set("user", r.FormValue("name"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Destroy()
	})
	mux.HandleFunc("/theme/", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("theme"); err == nil {
			io.WriteString(w, c.Value)
		}
		http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark", Domain: "shop.example", Secure: true})
	})
	return mux
}

// newClient returns one of the app, with a manager of its own.
func newClient(t testing.TB) *sessiontest.Client {
	m := sessiontest.NewManager(t, &session.Options{RenewInterval: session.Never})
	return sessiontest.NewClient(t, m, m.Handler(app()))
}

func get(target string) *http.Request { return httptest.NewRequest(http.MethodGet, target, nil) }

// sessionCookie returns the value of the session's cookie in a response, empty if there is none.
func sessionCookie(res *http.Response) string {
	for _, c := range res.Cookies() {
		if c.Name == "session_id" {
			return c.Value
		}
	}
	return ""
}

func TestClientKeepsSession(t *testing.T) {
	c := newClient(t)
	if got := c.Values(); len(got) != 0 {
		t.Errorf("before the first request: %v", got)
	}
	// The host does not matter, the session of another client does not either.
	for _, target := range []string{"/visit", "http://shop.example/visit", "https://example.com/visit"} {
		c.Do(get(target))
		newClient(t).Do(get(target))
	}
	if got, want := c.Values(), map[string]any{"visits": int64(3)}; !reflect.DeepEqual(got, want) {
		t.Errorf("after three visits: %v, want %v", got, want)
	}
}

func TestClientSet(t *testing.T) {
	c := newClient(t)
	c.Set(map[string]any{"visits": 41, "colour": "red"})
	c.Do(get("/visit"))
	if got, want := c.Values(), map[string]any{"visits": int64(42), "colour": "red"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestClientLoginAndLogout(t *testing.T) {
	c := newClient(t)
	first := sessionCookie(c.Do(get("/visit")))
	ids := map[session.ID]bool{}
	see := func() {
		t.Helper()
		c.Session(func(s *session.Session) { ids[s.ID()] = true })
	}
	see()
	if next := sessionCookie(c.Do(get("/visit"))); first == "" || next != "" && next != first {
		t.Errorf("the cookie changed without Regenerate")
	}
	see()
	res := c.Do(get("/login?name=eve"))
	if res.StatusCode != http.StatusSeeOther {
		t.Errorf("login: %v, want the redirect itself", res.Status)
	}
	if next := sessionCookie(res); next == "" || next == first {
		t.Errorf("the cookie did not change with Regenerate")
	}
	see()
	if len(ids) != 1 || ids[session.ID{}] {
		t.Errorf("the session had the IDs %v, want one", ids)
	}
	if got := c.Values()["user"]; got != "eve" {
		t.Errorf("user: %v, want eve", got)
	}
	c.Do(get("/logout"))
	c.Session(func(s *session.Session) {
		if !s.IsNew() || s.WasUnknown() {
			t.Errorf("after logout: %v, want a new session without a cookie", s)
		}
	})
}

func TestClientKeepsOtherCookies(t *testing.T) {
	c := newClient(t)
	body := func(target string) string {
		b, err := io.ReadAll(c.Do(get(target)).Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, want := range []string{"", "dark"} {
		if got := body("/theme/"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	r := get("/theme/")
	r.AddCookie(&http.Cookie{Name: "theme", Value: "light"})
	c.Do(r)
	if got := r.Header.Get("Cookie"); got != "theme=light" {
		t.Errorf("Do changed the request: Cookie: %s", got)
	}
}

func TestClientRequestsMeet(t *testing.T) {
	c := newClient(t)
	c.Set(map[string]any{"visits": 0})
	var requests sync.WaitGroup
	for range 8 {
		requests.Go(func() {
			if res := c.Do(get("/visit")); res.StatusCode != http.StatusOK {
				t.Errorf("got %v", res.Status)
			}
		})
	}
	requests.Wait()
	c.Session(func(s *session.Session) {
		if n, _ := visits.Get(s); n != 8 {
			t.Errorf("8 visits have led to %d", n)
		}
	})
}

func TestClientInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		c.Do(get("/visit"))
		time.Sleep(20 * time.Minute)
		if got := c.Values(); len(got) != 0 {
			t.Errorf("after the idle timeout: %v", got)
		}
	})
}

// A fatal is a test that notes how it ended.
type fatal struct {
	testing.TB
	said string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.said = format
	panic(f)
}

func TestClientFailsTest(t *testing.T) {
	f := &fatal{TB: t}
	c := newClient(f)
	defer func() {
		if recover(); !strings.HasPrefix(f.said, "sessiontest: ") {
			t.Errorf("a value that cannot be encoded did not end the test")
		}
	}()
	c.Set(map[string]any{"c": make(chan int)})
}
