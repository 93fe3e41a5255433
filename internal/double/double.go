// Package double has the store that tests put in the place of one that misbehaves: another store, with functions in the
// way of its calls.
package double

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"

	"example.com/session"
)

// A Store passes its calls on to the store that it embeds, and hides nothing of what that one can do.
type Store struct {
	session.Store
	hook  atomic.Pointer[Hook]
	calls [Close + 1]atomic.Int64
}

// A Hook is in the way of calls. It makes the call with next, or does not, and returns what the caller gets, who gets
// c.Record, too, where the call is a Load.
type Hook func(ctx context.Context, c *Call, next func(context.Context) error) error

// A Call is one to a store.
type Call struct {
	Op     Op
	ID     session.ID
	Record session.Record // of Save and Touch as the caller passed it, of Load as it was found
	N      int            // of Sweep the limit, and then how many were removed; of Count the number
}

// An Op is a method of a store.
type Op int

const (
	Load Op = iota
	Save
	Touch
	Delete
	Sweep
	List
	Count
	Close
)

func (op Op) String() string {
	return [...]string{"load", "save", "touch", "delete", "sweep", "list", "count", "close"}[op]
}

// New returns a double of store. The first of the hooks, if any, is the first to get a call.
func New(store session.Store, hooks ...Hook) *Store {
	s := &Store{Store: store}
	s.Hook(hooks...)
	return s
}

// Hook replaces the hooks for all calls that begin from now on.
func (s *Store) Hook(hooks ...Hook) {
	all := Hook(func(ctx context.Context, c *Call, next func(context.Context) error) error { return next(ctx) })
	for i := len(hooks) - 1; i >= 0; i-- {
		outer, inner := hooks[i], all
		all = func(ctx context.Context, c *Call, next func(context.Context) error) error {
			return outer(ctx, c, func(ctx context.Context) error { return inner(ctx, c, next) })
		}
	}
	s.hook.Store(&all)
}

// Calls returns how many calls of Load, Save, Touch and Delete there were since it was last asked.
func (s *Store) Calls() (n [4]int) {
	for op := range n {
		n[op] = int(s.calls[op].Swap(0))
	}
	return n
}

func (s *Store) call(ctx context.Context, c *Call, next func(context.Context) error) error {
	s.calls[c.Op].Add(1)
	return (*s.hook.Load())(ctx, c, next)
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, id session.ID) (session.Record, error) {
	c := Call{Op: Load, ID: id}
	err := s.call(ctx, &c, func(ctx context.Context) (err error) {
		c.Record, err = s.Store.Load(ctx, id)
		return err
	})
	if err != nil {
		return session.Record{}, err
	}
	return c.Record, nil
}

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, id session.ID, rec session.Record) error {
	c := Call{Op: Save, ID: id, Record: rec}
	return s.call(ctx, &c, func(ctx context.Context) error { return s.Store.Save(ctx, id, c.Record) })
}

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	toucher, ok := s.Store.(session.Toucher)
	if !ok {
		return errors.ErrUnsupported
	}
	c := Call{Op: Touch, ID: id, Record: rec}
	return s.call(ctx, &c, func(ctx context.Context) error { return toucher.Touch(ctx, id, c.Record) })
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	return s.call(ctx, &Call{Op: Delete, ID: id}, func(ctx context.Context) error { return s.Store.Delete(ctx, id) })
}

// DeleteExpired implements session.Sweeper.
func (s *Store) DeleteExpired(ctx context.Context, limit int) (int, error) {
	sweeper, ok := s.Store.(session.Sweeper)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	c := Call{Op: Sweep, N: limit}
	err := s.call(ctx, &c, func(ctx context.Context) (err error) {
		c.N, err = sweeper.DeleteExpired(ctx, c.N)
		return err
	})
	return c.N, err
}

// List implements session.Lister.
func (s *Store) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) {
		more := true
		err := s.call(ctx, &Call{Op: List}, func(ctx context.Context) error {
			for entry, err := range session.List(ctx, s.Store) {
				if err != nil {
					return err
				}
				if more = yield(entry, nil); !more {
					break
				}
			}
			return nil
		})
		if err != nil && more {
			yield(session.Entry{}, err)
		}
	}
}

// Count implements session.Counter.
func (s *Store) Count(ctx context.Context, at int, b byte) (int, error) {
	counter, ok := s.Store.(session.Counter)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	c := Call{Op: Count}
	err := s.call(ctx, &c, func(ctx context.Context) (err error) {
		c.N, err = counter.Count(ctx, at, b)
		return err
	})
	return c.N, err
}

// Close implements io.Closer. It does nothing where there is nothing to close.
func (s *Store) Close() error {
	return s.call(context.Background(), &Call{Op: Close}, func(context.Context) error {
		if closer, ok := s.Store.(io.Closer); ok {
			return closer.Close()
		}
		return nil
	})
}

// Plain is a store that can do no more than any store.
type Plain struct{ session.Store }
