package sessiontest

import (
	"context"
	"time"

	"example.com/session"
)

func checkSweepKeeps(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	var gone []session.ID
	var live map[session.ID]session.Record
	var again session.ID
	later := session.Record{Version: 1, Data: []byte("saved again"), Expires: hour()}
	expires := e.soon(func(expires time.Time) {
		gone, live = nil, make(map[session.ID]session.Record)
		create := func(expires time.Time) session.ID {
			id := e.newID()
			rec := session.Record{Data: []byte("data"), Expires: expires}
			e.create(ctx, id, rec)
			rec.Version = 1
			live[id] = rec
			return id
		}
		create(hour())
		create(time.Time{})
		for range 2 {
			id := create(expires)
			delete(live, id)
			gone = append(gone, id)
		}
		// An index of expiries must forget the one before.
		id := create(expires)
		e.save(ctx, id, later, nil, "over the live record of that version")
		live[id] = session.Record{Version: 2, Data: later.Data, Expires: later.Expires}
		if e.touches(ctx) {
			id := create(expires)
			rec := live[id]
			rec.Expires = later.Expires
			live[id] = rec
			e.touch(ctx, id, e.load(ctx, id, "before Touch"), later.Expires, nil, "to a later time")
		}
		again = create(expires)
		delete(live, again)
	})
	e.wait(ctx, expires)
	later.Version = 0
	e.save(ctx, again, later, nil, "over an expired record")
	later.Version = 1
	live[again] = later

	e.sweep(ctx, sweepLimit)
	for id, rec := range live {
		e.holds(ctx, id, rec, "after DeleteExpired")
	}
	for _, id := range gone {
		e.absent(ctx, id, "after Expires and DeleteExpired")
	}
}

func checkSweepCount(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	const records, limit = 7, 3
	missing := e.swept(ctx, limit, func(expires time.Time) int {
		e.sweep(ctx, sweepLimit)
		for range records {
			e.create(ctx, e.newID(), session.Record{Data: []byte("short-lived"), Expires: expires})
		}
		return records
	})
	if missing != 0 {
		e.fail("DeleteExpired(%d) until it returned less: want %d records removed, as many as had just expired, "+
			"got %d in all", limit, records, records-missing)
	}
}

const sweepLimit = 1000

// needsSweep reports whether the store has a DeleteExpired, and skips the rule if not.
func (e *env) needsSweep(ctx context.Context) bool {
	if _, err := e.store.DeleteExpired(ctx, 1); !supported(err) {
		e.skip("DeleteExpired")
		return false
	}
	return true
}

// sweep removes all expired records, at most limit at a time, and returns how many.
func (e *env) sweep(ctx context.Context, limit int) int {
	const calls = 1000
	total := 0
	for range calls {
		if e.failed() {
			return total
		}
		n, err := e.store.DeleteExpired(ctx, limit)
		if err != nil {
			e.fail("DeleteExpired(%d): want success, got %s", limit, outcome(err))
		} else if n < 0 || n > limit {
			e.fail("DeleteExpired(%d): want 0 to %d, got %d", limit, limit, n)
		}
		total += n
		if n < limit {
			return total
		}
	}
	e.fail("DeleteExpired(%d): want less than %d at some time, got %d from each of %d calls (if the store really "+
		"holds that many expired records, run session.DeleteExpired first)", limit, limit, limit, calls)
	return total
}
