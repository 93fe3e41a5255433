package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
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
		want(session.Event{Kind: session.EventCreated, ID: first, User: "ann"}, session.Event{Kind: session.EventLogin, ID: first, User: "ann"})
		other := v.clone()
		other.cookie = nil
		other.login()
		second := other.id()
		want(session.Event{Kind: session.EventEnded, ID: first, User: "ann", Reason: session.ReasonLimit},
			session.Event{Kind: session.EventCreated, ID: second, User: "ann"}, session.Event{Kind: session.EventLogin, ID: second, User: "ann"})
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
		want(session.Event{Kind: session.EventEnded, ID: third, User: "ann", Reason: session.ReasonRevoked})

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

// auditTrail is what an observer keeps for an auditor: kind, user, session and reason of each event.
type auditTrail struct {
	mu    sync.Mutex
	lines []string
	seen  []session.Event
}

func (a *auditTrail) observe(_ context.Context, e session.Event) {
	if e.Kind == session.EventStore {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = append(a.lines, strings.Join(strings.Fields(fmt.Sprint(e.Kind, " ", e.User, " ", e.Reason)), " "))
	a.seen = append(a.seen, e)
}

// take returns what was seen since the last call.
func (a *auditTrail) take() (lines []string, seen []session.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	lines, seen, a.lines, a.seen = a.lines, a.seen, nil, nil
	return lines, seen
}

// Who logged in, who left, who was refused, and why: each with the user, and with the session under its one ID.
func TestEventsForAuditors(t *testing.T) {
	outside := func(v *visitor, fn func(s *session.Session)) { v.m.Change(v.t.Context(), v.id(), fn) }
	unreadable := func(user string) string { // by an operator, who has not the cookie
		if encrypted {
			return ""
		}
		return " " + user
	}
	for _, test := range []struct {
		name string
		opts session.Options
		do   func(v *visitor) // who is logged in as ann, and has the value k
		want []string
	}{
		{"again", session.Options{}, func(v *visitor) { v.login() }, []string{"regenerated ann", "login ann again"}},
		{"as somebody else", session.Options{}, func(v *visitor) { v.visit(func(s *session.Session) { s.SetUser("bob") }) },
			[]string{"regenerated bob", "logout ann replaced", "login bob"}},
		{"as nobody", session.Options{}, func(v *visitor) { v.visit(func(s *session.Session) { s.SetUser("") }) },
			[]string{"regenerated", "logout ann replaced"}},
		{"another key", session.Options{}, func(v *visitor) { v.visit((*session.Session).Regenerate) }, []string{"regenerated ann"}},
		{"logout", session.Options{}, func(v *visitor) { v.visit((*session.Session).Destroy) },
			[]string{"ended ann destroyed", "logout ann destroyed"}},
		{"logout and login", session.Options{}, func(v *visitor) { v.visit(func(s *session.Session) { s.Destroy(); s.SetUser("bob") }) },
			[]string{"ended ann destroyed", "logout ann destroyed", "created bob", "login bob"}},
		{"emptied", session.Options{}, func(v *visitor) { v.visit(func(s *session.Session) { s.SetUser(""); s.Clear() }) },
			[]string{"ended ann emptied", "logout ann emptied"}},
		{"of a login that did not last", session.Options{}, func(v *visitor) {
			v.visit(func(s *session.Session) { s.SetUser("bob"); s.SetUser("ann") })
		}, []string{"regenerated ann", "login ann again"}},
		{"from the list", session.Options{}, func(v *visitor) { v.m.EndSessions(v.t.Context(), session.OfUser("ann")) }, []string{"ended ann revoked"}},
		{"by a label", session.Options{}, func(v *visitor) {
			v.m.EndSessions(v.t.Context(), session.Labelled(session.Label{Name: "tenant", Value: "acme"}))
		}, []string{"ended ann revoked"}},
		{"by an operator", session.Options{}, func(v *visitor) { v.m.End(v.t.Context(), v.id()) }, []string{"ended" + unreadable("ann") + " revoked"}},
		{"too many", session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: true}, func(v *visitor) {
			wantStatus(v.t, v.clone().fresh().visit(func(s *session.Session) { s.SetUser("ann") }), http.StatusForbidden)
		}, []string{"login_refused ann limit"}},
		{"too many, in a session", session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: true}, func(v *visitor) {
			bob := v.clone().fresh()
			bob.visit(func(s *session.Session) { s.SetUser("bob") })
			wantStatus(v.t, bob.visit(func(s *session.Session) { s.SetUser("ann") }), http.StatusForbidden)
		}, []string{"created bob", "login bob", "login_refused ann limit"}},
		{"room is made", session.Options{MaxSessionsPerUser: 1}, func(v *visitor) { v.clone().fresh().login() },
			[]string{"ended ann limit", "created ann", "login ann"}},
		{"ended as it logs in", session.Options{}, func(v *visitor) {
			v.visit(func(s *session.Session) {
				s.Has("k")
				v.m.EndSessions(v.t.Context(), session.OfUser("ann"))
				s.SetUser("bob")
			})
		}, []string{"ended ann revoked", "stale_write ann", "login_refused bob revoked", "conflict"}},
		{"renewed", session.Options{}, func(v *visitor) { time.Sleep(5 * time.Minute); v.alive() }, []string{"renewed ann"}},
		{"a conflict", session.Options{}, func(v *visitor) {
			v.visit(func(s *session.Session) {
				s.Set("a", 1)
				v.clone().visit(func(s *session.Session) { s.Set("b", 1) })
			})
		}, []string{"conflict ann"}},
		{"a copy", session.Options{EndOnReuse: true}, func(v *visitor) {
			old := v.clone()
			for range 3 {
				time.Sleep(5 * time.Minute)
				v.visit(func(s *session.Session) { s.Set("n", time.Now()) })
			}
			old.alive()
		}, []string{"renewed ann", "renewed ann", "reused ann", "ended ann reused"}},
		{"logout with a copy", session.Options{}, func(v *visitor) {
			old := v.clone()
			for range 3 {
				time.Sleep(5 * time.Minute)
				v.visit(func(s *session.Session) { s.Set("n", time.Now()) })
			}
			old.visit((*session.Session).Destroy)
		}, []string{"renewed ann", "renewed ann", "reused ann", "ended ann destroyed", "logout ann destroyed"}},
		{"a key of before", session.Options{}, func(v *visitor) {
			old := v.clone()
			v.login()
			old.alive()
		}, []string{"regenerated ann", "login ann again", "unknown" + unreadable("ann") + " replaced"}},
		{"elsewhere", session.Options{Bind: func(r *http.Request) string { return r.UserAgent() }}, func(v *visitor) {
			r, _ := http.NewRequest("GET", "/", nil)
			r.Header.Set("User-Agent", "another")
			r.AddCookie(v.cookie)
			handle(v.m, func(s *session.Session) { s.Has("k") }).ServeHTTP(discard{}, r)
		}, []string{"binding_mismatch ann"}},
		{"a change from outside", session.Options{}, func(v *visitor) {
			if !encrypted {
				outside(v, func(s *session.Session) { s.Lock(v.t.Context()) })
			}
		}, map[bool][]string{false: {"lock ann"}}[encrypted]},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var trail auditTrail
				opts := test.opts
				opts.Observer, opts.SweepInterval, opts.Logger = trail.observe, session.Never, quiet
				v := newVisitor(t, session.NewMemoryStore(), &opts)
				v.visit(func(s *session.Session) {
					s.SetUser("ann", session.Label{Name: "tenant", Value: "acme"})
					s.Set("k", 1)
				})
				lines, seen := trail.take()
				if !slices.Equal(lines, []string{"created ann", "login ann"}) {
					t.Errorf("at the login: %q", lines)
				}
				id := seen[len(seen)-1].ID
				test.do(v)
				lines, seen = trail.take()
				if !slices.Equal(lines, test.want) {
					t.Errorf("the events are %q, want %q", lines, test.want)
				}
				others := 0 // of another session that the case begins
				for _, e := range seen {
					if e.ID == (session.ID{}) {
						t.Errorf("%v has no ID", e)
					}
					if e.ID != id {
						others++
					}
				}
				if begun := strings.Count(strings.Join(lines, " "), "created"); begun == 0 && others > 0 && test.name != "too many" {
					t.Errorf("%d events are not of the session: %v", others, seen)
				}
			})
		})
	}
}

// Each change that is refused because its session has ended names that session.
func TestStaleWritesNameTheSession(t *testing.T) {
	set := func(s *session.Session) { s.Set("n", 1) }
	whileRuns := func(v *visitor, end func()) {
		v.visit(func(s *session.Session) {
			s.Set("n", 1)
			end()
		})
	}
	for _, test := range []struct {
		name string
		do   func(v *visitor)
	}{
		{"logout, and a straggler", func(v *visitor) {
			old := v.clone()
			v.visit((*session.Session).Destroy)
			old.visit(set)
		}},
		{"logout while it runs", func(v *visitor) { whileRuns(v, func() { v.clone().visit((*session.Session).Destroy) }) }},
		{"a login, and a straggler", func(v *visitor) {
			old := v.clone()
			v.login()
			old.visit(set)
		}},
		{"a login while it runs", func(v *visitor) { whileRuns(v, func() { v.clone().login() }) }},
		{"revoked while it runs", func(v *visitor) {
			whileRuns(v, func() { v.m.EndSessions(v.t.Context(), session.OfUser("ann")) })
		}},
		{"another key, of one that ended", func(v *visitor) {
			v.visit(func(s *session.Session) {
				s.Regenerate()
				v.clone().visit((*session.Session).Destroy)
			})
		}},
		{"a lock of one that ended", func(v *visitor) {
			old := v.clone()
			v.visit((*session.Session).Destroy)
			old.visit(func(s *session.Session) {
				if err := s.Lock(v.t.Context()); !errors.Is(err, session.ErrGone) {
					v.t.Errorf("Lock: %v", err)
				}
			})
		}},
		{"a change from outside", func(v *visitor) {
			change := func(s *session.Session) {
				s.Set("n", 1)
				v.clone().visit((*session.Session).Destroy)
			}
			if err := v.m.Change(v.t.Context(), v.id(), change); encrypted && err != nil {
				v.visit((*session.Session).Regenerate) // nobody outside can change it
				whileRuns(v, func() { v.clone().visit((*session.Session).Destroy) })
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var trail auditTrail
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{Observer: trail.observe, Logger: quiet}).login()
			id := v.id()
			trail.take()
			test.do(v)
			wantStale(t, &trail, id)
		})
	}
	for name, end := range map[string]func(b *mover){
		"of an old system, ended": func(b *mover) { b.visit((*session.Session).Destroy) },
		"of an old system, moved and ended": func(b *mover) {
			c := b.clone()
			c.visit(func(s *session.Session) { s.Has("k") })
			c.visit((*session.Session).Destroy)
		},
		"of an old system, moved and renewed": func(b *mover) { c := b.clone(); c.visit(func(s *session.Session) { s.SetUser("ann") }) },
	} {
		t.Run(name, func(t *testing.T) {
			var trail auditTrail
			old := newOldSystem()
			old.endures = true
			b := withTicket(t, newManager(t, session.NewMemoryStore(), old.options(session.Options{Observer: trail.observe})))
			late := b.clone()
			end(b)
			_, before := trail.take()
			late.visit(set)
			wantStale(t, &trail, before[len(before)-1].ID)
		})
	}
}

// wantStale checks that there was one stale write, to the session under the ID.
func wantStale(t *testing.T, trail *auditTrail, id session.ID) {
	t.Helper()
	lines, seen := trail.take()
	n := 0
	for _, e := range seen {
		if e.Kind == session.EventStaleWrite {
			if n++; e.ID != id || !errors.Is(e.Err, session.ErrGone) {
				t.Errorf("the stale write is %v, want one to %v", e, id)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d stale writes, want 1: %q", n, lines)
	}
}

// A lock tells how long it was waited for, and what became of it.
func TestLockEvents(t *testing.T) {
	for _, test := range []struct {
		name     string
		holds    time.Duration // the one before, 0 for none
		dies     bool          // and never gives the lock back
		do       func(s *session.Session)
		reason   session.Reason
		atLeast  time.Duration
		err      error
		together int // events
	}{
		{"free", 0, false, nil, "", 0, nil, 1},
		{"held", 3 * time.Second, false, nil, "", 3 * time.Second, nil, 2},
		{"held for too long", 10 * time.Second, false, nil, session.ReasonTimeout, 5 * time.Second, session.ErrLocked, 2},
		{"its holder died", 0, true, nil, session.ReasonTakenOver, time.Second, nil, 2},
		{"lost", 0, false, func(s *session.Session) { s.Set("k", 2) }, session.ReasonLost, 0, session.ErrLockLost, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var trail auditTrail
				store := double.New(session.NewMemoryStore())
				opts := &session.Options{Observer: trail.observe, SweepInterval: session.Never, Logger: quiet, LockWait: 5 * time.Second, LockLease: 4 * time.Second}
				v := newVisitor(t, store, opts)
				v.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
				id := v.id()
				trail.take()
				var all sync.WaitGroup
				lock := func(s *session.Session) { s.Lock(t.Context()) }
				if test.holds > 0 {
					c := v.clone()
					all.Go(func() { c.visit(func(s *session.Session) { lock(s); time.Sleep(test.holds) }) })
					synctest.Wait()
				}
				if test.dies { // its lease is neither prolonged nor given back
					dead := v.clone()
					dead.m = newManager(t, v.store, opts)
					dead.visit(func(s *session.Session) {
						lock(s)
						store.Hook(double.Fail(errDown, double.Save))
					})
					store.Hook()
				}
				v.visit(func(s *session.Session) {
					if lock(s); test.do != nil {
						store.Hook(double.Fail(errDown, double.Save))
						time.Sleep(time.Minute)
						store.Hook()
						test.do(s)
					}
				})
				all.Wait()
				_, seen := trail.take()
				seen = slices.DeleteFunc(seen, func(e session.Event) bool { return e.Kind != session.EventLock })
				if len(seen) != test.together {
					t.Fatalf("%d events, want %d: %v", len(seen), test.together, seen)
				}
				e := seen[len(seen)-1]
				if e.ID != id || e.User != "ann" || e.Reason != test.reason || e.Duration < test.atLeast || e.Duration > test.atLeast+5*time.Second {
					t.Errorf("the event is %v, want one of %v after %v, %q", e, id, test.atLeast, test.reason)
				}
				if !errors.Is(e.Err, test.err) {
					t.Errorf("the error is %v, want %v", e.Err, test.err)
				}
			})
		})
	}
}

// As long as anything that the previous secret made is accepted, events say so, and not for longer.
func TestOldSecretEvents(t *testing.T) {
	store := session.NewMemoryStore()
	var trail auditTrail
	with := func(secret byte, previous ...[]byte) *session.Manager {
		m, err := session.New(store, secretOf(secret), &session.Options{
			PreviousSecrets: previous, TokenHeader: tokenHeader, EncryptAtRest: encrypted, Observer: trail.observe, Logger: quiet,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	v := &visitor{t: t, store: store, m: with('s')}
	v.login()
	id := v.id()
	token, err := v.m.Do(t.Context(), "", func(ctx context.Context) error { session.FromContext(ctx).SetUser("bob"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	v.m = with('n', secretOf('s'))
	want := func(kept bool, reasons ...session.Reason) {
		t.Helper()
		_, seen := trail.take()
		seen = slices.DeleteFunc(seen, func(e session.Event) bool { return e.Kind != session.EventOldSecret })
		var got []session.Reason
		for _, e := range seen {
			got = append(got, e.Reason)
			if kept && e.ID != id {
				t.Errorf("%v is not of the session %v", e, id)
			}
		}
		if !slices.Equal(got, reasons) {
			t.Errorf("what is accepted under the old secret is %q, want %q", got, reasons)
		}
	}
	sealed := func(reasons ...session.Reason) []session.Reason {
		if encrypted {
			reasons = append(reasons, session.ReasonEncrypted)
		}
		return reasons
	}
	trail.take()
	r, _ := http.NewRequest("GET", "/", nil)
	r.AddCookie(v.cookie)
	if !v.m.HasToken(r) {
		t.Error("the token does not pass")
	}
	want(true)
	v.alive()
	want(true, sealed(session.ReasonCookie)...)
	v.visit(func(s *session.Session) { s.Set("k", 5) })
	want(true, sealed(session.ReasonCookie)...)
	v.visit(func(s *session.Session) { s.Set("k", 6) })
	want(true)
	for range 2 {
		if token, err = v.m.Do(t.Context(), token, func(ctx context.Context) error { session.FromContext(ctx).Set("k", time.Now()); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	want(false, sealed(session.ReasonHeader)...)
	if list, err := v.m.Sessions(t.Context(), session.OfUser("ann")); err != nil || len(list) != 1 {
		t.Errorf("ann's sessions: %v, %v", list, err)
	}
	want(false, sealed()...)
	v.login() // which saves the list
	trail.take()
	if list, err := v.m.Sessions(t.Context(), session.OfUser("ann")); err != nil || len(list) != 1 {
		t.Errorf("ann's sessions: %v, %v", list, err)
	}
	want(false)
}

// An observer that is not there costs nothing, and one that is costs a read or a write no allocation.
func TestObserverAllocatesNothing(t *testing.T) {
	for name, do := range map[string]func(s *session.Session, i int){
		"read":  func(s *session.Session, _ int) { hitCounter.Get(s) },
		"write": func(s *session.Session, i int) { hitCounter.Set(s, i) },
	} {
		t.Run(name, func(t *testing.T) {
			allocs := func(observer func(context.Context, session.Event)) float64 {
				m := newManager(t, session.NewMemoryStore(), &session.Options{Observer: observer, RenewInterval: session.Never, SweepInterval: session.Never})
				value, _ := begin(t, m)
				i := 0
				h := handle(m, func(s *session.Session) { do(s, i) })
				r, _ := http.NewRequest("GET", "/", nil)
				r.Header.Set("Cookie", "session_id="+value)
				w := &blankWriter{make(http.Header)}
				least := math.Inf(1) // since with -race pools lose one of four values, and the garbage collector takes some
				for range 500 {
					least = min(least, testing.AllocsPerRun(1, func() {
						i++
						clear(w.header)
						h.ServeHTTP(w, r)
					}))
				}
				return least
			}
			var calls int
			without, with := allocs(nil), allocs(func(context.Context, session.Event) { calls++ })
			if with > without || calls == 0 {
				t.Errorf("%v allocations without an observer, %v with one that was called %d times", without, with, calls)
			}
		})
	}
}

// A logger shows each field that is set, under its name.
func TestEventLogValue(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("told", "event", session.Event{
		Kind: session.EventLost, ID: session.ID{1}, User: "ann", Reason: session.ReasonFailed, Op: "save",
		Duration: time.Second, Count: 2, Key: "cart", Err: errDown,
	})
	want := fmt.Sprintf(` event.kind=lost event.id=%v event.user=ann event.reason=failed event.op=save event.duration=1s event.count=2 event.key=cart event.err=%q`+"\n",
		session.ID{1}, errDown.Error())
	if got := log.String(); !strings.HasSuffix(got, want) {
		t.Errorf("the log is %s, want%s", got, want)
	}
}
