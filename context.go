package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A storeContext is the context of a step at the store: context.WithTimeout of context.WithoutCancel, so that a
// client that hangs up does not cancel a save. A first Err, as the step begins, is all that a store in memory asks
// for: it does without a look at the clock, which would cost more than the store's work (BenchmarkRequest/read).
type storeContext struct {
	parent context.Context
	limit  *timeLimit
	asked  atomic.Bool // Err was called
	ended  atomic.Bool
	clock  atomic.Pointer[storeClock] // nil until time matters
}

// A storeClock is when a step has to end, and what tells those who wait.
type storeClock struct {
	deadline time.Time
	mu       sync.Mutex
	timed    context.Context // nil until somebody waits
	stop     context.CancelFunc
}

func newStoreContext(parent context.Context, limit *timeLimit) *storeContext {
	return &storeContext{parent: parent, limit: limit}
}

// begin returns the clock, and reports whether it has just begun to run.
func (c *storeContext) begin() (clock *storeClock, now bool) {
	if clock = c.clock.Load(); clock != nil {
		return clock, false
	}
	clock = &storeClock{deadline: time.Now().Add(c.limit.timeout)}
	if !c.clock.CompareAndSwap(nil, clock) {
		return c.clock.Load(), false
	}
	return clock, true
}

func (c *storeContext) Deadline() (time.Time, bool) {
	clock, _ := c.begin()
	return clock.deadline, true
}

func (c *storeContext) Done() <-chan struct{} {
	clock, _ := c.begin()
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if clock.timed == nil {
		clock.timed, clock.stop = c.limit.start(clock.deadline)
		if c.ended.Load() {
			clock.stop()
		}
	}
	return clock.timed.Done()
}

func (c *storeContext) Err() error {
	if timed := c.timed(); timed != nil && timed.Err() != nil {
		return timed.Err()
	}
	if c.ended.Load() {
		return context.Canceled
	}
	if !c.asked.Swap(true) {
		return nil
	}
	if clock, now := c.begin(); !now && !time.Now().Before(clock.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// timed returns what tells those who wait, nil if nobody does.
func (c *storeContext) timed() context.Context {
	clock := c.clock.Load()
	if clock == nil {
		return nil
	}
	clock.mu.Lock()
	defer clock.mu.Unlock()
	return clock.timed
}

// Value also looks where Done looks: package context recognizes its own contexts by a value.
func (c *storeContext) Value(key any) any {
	if timed := c.timed(); timed != nil {
		if v := timed.Value(key); v != nil {
			return v
		}
	}
	return context.WithoutCancel(c.parent).Value(key)
}

// cancel ends the step.
func (c *storeContext) cancel() {
	c.ended.Store(true)
	clock := c.clock.Load()
	if clock == nil {
		return
	}
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if clock.stop != nil {
		clock.stop()
	}
}

// A timeLimit is how long steps at the store may take. Those that begin at about the same time share a timer: to start
// and stop one for each takes a server one request in twenty (read on Redis, in module bench).
type timeLimit struct {
	timeout time.Duration
	shared  atomic.Pointer[sharedTimer]
}

type sharedTimer struct {
	context.Context
	earliest, latest time.Time // the deadlines that it serves; it goes off with the latest
}

// precision is by what part of the timeout a shared timer may be late.
const precision = 64

// start returns a context that is done at the deadline, or a little later. stop releases it.
func (l *timeLimit) start(deadline time.Time) (timed context.Context, stop context.CancelFunc) {
	if deadline.Year() < 2001 {
		// In a bubble of testing/synctest, where the year is 2000, nothing can be shared with what is outside.
		return context.WithDeadline(context.Background(), deadline)
	}
	t := l.shared.Load()
	if t == nil || deadline.Before(t.earliest) || deadline.After(t.latest) {
		latest := deadline.Add(l.timeout / precision)
		timed, stop := context.WithDeadline(context.Background(), latest)
		_ = stop // others may be waiting; at the deadline it has nothing left to release
		t = &sharedTimer{timed, deadline, latest}
		l.shared.Store(t)
	}
	return t.Context, func() {}
}
