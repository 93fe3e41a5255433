package sessiontest_test

import (
	"bytes"
	"cmp"
	"errors"
	"iter"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"example.com/session"
)

func versionFaults() []fault {
	bits := func(n int) func(s *faulty) {
		return func(s *faulty) {
			mask := uint64(1)<<n - 1
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				r.Version &= mask
				return r, err
			}
			s.save = func(c ctx, i id, r rec) error {
				if old := s.livePeek(i); old.Version&mask == r.Version {
					r.Version = old.Version
				}
				return s.reference.Save(c, i, r)
			}
		}
	}
	return []fault{
		{rule: "versions-many", what: "8 bits of the version", make: bits(8)},
		{rule: "versions-many", what: "16 bits of the version", make: bits(16)},
		{rule: "save-ahead", what: "compares 16 bits of the version", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Version = uint64(uint16(r.Version))
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-ahead", what: "the version is a float", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.livePeek(i); r.Version == 1<<53+1 && old.Version == 1 {
					r.Version = old.Version
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "data-large", what: "an error of its own for 16 MiB", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) > 16<<20 {
					return errors.New("document is too large")
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "refused-keeps", what: "drops what was there before it refuses", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) <= 1<<20 {
					return s.reference.Save(c, i, r)
				}
				s.reference.Delete(c, i)
				return session.ErrTooLarge
			}
		}},
		{rule: "refused-keeps", what: "counts what it refuses", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) <= 3<<20 {
					return s.reference.Save(c, i, r)
				}
				if old := s.livePeek(i); old.Version == r.Version {
					old.Version++
					s.put(i, old)
				}
				return session.ErrTooLarge
			}
		}},
	}
}

func sweepFaults() []fault {
	early := func(d time.Duration) func(s *faulty) {
		return func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				n := 0
				for i, r := range s.recs {
					if n < limit && !r.Live(time.Now().Add(d)) {
						delete(s.recs, i)
						n++
					}
				}
				return n, nil
			}
		}
	}
	// indexed sweeps by an index, which moves says when to write.
	indexed := func(moves func(old, r rec, touch bool) bool) func(s *faulty) {
		return func(s *faulty) {
			var index sync.Map
			s.save = func(c ctx, i id, r rec) error {
				old := s.livePeek(i)
				err := s.reference.Save(c, i, r)
				if err == nil && moves(old, r, false) {
					index.Store(i, r.Expires)
				}
				return err
			}
			s.touch = func(c ctx, i id, r rec) error {
				old := s.livePeek(i)
				err := s.reference.Touch(c, i, r)
				if err == nil && moves(old, r, true) {
					index.Store(i, r.Expires)
				}
				return err
			}
			s.sweep = func(c ctx, limit int) (n int, err error) {
				index.Range(func(i, expires any) bool {
					if r := s.peek(i.(id)); n < limit && r.Version > 0 && !r.Live(time.Now()) && !expires.(time.Time).IsZero() &&
						!time.Now().Before(expires.(time.Time)) {
						s.reference.Delete(c, i.(id))
						n++
					}
					return n < limit
				})
				return n, nil
			}
		}
	}
	return []fault{
		{rule: "sweep-zero", what: "0 is no limit", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				if limit == 0 {
					limit = math.MaxInt
				}
				return s.reference.DeleteExpired(c, limit)
			}
		}},
		{rule: "sweep-zero", what: "0 is no limit, and does not tell", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				if limit == 0 {
					s.reference.DeleteExpired(c, math.MaxInt)
					return 0, nil
				}
				return s.reference.DeleteExpired(c, limit)
			}
		}},
		{rule: "sweep-zero", what: "0 is an error", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) {
				if limit == 0 {
					return 0, errors.New("LIMIT must be positive")
				}
				return s.reference.DeleteExpired(c, limit)
			}
		}},
		{rule: "sweep-zero", what: "one at least", make: func(s *faulty) {
			s.sweep = func(c ctx, limit int) (int, error) { return s.reference.DeleteExpired(c, max(1, limit)) }
		}},
		{rule: "sweep-early", what: "a second early", make: early(time.Second)},
		{rule: "sweep-early", what: "a minute early", make: early(time.Minute)},
		{rule: "sweep-early", what: "an hour early", make: early(time.Hour)},
		{rule: "sweep-early", what: "half a day early", make: early(13*time.Hour + time.Minute)},
		{rule: "sweep-moved", what: "the first Save alone counts", make: indexed(func(old, r rec, touch bool) bool { return !touch && old.Version == 0 })},
		{rule: "sweep-moved", what: "Touch moves nothing", make: indexed(func(old, r rec, touch bool) bool { return !touch })},
		{rule: "sweep-moved", what: "what never expired is not in it", make: indexed(func(old, r rec, touch bool) bool {
			return old.Version == 0 || !old.Expires.IsZero()
		})},
		{rule: "sweep-moved", what: "what never expired is not in it when it is touched", make: indexed(func(old, r rec, touch bool) bool {
			return !touch || !old.Expires.IsZero()
		})},
		{rule: "sweep-moved", what: "moves to later times only", make: indexed(func(old, r rec, touch bool) bool {
			return old.Version == 0 || r.Expires.After(old.Expires)
		})},
	}
}

func manyFaults() []fault {
	// sorted returns what is there, in an order.
	sorted := func(s *faulty, compare func(a, b session.Entry) int) (all []session.Entry) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, r := range s.recs {
			if r.Live(time.Now()) {
				all = append(all, session.Entry{ID: i, Record: r})
			}
		}
		slices.SortFunc(all, compare)
		return all
	}
	byID := func(a, b session.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) }
	byExpiry := func(a, b session.Entry) int {
		return cmp.Or(a.Record.Expires.Compare(b.Record.Expires), byID(a, b))
	}
	list := func(f func(s *faulty, c ctx, yield func(session.Entry, error) bool)) func(s *faulty) {
		return func(s *faulty) {
			s.list = func(c ctx) iter.Seq2[session.Entry, error] {
				return func(yield func(session.Entry, error) bool) { f(s, c, yield) }
			}
		}
	}
	return []fault{
		{rule: "list", what: "keeps names that begin with NUL to itself", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			for _, e := range sorted(s, byID) {
				if e.ID[0] != 0 && !yield(e, nil) {
					return
				}
			}
		})},
		{rule: "list-many", what: "pages of 1000 by offset", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			const page = 1000
			for offset := 0; ; offset += page {
				all := sorted(s, byID)
				if offset >= len(all) {
					return
				}
				for _, e := range all[offset:min(offset+page, len(all))] {
					if !yield(e, nil) {
						return
					}
				}
			}
		})},
		{rule: "list-many", what: "1000 at most", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			for i, e := range sorted(s, byID) {
				if i == 1000 || !yield(e, nil) {
					return
				}
			}
		})},
		{rule: "list-many", what: "the last of a page once more", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			var last *session.Entry
			for {
				all := sorted(s, byID)
				if last != nil {
					at, _ := slices.BinarySearchFunc(all, *last, byID) // >= where > is meant
					if all = all[at:]; len(all) <= 1 {
						return
					}
				}
				if len(all) == 0 {
					return
				}
				for i := range all[:min(500, len(all))] {
					if last = &all[i]; !yield(all[i], nil) {
						return
					}
				}
			}
		})},
		{rule: "list-touched", what: "goes along the expiry", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			var last session.Entry
			for {
				all := sorted(s, byExpiry)
				at, found := slices.BinarySearchFunc(all, last, byExpiry)
				if found {
					at++
				}
				if at == len(all) {
					return
				}
				for _, e := range all[at:min(at+50, len(all))] {
					if last = e; !yield(e, nil) {
						return
					}
				}
			}
		})},
		{rule: "list-cut", what: "ends with its context, and says nothing", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			for e := range s.reference.List(c) {
				if c.Err() != nil || !yield(e, nil) {
					return
				}
			}
		})},
		{rule: "list-cut", what: "asks for the rows' error at each page alone", make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			n := 0
			for e := range s.reference.List(c) {
				if err := c.Err(); err != nil {
					if n%8 == 0 {
						yield(session.Entry{}, err)
					}
					return
				}
				if n++; !yield(e, nil) {
					return
				}
			}
		})},
		{rule: "list-cut", what: "a count that ends with its context", make: func(s *faulty) {
			s.count = func(c ctx, at int, b byte) (n int, err error) {
				for range s.reference.List(c) {
					if c.Err() != nil {
						break
					}
					n++
				}
				return n, nil
			}
		}},
		{rule: "list-left", what: "leaves a goroutine behind", real: true, make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			entries := make(chan session.Entry)
			go func() {
				defer close(entries)
				for e := range s.reference.List(c) {
					select {
					case entries <- e:
					case <-c.Done():
						return
					}
				}
			}()
			for e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		})},
		{rule: "list-left", what: "leaves a file open", real: true, make: list(func(s *faulty, c ctx, yield func(session.Entry, error) bool) {
			f, err := os.Open(os.DevNull)
			if err != nil {
				yield(session.Entry{}, err)
				return
			}
			leaked.add(f)
			for e := range s.reference.List(c) {
				if !yield(e, nil) {
					return
				}
			}
			f.Close()
		})},
	}
}

// leaked keeps files from being closed by the garbage collector.
var leaked files

type files struct {
	sync.Mutex
	all []*os.File
}

func (f *files) add(file *os.File) {
	f.Lock()
	defer f.Unlock()
	f.all = append(f.all, file)
}

func (f *files) close() {
	f.Lock()
	defer f.Unlock()
	for _, file := range f.all {
		file.Close()
	}
	f.all = nil
}

func cutFaults() []fault {
	// slot is what a store waits for, as for a connection of a pool; false means that the context ended before.
	slots := func() func(c ctx) (release func(), ok bool) {
		slot := make(chan struct{}, 1)
		return func(c ctx) (func(), bool) {
			select {
			case slot <- struct{}{}:
				return func() { <-slot }, true
			case <-c.Done():
				return nil, false
			}
		}
	}
	return []fault{
		{rule: "context-cut", what: "a save that is cut short while it waits", real: true, make: func(s *faulty) {
			slot := slots()
			s.save = func(c ctx, i id, r rec) error {
				if err := c.Err(); err != nil {
					return err
				}
				release, ok := slot(c)
				if !ok {
					return nil
				}
				defer release()
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "context-cut", what: "a delete that is cut short while it waits", real: true, make: func(s *faulty) {
			slot := slots()
			s.delete = func(c ctx, i id) error {
				if err := c.Err(); err != nil {
					return err
				}
				release, ok := slot(c)
				if !ok {
					return nil
				}
				defer release()
				return s.reference.Delete(c, i)
			}
		}},
		{rule: "context-cut", what: "a save that gives up a lock that others have", real: true, make: func(s *faulty) {
			var lock sync.Mutex
			s.save = func(c ctx, i id, r rec) error {
				if err := c.Err(); err != nil {
					return err
				}
				for !lock.TryLock() {
					time.Sleep(10 * time.Microsecond)
					if c.Err() != nil {
						return nil
					}
				}
				defer lock.Unlock()
				time.Sleep(50 * time.Microsecond)
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "context-cut", what: "a touch that an error of its own ends", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if err := c.Err(); err != nil {
					return err
				}
				if c.Err() != nil {
					return errors.New("read tcp: operation was canceled")
				}
				return s.reference.Touch(c, i, r)
			}
		}},
		{rule: "id-bytes", what: "a NUL at the front is cut off", make: func(s *faulty) {
			key := func(i id) (short id) {
				copy(short[:], bytes.TrimLeft(i[:], "\x00"))
				return short
			}
			s.load = func(c ctx, i id) (rec, error) {
				if i[0] == 0 {
					return rec{}, session.ErrNotFound
				}
				return s.reference.Load(c, key(i))
			}
		}},
	}
}
