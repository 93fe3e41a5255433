package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// Dead entries leave the index, even behind many sessions that live long.
func TestIndexStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{AbsoluteTimeout: session.Never, SweepInterval: session.Never})
		for range 10 {
			v.clone().visit(func(s *session.Session) { s.SetUser("ann"); s.SetIdleTimeout(session.Never) })
		}
		largest := func() (n int) {
			for e := range store.List(t.Context()) {
				n = max(n, len(e.Record.Data))
			}
			return n
		}
		small := largest()
		for range 500 {
			v.clone().login()
			time.Sleep(time.Hour)
		}
		if n := largest(); n > 10*small {
			t.Errorf("after 500 sessions that expired, the index of ten that live takes %d bytes, and %d before them", n, small)
		}
	})
}

// A write to the index that comes very late conflicts, though the index was empty and forgotten meanwhile.
func TestLateIndexWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		opts := &session.Options{SweepInterval: session.Never, Logger: quiet}
		v := newVisitor(t, store, opts)
		v.clone().login().visit(func(s *session.Session) { s.Destroy() }) // version 2 of the index, which is empty
		release := make(chan struct{})
		slow := double.New(store, double.Nth(2, double.Late(release), double.Save))
		late := newVisitor(t, slow, opts)
		var all sync.WaitGroup
		all.Go(func() { late.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }) })
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		first, second := v.clone().login(), v.clone().login()
		close(release)
		all.Wait()
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
			t.Fatal(err)
		}
		if first.alive() || second.alive() {
			t.Error("sessions of ann's are alive after all were ended")
		}
	})
}

// A request that outlives its session, and would renew it, takes no place among the user's sessions for it.
func TestEndedSessionTakesNoPlace(t *testing.T) {
	end := func(s *session.Session) { s.Destroy() }
	for name, steps := range map[string][]func(*session.Session){
		"ended":                      {end},
		"renewed, then ended":        {func(s *session.Session) { s.Has("k") }, end},
		"regenerated, then ended":    {func(s *session.Session) { s.Regenerate() }, end},
		"another user's by now":      {func(s *session.Session) { s.SetUser("bob") }},
		"nobody's, with a new login": {end, func(s *session.Session) { s.SetUser("bob") }},
	} {
		synctest.Test(t, func(t *testing.T) {
			opts := &session.Options{MaxSessionsPerUser: 1, SweepInterval: session.Never, Logger: quiet}
			v := newVisitor(t, session.NewMemoryStore(), opts)
			newcomer := v.clone()
			v.login()
			time.Sleep(5 * time.Minute)
			wantStatus(t, v.clone().visit(func(s *session.Session) {
				s.Has("k")
				for _, step := range steps {
					v.visit(step)
				}
				newcomer.login()
				s.Set("k", 2)
			}), http.StatusConflict)
			if !newcomer.alive() {
				t.Errorf("%s: it cost another session its life", name)
			}
		})
	}
}

// A damaged index is reported, lest it be mistaken for an empty one. It is replaced, and those that it
// named come back to it with their renewal.
func TestIndexHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)}).login()
		garbage := func(but ...session.ID) {
			t.Helper()
			for e := range store.List(t.Context()) {
				if !slices.Contains(but, e.ID) {
					e.Record.Data = []byte("garbage")
					if err := store.Save(t.Context(), e.ID, e.Record); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		garbage(userSessions(t, v.m)[0].ID)
		if list, err := v.m.Sessions(t.Context(), session.OfUser("ann")); err == nil {
			t.Errorf("the garbage names %v", list)
		}
		if n, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); n != 0 || err == nil {
			t.Errorf("ended %d sessions, %v", n, err)
		}
		v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			if n, err := v.m.EndSessions(r.Context(), session.OfUser("ann").Others()); n != 0 || err == nil {
				t.Errorf("ended %d other sessions, %v", n, err)
			}
		})
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One("1234")); err == nil || errors.Is(err, session.ErrNotFound) {
			t.Errorf("EndSessions of one: %v", err)
		}
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		if list := userSessions(t, v.m); len(list) != 1 {
			t.Errorf("after the renewal there are %v", list)
		}
		mine := userSessions(t, v.m)[0].ID
		garbage(mine)
		if err := v.m.End(t.Context(), mine); err != nil || v.alive() {
			t.Errorf("End of one session: %v", err)
		}
	})
}

// However often a user logs in, the list of the sessions stays within Options.MaxSize.
func TestIndexStaysWithinMaxSize(t *testing.T) {
	const maxSize = 4 << 10
	store := session.NewMemoryStore()
	v := newVisitor(t, store, &session.Options{MaxSize: maxSize})
	var last *visitor
	for range 100 {
		last = newVisitor(t, store, nil)
		last.m = v.m
		last.login()
	}
	for e := range store.List(t.Context()) {
		if len(e.Record.Data) > maxSize {
			t.Errorf("there is a record of %d bytes", len(e.Record.Data))
		}
	}
	if list := userSessions(t, v.m); len(list) < 10 || len(list) > 50 || !last.alive() {
		t.Errorf("%d sessions, the last one alive: %v", len(list), last.alive())
	}
	refusing := newManager(t, store, &session.Options{MaxSize: maxSize, MaxSessionsPerUser: 1000, RefuseNewSessions: true})
	for n := 0; ; n++ {
		res := v.clone().send(refusing, func(_ http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).SetUser("ann") })
		if res.StatusCode == http.StatusForbidden {
			break
		}
		if wantStatus(t, res, http.StatusOK); n > 50 {
			t.Fatal("no login is refused")
		}
	}
	if !last.alive() {
		t.Error("a login that was refused ended another session")
	}
}

// The list of a user's sessions stays for as long as one of them can, whatever the use that keeps it alive.
func TestIndexOutlivesItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			RenewInterval: session.Never, AbsoluteTimeout: 3 * time.Hour, SweepInterval: session.Never,
		})
		v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			r.Header.Set("User-Agent", "test/1")
			session.FromContext(r.Context()).SetUser("ann")
		})
		for range 17 { // 170 minutes
			time.Sleep(10 * time.Minute)
			v.visit(func(s *session.Session) { s.Has("k") })
			if list := userSessions(t, v.m); len(list) != 1 || list[0].UserAgent != "test/1" {
				t.Fatalf("the list is %+v", list)
			}
		}
	})
}

// Ten times as many sessions of a user cost ten times as much: a login beyond the limit, a list, the end of all.
func BenchmarkManySessions(b *testing.B) {
	for _, n := range []int{300, 3000} {
		newManager := func(store session.Store, limit int) *session.Manager {
			m, err := session.New(store, secretOf('s'), &session.Options{MaxSessionsPerUser: limit, SweepInterval: session.Never})
			if err != nil {
				b.Fatal(err)
			}
			return m
		}
		login := func(s *session.Session) { s.SetUser("ann") }
		store := session.NewMemoryStore()
		m := newManager(store, 0)
		for range n {
			serve(handle(m, login))
		}
		full := copyStore(b, store)
		for _, bm := range []struct {
			name string
			do   func(store session.Store, m *session.Manager) error
		}{
			{"login", func(_ session.Store, m *session.Manager) error { serve(handle(m, login)); return nil }},
			{"limit", func(store session.Store, _ *session.Manager) error {
				serve(handle(newManager(store, n/2), login))
				return nil
			}},
			{"list", func(_ session.Store, m *session.Manager) error {
				_, err := m.Sessions(b.Context(), session.OfUser("ann"))
				return err
			}},
			{"end", func(_ session.Store, m *session.Manager) error {
				_, err := m.EndSessions(b.Context(), session.OfUser("ann"))
				return err
			}},
		} {
			b.Run(fmt.Sprintf("%s/%d", bm.name, n), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					store := full()
					m := newManager(store, 0)
					b.StartTimer()
					if err := bm.do(store, m); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// copyStore returns a function that makes a store with what is in one now.
func copyStore(tb testing.TB, from session.Store) func() session.Store {
	var entries []session.Entry
	for e, err := range session.List(tb.Context(), from) {
		if err != nil {
			tb.Fatal(err)
		}
		entries = append(entries, e)
	}
	return func() session.Store {
		to := session.NewMemoryStore()
		for _, e := range entries {
			e.Record.Version = 0
			if err := to.Save(tb.Context(), e.ID, e.Record); err != nil {
				tb.Fatal(err)
			}
		}
		return to
	}
}

// A slow login that comes to nothing, since another one has logged in meanwhile, takes nothing out of the user's list.
func TestLoginThatComesToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, AbsoluteTimeout: session.Never})
		v.visit(func(s *session.Session) { s.SetUser("bob") })
		slow, other := v.clone(), v.clone()
		slow.visit(func(s *session.Session) {
			s.User()
			other.visit(func(s *session.Session) { s.SetUser("ann") })
			time.Sleep(10 * time.Minute)
			s.SetUser("ann")
		})
		if list := userSessions(t, v.m); len(list) != 2 {
			t.Errorf("ann has %d sessions in the list: %v", len(list), list)
		}
	})
}

// A login whose answer from the list was lost, and which another login has replaced meanwhile, does not take the place back.
func TestLoginReplacedBeforeTheAnswer(t *testing.T) {
	store := session.NewMemoryStore()
	opts := &session.Options{MaxSessionsPerUser: 1, SweepInterval: session.Never, Logger: quiet}
	slow := double.New(store)
	first, second := newVisitor(t, slow, opts), newVisitor(t, store, opts)
	list, lost := first.m.IndexID(session.OfUser("ann")), false
	slow.Hook(func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
		err := next(ctx)
		if c.Op != double.Save || c.ID != list || err != nil || lost {
			return err
		}
		lost = true
		second.login()
		return errDown
	})
	first.visit(func(s *session.Session) { s.SetUser("ann") })
	if !lost || first.alive() || !second.alive() || len(userSessions(t, first.m)) != 1 {
		t.Errorf("the first lives: %v, the second: %v, listed are %d", first.alive(), second.alive(), len(userSessions(t, first.m)))
	}
}
