package session_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/double"
)

// userSessions returns the sessions of ann.
func userSessions(t *testing.T, m *session.Manager) []session.SessionInfo {
	t.Helper()
	list, err := m.Sessions(t.Context(), session.OfUser("ann"))
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
		var list []session.SessionInfo
		phone.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			var err error
			if list, err = v.m.Sessions(r.Context(), session.OfUser("ann")); err != nil {
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
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("bob").One(laptops)); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("bob ends ann's session: %v", err)
		}
		time.Sleep(time.Minute)
		old := laptop.clone()
		laptop.visit(func(s *session.Session) { s.Set("k", 2) })
		if old.cookie.Value == laptop.cookie.Value {
			t.Fatal("the laptop's session was not renewed")
		}
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One(laptops)); err != nil {
			t.Error(err)
		}
		if laptop.alive() || old.alive() || !phone.alive() || !desk.alive() {
			t.Errorf("laptop %v %v, phone %v, desk %v", laptop.alive(), old.alive(), phone.alive(), desk.alive())
		}
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One(laptops)); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("ended twice: %v", err)
		}

		// End all others, then all.
		laptop.cookie = nil
		laptop.login()
		phone.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			if n, err := v.m.EndSessions(r.Context(), session.OfUser("ann").Others()); n != 2 || err != nil {
				t.Errorf("ended %d others, %v", n, err)
			}
		})
		if laptop.alive() || desk.alive() || !phone.alive() {
			t.Errorf("laptop %v, desk %v, phone %v", laptop.alive(), desk.alive(), phone.alive())
		}
		if n, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); n != 1 || err != nil {
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
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil || stays.alive() {
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

// A user who logs in again keeps the place among the user's sessions: it costs nobody a session, and ends none.
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
				if n, err := v.m.EndSessions(r.Context(), session.OfUser("ann").Others()); n != 1 || err != nil {
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

// Two clicks on "log in" at the same time: both succeed. The session of which the browser has lost the cookie makes room
// first.
func TestLoginTwiceAtOnce(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{
				MaxSessionsPerUser: 2, RefuseNewSessions: refuse, SweepInterval: session.Never,
			})
			elsewhere := v.clone().login()
			v.visit(func(s *session.Session) { s.Set("cart", 1) })
			first, second := v.clone(), v.clone()
			wantStatus(t, second.visit(func(s *session.Session) {
				s.SetUser("ann")
				s.Set("k", 2)
				first.login()
			}), http.StatusOK)
			if list := userSessions(t, v.m); len(list) != 2 {
				t.Errorf("ann's sessions: %v", list)
			}
			if !second.alive() || !elsewhere.alive() || first.alive() {
				t.Errorf("alive: the second %v, the one elsewhere %v, the first %v", second.alive(), elsewhere.alive(), first.alive())
			}
		})
	}
}

// Two clicks on "confirm your password" that meet different processes at the same time: both sessions that come of it are in
// the user's list, so that whoever ends them reaches both.
func TestConfirmTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never}).login()
		first, second := v.clone(), v.clone()
		first.m = newManager(t, store.Store, nil)
		wantStatus(t, second.visit(func(s *session.Session) {
			s.SetUser("ann")
			s.Set("k", 2)
			id := s.ID()
			store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
				if c.ID == id { // the index has been asked
					store.Hook()
					first.login()
				}
				return nil
			}, double.Save))
		}), http.StatusOK)
		if list := userSessions(t, v.m); len(list) != 2 || !first.alive() || !second.alive() {
			t.Errorf("ann's sessions: %v; alive: the first %v, the second %v", list, first.alive(), second.alive())
		}
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil || first.alive() || second.alive() {
			t.Errorf("after the end, alive: the first %v, the second %v; %v", first.alive(), second.alive(), err)
		}
	})
}

// "Confirm your password" meets a change and then another login in the same browser, in such a way that the user's list has
// forgotten the login before the record is seen to be another's: nobody has ended anything, and nobody is refused.
func TestConfirmWhileAnotherLogsIn(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, nil).login()
	id, list := idOf(v), v.m.IndexID(session.OfUser("ann"))
	elsewhere := func(use func(*session.Session)) *visitor {
		other := v.clone()
		other.m = newManager(t, store.Store, nil)
		wantStatus(t, other.visit(use), http.StatusOK)
		return other
	}
	before := func(op double.Op, id session.ID, do func()) {
		store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
			if c.ID == id {
				store.Hook()
				do()
			}
			return nil
		}, op))
	}
	confirms := v.clone()
	var bob *visitor
	before(double.Save, id, func() {
		elsewhere(func(s *session.Session) { s.Set("k", 2) })
		before(double.Load, list, func() { bob = elsewhere(func(s *session.Session) { s.SetUser("bob") }) })
	})
	wantStatus(t, confirms.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 3) }), http.StatusOK)
	if bob == nil || !bob.alive() || !confirms.alive() || users(t, v.m, session.OfUser("ann")) != "ann" {
		t.Errorf("bob's session %v; ann's are of %q", bob, users(t, v.m, session.OfUser("ann")))
	}
}

// For how long a straggler leaves the cookie of a login alone counts from when the session has its new key, however long
// the user's list took before.
func TestLoginThatTakesLong(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
	now := time.Now()
	m.SetClock(func() time.Time { return now })
	value, _ := begin(t, m)
	store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
		if c.ID == m.IndexID(session.OfUser("ann")) {
			now = now.Add(6 * time.Second)
		}
		return nil
	}, double.Save))
	if a := client.Ask(t.Context(), m, value, func(s *session.Session) { s.SetUser("ann") }); a.Status != http.StatusOK {
		t.Fatalf("the login: %v", a)
	}
	now = now.Add(time.Second)
	if a := client.Ask(t.Context(), m, value, func(s *session.Session) { s.Set("late", 1) }); a.Status != http.StatusConflict || a.Cookie != "" {
		t.Errorf("a straggler gets %v", a)
	}
}

// A dead cookie that stands before the client's own does not keep a session that the client has lost from making room.
func TestLostSessionBehindDeadCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: true, SweepInterval: session.Never})
		planted := v.clone()
		planted.visit(func(s *session.Session) { s.Set("k", 1) })
		if err := store.Delete(t.Context(), client.Parse(planted.cookie.Value).ID()); err != nil {
			t.Fatal(err)
		}
		v.visit(func(s *session.Session) { s.Set("cart", 1) })
		v.clone().login() // its answer is lost
		time.Sleep(time.Minute)
		wantStatus(t, serve(handle(v.m, func(s *session.Session) { s.SetUser("ann") }),
			"session_id="+planted.cookie.Value+"; session_id="+v.cookie.Value), http.StatusOK)
	})
}

// A login of which only the list knows, since the store answered too late, does not keep the next one out.
func TestLoginAfterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{
			MaxSessionsPerUser: 1, RefuseNewSessions: true, SweepInterval: session.Never, Logger: quiet,
		})
		store.Hook(double.After(func(ctx context.Context, c *double.Call, err error) error {
			if c.ID == v.m.IndexID(session.OfUser("ann")) { // it comes too late
				store.Hook()
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		}, double.Save))
		login := func(s *session.Session) { s.SetUser("ann") }
		wantStatus(t, v.visit(login), http.StatusServiceUnavailable)
		store.Hook()
		wantStatus(t, v.visit(login), http.StatusOK)
	})
}

// An end that a fault of the store interrupts is finished by the next call, which says so.
func TestEndSessionAgain(t *testing.T) {
	store := session.NewMemoryStore()
	v := newVisitor(t, store, nil).login()
	only := userSessions(t, v.m)[0]
	interrupted := newManager(t, double.New(store, double.Die(1, double.Save)), &session.Options{Logger: quiet})
	if _, err := interrupted.EndSessions(t.Context(), session.OfUser("ann").One(only.Handle)); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("EndSessions at a store that fails: %v", err)
	}
	if !v.alive() {
		t.Fatal("the session has ended, so the store did not fail where it should have")
	}
	if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One(only.Handle)); err != nil || v.alive() {
		t.Errorf("EndSessions once more: %v; alive: %v", err, v.alive())
	}
	if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One(only.Handle)); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("EndSessions of what has ended: %v", err)
	}
}

// Two processes, each with a cache that may be a minute behind: an end of sessions misses none that began meanwhile.
func TestUserSessionsBehindCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, cached(store), &session.Options{SweepInterval: session.Never}).login()
		other := newManager(t, cached(store), &session.Options{SweepInterval: session.Never})
		list := func() int {
			list, err := other.Sessions(t.Context(), session.OfUser("ann"))
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
			if n, err := other.EndSessions(r.Context(), session.OfUser("ann").Others()); n != 2 || err != nil {
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

// A session that is ended while a regeneration is at its second try has ended, as at any other time.
func TestEndWhileRegenerating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet}).login()
		time.Sleep(5 * time.Minute)
		other := v.clone()
		other.m = newManager(t, store.Store, nil)
		tries := 0
		wantStatus(t, v.visit(func(s *session.Session) {
			s.Regenerate()
			id := s.ID()
			store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
				if c.ID != id {
					return nil
				}
				switch tries++; tries {
				case 1: // the other one renews it first
					other.visit(func(s *session.Session) { s.Set("k", 2) })
				case 2:
					if n, err := other.m.EndSessions(t.Context(), session.OfUser("ann")); n != 1 || err != nil {
						t.Errorf("ended %d sessions, %v", n, err)
					}
				}
				return nil
			}, double.Save))
		}), http.StatusConflict)
		store.Hook()
		if tries != 2 || v.alive() || other.alive() {
			t.Errorf("after %d tries the session is alive", tries)
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
		slow := double.New(store, double.Slow(time.Millisecond))
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
		if list, err := m.Sessions(t.Context(), session.OfUser("ann")); err != nil || len(list) != many+2 {
			t.Errorf("%d sessions, %v", len(list), err)
		}
		if n, err := m.EndSessions(t.Context(), session.OfUser("ann")); n != many+2 || err != nil {
			t.Errorf("ended %d sessions, %v", n, err)
		}
		if list := userSessions(t, v.m); len(list) != 0 {
			t.Errorf("%d sessions are left", len(list))
		}
	})
}

// A store that does not answer holds who asks for the list no longer than Options.StoreTimeout.
func TestUserSessionsWhileStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		newVisitor(t, store, &session.Options{SweepInterval: session.Never}).login()
		m := newManager(t, double.New(store, double.Slow(time.Hour)), &session.Options{SweepInterval: session.Never})
		start := time.Now()
		_, err := m.Sessions(context.Background(), session.OfUser("ann"))
		if d := time.Since(start); d != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", d, err)
		}
	})
}

// "Log out my other devices" does not look like success where it is not known who asks.
func TestEndOtherSessionsWhileStoreIsDown(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{Logger: quiet}).login()
	store.Hook(double.Fail(errDown, double.Load))
	v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
		if n, err := v.m.EndSessions(r.Context(), session.OfUser("ann").Others()); n != 0 || !errors.Is(err, errDown) {
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
			interrupted := newManager(t, double.New(store, double.Die(1, double.Save)), &session.Options{Logger: quiet, SweepInterval: session.Never})
			if _, err := interrupted.EndSessions(t.Context(), session.OfUser("ann")); err == nil {
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

// Nobody is locked out by a session that ended or was given another key, on any store: whatever was lost on the way, the
// next login works at once.
func TestNextLoginWorks(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
		eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
			testNextLoginWorks(t, newStore, newVisitor)
		})
	})
}

func testNextLoginWorks(t *testing.T, newStore func(*testing.T) session.Store, newVisitor visitors) {
	for _, encrypt := range []bool{false, true} {
		v := newVisitor(t, newStore(t), &session.Options{EncryptAtRest: encrypt, SweepInterval: session.Never})
		cart := func() *visitor {
			c := v.clone()
			c.cookie = nil
			c.visit(func(s *session.Session) { s.Set("cart", 1) })
			return c
		}
		login := func(name string, c *visitor) {
			t.Helper()
			res := c.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
			if res.StatusCode != http.StatusOK || !c.alive() {
				t.Errorf("%s: %s, alive: %v", name, res.Status, c.alive())
			}
		}

		browser := cart()
		other := browser.clone()
		res := browser.visit(func(s *session.Session) { // two clicks at once
			s.SetUser("ann")
			s.Set("k", 1)
			login("the second click", other)
		})
		if res.StatusCode != http.StatusOK || !browser.alive() || !other.alive() {
			t.Errorf("the first click: %s, alive: %v, the second: %v", res.Status, browser.alive(), other.alive())
		}

		browser = cart()
		login("an answer that is lost", browser.clone())
		login("after it", browser)

		phone, laptop := cart(), cart()
		login("phone", phone)
		login("laptop", laptop)
		phone.send(phone.m, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := phone.m.EndSessions(r.Context(), session.OfUser("ann").Others()); err != nil {
				t.Errorf("ending the others: %v", err)
			}
		})
		wantStatus(t, laptop.clone().visit(func(s *session.Session) {
			if s.User() != "" || s.Has("k") {
				t.Errorf("what was ended elsewhere is %v", s)
			}
			s.Set("form", 1) // a login page may make one
		}), http.StatusOK)
		login("ended elsewhere", laptop)

		login("again", laptop)
		wantStatus(t, laptop.clone().visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
		login("after a logout whose answer is lost", laptop)
	}
}

// Ending the sessions of a user goes on where one of them is out of reach, says so, and lists what still lives.
func TestEndGoesOnAfterOneThatIsOutOfReach(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
	var devices []*visitor
	for range 4 {
		devices = append(devices, v.clone().login())
	}
	dead := devices[1].id()
	store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
		if c.ID == dead {
			return errDown
		}
		return nil
	}, double.Load))
	if list, err := v.m.Sessions(t.Context(), session.OfUser("ann")); len(list) != 3 || !errors.Is(err, errDown) ||
		slices.ContainsFunc(list, func(s session.SessionInfo) bool { return s.ID == dead }) {
		t.Errorf("what can be reached is listed as %v, %v", list, err)
	}
	if n, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); n != 4 || !errors.Is(err, errDown) {
		t.Errorf("ended %d, %v", n, err)
	}
	store.Hook()
	for i, d := range devices {
		if d.alive() != (i == 1) {
			t.Errorf("device %d is alive: %v", i, d.alive())
		}
	}
	if list := userSessions(t, v.m); len(list) != 1 || list[0].ID != devices[1].id() {
		t.Errorf("what still lives is listed as %v", list)
	}
	if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil || devices[1].alive() {
		t.Errorf("once more: %v", err)
	}
}

// Nobody is kept from logging in by a session that is out of reach, unless it has to make room.
func TestLoginDespiteOneThatIsOutOfReach(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
	var late time.Duration
	v.m.SetClock(func() time.Time { return time.Now().Add(late) })
	first := v.clone().login()
	dead := first.id()
	late = 10 * time.Minute // from now on it is looked at
	var looks atomic.Int32
	store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
		if c.ID == dead {
			looks.Add(1)
			return errDown
		}
		return nil
	}, double.Load))
	second := v.clone().login()
	if !second.alive() || looks.Load() != 1 {
		t.Errorf("the second is alive: %v, after %d looks", second.alive(), looks.Load())
	}
	store.Hook()
	if list := userSessions(t, v.m); len(list) != 2 || !first.alive() {
		t.Errorf("the sessions are %v", list)
	}
}

// Middleware that asks WithUser does not hide the answer from what is around it.
func TestWithUserNests(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	var users []string
	logged := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, user := session.WithUser(r.Context())
			next.ServeHTTP(w, r.WithContext(ctx))
			users = append(users, user())
		})
	}
	serve(logged(logged(handle(m, func(s *session.Session) { s.SetUser("ann") }))))
	if !slices.Equal(users, []string{"ann", "ann"}) {
		t.Errorf("the logs name %q", users)
	}
}

// An access log around the manager names who is logged in, without a store call of its own.
func TestWithUser(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	ask := func(h http.Handler, use func(*session.Session)) string {
		t.Helper()
		user := ""
		logged := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, who := session.WithUser(r.Context())
			defer func() {
				user = who()
				recover()
			}()
			h.ServeHTTP(w, r.WithContext(context.WithValue(ctx, useKey{}, use)))
		})
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if v.cookie != nil {
			r.AddCookie(&http.Cookie{Name: v.cookie.Name, Value: v.cookie.Value})
		}
		w := httptest.NewRecorder()
		logged.ServeHTTP(w, r)
		if cookies := w.Result().Cookies(); len(cookies) > 0 {
			v.cookie = cookies[0]
		}
		return user
	}
	used := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(useKey{}).(func(*session.Session))(v.m.FromContext(r.Context()))
	})
	h := v.m.Handler(used)
	for _, step := range []struct {
		name, want string
		h          http.Handler
		use        func(*session.Session)
	}{
		{"nobody", "", h, func(s *session.Session) { s.Set("k", 1) }},
		{"a login", "ann", h, func(s *session.Session) { s.SetUser("ann") }},
		{"a request", "ann", h, func(s *session.Session) { s.Get("k") }},
		{"a request that does not use it", "", h, func(*session.Session) {}},
		{"a panic", "ann", h, func(s *session.Session) { s.SetUser("bob"); panic("now") }},
		{"a login that fails", "ann", h, func(s *session.Session) { s.SetUser("bob"); s.Set("k", make(chan int)) }},
		{"within a time limit", "ann", http.TimeoutHandler(h, time.Minute, ""), func(s *session.Session) { s.Get("k") }},
		{"another manager around", "ann", otherManager(t).Handler(h), func(s *session.Session) { s.Get("k") }},
		{"another manager within", "ann", v.m.Handler(otherManager(t).Handler(used)), func(s *session.Session) { s.Get("k") }},
		{"another login", "bob", h, func(s *session.Session) { s.SetUser("bob") }},
		{"a logout", "bob", h, func(s *session.Session) { s.Destroy() }},
		{"nobody again", "", h, func(s *session.Session) { s.Get("k") }},
	} {
		if got := ask(step.h, step.use); got != step.want {
			t.Errorf("%s: the user is %q, want %q", step.name, got, step.want)
		}
	}
	if _, who := session.WithUser(t.Context()); who() != "" {
		t.Errorf("without a manager, the user is %q", who())
	}
}

type useKey struct{}

func otherManager(t *testing.T) *session.Manager {
	t.Helper()
	return newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "other"}})
}
