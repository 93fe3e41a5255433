package session_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// events collects what an observer is told, less the calls of the store.
type events struct {
	mu   sync.Mutex
	seen []session.Event
	ops  map[string]int
}

func (e *events) observe(_ context.Context, event session.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if event.Kind == session.EventStore {
		if e.ops == nil {
			e.ops = make(map[string]int)
		}
		e.ops[event.Op]++
		return
	}
	e.seen = append(e.seen, event)
}

// kinds returns the kinds of the events since the last call.
func (e *events) kinds() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var kinds []string
	for _, event := range e.seen {
		kinds = append(kinds, string(event.Kind))
	}
	e.seen = nil
	return kinds
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			Observer: seen.observe, SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler),
		})
		want := func(kinds ...session.EventKind) {
			t.Helper()
			got := seen.kinds()
			if len(got) != len(kinds) {
				t.Errorf("the events are %q, want %q", got, kinds)
				return
			}
			for i := range got {
				if got[i] != string(kinds[i]) {
					t.Errorf("the events are %q, want %q", got, kinds)
				}
			}
		}
		v.visit(func(s *session.Session) { s.Has("k") })
		want()
		v.visit(func(s *session.Session) { s.Set("k", "v") })
		want(session.EventCreated)
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		want()
		v.visit(func(s *session.Session) { session.Key[string]("k").Get(s) })
		want(session.EventUndecodable)
		other := v.clone()
		v.visit(func(s *session.Session) {
			s.Set("a", 1)
			other.visit(func(s *session.Session) { s.Set("b", 1) })
		})
		want(session.EventConflict)
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		want(session.EventRenewed)
		other = v.clone()
		v.visit(func(s *session.Session) { s.Regenerate() })
		want(session.EventRegenerated)
		wantStatus(t, other.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusConflict)
		want(session.EventUnknown, session.EventStaleWrite)
		other = v.clone()
		v.visit(func(s *session.Session) { s.Destroy() })
		want(session.EventEnded)
		other.cookie.Value = strings.Repeat("A", 86)
		other.visit(func(s *session.Session) { s.Has("k") })
		want(session.EventCookieRefused)
		for _, op := range []string{"load", "save"} {
			if seen.ops[op] == 0 {
				t.Errorf("no %s was reported: %v", op, seen.ops)
			}
		}
	})
}

// An event prints well, and neither it nor the log ever holds a token, a secret or a value.
func TestEventsHoldNoSecrets(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{
		Logger: logger,
		Observer: func(ctx context.Context, e session.Event) {
			logger.InfoContext(ctx, "event", "event", e)
		},
	})
	var secrets []string
	v.visit(func(s *session.Session) { s.Set("k", "the value") })
	secrets = append(secrets, v.cookie.Value, v.cookie.Value[:43], strings.Repeat("s", 32), "the value")
	v.visit(func(s *session.Session) { session.Key[int]("k").Get(s); s.Set("n", 987654); s.Regenerate() })
	v.visit(func(s *session.Session) { session.Key[uint8]("n").Get(s) }) // which overflows
	secrets = append(secrets, "987654")
	secrets = append(secrets, v.cookie.Value, v.cookie.Value[:43])
	v.visit(func(s *session.Session) { s.Has("k"); logger.Info("session", "session", s) })
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	for _, want := range []string{"event.kind=regenerated", "event.id=", "event.successor=", "event.duration=", "session.state=live", `session.keys="[k n]"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &log)
		}
	}
}

func TestSweepInBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		var seen events
		m := newManager(t, store, &session.Options{Observer: seen.observe, IdleTimeout: time.Minute})
		for range 10 {
			(&visitor{t: t, m: m}).visit(func(s *session.Session) { s.Set("k", 1) })
		}
		stays := &visitor{t: t, m: m}
		stays.visit(func(s *session.Session) { s.Set("k", 1); s.SetIdleTimeout(time.Hour) })
		time.Sleep(6 * time.Minute) // five, and the jitter
		synctest.Wait()
		if n := seen.ops["sweep"]; n != 1 {
			t.Errorf("swept %d times in six minutes", n)
		}
		if n, err := m.DeleteExpired(t.Context()); n != 0 || err != nil {
			t.Errorf("the sweep left %d expired records, %v", n, err)
		}
		if !stays.alive() {
			t.Error("a live session was removed")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if n := seen.ops["sweep"]; n != 2 { // the one by hand
			t.Errorf("swept %d times after Close", n-2)
		}
	})
}

func TestSweepCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Observer: seen.observe, SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if seen.ops["sweep"] != 0 {
			t.Error("swept")
		}
		if n, err := v.m.DeleteExpired(t.Context()); n != 1 || err != nil {
			t.Errorf("by hand: %d, %v", n, err)
		}
	})
}

// Events are small values for slog, and for counters.
func ExampleEvent() {
	counts := map[session.EventKind]int{} // expvar, Prometheus …, safe for concurrent use in earnest
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		Observer: func(_ context.Context, e session.Event) { counts[e.Kind]++ },
	})
	if err != nil {
		panic(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("k", 1)
	}))
	for range 3 {
		r, _ := http.NewRequest("GET", "/", nil)
		handler.ServeHTTP(discard{}, r)
	}
	var kinds []string
	for kind, n := range counts {
		kinds = append(kinds, fmt.Sprint(kind, " ", n))
	}
	slices.Sort(kinds)
	fmt.Println(strings.Join(kinds, ", "))
	// Output: created 3, store 3
}

// discard is a ResponseWriter that nobody reads.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// What an event says beside its kind.
func TestEventDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			Observer: seen.observe, SweepInterval: session.Never, MaxSessionsPerUser: 1, Logger: slog.New(slog.DiscardHandler),
		})
		want := func(events ...session.Event) {
			t.Helper()
			if !slices.Equal(seen.seen, events) {
				t.Errorf("the events are\n%v, want\n%v", seen.seen, events)
			}
			seen.seen = nil
		}
		v.login()
		first := v.id()
		want(session.Event{Kind: session.EventCreated, ID: first})
		other := v.clone()
		other.cookie = nil
		other.login()
		second := other.id()
		want(session.Event{Kind: session.EventEnded, ID: first, Reason: "too many sessions of the user"},
			session.Event{Kind: session.EventCreated, ID: second})
		v.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: first, Reason: "ended"})
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: first, Reason: "expired, or ended before"})

		// However many IDs were announced, one session ends once.
		parallel := []*visitor{other.clone(), other.clone(), other.clone()}
		var all sync.WaitGroup
		for _, c := range parallel {
			all.Go(func() { c.visit(func(s *session.Session) { s.Has("k") }) })
		}
		all.Wait()
		third := parallel[0].id()
		seen.seen = nil
		if n, err := v.m.EndUserSessions(t.Context(), "ann"); n != 1 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
		want(session.Event{Kind: session.EventEnded, ID: third, Reason: "ended by the user or the application"})

		for value, reason := range map[string]string{
			"x":                             "malformed",
			strings.Repeat("A", 85) + "B":   "malformed", // not canonical
			strings.Repeat("A", 86):         "not signed with a known secret",
			strings.Repeat("A", 85) + "=":   "malformed",
			strings.Repeat("A", 86) + "AAA": "malformed",
		} {
			v.cookie.Value = value
			v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
				if v.m.HasCookie(r) {
					t.Errorf("%q passes", value)
				}
				session.FromContext(r.Context()).Has("k")
			})
			want(session.Event{Kind: session.EventCookieRefused, Reason: reason})
		}
	})
}

// Damage is logged without an observer, too.
func TestDamageIsLogged(t *testing.T) {
	var log bytes.Buffer
	store := session.NewMemoryStore()
	v := newVisitor(t, store, &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	id := v.id()
	rec, err := store.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	rec.Data = []byte("garbage")
	if err := store.Save(t.Context(), id, rec); err != nil {
		t.Fatal(err)
	}
	v.visit(func(s *session.Session) { s.Has("k") })
	if got := log.String(); !strings.Contains(got, "damaged") || !strings.Contains(got, id.String()) {
		t.Errorf("the log is %q", got)
	}
}

// A store that is down for a while is swept when it is back.
func TestSweepGoesOnAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		store := &failingSweeper{MemoryStore: session.NewMemoryStore()}
		m := newManager(t, store, &session.Options{Observer: seen.observe, Logger: slog.New(slog.DiscardHandler)})
		time.Sleep(time.Hour)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if n := seen.ops["sweep"]; n < 10 {
			t.Errorf("%d sweeps in an hour", n)
		}
	})
}

type failingSweeper struct{ *session.MemoryStore }

func (failingSweeper) DeleteExpired(context.Context, int) (int, error) { return 0, errDown }
