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
	e.callDone(done, "Touch of a live record", func() error { return e.store.Touch(done, id, loaded) }, nil, errors.ErrUnsupported)
	e.callDone(done, "DeleteExpired", func() error { _, err := e.store.DeleteExpired(done, 1); return err }, nil, errors.ErrUnsupported)
	e.callDone(done, "Count", func() error { _, err := e.store.Count(done, -1, 0); return err }, nil, errors.ErrUnsupported)
	e.callDone(done, "List", func() error { return e.drain(e.store.List(done)) }, nil, errors.ErrUnsupported)
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
		e.failOf(session.ID{}, hint(err), "%s: want an error that wraps ctx.Err() and no other, or what it would return otherwise, got %s",
			what, outcome(err))
	}
	return err
}

func checkContextCancelled(ctx context.Context, e *env) {
	// Not each time is somebody interrupted in the middle.
	for range 8 {
		e.checkCancelled(ctx)
	}
	e.checkListCancelled(ctx)
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
			e.failOf(session.ID{}, hint(err), "%s whose context was cancelled: want an error that wraps ctx.Err() and no other, got %s",
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

func (e *env) checkListCancelled(ctx context.Context) {
	for range 3 {
		e.create(ctx, e.newID(), session.Record{Data: []byte("data"), Expires: hour()})
	}
	if e.failed() {
		return
	}
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	err := e.drain(func(yield func(session.Entry, error) bool) {
		for entry, err := range e.store.List(cut) {
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

// checkContextCut has contexts end at each point of a method where somebody looks at them, with others who make it wait. A
// call that returns no error must have taken effect.
func checkContextCut(ctx context.Context, e *env) {
	rounds := 8
	if e.kit.short {
		rounds = 3
	}
	end := time.Now().Add(3 * time.Second)
	for round := range rounds {
		for looks := range 10 {
			if round > 0 && !time.Now().Before(end) {
				return
			}
			together(4, func(i int) { e.cutShort(ctx, looks+i%2) })
		}
		e.cutWaiting(ctx)
		if e.failed() {
			return
		}
	}
}

// cutWaiting has contexts end while many write the same record, and wait for each other.
func (e *env) cutWaiting(ctx context.Context) {
	const writers = 8
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("0"), Expires: hour()})
	var saved atomic.Int64
	together(writers, func(i int) {
		for looks := range 6 {
			rec, err := e.store.Load(ctx, id)
			if e.oneOf("Load", err, nil); e.failed() {
				return
			}
			rec.Data = []byte("data")
			var cut context.Context
			var cancel context.CancelFunc
			if i%2 == 0 {
				f := newFuse(ctx, looks)
				cut, cancel = f, f.cancel
			} else {
				cut, cancel = context.WithTimeout(ctx, time.Duration(looks*looks)*20*time.Microsecond)
			}
			if err = e.store.Save(cut, id, rec); err == nil {
				saved.Add(1)
			} else if !matches(err, session.ErrConflict) {
				e.endsWith("Save whose context ended while others saved", err)
				saved.Add(1 << 32) // it may have taken effect
			}
			cancel()
		}
	})
	last := e.load(ctx, id, "after many saves")
	least, most := saved.Load()&(1<<32-1), saved.Load()&(1<<32-1)+saved.Load()>>32
	if n := int64(last.Version) - 1; !e.failed() && (n < least || n > most) {
		e.failOf(id, "a method that was cut short while it waited returned no error, and had done nothing",
			"%d saves of one record returned no error, and of %d others, whose context had ended, nobody knows: want version %d to %d, got version %d",
			least, most-least, least+1, most+1, last.Version)
	}
}

// cutShort calls methods with contexts that end when they were looked at so many times.
func (e *env) cutShort(ctx context.Context, looks int) {
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	cut := func(method string, f func(ctx context.Context) error) bool {
		c := newFuse(ctx, looks)
		defer c.cancel()
		err := f(c)
		e.endsWith(method+" whose context ended while it was at work", err)
		return err == nil && !e.failed()
	}
	const when = ", whose context ended while it was at work, and which returned no error"
	id := e.newID()
	if cut("Save", func(c context.Context) error { return e.store.Save(c, id, rec) }) {
		saved := rec
		saved.Version = 1
		e.holds(ctx, id, saved, "after a Save"+when)
		if cut("Save", func(c context.Context) error { return e.store.Save(c, id, saved) }) {
			saved.Version = 2
			e.holds(ctx, id, saved, "after a second Save"+when)
		}
	}
	id = e.newID()
	e.create(ctx, id, rec)
	loaded := e.load(ctx, id, "after one save")
	loaded.Expires = loaded.Expires.Add(time.Minute)
	if cut("Touch", func(c context.Context) error { return e.store.Touch(c, id, loaded) }) {
		e.holds(ctx, id, loaded, "after a Touch"+when)
	}
	var got session.Record
	if cut("Load", func(c context.Context) (err error) { got, err = e.store.Load(c, id); return err }) && got.Version != 1 {
		e.failOf(id, "", "Load"+when+": want the record, got version %d", got.Version)
	}
	if cut("Delete", func(c context.Context) error { return e.store.Delete(c, id) }) {
		e.absent(ctx, id, "after a Delete"+when)
	}
}
