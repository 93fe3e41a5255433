package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
)

// env is what the check of one rule works with: the store, steps that compare what comes back with what the
// contract says, and a list of the IDs to clean up. The first failure sticks, and the steps after it do
// nothing. It is safe for concurrent use.
type env struct {
	kit     *kit
	store   *guard
	first   bool // the rule is checked once more, through several handles
	missing bool // the store is nil
	late    bool // the rule took all of ruleTime, or the store hung
	fresh   func(ctx context.Context) (session.Store, error)
	span    atomic.Int64 // of a call, in nanoseconds; see timed

	mu      sync.Mutex
	random  *rand.ChaCha8
	err     error
	likely  string     // a likely cause of err
	named   bool       // err speaks for itself
	about   session.ID // whose calls led to err; zero for all
	skipped string
	ids     []session.ID
}

func (e *env) fail(format string, args ...any) { e.failOf(session.ID{}, "", format, args...) }

// failOf is fail with the ID that it is about, and a likely cause, if there are.
func (e *env) failOf(id session.ID, likely, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err, e.about, e.likely = fmt.Errorf(format, args...), id, likely
	}
}

func (e *env) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *env) failed() bool { return e.failure() != nil }

func (e *env) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err, e.about, e.likely = nil, session.ID{}, ""
}

// newID returns a random ID, whose record is deleted in the end.
func (e *env) newID() session.ID {
	var id session.ID
	e.mu.Lock()
	e.random.Read(id[:])
	e.ids = append(e.ids, id)
	e.mu.Unlock()
	return id
}

func (e *env) newIDs(n int) []session.ID {
	ids := make([]session.ID, n)
	for i := range ids {
		ids[i] = e.newID()
	}
	return ids
}

// rand returns a source of choices that the seed repeats.
func (e *env) rand() *rand.Rand {
	e.mu.Lock()
	defer e.mu.Unlock()
	return rand.New(rand.NewPCG(e.random.Uint64(), e.random.Uint64()))
}

func (e *env) track(ids ...session.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ids = append(e.ids, ids...)
}

func (e *env) tracked() []session.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.ids)
}

// cleanUp deletes the records that were written, also after the end of ctx.
func (e *env) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ruleTime)
	defer cancel()
	ids := e.tracked()
	if e.missing {
		return nil
	}
	errs := make([]error, len(ids))
	if !returns(ctx, func() { many(len(ids), func(i int) { errs[i] = e.store.Delete(ctx, ids[i]) }) }) {
		return fmt.Errorf("sessiontest: clean-up: Delete has not returned %v after its context was done", patience)
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 0 {
		return fmt.Errorf("sessiontest: clean-up: Delete failed for %d of %d IDs, with %w", len(errs), len(ids), errs[0])
	}
	return nil
}

// create saves rec where nothing is. Its version does not matter.
func (e *env) create(ctx context.Context, id session.ID, rec session.Record) {
	rec.Version = 0
	e.save(ctx, id, rec, nil, "where no record is")
}

// save expects want, nil or a sentinel error. The word after "Save of version n" says when.
func (e *env) save(ctx context.Context, id session.ID, rec session.Record, want error, when string) {
	if e.failed() {
		return
	}
	if err := e.store.Save(ctx, id, rec); !matches(err, want) {
		e.failOf(id, hint(err), "Save of version %d %s: want %s, got %s", rec.Version, when, outcome(want), outcome(err))
	}
}

// load expects a live record.
func (e *env) load(ctx context.Context, id session.ID, when string) session.Record {
	if e.failed() {
		return session.Record{}
	}
	rec, err := e.store.Load(ctx, id)
	if err != nil {
		e.failOf(id, hint(err), "Load %s: want the record, got %s", when, outcome(err))
	}
	return rec
}

// holds expects want, down to version, expiry and data.
func (e *env) holds(ctx context.Context, id session.ID, want session.Record, when string) {
	got := e.load(ctx, id, when)
	if d := difference(got, want); d != "" {
		e.failOf(id, likely(got, want), "Load %s: %s", when, d)
	}
}

// absent expects no live record.
func (e *env) absent(ctx context.Context, id session.ID, when string) {
	if e.failed() {
		return
	}
	if rec, err := e.store.Load(ctx, id); err == nil {
		e.failOf(id, "", "Load %s: want session.ErrNotFound, got a record of version %d", when, rec.Version)
	} else if !matches(err, session.ErrNotFound) {
		e.failOf(id, hint(err), "Load %s: want session.ErrNotFound, got %s", when, outcome(err))
	}
}

func (e *env) delete(ctx context.Context, id session.ID, when string) {
	if e.failed() {
		return
	}
	if err := e.store.Delete(ctx, id); err != nil {
		e.failOf(id, hint(err), "Delete %s: want success, got %s", when, outcome(err))
	}
}

// touch expects want, nil or a sentinel error.
func (e *env) touch(
	ctx context.Context, id session.ID, rec session.Record, expires time.Time, want error, when string,
) {
	if e.failed() {
		return
	}
	rec.Expires = expires
	if err := e.store.Touch(ctx, id, rec); !matches(err, want) && supported(err) {
		e.failOf(id, hint(err), "Touch of version %d %s: want %s, got %s", rec.Version, when, outcome(want), outcome(err))
	}
}

// touches reports whether the store is a Toucher that supports Touch.
func (e *env) touches(ctx context.Context) bool {
	return supported(e.store.Touch(ctx, e.newID(), session.Record{Version: 1}))
}

// needsTouch skips the rule if the store has no Touch to check.
func (e *env) needsTouch(ctx context.Context) bool {
	ok := e.touches(ctx)
	if !ok {
		e.skip("Touch")
	}
	return ok
}

// skip notes why a rule does not concern the store.
func (e *env) skip(method string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.skipped = fmt.Sprintf("%T does not support %s, which is optional", e.store.handles[0], method)
}

// hour returns an expiry that no check lives to see.
func hour() time.Time { return time.Now().Add(time.Hour).Truncate(time.Millisecond) }

// soon calls f with an expiry so short ahead that it can be waited for, again with a longer one if it has passed
// when f returns, and returns the last one. A failure of f counts only if f was in time.
func (e *env) soon(f func(expires time.Time)) time.Time {
	for d := shortLife; ; d *= 4 {
		expires := time.Now().Add(d).Truncate(time.Millisecond)
		f(expires)
		if time.Now().Before(expires) || d > patience {
			return expires
		}
		e.forget()
	}
}

// wait returns at t, not a moment earlier, by the clock that a store compares Expires with. It sleeps rather than
// select on ctx.Done, which may belong to the outside of a synctest bubble and would stop the bubble's clock.
func (e *env) wait(ctx context.Context, t time.Time) {
	for d := time.Until(t); d > 0 && !e.failed(); d = time.Until(t) {
		if err := ctx.Err(); err != nil {
			e.fail("waiting for a record to expire: %w", err)
		}
		time.Sleep(min(d, 10*time.Millisecond))
	}
}

// matches reports whether err is what want says: nil, or an error that wraps want and no other sentinel.
func matches(err, want error) bool {
	if want == nil || err == nil {
		return err == want
	}
	for _, sentinel := range sentinels() {
		if sentinel != want && errors.Is(err, sentinel) {
			return false
		}
	}
	return errors.Is(err, want)
}

func sentinels() []error {
	return []error{session.ErrNotFound, session.ErrConflict, session.ErrTooLarge, errors.ErrUnsupported}
}

// outcome puts err into words.
func outcome(err error) string {
	switch err {
	case nil:
		return "success"
	case session.ErrNotFound:
		return "session.ErrNotFound"
	case session.ErrConflict:
		return "session.ErrConflict"
	case session.ErrTooLarge:
		return "session.ErrTooLarge"
	}
	for _, named := range append(sentinels(), context.Canceled, context.DeadlineExceeded) {
		if errors.Is(err, named) {
			return fmt.Sprintf("the error %q", err)
		}
	}
	return fmt.Sprintf("the error %q, which wraps none that the contract names", err)
}

// difference says in what got is not want, or is empty.
func difference(got, want session.Record) string {
	switch {
	case got.Version != want.Version:
		return fmt.Sprintf("want version %d, got version %d", want.Version, got.Version)
	case !sameExpiry(got.Expires, want.Expires):
		return fmt.Sprintf("want the expiry %s, got %s", timeText(want.Expires), timeText(got.Expires))
	case len(got.Data) != len(want.Data):
		return fmt.Sprintf("want %d bytes of Data, got %d", len(want.Data), len(got.Data))
	case !bytes.Equal(got.Data, want.Data):
		i := 0
		for got.Data[i] == want.Data[i] {
			i++
		}
		return fmt.Sprintf("want byte %d of Data to be 0x%02x, got 0x%02x", i, want.Data[i], got.Data[i])
	}
	return ""
}

// likely names a likely cause of a difference, or is empty.
func likely(got, want session.Record) string {
	switch {
	case got.Version != want.Version:
		return hintVersion(got.Version, want.Version)
	case !sameExpiry(got.Expires, want.Expires):
		return hintTime(got.Expires, want.Expires)
	}
	return hintData(got.Data, want.Data)
}

// sameExpiry allows for a store that drops what is finer than a millisecond.
func sameExpiry(got, want time.Time) bool {
	if want.IsZero() || got.IsZero() {
		return want.IsZero() && got.IsZero()
	}
	return !got.After(want) && !got.Before(want.Truncate(time.Millisecond))
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return "zero (never)"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z")
}
