package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"example.com/session"
)

func checkContextDone(ctx context.Context, e *env) {
	cancelled, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the cause, which is not ctx.Err()"))
	late, cancelLate := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	for _, done := range []context.Context{cancelled, late} {
		e.checkDone(ctx, done)
	}
}

// checkDone calls each method with a context that is done. A store that need not wait for anything may do its work
// all the same; but what a method returns must then be true.
func (e *env) checkDone(ctx, done context.Context) {
	// An ID for each: a Save or Delete that was cut short may take effect at any time later.
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	live := func() session.ID {
		id := e.newID()
		e.create(ctx, id, rec)
		return id
	}
	saved := rec
	saved.Version = 1

	id := live()
	var got session.Record
	load := func() (err error) { got, err = e.store.Load(done, id); return err }
	if e.callDone(done, "Load of a live record", load, nil) == nil {
		if d := difference(got, saved); d != "" {
			e.fail("Load with a context that is done: %s", d)
		}
	}
	unused := e.newID()
	e.callDone(done, "Load of an unused ID", func() error { _, err := e.store.Load(done, unused); return err },
		session.ErrNotFound)

	e.callDone(done, "Save of version 0 over a live record", func() error { return e.store.Save(done, id, rec) },
		session.ErrConflict)
	e.holds(ctx, id, saved, "after a Save of version 0 with a context that is done")
	save := func() error { return e.store.Save(done, id, saved) }
	if e.callDone(done, "Save of version 1 over version 1", save, nil) == nil {
		after := saved
		after.Version = 2
		e.holds(ctx, id, after, "after a Save with a context that is done, which returned no error")
	}

	id = live()
	if e.callDone(done, "Delete of a live record", func() error { return e.store.Delete(done, id) }, nil) == nil {
		e.absent(ctx, id, "after a Delete with a context that is done, which returned no error")
	}
	id = live()
	e.checkDoneOptional(done, id, e.load(ctx, id, "after one save"))
}

// checkDoneOptional is checkDone for the methods that a store need not have. loaded is the record under id.
func (e *env) checkDoneOptional(done context.Context, id session.ID, loaded session.Record) {
	if toucher, ok := e.store.(session.Toucher); ok {
		e.callDone(done, "Touch of a live record", func() error { return toucher.Touch(done, id, loaded) },
			nil, errors.ErrUnsupported)
	}
	if sweeper, ok := e.store.(session.Sweeper); ok {
		e.callDone(done, "DeleteExpired", func() error { _, err := sweeper.DeleteExpired(done, 1); return err },
			nil, errors.ErrUnsupported)
	}
	if counter, ok := e.store.(session.Counter); ok {
		e.callDone(done, "Count", func() error { _, err := counter.Count(done, -1, 0); return err }, nil, errors.ErrUnsupported)
	}
	if lister, ok := e.store.(session.Lister); ok {
		e.callDone(done, "List", func() error { return e.drain(lister.List(done)) }, nil, errors.ErrUnsupported)
	}
}

// callDone calls f, which works with a context that is done, and returns its error: that of the context, or one that is
// valid without it.
func (e *env) callDone(done context.Context, what string, f func() error, valid ...error) error {
	var err error
	if e.failed() {
		return done.Err()
	}
	what = fmt.Sprintf("%s with a context that is done (%v)", what, done.Err())
	if !returns(done, func() { err = f() }) {
		e.fail("%s has not returned after %v", what, patience)
		return done.Err()
	}
	if !matches(err, done.Err()) && !slices.Contains(valid, cause(err)) {
		e.fail("%s: want an error that wraps ctx.Err() and no other, or what it would return otherwise, got %s",
			what, outcome(err))
	}
	return err
}

func checkContextCancelled(ctx context.Context, e *env) {
	// Not each time is somebody interrupted in the middle.
	for range 3 {
		e.checkCancelled(ctx)
	}
	if lister, ok := e.store.(session.Lister); ok {
		e.checkListCancelled(ctx, lister)
	}
}

func (e *env) checkCancelled(ctx context.Context) {
	const workers, rounds = 4, 3
	if e.failed() {
		return
	}
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	goesOn := func(method string, err error) bool {
		switch {
		case err == nil:
			return true
		case cut.Err() == nil:
			e.fail("%s by several goroutines at once, each with an ID of its own: want success, got %s",
				method, outcome(err))
		case !matches(err, cut.Err()):
			e.fail("%s whose context was cancelled: want an error that wraps ctx.Err() and no other, got %s",
				method, outcome(err))
		}
		return false
	}
	var ready atomic.Int32
	work := func(int) {
		defer cancel() // what fails ends it for all
		id := e.newID()
		rec := session.Record{Data: []byte("data"), Expires: hour()}
		for round := 1; cut.Err() == nil; round++ {
			if !goesOn("Save", e.store.Save(cut, id, rec)) {
				return
			}
			rec.Version++
			got, err := e.store.Load(cut, id)
			if !goesOn("Load", err) {
				return
			}
			if d := difference(got, rec); d != "" {
				e.fail("Load by several goroutines at once, each with an ID of its own: %s", d)
			}
			last := round == rounds && ready.Add(1) == workers
			runtime.Gosched() // or those that need not wait for a server would keep the others from it
			if last {
				return // and cancel what the others have begun
			}
		}
	}
	if !returns(cut, func() { together(workers, work) }) {
		e.fail("a method has not returned %v after its context was cancelled", patience)
	}
}

func (e *env) checkListCancelled(ctx context.Context, lister session.Lister) {
	for range 3 {
		e.create(ctx, e.newID(), session.Record{Data: []byte("data"), Expires: hour()})
	}
	if e.failed() {
		return
	}
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	err := e.drain(func(yield func(session.Entry, error) bool) {
		for entry, err := range lister.List(cut) {
			if !yield(entry, err) {
				return
			}
			cancel()
		}
	})
	if err != nil && !matches(err, errors.ErrUnsupported) && !matches(err, context.Canceled) {
		e.fail("List whose context was cancelled: want an error that wraps ctx.Err() and no other, got %s", outcome(err))
	}
}

// drain goes through a list to its end and returns the error that it ended with.
func (e *env) drain(list func(yield func(session.Entry, error) bool)) error {
	var last error
	for entry, err := range list {
		if last != nil {
			e.fail("List: want the sequence to end after an error, got more")
			break
		}
		if last = err; err != nil && (entry.ID != session.ID{} || difference(entry.Record, session.Record{}) != "") {
			e.fail("List: want a zero Entry with an error, got one that is not")
		}
	}
	return last
}

// cause returns the sentinel that err wraps, if it is the only one, nil for nil, and else err itself.
func cause(err error) error {
	for _, sentinel := range sentinels() {
		if matches(err, sentinel) {
			return sentinel
		}
	}
	return err
}
