package sessiontest_test

import (
	"context"
	"slices"
	"sync/atomic"

	"example.com/session"
	"example.com/session/sessiontest"
)

// A fault breaks one rule, and often others with it.
type fault struct {
	rule  string // that must be reported
	what  string
	make  func(s *faulty)
	plain bool // hides the optional interfaces

	closes func(s *closable) // instead of make, for what goes wrong with Close
	real   bool              // in real time, too, where nothing makes two goroutines meet
	second bool              // a second store at the same place has the fault, too
}

// A closable is a faulty store with a Close.
type closable struct {
	*faulty
	closed atomic.Int32
	close  func(n int) error // for the how manieth time
}

func (s *closable) Close() error {
	if n := s.closed.Add(1); s.close != nil {
		return s.close(int(n))
	}
	return nil
}

// check checks the rule that the fault breaks.
func (f fault) check(ctx context.Context) error {
	ref := newReference()
	var stores []session.Store
	for range 2 {
		s := &faulty{reference: ref}
		if f.make != nil {
			f.make(s)
		}
		var store session.Store = s
		if f.plain {
			store = struct{ session.Store }{s}
		}
		stores = append(stores, store)
		if !f.second {
			break
		}
	}
	var open func(ctx context.Context) (session.Store, error)
	if f.closes != nil {
		open = func(context.Context) (session.Store, error) {
			s := &closable{faulty: &faulty{reference: ref}}
			f.closes(s)
			return s, nil
		}
	}
	return sessiontest.CheckRule(ctx, f.rule, open, stores...)
}

type (
	id  = session.ID
	rec = session.Record
	ctx = context.Context
)

func faults() []fault {
	return slices.Concat(savingFaults(), dataFaults(), expiryFaults(), touchFaults(), listFaults(), waitingFaults(),
		raceFaults(), closeFaults(), versionFaults(), sweepFaults(), manyFaults(), cutFaults())
}
