package sessiontest

import (
	"context"
	"errors"
	"time"

	"example.com/session"
)

func checkTouchMoves(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	for _, step := range []struct {
		when    string
		expires time.Time
	}{
		{"to a later time", hour().Add(time.Hour)},
		{"to an earlier time", hour().Add(-time.Minute)},
		{"to never", time.Time{}},
		{"from never", hour()},
		{"to what is finer than a millisecond", hour().Add(1e6 - 1)},
		{"to a time far ahead", time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		rec := e.load(ctx, id, "before Touch "+step.when)
		e.touch(ctx, id, rec, step.expires, nil, step.when)
		rec = e.load(ctx, id, "after Touch "+step.when)
		if !sameExpiry(rec.Expires, step.expires) {
			e.fail("Load after Touch %s: want the expiry %s, got %s",
				step.when, timeText(step.expires), timeText(rec.Expires))
		}
	}

	var longer, shorter session.ID
	expires := e.soon(func(expires time.Time) {
		longer, shorter = e.newID(), e.newID()
		e.create(ctx, longer, session.Record{Data: []byte("data"), Expires: expires})
		e.create(ctx, shorter, session.Record{Data: []byte("data"), Expires: hour()})
		e.touch(ctx, longer, e.load(ctx, longer, "before Touch"), hour(), nil, "to a later time")
		e.touch(ctx, shorter, e.load(ctx, shorter, "before Touch"), expires, nil, "to an earlier time")
	})
	e.wait(ctx, expires)
	e.load(ctx, longer, "when the expiry before Touch has passed, the one after it has not")
	e.absent(ctx, shorter, "when the expiry after Touch has passed, the one before it has not")

	e.touch(ctx, longer, e.load(ctx, longer, "before Touch"), time.Unix(0, 0), nil, "to a time that has passed")
	e.absent(ctx, longer, "after Touch to a time that has passed")
}

func checkTouchKeeps(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	for _, size := range []int{0, 1, 10_000} {
		id := e.newID()
		rec := session.Record{Data: noise(size), Expires: hour()}
		e.create(ctx, id, rec)
		rec.Version = 1
		e.save(ctx, id, rec, nil, "over the live record of that version")
		rec.Version = 2
		for range 3 {
			e.touch(ctx, id, e.load(ctx, id, "before Touch"), hour(), nil, "of the live record of that version")
			got := e.load(ctx, id, "after Touch")
			rec.Expires = got.Expires
			if d := difference(got, rec); d != "" {
				e.fail("Load after Touch: %s", d)
			}
		}
	}
}

func checkTouchConflict(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	want := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, want)
	stale := e.load(ctx, id, "after one save")
	want.Version = 1
	e.save(ctx, id, want, nil, "over the live record of that version")
	want.Version = 2
	e.touch(ctx, id, stale, hour().Add(time.Hour), session.ErrConflict, "over version 2, with what Load returned before")
	e.holds(ctx, id, want, "after a Touch that was to fail")
	for _, version := range []uint64{0, 1, 3, 1<<32 + 2} {
		rec := session.Record{Version: version, Data: want.Data}
		for _, expires := range []time.Time{{}, hour().Add(time.Hour), hour().AddDate(-1, 0, 0)} {
			e.touch(ctx, id, rec, expires, session.ErrConflict, "over version 2")
			e.holds(ctx, id, want, "after a Touch that was to fail")
		}
	}
}

func checkTouchAbsent(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	for _, version := range []uint64{0, 1} {
		rec := session.Record{Version: version, Data: []byte("data")}
		e.touch(ctx, id, rec, hour(), session.ErrNotFound, "under an ID that was never used")
		e.absent(ctx, id, "after a Touch that was to fail")
	}
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	rec := e.load(ctx, id, "after one save")
	e.delete(ctx, id, "of a live record")
	e.touch(ctx, id, rec, hour(), session.ErrNotFound, "after Delete")
	e.absent(ctx, id, "after Delete and a Touch that was to fail")
}

func checkTouchExpired(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	var id session.ID
	var rec session.Record
	expires := e.soon(func(expires time.Time) {
		id = e.newID()
		e.create(ctx, id, session.Record{Data: []byte("short-lived"), Expires: expires})
		rec = e.load(ctx, id, "before Expires")
	})
	e.wait(ctx, expires)
	e.touch(ctx, id, rec, hour(), session.ErrNotFound, "of an expired record")
	e.absent(ctx, id, "after a Touch that was to fail")
}

func checkTouchSave(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	want := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, want)
	want.Version = 1
	for ; want.Version < 4; want.Version++ {
		before := e.load(ctx, id, "before Touch")
		e.touch(ctx, id, before, hour(), nil, "of the live record of that version")
		e.touch(ctx, id, before, hour(), nil, "of the live record of that version, for the second time")
		rec := want
		if want.Version > 1 {
			rec = before // with what a store hides in it
		}
		if want.Version > 2 {
			rec = e.load(ctx, id, "after Touch")
		}
		rec.Data = want.Data
		rec.Expires = want.Expires
		e.save(ctx, id, rec, nil, "after Touch of that version")
	}
	e.holds(ctx, id, want, "after Touch and Save")
}

func checkTouchHelper(ctx context.Context, e *env) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	rec := e.load(ctx, id, "after one save")
	for _, expires := range []time.Time{hour().Add(time.Hour), hour().Add(-time.Minute), {}} {
		stale := rec
		rec.Expires = expires
		if err := session.Touch(ctx, e.store, id, rec); err != nil {
			e.fail("session.Touch of the live record: want success, got %s", outcome(err))
		}
		got := e.load(ctx, id, "after session.Touch")
		if got.Version == stale.Version+1 {
			rec.Version++
			if err := session.Touch(ctx, e.store, id, stale); !matches(err, session.ErrConflict) {
				e.fail("session.Touch of version %d over version %d: want session.ErrConflict, got %s",
					stale.Version, rec.Version, outcome(err))
			}
			got = e.load(ctx, id, "after a session.Touch that was to fail")
		}
		if d := difference(got, rec); d != "" {
			e.fail("Load after session.Touch: %s", d)
		}
		rec = got
	}
	e.delete(ctx, id, "of a live record")
	err := session.Touch(ctx, e.store, id, rec)
	if !errors.Is(err, session.ErrNotFound) && !errors.Is(err, session.ErrConflict) {
		e.fail("session.Touch after Delete: want session.ErrNotFound or session.ErrConflict, got %s", outcome(err))
	}
	e.absent(ctx, id, "after Delete and a session.Touch that was to fail")
}
