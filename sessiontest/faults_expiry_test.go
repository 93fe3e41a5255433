package sessiontest_test

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"example.com/session"
)

func expiryFaults() []fault {
	change := func(f func(expires time.Time) time.Time) func(s *faulty) {
		return func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Expires = f(r.Expires)
				return s.reference.Save(c, i, r)
			}
			s.touch = func(c ctx, i id, r rec) error {
				r.Expires = f(r.Expires)
				return s.reference.Touch(c, i, r)
			}
		}
	}
	return []fault{
		{rule: "expires-never", what: "never is the epoch", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if r.Expires.IsZero() {
					r.Expires = time.Unix(0, 0)
				}
				return r, err
			}
		}},
		{rule: "expires-never", what: "never is at once", make: change(func(t time.Time) time.Time {
			if t.IsZero() {
				return time.Unix(0, 0)
			}
			return t
		})},
		{rule: "expires-far", what: "30 days at most", make: change(func(t time.Time) time.Time {
			if t.After(time.Now().AddDate(0, 0, 30)) {
				return time.Unix(t.Unix()%1000, 0)
			}
			return t
		})},
		{rule: "expires-far", what: "nanoseconds in 63 bits", make: change(func(t time.Time) time.Time {
			if t.IsZero() {
				return t
			}
			return time.Unix(0, t.UnixNano())
		})},
		{rule: "expires-resolution", what: "rounds up to a millisecond", make: change(func(t time.Time) time.Time {
			return t.Add(time.Millisecond - 1).Truncate(time.Millisecond)
		})},
		{rule: "expires-resolution", what: "seconds", make: change(func(t time.Time) time.Time {
			return t.Truncate(time.Second)
		})},
		{rule: "expires-resolution", what: "loses the time zone", make: change(func(t time.Time) time.Time {
			return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
		})},
		{rule: "expires-replaced", what: "keeps the expiry if the next save has none", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); r.Version > 0 && r.Expires.IsZero() {
					r.Expires = old.Expires
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "expires-replaced", what: "removes the record at the expiry it had before", make: func(s *faulty) {
			var first sync.Map
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if err == nil && r.Version == 0 {
					first.Store(i, r)
				}
				return err
			}
			s.load = func(c ctx, i id) (rec, error) {
				if r, ok := first.Load(i); ok && !r.(rec).Live(time.Now()) {
					s.reference.Delete(c, i)
				}
				return s.reference.Load(c, i)
			}
		}},
		{rule: "expires-past", what: "refuses an expiry that has passed", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if !r.Live(time.Now()) {
					return errors.New("invalid expire time")
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "expires-past", what: "the epoch reads as never", make: change(func(t time.Time) time.Time {
			if t.Equal(time.Unix(0, 0)) {
				return time.Time{}
			}
			return t
		})},
		{rule: "expires-past", what: "leaves the live record if Expires has passed", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if !r.Live(time.Now()) {
					return nil
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "expired-load", what: "expired records are there until they are swept", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				if r := s.peek(i); r.Version > 0 {
					return r, nil
				}
				return rec{}, session.ErrNotFound
			}
		}},
		{rule: "expired-load", what: "live at the very instant", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				if r := s.peek(i); r.Version > 0 && (r.Expires.IsZero() || !time.Now().After(r.Expires)) {
					return r, nil
				}
				return rec{}, session.ErrNotFound
			}
		}},
		{rule: "expired-load", what: "absent 55 ms early", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if err == nil && !r.Live(time.Now().Add(55*time.Millisecond)) {
					return rec{}, session.ErrNotFound
				}
				return r, err
			}
		}},
		{rule: "expired-save", what: "expired records are in the way", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); old.Version > 0 && r.Version == 0 {
					return session.ErrConflict
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "expired-save", what: "expired records can be saved", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old := s.peek(i); old.Version > 0 && r.Version == old.Version {
					old.Expires = time.Time{}
					s.put(i, old)
				}
				return s.reference.Save(c, i, r)
			}
		}},
	}
}

func touchFaults() []fault {
	return []fault{
		{rule: "touch-moves", what: "moves expiry to later times only", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if old := s.peek(i); !r.Expires.IsZero() && r.Expires.Before(old.Expires) {
					r.Expires = old.Expires
				}
				return s.reference.Touch(c, i, r)
			}
		}},
		{rule: "touch-moves", what: "cannot touch to never", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if r.Expires.IsZero() {
					r.Expires = s.peek(i).Expires
				}
				return s.reference.Touch(c, i, r)
			}
		}},
		{rule: "touch-keeps", what: "Touch counts as a save", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				err := s.reference.Touch(c, i, r)
				if old := s.peek(i); err == nil {
					old.Version++
					s.put(i, old)
				}
				return err
			}
		}},
		{rule: "touch-keeps", what: "Touch loses the data", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				err := s.reference.Touch(c, i, r)
				if old := s.peek(i); err == nil {
					old.Data = nil
					s.put(i, old)
				}
				return err
			}
		}},
		{rule: "touch-conflict", what: "ignores the version", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				r.Version = max(s.peek(i).Version, 1)
				return s.reference.Touch(c, i, r)
			}
		}},
		{rule: "touch-conflict", what: "not found instead of a conflict", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if err := s.reference.Touch(c, i, r); err != nil {
					return session.ErrNotFound
				}
				return nil
			}
		}},
		{rule: "touch-absent", what: "creates", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				err := s.reference.Touch(c, i, r)
				if errors.Is(err, session.ErrNotFound) {
					s.put(i, r)
				}
				return err
			}
		}},
		{rule: "touch-absent", what: "a conflict instead of not found", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				if err := s.reference.Touch(c, i, r); err != nil {
					return session.ErrConflict
				}
				return nil
			}
		}},
		{rule: "touch-expired", what: "revives", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				err := s.reference.Touch(c, i, r)
				if old := s.peek(i); errors.Is(err, session.ErrNotFound) && old.Version == r.Version {
					old.Expires = r.Expires
					s.put(i, old)
					return nil
				}
				return err
			}
		}},
		{rule: "touch-save", what: "Save after Touch conflicts", make: func(s *faulty) {
			var touched sync.Map
			s.touch = func(c ctx, i id, r rec) error {
				touched.Store(i, true)
				return s.reference.Touch(c, i, r)
			}
			s.save = func(c ctx, i id, r rec) error {
				if _, ok := touched.LoadAndDelete(i); ok {
					return session.ErrConflict
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "touch-helper", what: "Save of the same data does nothing", plain: true, make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old, err := s.reference.Load(c, i); err == nil && old.Version == r.Version && bytes.Equal(old.Data, r.Data) {
					return nil
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "touch-helper", what: "Touch does its work, and returns ErrUnsupported", make: func(s *faulty) {
			s.touch = func(c ctx, i id, r rec) error {
				old := s.peek(i)
				if s.reference.Touch(c, i, r) == nil {
					old.Version += 7
					s.put(i, old)
				}
				return errors.ErrUnsupported
			}
		}},
	}
}
