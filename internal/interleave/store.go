package interleave

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"example.com/session"
)

// A Store is a store at which actors take turns. Calls that no actor makes go through.
type Store struct {
	session.Store

	mu  sync.Mutex
	err error
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, id session.ID) (rec session.Record, err error) {
	err = s.call(ctx, call{op: "load", id: id}, func() (err error) {
		rec, err = s.Store.Load(ctx, id)
		return err
	})
	if err != nil {
		return session.Record{}, err
	}
	return rec, nil
}

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return s.call(ctx, call{op: "save", id: id, version: rec.Version}, func() error {
		return s.Store.Save(ctx, id, rec)
	})
}

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	toucher, ok := s.Store.(session.Toucher)
	if !ok {
		return errors.ErrUnsupported
	}
	return s.call(ctx, call{op: "touch", id: id, version: rec.Version}, func() error {
		return toucher.Touch(ctx, id, rec)
	})
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	return s.call(ctx, call{op: "delete", id: id}, func() error {
		return s.Store.Delete(ctx, id)
	})
}

// Err returns the first error of the store underneath that its contract has no name for.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// call makes a call to the store with f.
func (s *Store) call(ctx context.Context, c call, f func() error) error {
	noted := func() error {
		err := f()
		s.note(err)
		return err
	}
	if a, ok := ctx.Value(actorKey{}).(*Actor); ok {
		return a.call(c, noted)
	}
	return noted()
}

func (s *Store) note(err error) {
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) ||
		errors.Is(err, errors.ErrUnsupported) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// An actorKey is the context key of the *Actor on whose behalf the store is called.
type actorKey struct{}

// A call is one to the store, with what came of it.
type call struct {
	actor   string
	op      string
	id      session.ID
	version uint64 // that the caller saw
	err     error
	lost    bool
}

func (c call) String() string {
	text := fmt.Sprintf("%s: %s %.8v…", c.actor, c.op, c.id)
	if c.op == "save" || c.op == "touch" {
		text += fmt.Sprintf(" version %d", c.version)
	}
	if c.err != nil {
		text += ": " + c.err.Error()
	}
	if c.lost {
		text += " (the reply was lost)"
	}
	return text
}
