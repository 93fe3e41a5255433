package session_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// userSessions returns the sessions of ann.
func userSessions(t *testing.T, m *session.Manager) []session.UserSession {
	t.Helper()
	list, err := m.UserSessions(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// login gives the visitor a session of ann's, with a value under "k".
func (v *visitor) login() *visitor {
	v.t.Helper()
	wantStatus(v.t, v.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }), http.StatusOK)
	return v
}

func TestSetUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) {
			if s.User() != "" || !s.AuthenticatedAt().IsZero() {
				t.Errorf("a new session belongs to %q since %v", s.User(), s.AuthenticatedAt())
			}
			s.Set("cart", 1)
		})
		anonymous := v.clone()
		time.Sleep(10 * time.Minute)
		loginAt := time.Now()
		v.visit(func(s *session.Session) { s.SetUser("ann") })
		time.Sleep(time.Minute)
		v.visit(func(s *session.Session) {
			if s.User() != "ann" || !s.AuthenticatedAt().Equal(loginAt) || !s.Created().Equal(loginAt) || !s.Has("cart") {
				t.Errorf("after login: %q, %v, %v", s.User(), s.AuthenticatedAt(), s)
			}
		})
		// Fixation: the cookie of before the login never reaches the session after it, not within the grace either.
		anonymous.visit(func(s *session.Session) {
			if s.User() != "" || s.Has("cart") {
				t.Error("the cookie of before the login leads to the session")
			}
		})
		v.visit(func(s *session.Session) { s.SetUser("") })
		v.visit(func(s *session.Session) {
			if s.User() != "" || !s.AuthenticatedAt().IsZero() || !s.Has("cart") || !s.Created().Equal(loginAt) {
				t.Errorf("after SetUser(\"\"): %q, %v, created %v", s.User(), s.AuthenticatedAt(), s.Created())
			}
		})
		if list := userSessions(t, v.m); len(list) != 0 {
			t.Errorf("ann still has %v", list)
		}
		// A session in which nobody is logged in, and nothing else is left, ends.
		nothing := v.clone().login()
		nothing.visit(func(s *session.Session) { s.Delete("k", "cart") })
		nothing.visit(func(s *session.Session) { s.SetUser("") })
		if nothing.cookie != nil || len(userSessions(t, v.m)) != 0 {
			t.Errorf("the cookie is %v, ann has %v", nothing.cookie, userSessions(t, v.m))
		}
	})
}

func TestUserSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		phone, laptop, desk := v.clone(), v.clone(), v.clone()
		start := time.Now()
		phone.login()
		time.Sleep(time.Minute)
		laptop.login()
		time.Sleep(time.Minute)
		desk.login()
		bob := v.clone()
		bob.visit(func(s *session.Session) { s.SetUser("bob") })

		time.Sleep(3 * time.Minute) // the phone's session is renewed, the laptop's soon
		phone.visit(func(s *session.Session) { s.Has("k") })
		var list []session.UserSession
		phone.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			var err error
			if list, err = v.m.UserSessions(r.Context(), "ann"); err != nil {
				t.Error(err)
			}
		})
		if len(list) != 3 || !list[0].Current || list[1].Current || list[2].Current {
			t.Fatalf("ann's sessions, seen from the phone: %+v", list)
		}
		got := list[0]
		if !got.Created.Equal(start) || !got.LastUsed.Equal(start.Add(5*time.Minute)) || got.RemoteAddr != "192.0.2.1" ||
			!got.Expires.Equal(start.Add(20*time.Minute)) {
			t.Errorf("the phone's session: %+v", got)
		}
		phone.visit(func(s *session.Session) {
			if s.ID() != got.ID {
				t.Errorf("the ID is %v, the list says %v", s.ID(), got.ID)
			}
		})

		// End one: by a handle that stays good over renewals.
		var laptops string
		for _, s := range list {
			if s.Created.Equal(start.Add(time.Minute)) {
				laptops = s.Handle
			}
		}
		if err := v.m.EndSession(t.Context(), "bob", laptops); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("bob ends ann's session: %v", err)
		}
		time.Sleep(time.Minute)
		old := laptop.clone()
		laptop.visit(func(s *session.Session) { s.Set("k", 2) })
		if old.cookie.Value == laptop.cookie.Value {
			t.Fatal("the laptop's session was not renewed")
		}
		if err := v.m.EndSession(t.Context(), "ann", laptops); err != nil {
			t.Error(err)
		}
		if laptop.alive() || old.alive() || !phone.alive() || !desk.alive() {
			t.Errorf("laptop %v %v, phone %v, desk %v", laptop.alive(), old.alive(), phone.alive(), desk.alive())
		}
		if err := v.m.EndSession(t.Context(), "ann", laptops); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("ended twice: %v", err)
		}

		// End all others, then all.
		laptop.cookie = nil
		laptop.login()
		phone.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			if n, err := v.m.EndOtherSessions(r.Context()); n != 2 || err != nil {
				t.Errorf("ended %d others, %v", n, err)
			}
		})
		if laptop.alive() || desk.alive() || !phone.alive() {
			t.Errorf("laptop %v, desk %v, phone %v", laptop.alive(), desk.alive(), phone.alive())
		}
		if n, err := v.m.EndUserSessions(t.Context(), "ann"); n != 1 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
		if phone.alive() || len(userSessions(t, v.m)) != 0 {
			t.Error("ann still has sessions")
		}
		bob.visit(func(s *session.Session) {
			if s.User() != "bob" {
				t.Error("bob was logged out")
			}
		})
	})
}

// Sessions that ended leave the list, by whatever way they ended.
func TestUserSessionsThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		expires, leaves, stays := v.clone().login(), v.clone().login(), v.clone().login()
		time.Sleep(14 * time.Minute)
		leaves.visit(func(s *session.Session) { s.Destroy() })
		stays.visit(func(s *session.Session) { s.Has("k") })
		if list := userSessions(t, v.m); len(list) != 2 {
			t.Errorf("after a logout: %+v", list)
		}
		time.Sleep(2 * time.Minute)
		if expires.alive() {
			t.Error("it did not expire")
		}
		if list := userSessions(t, v.m); len(list) != 1 {
			t.Errorf("after one expired: %+v", list)
		}
		// A regeneration keeps the session in the list, once.
		stays.visit(func(s *session.Session) { s.Regenerate() })
		if list := userSessions(t, v.m); len(list) != 1 {
			t.Errorf("after a regeneration: %+v", list)
		}
		if _, err := v.m.EndUserSessions(t.Context(), "ann"); err != nil || stays.alive() {
			t.Errorf("it is alive: %v, %v", stays.alive(), err)
		}
	})
}

func TestMaxSessionsPerUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{MaxSessionsPerUser: 2, SweepInterval: session.Never})
		var all []*visitor
		for i := range 4 {
			all = append(all, v.clone().login())
			time.Sleep(time.Second)
			if n := len(userSessions(t, v.m)); n != min(i+1, 2) {
				t.Errorf("after %d logins there are %d sessions", i+1, n)
			}
		}
		for i, c := range all {
			if c.alive() != (i >= 2) {
				t.Errorf("session %d: alive is %v", i, c.alive())
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			MaxSessionsPerUser: 2, RefuseNewSessions: true, SweepInterval: session.Never,
		})
		first, second, third := v.clone().login(), v.clone().login(), v.clone()
		third.visit(func(s *session.Session) { s.Set("cart", 1) })
		wantStatus(t, third.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }), http.StatusForbidden)
		third.visit(func(s *session.Session) {
			if s.User() != "" || !s.Has("cart") {
				t.Errorf("after the refusal: %q, %v", s.User(), s)
			}
		})
		if !first.alive() || !second.alive() || len(userSessions(t, v.m)) != 2 {
			t.Error("the others did not stay")
		}
		first.visit(func(s *session.Session) { s.Destroy() })
		wantStatus(t, third.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }), http.StatusOK)
		// Renewal and regeneration are no logins.
		time.Sleep(5 * time.Minute)
		wantStatus(t, third.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusOK)
		wantStatus(t, third.visit(func(s *session.Session) { s.Regenerate() }), http.StatusOK)
	})
}

// Who logs in again keeps the place among the user's sessions: it costs nobody a session, and ends none.
func TestLoginAgain(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{
				MaxSessionsPerUser: 2, RefuseNewSessions: refuse, SweepInterval: session.Never,
			})
			phone, laptop := v.clone().login(), v.clone().login()
			before := userSessions(t, v.m)
			time.Sleep(time.Minute)
			phone.login()
			if !phone.alive() || !laptop.alive() {
				t.Errorf("after the phone's second login: phone %v, laptop %v", phone.alive(), laptop.alive())
			}
			after := userSessions(t, v.m)
			if len(after) != 2 || after[0].Handle != before[0].Handle && after[0].Handle != before[1].Handle {
				t.Errorf("the list was %+v and is %+v", before, after)
			}
			// As when a password is changed.
			wantStatus(t, phone.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
				session.FromContext(r.Context()).SetUser("ann")
				if n, err := v.m.EndOtherSessions(r.Context()); n != 1 || err != nil {
					t.Errorf("ended %d others, %v", n, err)
				}
			}), http.StatusOK)
			if !phone.alive() || laptop.alive() {
				t.Errorf("after the others were ended: phone %v, laptop %v", phone.alive(), laptop.alive())
			}
		})
	}
}

// The limit counts sessions that are alive. One that expired costs none of them its place.
func TestMaxSessionsPerUserCountsTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{MaxSessionsPerUser: 2, SweepInterval: session.Never})
		stays := v.clone().login()
		time.Sleep(time.Second)
		expires := v.clone().login()
		for range 16 {
			time.Sleep(time.Minute)
			stays.visit(func(s *session.Session) { s.Set("k", 2) })
		}
		if expires.alive() {
			t.Fatal("the second session has not expired")
		}
		third := v.clone().login()
		if !stays.alive() || !third.alive() {
			t.Errorf("the first is alive: %v; the third: %v", stays.alive(), third.alive())
		}
	})
}

// Two logins with one cookie at the same time: one succeeds, and the other leaves nothing behind that counts.
func TestLoginTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			MaxSessionsPerUser: 2, RefuseNewSessions: true, SweepInterval: session.Never,
		})
		v.visit(func(s *session.Session) { s.Set("cart", 1) })
		first, second := v.clone(), v.clone()
		wantStatus(t, second.visit(func(s *session.Session) {
			s.SetUser("ann")
			first.login()
		}), http.StatusConflict)
		if list := userSessions(t, v.m); len(list) != 1 || !first.alive() {
			t.Errorf("ann's sessions: %v; the first is alive: %v", list, first.alive())
		}
		elsewhere := v.clone()
		elsewhere.cookie = nil
		elsewhere.login()
	})
}

// An end that a fault of the store interrupts is finished by the next call, which says so.
func TestEndSessionAgain(t *testing.T) {
	store := session.NewMemoryStore()
	v := newVisitor(t, store, nil).login()
	only := userSessions(t, v.m)[0]
	interrupted := newManager(t, &lateFailing{store, 1}, &session.Options{Logger: quiet})
	if err := interrupted.EndSession(t.Context(), "ann", only.Handle); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("EndSession at a store that fails: %v", err)
	}
	if !v.alive() {
		t.Fatal("the session has ended, so the store did not fail where it should have")
	}
	if err := v.m.EndSession(t.Context(), "ann", only.Handle); err != nil || v.alive() {
		t.Errorf("EndSession once more: %v; alive: %v", err, v.alive())
	}
	if err := v.m.EndSession(t.Context(), "ann", only.Handle); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("EndSession of what has ended: %v", err)
	}
}

// A lateFailing store fails all saves but the first few.
type lateFailing struct {
	session.Store
	saves int
}

func (f *lateFailing) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if f.saves--; f.saves < 0 {
		return errors.New("the store is down")
	}
	return f.Store.Save(ctx, id, rec)
}

// Two processes, each with a cache that may be a minute behind: who ends sessions misses none that began meanwhile.
func TestUserSessionsBehindCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, cached(store), &session.Options{SweepInterval: session.Never}).login()
		other := newManager(t, cached(store), &session.Options{SweepInterval: session.Never})
		list := func() int {
			list, err := other.UserSessions(t.Context(), "ann")
			if err != nil {
				t.Error(err)
			}
			return len(list)
		}
		if n := list(); n != 1 {
			t.Errorf("the other process sees %d sessions", n)
		}
		thief := v.clone()
		thief.cookie = nil
		thief.login()
		if n := list(); n != 2 {
			t.Errorf("after another login, the other process sees %d sessions", n)
		}
		thief.cookie = nil
		thief.login()
		owner := v.clone()
		owner.send(other, func(_ http.ResponseWriter, r *http.Request) {
			if n, err := other.EndOtherSessions(r.Context()); n != 2 || err != nil {
				t.Errorf("ended %d others, %v", n, err)
			}
		})
		time.Sleep(time.Minute) // for as long may the first process go by its cache
		if thief.alive() || !v.alive() {
			t.Errorf("the thief's session is alive: %v; the owner's: %v", thief.alive(), v.alive())
		}
		v.visit(func(s *session.Session) { s.Destroy() })
		if n := list(); n != 0 {
			t.Errorf("after the logout, the other process sees %d sessions", n)
		}
	})
}

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
		slow := &lateStore{Store: store, saves: 2, late: make(chan struct{})}
		late := newVisitor(t, slow, opts)
		var all sync.WaitGroup
		all.Go(func() { late.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }) })
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		first, second := v.clone().login(), v.clone().login()
		close(slow.late)
		all.Wait()
		if _, err := v.m.EndUserSessions(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		if first.alive() || second.alive() {
			t.Error("sessions of ann's are alive after all were ended")
		}
	})
}

// A lateStore delays one of its saves until late is closed, whatever the caller's patience: as a network may.
type lateStore struct {
	session.Store
	saves int // the one that is delayed, counted from 1
	late  chan struct{}
}

func (s *lateStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if s.saves--; s.saves == 0 {
		<-s.late
		ctx = context.WithoutCancel(ctx)
	}
	return s.Store.Save(ctx, id, rec)
}

// A request that outlives its session, and would renew it, takes no place among the user's sessions for it.
func TestEndedSessionTakesNoPlace(t *testing.T) {
	for name, before := range map[string]func(*session.Session){
		"ended":                   nil,
		"renewed, then ended":     func(s *session.Session) { s.Has("k") },
		"regenerated, then ended": func(s *session.Session) { s.Regenerate() },
	} {
		synctest.Test(t, func(t *testing.T) {
			opts := &session.Options{MaxSessionsPerUser: 1, SweepInterval: session.Never, Logger: quiet}
			v := newVisitor(t, session.NewMemoryStore(), opts)
			newcomer := v.clone()
			v.login()
			time.Sleep(5 * time.Minute)
			wantStatus(t, v.clone().visit(func(s *session.Session) {
				s.Has("k")
				if before != nil {
					v.visit(before)
				}
				v.visit(func(s *session.Session) { s.Destroy() })
				newcomer.login()
				s.Set("k", 2)
			}), http.StatusConflict)
			if !newcomer.alive() {
				t.Errorf("%s: it cost another session its life", name)
			}
		})
	}
}

// A session that is ended while a regeneration is at its second try has ended, as at any other time.
func TestEndWhileRegenerating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &meeting{Store: session.NewMemoryStore()}
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet}).login()
		time.Sleep(5 * time.Minute)
		other := v.clone()
		other.m = newManager(t, store.Store, nil)
		wantStatus(t, v.visit(func(s *session.Session) {
			s.Regenerate()
			old := s.ID()
			var next session.ID
			store.beforeSave = func(id session.ID, version uint64) {
				switch {
				case version == 0:
					next = id
				case id == old: // the other one renews it first
					other.visit(func(s *session.Session) { s.Set("k", 2) })
				case id == next:
					if n, err := other.m.EndUserSessions(t.Context(), "ann"); n != 1 || err != nil {
						t.Errorf("ended %d sessions, %v", n, err)
					}
				}
			}
		}), http.StatusConflict)
		store.beforeSave = nil
		if v.alive() || other.alive() {
			t.Error("the session is alive")
		}
	})
}

// A meeting is a store at which something happens before a save.
type meeting struct {
	session.Store
	beforeSave func(id session.ID, version uint64)
}

func (m *meeting) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if m.beforeSave != nil {
		m.beforeSave(id, rec.Version)
	}
	return m.Store.Save(ctx, id, rec)
}

// A damaged index is not taken for an empty one by who wants to know of all sessions. It is replaced, and those that it
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
		if list, err := v.m.UserSessions(t.Context(), "ann"); err == nil {
			t.Errorf("the garbage names %v", list)
		}
		if n, err := v.m.EndUserSessions(t.Context(), "ann"); n != 0 || err == nil {
			t.Errorf("ended %d sessions, %v", n, err)
		}
		v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			if n, err := v.m.EndOtherSessions(r.Context()); n != 0 || err == nil {
				t.Errorf("ended %d other sessions, %v", n, err)
			}
		})
		if err := v.m.EndSession(t.Context(), "ann", "1234"); err == nil || errors.Is(err, session.ErrNotFound) {
			t.Errorf("EndSession: %v", err)
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

// A user may have more sessions than can be ended in Options.StoreTimeout.
func TestEndManySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 300
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		login := func(m *session.Manager) int {
			return v.clone().send(m, func(_ http.ResponseWriter, r *http.Request) {
				session.FromContext(r.Context()).SetUser("ann")
			}).StatusCode
		}
		for range many {
			login(v.m)
		}
		slow := &distant{store, time.Millisecond}
		opts := &session.Options{StoreTimeout: 100 * time.Millisecond, MaxSessionsPerUser: 2, Logger: quiet, SweepInterval: session.Never}
		limited := newManager(t, slow, opts)
		if status := login(limited); status != http.StatusOK {
			t.Errorf("the login that makes room: %d", status)
		}
		if list := userSessions(t, v.m); len(list) != 2 {
			t.Errorf("%d sessions, want 2", len(list))
		}
		for range many {
			login(v.m)
		}
		cart := v.clone()
		cart.visit(func(s *session.Session) { s.Set("cart", 1) })
		if status := cart.send(limited, func(_ http.ResponseWriter, r *http.Request) {
			session.FromContext(r.Context()).SetUser("ann")
		}).StatusCode; status != http.StatusOK {
			t.Errorf("the login from a session that makes room: %d", status)
		}
		if list := userSessions(t, v.m); len(list) != 2 {
			t.Errorf("%d sessions, want 2", len(list))
		}
		for range many {
			login(v.m)
		}
		opts.MaxSessionsPerUser = 0
		m := newManager(t, slow, opts)
		if list, err := m.UserSessions(t.Context(), "ann"); err != nil || len(list) != many+2 {
			t.Errorf("%d sessions, %v", len(list), err)
		}
		if n, err := m.EndUserSessions(t.Context(), "ann"); n != many+2 || err != nil {
			t.Errorf("ended %d sessions, %v", n, err)
		}
		if list := userSessions(t, v.m); len(list) != 0 {
			t.Errorf("%d sessions are left", len(list))
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
	refusing := newManager(t, store, &session.Options{MaxSize: maxSize, RefuseNewSessions: true})
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

// A distant store takes that long for each call, or until the context is done.
type distant struct {
	session.Store
	latency time.Duration
}

func (s *distant) wait(ctx context.Context) error {
	select {
	case <-time.After(s.latency):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *distant) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if err := s.wait(ctx); err != nil {
		return session.Record{}, err
	}
	return s.Store.Load(ctx, id)
}

func (s *distant) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Store.Save(ctx, id, rec)
}

// A store that does not answer holds who asks for the list no longer than Options.StoreTimeout.
func TestUserSessionsWhileStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		newVisitor(t, store, &session.Options{SweepInterval: session.Never}).login()
		m := newManager(t, &distant{store, time.Hour}, &session.Options{SweepInterval: session.Never})
		start := time.Now()
		_, err := m.UserSessions(context.Background(), "ann")
		if d := time.Since(start); d != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", d, err)
		}
	})
}

// "Log out my other devices" does not look like success where it is not known who asks.
func TestEndOtherSessionsWhileStoreIsDown(t *testing.T) {
	store := &failing{Store: session.NewMemoryStore()}
	v := newVisitor(t, store, &session.Options{Logger: quiet}).login()
	store.load = errDown
	v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
		if n, err := v.m.EndOtherSessions(r.Context()); n != 0 || !errors.Is(err, errDown) {
			t.Errorf("ended %d sessions, %v", n, err)
		}
	})
}

// A session that is to end, though the store failed before it could, comes under no new ID.
func TestSessionThatIsToEnd(t *testing.T) {
	for name, do := range map[string]func(*session.Session){
		"renewal":      func(s *session.Session) { s.Has("k") },
		"regeneration": func(s *session.Session) { s.Regenerate() },
	} {
		synctest.Test(t, func(t *testing.T) {
			store := session.NewMemoryStore()
			v := newVisitor(t, store, &session.Options{SweepInterval: session.Never}).login()
			interrupted := newManager(t, &lateFailing{store, 1}, &session.Options{Logger: quiet, SweepInterval: session.Never})
			if _, err := interrupted.EndUserSessions(t.Context(), "ann"); err == nil {
				t.Fatal("the store did not fail")
			}
			before := v.clone()
			time.Sleep(5 * time.Minute)
			if v.visit(do); v.cookie != nil && v.cookie.Value != before.cookie.Value || v.alive() || before.alive() {
				t.Errorf("%s: the session lives on", name)
			}
		})
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
