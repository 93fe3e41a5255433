package session

import (
	"context"
	"sync"
	"time"
)

// A storeContext is the context of a step at the store: context.WithTimeout of context.WithoutCancel, so that a
// client that hangs up does not cancel a save. A first Err, as the step begins, is all that a store in memory asks
// for: it does without a look at the clock, and anything else without a timer until somebody waits, as they would
// cost more than the store's work (BenchmarkRequest/read).
type storeContext struct {
	parent  context.Context
	timeout time.Duration

	mu       sync.Mutex
	deadline time.Time // zero until it matters
	asked    bool      // Err was called
	ended    bool
	timed    context.Context // nil until somebody waits
	stop     context.CancelFunc
}

func newStoreContext(parent context.Context, timeout time.Duration) *storeContext {
	return &storeContext{parent: parent, timeout: timeout}
}

func (c *storeContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin()
	return c.deadline, true
}

func (c *storeContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.begin()
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
	if !c.asked {
		c.asked = true
		return nil
	}
	if !c.begin() && !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// begin sets the deadline, and reports whether it had none. c.mu is held.
func (c *storeContext) begin() bool {
	if !c.deadline.IsZero() {
		return false
	}
	c.deadline = time.Now().Add(c.timeout)
	return true
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
