package sessiontest_test

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"example.com/session"
)

// raceFaults are of stores in memory that wait for nothing: what they do in two steps is over within nanoseconds.
func raceFaults() []fault {
	compareAndPut := func(s *faulty, i id, r rec) error { // each step is safe, and both together are not
		if old := s.livePeek(i); old.Version != r.Version {
			return session.ErrConflict
		}
		r.Version++
		s.put(i, r)
		return nil
	}
	return []fault{
		{rule: "race-create", what: "compares, then creates", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error { return compareAndPut(s, i, r) }
		}},
		{rule: "race-create", what: "compares, then creates, with a look at the context in between", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.livePeek(i); old.Version != r.Version {
					return session.ErrConflict
				}
				if err := c.Err(); err != nil {
					return err
				}
				r.Version++
				s.put(i, r)
				return nil
			}
		}},
		{rule: "race-create", what: "compares, then creates, half a millisecond later", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.livePeek(i); old.Version != r.Version {
					return session.ErrConflict
				}
				time.Sleep(time.Millisecond / 2)
				r.Version++
				s.put(i, r)
				return nil
			}
		}},
		{rule: "race-increment", what: "compares, then saves", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Version == 0 {
					return s.reference.Save(c, i, r)
				}
				return compareAndPut(s, i, r)
			}
		}},
		{rule: "race-increment", what: "compares under a mutex of its own", real: true, second: true, make: func(s *faulty) {
			var mu sync.Mutex
			s.save = func(c ctx, i id, r rec) error {
				mu.Lock()
				defer mu.Unlock()
				return compareAndPut(s, i, r)
			}
		}},
		{rule: "race-create", what: "creates under a mutex of its own", real: true, second: true, make: func(s *faulty) {
			var mu sync.Mutex
			s.save = func(c ctx, i id, r rec) error {
				mu.Lock()
				defer mu.Unlock()
				return compareAndPut(s, i, r)
			}
		}},
		{rule: "race-expired", what: "removes what has expired, then creates", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); old.Version > 0 && !old.Live(time.Now()) && r.Version == 0 {
					s.reference.Delete(c, i) // perhaps another writer's first version
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "race-expired", what: "overwrites what has expired", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); old.Version > 0 && !old.Live(time.Now()) && r.Version == 0 {
					r.Version = 1
					s.put(i, r)
					return nil
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "race-delete", what: "looks, then saves", real: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Version == 0 {
					return s.reference.Save(c, i, r)
				}
				return compareAndPut(s, i, r)
			}
		}},
		{rule: "race-delete", what: "looks, then touches", real: true, make: writesBack},
		{rule: "race-touch", what: "writes back what it read", real: true, make: writesBack},
		{rule: "race-touch", what: "compares, then moves whatever is there", real: true, make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if s.livePeek(i).Version != r.Version {
					return s.reference.Touch(c, i, r)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if old := s.recs[i]; old.Version > 0 {
					old.Expires = r.Expires
					s.recs[i] = old
				}
				return nil
			}
		}},
		{rule: "race-touch", what: "Save after Touch conflicts now and then", real: true, make: func(s *faulty) {
			var touching sync.Map
			s.touch = func(c ctx, i id, r rec) error {
				touching.Store(i, true)
				defer touching.Delete(i)
				return s.reference.Touch(c, i, r)
			}
			s.save = func(c ctx, i id, r rec) error {
				if _, ok := touching.Load(i); ok {
					return session.ErrConflict
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "race-sweep", what: "selects, then deletes by ID", real: true, make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				found := s.expired(limit, time.Now())
				for _, i := range found {
					s.reference.Delete(c, i)
				}
				return len(found), nil
			}
		}},
		{rule: "race-sweep", what: "selects, then deletes all at once", real: true, make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				found := s.expired(limit, time.Now())
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, i := range found {
					delete(s.recs, i)
				}
				return len(found), nil
			}
		}},
		{rule: "handles", what: "has a cache that it does not tell of", real: true, second: true, make: func(s *faulty) {
			var cache sync.Map
			s.load = func(c ctx, i id) (rec, error) {
				if r, ok := cache.Load(i); ok && r.(rec).Live(time.Now()) {
					return r.(rec), nil
				}
				r, err := s.reference.Load(c, i)
				if err == nil {
					cache.Store(i, r)
				}
				return r, err
			}
			s.save = func(c ctx, i id, r rec) error {
				cache.Delete(i)
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "handles", what: "remembers what was not there", real: true, second: true, make: func(s *faulty) {
			var absent sync.Map
			s.load = func(c ctx, i id) (rec, error) {
				if _, ok := absent.Load(i); ok {
					return rec{}, session.ErrNotFound
				}
				r, err := s.reference.Load(c, i)
				if errors.Is(err, session.ErrNotFound) {
					absent.Store(i, true)
				}
				return r, err
			}
			s.save = func(c ctx, i id, r rec) error {
				absent.Delete(i)
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "handles", what: "reads what is some milliseconds old through another handle", real: true, second: true, make: func(s *faulty) {
			type version struct {
				rec
				at time.Time
			}
			var mu sync.Mutex
			mine := make(map[id]time.Time)
			s.save = func(c ctx, i id, r rec) error {
				old := s.peek(i)
				err := s.reference.Save(c, i, r)
				if err == nil {
					mu.Lock()
					mine[i] = time.Now()
					mu.Unlock()
					s.before.Store(i, version{old, time.Now()})
				}
				return err
			}
			s.load = func(c ctx, i id) (rec, error) {
				mu.Lock()
				at, ok := mine[i]
				mu.Unlock()
				last, saved := s.before.Load(i)
				if !saved || ok && !at.Before(last.(version).at) || time.Since(last.(version).at) > 3*time.Millisecond || last.(version).Version == 0 {
					return s.reference.Load(c, i)
				}
				return last.(version).rec, nil
			}
		}},
	}
}

func closeFaults() []fault {
	closing := func(f func(s *closable)) func(s *closable) { return f }
	return []fault{
		{rule: "close", what: "an error at the second Close", closes: closing(func(s *closable) {
			s.close = func(n int) error {
				if n > 1 {
					return errors.New("already closed")
				}
				return nil
			}
		})},
		{rule: "close", what: "a panic at the second Close", closes: closing(func(s *closable) {
			done := make(chan struct{})
			s.close = func(int) error { close(done); return nil }
		})},
		{rule: "close", what: "all is gone after Close", closes: closing(func(s *closable) {
			s.load = func(c ctx, i id) (rec, error) {
				if s.closed.Load() > 0 {
					return rec{}, session.ErrNotFound
				}
				return s.reference.Load(c, i)
			}
		})},
		{rule: "close", what: "claims to have deleted after Close", closes: closing(func(s *closable) {
			s.delete = func(c ctx, i id) error {
				if s.closed.Load() > 0 {
					return nil
				}
				return s.reference.Delete(c, i)
			}
		})},
		{rule: "close", what: "panics after Close", closes: closing(func(s *closable) {
			s.count = func(c ctx, at int, b byte) (int, error) {
				if s.closed.Load() > 0 {
					panic("nil pointer")
				}
				return s.reference.Count(c, at, b)
			}
		})},
		{rule: "close", what: "a list that ends with the connection", closes: closing(func(s *closable) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					for e, err := range s.reference.List(c) {
						if s.closed.Load() > 0 || !yield(e, err) {
							return
						}
					}
				}
			}
		})},
	}
}

// livePeek returns the live record under id, or a zero one.
func (s *reference) livePeek(i id) rec {
	if r := s.peek(i); r.Live(time.Now()) {
		return r
	}
	return rec{}
}

// expired returns the IDs of records that have expired at a time.
func (s *reference) expired(limit int, at time.Time) (found []id) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.recs {
		if len(found) < limit && !r.Live(at) {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(a, b id) int { return slices.Compare(a[:], b[:]) })
	return found
}

// writesBack has Touch look at a record, and then write back what it saw with another expiry.
func writesBack(s *faulty) {
	s.touch = func(c ctx, i id, r rec) error {
		old := s.livePeek(i)
		if old.Version != r.Version {
			return s.reference.Touch(c, i, r)
		}
		old.Expires = r.Expires
		s.put(i, old)
		return nil
	}
}
