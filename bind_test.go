package session_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"example.com/session"
)

func TestBind(t *testing.T) {
	for _, test := range []struct {
		name         string
		bind         func(*http.Request) string
		owner, thief [2]string // address, User-Agent
		refused      bool
	}{
		{"nothing", nil, [2]string{"192.0.2.1:1", "a"}, [2]string{"198.51.100.1:1", "b"}, false},
		{"same agent", session.BindUserAgent, [2]string{"192.0.2.1:1", "a"}, [2]string{"198.51.100.1:1", "a"}, false},
		{"another agent", session.BindUserAgent, [2]string{"192.0.2.1:1", "a"}, [2]string{"192.0.2.1:1", "b"}, true},
		{"same network", session.BindNetwork(24, 56, nil), [2]string{"192.0.2.1:1", "a"}, [2]string{"192.0.2.200:9", "b"}, false},
		{"another network", session.BindNetwork(24, 56, nil), [2]string{"192.0.2.1:1", "a"}, [2]string{"192.0.3.1:1", "a"}, true},
		{"same network, v6", session.BindNetwork(24, 56, nil), [2]string{"[2001:db8::1]:1", "a"}, [2]string{"[2001:db8:0:ff::9]:1", "b"}, false},
		{"another network, v6", session.BindNetwork(24, 56, nil), [2]string{"[2001:db8::1]:1", "a"}, [2]string{"[2001:db8:0:100::1]:1", "a"}, true},
		{"mapped", session.BindNetwork(24, 56, nil), [2]string{"192.0.2.1:1", "a"}, [2]string{"[::ffff:192.0.2.9]:1", "a"}, false},
		{"address behind a proxy", session.BindNetwork(32, 128, func(r *http.Request) netip.Addr {
			return netip.MustParseAddr("203.0.113.5")
		}), [2]string{"192.0.2.1:1", "a"}, [2]string{"198.51.100.1:1", "a"}, false},
		{"all, one differs", session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil)),
			[2]string{"192.0.2.1:1", "a"}, [2]string{"192.0.2.2:1", "b"}, true},
		{"all, none differs", session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil)),
			[2]string{"192.0.2.1:1", "a"}, [2]string{"192.0.2.2:1", "a"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			mismatches := 0
			m := newManager(t, session.NewMemoryStore(), &session.Options{
				Bind: test.bind,
				Observer: func(_ context.Context, e session.Event) {
					if e.Kind == session.EventBinding {
						mismatches++
					}
				},
			})
			var cookie *http.Cookie
			visit := func(from [2]string, do func(*session.Session)) *http.Response {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.RemoteAddr = from[0]
				r.Header.Set("User-Agent", from[1])
				if cookie != nil {
					r.AddCookie(cookie)
				}
				w := httptest.NewRecorder()
				m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					do(session.FromContext(r.Context()))
				})).ServeHTTP(w, r)
				return w.Result()
			}
			cookie = visit(test.owner, func(s *session.Session) { s.Set("k", 1) }).Cookies()[0]
			res := visit(test.thief, func(s *session.Session) {
				if s.Has("k") == test.refused || s.IsNew() != test.refused {
					t.Errorf("has the value: %v, is new: %v", s.Has("k"), s.IsNew())
				}
				s.Destroy() // even this does not reach the owner's
				if !test.refused {
					s.Set("k", 1)
				}
			})
			if test.refused && len(res.Cookies()) != 0 {
				t.Errorf("cookies: %v", res.Cookies())
			}
			if (mismatches > 0) != test.refused {
				t.Errorf("%d mismatches were reported", mismatches)
			}
			if !test.refused {
				return
			}
			visit(test.owner, func(s *session.Session) {
				if !s.Has("k") {
					t.Error("the owner lost the session")
				}
			})
		})
	}
}
