package session_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

const roles session.Key[[]string] = "roles"

// A session is read and changed by its ID, from another manager too, and its client sees that with the next request.
func TestChange(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		v := newPlain(t, newStore(t), &session.Options{SweepInterval: session.Never})
		operator := newPlain(t, v.store, &session.Options{SweepInterval: session.Never}).m
		v.visit(func(s *session.Session) { s.SetUser("ann"); roles.Set(s, []string{"reader"}); s.Set("old", 1) })
		id := v.id()
		before := inspect(t, v.m, id)
		err := operator.Change(t.Context(), id, func(s *session.Session) {
			if s.User() != "ann" || s.ID() != id || s.IsNew() || s.Changed() || !reflect.DeepEqual(s.Keys(), []string{"old", "roles"}) {
				t.Errorf("the session is %v", s)
			}
			roles.Update(s, func(r []string) []string { return append(r, "writer") })
			s.Delete("old")
			if err := s.Save(t.Context()); err != nil || !s.Changed() {
				t.Errorf("Save returns %v", err)
			}
			s.Set("late", true)
		})
		if err != nil {
			t.Fatal(err)
		}
		if after := inspect(t, v.m, id); after.Version != before.Version+2 || !after.Expires.Equal(before.Expires) || after.User != "ann" {
			t.Errorf("the record was %+v, and is %+v", before, after)
		}
		v.visit(func(s *session.Session) {
			if got, _ := roles.Get(s); !reflect.DeepEqual(got, []string{"reader", "writer"}) || s.Has("old") || !s.Has("late") {
				t.Errorf("the client's session is %v, with %v", s, got)
			}
		})
		seen := inspect(t, v.m, id).Version
		if err := operator.Change(t.Context(), id, func(s *session.Session) { roles.Get(s) }); err != nil {
			t.Errorf("reading: %v", err)
		}
		if got := inspect(t, v.m, id).Version; got != seen {
			t.Errorf("reading makes of version %d version %d", seen, got)
		}
		if err := operator.Change(t.Context(), id, (*session.Session).Destroy); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		if info := inspect(t, v.m, id); info.Kind != session.RecordTombstone || info.ByClient {
			t.Errorf("Destroy leaves %+v", info)
		}
		if list := userSessions(t, v.m); len(list) != 0 {
			t.Errorf("the user has %v", list)
		}
		for name, id := range map[string]session.ID{"an ended session": id, "none": {1}} {
			err := operator.Change(t.Context(), id, func(*session.Session) { t.Error("called for " + name) })
			if !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A change from outside meets requests of the session in the middle of what they do.
func TestChangeMeetsRequests(t *testing.T) {
	change := func(s *session.Session) { roles.Set(s, []string{"writer"}) }
	for _, test := range []struct {
		name    string
		request func(*session.Session)
		err     error // of Change
		roles   bool  // are as it wants them
	}{
		{"another value", func(s *session.Session) { s.Set("a", 1) }, nil, true},
		{"the same value", func(s *session.Session) { roles.Set(s, []string{"reader"}) }, nil, true},
		{"regeneration", func(s *session.Session) { s.Regenerate() }, nil, true},
		{"a logout", func(s *session.Session) { s.Destroy() }, session.ErrGone, false},
		{"another login", func(s *session.Session) { s.SetUser("bob") }, session.ErrGone, false},
		{"the end of the user's sessions", nil, session.ErrGone, false},
	} {
		eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
			v := newPlain(t, newStore(t), &session.Options{SweepInterval: session.Never, RenewInterval: session.Never})
			v.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
			id := v.id()
			err := v.m.Change(t.Context(), id, func(s *session.Session) {
				change(s)
				if test.request == nil {
					if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
						t.Error(err)
					}
					return
				}
				wantStatus(t, v.visit(test.request), http.StatusOK)
			})
			if !errors.Is(err, test.err) || test.err == nil && err != nil {
				t.Errorf("%s: Change returns %v, want %v", test.name, err, test.err)
			}
			v.visit(func(s *session.Session) {
				if got, _ := roles.Get(s); (len(got) == 1 && got[0] == "writer") != test.roles {
					t.Errorf("%s: the client's roles are %v", test.name, got)
				}
			})
		})
	}
}

// Changes from outside and by requests, of one value and at the same time, all count.
func TestChangeIsMerged(t *testing.T) {
	v := newPlain(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
	add := func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) }
	v.visit(add)
	id := v.id()
	other := newPlain(t, v.store, &session.Options{SweepInterval: session.Never}).m
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { wantStatus(t, v.clone().visit(add), http.StatusOK) })
		all.Go(func() {
			if err := other.Change(t.Context(), id, add); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	v.visit(func(s *session.Session) {
		if n, _ := hitCounter.Get(s); n != 41 {
			t.Errorf("%d changes count, want 41", n)
		}
	})
}

// A change from outside is no use of the session: it neither puts off its end, nor hides that it is used later.
func TestChangeIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPlain(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, RenewInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		id, begun := v.id(), time.Now()
		change := func() {
			if err := v.m.Change(t.Context(), id, func(s *session.Session) { s.Set("n", time.Now()) }); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		change()
		if info := inspect(t, v.m, id); !info.LastUsed.Equal(begun) || !info.Expires.Equal(begun.Add(15*time.Minute)) {
			t.Errorf("after a change the session was used at %v, and expires at %v", info.LastUsed, info.Expires)
		}
		time.Sleep(time.Second)
		v.visit(func(s *session.Session) { s.Get("k") })
		if info := inspect(t, v.m, id); !info.LastUsed.Equal(time.Now()) || !info.Expires.Equal(time.Now().Add(15*time.Minute)) {
			t.Errorf("once it is used, it was used at %v, and expires at %v", info.LastUsed, info.Expires)
		}
		time.Sleep(14 * time.Minute)
		change()
		time.Sleep(time.Minute)
		v.visit(func(s *session.Session) {
			if !s.WasUnknown() {
				t.Error("a change keeps the session alive")
			}
		})
	})
}

// Outside of a request some things are refused, and an encrypted session stays closed.
func TestChangeRefuses(t *testing.T) {
	store := session.NewMemoryStore()
	v := newPlain(t, store, nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	id := v.id()
	for name, do := range map[string]func(*session.Session){
		"SetUser":                 func(s *session.Session) { s.SetUser("ann") },
		"Regenerate":              func(s *session.Session) { s.Regenerate() },
		"what is no value":        func(s *session.Session) { s.Set("k", make(chan int)) },
		"what does not fit":       func(s *session.Session) { s.Set("k", make([]byte, 2<<20)) },
		"what does not come back": func(s *session.Session) { s.Set("k", errors.New("x")) },
	} {
		if err := v.m.Change(t.Context(), id, do); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	func() {
		defer func() { recover() }()
		v.m.Change(t.Context(), id, func(s *session.Session) { s.Set("k", 2); panic("now") })
	}()
	v.visit(func(s *session.Session) {
		if n, _ := session.Key[int]("k").Get(s); n != 1 || s.User() != "" {
			t.Errorf("the session has k=%d, and %q", n, s.User())
		}
	})
	sealed := newPlain(t, store, &session.Options{EncryptAtRest: true})
	sealed.visit(func(s *session.Session) { s.Set("k", 1) })
	for name, m := range map[string]*session.Manager{"with encryption": sealed.m, "without": v.m} {
		err := m.Change(t.Context(), sealed.id(), func(*session.Session) { t.Error("an encrypted session was opened") })
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := sealed.m.Change(t.Context(), id, func(*session.Session) {}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("one that is not encrypted, where they are: %v", err)
	}
	off := newManager(t, nil, &session.Options{Disabled: true})
	if err := off.Change(t.Context(), id, func(*session.Session) {}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("where sessions are switched off: %v", err)
	}
	if err := v.m.Change(t.Context(), id, func(s *session.Session) { s.Destroy(); s.Set("k", 2) }); !errors.Is(err, session.ErrHeaderSent) {
		t.Errorf("Set after Destroy: %v", err)
	}
	if n := recordCount(t, store); n != 2 {
		t.Errorf("the store has %d records, not two sessions of which one has ended", n)
	}
	broken := newPlain(t, double.New(store, double.Fail(errDown, double.Load)), nil)
	if err := broken.m.Change(t.Context(), id, func(*session.Session) {}); !errors.Is(err, errDown) {
		t.Errorf("at a store that is down: %v", err)
	}
}

// A lock that a change takes is given back, and events name the session.
func TestChangeUnderLock(t *testing.T) {
	var kinds []session.EventKind
	v := newPlain(t, session.NewMemoryStore(), &session.Options{Observer: func(_ context.Context, e session.Event) {
		if e.Kind != session.EventStore {
			kinds = append(kinds, e.Kind)
		}
	}})
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	id := v.id()
	for range 2 {
		err := v.m.Change(t.Context(), id, func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			s.Set("k", 2)
		})
		if err != nil {
			t.Error(err)
		}
	}
	kinds = nil
	v.m.Change(t.Context(), id, func(s *session.Session) {
		s.Set("k", 3)
		v.visit((*session.Session).Destroy)
	})
	if want := []session.EventKind{session.EventEnded, session.EventStaleWrite}; !reflect.DeepEqual(kinds, want) {
		t.Errorf("the events are %v, want %v", kinds, want)
	}
}

// A change leaves the session as long-lived as it is by then: its client may have used it meanwhile.
func TestChangeKeepsTouches(t *testing.T) {
	v := newPlain(t, session.NewMemoryStore(), &session.Options{RenewInterval: session.Never})
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	now, id := time.Now(), v.id()
	err := v.m.Change(t.Context(), id, func(s *session.Session) {
		s.Set("role", "admin")
		v.m.SetClock(func() time.Time { return now.Add(14 * time.Minute) })
		v.visit(func(s *session.Session) { s.Get("k") })
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := v.m.Inspect(t.Context(), id); err != nil || info.Expires.Sub(now) < 28*time.Minute {
		t.Errorf("it ends %v after the change, %v", info.Expires.Sub(now), err)
	}
}

// A caller keeps its token from one call to the next.
type caller struct {
	t     *testing.T
	m     *session.Manager
	token string
}

// do calls fn with the caller's session, and wants no error.
func (c *caller) do(fn func(s *session.Session)) {
	c.t.Helper()
	if err := c.try(func(ctx context.Context) error { fn(session.FromContext(ctx)); return nil }); err != nil {
		c.t.Errorf("Do returns %v", err)
	}
}

func (c *caller) try(fn func(context.Context) error) (err error) {
	c.token, err = c.m.Do(c.t.Context(), c.token, fn)
	return err
}

// A session's whole life goes by calls.
func TestDo(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		c := &caller{t: t, m: newManager(t, newStore(t), &session.Options{SweepInterval: session.Never})}
		c.do(func(s *session.Session) { s.Get("k") })
		if c.token != "" {
			t.Errorf("a session with nothing in it has the token %q", c.token)
		}
		c.do(func(s *session.Session) { s.Set("k", 1) })
		visitor := *c
		var id session.ID
		c.do(func(s *session.Session) {
			if id = s.ID(); !s.Has("k") {
				t.Errorf("the session is %v", s)
			}
		})
		if c.token != visitor.token || c.token == "" {
			t.Errorf("reading makes of the token %q %q", visitor.token, c.token)
		}
		c.do(func(s *session.Session) { s.SetUser("ann") })
		visitor.do(func(s *session.Session) {
			if !s.WasUnknown() || s.User() != "" {
				t.Errorf("the token from before the login leads to %v", s)
			}
		})
		if err := c.m.Change(t.Context(), id, func(s *session.Session) { s.Set("role", "writer") }); (err != nil) != encrypted {
			t.Error(err)
		}
		errNo := errors.New("no")
		err := c.try(func(ctx context.Context) error {
			s := c.m.FromContext(ctx)
			if list := userSessionsIn(t, c.m, ctx, "ann"); len(list) != 1 || !list[0].Current || list[0].ID != id {
				t.Errorf("the user has %v", list)
			}
			s.Set("k", 2)
			return fmt.Errorf("and so: %w", errNo)
		})
		if !errors.Is(err, errNo) {
			t.Errorf("Do returns %v", err)
		}
		c.do(func(s *session.Session) {
			if v, _ := s.Get("k"); v != int64(1) || s.User() != "ann" || s.Has("role") == encrypted {
				t.Errorf("after a call that failed, the value is %v in %v", v, s)
			}
			s.Destroy()
		})
		if c.token != "" {
			t.Errorf("after the end, the token is %q", c.token)
		}
	})
}

func userSessionsIn(t *testing.T, m *session.Manager, ctx context.Context, user string) []session.SessionInfo {
	t.Helper()
	list, err := m.Sessions(ctx, session.OfUser(user))
	if err != nil {
		t.Error(err)
	}
	return list
}

// A thousand calls of one session, in two processes, add to one value: none gets lost.
func TestDoInParallel(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		calls := 100
		if _, ok := store.(*session.MemoryStore); ok {
			calls = 1000
		}
		opts := &session.Options{SweepInterval: session.Never, StoreTimeout: time.Minute}
		a := &caller{t: t, m: newManager(t, store, opts)}
		a.do(func(s *session.Session) { s.SetUser("ann") })
		b := *a
		b.m = newManager(t, store, opts)
		var all sync.WaitGroup
		for i := range calls {
			c := *[]*caller{a, &b}[i%2]
			all.Go(func() { c.do(func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) }) })
		}
		all.Wait()
		a.do(func(s *session.Session) {
			if n, _ := hitCounter.Get(s); n != calls {
				t.Errorf("%d of %d changes count", n, calls)
			}
		})
	})
}

// A save by Save stays, and its token comes back, whatever the call ends with.
func TestDoAfterSave(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(*double.Store) error
		panics bool
	}{
		"error":        {end: func(*double.Store) error { return errDown }},
		"panic":        {end: func(*double.Store) error { panic(errDown) }, panics: true},
		"failed save":  {end: func(s *double.Store) error { s.Hook(double.Fail(errDown, double.Save)); return nil }},
		"all is saved": {end: func(*double.Store) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			c := &caller{t: t, m: newManager(t, store, nil)}
			var id session.ID
			call := func() (err error) {
				defer func() {
					if p := recover(); (p != nil) != test.panics {
						t.Errorf("panic %v", p)
					}
				}()
				return c.try(func(ctx context.Context) error {
					s := session.FromContext(ctx)
					s.Set("early", true)
					if err := s.Save(ctx); err != nil {
						t.Error(err)
					}
					id = s.ID()
					s.Set("late", true)
					return test.end(store)
				})
			}
			if err := call(); (err != nil) == (name == "all is saved") && !test.panics {
				t.Errorf("Do returns %v", err)
			}
			store.Hook()
			if test.panics {
				if c.token != "" {
					t.Errorf("the token is %q", c.token)
				}
				return
			}
			c.do(func(s *session.Session) {
				if s.ID() != id || !s.Has("early") || s.Has("late") != (name == "all is saved") {
					t.Errorf("the session is %v", s)
				}
			})
		})
	}
}

// A new session's token comes back while goroutines of the call still save.
func TestDoWhileGoroutinesSave(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), &session.Options{Logger: quiet, SweepInterval: session.Never})
	for range 20 {
		stop := make(chan struct{})
		var all, running sync.WaitGroup
		token, err := m.Do(t.Context(), "", func(ctx context.Context) error {
			s := session.FromContext(ctx)
			s.Set("k", 1)
			for range 16 {
				running.Add(1)
				all.Go(func() {
					for running.Done(); ; s.Save(ctx) {
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			running.Wait()
			return nil
		})
		close(stop)
		all.Wait()
		if token == "" || err != nil {
			t.Fatalf("Do returns %q, %v", token, err)
		}
	}
}

// A goroutine that goes on after a panic of its call saves nothing of that.
func TestDoPanicDropsChanges(t *testing.T) {
	c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), &session.Options{Logger: quiet})}
	c.do(func(s *session.Session) { s.Set("k", 1) })
	var kept *session.Session
	ctx, user := session.WithUser(t.Context())
	func() {
		defer func() { recover() }()
		c.m.Do(ctx, c.token, func(ctx context.Context) error {
			kept = session.FromContext(ctx)
			kept.Set("k", 2)
			kept.SetUser("bob")
			panic("now")
		})
	}()
	if err := kept.Save(t.Context()); err != nil || user() != "" {
		t.Errorf("Save returns %v, the user is %q", err, user())
	}
	c.do(func(s *session.Session) {
		if v, _ := s.Get("k"); v != int64(1) {
			t.Errorf("the value is %v", v)
		}
	})
}

// A long call keeps its session alive by saving, and learns from Reload that it has expired.
func TestDoKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})}
		c.do(func(s *session.Session) { s.SetUser("ann") })
		first := c.token
		if err := c.try(func(ctx context.Context) error {
			s := session.FromContext(ctx)
			for range 20 {
				time.Sleep(10 * time.Minute)
				s.ForceSave()
				if err := errors.Join(s.Save(ctx), s.Reload(ctx)); err != nil || s.User() != "ann" {
					t.Fatalf("after %v in %v: %v", err, s, time.Now())
				}
			}
			return nil
		}); err != nil || c.token == first {
			t.Errorf("Do returns %v; the token is another one: %v", err, c.token != first)
		}
		if err := c.try(func(ctx context.Context) error {
			s := session.FromContext(ctx)
			s.User()
			time.Sleep(time.Hour)
			if err := s.Reload(ctx); !errors.Is(err, session.ErrGone) || s.User() != "" {
				t.Errorf("of a session that has expired, Reload returns %v; the user is %q", err, s.User())
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// A session that begins late in a long call lives as long as any other.
func TestDoForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), &session.Options{AbsoluteTimeout: time.Hour, SweepInterval: session.Never})}
		c.do(func(s *session.Session) { s.Get("k"); time.Sleep(2 * time.Hour); s.Set("k", 1) })
		c.do(func(s *session.Session) {
			if age := time.Since(s.Created()); !s.Has("k") || age != 0 {
				t.Errorf("the session is %v, %v old", s, age)
			}
		})
	})
}

// A call that goes on after its session has expired is told so, and no other takes its place: what the call changes belongs to
// what it saw before. A login begins a session all the same.
func TestDoOutlivesItsSession(t *testing.T) {
	for name, test := range map[string]struct {
		late func(*session.Session)
		gone bool
		user string
	}{
		"reads":                {func(s *session.Session) { s.Get("k") }, false, ""},
		"changes":              {func(s *session.Session) { s.Set("k", 2) }, true, ""},
		"changes after a look": {func(s *session.Session) { s.Reload(t.Context()); s.Set("k", 2) }, true, ""},
		"saves and changes":    {func(s *session.Session) { s.Set("k", 2); s.Save(t.Context()); s.Set("l", 3) }, true, ""},
		"logs in":              {func(s *session.Session) { s.SetUser("bob") }, false, "bob"},
		"logs in after a look": {func(s *session.Session) { s.Reload(t.Context()); s.SetUser("bob") }, false, "bob"},
		"logs out":             {func(s *session.Session) { s.Destroy() }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := session.NewMemoryStore()
				c := &caller{t: t, m: newManager(t, store, &session.Options{SweepInterval: session.Never})}
				c.do(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
				err := c.try(func(ctx context.Context) error {
					s := session.FromContext(ctx)
					s.User()
					time.Sleep(time.Hour)
					test.late(s)
					return nil
				})
				if test.gone != errors.Is(err, session.ErrGone) || !test.gone && err != nil {
					t.Errorf("Do returns %v", err)
				}
				live := 0
				if test.user != "" {
					live = 1
				}
				if n, err := session.Count(t.Context(), store); n != live || err != nil {
					t.Errorf("%d sessions live (%v), want %d", n, err, live)
				}
				c.do(func(s *session.Session) { // whatever its token is worth, the next call is served
					if s.User() != test.user || s.Has("k") {
						t.Errorf("the next call has %v of %q", s, s.User())
					}
					s.Set("k", 4)
				})
			})
		})
	}
}

// A call of a session that ends meanwhile is told so, and leaves nothing behind.
func TestDoMeetsTheEnd(t *testing.T) {
	store := session.NewMemoryStore()
	c := &caller{t: t, m: newManager(t, store, nil)}
	c.do(func(s *session.Session) { s.SetUser("ann") })
	other := *c
	err := c.try(func(ctx context.Context) error {
		session.FromContext(ctx).Get("k")
		other.do(func(s *session.Session) { s.Destroy() })
		session.FromContext(ctx).Set("k", 1)
		return nil
	})
	if !errors.Is(err, session.ErrGone) {
		t.Errorf("Do returns %v", err)
	}
	if n, err := session.Count(t.Context(), store); n != 0 || err != nil {
		t.Errorf("%d sessions live (%v)", n, err)
	}
}

// Tokens are those of the header, and of no cookie.
func TestDoAndTokenHeader(t *testing.T) {
	n := newNative(t, session.NewMemoryStore(), session.Options{})
	n.visit(func(s *session.Session) { s.Set("k", 1) })
	c := &caller{t: t, m: n.m, token: n.token}
	c.do(func(s *session.Session) { s.SetUser("ann") })
	n.token = c.token
	n.visit(func(s *session.Session) {
		if s.User() != "ann" || !s.Has("k") {
			t.Errorf("the session is %v", s)
		}
	})
	v := &visitor{t: t, m: n.m}
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	for _, token := range []string{v.cookie.Value, "x", c.token + "x", " " + c.token} {
		c.token = token
		c.do(func(s *session.Session) {
			if s.Has("k") || s.WasUnknown() || !s.IsNew() {
				t.Errorf("%q leads to %v", token, s)
			}
		})
		if c.token != token { // as a refused cookie stays in a browser
			t.Errorf("the token is %q", c.token)
		}
	}
}

// Within a request, a call has a session of its own; and both can be told apart.
func TestDoWithinRequest(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	other := newManager(t, v.store, &session.Options{Cookie: session.Cookie{Name: "other"}})
	watched, user := session.WithUser(t.Context())
	v.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann")
		if _, err := v.m.Do(r.Context(), "", func(ctx context.Context) error {
			session.FromContext(ctx).SetUser("robot")
			return nil
		}); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(watched, http.MethodGet, "/", nil))
	if user() != "ann" {
		t.Errorf("the request's user is %q", user())
	}
	v.send(v.m, func(w http.ResponseWriter, r *http.Request) {
		outer := session.FromContext(r.Context())
		outer.Set("k", "request")
		c := &caller{t: t, m: v.m}
		err := c.try(func(ctx context.Context) error {
			inner := session.FromContext(ctx)
			if inner == outer || inner.Has("k") || v.m.FromContext(ctx) != inner {
				t.Errorf("the call's session is %v", inner)
			}
			inner.Set("k", "call")
			return nil
		})
		if err != nil || c.token == "" {
			t.Errorf("Do returns %q, %v", c.token, err)
		}
		c = &caller{t: t, m: other}
		if _, err := other.Do(r.Context(), "", func(ctx context.Context) error {
			if v.m.FromContext(ctx) != outer {
				t.Error("a call of another manager hides the request's session")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	v.visit(func(s *session.Session) {
		if got, _ := s.Get("k"); got != "request" {
			t.Errorf("the value is %v", got)
		}
	})
}

// A call gives its lock back, however it ends.
func TestDoLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), &session.Options{Locking: true, SweepInterval: session.Never})}
		c.do(func(s *session.Session) { s.Set("k", 1) })
		for _, end := range []func() error{func() error { return nil }, func() error { return errDown }, func() error { panic("stop") }} {
			func() {
				defer func() { recover() }()
				c.try(func(ctx context.Context) error { session.FromContext(ctx).Set("k", 2); return end() })
			}()
		}
		began := time.Now()
		c.do(func(s *session.Session) { s.Set("k", 3) })
		if d := time.Since(began); d > time.Second {
			t.Errorf("a call after others waited for %v", d)
		}
	})
}

// A call tells where its client is, and who was logged in; without a request there is nothing to bind to.
func TestDoClient(t *testing.T) {
	c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), nil)}
	ctx, user := session.WithUser(session.WithClient(t.Context(), netip.MustParseAddr("192.0.2.7"), "app/1.0"))
	token, err := c.m.Do(ctx, "", func(ctx context.Context) error {
		s := session.FromContext(ctx)
		s.SetUser("ann")
		return nil
	})
	if err != nil || user() != "ann" {
		t.Errorf("Do returns %v, for %q", err, user())
	}
	c.token = token
	c.do(func(s *session.Session) {
		if s.RemoteAddr() != "192.0.2.7" || s.UserAgent() != "app/1.0" {
			t.Errorf("the client is %q, %q", s.RemoteAddr(), s.UserAgent())
		}
	})
	c.do(func(s *session.Session) { s.Destroy() })
	c.do(func(s *session.Session) {
		if s.RemoteAddr() != "" || s.UserAgent() != "" {
			t.Errorf("a client that nobody named is %q, %q", s.RemoteAddr(), s.UserAgent())
		}
	})
	bound := newManager(t, session.NewMemoryStore(), &session.Options{Bind: session.BindUserAgent})
	if got, err := bound.Do(t.Context(), token, func(context.Context) error { t.Error("called"); return nil }); err == nil || got != token {
		t.Errorf("with Options.Bind, Do returns %v", err)
	}
}

// A context prints neither token nor values.
func TestDoContextPrintsNoSecrets(t *testing.T) {
	c := &caller{t: t, m: newManager(t, session.NewMemoryStore(), nil)}
	c.do(func(s *session.Session) { s.Set("k", "secret value") })
	if err := c.try(func(ctx context.Context) error {
		session.FromContext(ctx).Get("k")
		if got := fmt.Sprintf("%v %+v %#v", ctx, ctx, ctx); strings.ContainsAny(got, "{[") {
			t.Errorf("the context prints as %s", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A new key whose save was overtaken before its lost reply was made up for: the session goes on with both changes, under the
// cookie that the response has.
func TestNewKeyOvertaken(t *testing.T) {
	for name, change := range map[string]func(s *session.Session){
		"Regenerate": (*session.Session).Regenerate,
		"SetUser":    func(s *session.Session) { s.SetUser("bob") },
	} {
		t.Run(name, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			v, elsewhere := newPlain(t, store, &session.Options{Logger: quiet}), newPlain(t, store, nil).m
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			id := v.id()
			store.Hook(double.After(func(ctx context.Context, c *double.Call, err error) error {
				if c.ID != id || err != nil {
					return err
				}
				store.Hook()
				if err := elsewhere.Change(ctx, id, func(s *session.Session) { s.Set("other", 1) }); err != nil {
					t.Error(err)
				}
				return errDown
			}, double.Save))
			wantStatus(t, v.visit(func(s *session.Session) {
				change(s)
				if err := s.Save(t.Context()); err != nil || !s.Has("other") || s.ID() != id {
					t.Errorf("%v, the other change is there: %v; it is %v", err, s.Has("other"), s)
				}
				s.Set("late", 1)
			}), http.StatusOK)
			v.visit(func(s *session.Session) {
				if !s.Has("k") || !s.Has("other") || !s.Has("late") {
					t.Errorf("the cookie leads to %v", s)
				}
			})
		})
	}
}
