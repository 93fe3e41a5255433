package session_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// Changes that made it into the store are told from those that did not, whatever becomes of the replies.
func TestLostReplies(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
		n := session.Key[int]("n")
		reset := errors.New("connection reset")
		lost := func(then func()) double.Hook {
			return double.After(func(context.Context, *double.Call, error) error { then(); return reset })
		}
		failed := func(then func()) double.Hook {
			return double.Before(func(context.Context, *double.Call) error { then(); return reset })
		}
		twice := func(func()) double.Hook {
			return func(ctx context.Context, _ *double.Call, next func(context.Context) error) error {
				_ = next(ctx)
				return next(ctx)
			}
		}
		for _, test := range []struct {
			name      string
			fault     func(then func()) double.Hook
			meanwhile bool // another client does something in between
		}{
			{"saved, but the reply is an error", lost, false},
			{"saved, but sent twice", twice, false},
			{"not saved, an error", failed, false},
			{"saved, the reply is lost, and another one saves", lost, true},
			{"not saved, and another one saves", failed, true},
		} {
			for _, op := range []string{"update", "create", "regenerate", "destroy", "renew"} {
				t.Run(op+"/"+test.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						store := double.New(session.NewMemoryStore())
						opts := session.Options{SweepInterval: session.Never, RenewInterval: session.Never}
						other := newVisitor(t, store.Store, &opts)
						if op == "renew" {
							opts.RenewInterval = time.Minute
						}
						v := newVisitor(t, store, &opts)
						want := 0
						if op != "create" {
							v.visit(func(s *session.Session) { n.Set(s, 1) })
							want = 1
						}
						time.Sleep(61 * time.Second)
						other.cookie = v.cookie
						done := false
						store.Hook(double.Nth(1, test.fault(func() {
							if test.meanwhile && other.cookie != nil {
								res := other.visit(func(s *session.Session) { n.Update(s, func(n int) int { return n + 10 }) })
								done = res.StatusCode == http.StatusOK // else it was too late
							}
						}), double.Save))
						res := v.visit(func(s *session.Session) {
							switch op {
							case "regenerate":
								s.Regenerate()
							case "destroy":
								s.Destroy()
								return
							}
							n.Update(s, func(n int) int { return n + 1 })
						})
						wantStatus(t, res, http.StatusOK)
						want++
						if op == "destroy" {
							want = 0
						} else if done {
							want += 10
						}
						v.visit(func(s *session.Session) {
							if got, _ := n.Get(s); got != want {
								t.Errorf("the number is %d, want %d", got, want)
							}
						})
					})
				})
			}
		}
	})
}
