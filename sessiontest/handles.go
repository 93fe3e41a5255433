package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"example.com/session"
)

// checkHandles looks at what each handle of a place has done, through every other one.
func checkHandles(ctx context.Context, e *env) {
	n := len(e.store.handles)
	if n < 2 {
		e.skipFor("there is one store at the place")
		return
	}
	for writer := range n {
		for reader := range n {
			if writer != reader && !e.failed() {
				e.checkHandle(ctx, e.only(writer), e.only(reader), fmt.Sprintf("through handle %d, after handle %d has", reader+1, writer+1))
			}
		}
	}
}

// only returns what works with one handle, and fails with e.
func (e *env) only(handle int) *guard {
	return &guard{handles: e.store.handles[handle : handle+1], first: handle, env: e, tape: e.store.tape}
}

func (e *env) checkHandle(ctx context.Context, w, r *guard, what string) {
	direct := session.WithoutCache(ctx)
	id := e.newID()
	rec := session.Record{Data: []byte("first"), Expires: hour()}
	ok := func(step string, err error) bool {
		if err != nil {
			e.failOf(id, hint(err), "%s: want success, got %s", step, outcome(err))
		}
		return !e.failed()
	}
	holds := func(step string) bool {
		got, err := r.Load(ctx, id)
		if err == nil && got.Cached {
			got, err = r.Load(direct, id)
		}
		if err != nil {
			e.fail("Load %s %s it: want the record, got %s", what, step, outcome(err))
		} else if d := difference(got, rec); d != "" {
			e.fail("Load %s %s it: %s", what, step, d)
		}
		return !e.failed()
	}
	if _, err := r.Load(ctx, id); !matches(err, session.ErrNotFound) { // which a cache may remember
		e.fail("Load of an ID that was never used: want session.ErrNotFound, got %s", outcome(err))
	}
	if !ok("Save of version 0", w.Save(ctx, id, rec)) {
		return
	}
	rec.Version = 1
	for range 3 {
		if !holds("created or saved") {
			return
		}
		rec.Data = fmt.Appendf(nil, "after version %d", rec.Version)
		if !ok("Save of the version that is there", w.Save(ctx, id, rec)) {
			return
		}
		rec.Version++
	}
	stale := rec
	stale.Version--
	if err := r.Save(ctx, id, stale); !matches(err, session.ErrConflict) {
		e.fail("Save of version %d %s saved version %d: want session.ErrConflict, got %s", stale.Version, what, rec.Version, outcome(err))
	}
	loaded, err := w.Load(ctx, id)
	ok("Load", err)
	loaded.Expires = hour().Add(time.Minute)
	if err := w.Touch(ctx, id, loaded); supported(err) {
		rec.Expires = loaded.Expires
		if !ok("Touch", err) || !holds("touched") {
			return
		}
	}
	if !ok("Delete", w.Delete(ctx, id)) {
		return
	}
	if _, err := r.Load(direct, id); !matches(err, session.ErrNotFound) {
		e.fail("Load %s deleted it: want session.ErrNotFound, got %s", what, outcome(err))
	}
	if err := r.Save(ctx, id, rec); !matches(err, session.ErrConflict) {
		e.fail("Save of version %d %s deleted it: want session.ErrConflict, got %s", rec.Version, what, outcome(err))
	}
}

// checkClose closes a store twice, uses it after that, and closes one that is listing.
func checkClose(ctx context.Context, e *env) {
	s, err := e.open(ctx)
	if err != nil {
		if !errors.Is(err, errNoHandle) {
			e.fail("Open: want another store, got %s", outcome(err))
		}
		e.skipFor("no store could be opened to be closed")
		return
	}
	closer, ok := s.(io.Closer)
	if !ok {
		e.skipFor(fmt.Sprintf("%T has no Close, which is optional", s))
		return
	}
	g := &guard{handles: []session.Store{s}, first: len(e.store.handles), env: e, tape: e.store.tape}
	want := make(map[session.ID]bool)
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	for range 40 {
		id := e.newID()
		want[id] = true
		if err := g.Save(ctx, id, rec); err != nil {
			e.fail("Save: want success, got %s", outcome(err))
		}
	}
	closed := make(chan error, 2)
	closeOnce := func() {
		closed <- g.do(&call{op: "Close"}, closer.Close)
	}
	n, begun := 0, false
	var last error
	for entry, err := range g.List(ctx) {
		if err != nil {
			last = err
			break
		}
		if want[entry.ID] {
			n++
		}
		if !begun {
			begun = true
			go closeOnce() // it may wait for List to end
			select {
			case err := <-closed:
				closed <- err
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	if last == nil && begun && n < len(want) {
		e.failOf(session.ID{}, "the error that the driver's rows, cursor or scanner keeps to the end was not asked for: rows.Err(), cursor.Err()",
			"List whose store was closed meanwhile: want an error, or all of %d records, got %d and no error", len(want), n)
	}
	if !begun {
		closeOnce()
	}
	if err := <-closed; err != nil {
		e.fail("Close: want success, got %s", outcome(err))
	}
	closeOnce()
	if err := <-closed; err != nil {
		e.fail("Close for the second time: want success, and nothing done, got %s", outcome(err))
	}
	e.useClosed(ctx, g, rec, want)
}

// useClosed calls each method of a store after its Close. It may fail, or work; it must not panic or hang, or say what is not so.
func (e *env) useClosed(ctx context.Context, g *guard, rec session.Record, there map[session.ID]bool) {
	fails := func(method string, err error) bool {
		for _, sentinel := range sentinels()[:3] {
			if errors.Is(err, sentinel) {
				e.fail("%s after Close: want success, or an error that wraps none that the contract names, got %s", method, outcome(err))
			}
		}
		return err != nil
	}
	for id := range there {
		got, err := g.Load(ctx, id)
		if !fails("Load of a live record", err) && got.Version != 1 {
			e.fail("Load after Close: want an error, or the record, got version %d and no error", got.Version)
		}
		rec.Version = 1
		if fails("Save of the version that is there", g.Save(ctx, id, rec)) || fails("Delete", g.Delete(ctx, id)) {
			break
		}
		if _, err := e.store.Load(session.WithoutCache(ctx), id); err == nil {
			e.fail("Delete after Close: want an error, or the record deleted, got it there and no error")
		}
		break
	}
	n := 0
	err := e.drain(func(yield func(session.Entry, error) bool) {
		for entry, err := range g.List(ctx) {
			if there[entry.ID] {
				n++
			}
			if !yield(entry, err) {
				return
			}
		}
	})
	if supported(err) && !fails("List", err) && n < len(there)-1 {
		e.fail("List after Close: want an error, or all of %d records, got %d and no error", len(there)-1, n)
	}
	g.DeleteExpired(ctx, 1)
	if count, err := g.Count(ctx, -1, 0); err == nil && count < len(there)-1 {
		e.fail("Count after Close: want an error, or the %d live records, got %d and no error", len(there)-1, count)
	}
}

// skipFor notes why a rule does not concern the store.
func (e *env) skipFor(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.skipped = reason
}
