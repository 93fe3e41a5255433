package sessiontest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/sessiontest"
)

func TestRun(t *testing.T) {
	var places sync.Map
	sessiontest.Run(t, sessiontest.Stores{
		Place: (*testing.T).Name,
		Open: func(_ context.Context, place string) (session.Store, error) {
			s, _ := places.LoadOrStore(place, newReference())
			return s.(session.Store), nil
		},
	})
}

// alone is for stores that are each at a place of their own.
func alone(open func() session.Store) sessiontest.Stores {
	return sessiontest.Stores{Once: true, Open: func(context.Context, string) (session.Store, error) { return open(), nil }}
}

// Run skips what a store need not have, and says so.
func TestRunSkips(t *testing.T) {
	for _, c := range []struct {
		name    string
		store   func() session.Store
		skipped []string
	}{
		{"no optional interface", func() session.Store { return struct{ session.Store }{newReference()} },
			[]string{"touch", "sweep", "list", "count"}},
		{"nothing optional underneath", func() session.Store { return newWrapper() },
			[]string{"touch", "sweep", "list", "count"}},
		{"a list", func() session.Store { return struct{ session.Lister }{newReference()} },
			[]string{"touch", "sweep", "count", "list-touched"}},
		{"a number", func() session.Store { return struct{ session.Counter }{newReference()} },
			[]string{"touch", "sweep", "list", "count"}}, // what it should be, nobody can tell
	} {
		t.Run(c.name, func(t *testing.T) {
			stores := alone(c.store)
			stores.Short = true
			var subtests []*testing.T
			stores.Place = func(t *testing.T) string {
				subtests = append(subtests, t)
				return ""
			}
			sessiontest.Run(t, stores)
			for _, sub := range subtests {
				_, name, _ := strings.Cut(strings.TrimPrefix(sub.Name(), t.Name()), "/")
				group, _, _ := strings.Cut(strings.TrimPrefix(name, "race-"), "-")
				optional := (slices.Contains(c.skipped, group) || slices.Contains(c.skipped, name)) && name != "touch-helper" || name == "handles" || name == "close"
				if sub.Skipped() != optional {
					t.Errorf("%s: skipped: %v, want %v", name, sub.Skipped(), optional)
				}
			}
		})
	}
}

// The short way saves far less.
func TestRunShort(t *testing.T) {
	var most int64
	stores := alone(func() session.Store { return nil })
	stores.Short = true
	stores.Place = (*testing.T).Name
	stores.Open = func(_ context.Context, place string) (session.Store, error) {
		store := double.New(newReference())
		if strings.HasSuffix(place, "/versions-many") {
			saves := new(atomic.Int64)
			store.Hook(double.Before(func(context.Context, *double.Call) error { most = max(most, saves.Add(1)); return nil }, double.Save))
		}
		return store, nil
	}
	sessiontest.Run(t, stores)
	if most < 1<<8 || most > 1<<9 {
		t.Errorf("the most saves of one record are %d", most)
	}
}

// Run fails the subtest of a broken rule, and no other.
func TestRunFails(t *testing.T) {
	const child = "SESSIONTEST_BROKEN_STORE"
	if os.Getenv(child) != "" {
		sessiontest.Run(t, alone(func() session.Store {
			s := &faulty{reference: newReference()}
			s.delete = func(c ctx, i id) error {
				if _, err := s.reference.Load(c, i); err != nil {
					return err
				}
				return s.reference.Delete(c, i)
			}
			return s
		}))
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v",
		"-test.run=^TestRunFails$/^(load-unknown|delete-absent|delete-create)$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("the test of a broken store passed")
	}
	for _, line := range []string{
		"--- FAIL: TestRunFails/delete-absent",
		"sessiontest: rule delete-absent: Delete under an ID that was never used: want success, got session.ErrNotFound\n",
		"the contract: Delete of a record that is not there is no error\n",
		"\n    --- PASS: TestRunFails/load-unknown",
	} {
		if !bytes.Contains(out, []byte(line)) {
			t.Errorf("the test of a broken store does not say %q:\n%s", line, out)
		}
	}
}

// Stores that differ within the contract pass, and get all back that Check wrote.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name  string
		store func() (session.Store, *reference)
	}{
		{"as simple as can be", func() (session.Store, *reference) {
			s := newReference()
			return s, s
		}},
		{"no optional interface", func() (session.Store, *reference) {
			s := newReference()
			return struct{ session.Store }{s}, s
		}},
		{"nothing optional underneath", func() (session.Store, *reference) {
			s := newWrapper()
			return s, s.reference
		}},
		{"as a server does it", func() (session.Store, *reference) {
			s := newServer()
			return s, s.reference
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(t *testing.T) {
				store, ref := c.store()
				if err := sessiontest.Check(t.Context(), store); err != nil {
					t.Error(err)
				}
				if len(ref.recs) > 0 {
					t.Errorf("%d records were left behind", len(ref.recs))
				}
			}
			if !testing.Short() {
				t.Run("real time", check)
			}
			t.Run("bubble", func(t *testing.T) { synctest.Test(t, check) })
		})
	}
}

// Others save, delete and let expire in the same store while it is checked.
func TestCheckShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReference()
		keep := rec{Data: []byte("of somebody else"), Expires: time.Now().Add(24 * time.Hour)}
		s.put(id{1}, keep)
		stop := make(chan struct{})
		go func() {
			for n := byte(0); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
					s.put(id{2, n}, rec{Version: 1, Expires: time.Now().Add(20 * time.Millisecond)})
					s.put(id{3, n}, rec{Version: 1, Expires: time.Now().Add(time.Hour)})
					s.Delete(t.Context(), id{3, n / 2})
				}
			}
		}()
		if err := sessiontest.Check(t.Context(), s); err != nil {
			t.Error(err)
		}
		close(stop)
		if got := s.peek(id{1}); !bytes.Equal(got.Data, keep.Data) || !got.Expires.Equal(keep.Expires) {
			t.Errorf("the record of somebody else was changed to %v", got)
		}
	})
}

// Check ends with its context, says so instead of calling the store broken, and cleans up nevertheless.
func TestCheckCancelled(t *testing.T) {
	for _, after := range []int32{0, 1, 10, 500} {
		synctest.Test(t, func(t *testing.T) {
			c, cancel := context.WithCancel(t.Context())
			s := &faulty{reference: newReference()}
			var calls atomic.Int32
			s.save = func(c ctx, i id, r rec) error {
				if calls.Add(1) > after {
					cancel()
				}
				return cmpErr(c.Err(), func() error { return s.reference.Save(c, i, r) })
			}
			if after == 0 {
				cancel()
			}
			err := sessiontest.Check(c, s)
			if !errors.Is(err, context.Canceled) || brokenRules(err) != nil {
				t.Errorf("cancelled after %d calls of Save, Check returned %v; want context.Canceled", after, err)
			}
			if len(s.recs) > 0 {
				t.Errorf("cancelled after %d calls of Save, %d records were left behind", after, len(s.recs))
			}
		})
	}
}

// A store that does not return hangs no Check, nor does it pass.
func TestCheckHangs(t *testing.T) {
	for _, c := range []struct {
		what, want string
		load       func(c ctx) error
	}{
		{"sleeps", "Load: want it to return, but it has not within 10s", func(ctx) error {
			time.Sleep(24 * time.Hour)
			return nil
		}},
		{"waits for its context", "Load: want it to return, but it has not within 10s", func(c ctx) error {
			<-c.Done()
			return c.Err()
		}},
		{"ends the goroutine", "ended the goroutine", func(ctx) error {
			runtime.Goexit()
			return nil
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &faulty{reference: newReference()}
			s.load = func(cx ctx, i id) (rec, error) { return rec{}, c.load(cx) }
			err := sessiontest.Check(t.Context(), s)
			if broken := brokenRules(err); len(broken) == 0 || broken[0] != "load-unknown" {
				t.Errorf("a store that %s: Check returned %v; want rule load-unknown broken first", c.what, err)
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("a store that %s: Check returned %v; want %q", c.what, err, c.want)
			}
			time.Sleep(48 * time.Hour) // what hangs is to end with the bubble
		})
	}
	if err := sessiontest.Check(t.Context(), nil); err == nil {
		t.Error("Check of no store returned no error")
	}
}

// Each fault is found, and no rule is without a fault that breaks it.
func TestFaults(t *testing.T) {
	proved := make(map[string]bool)
	for _, f := range faults() {
		proved[f.rule] = true
		t.Run(f.rule+": "+f.what, func(t *testing.T) {
			check := func(t *testing.T) {
				err := f.check(t.Context())
				if !slices.Contains(brokenRules(err), f.rule) {
					t.Errorf("the rule returned %v; want rule %s broken", err, f.rule)
				}
			}
			if f.real {
				defer leaked.close()
				t.Run("real time", check)
				f.second = true
				t.Run("two handles", check) // the first alone has a quarter of the time
				return
			}
			synctest.Test(t, func(t *testing.T) {
				check(t)
				time.Sleep(24 * time.Hour) // what hangs is to end with the bubble
			})
		})
	}
	for _, name := range sessiontest.RuleNames() {
		if !proved[name] {
			t.Errorf("no fault breaks rule %s", name)
		}
	}
}

// brokenRules returns the names of the rules that err, from Check, calls broken.
func brokenRules(err error) []string {
	var names []string
	if err == nil {
		return nil
	}
	for line := range strings.Lines(err.Error()) {
		if rest, ok := strings.CutPrefix(line, "sessiontest: rule "); ok {
			name, _, _ := strings.Cut(rest, ":")
			names = append(names, name)
		}
	}
	return names
}
