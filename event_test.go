package session_test

import (
	"bytes"
	"context"
	"errors"
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
	"example.com/session/internal/double"
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
		other.cookie.Value = strings.Repeat("A", 91)
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
	for _, want := range []string{"event.kind=regenerated", "event.id=", "event.duration=", "session.state=live", `session.keys="[k n]"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &log)
		}
	}
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

// The fields of an event beside its kind.
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
		want(session.Event{Kind: session.EventEnded, ID: first, Reason: session.ReasonLimit},
			session.Event{Kind: session.EventCreated, ID: second})
		v.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: first, Reason: session.ReasonEnded})
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: first, Reason: session.ReasonEnded})

		// However many requests renew it, one session ends once.
		parallel := []*visitor{other.clone(), other.clone(), other.clone()}
		var all sync.WaitGroup
		for _, c := range parallel {
			all.Go(func() { c.visit(func(s *session.Session) { s.Has("k") }) })
		}
		all.Wait()
		third := parallel[0].id()
		seen.seen = nil
		if n, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); n != 1 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
		want(session.Event{Kind: session.EventEnded, ID: third, Reason: session.ReasonRevoked})

		for value, reason := range map[string]session.Reason{
			"x":                             session.ReasonMalformed,
			strings.Repeat("A", 90) + "B":   session.ReasonMalformed, // not canonical
			strings.Repeat("A", 91):         session.ReasonBadSignature,
			strings.Repeat("A", 90) + "=":   session.ReasonMalformed,
			strings.Repeat("A", 91) + "AAA": session.ReasonMalformed,
		} {
			v.cookie.Value = value
			v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
				if v.m.HasToken(r) {
					t.Errorf("%q passes", value)
				}
				session.FromContext(r.Context()).Has("k")
			})
			want(session.Event{Kind: session.EventCookieRefused, Reason: reason})
		}

		for _, c := range []*visitor{other, v} {
			c.cookie = nil
			c.visit(func(s *session.Session) { s.Set("k", 1) })
		}
		before := v.clone()
		v.visit(func(s *session.Session) { s.Regenerate() })
		seen.seen = nil
		before.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: v.id(), Reason: session.ReasonReplaced})
		expired := other.id()
		time.Sleep(15 * time.Minute)
		other.visit(func(s *session.Session) { s.Has("k") })
		want(session.Event{Kind: session.EventUnknown, ID: expired, Reason: session.ReasonExpired})
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

// The logger is told once a manager, without the session in the context, of a use that does less than it seems to.
func TestAdvice(t *testing.T) {
	for _, test := range []struct {
		name string
		opts session.Options
		do   func(s *session.Session)
		late func(s *session.Session) // once the handler has returned
		want string                   // in the log; empty: nothing is told
	}{
		{"remembered for longer than it lives", session.Options{}, func(s *session.Session) { s.Remember(30 * 24 * time.Hour) }, nil, "AbsoluteTimeout"},
		{"idle for longer than it lives", session.Options{AbsoluteTimeout: time.Hour}, func(s *session.Session) { s.SetIdleTimeout(2 * time.Hour) }, nil, "AbsoluteTimeout"},
		{"remembered as long as it lives", session.Options{}, func(s *session.Session) { s.Remember(24 * time.Hour) }, nil, ""},
		{"remembered, no limit", session.Options{AbsoluteTimeout: session.Never}, func(s *session.Session) { s.Remember(30 * 24 * time.Hour) }, nil, ""},
		{"idle forever", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(session.Never) }, nil, ""},
		{"17 forms", session.Options{}, func(s *session.Session) {
			for range 17 {
				s.FormTokenInput()
			}
		}, nil, "16"},
		{"34 forms", session.Options{}, func(s *session.Session) {
			for range 34 {
				s.FormToken()
			}
		}, nil, "16"},
		{"16 forms", session.Options{}, func(s *session.Session) {
			for range 16 {
				s.FormToken()
			}
		}, nil, ""},
		{"Set", session.Options{}, nil, func(s *session.Session) { s.Set("k", 2) }, "after"},
		{"Update", session.Options{}, nil, func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) }, "after"},
		{"SetDefault", session.Options{}, nil, func(s *session.Session) { s.SetDefault("x", 2) }, "after"},
		{"Delete", session.Options{}, nil, func(s *session.Session) { s.Delete("k") }, "after"},
		{"Pop", session.Options{}, nil, func(s *session.Session) { s.Pop("k") }, "after"},
		{"Clear", session.Options{}, nil, func(s *session.Session) { s.Clear() }, "after"},
		{"Destroy", session.Options{}, nil, func(s *session.Session) { s.Destroy() }, "after"},
		{"SetUser", session.Options{}, nil, func(s *session.Session) { s.SetUser("ann") }, "after"},
		{"Regenerate", session.Options{}, nil, func(s *session.Session) { s.Regenerate() }, "after"},
		{"SetPersistent", session.Options{}, nil, func(s *session.Session) { s.SetPersistent(true) }, "after"},
		{"a look", session.Options{}, nil, func(s *session.Session) {
			s.Has("k")
			s.Get("k")
			s.User()
			s.ID()
			s.Err()
			s.Expires()
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			opts := test.opts
			opts.Logger = slog.New(asking{slog.NewTextHandler(&log, nil)})
			m := newManager(t, session.NewMemoryStore(), &opts)
			for range 2 {
				var s *session.Session
				serve(handle(m, func(its *session.Session) {
					s = its
					s.Set("k", 1)
					if test.do != nil {
						test.do(s)
					}
				}))
				if test.late != nil {
					test.late(s)
				}
			}
			lines := strings.Count(log.String(), "\n")
			if test.want == "" && lines > 0 || test.want != "" && (lines != 1 || !strings.Contains(log.String(), test.want) || !strings.Contains(log.String(), "level=WARN")) {
				t.Errorf("the log is %q", &log)
			}
		})
	}
}

// An asking handler looks for the session first, as one may that logs the user's name.
type asking struct{ slog.Handler }

func (a asking) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() {
		if recover() != nil { // there is none, as it must be
			err = a.Handler.Handle(ctx, r)
		}
	}()
	session.FromContext(ctx).User()
	return nil
}

// Each event that has a reason tells the right one.
func TestEventReasons(t *testing.T) {
	for _, test := range []struct {
		kind   session.EventKind
		reason session.Reason
		do     func(v, other *visitor) // other has the cookie of before, which v's login has replaced
	}{
		{session.EventEnded, session.ReasonDestroyed, func(v, _ *visitor) { v.visit((*session.Session).Destroy) }},
		{session.EventEnded, session.ReasonEmptied, func(v, _ *visitor) {
			v.visit(func(s *session.Session) { s.SetUser(""); s.Clear() })
		}},
		{session.EventEnded, session.ReasonRevoked, func(v, _ *visitor) { v.m.EndSessions(v.t.Context(), session.OfUser("ann")) }},
		{session.EventEnded, session.ReasonLimit, func(v, _ *visitor) { v.clone().fresh().login() }},
		{session.EventEnded, session.ReasonReused, func(v, _ *visitor) {
			old := v.clone()
			for range 3 {
				time.Sleep(5 * time.Minute)
				v.visit(func(s *session.Session) { s.Set("n", time.Now()) })
			}
			old.alive()
		}},
		{session.EventUnknown, session.ReasonReplaced, func(_, other *visitor) { other.alive() }},
		{session.EventUnknown, session.ReasonEnded, func(v, _ *visitor) {
			old := v.clone()
			v.visit((*session.Session).Destroy)
			old.alive()
		}},
		{session.EventUnknown, session.ReasonExpired, func(v, _ *visitor) { time.Sleep(time.Hour); v.alive() }},
		{session.EventCookieRefused, session.ReasonMalformed, func(v, _ *visitor) { v.cookie.Value = "x"; v.alive() }},
		{session.EventCookieRefused, session.ReasonBadSignature, func(v, _ *visitor) {
			v.cookie.Value = strings.Repeat("A", len(v.cookie.Value))
			v.alive()
		}},
	} {
		t.Run(fmt.Sprint(test.kind, " ", test.reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen events
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{
					Observer: seen.observe, SweepInterval: session.Never, Logger: quiet, EndOnReuse: true, MaxSessionsPerUser: 1,
				})
				v.visit(func(s *session.Session) { s.Set("k", 1) })
				other := v.clone()
				v.login()
				seen.kinds()
				test.do(v, other)
				found := false
				seen.mu.Lock()
				defer seen.mu.Unlock()
				for _, e := range seen.seen {
					switch e.Kind {
					case session.EventEnded, session.EventUnknown, session.EventCookieRefused:
						if e.Reason == "" {
							t.Errorf("%v has no reason", e)
						}
						if (e.ID == session.ID{}) != (e.Kind == session.EventCookieRefused) {
							t.Errorf("%v has the ID %v", e.Kind, e.ID)
						}
					}
					found = found || e.Kind == test.kind && e.Reason == test.reason
				}
				if !found {
					t.Errorf("the events are %v", seen.seen)
				}
			})
		})
	}
}

// fresh is the visitor without a cookie.
func (v *visitor) fresh() *visitor {
	v.cookie = nil
	return v
}

// A session that came to nothing, since the user's list could not be saved, is removed; if that fails as well, an event says
// so, for the record stays until it expires.
func TestEventOfWhatIsLeftBehind(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	var lost []session.Event
	var first session.ID
	v := newVisitor(t, store, &session.Options{Logger: quiet, Observer: func(_ context.Context, e session.Event) {
		if e.Kind == session.EventLost {
			lost = append(lost, e)
		}
	}})
	store.Hook(double.Fail(errDown, double.Delete), double.Before(func(_ context.Context, c *double.Call) error {
		if first == (session.ID{}) {
			first = c.ID
		}
		if c.ID != first {
			return errDown
		}
		return nil
	}, double.Save))
	wantStatus(t, v.visit(func(s *session.Session) { s.SetUser("ann") }), http.StatusServiceUnavailable)
	if len(lost) == 0 || lost[0].Op != "delete" || lost[0].ID != first || !errors.Is(lost[0].Err, errDown) {
		t.Errorf("the events are %v, want the loss of %v", lost, first)
	}
	if n := recordCount(t, store); n != 1 {
		t.Errorf("%d records", n)
	}
}
