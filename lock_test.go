package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// 64 requests that read, wait, and write what depends on what they read, without Update: under a lock none is lost.
func TestLockSerializes(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := &session.Options{Locking: implicit, LockWait: time.Hour, SweepInterval: session.Never}
			v := newVisitor(t, session.NewMemoryStore(), opts)
			other := newManager(t, v.store, opts) // as if it were another process
			n := session.Key[int]("n")
			v.visit(func(s *session.Session) { n.Set(s, 0) })
			var all sync.WaitGroup
			for i := range 64 {
				all.Go(func() {
					c := v.clone()
					if i%2 == 0 {
						c.m = other
					}
					wantStatus(t, c.visit(func(s *session.Session) {
						if !implicit {
							if err := s.Lock(t.Context()); err != nil {
								t.Error(err)
							}
						}
						got, _ := n.Get(s)
						time.Sleep(time.Second)
						n.Set(s, got+1)
					}), http.StatusOK)
				})
			}
			all.Wait()
			v.visit(func(s *session.Session) {
				if got, _ := n.Get(s); got != 64 {
					t.Errorf("implicit %v: the number is %d, want 64", implicit, got)
				}
			})
		})
	}
}

func TestLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		lock := func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for name, h := range map[string]http.HandlerFunc{
			"return": func(_ http.ResponseWriter, r *http.Request) { lock(session.FromContext(r.Context())) },
			"twice": func(_ http.ResponseWriter, r *http.Request) {
				lock(session.FromContext(r.Context()))
				lock(session.FromContext(r.Context()))
			},
			"panic": func(_ http.ResponseWriter, r *http.Request) {
				lock(session.FromContext(r.Context()))
				panic(http.ErrAbortHandler)
			},
			"renewal": func(_ http.ResponseWriter, r *http.Request) {
				time.Sleep(5 * time.Minute)
				lock(session.FromContext(r.Context()))
			},
			"destroy": func(_ http.ResponseWriter, r *http.Request) {
				s := session.FromContext(r.Context())
				lock(s)
				s.Destroy()
				s.Set("k", 1)
			},
		} {
			func() {
				defer func() { recover() }()
				v.send(v.m, h)
			}()
			start := time.Now()
			v.visit(lock)
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s: the next one waited %v", name, d)
			}
		}
	})
}

// Not even a store that panics leaves the queue before the lock blocked.
func TestLockAndPanickingStore(t *testing.T) {
	for calls := range 4 { // before the panic: the lock's record and the session's are looked at and saved
		synctest.Test(t, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			work := func(s *session.Session) {
				s.Has("k")
				if err := s.Lock(t.Context()); err != nil {
					t.Errorf("Lock: %v", err)
				}
			}
			func() {
				defer func() { recover() }()
				v.visit(func(s *session.Session) {
					s.Has("k")
					store.Hook(double.Nth(calls+1, panics, double.Load, double.Save))
					work(s)
				})
			}()
			store.Hook()
			time.Sleep(time.Minute) // the lease of a holder that could not let go
			start := time.Now()
			v.visit(work)
			if d := time.Since(start); d > time.Second {
				t.Errorf("after a panic at call %d the next one waited %v", calls+1, d)
			}
		})
	}
}

// A session that the store does not know yet has nobody to be locked against.
func TestLockOfNewSession(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Locking: true})
	v.visit(func(s *session.Session) {
		if err := s.Lock(t.Context()); err != nil {
			t.Error(err)
		}
		s.Set("k", 1)
	})
	if !v.alive() {
		t.Error("not saved")
	}
}

// A session is not begun without its lock.
func TestLockOfNewSessionFails(t *testing.T) {
	store := session.NewMemoryStore()
	var lock session.ID
	down := double.New(store, double.Before(func(_ context.Context, c *double.Call) error {
		if lock == (session.ID{}) {
			lock = c.ID
		}
		if c.ID == lock {
			return errDown
		}
		return nil
	}, double.Save))
	v := newVisitor(t, down, &session.Options{Locking: true, Logger: quiet})
	wantStatus(t, v.visit(func(s *session.Session) {
		s.Set("k", 1)
		if err := s.Save(t.Context()); !errors.Is(err, errDown) {
			t.Errorf("Save: %v", err)
		}
	}), http.StatusServiceUnavailable)
	if n := recordCount(t, store); n != 0 || v.cookie != nil {
		t.Errorf("there are %d records, and the cookie is %v", n, v.cookie)
	}
}

func TestLockWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)}
		v := newVisitor(t, session.NewMemoryStore(), opts)
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		elsewhere := v.clone()
		elsewhere.m = newManager(t, v.store, opts)
		v.clone().visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			for _, c := range []*visitor{v.clone(), elsewhere} { // in this process, and in another one
				start := time.Now()
				wantStatus(t, c.visit(func(s *session.Session) {
					if err := s.Lock(t.Context()); !errors.Is(err, session.ErrLocked) {
						t.Errorf("Lock: %v", err)
					}
				}), http.StatusServiceUnavailable)
				if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
					t.Errorf("it waited %v", d)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				c.visit(func(s *session.Session) {
					if err := s.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Lock with a deadline: %v", err)
					}
				})
				cancel()
			}
			// The lease is prolonged for as long as the request runs.
			time.Sleep(5 * time.Minute)
			elsewhere.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); !errors.Is(err, session.ErrLocked) {
					t.Errorf("Lock after five minutes: %v", err)
				}
			})
			s.Set("k", 2)
		})
		if !v.alive() {
			t.Error("the session is lost")
		}
	})
}

// A holder that stands still for longer than its lease is told, and overwrites nothing.
// A session that is stored under a new name in the middle of a request, at a login or for the first time, stays locked
// until the request ends.
func TestLockAtLogin(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		for name, do := range map[string]func(s *session.Session){
			"login":       func(s *session.Session) { s.SetUser("ann") },
			"login twice": func(s *session.Session) { s.SetUser("bob"); s.Save(context.Background()); s.SetUser("ann") },
			"regenerate":  func(s *session.Session) { s.Regenerate() },
			"new session": func(s *session.Session) { s.Destroy(); s.Set("k", 1) },
		} {
			synctest.Test(t, func(t *testing.T) {
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{
					Locking: implicit, LockWait: time.Minute, SweepInterval: session.Never,
				})
				elsewhere := v.clone()
				elsewhere.m = newManager(t, v.store, &session.Options{LockWait: time.Minute, SweepInterval: session.Never})
				v.visit(func(s *session.Session) { s.Set("k", 1) })
				n := session.Key[int]("n")
				var others sync.WaitGroup
				wantStatus(t, v.send(v.m, func(w http.ResponseWriter, r *http.Request) {
					s := session.FromContext(r.Context())
					if !implicit {
						if err := s.Lock(r.Context()); err != nil {
							t.Error(err)
						}
					}
					do(s)
					io.WriteString(w, "hello") // and the client knows its new cookie
					other := elsewhere.clone()
					cookies := (&http.Response{Header: w.Header()}).Cookies()
					if len(cookies) != 1 {
						t.Fatalf("%s: cookies %v", name, cookies)
					}
					other.cookie = cookies[0]
					others.Go(func() {
						wantStatus(t, other.visit(func(s *session.Session) {
							if err := s.Lock(t.Context()); err != nil {
								t.Error(err)
							}
							got, _ := n.Get(s)
							n.Set(s, got+10)
						}), http.StatusOK)
					})
					got, _ := n.Get(s)
					time.Sleep(time.Second)
					n.Set(s, got+1)
				}), http.StatusOK)
				others.Wait()
				v.visit(func(s *session.Session) {
					if got, _ := n.Get(s); got != 11 {
						t.Errorf("implicit %v, %s: the number is %d, want 11", implicit, name, got)
					}
				})
			})
		}
	}
}

// A handler that http.TimeoutHandler, inside, has given up on has no lock any more, and cannot take one.
func TestLockAfterTheRequest(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		for _, early := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{
					Locking: implicit, LockWait: time.Minute, SweepInterval: session.Never, Logger: quiet,
				})
				n := session.Key[int]("n")
				v.visit(func(s *session.Session) { n.Set(s, 1) })
				errs := make(chan error, 1)
				slow := http.TimeoutHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					s := session.FromContext(r.Context())
					ctx := context.WithoutCancel(r.Context())
					if early && s.Lock(ctx) != nil {
						t.Error(s.Err())
					}
					time.Sleep(2 * time.Second)
					if !implicit {
						s.Lock(ctx)
					}
					got, _ := n.Get(s)
					time.Sleep(2 * time.Second)
					n.Set(s, got+1)
					errs <- s.Save(ctx)
				}), time.Second, "too slow")
				wantStatus(t, v.send(v.m, slow.ServeHTTP), http.StatusServiceUnavailable)
				time.Sleep(1500 * time.Millisecond) // the slow one has read
				start := time.Now()
				wantStatus(t, v.visit(func(s *session.Session) {
					if err := s.Lock(t.Context()); err != nil {
						t.Error(err)
					}
					got, _ := n.Get(s)
					time.Sleep(5 * time.Second)
					n.Set(s, got+10)
				}), http.StatusOK)
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("the next one waited %v", d-5*time.Second)
				}
				if err := <-errs; !errors.Is(err, session.ErrLockLost) {
					t.Errorf("implicit %v, early %v: Save: %v, want ErrLockLost", implicit, early, err)
				}
				v.visit(func(s *session.Session) {
					if got, _ := n.Get(s); got != 11 {
						t.Errorf("the number is %d, want 11", got)
					}
				})
			})
		}
	}
}

// An extension of which no reply came back is no loss of the lock.
func TestLockExtensionWithoutReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		for _, until := range []time.Duration{15, 25, 45} { // extensions are due after 10, 20, 30 and 40 seconds
			wantStatus(t, v.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
				store.Hook(double.Lose(errDown, double.Load, double.Save))
				time.Sleep(15 * time.Second)
				store.Hook()
				time.Sleep(until*time.Second - 15*time.Second)
				s.Set("k", int(until))
			}), http.StatusOK)
			start := time.Now()
			v.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
			})
			if d := time.Since(start); d > time.Second {
				t.Errorf("after %d seconds: the next one waited %v: it was not released", until, d)
			}
		}
	})
}

func TestLostLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		opts := &session.Options{SweepInterval: session.Never, LockWait: time.Minute, Logger: slog.New(slog.DiscardHandler)}
		v := newVisitor(t, store, opts)
		n := session.Key[int]("n")
		v.visit(func(s *session.Session) { n.Set(s, 1) })
		elsewhere := v.clone()
		elsewhere.m = newManager(t, store.Store, opts)
		var err error
		res := v.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			got, _ := n.Get(s)
			store.Hook(double.Fail(errDown, double.Save)) // nothing of this process reaches the store, as if it were paused
			start := time.Now()
			wantStatus(t, elsewhere.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
				got, _ := n.Get(s)
				n.Set(s, got+10)
			}), http.StatusOK)
			if d := time.Since(start); d > 31*time.Second {
				t.Errorf("the next holder waited %v, longer than the lease", d)
			}
			store.Hook()
			n.Set(s, got+1)
			err = s.Save(t.Context())
		})
		wantStatus(t, res, http.StatusConflict)
		if !errors.Is(err, session.ErrLockLost) {
			t.Errorf("Save: %v", err)
		}
		v.visit(func(s *session.Session) {
			if got, _ := n.Get(s); got != 11 {
				t.Errorf("the number is %d, want 11", got)
			}
		})
	})
}

// A holder whose lease runs out while it waits for its turn to commit is told as well: the record that another request
// of its process hands over may hold what the next holder saved.
func TestLockLostInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, release := double.New(session.NewMemoryStore()), make(chan struct{})
		opts := &session.Options{LockLease: 2 * time.Second, SweepInterval: session.Never, Logger: quiet}
		v := newVisitor(t, store, opts)
		n := session.Key[int]("n")
		v.visit(func(s *session.Session) { n.Set(s, 1) })
		elsewhere := v.clone()
		elsewhere.m = newManager(t, store.Store, opts)
		add := func(s *session.Session, more int) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			got, _ := n.Get(s)
			n.Set(s, got+more)
		}
		var all sync.WaitGroup
		wantStatus(t, v.clone().visit(func(s *session.Session) {
			add(s, 1)
			id := s.ID()
			store.Hook(
				double.Before(func(_ context.Context, c *double.Call) error {
					if c.ID != id { // the lease is not prolonged any more
						return errDown
					}
					return nil
				}, double.Save),
				double.Nth(1, double.Late(release), double.Save))
			all.Go(func() {
				wantStatus(t, v.clone().visit(func(s *session.Session) { s.Set("other", true) }), http.StatusOK)
			})
			synctest.Wait() // the other request is at the store
			all.Go(func() {
				time.Sleep(time.Second)
				wantStatus(t, elsewhere.visit(func(s *session.Session) { add(s, 10) }), http.StatusOK)
				close(release)
			})
		}), http.StatusConflict)
		all.Wait()
		v.visit(func(s *session.Session) {
			if got, _ := n.Get(s); got != 11 || !s.Has("other") {
				t.Errorf("the number is %d, want 11; the other request's change is there: %v", got, s.Has("other"))
			}
		})
	})
}

// Reload does not make up for a lost lock: what it would find is the next holder's.
func TestReloadWithoutTheLock(t *testing.T) {
	store := session.NewMemoryStore()
	v := newVisitor(t, store, &session.Options{Logger: quiet})
	elsewhere := v.clone()
	elsewhere.m = newManager(t, store, nil)
	n := session.Key[int]("n")
	v.visit(func(s *session.Session) { n.Set(s, 1) })
	elsewhere.cookie = v.cookie
	wantStatus(t, v.clone().visit(func(s *session.Session) {
		if err := s.Lock(t.Context()); err != nil {
			t.Error(err)
		}
		for e := range store.List(t.Context()) {
			if e.ID != s.ID() { // the lock, as a store loses it that is short of memory
				store.Delete(t.Context(), e.ID)
			}
		}
		elsewhere.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			n.Set(s, 2)
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if err := s.Reload(t.Context()); !errors.Is(err, session.ErrLockLost) {
			t.Errorf("Reload: %v", err)
		}
		n.Set(s, 3)
	}), http.StatusConflict)
	v.visit(func(s *session.Session) {
		if got, _ := n.Get(s); got != 2 {
			t.Errorf("the number is %d, want 2", got)
		}
	})
}

// Two processes, each with a cache that may be a minute behind: locks are passed on at once all the same, and what the
// last holder saved is there.
func TestLockBehindCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		v := newVisitor(t, cached(store), &session.Options{SweepInterval: session.Never})
		other := newManager(t, cached(store), &session.Options{SweepInterval: session.Never})
		n := session.Key[int]("n")
		v.visit(func(s *session.Session) { n.Set(s, 0) })
		start := time.Now()
		for i := range 20 {
			c := v.clone()
			if i%2 == 0 {
				c.m = other
			}
			wantStatus(t, c.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
				got, _ := n.Get(s)
				if got != i {
					t.Errorf("holder %d finds %d", i, got)
				}
				n.Set(s, got+1)
			}), http.StatusOK)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("twenty holders took %v", d)
		}
		// Reload looks past the cache, too.
		v.visit(func(s *session.Session) {
			s.Len()
			c := v.clone()
			c.m = other
			c.visit(func(s *session.Session) { n.Set(s, 100) })
			if err := s.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			if got, _ := n.Get(s); got != 100 {
				t.Errorf("after Reload the number is %d, want 100", got)
			}
		})
	})
}

// cached puts a cache in front of the store that may be a minute behind.
func cached(store session.Store) session.Store {
	return session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Minute})
}

// Unlock saves and lets the next request in before the handler has returned, and Lock takes the lock again.
func TestUnlock(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		for _, implicit := range []bool{false, true} {
			v := newVisitor(t, newStore(t), &session.Options{Locking: implicit, SweepInterval: session.Never})
			other := newManager(t, v.store, &session.Options{Locking: implicit, SweepInterval: session.Never})
			lock := func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
			}
			v.visit(func(s *session.Session) { hitCounter.Set(s, 1) })
			wantStatus(t, v.visit(func(s *session.Session) {
				if !implicit {
					lock(s)
				}
				hitCounter.Set(s, 2)
				if err := s.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
				next := v.clone()
				for _, m := range []*session.Manager{v.m, other} {
					next.m = m
					wantStatus(t, next.visit(func(s *session.Session) {
						lock(s)
						hitCounter.Update(s, func(n int) int { return n * 10 })
					}), http.StatusOK)
				}
				s.Set("late", true)
				lock(s)
				if n, _ := hitCounter.Get(s); n != 200 {
					t.Errorf("implicit %v: under the lock again, the number is %d, want 200", implicit, n)
				}
				hitCounter.Set(s, 3)
			}), http.StatusOK)
			v.visit(func(s *session.Session) {
				if n, _ := hitCounter.Get(s); n != 3 || !s.Has("late") {
					t.Errorf("implicit %v: the session is %v, with %d", implicit, s, n)
				}
			})
		}
	})
}

// Unlock without a lock, or of a session that is not stored yet, is no more than Save; after a failure it unlocks all the same.
func TestUnlockOfNothing(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{Locking: true, Logger: quiet})
	v.visit(func(s *session.Session) {
		if err := s.Unlock(t.Context()); err != nil {
			t.Errorf("of what is not there: %v", err)
		}
		s.Set("k", 1)
	})
	if n := recordCount(t, store); n != 1 {
		t.Errorf("%d records: a session that is stored after Unlock is locked", n)
	}
	wantStatus(t, v.visit(func(s *session.Session) {
		s.Set("k", 2)
		store.Hook(double.Fail(errDown, double.Save))
		if err := s.Unlock(t.Context()); !errors.Is(err, errDown) {
			t.Errorf("at a store that fails: %v", err)
		}
		store.Hook()
	}), http.StatusServiceUnavailable)
}

// Unlock before the session was used keeps Options.Locking from locking it at all.
func TestUnlockBeforeUse(t *testing.T) {
	for name, use := range map[string]func(s *session.Session){
		"read":  func(s *session.Session) { s.Get("k") },
		"write": func(s *session.Session) { s.Set("k", 2) },
		"save":  func(s *session.Session) { s.ForceSave(); s.Save(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), &session.Options{Locking: true, LockWait: time.Millisecond, Logger: quiet})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			v.visit(func(s *session.Session) {
				s.Get("k") // which locks it
				wantStatus(t, v.clone().visit(func(s *session.Session) {
					if err := s.Unlock(t.Context()); err != nil {
						t.Error(err)
					}
					use(s)
				}), http.StatusOK)
				wantStatus(t, v.clone().visit(func(s *session.Session) {
					s.Unlock(t.Context())
					use(s)
					if err := s.Lock(t.Context()); !errors.Is(err, session.ErrLocked) {
						t.Errorf("Lock after Unlock: %v", err)
					}
				}), http.StatusServiceUnavailable)
			})
		})
	}
}

// A lock is given back once, whoever else gives it back: a handler that has been given up on may come late.
func TestUnlockLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		var kept *session.Session
		v.visit(func(s *session.Session) {
			kept = s
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
		})
		v.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
			waiting := v.clone()
			locked := make(chan bool, 1)
			go waiting.visit(func(s *session.Session) {
				s.Lock(t.Context())
				locked <- true
			})
			synctest.Wait()
			kept.Unlock(t.Context())
			synctest.Wait()
			select {
			case <-locked:
				t.Error("another request holds the lock, too")
			default:
			}
		})
	})
}

// A panic of the store while a lock is given back is the one that goes on up.
func TestPanicAtRelease(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, &session.Options{Locking: true})
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	lock := v.m.LockID(v.id())
	saves := 0
	store.Hook(double.Before(func(_ context.Context, c *double.Call) error {
		if c.ID == lock {
			if saves++; saves == 2 {
				panic("boom")
			}
		}
		return nil
	}, double.Save))
	defer func() {
		if p := recover(); p != "boom" {
			t.Errorf("panic: %v", p)
		}
	}()
	v.send(v.m, func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.Destroy()
		s.Set("k", 3)
		w.WriteHeader(http.StatusOK)
	})
}

// A lock is prolonged beside the request with the request's context.
func TestLeaseHasContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var with, without int
		m := newManager(t, session.NewMemoryStore(), &session.Options{
			Locking: true, SweepInterval: session.Never, Observer: func(ctx context.Context, _ session.Event) {
				if ctx.Value(useKey{}) == nil {
					without++
				} else {
					with++
				}
			},
		})
		value, _ := begin(t, m)
		without = 0
		r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(context.WithValue(t.Context(), useKey{}, "of the request"))
		r.Header.Set("Cookie", "session_id="+value)
		handle(m, func(s *session.Session) {
			s.Get("k")
			time.Sleep(time.Minute)
		}).ServeHTTP(httptest.NewRecorder(), r)
		if with < 4 || without > 0 {
			t.Errorf("%d events with the request's context, %d without", with, without)
		}
	})
}

// A session that cannot be locked, since there is no room for another record or somebody else has locked it, can still be
// ended: nothing brings it back. Nothing else is done to it.
func TestEndWithoutLock(t *testing.T) {
	full := double.Before(func(_ context.Context, c *double.Call) error {
		if c.Record.Version == 0 {
			return fmt.Errorf("no room: %w", syscall.ENOSPC)
		}
		return nil
	}, double.Save)
	lock := func(s *session.Session) { s.Lock(t.Context()) }
	for _, implicit := range []bool{true, false} {
		for _, locked := range []bool{false, true} {
			t.Run(fmt.Sprintf("implicit %v, locked by another %v", implicit, locked), func(t *testing.T) {
				store := double.New(session.NewMemoryStore())
				v := newVisitor(t, store, nil).login()
				m := newManager(t, store, &session.Options{Locking: implicit, LockWait: time.Millisecond, Logger: quiet})
				attempt := func(fn func(s *session.Session)) int {
					r := v.clone()
					r.m = m
					return r.visit(func(s *session.Session) {
						if !implicit {
							lock(s)
						}
						if fn(s); s.Err() == nil {
							t.Error("it is locked")
						}
					}).StatusCode
				}
				try := func() {
					if status := attempt(func(s *session.Session) { s.Set("k", 2) }); status != http.StatusServiceUnavailable {
						t.Errorf("a change without the lock gets %d", status)
					}
					if status := attempt(func(s *session.Session) { s.User() }); status != http.StatusServiceUnavailable {
						t.Errorf("who reads without the lock gets %d", status)
					}
					if status := attempt((*session.Session).Destroy); status != http.StatusOK {
						t.Errorf("a logout gets %d", status)
					}
				}
				if locked {
					v.visit(func(s *session.Session) { lock(s); try() })
				} else {
					store.Hook(full)
					try()
					store.Hook()
				}
				if v.alive() {
					t.Error("the session lives on")
				}
			})
		}
	}
}

// A lock whose lease ran out is lost for good: it is neither prolonged any more, when the store is back, nor given back.
func TestLostLockStaysLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{LockLease: 2 * time.Second, SweepInterval: session.Never, Logger: quiet}).login()
		wantStatus(t, v.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Fatal(err)
			}
			store.Hook(double.Fail(errDown, double.Save))
			time.Sleep(3 * time.Second)
			s.Set("k", 2)
			if err := s.Save(t.Context()); !errors.Is(err, session.ErrLockLost) {
				t.Errorf("Save: %v", err)
			}
			store.Hook()
			store.Calls() // which begins to count
			time.Sleep(5 * time.Second)
		}), http.StatusConflict)
		if n := store.Calls()[double.Save]; n != 0 {
			t.Errorf("%d saves for a lock that was lost", n)
		}
	})
}

// A session that was ended from elsewhere while the request ran cannot be locked any more, and the observer is told.
func TestLockOfWhatWasRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		opts := &session.Options{SweepInterval: session.Never, Logger: quiet, Observer: seen.observe}
		v := newVisitor(t, session.NewMemoryStore(), opts).login()
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) {
			s.Has("k")
			if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
				t.Error(err)
			}
			if err := s.Save(t.Context()); err != nil { // it was to be renewed, and nothing is lost
				t.Error(err)
			}
			seen.kinds()
			if err := s.Lock(t.Context()); !errors.Is(err, session.ErrGone) {
				t.Errorf("Lock: %v", err)
			}
			if kinds := seen.kinds(); !slices.Equal(kinds, []string{"stale_write"}) {
				t.Errorf("the observer is told %q", kinds)
			}
		})
	})
}

// A session that was locked fails for any other reason as one without a lock does, also where it is to end.
func TestFailureUnderLock(t *testing.T) {
	for _, locks := range []bool{false, true} {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		wantStatus(t, v.clone().visit(func(s *session.Session) {
			if locks {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
			}
			s.Set("bad", func() {})
			s.Destroy()
		}), http.StatusInternalServerError)
		if !v.alive() {
			t.Errorf("locked %v: it has ended", locks)
		}
	}
}
