package session_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// A store that waits for its context is waited for as long as Options.StoreTimeout says.
func TestStoreTimeout(t *testing.T) {
	for name, wait := range map[string]func(context.Context) error{
		"Done": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"Err": func(ctx context.Context) error {
			for range 1000 {
				if err := ctx.Err(); err != nil {
					return err
				}
				time.Sleep(10 * time.Millisecond)
			}
			return errors.New("the context does not end")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := double.New(session.NewMemoryStore())
				var got error
				m := newManager(t, store, &session.Options{
					SweepInterval: session.Never, StoreTimeout: 2 * time.Second,
					ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { got = err },
				})
				value, _ := begin(t, m)
				store.Hook(waits(wait))
				start := time.Now()
				serve(handle(m, func(s *session.Session) { s.Has("k") }), "session_id="+value)
				if d := time.Since(start).Round(100 * time.Millisecond); d != 2*time.Second || !errors.Is(got, context.DeadlineExceeded) {
					t.Errorf("after %v: %v", d, got)
				}
			})
		})
	}
}

// Steps of requests to one server that begin at about the same time share a timer and a deadline.
func TestStoreTimeoutShared(t *testing.T) {
	type key struct{}
	store, server := double.New(session.NewMemoryStore()), new(http.Server)
	with := func(timeout time.Duration) func(func(context.Context) error) error {
		var got error
		m := newManager(t, store, &session.Options{
			SweepInterval: session.Never, StoreTimeout: timeout,
			ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { got = err },
		})
		value, _ := begin(t, m)
		h := handle(m, func(s *session.Session) { s.Has("k") })
		return func(wait func(context.Context) error) error {
			got = nil
			store.Hook(waits(wait))
			defer store.Hook()
			serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx := context.WithValue(r.Context(), http.ServerContextKey, server)
				h.ServeHTTP(w, r.WithContext(context.WithValue(ctx, key{}, timeout)))
			}), "session_id="+value)
			return got
		}
	}

	long := with(time.Minute) // within a second it is the same timer
	var steps []context.Context
	for range 2 {
		long(func(ctx context.Context) error {
			steps = append(steps, ctx)
			if ctx.Done() == nil || ctx.Err() != nil {
				t.Errorf("the context begins with the error %v", ctx.Err())
			}
			if ctx.Value(key{}) != time.Minute {
				t.Error("the request's value is not there")
			}
			return nil
		})
	}
	if steps[0].Done() != steps[1].Done() {
		t.Error("the two steps have timers of their own")
	}
	server = new(http.Server)
	long(func(ctx context.Context) error {
		if ctx.Done() == steps[0].Done() {
			t.Error("a request to another server shares it")
		}
		return nil
	})

	short := with(10 * time.Millisecond)
	for range 5 {
		err := short(func(ctx context.Context) error {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-child.Done()
			if deadline, ok := child.Deadline(); !ok || time.Now().Before(deadline) {
				t.Errorf("it is done before the deadline, %v", deadline)
			}
			if ctx.Err() != context.DeadlineExceeded {
				t.Errorf("the context's error is %v", ctx.Err())
			}
			return child.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the request fails with %v", err)
		}
	}
}

// Once the deadline is over, so is the context, even if its timer is late.
func TestStoreContextErr(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{SweepInterval: session.Never, StoreTimeout: 10 * time.Millisecond, Logger: quiet})
	value, _ := begin(t, m)
	for range 20 {
		store.Hook(waits(func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			for time.Now().Before(deadline) {
			}
			if err := ctx.Err(); err != context.DeadlineExceeded {
				t.Errorf("after the deadline, the error is %v", err)
			}
			return ctx.Err()
		}))
		serve(handle(m, func(s *session.Session) { s.Has("k") }), "session_id="+value)
	}
}

// A Manager can be used in several bubbles and outside of them: they share no timer. The clock of each begins at the
// same time.
func TestStoreTimeoutInBubbles(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, timeout := range []time.Duration{time.Second, 50 * year} {
		store := double.New(session.NewMemoryStore())
		m := newManager(t, store, &session.Options{
			SweepInterval: session.Never, StoreTimeout: timeout, IdleTimeout: session.Never, AbsoluteTimeout: session.Never,
		})
		var value string
		synctest.Test(t, func(t *testing.T) { value, _ = begin(t, m) }) // it must not have been created in the future
		use := func(t *testing.T) {
			looked := false
			store.Hook(waits(func(ctx context.Context) error {
				child, cancel := context.WithCancel(ctx)
				defer cancel()
				if deadline, _ := ctx.Deadline(); time.Until(deadline) < timeout/2 {
					t.Errorf("the deadline is %v", deadline)
				}
				looked = true
				return child.Err()
			}))
			serve(handle(m, func(s *session.Session) { s.Has("k") }), "session_id="+value)
			if !looked {
				t.Error("the store was not asked")
			}
			store.Hook()
		}
		for _, sleep := range []time.Duration{0, 0, 2 * year, 2 * year} {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(sleep)
				use(t)
			})
		}
		use(t)
	}
}

// waits returns a hook that calls wait before each Load.
func waits(wait func(context.Context) error) double.Hook {
	return double.Before(func(ctx context.Context, _ *double.Call) error { return wait(ctx) }, double.Load)
}

// A store that looks for the session while the session waits for it would wait for itself.
func TestStoreContextHasNoSession(t *testing.T) {
	key := new(int)
	store := double.New(session.NewMemoryStore())
	looks := 0
	store.Hook(double.Before(func(ctx context.Context, _ *double.Call) error {
		looks++
		defer func() {
			if recover() == nil {
				t.Error("there is a session")
			}
		}()
		if looks == 1 && ctx.Value(key) != "value" { // that of Save
			t.Error("a value of the request's context is missing")
		}
		session.FromContext(ctx)
		return nil
	}, double.Load, double.Save))
	v := newVisitor(t, store, nil)
	for range 2 {
		v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			session.Key[int]("n").Update(s, func(n int) int { return n + 1 })
			ctx := context.WithValue(r.Context(), key, "value")
			if err := s.Save(ctx); err != nil {
				t.Error(err)
			}
			if err := s.Reload(ctx); err != nil {
				t.Error(err)
			}
			if err := s.Lock(ctx); err != nil {
				t.Error(err)
			}
			if _, err := v.m.Sessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
			if _, err := v.m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		})
	}
	if looks < 10 {
		t.Errorf("%d looks", looks)
	}
}

// Requests of two servers that take turns leave no timers behind.
func TestTimersOfTwoServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		m := newManager(t, store, &session.Options{SweepInterval: session.Never})
		value, _ := begin(t, m)
		clocks := make(map[<-chan struct{}]bool)
		store.Hook(double.Before(func(ctx context.Context, _ *double.Call) error {
			clocks[ctx.Done()] = true
			return nil
		}))
		h := handle(m, func(s *session.Session) { s.Get("k") })
		servers := [2]http.Server{}
		for i := range 100 {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, &servers[i%2]))
			r.Header.Set("Cookie", "session_id="+value)
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		running := 0
		for done := range clocks {
			select {
			case <-done:
			default:
				running++
			}
		}
		if running > 1 {
			t.Errorf("%d timers are running", running)
		}
		time.Sleep(time.Hour) // or the bubble does not end
	})
}

// Each step at the store ends its context, so that no timer of a step outlives it.
func TestStepsEnd(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	type step struct {
		doing string
		ctx   context.Context
	}
	var doing string
	var steps []step
	store.Hook(double.Before(func(ctx context.Context, c *double.Call) error {
		if ctx.Done() != t.Context().Done() { // else it is the caller's, who ends it
			steps = append(steps, step{doing + ": " + c.Op.String(), ctx})
		}
		return nil
	}, double.Load, double.Save, double.Touch, double.Delete, double.Count))
	v := newPlain(t, store, newOldSystem().options(session.Options{Locking: true}))
	ctx := t.Context()
	ok := func(_ any, err error) {
		if err != nil {
			t.Errorf("%s: %v", doing, err)
		}
	}
	var other, second *visitor
	for _, c := range []struct {
		doing string
		fn    func()
	}{
		{"a login", func() { v.login(); other = v.clone().fresh().login(); second = v.clone().fresh().login() }},
		{"a read", func() { v.visit(func(s *session.Session) { s.Get("k") }) }},
		{"a change", func() { v.visit(func(s *session.Session) { s.Set("k", 2) }) }},
		{"a save and a reload", func() {
			v.visit(func(s *session.Session) { s.Set("k", 3); ok(nil, s.Save(ctx)); ok(nil, s.Reload(ctx)) })
		}},
		{"a lock", func() {
			v.visit(func(s *session.Session) { ok(nil, s.Lock(ctx)); s.Set("k", 4); ok(nil, s.Unlock(ctx)) })
		}},
		{"a regeneration", func() { v.visit(func(s *session.Session) { s.Regenerate() }) }},
		{"a renewal", func() {
			ok(nil, v.m.Age(ctx, v.cookie.Value, 24*time.Hour))
			v.visit(func(s *session.Session) { s.Get("k") })
		}},
		{"Change", func() { ok(nil, v.m.Change(ctx, idOf(v), func(s *session.Session) { s.Set("k", 5) })) }},
		{"Do", func() {
			_, err := v.m.Do(ctx, v.cookie.Value, func(ctx context.Context) error {
				session.FromContext(ctx).Set("k", 6)
				return nil
			})
			ok(nil, err)
		}},
		{"a migration", func() { withTicket(t, v.m).visit(func(s *session.Session) { s.Get("k") }) }},
		{"Sessions", func() { ok(v.m.Sessions(ctx, session.OfUser("ann"))) }},
		{"End", func() { ok(nil, v.m.End(ctx, idOf(other))) }},
		{"a use of an ended session", func() { other.visit(func(s *session.Session) { s.Set("k", 7) }) }},
		{"EndSessions", func() { ok(v.m.EndSessions(ctx, session.OfUser("ann"))) }},
		{"a logout", func() { second.login(); second.visit((*session.Session).Destroy) }},
	} {
		doing, steps = c.doing, nil
		c.fn()
		if len(steps) == 0 {
			t.Errorf("%s: no step", doing)
		}
		for _, s := range steps {
			select {
			case <-s.ctx.Done():
			default:
				t.Errorf("%s: its context goes on", s.doing)
			}
		}
	}
}
