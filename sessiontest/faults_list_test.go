package sessiontest_test

import (
	"bytes"
	"errors"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"example.com/session"
)

func listFaults() []fault {
	each := func(f func(e session.Entry, yield func(session.Entry) bool) bool) func(s *faulty) {
		return func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					for entry := range s.reference.List(c) {
						if !f(entry, func(e session.Entry) bool { return yield(e, nil) }) {
							return
						}
					}
				}
			}
		}
	}
	return []fault{
		{rule: "sweep-keeps", what: "sweeps what never expires", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				s.mu.Lock()
				for i, r := range s.recs {
					if r.Expires.IsZero() {
						delete(s.recs, i)
					}
				}
				s.mu.Unlock()
				return s.reference.DeleteExpired(c, limit)
			}
		}},
		{rule: "sweep-keeps", what: "sweeps by the first expiry", make: func(s *faulty) {
			var first sync.Map
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if err == nil {
					first.LoadOrStore(i, r)
				}
				return err
			}
			s.sweep = func(c ctx, limit int) (int, error) {
				first.Range(func(i, r any) bool {
					if !r.(rec).Live(time.Now()) {
						s.reference.Delete(c, i.(id))
					}
					return true
				})
				return s.reference.DeleteExpired(c, limit)
			}
		}},
		{rule: "sweep-count", what: "ignores the limit", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) { return s.reference.DeleteExpired(c, math.MaxInt) }
		}},
		{rule: "sweep-count", what: "ignores the limit, and does not tell", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				n, err := s.reference.DeleteExpired(c, math.MaxInt)
				return min(n, limit), err
			}
		}},
		{rule: "sweep-count", what: "does not count", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				_, err := s.reference.DeleteExpired(c, limit)
				return 0, err
			}
		}},
		{rule: "sweep-count", what: "counts what it keeps", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				_, err := s.reference.DeleteExpired(c, limit)
				return limit, err
			}
		}},
		{rule: "sweep-count", what: "counts twice", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				n, err := s.reference.DeleteExpired(c, limit/2)
				return 2 * n, err
			}
		}},
		{rule: "list", what: "yields a record twice", make: each(
			func(e session.Entry, yield func(session.Entry) bool) bool {
				return yield(e) && (!e.Record.Expires.IsZero() || yield(e))
			})},
		{rule: "list", what: "leaves out what never expires", make: each(
			func(e session.Entry, yield func(session.Entry) bool) bool {
				return e.Record.Expires.IsZero() || yield(e)
			})},
		{rule: "list", what: "yields no data", make: each(
			func(e session.Entry, yield func(session.Entry) bool) bool {
				e.Record.Data = nil
				return yield(e)
			})},
		{rule: "list", what: "yields no expiry", make: each(
			func(e session.Entry, yield func(session.Entry) bool) bool {
				e.Record.Expires = time.Time{}
				return yield(e)
			})},
		{rule: "list-live", what: "yields what has expired", make: func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					s.mu.Lock()
					var all []session.Entry
					for i, r := range s.recs {
						all = append(all, session.Entry{ID: i, Record: r})
					}
					s.mu.Unlock()
					for _, e := range all {
						if !yield(e, nil) {
							return
						}
					}
				}
			}
		}},
		{rule: "list-stop", what: "holds on to a connection", make: func(s *faulty) {
			pool := make(chan struct{}, 10)
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					select {
					case pool <- struct{}{}:
					case <-c.Done():
						yield(session.Entry{}, c.Err())
						return
					}
					for e := range s.reference.List(c) {
						if !yield(e, nil) {
							return
						}
					}
					<-pool
				}
			}
		}},
		{rule: "list-stop", what: "yields an error where it is left", make: func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) { yield(session.Entry{}, errors.New("cursor is closed")) }
			}
		}},
		{rule: "list-open", what: "holds the lock while it lists", make: func(s *faulty) {
			lock := make(chan struct{}, 1) // of a kind that a bubble's clock does not wait for
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					lock <- struct{}{}
					defer func() { <-lock }()
					s.reference.List(c)(yield)
				}
			}
			s.load = func(c ctx, i id) (rec, error) {
				lock <- struct{}{}
				defer func() { <-lock }()
				return s.reference.Load(c, i)
			}
		}},
		{rule: "list-changes", what: "pages by offset", make: func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) {
					const page = 20
					for offset := 0; ; offset += page {
						var all []session.Entry
						for e := range s.reference.List(c) {
							all = append(all, e)
						}
						slices.SortFunc(all, func(a, b session.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
						if offset >= len(all) {
							return
						}
						for _, e := range all[offset:min(offset+page, len(all))] {
							if !yield(e, nil) {
								return
							}
						}
					}
				}
			}
		}},
		{rule: "count", what: "counts what has expired", make: func(s *faulty) {
			s.count = func(ctx, int, byte) (int, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.recs), nil
			}
		}},
		{rule: "count", what: "counts nothing", make: func(s *faulty) {
			s.count = func(ctx, int, byte) (int, error) { return 0, nil }
		}},
		{rule: "count", what: "counts all", make: func(s *faulty) {
			s.count = func(ctx ctx, _ int, _ byte) (int, error) { return s.reference.Count(ctx, -1, 0) }
		}},
		{rule: "count", what: "is off by one", make: func(s *faulty) {
			s.count = func(ctx ctx, at int, b byte) (int, error) { return s.reference.Count(ctx, at+1, b) }
		}},
	}
}
