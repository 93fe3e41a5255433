package sessiontest_test

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/session"
)

func savingFaults() []fault {
	return []fault{
		{rule: "load-unknown", what: "no error for what is not there", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, _ := s.reference.Load(c, i)
				return r, nil
			}
		}},
		{rule: "load-unknown", what: "an error of its own for what is not there", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if err != nil {
					err = errors.New(err.Error())
				}
				return r, err
			}
		}},
		{rule: "versions", what: "counts from 0", make: func(s *faulty) {
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				r.Version = max(r.Version, 1) - 1
				return r, err
			}
		}},
		{rule: "versions", what: "the version does not grow", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Version = min(r.Version, 3)
				err := s.reference.Save(c, i, r)
				if stored := s.peek(i); err == nil && stored.Version > 3 {
					stored.Version = 3
					s.put(i, stored)
				}
				return err
			}
		}},
		{rule: "save-over-live", what: "version 0 overwrites", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old, err := s.reference.Load(c, i); err == nil && r.Version == 0 {
					r.Version = old.Version
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-over-live", what: "a conflict is an error of its own", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if err := s.reference.Save(c, i, r); err != nil {
					return errors.New("duplicate key")
				}
				return nil
			}
		}},
		{rule: "save-stale", what: "an older version overwrites", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old, err := s.reference.Load(c, i); err == nil && r.Version > 0 && r.Version < old.Version {
					r.Version = old.Version
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-stale", what: "a conflict is no error", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				s.reference.Save(c, i, r)
				return nil
			}
		}},
		{rule: "save-ahead", what: "a newer version overwrites", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if old, err := s.reference.Load(c, i); err == nil && r.Version > old.Version {
					r.Version = old.Version
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-ahead", what: "compares 32 bits of the version", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				r.Version = uint64(uint32(r.Version))
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-absent", what: "creates whatever the version", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				if _, err := s.reference.Load(c, i); err != nil {
					r.Version = 0
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "save-absent", what: "not found instead of a conflict", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if _, loadErr := s.reference.Load(c, i); err != nil && loadErr != nil {
					return fmt.Errorf("%w: %w", err, loadErr)
				}
				return err
			}
		}},
		{rule: "save-copy", what: "a record loaded from another ID is refused", make: func(s *faulty) {
			var from sync.Map
			s.load = func(c ctx, i id) (rec, error) {
				r, err := s.reference.Load(c, i)
				if len(r.Data) > 0 {
					from.Store(&r.Data[0], i)
				}
				return r, err
			}
			s.save = func(c ctx, i id, r rec) error {
				if len(r.Data) > 0 {
					if origin, ok := from.Load(&r.Data[0]); ok && origin != i {
						return session.ErrConflict
					}
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "conflict-keeps", what: "a conflict sets the expiry", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if old := s.peek(i); err != nil && old.Version > 0 {
					old.Expires = r.Expires
					s.put(i, old)
				}
				return err
			}
		}},
		{rule: "conflict-keeps", what: "deletes before it compares if Expires has passed", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if !r.Live(time.Now()) {
					s.reference.Delete(c, i)
				}
				return err
			}
		}},
		{rule: "conflict-keeps", what: "a conflict counts as a save", make: func(s *faulty) {
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if old := s.peek(i); err != nil && old.Version > 0 {
					old.Version++
					s.put(i, old)
				}
				return err
			}
		}},
		{rule: "delete", what: "deletes nothing", make: func(s *faulty) {
			s.delete = func(ctx, id) error { return nil }
		}},
		{rule: "delete", what: "deletes version 1 only", make: func(s *faulty) {
			s.delete = func(c ctx, i id) error {
				if s.peek(i).Version > 1 {
					return nil
				}
				return s.reference.Delete(c, i)
			}
		}},
		{rule: "delete-absent", what: "an error if there is nothing to delete", make: func(s *faulty) {
			s.delete = func(c ctx, i id) error {
				if _, err := s.reference.Load(c, i); err != nil {
					return err
				}
				return s.reference.Delete(c, i)
			}
		}},
		{rule: "delete-stale", what: "a save brings a deleted record back", make: func(s *faulty) {
			var deleted sync.Map
			s.delete = func(c ctx, i id) error {
				deleted.Store(i, s.peek(i).Version)
				return s.reference.Delete(c, i)
			}
			s.save = func(c ctx, i id, r rec) error {
				if version, ok := deleted.LoadAndDelete(i); ok && r.Version == version {
					r.Version = 0
				}
				return s.reference.Save(c, i, r)
			}
		}},
		{rule: "delete-create", what: "the version goes on after Delete", make: func(s *faulty) {
			var deleted sync.Map
			s.delete = func(c ctx, i id) error {
				deleted.Store(i, s.peek(i).Version)
				return s.reference.Delete(c, i)
			}
			s.save = func(c ctx, i id, r rec) error {
				err := s.reference.Save(c, i, r)
				if version, ok := deleted.LoadAndDelete(i); ok && err == nil {
					r.Version = version.(uint64) + 1
					s.put(i, r)
				}
				return err
			}
		}},
	}
}
