package sessiontest_test

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"example.com/session"
)

// newWrapper returns a store that has all methods, and underneath none that is optional.
func newWrapper() *faulty {
	s := &faulty{reference: newReference()}
	unsupported := fmt.Errorf("not here: %w", errors.ErrUnsupported)
	s.touch = func(ctx, id, rec) error { return unsupported }
	s.sweep = func(ctx, int) (int, error) { return 0, unsupported }
	s.count = func(ctx, int, byte) (int, error) { return 0, unsupported }
	s.list = func(ctx) iter.Seq2[session.Entry, error] {
		return func(yield func(session.Entry, error) bool) { yield(session.Entry{}, unsupported) }
	}
	return s
}

// newServer returns a store that takes all the liberties that the contract leaves: it copies data, drops what is
// finer than a millisecond and what expires, has a size limit, adds to errors and obeys each context.
func newServer() *faulty {
	const latency = 100 * time.Microsecond
	s := &faulty{reference: newReference()}
	call := func(c ctx, f func() error) error {
		err := cmpErr(c.Err(), func() error {
			select {
			case <-time.After(latency):
				return f()
			case <-c.Done():
				return c.Err()
			}
		})
		if err != nil {
			return fmt.Errorf("server: %w", err)
		}
		return nil
	}
	stored := func(r rec) rec {
		if !r.Expires.IsZero() {
			r.Expires = time.UnixMilli(r.Expires.UnixMilli())
		}
		r.Data = append([]byte{}, r.Data...)
		return r
	}
	s.load = func(c ctx, i id) (r rec, err error) {
		err = call(c, func() (err error) { r, err = s.reference.Load(c, i); return err })
		r = stored(r)
		if len(r.Data) == 0 {
			r.Data = nil
		}
		return r, err
	}
	s.save = func(c ctx, i id, r rec) error {
		if len(r.Data) > 64<<10 {
			return fmt.Errorf("server: %w: %d bytes", session.ErrTooLarge, len(r.Data))
		}
		return call(c, func() error { return s.reference.Save(c, i, stored(r)) })
	}
	s.touch = func(c ctx, i id, r rec) error {
		return call(c, func() error { return s.reference.Touch(c, i, stored(r)) })
	}
	s.delete = func(c ctx, i id) error {
		return call(c, func() error { return s.reference.Delete(c, i) })
	}
	s.sweep = func(c ctx, limit int) (n int, err error) {
		err = call(c, func() (err error) { n, err = s.reference.DeleteExpired(c, limit); return err })
		return n, err
	}
	s.count = func(c ctx, at int, b byte) (n int, err error) {
		err = call(c, func() (err error) { n, err = s.reference.Count(c, at, b); return err })
		return n, err
	}
	s.list = func(c ctx) iter.Seq2[session.Entry, error] {
		return func(yield func(session.Entry, error) bool) {
			for e := range s.reference.List(c) {
				if err := c.Err(); err != nil {
					yield(session.Entry{}, err)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	return s
}

// cmpErr returns err, or else what f returns.
func cmpErr(err error, f func() error) error {
	if err != nil {
		return err
	}
	return f()
}
