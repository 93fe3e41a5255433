package session

import (
	"context"
	"sync"
	"time"
)

// A storeContext is the context of a step at the store: context.WithTimeout of context.WithoutCancel, so that a
// client that hangs up does not cancel a save. It starts no timer before somebody waits for it: an embedded store
// never does, and would pay more for the timer than for its work.
type storeContext struct {
	parent   context.Context
	deadline time.Time

	mu    sync.Mutex
	ended bool
	timed context.Context // nil until somebody waits
	stop  context.CancelFunc
}

func newStoreContext(parent context.Context, timeout time.Duration) *storeContext {
	return &storeContext{parent: parent, deadline: time.Now().Add(timeout)}
}

func (c *storeContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *storeContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.stop = context.WithDeadline(context.WithoutCancel(c.parent), c.deadline)
		if c.ended {
			c.stop()
		}
	}
	return c.timed.Done()
}

func (c *storeContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.timed != nil:
		return c.timed.Err()
	case c.ended:
		return context.Canceled
	}
	if !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value looks where Done looks: package context recognizes its own contexts by a value.
func (c *storeContext) Value(key any) any {
	c.mu.Lock()
	ctx := c.timed
	c.mu.Unlock()
	if ctx == nil {
		ctx = context.WithoutCancel(c.parent)
	}
	return ctx.Value(key)
}

// cancel ends the step.
func (c *storeContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.stop != nil {
		c.stop()
	}
}
