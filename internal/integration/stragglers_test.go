package integration_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/double"
	"example.com/session/internal/interleave"
)

// A login that the index names already, as one that is there again, gets in though its client logs out, or becomes
// another user, just before it is saved. One that was to end with all others does not.
func TestLoginMeetsLogout(t *testing.T) {
	for name, test := range map[string]struct {
		user   string // who was logged in
		before func(ctx context.Context, m *session.Manager, cookie string)
		status int
		lives  int
	}{
		"end of all, of another user's session": {"bob", func(ctx context.Context, m *session.Manager, _ string) {
			if _, err := m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, http.StatusConflict, 0},
		"end of all, of nobody's session": {"", func(ctx context.Context, m *session.Manager, _ string) {
			if _, err := m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, http.StatusConflict, 0},
		"login": {"ann", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.SetUser("ann") })
		}, http.StatusOK, 2},
		"login of a visitor": {"", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.SetUser("ann") })
		}, http.StatusOK, 2},
		"logout": {"ann", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.Destroy() })
		}, http.StatusOK, 1},
		"another user": {"ann", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.SetUser("bob") })
		}, http.StatusOK, 1},
		"end of all": {"ann", func(ctx context.Context, m *session.Manager, _ string) {
			if _, err := m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, http.StatusConflict, 0},
		"logout, and end of all": {"ann", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.Destroy() })
			if _, err := m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, http.StatusConflict, 0},
		"another user, and end of all": {"ann", func(ctx context.Context, m *session.Manager, cookie string) {
			client.Ask(ctx, m, cookie, func(s *session.Session) { s.SetUser("bob") })
			if _, err := m.EndSessions(ctx, session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, http.StatusConflict, 0},
	} {
		t.Run(name, func(t *testing.T) {
			store := session.NewMemoryStore()
			m := newManager(t, store, session.Options{})
			begun := client.Ask(t.Context(), m, "", func(s *session.Session) { s.Set("k", 1); s.SetUser(test.user) })
			late := newManager(t, double.New(store, double.Before(func(_ context.Context, c *double.Call) error {
				if c.ID == client.Parse(begun.Cookie).ID() && c.Record.Version == 1 {
					test.before(t.Context(), m, begun.Cookie)
				}
				return nil
			}, double.Save)), session.Options{})
			a := client.Ask(t.Context(), late, begun.Cookie, func(s *session.Session) { s.SetUser("ann") })
			if a.Status != test.status || (a.Cookie != "") != (test.status == http.StatusOK) || a.Removed {
				t.Errorf("the answer is %v", a)
			}
			if list, err := m.Sessions(t.Context(), session.OfUser("ann")); err != nil || len(list) != test.lives {
				t.Errorf("the user's sessions are %v, %v", list, err)
			}
		})
	}
}

// A request that takes long, and whose session's cookie is to be renewed when it ends, leaves alone what its client has got
// since it logged out.
func TestRenewalAfterLogout(t *testing.T) {
	clock := new(interleave.Clock)
	clock.Start()
	m := newCrew(t, session.NewMemoryStore(), 1, session.Options{}).by(clock)[0]
	begun := client.Ask(t.Context(), m, "", func(s *session.Session) { s.SetUser("ann") })
	clock.Pass(5 * time.Minute)
	late := client.Ask(t.Context(), m, begun.Cookie, func(s *session.Session) {
		if s.User() != "ann" {
			t.Errorf("it is %v", s)
		}
		client.Ask(t.Context(), m, begun.Cookie, func(s *session.Session) { s.Destroy() })
	})
	if late != (client.Answer{Status: http.StatusOK}) {
		t.Errorf("the answer is %v", late)
	}
}

// A logout of an old system's session, which another request moves and regenerates meanwhile, says that it lives on.
func TestLogoutMeetsMove(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(*session.Session)
		answer    int
		lives     bool
	}{
		"move":         {func(s *session.Session) { s.Set("k", 2) }, http.StatusOK, false},
		"regeneration": {func(s *session.Session) { s.Regenerate() }, http.StatusConflict, true},
		"logout":       {func(s *session.Session) { s.Destroy() }, http.StatusOK, false},
	} {
		t.Run(name, func(t *testing.T) {
			opts := session.Options{Migration: &session.Migration{
				Cookie: http.Cookie{Name: oldName},
				Load: func(*http.Request) (*session.OldSession, error) {
					return &session.OldSession{Values: map[string]any{"name": "Ann"}, User: "ann"}, nil
				},
			}}
			store := session.NewMemoryStore()
			m := newManager(t, store, opts)
			cookie := ""
			late := newManager(t, double.New(store, double.Nth(1, double.Before(func(context.Context, *double.Call) error {
				cookie = sendMove(t.Context(), m, "", test.meanwhile).Cookie // before the tombstone is in the place of the mark
				return nil
			}), double.Save)), opts)
			if a := sendMove(t.Context(), late, "", func(s *session.Session) { s.Destroy() }); a.Status != test.answer {
				t.Errorf("the answer is %v, want %d", a, test.answer)
			}
			client.Ask(t.Context(), m, cookie, func(s *session.Session) {
				if s.Has("name") != test.lives {
					t.Errorf("the session is %v", s)
				}
			})
		})
	}
}
