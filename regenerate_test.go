package session_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// alive reports whether a client's cookie leads to a session that holds a value under "k".
func (v *visitor) alive() bool {
	found := false
	v.clone().visit(func(s *session.Session) { found = s.Has("k") })
	return found
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
		if !s.WasRegenerated() || after == before {
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

		// After the grace period the ID is merely unknown: who still sends it gets a session of its own.
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
		// The mark goes when the session would have gone.
		if n, _ := session.Count(t.Context(), store); n != 2 {
			t.Errorf("%d records, want the mark and the new session", n)
		}
		time.Sleep(14*time.Minute + 40*time.Second)
		if n, _ := session.Count(t.Context(), store); n != 1 {
			t.Errorf("%d records, want the new session's alone", n)
		}
	})
}

// The mark of a session that ended a moment before its time answers for the whole of the grace period.
func TestDestroyAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			AbsoluteTimeout: time.Minute, RenewInterval: session.Never, SweepInterval: session.Never,
		})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old := v.clone()
		time.Sleep(59 * time.Second)
		v.visit(func(s *session.Session) { s.Destroy() })
		time.Sleep(29 * time.Second)
		wantStatus(t, old.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusConflict)
	})
}

// What is set after Destroy begins another session, in the same request.
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
}

// Fixation: an ID that the client brings along is never adopted.
func TestForeignTokenIsNotAdopted(t *testing.T) {
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
		// For the grace period, the old cookie leads to the same session, and to the same successor.
		time.Sleep(29 * time.Second)
		late := first.clone()
		late.visit(func(s *session.Session) {
			if got, _ := s.Get("k"); got != int64(2) {
				t.Errorf("k is %v", got)
			}
			s.Set("late", true)
		})
		if late.cookie.Value != v.cookie.Value {
			t.Error("the old cookie leads to another successor")
		}
		v.visit(func(s *session.Session) {
			if !s.Has("late") {
				t.Error("what was saved through the old cookie is lost")
			}
			if !s.Created().Equal(start) {
				t.Errorf("renewal moved the creation to %v", s.Created())
			}
		})
		time.Sleep(time.Second)
		if first.alive() {
			t.Error("the old cookie lives on after the grace period")
		}
		if !v.alive() {
			t.Error("the session is lost")
		}
	})
}

// A process that dies between the two steps of a renewal leaves nothing that the next request could not mend.
func TestRenewalHealsAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &dyingStore{MemoryStore: session.NewMemoryStore(), left: -1}
		opts := &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)}
		v := newVisitor(t, store, opts)
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(5 * time.Minute)
		store.left = 1 // the seal
		broken := v.clone()
		wantStatus(t, broken.visit(func(s *session.Session) { s.Set("more", 1) }), http.StatusServiceUnavailable)
		store.left = -1
		v.visit(func(s *session.Session) {
			if !s.Has("k") || !s.Has("more") {
				t.Errorf("after the crash: %v", s.Keys())
			}
		})
		if !v.alive() {
			t.Error("the session is lost")
		}
	})
}

// A dyingStore fails when a number of saves has been used up.
type dyingStore struct {
	*session.MemoryStore
	left int // negative: it does not die
}

func (d *dyingStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if d.left == 0 {
		return errors.New("the process is dead")
	}
	d.left--
	return d.MemoryStore.Save(ctx, id, rec)
}

// A store that can only read does not keep people from reading, renewal due or not.
func TestRenewalNeedsNoWritableStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &dyingStore{MemoryStore: session.NewMemoryStore(), left: -1}
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(5 * time.Minute)
		store.left = 0
		wantStatus(t, v.visit(func(s *session.Session) {
			if !s.Has("k") {
				t.Error("the value is not there")
			}
		}), http.StatusOK)
		wantStatus(t, v.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusServiceUnavailable)
	})
}

// 32 requests at the moment of renewal: one successor, every write kept.
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
					t.Errorf("clients 0 and %d got different successors", i)
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

// A session that expired does not come back by the cookie that was renewed shortly before: an idle timeout of its
// own, shorter than the grace period, begins to count when that is over.
func TestShortIdleTimeoutAfterRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old := v.clone()
		time.Sleep(4 * time.Minute)
		renewedAt := time.Now()
		v.visit(func(s *session.Session) { s.Has("k") })
		time.Sleep(5 * time.Second)
		v.visit(func(s *session.Session) { s.SetIdleTimeout(time.Second) })
		v.visit(func(s *session.Session) {
			if !s.Expires().Equal(renewedAt.Add(30*time.Second)) || !s.LastUsed().Equal(renewedAt.Add(5*time.Second)) {
				t.Errorf("expires %v, last used %v after the renewal", s.Expires().Sub(renewedAt), s.LastUsed().Sub(renewedAt))
			}
		})
		time.Sleep(25*time.Second - time.Millisecond)
		if !v.alive() {
			t.Error("it expired within the grace period")
		}
		time.Sleep(time.Second + time.Millisecond)
		if v.alive() || old.alive() {
			t.Errorf("it is alive by its cookie: %v; by the one before: %v", v.alive(), old.alive())
		}
	})
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

// A handler that looks at its session within each grace period follows it through renewals; one that does not
// loses its way, and is told so.
func TestLongLivedHandlerFollowsRenewals(t *testing.T) {
	for _, test := range []struct {
		every time.Duration
		want  error
	}{
		{29 * time.Second, nil},
		{3 * time.Minute, session.ErrGone},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			stream, tab := v.clone(), v.clone()
			stream.send(v.m, func(w http.ResponseWriter, r *http.Request) {
				s := session.FromContext(r.Context())
				s.Has("k")
				w.(http.Flusher).Flush()
				var err error
				for began := time.Now(); time.Since(began) < time.Hour && err == nil; {
					time.Sleep(test.every)
					err = s.Reload(r.Context())
					if time.Since(began)%time.Minute < test.every {
						tab.visit(func(s *session.Session) { s.Has("k") }) // renews when it is time to
					}
				}
				if !errors.Is(err, test.want) {
					t.Errorf("a look every %v: %v, want %v", test.every, err, test.want)
				}
			})
			tab.visit(func(s *session.Session) {
				if s.IsNew() {
					t.Error("the session itself is gone")
				}
			})
		})
	}
}

// Only who has the old token, and the server's secret, can tell the successor's.
func TestSuccessorToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		token := func() []byte {
			raw, err := base64.RawURLEncoding.DecodeString(v.cookie.Value)
			if err != nil {
				t.Fatal(err)
			}
			return raw[:32]
		}
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old, id := token(), v.id()
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		rec, err := store.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		nonce := rec.Data[10:18] // behind checksum, format and kind
		mac := hmac.New(sha256.New, bytes.Repeat([]byte("s"), 32))
		mac.Write(old)
		mac.Write(nonce)
		if next := token(); !bytes.Equal(next, mac.Sum(nil)) {
			t.Errorf("the successor's token is not HMAC-SHA256(secret, old token ‖ nonce)")
		}
	})
}
