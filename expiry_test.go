package session_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

func TestTimeouts(t *testing.T) {
	const forever = -1
	for _, test := range []struct {
		name  string
		opts  session.Options
		setup func(*session.Session)
		every time.Duration // between visits
		lives time.Duration // visits before that age find it; forever means all do
	}{
		{"idle, used", session.Options{}, nil, 14 * time.Minute, 24 * time.Hour},
		{"idle, unused", session.Options{}, nil, 15 * time.Minute, 0},
		{"absolute", session.Options{IdleTimeout: time.Hour, AbsoluteTimeout: 3 * time.Hour}, nil, 10 * time.Minute, 3 * time.Hour},
		{"no idle", session.Options{IdleTimeout: session.Never}, nil, 11 * time.Hour, 24 * time.Hour},
		{"neither", session.Options{IdleTimeout: session.Never, AbsoluteTimeout: session.Never}, nil, 400 * 24 * time.Hour, forever},
		{"idle alone", session.Options{AbsoluteTimeout: session.Never}, nil, 14 * time.Minute, forever},
		{"of its own, longer", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(2 * time.Hour) }, 119 * time.Minute, 24 * time.Hour},
		{"of its own, shorter", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(time.Minute) }, time.Minute, 0},
		{"of its own, shorter than the touch interval", session.Options{TouchInterval: 5 * time.Minute},
			func(s *session.Session) { s.SetIdleTimeout(2 * time.Minute) }, time.Minute, 24 * time.Hour},
		{"of its own, never", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(session.Never) }, 11 * time.Hour, 24 * time.Hour},
		{"of its own, and back", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(time.Hour); s.SetIdleTimeout(0) }, 15 * time.Minute, 0},
	} {
		for _, renew := range []time.Duration{session.Never, 4 * time.Minute} {
			t.Run(test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := test.opts
					opts.RenewInterval, opts.SweepInterval = renew, session.Never
					v := newVisitor(t, session.NewMemoryStore(), &opts)
					v.visit(func(s *session.Session) {
						s.Set("k", 1)
						if test.setup != nil {
							test.setup(s)
						}
					})
					found := true
					for visits, age := 0, test.every; found && visits < 200; visits, age = visits+1, age+test.every {
						time.Sleep(test.every)
						v.visit(func(s *session.Session) { found = s.Has("k") })
						if want := test.lives == forever || age < test.lives; found != want {
							t.Fatalf("after %v, there is %v, want %v", age, found, want)
						}
					}
				})
			})
		}
	}
}

// The expiry slides, but is written only when a tenth of the idle timeout, or the set interval, has passed.
func TestTouchIsThrottled(t *testing.T) {
	for _, test := range []struct {
		interval time.Duration
		want     []int // touches at each of the visits, a minute apart
	}{
		{0, []int{0, 1, 0, 1, 0, 1}}, // 90 seconds
		{3 * time.Minute, []int{0, 0, 1, 0, 0, 1}},
		{time.Second, []int{1, 1, 1, 1, 1, 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			v := newVisitor(t, store, &session.Options{TouchInterval: test.interval, RenewInterval: session.Never, SweepInterval: session.Never})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			store.Calls()
			for i, want := range test.want {
				time.Sleep(time.Minute)
				v.visit(func(s *session.Session) { s.Has("k") })
				if got := store.Calls(); got != [4]int{1, 0, want, 0} {
					t.Errorf("interval %v, minute %d: loads, saves, touches, deletes are %v", test.interval, i+1, got)
				}
			}
		})
	}
}

// A session that expired does not come back by a cookie that was renewed shortly before, nor by the one before that.
func TestShortIdleTimeoutAfterRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		old := v.clone()
		time.Sleep(4 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") })
		time.Sleep(5 * time.Second)
		v.visit(func(s *session.Session) { s.SetIdleTimeout(time.Second) })
		v.visit(func(s *session.Session) {
			if !s.Expires().Equal(time.Now().Add(time.Second)) || !s.LastUsed().Equal(time.Now()) {
				t.Errorf("expires %v, last used %v", s.Expires(), s.LastUsed())
			}
		})
		time.Sleep(time.Second)
		if v.alive() || old.alive() {
			t.Errorf("it is alive by its cookie: %v; by the one before: %v", v.alive(), old.alive())
		}
	})
}

// However long a duration is, what it is added to does not overflow: requests are served, waits and leases hold, nothing
// is forgotten or removed early, and nothing expires beyond what all stores keep exactly.
func TestLongDurations(t *testing.T) {
	for name, set := range map[string]func(*session.Options, time.Duration){
		"IdleTimeout":     func(o *session.Options, d time.Duration) { o.IdleTimeout, o.AbsoluteTimeout = d, session.Never },
		"AbsoluteTimeout": func(o *session.Options, d time.Duration) { o.IdleTimeout, o.AbsoluteTimeout = session.Never, d },
		"RenewInterval":   func(o *session.Options, d time.Duration) { o.RenewInterval = d },
		"RenewGrace":      func(o *session.Options, d time.Duration) { o.RenewGrace = d },
		"TouchInterval":   func(o *session.Options, d time.Duration) { o.TouchInterval, o.IdleTimeout = d, session.Never },
		"StoreTimeout":    func(o *session.Options, d time.Duration) { o.StoreTimeout = d },
		"SweepInterval":   func(o *session.Options, d time.Duration) { o.SweepInterval = d },
		"LockLease":       func(o *session.Options, d time.Duration) { o.LockLease = d },
		"LockWait":        func(o *session.Options, d time.Duration) { o.LockWait = d },
		"all": func(o *session.Options, d time.Duration) {
			*o = session.Options{
				IdleTimeout: d, AbsoluteTimeout: d, RenewGrace: d, TouchInterval: d / 4, StoreTimeout: d, SweepInterval: d,
				LockLease: d, LockWait: d, Cookie: session.Cookie{Persistent: true},
			}
		},
		"of its own": func(*session.Options, time.Duration) {},
	} {
		for _, d := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 20 * 19, 250 * 365 * 24 * time.Hour} {
			t.Run(fmt.Sprint(name, " of ", d), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := &session.Options{SweepInterval: session.Never}
					set(opts, d)
					opts.Observer = func(_ context.Context, e session.Event) {
						if e.Op == "sweep" {
							t.Fatal("the store is swept")
						}
					}
					useLong(t, opts, d, name == "of its own")
				})
			})
		}
	}
}

// useLong has sessions with a long duration go through what durations decide.
func useLong(t *testing.T, opts *session.Options, d time.Duration, own bool) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, opts)
	v.visit(func(s *session.Session) {
		s.Set("k", 1)
		if own {
			s.Remember(d)
		}
	})
	soon := func(s *session.Session) {
		if at := s.Expires(); at.Before(time.Now()) || at.Year() > 2200 {
			t.Errorf("it expires %v", at)
		}
	}
	wantStatus(t, v.visit(soon), http.StatusOK)

	// A lock keeps another process out for as long as that waits, and this one no longer than it is locked.
	other := newVisitor(t, store, &session.Options{SweepInterval: session.Never, LockWait: time.Second, Logger: quiet})
	res := v.visit(func(s *session.Session) {
		if err := s.Lock(t.Context()); err != nil {
			t.Error(err)
		}
		other.cookie = v.cookie
		wantStatus(t, other.visit(func(s *session.Session) { s.Lock(t.Context()) }), http.StatusServiceUnavailable)
		s.Set("locked", 1)
	})
	wantStatus(t, res, http.StatusOK)
	start := time.Now()
	wantStatus(t, v.visit(func(s *session.Session) { s.Lock(t.Context()) }), http.StatusOK)
	if waited := time.Since(start); waited > time.Second {
		t.Errorf("a free lock is waited for: %v", waited)
	}

	// A save whose reply is lost, and that another one follows, is found.
	store.Hook(double.Nth(1, double.After(func(_ context.Context, _ *double.Call, err error) error {
		if err != nil {
			return err
		}
		wantStatus(t, other.visit(func(s *session.Session) { s.Set("other", 1) }), http.StatusOK)
		return errDown
	}), double.Save))
	wantStatus(t, v.visit(func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) }), http.StatusOK)
	v.visit(func(s *session.Session) {
		if n, _ := hitCounter.Get(s); n != 1 || !s.Has("other") {
			t.Errorf("the change was made %d times", n)
		}
	})

	// The cookie before is accepted for the grace, which the first use of the new one begins.
	time.Sleep(5 * time.Minute)
	tab := v.clone()
	v.visit(func(s *session.Session) { s.Set("k", 2) })
	v.visit(func(s *session.Session) { s.Set("k", 3) })
	if time.Sleep(time.Second); !tab.alive() {
		t.Error("the cookie before is not accepted")
	}

	v.login()
	if list := userSessions(t, v.m); len(list) != 1 {
		t.Errorf("the user has the sessions %v", list)
	}
	wantStatus(t, v.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
	if v.alive() {
		t.Error("it is alive after its end")
	}
}

// An idle timeout that has become shorter holds from the next use on, and so does a clock that was set back.
func TestExpiryComesNearer(t *testing.T) {
	for name, opts := range map[string]session.Options{
		"a shorter timeout": {IdleTimeout: 12 * time.Hour}, "a clock that was ahead": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts.SweepInterval, opts.RenewInterval = session.Never, session.Never
				v := newVisitor(t, session.NewMemoryStore(), &opts)
				if opts.IdleTimeout == 0 {
					v.m.SetClock(func() time.Time { return time.Now().Add(20 * time.Hour) })
				}
				v.visit(func(s *session.Session) { s.Set("k", 1) })
				v.m = newManager(t, v.store, &session.Options{SweepInterval: session.Never, RenewInterval: session.Never})
				for range 2 {
					v.visit(func(s *session.Session) {
						if !s.Has("k") {
							t.Fatal("it has ended")
						}
					})
					time.Sleep(time.Second)
				}
				if info, err := v.m.Inspect(t.Context(), v.id()); err != nil || time.Until(info.Expires) > 15*time.Minute {
					t.Errorf("it ends in %v, %v", time.Until(info.Expires), err)
				}
			})
		})
	}
}

func TestImpossibleIdleTimeout(t *testing.T) {
	for _, d := range []time.Duration{-1, -time.Hour, time.Microsecond} {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
		wantStatus(t, v.visit(func(s *session.Session) {
			s.Set("k", 1)
			if s.SetIdleTimeout(d); s.Err() == nil || !strings.Contains(s.Err().Error(), d.String()) {
				t.Errorf("SetIdleTimeout(%v): %v", d, s.Err())
			}
		}), http.StatusInternalServerError)
		if v.cookie != nil {
			t.Errorf("with %v, the session was stored", d)
		}
	}
}
