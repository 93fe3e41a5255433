package sessionotel_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"

	"example.com/session"
	"example.com/session/internal/double"
)

// The number of sessions is counted at most once an interval, and is left out where nobody knows it.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		var counts atomic.Int64
		counted := func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
			if c.Op == double.Count {
				counts.Add(1)
			}
			return next(ctx)
		}
		store.Hook(counted)
		l := newLab(t, store, true, session.Options{IdleTimeout: time.Hour}, trace.NeverSample())
		want := func(n int64, known bool, counted int64) {
			t.Helper()
			got, ok := l.metrics()["session.live{}"]
			if got != n || ok != known {
				t.Errorf("%d sessions live, known %v, want %d, %v", got, ok, n, known)
			}
			synctest.Wait()
			if made := counts.Swap(0); made != counted {
				t.Errorf("it was counted %d times, want %d", made, counted)
			}
		}
		want(0, true, 1)
		l.set("one")
		want(0, true, 0) // it is not long ago
		time.Sleep(time.Minute)
		want(0, true, 1) // nobody waits for the next count
		want(1, true, 0)
		l.visit(func(s *session.Session, _ context.Context) { s.Destroy() }) // whose mark is none
		time.Sleep(time.Minute)
		l.metrics()
		synctest.Wait()
		want(0, true, 1)

		// A count that takes long is waited for by nobody, and is not asked for again meanwhile.
		store.Hook(counted, func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
			if c.Op == double.Count {
				time.Sleep(30 * time.Second)
			}
			return next(ctx)
		})
		time.Sleep(time.Minute)
		began := time.Now()
		want(0, true, 1)
		want(0, true, 0)
		if d := time.Since(began); d != 0 {
			t.Errorf("whoever asked waited %v", d)
		}
		time.Sleep(time.Minute)

		// Of a store that is down, nobody says that it has no sessions.
		store.Hook(counted, double.Fail(errDown, double.Count))
		want(0, true, 1)
		time.Sleep(3 * time.Minute)
		want(0, false, 1)
		store.Hook(counted)
		time.Sleep(time.Minute)
		l.metrics()
		synctest.Wait()
		want(0, true, 1)
	})
}

// A store that cannot count is asked once, and one that is slow keeps whoever looks first for a second.
func TestLiveUnknown(t *testing.T) {
	for name, hook := range map[string]double.Hook{
		"cannot": double.Fail(errors.ErrUnsupported, double.Count, double.List),
		"slow": func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
			if c.Op == double.Count {
				<-ctx.Done()
				return ctx.Err()
			}
			return next(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := double.New(session.NewMemoryStore())
				var counts atomic.Int64
				store.Hook(func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
					if c.Op == double.Count {
						counts.Add(1)
					}
					return next(ctx)
				}, hook)
				l := newLab(t, store, true, session.Options{}, trace.NeverSample())
				began := time.Now()
				if _, ok := l.metrics()["session.live{}"]; ok {
					t.Error("it is known how many sessions live")
				}
				if d := time.Since(began); name == "cannot" && d != 0 || d > time.Second {
					t.Errorf("whoever asked waited %v", d)
				}
				if name == "cannot" {
					time.Sleep(time.Hour)
					l.metrics()
				}
				if n := counts.Load(); n != 1 {
					t.Errorf("it was counted %d times", n)
				}
				began = time.Now()
				l.observer.Close() // which ends a count
				if d := time.Since(began); d != 0 {
					t.Errorf("Close took %v", d)
				}
				if _, ok := l.metrics()["session.live{}"]; ok {
					t.Error("it is known after Close")
				}
			})
		})
	}
}
