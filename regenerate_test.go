package session_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// alive reports whether a client's cookie leads to a session that holds a value under "k".
func (v *visitor) alive() bool {
	found := false
	v.clone().visit(func(s *session.Session) { found = s.Has("k") })
	return found
}

// A logout ends the sessions of all cookies that fell behind.
func TestLogoutWithCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ann := newVisitor(t, session.NewMemoryStore(), nil).login()
		bob := ann.clone().fresh().login()
		copies := []*http.Cookie{ann.cookie, bob.cookie}
		for range 3 {
			time.Sleep(5 * time.Minute)
			for _, v := range []*visitor{ann, bob} {
				v.visit(func(s *session.Session) { s.Set("n", time.Now()) })
			}
		}
		r := httptest.NewRequest("GET", "/", nil)
		for _, c := range copies {
			r.AddCookie(c)
		}
		handle(ann.m, (*session.Session).Destroy).ServeHTTP(httptest.NewRecorder(), r)
		for i, v := range []*visitor{ann, bob} {
			if v.alive() {
				t.Errorf("session %d lives on", i)
			}
		}
	})
}

func TestRegenerate(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	old := v.clone()
	var before, after session.ID
	v.visit(func(s *session.Session) {
		before = s.ID()
		s.Regenerate()
		s.Set("more", 2)
		if !s.WasRegenerated() || s.ID() != before {
			t.Errorf("before the commit: regenerated %v, ID %v, was %v", s.WasRegenerated(), s.ID(), before)
		}
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
		after = s.ID()
		if !s.WasRegenerated() || after != before {
			t.Errorf("after the commit: regenerated %v, ID %v, was %v", s.WasRegenerated(), after, before)
		}
	})
	v.visit(func(s *session.Session) {
		if s.ID() != after || !s.Has("k") || !s.Has("more") || s.WasRegenerated() {
			t.Errorf("the next request has %v", s)
		}
	})
	if old.alive() {
		t.Error("the old cookie leads to the session")
	}
	// A request in flight with the old cookie may read nothing, change nothing, and sets no cookie.
	res := old.visit(func(s *session.Session) {
		if s.Has("k") || s.IsNew() {
			t.Errorf("the old cookie gives %v", s)
		}
	})
	wantStatus(t, res, http.StatusOK)
	if len(res.Cookies()) != 0 {
		t.Errorf("a straggler got %v", res.Cookies())
	}
	for name, change := range map[string]func(*session.Session){
		"set":        func(s *session.Session) { s.Set("k", 2) },
		"regenerate": func(s *session.Session) { s.Regenerate() },
		"destroy":    func(s *session.Session) { s.Destroy() },
	} {
		res := old.visit(change)
		wantStatus(t, res, http.StatusConflict)
		if len(res.Cookies()) != 0 {
			t.Errorf("a straggler that wants to %s got %v", name, res.Cookies())
		}
	}
	if !v.alive() {
		t.Error("the session is lost")
	}
}

func TestRegenerateNewSession(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Regenerate() })
	if v.cookie != nil {
		t.Error("an empty session got a cookie")
	}
	v.visit(func(s *session.Session) { s.Regenerate(); s.Set("k", 1) })
	if !v.alive() {
		t.Error("the session was not saved")
	}
}

func TestDestroy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old := v.clone()
		res := v.visit(func(s *session.Session) {
			s.Destroy()
			if s.Has("k") || !s.IsNew() {
				t.Errorf("after Destroy: %v", s)
			}
		})
		if v.cookie != nil || len(res.Cookies()) != 1 {
			t.Errorf("the cookie was not removed: %v", res.Header)
		}
		if old.alive() {
			t.Error("the session is alive")
		}
		wantStatus(t, old.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusConflict)
		wantStatus(t, old.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)

		// After the grace period the ID is merely unknown: a client that still sends it gets a session of its own.
		time.Sleep(31 * time.Second)
		res = old.visit(func(s *session.Session) {
			if !s.IsNew() || !s.WasUnknown() {
				t.Errorf("after the grace period: %v", s)
			}
			s.Set("k", 3)
		})
		wantStatus(t, res, http.StatusOK)
		if len(res.Cookies()) != 1 {
			t.Error("no new cookie")
		}
		// The tombstone goes when no first save of the session can come any more.
		if n, _ := session.CountRecords(t.Context(), store); n != 2 {
			t.Errorf("%d records, want the tombstone and the new session", n)
		}
		time.Sleep(time.Hour)
		if n, _ := session.CountRecords(t.Context(), store); n != 1 {
			t.Errorf("%d records, want the tombstone alone", n)
		}
		time.Sleep(time.Minute)
		if n, _ := session.CountRecords(t.Context(), store); n != 0 {
			t.Errorf("%d records, want none", n)
		}
	})
}

// A process whose clock is ahead, and by whose clock the record expires, tells an old session that has just ended from an
// unknown one, too.
func TestTombstoneWhereClocksDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, RenewInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 0) })
		for i := range 12 {
			time.Sleep(10 * time.Minute)
			v.visit(func(s *session.Session) { s.Set("k", i) })
		}
		v.visit(func(s *session.Session) { s.Destroy() })
		time.Sleep(30*time.Second + time.Minute - time.Millisecond)
		if n := recordCount(t, store); n != 1 {
			t.Errorf("%d records, want the tombstone", n)
		}
		time.Sleep(time.Millisecond)
		if n := recordCount(t, store); n != 0 {
			t.Errorf("%d records, want none", n)
		}
	})
}

// A session that ended a moment before its time is told from an unknown one for the whole of the grace period. For the
// first seconds a change is refused: it may be that of a straggler, which must not begin another session. A login page
// that comes later works.
func TestDestroyAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			AbsoluteTimeout: time.Minute, RenewInterval: session.Never, SweepInterval: session.Never,
		})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old := v.clone()
		time.Sleep(59 * time.Second)
		v.visit(func(s *session.Session) { s.Destroy() })
		time.Sleep(5*time.Second - time.Millisecond)
		wantStatus(t, old.clone().visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusConflict)
		time.Sleep(24 * time.Second)
		old.clone().visit(func(s *session.Session) {
			if s.IsNew() || !s.WasUnknown() {
				t.Errorf("within the grace: %v", s)
			}
		})
		page := old.clone()
		wantStatus(t, page.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusOK)
		if !page.alive() || page.cookie.Value == old.cookie.Value {
			t.Error("what the page set is lost")
		}
	})
}

// A value that is set after Destroy begins another session, in the same request.
func TestDestroyThenSet(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	old := v.clone()
	res := v.visit(func(s *session.Session) {
		s.Destroy()
		s.Set("flash", "goodbye")
	})
	if c := res.Cookies(); len(c) != 1 || c[0].MaxAge < 0 {
		t.Errorf("cookies: %v", c)
	}
	v.visit(func(s *session.Session) {
		if s.Has("k") || !s.Has("flash") {
			t.Errorf("the next session is %v", s)
		}
	})
	if old.alive() {
		t.Error("the old session is alive")
	}
}

// A request that is on its way while its session ends cannot bring it back.
func TestNoResurrection(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
		ends := map[string]func(*session.Session){
			"destroy":    func(s *session.Session) { s.Destroy() },
			"regenerate": func(s *session.Session) { s.Regenerate() },
			"empty":      func(s *session.Session) { s.Clear() },
		}
		for how, end := range ends {
			for _, renew := range []time.Duration{session.Never, time.Minute} {
				t.Run(fmt.Sprintf("%s, renewal %v", how, renew > 0), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						v := newVisitor(t, session.NewMemoryStore(), &session.Options{RenewInterval: renew, SweepInterval: session.Never})
						v.visit(func(s *session.Session) { s.Set("k", 1) })
						old := v.clone()
						time.Sleep(61 * time.Second)
						inFlight := v.clone()
						res := inFlight.visit(func(s *session.Session) {
							s.Set("k", 2)
							if how == "empty" {
								s.Delete("k")
								s.Set("other", 2)
							}
							wantStatus(t, v.visit(end), http.StatusOK)
						})
						wantStatus(t, res, http.StatusConflict)
						if len(res.Cookies()) != 0 {
							t.Errorf("the straggler got %v", res.Cookies())
						}
						reader := old.clone()
						if res := reader.visit(func(s *session.Session) { s.Has("k") }); len(res.Cookies()) != 0 {
							t.Errorf("a reader got %v", res.Cookies())
						}
						if old.alive() || inFlight.alive() {
							t.Error("the session is alive")
						}
					})
				})
			}
		}
	})
}

// Fixation: an ID that the client brings along is never adopted.
func TestForeignTokenIsNotAdopted(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
		elsewhere := newVisitor(t, session.NewMemoryStore(), nil) // same secret, another store
		elsewhere.visit(func(s *session.Session) { s.Set("k", 1) })
		v := newVisitor(t, session.NewMemoryStore(), nil)
		v.cookie = elsewhere.cookie
		planted := v.cookie.Value
		v.visit(func(s *session.Session) {
			if !s.IsNew() || !s.WasUnknown() {
				t.Errorf("a foreign token gives %v", s)
			}
			s.Set("k", 1)
		})
		if v.cookie.Value == planted {
			t.Error("the planted token was adopted")
		}
	})
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		start := time.Now()
		first := v.clone()
		time.Sleep(4*time.Minute - time.Second)
		if res := v.visit(func(s *session.Session) { s.Set("k", 2) }); len(res.Cookies()) != 0 {
			t.Error("renewed too early")
		}
		time.Sleep(time.Second)
		if res := v.visit(func(s *session.Session) { s.Has("k") }); len(res.Cookies()) != 1 {
			t.Fatal("not renewed")
		}
		// Until somebody shows the new cookie, the old one leads to the session, and is answered with the new one.
		time.Sleep(3 * time.Minute)
		late := first.clone()
		late.visit(func(s *session.Session) {
			if got, _ := s.Get("k"); got != int64(2) {
				t.Errorf("k is %v", got)
			}
			s.Set("late", true)
		})
		if late.cookie.Value != v.cookie.Value || late.cookie.Value == first.cookie.Value {
			t.Error("the old cookie is answered with another one")
		}
		// Then a window begins, of the grace period and a minute for clocks that differ.
		v.visit(func(s *session.Session) {
			if !s.Has("late") {
				t.Error("what was saved through the old cookie is lost")
			}
			if !s.Created().Equal(start) {
				t.Errorf("renewal moved the creation to %v", s.Created())
			}
			s.Set("shown", true)
		})
		time.Sleep(90*time.Second - time.Millisecond)
		if !first.alive() {
			t.Error("the old cookie is refused within the window")
		}
		time.Sleep(time.Millisecond)
		if first.alive() {
			t.Error("the old cookie lives on after the window")
		}
		if !v.alive() {
			t.Error("the session is lost")
		}
	})
}

// A renewal that the store refuses changes nothing: the cookie is good, and the next request renews.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		opts := &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)}
		v := newVisitor(t, store, opts)
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(5 * time.Minute)
		store.Hook(double.Fail(errDown, double.Save))
		broken := v.clone()
		wantStatus(t, broken.visit(func(s *session.Session) { s.Set("more", 1) }), http.StatusServiceUnavailable)
		store.Hook()
		before := v.cookie.Value
		v.visit(func(s *session.Session) {
			if !s.Has("k") || s.Has("more") {
				t.Errorf("after the fault: %v", s.Keys())
			}
		})
		if !v.alive() || v.cookie.Value == before {
			t.Error("the session is lost, or was not renewed")
		}
	})
}

// A store that can only read does not keep people from reading, renewal due or not.
func TestRenewalNeedsNoWritableStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(5 * time.Minute)
		store.Hook(double.Fail(errDown, double.Save))
		wantStatus(t, v.visit(func(s *session.Session) {
			if !s.Has("k") {
				t.Error("the value is not there")
			}
		}), http.StatusOK)
		wantStatus(t, v.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusServiceUnavailable)
	})
}

// 32 requests at the moment of renewal: one new cookie, every write kept.
func TestRenewalConverges(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			time.Sleep(4 * time.Minute)
			var wg sync.WaitGroup
			clients := make([]*visitor, 32)
			for i := range clients {
				clients[i] = v.clone()
				wg.Go(func() {
					wantStatus(t, clients[i].visit(func(s *session.Session) {
						if i%2 == 0 {
							s.Set(fmt.Sprint(i), i)
						} else if !s.Has("k") {
							t.Error("logged out by renewal")
						}
					}), http.StatusOK)
				})
			}
			wg.Wait()
			for i, c := range clients {
				if c.cookie.Value != clients[0].cookie.Value {
					t.Errorf("clients 0 and %d got different cookies", i)
				}
			}
			clients[0].visit(func(s *session.Session) {
				if s.Len() != 17 {
					t.Errorf("the session holds %v", s.Keys())
				}
			})
		})
	}
}

// Late in a response, what needs no cookie still works.
func TestLongLivedHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		stream, tab := v.clone(), v.clone()
		stream.send(v.m, func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			w.(http.Flusher).Flush()
			tab.visit(func(s *session.Session) { s.Set("tab", 1) })
			if s.Has("tab") {
				// The session was not used before the flush, so it is read only now.
			} else {
				t.Error("the late first use does not see the store")
			}
			time.Sleep(10 * time.Minute)
			tab.visit(func(s *session.Session) { s.Set("tab", 2) }) // renews
			s.Set("stream", 1)
			if err := s.Reload(r.Context()); err != nil {
				t.Errorf("Reload: %v", err)
			}
			if got, _ := s.Get("tab"); got != int64(2) || !s.Has("stream") {
				t.Errorf("after Reload: tab %v, stream %v", got, s.Has("stream"))
			}
			if err := s.Save(r.Context()); err != nil {
				t.Errorf("Save: %v", err)
			}
			tab.visit(func(s *session.Session) {
				if !s.Has("stream") {
					t.Error("Save did not save")
				}
				s.Destroy()
			})
			if err := s.Reload(r.Context()); !errors.Is(err, session.ErrGone) {
				t.Errorf("Reload after logout: %v", err)
			}
			s.Set("k", 3)
			if err := s.Save(r.Context()); !errors.Is(err, session.ErrGone) {
				t.Errorf("Save after logout: %v", err)
			}
		})
	})
}

// A stream that never looks at its session while others renew it saves at its end all the same.
func TestLongLivedHandlerNeedsNoReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		stream, tab := v.clone(), v.clone()
		cookies := map[string]bool{}
		res := stream.send(v.m, func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			s.Has("k")
			w.(http.Flusher).Flush()
			for range 60 {
				time.Sleep(time.Minute)
				tab.visit(func(s *session.Session) { session.Key[int]("n").Update(s, func(n int) int { return n + 1 }) })
				cookies[tab.cookie.Value] = true
			}
			s.Set("seen", true)
		})
		if len(res.Cookies()) != 0 {
			t.Errorf("the stream got %v", res.Cookies())
		}
		if len(cookies) < 10 {
			t.Errorf("%d renewals in an hour", len(cookies))
		}
		tab.visit(func(s *session.Session) {
			if n, _ := s.Get("n"); !s.Has("seen") || n != int64(60) {
				t.Errorf("the session holds %v, n is %v", s.Keys(), n)
			}
		})
	})
}

// A stream whose session ends meanwhile is told.
func TestLongLivedHandlerOfEndedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		stream := v.clone()
		stream.send(v.m, func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			s.Has("k")
			w.(http.Flusher).Flush()
			v.visit(func(s *session.Session) { s.Destroy() })
			time.Sleep(2 * time.Hour) // the tombstone is gone, too
			s.Set("seen", true)
			if err := s.Save(r.Context()); !errors.Is(err, session.ErrGone) {
				t.Errorf("Save: %v", err)
			}
		})
	})
}

// The contents of a cookie, computed anew: name, key and count, and a MAC that is good for one transport and one cookie name.
func TestCookieValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		raw := func() []byte {
			raw, err := base64.RawURLEncoding.DecodeString(v.cookie.Value)
			if err != nil || len(raw) != 68 {
				t.Fatalf("the cookie is %x, %v", raw, err)
			}
			mac := hmac.New(sha256.New, bytes.Repeat([]byte("s"), 32))
			for _, part := range []string{"session token", "cookie", "session_id"} {
				mac.Write(append([]byte{byte(len(part))}, part...))
			}
			mac.Write(raw[:36])
			if !hmac.Equal(raw[36:], mac.Sum(nil)) {
				t.Errorf("the MAC of %x is another one", raw)
			}
			return raw[:36]
		}
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		first := raw()
		if id := v.id(); id != sha256.Sum256(first[:16]) {
			t.Errorf("the ID %v is not the hash of the name", id)
		}
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		renewed := raw()
		if !bytes.Equal(renewed[:32], first[:32]) || binary.BigEndian.Uint32(renewed[32:]) != binary.BigEndian.Uint32(first[32:])+1 {
			t.Errorf("renewed from %x to %x", first, renewed)
		}
		v.visit(func(s *session.Session) { s.Regenerate() })
		regenerated := raw()
		if !bytes.Equal(regenerated[:16], first[:16]) || bytes.Equal(regenerated[16:32], first[16:32]) {
			t.Errorf("regenerated from %x to %x", renewed, regenerated)
		}
		rec, err := store.Load(t.Context(), v.id())
		if err != nil || bytes.Contains(rec.Data, regenerated[:16]) || bytes.Contains(rec.Data, regenerated[16:32]) {
			t.Errorf("the record holds a part of the cookie: %x, %v", rec.Data, err)
		}
	})
}

// The cost of a session's life at the store, on every store: a renewal is the request's load and one save, with one look
// at the user's index where somebody is logged in; a login and a logout are one save, with a look at the index and a save of
// it.
func TestCallsOfALife(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := double.New(newStore(t))
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		age := func() {
			t.Helper()
			if err := v.m.Age(t.Context(), v.cookie.Value, 5*time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []struct {
			name         string
			aged         bool
			do           func(*session.Session)
			loads, saves int
		}{
			{"first save", false, func(s *session.Session) { s.Set("k", 1) }, 0, 1},
			{"renewal of nobody's", true, func(s *session.Session) { s.Has("k") }, 1, 1},
			{"regeneration", false, func(s *session.Session) { s.Regenerate() }, 1, 1},
			{"login", false, func(s *session.Session) { s.SetUser("ann") }, 2, 2},
			{"renewal of somebody's", true, func(s *session.Session) { s.Has("k") }, 2, 1},
			{"confirmation with a change", false, func(s *session.Session) { s.Set("k", 2) }, 1, 1},
			{"logout", false, func(s *session.Session) { s.Destroy() }, 2, 2},
			{"login at once", false, func(s *session.Session) { s.SetUser("bob") }, 1, 2},
		} {
			if step.aged {
				age()
			}
			store.Calls()
			wantStatus(t, v.visit(step.do), http.StatusOK)
			if calls := store.Calls(); calls != [4]int{step.loads, step.saves, 0, 0} {
				t.Errorf("%s: %v loads, saves, touches and deletes, want %d and %d", step.name, calls, step.loads, step.saves)
			}
		}
	})
}

// To end a session takes no more room than the session did: a store that is full ends it all the same.
func TestEndNeedsNoRoom(t *testing.T) {
	user := session.Key[string]("k")
	ends := map[string]func(*testing.T, *visitor) error{
		"logout": func(t *testing.T, v *visitor) error {
			wantStatus(t, v.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
			return nil
		},
		"emptied": func(t *testing.T, v *visitor) error {
			wantStatus(t, v.visit(func(s *session.Session) { s.SetUser(""); s.Clear() }), http.StatusOK)
			return nil
		},
		"user": func(t *testing.T, v *visitor) error {
			n, err := v.m.EndSessions(t.Context(), session.OfUser("ann"))
			if n != 1 {
				t.Errorf("ended %d", n)
			}
			return err
		},
		"handle": func(t *testing.T, v *visitor) error {
			_, err := v.m.EndSessions(t.Context(), session.OfUser("ann").One(userSessions(t, v.m)[0].Handle))
			return err
		},
		"ID": func(t *testing.T, v *visitor) error { return v.m.End(t.Context(), v.id()) },
	}
	for name, end := range ends {
		for _, encrypt := range []bool{false, true} {
			for saves := range 20 { // a record remembers some of them
				t.Run(fmt.Sprintf("%s, encrypted %v, %d saves", name, encrypt, saves), func(t *testing.T) {
					store := double.New(session.NewMemoryStore())
					v := newVisitor(t, store, &session.Options{
						SweepInterval: session.Never, EncryptAtRest: encrypt,
					})
					wantStatus(t, v.visit(func(s *session.Session) { s.SetUser("ann") }), http.StatusOK)
					for range saves {
						v.visit(func(s *session.Session) { user.Set(s, "x"); s.Save(t.Context()); user.Delete(s) })
					}
					store.Hook(full(store.Store))
					if err := end(t, v); err != nil {
						t.Error(err)
					}
					if v.alive() {
						t.Error("it lives")
					}
				})
			}
		}
	}
}

// full has a store take nothing that is larger than what it replaces.
func full(store session.Store) double.Hook {
	return double.Before(func(ctx context.Context, c *double.Call) error {
		if now, err := store.Load(ctx, c.ID); err != nil || len(c.Record.Data) > len(now.Data) {
			return fmt.Errorf("no room for %d bytes in place of %d", len(c.Record.Data), len(now.Data))
		}
		return nil
	}, double.Save)
}

// A session that is to end has no ID, nor has the one after it until it is saved.
func TestIDAfterDestroy(t *testing.T) {
	for name, then := range map[string]func(s *session.Session){
		"the end":                   func(*session.Session) {},
		"another session":           func(s *session.Session) { s.Set("k", 2) },
		"another session of a user": func(s *session.Session) { s.SetUser("bob") },
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), nil).login()
			var before session.ID
			v.visit(func(s *session.Session) {
				before = s.ID()
				s.Destroy()
				if id := s.ID(); id != (session.ID{}) || !s.IsNew() {
					t.Errorf("after Destroy the ID is %v", id)
				}
				if text := s.String(); strings.Contains(text, before.String()) {
					t.Errorf("String: %s", text)
				}
				then(s)
				if id := s.ID(); id != (session.ID{}) {
					t.Errorf("before it is saved, the next one has the ID %v", id)
				}
				if err := s.Save(t.Context()); err != nil {
					t.Fatal(err)
				}
				if id := s.ID(); id == before || (id == session.ID{}) != (name == "the end") {
					t.Errorf("after Save the ID is %v", id)
				}
			})
		})
	}
}
