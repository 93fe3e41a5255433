package interleave

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// A Store is a store at which actors take turns. Calls that no actor makes go through.
type Store struct {
	*double.Store

	mu  sync.Mutex
	err error
}

// NewStore returns what makes actors take turns at store.
func NewStore(store session.Store) *Store {
	s := new(Store)
	s.Store = double.New(store, double.On(s.call, double.Load, double.Save, double.Touch, double.Delete))
	return s
}

// Err returns the first error of the store underneath that its contract has no name for.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// call makes a call to the store when it is its actor's turn.
func (s *Store) call(ctx context.Context, c *double.Call, next func(context.Context) error) error {
	noted := func(ctx context.Context) error {
		err := next(ctx)
		s.note(err)
		return err
	}
	if a, ok := ctx.Value(actorKey{}).(*Actor); ok {
		return a.call(ctx, call{op: c.Op, id: c.ID, version: c.Record.Version}, noted)
	}
	return noted(ctx)
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
	op      double.Op
	id      session.ID
	version uint64 // that the caller saw
	err     error
	lost    bool
	late    bool          // its actor has gone on
	at      time.Duration // since the round's clock started
}

func (c call) String() string {
	text := fmt.Sprintf("%s: %v %.8v…", c.actor, c.op, c.id)
	if c.at > 0 {
		text = fmt.Sprintf("after %v, %s", c.at, text)
	}
	if c.op == double.Save || c.op == double.Touch {
		text += fmt.Sprintf(" version %d", c.version)
	}
	if c.err != nil {
		text += ": " + c.err.Error()
	}
	if c.lost {
		text += " (the reply was lost)"
	}
	if c.late {
		text += " (it comes late)"
	}
	return text
}
