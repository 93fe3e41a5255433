package session_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

var (
	acme  = session.Label{Name: "tenant", Value: "acme"}
	other = session.Label{Name: "tenant", Value: "other"}
	sid   = session.Label{Name: "sid", Value: "1234"}
)

// users returns whose sessions are in a group, in ascending order.
func users(t *testing.T, m *session.Manager, g session.Group) string {
	t.Helper()
	list, err := m.Sessions(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.User)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// Sessions are listed and ended by their labels, across users, as by the user.
func TestLabels(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		v := newVisitor(t, newStore(t), &session.Options{SweepInterval: session.Never})
		login := func(user string, labels ...session.Label) *visitor {
			c := v.clone()
			c.visit(func(s *session.Session) { s.SetUser(user, labels...) })
			return c
		}
		ann, bob, eve := login("ann", acme, sid), login("bob", acme), login("eve", other)
		plain := login("ann")
		for g, want := range map[session.Group]string{
			session.OfUser("ann"): "ann ann", session.Labelled(acme): "ann bob", session.Labelled(other): "eve", session.Labelled(sid): "ann",
			session.Labelled(session.Label{Name: "tenant", Value: "nobody"}): "", session.Labelled(session.Label{Name: "sid", Value: "acme"}): "",
			session.OfUser(""): "", session.OfUser("acme"): "",
		} {
			if got := users(t, v.m, g); got != want {
				t.Errorf("%+v has %q, want %q", g, got, want)
			}
		}
		ann.visit(func(s *session.Session) {
			if got := s.Labels(); !slices.Equal(got, []session.Label{sid, acme}) {
				t.Errorf("the labels are %v", got)
			}
		})
		// one of a group, and no other
		handle := userSessionsIn(t, v.m, t.Context(), "eve")[0].Handle
		if n, err := v.m.EndSessions(t.Context(), session.Labelled(acme).One(handle)); n != 0 || !errors.Is(err, session.ErrNotFound) {
			t.Errorf("another tenant's session: %d, %v", n, err)
		}
		// the others of a group
		ann.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
			list, err := v.m.Sessions(r.Context(), session.Labelled(acme).Others())
			if len(list) != 1 || list[0].User != "bob" || err != nil {
				t.Errorf("the others are %v, %v", list, err)
			}
			if n, err := v.m.EndSessions(r.Context(), session.Labelled(acme).Others()); n != 1 || err != nil {
				t.Errorf("ended %d others, %v", n, err)
			}
		})
		for c, want := range map[*visitor]bool{ann: true, bob: false, eve: true, plain: true} {
			c.visit(func(s *session.Session) {
				if got := s.User() != ""; got != want {
					t.Errorf("%v lives: %v", s, got)
				}
			})
		}
		// all of them; the user's list knows, too
		if n, err := v.m.EndSessions(t.Context(), session.Labelled(sid)); n != 1 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
		if got := users(t, v.m, session.OfUser("ann")) + users(t, v.m, session.Labelled(acme)); got != "ann" {
			t.Errorf("afterwards there are %q", got)
		}
	})
}

// Labels are those of a login: another one brings others, the same ones keep the place, a logout drops them all.
func TestLabelsFollowLogins(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		v := newVisitor(t, newStore(t), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.SetUser("ann", acme, sid) })
		handle := userSessions(t, v.m)[0].Handle
		v.visit(func(s *session.Session) { s.SetUser("ann", sid, acme, sid) })
		if list := userSessions(t, v.m); len(list) != 1 || list[0].Handle != handle {
			t.Errorf("after the same login again there are %v", list)
		}
		v.visit(func(s *session.Session) { s.SetUser("ann", other) })
		if got := users(t, v.m, session.Labelled(acme)) + users(t, v.m, session.Labelled(sid)); got != "" {
			t.Errorf("the former labels have %q", got)
		}
		if n, err := v.m.EndSessions(t.Context(), session.Labelled(acme)); n != 0 || err != nil {
			t.Errorf("by a former label, %d end, %v", n, err)
		}
		v.visit(func(s *session.Session) { s.SetUser("bob", other) })
		if got := users(t, v.m, session.Labelled(other)) + users(t, v.m, session.OfUser("ann")); got != "bob" {
			t.Errorf("after another user's login there are %q", got)
		}
		v.visit(func(s *session.Session) {
			s.Destroy()
			s.SetUser("eve", acme)
		})
		if got := users(t, v.m, session.Labelled(other)) + users(t, v.m, session.Labelled(acme)); got != "eve" {
			t.Errorf("after a logout and a login there are %q", got)
		}
		v.visit(func(s *session.Session) { s.SetUser(""); s.Set("k", 1) })
		v.visit(func(s *session.Session) {
			if got := s.Labels(); len(got) != 0 || users(t, v.m, session.Labelled(acme)) != "" {
				t.Errorf("nobody has the labels %v", got)
			}
		})
	})
}

// A label that cannot be one is a mistake of the program.
func TestLabelsThatAreNone(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
	nine := make([]session.Label, 9)
	for i := range nine {
		nine[i] = session.Label{Name: "n", Value: fmt.Sprint(i)}
	}
	for name, set := range map[string]func(*session.Session){
		"nine":       func(s *session.Session) { s.SetUser("ann", nine...) },
		"nobody's":   func(s *session.Session) { s.SetUser("", acme) },
		"no name":    func(s *session.Session) { s.SetUser("ann", session.Label{Value: "v"}) },
		"no value":   func(s *session.Session) { s.SetUser("ann", session.Label{Name: "n"}) },
		"eight":      func(s *session.Session) { s.SetUser("ann", nine[:8]...) },
		"repetition": func(s *session.Session) { s.SetUser("ann", acme, acme) },
	} {
		want := http.StatusInternalServerError
		if name == "eight" || name == "repetition" {
			want = http.StatusOK
		}
		wantStatus(t, v.clone().visit(set), want)
	}
	// two labels are never joined to one that looks like both, nor is a user a label
	v.visit(func(s *session.Session) {
		s.SetUser("x", session.Label{Name: "a", Value: "b\x00c"}, session.Label{Name: "ab", Value: "c"})
	})
	for _, l := range []session.Label{{Name: "a\x00b", Value: "c"}, {Name: "a", Value: "bc"}, {Name: "abc", Value: ""}, {Name: "", Value: "abc"}} {
		if got := users(t, v.m, session.Labelled(l)); got != "" {
			t.Errorf("%q has %q", l, got)
		}
	}
}

// A login and the end of a label's sessions meet: whichever is first, nothing that was to end lives.
func TestLabelsEndReachesLoginsUnderWay(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{Logger: quiet})
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	before := v.clone()
	ended := false
	store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
		if c.ID == idOf(before) && !ended { // the indexes name the login, and its record is about to be saved
			ended = true
			if n, err := v.m.EndSessions(t.Context(), session.Labelled(acme)); n != 1 || err != nil {
				t.Errorf("ended %d, %v", n, err)
			}
		}
		return nil
	}, double.Save))
	wantStatus(t, v.visit(func(s *session.Session) { s.SetUser("ann", acme) }), http.StatusConflict)
	store.Hook()
	if !ended || users(t, v.m, session.OfUser("ann")) != "" {
		t.Errorf("ended: %v; ann has %q", ended, users(t, v.m, session.OfUser("ann")))
	}
}

// idOf returns the ID of the visitor's session.
func idOf(v *visitor) (id session.ID) {
	v.clone().visit(func(s *session.Session) { id = s.ID() })
	return id
}

// A renewal puts back what a label's list has lost, and ends what it says is to end.
func TestLabelsHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.SetUser("ann", acme, sid) })
		if err := v.store.Delete(t.Context(), v.m.IndexID(session.Labelled(acme))); err != nil {
			t.Fatal(err)
		}
		if got := users(t, v.m, session.Labelled(acme)); got != "" {
			t.Errorf("a list that is lost names %q", got)
		}
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Get("k") })
		if got := users(t, v.m, session.Labelled(acme)) + users(t, v.m, session.Labelled(sid)); got != "annann" {
			t.Errorf("after the renewal the lists name %q", got)
		}
		if err := v.store.Delete(t.Context(), v.m.IndexID(session.Labelled(acme))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n, err := v.m.EndSessions(t.Context(), session.Labelled(acme)); n != 0 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
		for range 2 { // the first one confirms the cookie; the second is a renewal, and finds that its label's sessions were ended
			time.Sleep(5 * time.Minute)
			v.visit(func(s *session.Session) { s.Set("k", 1) })
		}
		if got := users(t, v.m, session.OfUser("ann")); got != "" {
			t.Errorf("what was to end lives on: %q", got)
		}
	})
}

// Each label costs a look at a renewal, and a look and a save at a login.
func TestLabelsCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		count := func(do func(*session.Session)) [4]int {
			store.Calls()
			v.visit(do)
			return store.Calls()
		}
		var login, renewal [3][4]int
		for n, labels := range [][]session.Label{nil, {acme}, {other, sid}} {
			v.cookie = nil
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			login[n] = count(func(s *session.Session) { s.SetUser(fmt.Sprint("user ", n), labels...) })
			time.Sleep(5 * time.Minute)
			renewal[n] = count(func(s *session.Session) { s.Get("k") })
		}
		for n := 1; n < 3; n++ {
			if l, r := login[n], renewal[n]; r != [4]int{renewal[0][0] + n, renewal[0][1]} || l != [4]int{login[0][0] + n, login[0][1] + n} {
				t.Errorf("with %d labels a login makes the calls %v, a renewal %v; without, %v and %v", n, l, r, login[0], renewal[0])
			}
		}
	})
}
