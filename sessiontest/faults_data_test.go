package sessiontest_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"example.com/session"
)

func dataFaults() []fault {
	change := func(f func(data []byte) []byte) func(s *faulty) {
		return func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Data = f(bytes.Clone(r.Data))
				return s.reference.Save(c, i, r)
			}
		}
	}
	key := func(f func(i id) id) func(s *faulty) {
		return func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) { return s.reference.Load(c, f(i)) }
			s.save = func(c ctx, i id, r rec) error { return s.reference.Save(c, f(i), r) }
			s.delete = func(c ctx, i id) error { return s.reference.Delete(c, f(i)) }
			s.touch = func(c ctx, i id, r rec) error { return s.reference.Touch(c, f(i), r) }
		}
	}
	trim := func(cutset string) func(i id) id {
		return func(i id) (short id) {
			copy(short[:], bytes.TrimRight(i[:], cutset))
			return short
		}
	}
	return []fault{
		{rule: "data", what: "cuts blanks off", make: change(func(d []byte) []byte { return bytes.TrimRight(d, " ") })},
		{rule: "data", what: "ends at a zero byte", make: change(func(d []byte) []byte {
			before, _, _ := bytes.Cut(d, []byte{0})
			return before
		})},
		{rule: "data", what: "valid UTF-8 only", make: change(func(d []byte) []byte {
			return bytes.ToValidUTF8(d, []byte("?"))
		})},
		{rule: "data", what: "65535 bytes at most", make: change(func(d []byte) []byte { return d[:min(len(d), 65535)] })},
		{rule: "data", what: "refuses to save no data", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) == 0 {
					return errors.New("no data")
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "data", what: "leaves the end of longer data in place", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); old.Version > 0 && len(old.Data) > len(r.Data) {
					r.Data = append(bytes.Clone(r.Data), old.Data[len(r.Data):]...)
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "data-large", what: "an error of its own for 1 MiB", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) > 1<<20 {
					return errors.New("object too large for cache")
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "data-large", what: "cuts 1 MiB off", make: change(func(d []byte) []byte { return d[:min(len(d), 1<<20)] })},
		{rule: "data-saved", what: "scrambles what it is given", make: func(s *faulty) {
			var mu sync.Mutex
			s.save = func(c ctx, i id, r rec) error {
				mu.Lock()
				defer mu.Unlock()
				given := r.Data
				r.Data = bytes.Clone(given)
				err := s.reference.Save(c, i, r)
				for j := range given {
					given[j] ^= 0x55
				}
				return err
			}
		}},
		{rule: "data-saved", what: "appends to what it is given", make: func(s *faulty) {
			var mu sync.Mutex
			s.save = func(c ctx, i id, r rec) error {
				mu.Lock()
				defer mu.Unlock()
				framed := append(r.Data, "end"...)
				r.Data = bytes.Clone(framed[:len(r.Data)])
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "data-loaded", what: "saves in the buffer of the version before", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				old := s.live(i)
				if old.Version != r.Version {
					return session.ErrConflict
				}
				if 20 <= len(r.Data) && len(r.Data) <= 100 { // not what others read at the same time
					r.Data = append(s.recs[i].Data[:0], r.Data...)
				}
				r.Version++
				s.recs[i] = r
				return nil
			}
		}},
		{rule: "cached", what: "keeps what a cache has said", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if stored := s.peek(i); err == nil && r.Cached {
					stored.Cached = true
					s.put(i, stored)
				}
				return err
			}
		}},
		{rule: "cached", what: "takes a touch as it is", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				err := s.reference.Touch(c, i, r)
				if stored := s.peek(i); err == nil && r.Cached {
					stored.Cached = true
					s.put(i, stored)
				}
				return err
			}
		}},
		{rule: "cached", what: "refuses a record from a cache", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if r.Cached {
					return session.ErrConflict
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "cached", what: "has a cache that nobody can go past", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				r.Cached = err == nil
				return r, err
			}
		}},
		{rule: "id-bits", what: "keeps 16 bytes of the ID", make: key(func(i id) (short id) {
			copy(short[:], i[:16])
			return short
		})},
		{rule: "id-bits", what: "keeps 255 bits of the ID", make: key(func(i id) id {
			i[31] &^= 0x80
			return i
		})},
		{rule: "id-bytes", what: "IDs end at blanks", make: key(trim(" "))},
		{rule: "id-bytes", what: "IDs have no case", make: key(func(i id) id {
			for j, b := range i {
				if 'A' <= b && b <= 'Z' {
					i[j] += 'a' - 'A'
				}
			}
			return i
		})},
		{rule: "id-bytes", what: "IDs are UTF-8", make: key(func(i id) (valid id) {
			copy(valid[:], bytes.ToValidUTF8(i[:], []byte("?")))
			return valid
		})},
		{rule: "errors-quiet", what: "quotes the data", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if err := s.reference.Save(c, i, r); err != nil {
					return fmt.Errorf("cannot save %q: %w", r.Data, err)
				}
				return nil
			}
		}},
		{rule: "errors-quiet", what: "shows the statement's arguments", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if err := s.reference.Touch(c, i, r); err != nil {
					return fmt.Errorf("cannot touch %v: %w", r, err)
				}
				return nil
			}
		}},
	}
}
