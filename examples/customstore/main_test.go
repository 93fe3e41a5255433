package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/session"
	"example.com/session/internal/program"
	"example.com/session/sessiontest"
)

func openIn(t *testing.T, dir string) session.Store {
	t.Helper()
	store, err := openSQLite(t.Context(), "sqlite:"+filepath.ToSlash(filepath.Join(dir, "sessions.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(store) })
	return store
}

func newStore(t *testing.T) session.Store { return openIn(t, t.TempDir()) }

func TestStore(t *testing.T)    { sessiontest.Run(t, newStore) }
func TestSessions(t *testing.T) { sessiontest.RunSessions(t, newStore) }

// Two that have the same file open, as two processes would, get in each other's way and lose nothing.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	const key session.Key[int] = "n"
	var cookie *http.Cookie
	var managers []*session.Manager
	for range 2 {
		m, err := session.New(openIn(t, dir), []byte(strings.Repeat("s", 32)), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		managers = append(managers, m)
	}
	count := func(m *session.Manager) *http.Response {
		return serve(t, m, cookie, func(s *session.Session) { key.Update(s, func(n int) int { return n + 1 }) })
	}
	cookie = count(managers[0]).Cookies()[0]
	var all sync.WaitGroup
	const requests = 20
	for i := range requests {
		all.Go(func() {
			if res := count(managers[i%2]); res.StatusCode != http.StatusOK {
				t.Error(res.Status)
			}
		})
	}
	all.Wait()
	serve(t, managers[0], cookie, func(s *session.Session) {
		if n, _ := key.Get(s); n != requests+1 {
			t.Errorf("%d requests have counted to %d", requests+1, n)
		}
	})
}

// serve sends a request with the cookie to a handler that uses the session.
func serve(t *testing.T, m *session.Manager, cookie *http.Cookie, use func(*session.Session)) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if cookie != nil {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		use(session.FromContext(r.Context()))
	})).ServeHTTP(w, r)
	return w.Result()
}

// The program goes on where it stopped.
func TestProgram(t *testing.T) {
	bin := program.Build(t)
	store := "sqlite:" + filepath.ToSlash(filepath.Join(t.TempDir(), "sessions.db"))
	p := program.Start(t, bin, "-store", store)
	b := program.NewBrowser(t, p.Base)
	b.Want("This is visit 1.\n", "GET", "/", nil)
	b.Want("This is visit 2.\n", "GET", "/", nil)
	p.Stop()
	p = program.Start(t, bin, "-store", store)
	b.Base = p.Base
	b.Want("This is visit 3.\n", "GET", "/", nil)
	p.Stop()
}
