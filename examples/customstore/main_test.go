package main

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"example.com/session"
	"example.com/session/internal/program"
	"example.com/session/sessiontest"
)

// startServer returns the URL of a server within this process.
func startServer(t *testing.T) string {
	t.Helper()
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	go nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	return nats.ClientURL()
}

func openIn(t *testing.T, rawURL string) *natsStore {
	t.Helper()
	store, err := openNATS(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store.(*natsStore)
}

// A stream of one server for each rule, which two processes have open.
func TestStore(t *testing.T) {
	server := sync.OnceValue(func() string { return startServer(t) }) // not in the second process
	stores := sessiontest.Stores{
		Place:     func(t *testing.T) string { return server() + "?stream=s" + strings.ToLower(rand.Text()) },
		Open:      func(ctx context.Context, place string) (session.Store, error) { return openNATS(ctx, place) },
		Processes: true,
	}
	sessiontest.Run(t, stores)
	sessiontest.RunSessions(t, stores)
}

// Deleted records leave nothing in the stream, and replaced ones no more than the last message.
func TestNothingIsLeft(t *testing.T) {
	store := openIn(t, startServer(t)+"?stream=of_mine")
	for i := range 10 {
		id := session.ID{byte(i)}
		for version := range uint64(3) {
			if err := store.Save(t.Context(), id, session.Record{Version: version, Expires: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(n uint64) {
		t.Helper()
		info, err := store.stream.Info(t.Context())
		if err != nil || info.State.Msgs != n {
			t.Errorf("the stream has %d messages, want %d (%v)", info.State.Msgs, n, err)
		}
	}
	want(10)
	for i := range 10 {
		if err := store.Delete(t.Context(), session.ID{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
}

// What has expired is removed by the server.
func TestExpiry(t *testing.T) {
	store := openIn(t, startServer(t))
	if err := store.Save(t.Context(), session.ID{1}, session.Record{Expires: time.Now().Add(time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	for left := uint64(1); left > 0; { // the server needs a moment, or two seconds
		info, err := store.stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		left = info.State.Msgs
	}
}

// Two that have the same stream, as two processes would, get in each other's way and lose nothing.
func TestShared(t *testing.T) {
	rawURL := startServer(t)
	const key session.Key[int] = "n"
	var cookie *http.Cookie
	var managers []*session.Manager
	for range 2 {
		m, err := session.New(openIn(t, rawURL), []byte(strings.Repeat("s", 32)), nil)
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
	store := startServer(t)
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
