package double

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// On returns a hook that is in the way of some operations alone, or of all where none is named.
func On(h Hook, ops ...Op) Hook {
	if len(ops) == 0 {
		return h
	}
	return func(ctx context.Context, c *Call, next func(context.Context) error) error {
		if !slices.Contains(ops, c.Op) {
			return next(ctx)
		}
		return h(ctx, c, next)
	}
}

// Nth returns a hook that is in the way of one call alone, counted from 1.
func Nth(n int, h Hook, ops ...Op) Hook {
	var calls atomic.Int64
	return On(func(ctx context.Context, c *Call, next func(context.Context) error) error {
		if calls.Add(1) != int64(n) {
			return next(ctx)
		}
		return h(ctx, c, next)
	}, ops...)
}

// Before has f called before the store gets a call, which it does not get if f returns an error.
func Before(f func(context.Context, *Call) error, ops ...Op) Hook {
	return On(func(ctx context.Context, c *Call, next func(context.Context) error) error {
		if err := f(ctx, c); err != nil {
			return err
		}
		return next(ctx)
	}, ops...)
}

// After has f called with what the store returned. The caller gets f's result.
func After(f func(context.Context, *Call, error) error, ops ...Op) Hook {
	return On(func(ctx context.Context, c *Call, next func(context.Context) error) error {
		return f(ctx, c, next(ctx))
	}, ops...)
}

// Fail has calls fail that the store does not get.
func Fail(err error, ops ...Op) Hook {
	return Before(func(context.Context, *Call) error { return err }, ops...)
}

// Lose has the store get the calls, and an error come in the place of its replies.
func Lose(err error, ops ...Op) Hook {
	return After(func(context.Context, *Call, error) error { return err }, ops...)
}

// ErrDead is what a store returns after Die.
var ErrDead = errors.New("the store is dead")

// Die has a number of calls pass, and no more.
func Die(after int, ops ...Op) Hook {
	var calls atomic.Int64
	return Before(func(context.Context, *Call) error {
		if calls.Add(1) > int64(after) {
			return ErrDead
		}
		return nil
	}, ops...)
}

// Stop has a number of calls pass and the store then stand still, for good: stop is called once, and neither the last of
// the calls returns nor any further one.
func Stop(after int, stop func()) Hook {
	var begun, done atomic.Int64
	return func(ctx context.Context, _ *Call, next func(context.Context) error) error {
		n := begun.Add(1)
		if n == 1 && after == 0 {
			stop()
		}
		if n > int64(after) {
			select {}
		}
		err := next(ctx)
		if done.Add(1) == int64(after) {
			stop()
			select {}
		}
		return err
	}
}

// Late has calls wait until they are released, whatever their callers' patience: as a network may.
func Late(release <-chan struct{}, ops ...Op) Hook {
	return On(func(ctx context.Context, _ *Call, next func(context.Context) error) error {
		<-release
		return next(context.WithoutCancel(ctx))
	}, ops...)
}

// Slow has calls take time, or fail when their context is done.
func Slow(takes time.Duration) Hook {
	return Before(func(ctx context.Context, _ *Call) error {
		timer := time.NewTimer(takes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
}

// Gate has each call wait until open lets it through, or fail when its context is done.
func Gate(open <-chan struct{}, ops ...Op) Hook {
	return Before(func(ctx context.Context, _ *Call) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, ops...)
}

// Meet has the replies to the first n calls come when all n are there, however long that takes.
func Meet(n int, ops ...Op) Hook {
	var come atomic.Int64
	all := make(chan struct{})
	return After(func(_ context.Context, _ *Call, err error) error {
		switch i := come.Add(1); {
		case i == int64(n):
			close(all)
		case i < int64(n):
			<-all
		}
		return err
	}, ops...)
}
