package sessiontest_test

import (
	"bytes"
	"context"
	"iter"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/sessiontest"
)

// misbehaved are stores that do what no store may do to its caller.
func misbehaved() map[string]func(s *faulty) {
	return map[string]func(s *faulty){
		"panic": func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error { panic("nil map") }
		},
		"panic in a list": func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) { panic("nil map") }
			}
		},
		"goexit": func(s *faulty) {
			s.count = func(c ctx, at int, b byte) (int, error) { runtime.Goexit(); return 0, nil }
		},
		"yield": func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					for e, err := range s.reference.List(c) {
						yield(e, err)
					}
				}
			}
		},
		"yield for ever": func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					for n := 1; n > 0; { // as long as there is something
						n = 0
						for e, err := range s.reference.List(c) {
							yield(e, err)
							n++
						}
					}
				}
			}
		},
		"hang": func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) { time.Sleep(1000 * time.Hour); return 0, nil }
		},
		"lock": func(s *faulty) {
			var mu sync.Mutex
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					mu.Lock()
					defer mu.Unlock()
					s.reference.List(c)(yield)
				}
			}
			s.load = func(c ctx, i id) (rec, error) {
				mu.Lock()
				defer mu.Unlock()
				return s.reference.Load(c, i)
			}
		},
	}
}

// A store that panics, ends the goroutine, hangs or does not stop fails the rule that it was in, and the others go on.
func TestManners(t *testing.T) {
	for name, want := range map[string]struct{ rule, text string }{
		"panic":           {"touch-moves", "Touch: want it to return, got a panic: nil map"},
		"panic in a list": {"list", "List: want it to return, got a panic: nil map"},
		"goexit":          {"count", "Count: want it to return, but it ended the goroutine that called it"},
		"yield":           {"list-stop", "List: want nothing more when yield has returned false"},
		"yield for ever":  {"list-stop", "List: want nothing more when yield has returned false"},
		"hang":            {"sweep-keeps", "DeleteExpired: want it to return, but it has not within 10s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &faulty{reference: newReference()}
				misbehaved()[name](s)
				err := sessiontest.CheckRule(t.Context(), want.rule, nil, s)
				if err == nil || !strings.Contains(err.Error(), "rule "+want.rule+": "+want.text) {
					t.Errorf("the rule says %v, want %q", err, want.text)
				}
				for _, other := range []string{"versions", "delete"} {
					if err := sessiontest.CheckRule(t.Context(), other, nil, s); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(2000 * time.Hour) // what hangs is to end with the bubble
			})
		})
	}
}

// A List that holds a lock while it yields is named within seconds, with the cause.
func TestListHoldsLock(t *testing.T) {
	t.Parallel()
	s := &faulty{reference: newReference()}
	misbehaved()["lock"](s)
	began := time.Now()
	err := sessiontest.CheckRule(t.Context(), "list-open", nil, s)
	for _, want := range []string{"rule list-open: Load, Save and Delete: want them to go on while List is under way",
		"a likely cause: List holds a lock, or the only connection or transaction, while it yields"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the rule says %v, want %q", err, want)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// One store that hangs in every call does not take the time of each rule.
func TestRunGoesOn(t *testing.T) {
	t.Parallel()
	const child = "SESSIONTEST_MANNERS"
	if os.Getenv(child) != "" {
		sessiontest.Run(t, alone(func() session.Store {
			s := &faulty{reference: newReference()}
			misbehaved()["panic"](s)
			misbehaved()["panic in a list"](s)
			misbehaved()["hang"](s)
			return s
		}))
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.short", "-test.run=^TestRunGoesOn$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, _ := cmd.CombinedOutput()
	failed, passed := regexp.MustCompile(`--- FAIL: TestRunGoesOn/([a-z-]+)`), regexp.MustCompile(`--- PASS: TestRunGoesOn/([a-z-]+)`)
	for _, rule := range failed.FindAllSubmatch(out, -1) {
		if !regexp.MustCompile(`^(touch|sweep|list|count|race|id|data|errors|cached|context)`).Match(rule[1]) {
			t.Errorf("the rule %s has failed, too", rule[1])
		}
	}
	if n, p := len(failed.FindAll(out, -1)), len(passed.FindAll(out, -1)); n < 15 || p < 15 || !bytes.Contains(out, []byte("FAIL: TestRunGoesOn/sweep-keeps")) {
		t.Errorf("%d rules have failed and %d passed:\n%s", n, p, out)
	}
}

// A message says the rule, the sentence, what was wanted and got, the calls, the seed, and a likely cause.
func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		rule string
		make func(s *faulty)
		want []string
	}{
		{"expires-past", func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Expires.Equal(time.Unix(0, 0)) {
					r.Expires = time.Time{}
				}
				return s.reference.Save(c, i, r)
			}
		}, []string{"want session.ErrNotFound, got a record of version 1", "Save ", "expires 1970-01-01", "→ success", "→ version 1, 6 bytes, never expires",
			"the contract: A record saved with an Expires that has passed", "a likely cause: a time to live of 0", "the seed: SESSIONTEST_SEED="}},
		{"expires-never", func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if r.Expires.IsZero() {
					r.Expires = time.Unix(0, 0)
				}
				return r, err
			}
		}, []string{"want the expiry zero (never), got 1970-01-01", "a likely cause: never was stored as 0"}},
		{"save-over-live", func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if s.reference.Save(c, i, r) != nil {
					return os.ErrExist
				}
				return nil
			}
		}, []string{`want session.ErrConflict, got the error "file already exists"`, "a likely cause: the driver's error for a key that exists"}},
		{"expires-resolution", func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Expires = r.Expires.Truncate(time.Second)
				return s.reference.Save(c, i, r)
			}
		}, []string{"a likely cause: the expiry is kept in whole seconds"}},
	} {
		s := &faulty{reference: newReference()}
		tt.make(s)
		err := sessiontest.CheckRule(t.Context(), tt.rule, nil, s)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the rule %s says %v, want %q", tt.rule, err, want)
			}
		}
	}
}

// A store that only one process at a time can have right is found out by the second process.
func TestSecondProcess(t *testing.T) {
	if os.Getenv("SESSIONTEST_PER_PROCESS") == "" && os.Getenv("SESSIONTEST_PROCESS_TEST") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.short", "-test.run=^TestSecondProcess$/^(handles|race-increment|versions)$")
		cmd.Env = append(os.Environ(), "SESSIONTEST_PER_PROCESS=1")
		out, err := cmd.CombinedOutput()
		for _, want := range []string{"rule handles:", "handle 3", "through one alone the rule holds"} {
			if err == nil || !bytes.Contains(out, []byte(want)) {
				t.Errorf("the test of a store that each process has for itself does not say %q (%v):\n%s", want, err, out)
			}
		}
		return
	}
	var places sync.Map // of this process
	sessiontest.Run(t, sessiontest.Stores{
		Processes: true,
		Place:     (*testing.T).Name,
		Open: func(_ context.Context, place string) (session.Store, error) {
			s, _ := places.LoadOrStore(place, newReference())
			return s.(session.Store), nil
		},
	})
}
