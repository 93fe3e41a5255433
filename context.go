package session

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// A storeContext is the context of a step at the store: context.WithTimeout of context.WithoutCancel, so that a
// client that hangs up does not cancel a save. A first Err, as the step begins, is all that a store in memory asks
// for: it does without a look at the clock, which would cost more than the store's work (BenchmarkRequest/read).
type storeContext struct {
	parent context.Context
	limit  *timeLimit
	asked  atomic.Bool                // Err was called
	clock  atomic.Pointer[storeClock] // nil until time matters
}

// A storeClock is done when the time of a step, or of all that share it, is up.
type storeClock struct {
	context.Context
	stop context.CancelFunc // nil if it is shared
}

func newStoreContext(parent context.Context, limit *timeLimit) *storeContext {
	return &storeContext{parent: parent, limit: limit}
}

// begin returns the step's clock, which runs from the first call on.
func (c *storeContext) begin() *storeClock {
	if clock := c.clock.Load(); clock != nil {
		return clock
	}
	clock := c.limit.start(c.parent)
	if !c.clock.CompareAndSwap(nil, clock) {
		clock.end()
	}
	return c.clock.Load()
}

func (c *storeContext) Deadline() (time.Time, bool) { return c.begin().Deadline() }

func (c *storeContext) Done() <-chan struct{} { return c.begin().Done() }

func (c *storeContext) Err() error {
	clock := c.clock.Load()
	if clock == nil {
		if c.asked.Swap(true) {
			c.begin()
		}
		return nil
	}
	if err := clock.Err(); err != nil {
		return err
	}
	if deadline, _ := clock.Deadline(); !time.Now().Before(deadline) { // a call that waits for a connection may have learnt it before
		return context.DeadlineExceeded
	}
	return nil
}

// Value also looks where Done looks: package context recognizes its own contexts by a value. The session is hidden: it
// is locked, and a store or a logger that asks it for the user's name would deadlock.
func (c *storeContext) Value(key any) any {
	if leadsToSession(key) {
		return noSession{}
	}
	if clock := c.clock.Load(); clock != nil {
		if v := clock.Value(key); v != nil {
			return v
		}
	}
	return context.WithoutCancel(c.parent).Value(key)
}

func leadsToSession(key any) bool {
	switch key.(type) {
	case contextKey, managerKey, exchangeKey:
		return true
	}
	return false
}

// A sessionless context is its Context without the session, for the same reason.
type sessionless struct{ context.Context }

func (c sessionless) Value(key any) any {
	if leadsToSession(key) {
		return noSession{}
	}
	return c.Context.Value(key)
}

// noSession is in the session's place where it cannot be used, though the handler is wrapped.
type noSession struct{}

// without returns the panic's text for a context that has no session but this.
func without(found any, remedy string) string {
	if _, ok := found.(noSession); ok {
		return "session: Options.ErrorHandler, Observer and Logger cannot use the session: it has failed, or is locked"
	}
	return remedy
}

// A failedContext is the error handler's: the request's, with a word on why the manager's session is not there.
type failedContext struct {
	context.Context
	m *Manager
}

func (c failedContext) Value(key any) any {
	switch key {
	case contextKey{}, managerKey{c.m}:
		return noSession{}
	}
	return c.Context.Value(key)
}

// cancel ends the step. Shared state goes on.
func (c *storeContext) cancel() {
	if clock := c.clock.Load(); clock != nil {
		clock.end()
	}
}

func (c *storeClock) end() {
	if c.stop != nil {
		c.stop()
	}
}

// A timeLimit is how long steps at the store may take. Those of requests to one http.Server that begin at about the same
// time share a clock: a timer for each took servers one request in twenty (reads on Redis, in module bench), since it
// wakes an idle thread.
type timeLimit struct {
	timeout time.Duration
	shared  atomic.Pointer[sharedClock] // the latest
}

type sharedClock struct {
	storeClock
	server any // the *http.Server whose requests share it
}

const (
	// sharedPart is by what part of its timeout a step may get less than that.
	sharedPart = 64
	// longestShared bounds for how long what waits for the end of a clock may outlive its step.
	longestShared = time.Minute
)

// start returns a clock for a step that begins now.
func (l *timeLimit) start(parent context.Context) *storeClock {
	now := time.Now()
	server := parent.Value(http.ServerContextKey)
	if server == nil || l.timeout > longestShared {
		return newStoreClock(now.Add(l.timeout))
	}
	if clock := l.shared.Load(); clock != nil {
		if deadline, _ := clock.Deadline(); deadline.Sub(now) >= l.timeout-l.timeout/sharedPart {
			if clock.server != server { // each would replace the other's, which nobody ends
				return newStoreClock(now.Add(l.timeout))
			}
			return &clock.storeClock
		}
	}
	clock := &sharedClock{*newStoreClock(now.Add(l.timeout)), server}
	clock.stop = nil
	l.shared.Store(clock)
	return &clock.storeClock
}

func newStoreClock(deadline time.Time) *storeClock {
	ctx, stop := context.WithDeadline(context.Background(), deadline)
	return &storeClock{ctx, stop}
}
