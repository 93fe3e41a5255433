package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
)

// A guard is the store that a rule sees. It passes each call on to one of the handles of a place, in turn, and notes it. A store
// that panics, ends the goroutine, or goes on after yield has returned false fails the rule, and does no more harm.
//
// It has all optional methods; what a handle does not have is an errors.ErrUnsupported, as the contract wants it of wrappers.
type guard struct {
	handles []session.Store
	first   int // the number of the first of them
	env     *env
	turn    atomic.Uint32
	*tape
}

func newGuard(e *env, handles []session.Store) *guard {
	return &guard{handles: handles, env: e, tape: &tape{running: make(map[*call]time.Time)}}
}

// A tape keeps the calls of a rule.
type tape struct {
	mu      sync.Mutex
	calls   []call // the last ones that have returned
	dropped int    // earlier ones
	running map[*call]time.Time
}

// next returns the handle whose turn it is, never the same twice in a row, if there are more.
func (g *guard) next() (session.Store, int) {
	n := int(g.turn.Add(1)-1) % len(g.handles)
	return g.handles[n], g.first + n
}

func (g *guard) Load(ctx context.Context, id session.ID) (rec session.Record, err error) {
	s, n := g.next()
	c := &call{op: "Load", handle: n, id: id}
	err = g.do(c, func() (err error) {
		rec, err = s.Load(ctx, id)
		if err == nil && rec.Cached && len(g.handles) > 1 {
			rec, err = s.Load(session.WithoutCache(ctx), id) // what a cache says of itself may be old
		}
		c.got = rec
		return err
	})
	return rec, err
}

func (g *guard) Save(ctx context.Context, id session.ID, rec session.Record) error {
	s, n := g.next()
	return g.do(&call{op: "Save", handle: n, id: id, rec: rec}, func() error { return s.Save(ctx, id, rec) })
}

func (g *guard) Delete(ctx context.Context, id session.ID) error {
	s, n := g.next()
	return g.do(&call{op: "Delete", handle: n, id: id}, func() error { return s.Delete(ctx, id) })
}

func (g *guard) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	s, n := g.next()
	toucher, ok := s.(session.Toucher)
	if !ok {
		return unsupported(s, "Touch")
	}
	return g.do(&call{op: "Touch", handle: n, id: id, rec: rec}, func() error { return toucher.Touch(ctx, id, rec) })
}

func (g *guard) DeleteExpired(ctx context.Context, limit int) (removed int, err error) {
	s, n := g.next()
	sweeper, ok := s.(session.Sweeper)
	if !ok {
		return 0, unsupported(s, "DeleteExpired")
	}
	c := &call{op: "DeleteExpired", handle: n, number: limit}
	err = g.do(c, func() (err error) {
		removed, err = sweeper.DeleteExpired(ctx, limit)
		c.result = removed
		return err
	})
	return removed, err
}

func (g *guard) Count(ctx context.Context, at int, b byte) (count int, err error) {
	s, n := g.next()
	counter, ok := s.(session.Counter)
	if !ok {
		return 0, unsupported(s, "Count")
	}
	c := &call{op: "Count", handle: n, number: at}
	err = g.do(c, func() (err error) {
		count, err = counter.Count(ctx, at, b)
		c.result = count
		return err
	})
	return count, err
}

// errStop is what yield panics with if a store does not stop.
var errStop = errors.New("the store called yield again and again")

func (g *guard) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) {
		s, n := g.next()
		lister, ok := s.(session.Lister)
		if !ok {
			yield(session.Entry{}, unsupported(s, "List"))
			return
		}
		c := &call{op: "List", handle: n}
		var over atomic.Bool
		after := 0
		defer over.Store(true)
		g.do(c, func() error {
			lister.List(ctx)(func(entry session.Entry, err error) bool {
				if over.Load() {
					g.env.fail("List: want nothing more when yield has returned false, or List itself has, got another call of yield")
					if after++; after > 100 {
						panic(errStop)
					}
					return false
				}
				g.pause(c)
				defer g.resume(c)
				c.result++
				more := yield(entry, err)
				if !more {
					over.Store(true)
				}
				return more
			})
			return nil
		})
	}
}

func unsupported(s session.Store, method string) error {
	return fmt.Errorf("%T has no %s: %w", s, method, errors.ErrUnsupported)
}

// do makes a call, and keeps what a store must not do from doing harm.
func (g *guard) do(c *call, f func() error) (err error) {
	g.resume(c)
	returned := false
	defer func() {
		if p := recover(); p != nil {
			if p != errStop {
				g.env.fail("%s: want it to return, got a panic: %v\n%s", c.op, p, debug.Stack())
			}
			err = fmt.Errorf("a panic: %v", p)
		} else if !returned {
			g.env.fail("%s: want it to return, but it ended the goroutine that called it", c.op)
		}
		c.err = err
		g.end(c)
	}()
	err = f()
	returned = true
	return err
}

// resume notes that a call has begun, or that the store goes on.
func (t *tape) resume(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running[c] = time.Now()
}

// pause notes that it is not the store that takes its time.
func (t *tape) pause(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, c)
}

const (
	tapeLength = 4000 // calls that are kept
	tapeShown  = 12   // in a message
)

// end notes a call that has returned.
func (t *tape) end(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, c)
	t.add(*c)
}

// note adds calls that were made without the guard.
func (t *tape) note(calls ...call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range calls {
		t.add(c)
	}
}

func (t *tape) add(c call) {
	if len(t.calls) >= tapeLength {
		t.dropped += tapeLength / 2
		t.calls = append(t.calls[:0], t.calls[tapeLength/2:]...)
	}
	t.calls = append(t.calls, c)
}

// stuck returns what the store has been working on for longer than d, or is empty.
func (t *tape) stuck(d time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c, since := range t.running {
		if time.Since(since) > d {
			return c.op
		}
	}
	return ""
}
