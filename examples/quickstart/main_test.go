package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/internal/program"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// cookie returns the only one that the browser has.
func cookie(t *testing.T, b *program.Browser) *http.Cookie {
	t.Helper()
	cookies := b.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("the browser has %d cookies", len(cookies))
	}
	return cookies[0]
}

// sendAlone sends a cookie of that value from a browser that has no others.
func sendAlone(t *testing.T, base, name, value string) (status int, page string) {
	t.Helper()
	b := program.NewBrowser(t, base)
	b.SetCookie(&http.Cookie{Name: name, Value: value})
	return b.Do("GET", "/", nil)
}

// stores are what -store can name, each with a place of its own for the sessions.
var stores = []struct {
	name string
	url  func(*testing.T) string
	ends bool // with the program
}{
	{"default", func(*testing.T) string { return "" }, true},
	{"memory", func(*testing.T) string { return "memory:" }, true},
	{"file", func(t *testing.T) string { return "file://" + filepath.ToSlash(t.TempDir()) + "/sessions.db" }, false},
	{"dir", func(t *testing.T) string { return "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions" }, false},
	{"mysql", func(t *testing.T) string { return servertest.MySQL(t).Apart(t, "table") }, false},
	{"mariadb", func(t *testing.T) string { return servertest.MariaDB(t).Apart(t, "table") }, false},
	{"postgres", func(t *testing.T) string { return servertest.PostgreSQL(t).Apart(t, "table") }, false},
	{"redis", func(t *testing.T) string { return servertest.Redis(t).Apart(t, "prefix") }, false},
	{"redis sentinel", func(t *testing.T) string { return servertest.RedisSentinel(t).Apart(t, "prefix") }, false},
	{"valkey", func(t *testing.T) string { return servertest.Valkey(t).Apart(t, "prefix") }, false},
	{"redis cluster", func(t *testing.T) string { return servertest.RedisCluster(t).Apart(t, "prefix") }, false},
	{"mongodb", func(t *testing.T) string { return servertest.MongoDB(t).Apart(t, "collection") }, false},
	{"memcached", func(t *testing.T) string { return servertest.Memcached(t).Apart(t, "prefix") }, false},
}

// The program does the same on every store, and a second one goes on where it stopped.
func TestQuickstart(t *testing.T) {
	t.Setenv("SESSION_STORE", "") // -store says it
	bin := program.Build(t)
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			args := []string{"-store", store.url(t)}
			p := program.Start(t, bin, args...)
			b := program.NewBrowser(t, p.Base)
			for i := range 3 {
				b.Want(fmt.Sprintf("Hello stranger, this is visit %d.\n", i+1), "GET", "/", nil)
			}
			b.Want("Hello ann, this is visit 4.\n", "POST", "/login", url.Values{"user": {"ann"}})

			p.Stop()
			p = program.Start(t, bin, args...)
			b.Base = p.Base
			if store.ends {
				b.Want("Hello stranger, this is visit 1.\n", "GET", "/", nil)
			} else {
				b.Want("Hello ann, this is visit 5.\n", "GET", "/", nil)
			}

			cookie := cookie(t, b)
			b.Want("Hello stranger, this is visit 1.\n", "POST", "/logout", nil)
			// It ended a moment ago: nothing may be changed with it.
			if status, page := sendAlone(t, b.Base, cookie.Name, cookie.Value); status != http.StatusConflict {
				t.Errorf("after logout: %d %q", status, page)
			}
			for _, value := range []string{ // tampered with
				cookie.Value[:len(cookie.Value)-1],
				cookie.Value + cookie.Value,
				cookie.Value[43:] + cookie.Value[:43],
				strings.Repeat("A", len(cookie.Value)),
				"",
			} {
				status, page := sendAlone(t, b.Base, cookie.Name, value)
				if status != http.StatusOK || page != "Hello stranger, this is visit 1.\n" {
					t.Errorf("cookie %q: %d %q", value, status, page)
				}
			}
			p.Stop()
		})
	}
}

// A store that cannot be opened ends the program, which says why and shows no password.
func TestQuickstartFaults(t *testing.T) {
	bin := program.Build(t)
	for _, storeURL := range []string{
		"no-such-scheme://user:hunter2@host",
		"redis://user:hunter2@127.0.0.1:1",
		"mysql://user:hunter2@127.0.0.1:1/test",
		"postgres://user:hunter2@127.0.0.1:1/test",
		"mongodb://user:hunter2@127.0.0.1:1/test?serverSelectionTimeoutMS=100",
		"memcached://user:hunter2@127.0.0.1:1",
	} {
		cmd := exec.CommandContext(t.Context(), bin, "-addr", "127.0.0.1:0", "-store", storeURL)
		out, err := cmd.CombinedOutput()
		if _, ended := err.(*exec.ExitError); !ended || !strings.Contains(string(out), "session: ") ||
			strings.Contains(string(out), "hunter2") {
			t.Errorf("%s: %v\n%s", storeURL, err, out)
		}
	}
}

// The handlers by themselves: no program, no network.
func TestHandlers(t *testing.T) {
	m := sessiontest.NewManager(t, nil)
	phone := sessiontest.NewClient(t, m, m.Handler(http.HandlerFunc(home)))
	phone.Session(func(s *session.Session) {
		s.SetUser("ann")
		visits.Set(s, 41)
	})
	body, err := io.ReadAll(phone.Do(httptest.NewRequest("GET", "/", nil)).Body)
	if want := "Hello ann, this is visit 42.\n"; string(body) != want || err != nil {
		t.Errorf("%q, %v, want %q", body, err, want)
	}
}

// SESSION_STORE names the store as -store does, and whoever logs in is one of the store's users.
func TestQuickstartEnvironment(t *testing.T) {
	storeURL := "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions"
	t.Setenv("SESSION_STORE", storeURL)
	p := program.Start(t, program.Build(t))
	program.NewBrowser(t, p.Base).Want("Hello ann, this is visit 1.\n", "POST", "/login", url.Values{"user": {"ann"}})
	p.Stop()
	store, err := session.Open(t.Context(), storeURL)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m, err := session.New(store, make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if list, err := m.Sessions(t.Context(), session.OfUser("ann")); len(list) != 1 || err != nil {
		t.Errorf("ann's sessions: %v, %v", list, err)
	}
}

func TestQuickstartLength(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(source, []byte("\n")); n >= 80 {
		t.Errorf("the program has %d lines; a newcomer reads 79 at most", n)
	}
}
