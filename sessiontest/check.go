// Package sessiontest checks implementations of [session.Store] against the contract of that interface and of
// its optional companions. The author of a store needs one line of test:
//
//	func TestStore(t *testing.T) {
//		sessiontest.Run(t, func(t *testing.T) session.Store { return NewStore(t.TempDir()) })
//	}
//
// Run it with -race too. An operator's command checks a live server with [Check].
//
// It also tests handlers: a [Client] is a browser at an application under test.
package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"example.com/session"
)

// Run checks each rule of the contract in a subtest of its own, on a store from newStore. A rule about an
// optional interface that the store does not implement, or for which it returns errors.ErrUnsupported, is
// skipped, with the reason. A store must hold at least 64 KiB of Data; more it may refuse as too large.
//
// newStore may return the same store again, or one on a server that others use at the same time: all IDs are
// random, what was written is deleted, and other records are left alone, but for expired ones, which
// DeleteExpired removes. What newStore opens it closes with t.Cleanup.
//
// Subtests are not allowed in a bubble of testing/synctest; call Check there. On a bubble's clock it sees the
// very instant at which a record expires; outside of one, the moments after it.
func Run(t *testing.T, newStore func(t *testing.T) session.Store) {
	t.Helper()
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			e := &env{store: newStore(t)}
			err := r.run(t.Context(), e)
			if err != nil {
				t.Error(err)
			}
			if err := e.cleanUp(t.Context()); err != nil {
				t.Log(err) // the rules about Delete say whether it is broken
			}
			if err == nil && e.skipped != "" {
				t.Skip(e.skipped)
			}
		})
	}
}

// Check checks the rules that Run checks, one after the other on the same store, and returns all broken ones
// joined, or nil; optional interfaces that are not supported count as none. It deletes what it wrote, also when
// ctx ends before it does; it then returns an error for which errors.Is(err, ctx.Err()) holds, besides the rules
// found broken until then. It gives up, and says so, after a rule that takes longer than a minute: the store is
// down, or hangs.
//
// It is safe on a server in use, with the consequences named at Run, at the price of some thousand operations
// and, if the store is a [session.Lister], a dozen times of going through all its records.
func Check(ctx context.Context, store session.Store) error {
	all := &env{store: store}
	var broken []error
	for _, r := range rules() {
		if err := ctx.Err(); err != nil {
			broken = append(broken, fmt.Errorf("sessiontest: ended before rule %s: %w", r.name, err))
			break
		}
		e := &env{store: store}
		broken = append(broken, r.run(ctx, e))
		all.track(e.tracked()...)
		if e.late {
			broken = append(broken, fmt.Errorf("sessiontest: the rules after %s were not checked, for lack of time", r.name))
			break
		}
	}
	return errors.Join(append(broken, all.cleanUp(ctx))...)
}

// A rule is one sentence of the contract.
type rule struct {
	name  string                            // of the subtest
	check func(ctx context.Context, e *env) // fails e if the store breaks the rule
	says  string                            // in the words of the contract
}

const (
	ruleTime  = time.Minute           // for one rule, more than any store in working order takes
	patience  = 10 * time.Second      // for a method whose context has ended, or that nothing holds up
	shortLife = 60 * time.Millisecond // of a record whose expiry is waited for
)

// run returns an error that says what broke the rule, and ends in time even if the store does not.
func (r rule) run(ctx context.Context, e *env) error {
	if e.store == nil {
		return errors.New("sessiontest: the store is nil")
	}
	ruleCtx, cancel := context.WithTimeout(ctx, ruleTime)
	defer cancel()
	returned := false
	if !returns(ruleCtx, func() { r.check(ruleCtx, e); returned = true }) {
		e.late = true
		e.fail("a method of the store has not returned %v after its context was done", patience)
		return r.broken(e.failure())
	}
	e.late = ruleCtx.Err() != nil && ctx.Err() == nil
	switch err := e.failure(); {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("sessiontest: ended during rule %s: %w", r.name, ctx.Err())
	case err != nil && e.late:
		return r.broken(fmt.Errorf("%w (%v had passed since the check of this rule began)", err, ruleTime))
	case err != nil:
		return r.broken(err)
	case !returned:
		return r.broken(errors.New("the store ended the goroutine that called it"))
	}
	return nil
}

func (r rule) broken(err error) error {
	return fmt.Errorf("sessiontest: rule %s: %w\n\tthe contract: %s", r.name, err, r.says)
}

// returns runs f and reports whether it returned before ctx ended and patience was lost. If not, f's goroutine
// is left behind: nothing else can be done about a store that hangs.
func returns(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}
