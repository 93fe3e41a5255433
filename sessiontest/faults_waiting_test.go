package sessiontest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
)

func waitingFaults() []fault {
	// On a bubble's clock, all that can happen elsewhere happens meanwhile.
	const meanwhile = time.Microsecond
	return []fault{
		{rule: "context-done", what: "an error of its own", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if c.Err() != nil {
					return errors.New("interrupted")
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "context-done", what: "the cause instead of ctx.Err()", make: func(s *faulty) {
			s.delete = func(c ctx, i id) error {
				if c.Err() != nil {
					return context.Cause(c)
				}
				return s.reference.Delete(c, i)
			}
		}},
		{rule: "context-done", what: "what it could not load reads as not there", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				if c.Err() != nil {
					return rec{}, fmt.Errorf("%w: %w", session.ErrNotFound, c.Err())
				}
				return s.reference.Load(c, i)
			}
		}},
		{rule: "context-done", what: "claims to have saved", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if c.Err() != nil {
					return nil
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "context-done", what: "takes its time", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if c.Err() != nil {
					time.Sleep(time.Hour)
					return c.Err()
				}
				return s.reference.Touch(c, i, r)
			}
		}},
		{rule: "context-done", what: "goes on after an error", make: func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					for e := range s.reference.List(c) {
						err := c.Err()
						if err != nil {
							e = session.Entry{}
						}
						if !yield(e, err) {
							return
						}
					}
				}
			}
		}},
		{rule: "context-cancelled", what: "an error of its own when it is interrupted", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				if c.Err() != nil {
					return rec{}, c.Err()
				}
				select {
				case <-c.Done():
					return rec{}, errors.New("read: i/o timeout")
				case <-time.After(meanwhile):
					return s.reference.Load(c, i)
				}
			}
		}},
		{rule: "context-cancelled", what: "an entry with an error in the middle of a list", make: func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					if c.Err() != nil {
						yield(session.Entry{}, c.Err())
						return
					}
					for e := range s.reference.List(c) {
						err := c.Err()
						if !yield(e, err) || err != nil {
							return
						}
					}
				}
			}
		}},
		{rule: "race-create", what: "looks, then creates", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Version > 0 {
					return s.reference.Save(c, i, r)
				}
				if _, err := s.reference.Load(c, i); err == nil {
					return session.ErrConflict
				}
				time.Sleep(meanwhile)
				r.Version = 1
				s.put(i, r)
				return nil
			}
		}},
		{rule: "race-increment", what: "looks, then saves", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Version == 0 {
					return s.reference.Save(c, i, r)
				}
				if old, err := s.reference.Load(c, i); err != nil || old.Version != r.Version {
					return session.ErrConflict
				}
				time.Sleep(meanwhile)
				r.Version++
				s.put(i, r)
				return nil
			}
		}},
		{rule: "race-increment", what: "conflicts for ever after the first one", make: func(s *faulty) {
			var lost sync.Map
			s.save = func(c ctx, i id, r rec) error {
				time.Sleep(meanwhile)
				if _, ok := lost.Load(i); ok && r.Version > 3 {
					return session.ErrConflict
				}
				err := s.reference.Save(c, i, r)
				if err != nil {
					lost.Store(i, true)
				}
				return err
			}
		}},
		{rule: "race-delete", what: "looks, then touches", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				old, err := s.reference.Load(c, i)
				if err != nil || old.Version != r.Version {
					return s.reference.Touch(c, i, r)
				}
				time.Sleep(meanwhile)
				old.Expires = r.Expires
				s.put(i, old)
				return nil
			}
		}},
		{rule: "race-readers", what: "reads from a replica that lags behind", make: func(s *faulty) {
			var before sync.Map
			var busy, loads atomic.Int32
			s.save = func(c ctx, i id, r rec) error {
				old := s.peek(i)
				err := s.reference.Save(c, i, r)
				if err == nil && old.Version > 0 {
					before.LoadOrStore(i, old)
				}
				return err
			}
			s.load = func(c ctx, i id) (rec, error) {
				defer busy.Add(-1)
				lags := busy.Add(1) > 1 && loads.Add(1)%3 == 0
				time.Sleep(meanwhile)
				if old, ok := before.Load(i); ok && lags {
					return old.(rec), nil
				}
				return s.reference.Load(c, i)
			}
		}},
		{rule: "race-readers", what: "version and data in two steps", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				version := s.peek(i).Version
				time.Sleep(meanwhile)
				r, err := s.reference.Load(c, i)
				if err == nil && version > 0 {
					r.Version = version
				}
				return r, err
			}
		}},
		{rule: "race-mixed", what: "one buffer for all", make: func(s *faulty) {
			var mu sync.Mutex
			var buffer []byte
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if err != nil {
					return r, err
				}
				mu.Lock()
				buffer = r.Data
				mu.Unlock()
				time.Sleep(meanwhile)
				mu.Lock()
				defer mu.Unlock()
				r.Data = buffer
				return r, nil
			}
		}},
		{rule: "race-mixed", what: "an error of its own when two meet", make: func(s *faulty) {
			var busy atomic.Int32
			s.delete = func(c ctx, i id) error {
				defer busy.Add(-1)
				if busy.Add(1) > 1 {
					return errors.New("deadlock found when trying to get lock")
				}
				time.Sleep(meanwhile)
				return s.reference.Delete(c, i)
			}
		}},
	}
}
