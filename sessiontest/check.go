// Package sessiontest checks implementations of [session.Store] against the contract of that interface and of
// its optional companions. The author of a store needs one test:
//
//	func TestStore(t *testing.T) {
//		stores := sessiontest.Stores{
//			Place:     func(t *testing.T) string { return t.TempDir() },
//			Open:      func(ctx context.Context, place string) (session.Store, error) { return OpenStore(place) },
//			Processes: true,
//		}
//		sessiontest.Run(t, stores)
//		sessiontest.RunSessions(t, stores)
//	}
//
// Run it with -race too. The file STORES.md of the repository says how to write a store, and what a failure means. An operator's
// command checks a live server with [Check].
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

// Run checks each rule of the contract in a subtest of its own, at a place of its own. A rule about an
// optional interface that the store does not implement, or for which it returns errors.ErrUnsupported, is
// skipped, with the reason. A store must hold at least 64 KiB of Data; more it may refuse as too large.
//
// Unless Stores.Once is set, each rule is checked once more through several handles of the place in turn: what holds for
// one holds for all of them together. With Stores.Processes one of them is in a second process.
//
// A store in memory takes some seconds, one on a server less than a minute, and both far less with -short. While calls race each
// other, the number of threads changes (runtime.GOMAXPROCS), and all goroutines are stopped now and then: the process is slower.
//
// A failure says which sentence of the contract is broken, what was wanted and what came, the calls that led there, and the seed:
// the environment variable SESSIONTEST_SEED has the same IDs and the same choices made again. A store that hangs or
// panics fails the rule that it was in; the others go on, with less patience.
//
// Stores.Place may return the same place again, or one that others use at the same time: all IDs are
// random, what was written is deleted, and other records are left alone, but for expired ones, which
// DeleteExpired removes.
//
// Subtests are not allowed in a bubble of testing/synctest; call Check there. On a bubble's clock it sees the
// very instant at which a record expires; outside of one, the moments after it.
func Run(t *testing.T, stores Stores) {
	t.Helper()
	run := countRun(t)
	if isSecondProcess() {
		serveProcess(t, stores, run)
		return
	}
	k := newKit()
	k.short = stores.Short || testing.Short()
	var second *process
	if stores.Processes && !stores.Once {
		var err error
		if second, err = startProcess(t, run); err != nil {
			t.Error(err)
		}
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			skipped, err := k.runAt(t, r, stores, second)
			if err != nil {
				t.Error(err)
			} else if skipped != "" {
				t.Skip(skipped)
			}
		})
	}
}

// Check checks the rules that Run checks, one after the other on the same store, and returns all broken ones
// joined, or nil; optional interfaces that are not supported count as none. The others are stores at the same place, as other
// processes have them open; with one or more, each rule is checked through all in turn, too. It deletes what it wrote, also when
// ctx ends before it does; it then returns an error for which errors.Is(err, ctx.Err()) holds, besides the rules
// found broken until then. It gives up, and says so, after a rule that takes longer than a minute: the store is
// down, or hangs. It closes nothing.
//
// It is safe on a server in use, with the consequences named at Run, at the price of some ten thousand operations
// and, if the store is a [session.Lister], some dozen times of going through all its records.
func Check(ctx context.Context, store session.Store, others ...session.Store) error {
	k := newKit()
	var broken []error
	for _, r := range rules() {
		if err := ctx.Err(); err != nil {
			broken = append(broken, fmt.Errorf("sessiontest: ended before rule %s: %w", r.name, err))
			break
		}
		hung, err := k.runOn(ctx, r, append([]session.Store{store}, others...))
		broken = append(broken, err)
		if hung {
			broken = append(broken, fmt.Errorf("sessiontest: the rules after %s were not checked, for lack of time", r.name))
			break
		}
	}
	return errors.Join(broken...)
}

// runOn checks a rule on one store and, if that keeps it, on all in turn.
func (k *kit) runOn(ctx context.Context, r rule, stores []session.Store) (hung bool, err error) {
	passes := [][]session.Store{stores[:1], stores}
	if len(stores) < 2 || r.alone {
		passes = passes[:1]
	}
	for pass, handles := range passes {
		if err != nil {
			break
		}
		e := k.newEnv(r, pass, len(passes), handles)
		err = r.run(ctx, e)
		hung = e.late
		if cleanUp := e.cleanUp(ctx); err == nil {
			err = cleanUp
		}
	}
	return hung, err
}

// A rule is one sentence of the contract.
type rule struct {
	name  string                            // of the subtest
	check func(ctx context.Context, e *env) // fails e if the store breaks the rule
	says  string                            // in the words of the contract
	cause string                            // what most often breaks it; may be empty
	alone bool                              // further handles of the place would show nothing new
}

const (
	ruleTime  = time.Minute           // for one rule, more than any store in working order takes
	patience  = 10 * time.Second      // for a method whose context has ended, or that nothing holds up
	shortLife = 60 * time.Millisecond // of a record whose expiry is waited for
)

// run returns an error that says what broke the rule, and ends in time even if the store does not.
func (r rule) run(ctx context.Context, e *env) error {
	if e.missing {
		return errors.New("sessiontest: the store is nil")
	}
	ruleCtx, cancel := context.WithTimeout(ctx, ruleTime)
	defer cancel()
	returned := false
	switch what, ok := e.watch(ruleCtx, cancel, func() { r.check(ruleCtx, e); returned = true }); {
	case !ok:
		e.late = true
		return r.broken(e, e.failure())
	case what != "":
		e.late = true
	}
	e.late = e.late || ruleCtx.Err() == context.DeadlineExceeded && ctx.Err() == nil
	switch err := e.failure(); {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("sessiontest: ended during rule %s: %w", r.name, ctx.Err())
	case err != nil && ruleCtx.Err() == context.DeadlineExceeded:
		return r.broken(e, fmt.Errorf("%w (%v had passed since the check of this rule began)", err, ruleTime))
	case err != nil:
		return r.broken(e, err)
	case !returned:
		return r.broken(e, errors.New("the store ended the goroutine that called it"))
	}
	return nil
}

// watch runs f. If the store works on one call for longer than anybody has patience, it ends the context and returns the name
// of the method; if even that does not help, ok is false, and f's goroutine is left behind: nothing else can be done about
// a store that hangs.
func (e *env) watch(ctx context.Context, cancel func(), f func()) (hung string, ok bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	patience := e.kit.patience()
	ticker := time.NewTicker(patience / 10)
	defer ticker.Stop()
	for over := ctx.Done(); hung == "" && over != nil; {
		select {
		case <-done:
			return "", true
		case <-over:
			over = nil
		case <-ticker.C:
			hung = e.store.stuck(patience)
		}
	}
	if hung != "" {
		e.fail("%s: want it to return, but it has not within %v", hung, patience)
		e.kit.hung.Add(1)
		cancel()
	}
	if hung != "" {
		patience /= 5
	}
	select {
	case <-done:
		return hung, true
	case <-time.After(patience):
		e.fail("a method of the store has not returned %v after its context was done", patience)
		e.kit.hung.Add(1)
		return hung, false
	}
}

// broken puts all that is known about a failure into words.
func (r rule) broken(e *env, err error) error {
	err = fmt.Errorf("sessiontest: rule %s: %w\n\tthe contract: %s", r.name, err, r.says)
	if e.likely == "" && !e.named {
		e.likely = r.cause
	}
	if n := len(e.store.handles); n > 1 {
		err = fmt.Errorf("%w\n\tthe calls went through %d handles of one place in turn; through one alone the rule holds", err, n)
		if e.likely == "" || e.likely == r.cause {
			e.likely = "the handles do not know of each other: a mutex, a cache, a counter or a copy that only one of them has"
		}
	}
	if e.likely != "" {
		err = fmt.Errorf("%w\n\ta likely cause: %s", err, e.likely)
	}
	return fmt.Errorf("%w%s\n\tthe seed: SESSIONTEST_SEED=%d", err, e.store.story(e.about), e.kit.seed)
}

// returns runs f and reports whether it returned before ctx ended and patience was lost.
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
