package session_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

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
					if e.Kind == session.EventBindingMismatch {
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

// A session that is bound, remembered, and made from a known address by a known agent stays all of that, whatever its cookie
// and its user go through.
func TestNothingIsDropped(t *testing.T) {
	const remember = 30 * 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{
			Bind:            session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil)),
			AbsoluteTimeout: 100 * 24 * time.Hour, SweepInterval: session.Never,
		})
		var cookie *http.Cookie
		visit := func(addr, agent string, do func(*session.Session)) (sent *http.Cookie) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = addr + ":1"
			r.Header.Set("User-Agent", agent)
			if cookie != nil {
				r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
			}
			w := httptest.NewRecorder()
			handle(m, do).ServeHTTP(w, r)
			wantStatus(t, w.Result(), http.StatusOK)
			for _, c := range w.Result().Cookies() {
				sent = c
			}
			return sent
		}
		user := ""
		for i, step := range []struct {
			name   string
			pause  time.Duration
			do     func(*session.Session)
			cookie bool // another one is sent
		}{
			{"create", 0, func(s *session.Session) { s.Set("k", 1); s.Remember(remember) }, true},
			{"use", 5 * time.Second, func(s *session.Session) { s.Has("k") }, false},
			{"renew", 5 * time.Minute, func(s *session.Session) { s.Has("k") }, true},
			{"confirm", time.Minute, func(s *session.Session) { s.Set("k", 2) }, true},
			{"login", time.Minute, func(s *session.Session) { s.SetUser("ann") }, true},
			{"login anew", time.Minute, func(s *session.Session) { s.SetUser("ann") }, true},
			{"renew, logged in", 5 * time.Minute, func(s *session.Session) { s.Has("k") }, true},
			{"regenerate", time.Minute, func(s *session.Session) { s.Regenerate() }, true},
			{"regenerate, renewal due", 10 * time.Minute, func(s *session.Session) { s.Regenerate(); s.Set("k", 3) }, true},
			{"touch", 4 * 24 * time.Hour, func(s *session.Session) { s.Has("k") }, true},
			{"clear", time.Minute, func(s *session.Session) { s.Clear(); s.Set("k", 4) }, true},
			{"another user", time.Minute, func(s *session.Session) { s.SetUser("bob") }, true},
			{"nobody", time.Minute, func(s *session.Session) { s.SetUser("") }, true},
			{"renew at last", 5 * time.Minute, func(s *session.Session) { s.Has("k") }, true},
		} {
			time.Sleep(step.pause)
			sent := visit("192.0.2.1", "agent/1", func(s *session.Session) { step.do(s); user = s.User() })
			if sent == nil == step.cookie {
				t.Errorf("%s: the cookie is %v", step.name, sent)
			}
			if sent != nil {
				if cookie = sent; cookie.MaxAge != int(remember/time.Second) {
					t.Errorf("%s: the cookie lasts %d seconds", step.name, cookie.MaxAge)
				}
			}
			// Another address of the network is the same client.
			visit(fmt.Sprint("192.0.2.", 100+i), "agent/1", func(s *session.Session) {
				if !s.Has("k") || s.IsNew() || s.User() != user || s.RemoteAddr() != "192.0.2.1" || s.UserAgent() != "agent/1" ||
					time.Until(s.Expires()).Round(time.Minute) != remember {
					t.Errorf("%s: %v of %q, made by %q, %q, expires %v", step.name, s, s.User(), s.RemoteAddr(), s.UserAgent(), s.Expires())
				}
				if user == "" {
					return
				}
				list, err := m.Sessions(t.Context(), session.OfUser(user))
				if err != nil || len(list) != 1 || list[0].RemoteAddr != "192.0.2.1" || list[0].UserAgent != "agent/1" {
					t.Errorf("%s: the user has the sessions %+v, %v", step.name, list, err)
				}
			})
			for _, thief := range [][2]string{{"192.0.3.1", "agent/1"}, {"192.0.2.1", "agent/2"}} {
				if sent := visit(thief[0], thief[1], func(s *session.Session) {
					if !s.IsNew() || s.Has("k") || s.ID() != (session.ID{}) {
						t.Errorf("%s: %q has the session", step.name, thief)
					}
				}); sent != nil {
					t.Errorf("%s: %q is sent a cookie", step.name, thief)
				}
			}
		}
	})
}

// A network is that of the address that Options.ClientAddr finds, unless BindNetwork is told otherwise.
func TestBindNetworkBehindProxy(t *testing.T) {
	forwarded := func(r *http.Request) netip.Addr {
		addr, _ := netip.ParseAddr(r.Header.Get("X-Forwarded-For"))
		return addr
	}
	fixed := func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.5") }
	for _, test := range []struct {
		name       string
		bind       func(*http.Request) string
		clientAddr func(*http.Request) netip.Addr
		refused    bool
	}{
		{"as the options have it", session.BindNetwork(24, 56, nil), forwarded, true},
		{"within BindAll", session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil)), forwarded, true},
		{"the connection's", session.BindNetwork(24, 56, nil), nil, false},
		{"another one", session.BindNetwork(24, 56, fixed), forwarded, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newManager(t, session.NewMemoryStore(), &session.Options{Bind: test.bind, ClientAddr: test.clientAddr})
			visit := func(from, cookie string, do func(*session.Session)) *http.Response {
				r := httptest.NewRequest(http.MethodGet, "/", nil) // all by way of one proxy
				r.Header.Set("X-Forwarded-For", from)
				r.Header.Set("Cookie", "session_id="+cookie)
				w := httptest.NewRecorder()
				handle(m, do).ServeHTTP(w, r)
				return w.Result()
			}
			res := visit("192.0.2.1", "", func(s *session.Session) { s.Set("k", 1) })
			cookie := cookieValue(setCookie(t, res.Header, "session_id"))
			for from, refused := range map[string]bool{"192.0.2.77": false, "198.51.100.1": test.refused} {
				visit(from, cookie, func(s *session.Session) {
					if s.Has("k") == refused {
						t.Errorf("%s gets the session: %v", from, !refused)
					}
				})
			}
		})
	}
}

func TestImpossibleNetworks(t *testing.T) {
	for bits, possible := range map[[2]int]bool{
		{0, 0}: true, {32, 128}: true, {-1, 56}: false, {33, 56}: false, {24, -1}: false, {24, 129}: false,
	} {
		func() {
			defer func() {
				if refused := recover() != nil; refused == possible {
					t.Errorf("BindNetwork(%d, %d) panics: %v", bits[0], bits[1], refused)
				}
			}()
			session.BindNetwork(bits[0], bits[1], nil)
		}()
	}
}
