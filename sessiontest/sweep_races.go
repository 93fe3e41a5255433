package sessiontest

import (
	"context"
	"math/rand/v2"
	"time"

	"example.com/session"
)

// checkRaceSweep has records created again while those that expired before are swept away.
func checkRaceSweep(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	live := session.Record{Data: []byte("created again"), Expires: hour()}
	creator := func() racer {
		ids := e.newIDs(12)
		return func(step context.Context, s session.Store, n int) {
			began := time.Now()
			e.createAgain(ctx, step, s, ids, live, n%2 == 0)
			if n == 0 && time.Since(began) < 10*time.Millisecond {
				ids = append(ids, e.newIDs(48)...) // the more there are, the longer a sweep takes, and the gaps in it
			}
		}
	}
	sweep := func(step context.Context, s session.Store, n int) {
		if sweeper, ok := s.(session.Sweeper); ok {
			err := e.timed(func() error { _, err := sweeper.DeleteExpired(step, sweepLimit); return err })
			e.note("DeleteExpired", session.ID{}, session.Record{}, err, nil)
		}
	}
	e.race(ctx, creator(), creator(), sweep, sweep)
}

// createAgain saves records where expired ones are, or were until they were swept away, and lets them expire once more. If it is
// soon, each is created again as soon as it has expired: while the sweep that has found it is still at work.
func (e *env) createAgain(ctx, step context.Context, s session.Store, ids []session.ID, live session.Record, soon bool) {
	want := live
	want.Version = 1
	past := session.Record{Version: 1, Data: []byte("expired"), Expires: time.Now().Add(-time.Minute)}
	for i := 0; i < len(ids) && !e.failed(); i++ {
		id := ids[i]
		e.note("Save of version 0 over an expired record", id, live, s.Save(step, id, live), nil)
		if soon {
			e.note("Save", id, past, s.Save(step, id, past), nil)
			e.linger(rand.Float64())
			e.note("Save of version 0 over a record that has just expired", id, live, s.Save(step, id, live), nil)
		}
	}
	for range 2 {
		e.linger(1)
		for _, id := range ids {
			got, err := s.Load(session.WithoutCache(ctx), id)
			if err != nil {
				e.failOf(id, "", "Load of a record that was created again under the ID of an expired one, while DeleteExpired was at work: "+
					"want the record, got %s", outcome(err))
			} else if d := difference(got, want); d != "" {
				e.failOf(id, "", "Load of a record that was created again, while DeleteExpired was at work: %s", d)
			}
		}
	}
	if e.failed() {
		return
	}
	for _, id := range ids {
		e.note("Save", id, past, s.Save(step, id, past), nil)
	}
}

// checkSweepEarly sweeps while records are live that soon expire.
func checkSweepEarly(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	live := make(map[session.ID]session.Record)
	for _, left := range []time.Duration{patience, 40 * time.Second, 10 * time.Minute, 50 * time.Minute, 13 * time.Hour} {
		id := e.newID()
		rec := session.Record{Data: []byte("soon"), Expires: time.Now().Add(left).Truncate(time.Millisecond)}
		e.create(ctx, id, rec)
		rec.Version = 1
		live[id] = rec
	}
	e.sweep(ctx, sweepLimit)
	for id, rec := range live {
		e.holds(ctx, id, rec, "after DeleteExpired, some time before Expires")
	}
	// And at the last moment.
	e.soon(func(expires time.Time) {
		id := e.newID()
		rec := session.Record{Data: []byte("very soon"), Expires: expires}
		e.create(ctx, id, rec)
		e.sweep(ctx, sweepLimit)
		rec.Version = 1
		e.holds(ctx, id, rec, "after DeleteExpired, a moment before Expires")
	})
}

// checkSweepMoved looks whether a sweep finds records that did not expire at first when they do now. How many records of each
// kind there are tells which ones it has not found.
func checkSweepMoved(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	touches := e.touches(ctx)
	kinds := []struct {
		what  string
		first time.Time // its expiry at first
		touch bool      // how that was moved
	}{
		{"created with that expiry", time.Now(), false},
		{"saved again, with an earlier expiry than before", hour(), false},
		{"saved again, with an expiry, and had none before", time.Time{}, false},
		{"touched, to an earlier expiry than before", hour(), true},
		{"touched, to an expiry, and had none before", time.Time{}, true},
	}
	prepare := func(expires time.Time) (records int) {
		e.sweep(ctx, sweepLimit)
		for k, kind := range kinds {
			if kind.touch && !touches {
				continue
			}
			for range 1 << k {
				id := e.newID()
				rec := session.Record{Data: []byte("short-lived"), Expires: kind.first}
				if k == 0 {
					rec.Expires = expires
				}
				e.create(ctx, id, rec)
				rec.Version = 1
				switch {
				case kind.touch:
					e.touch(ctx, id, e.load(ctx, id, "before Touch"), expires, nil, "to a time that is near")
				case k > 0:
					rec.Expires = expires
					e.save(ctx, id, rec, nil, "with an expiry that is near")
				}
				records++
			}
		}
		return records
	}
	missing := e.swept(ctx, sweepLimit, prepare)
	for k, kind := range kinds {
		if missing > 0 && missing>>k&1 == 1 {
			e.fail("DeleteExpired: want all records removed that have expired, but it left those that were %s "+
				"(of %d kinds of records in different numbers, %d records are left in all)", kind.what, len(kinds), missing)
		}
	}
	if missing != 0 {
		e.fail("DeleteExpired: want as many removed as have expired, got %d fewer", missing)
	}
}

func checkSweepZero(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	const records = 5
	missing := e.swept(ctx, sweepLimit, func(expires time.Time) int {
		e.sweep(ctx, sweepLimit)
		for range records {
			e.create(ctx, e.newID(), session.Record{Data: []byte("short-lived"), Expires: expires})
		}
		return records
	}, func() {
		if n, err := e.store.DeleteExpired(ctx, 0); n != 0 || err != nil {
			e.fail("DeleteExpired(0): want 0 and success, got %d and %s", n, outcome(err))
		}
	})
	if missing != 0 {
		e.fail("DeleteExpired(0): want nothing removed, but of %d records that had expired, %d were left", records, records-missing)
	}
}

// swept returns how many of the records that prepare makes no sweep removes. Others may use the store: what they let expire,
// or sweep away, is not to be held against it. So only what is wrong each time is wrong, and only if nothing of others expired
// in as long a time.
func (e *env) swept(ctx context.Context, limit int, prepare func(expires time.Time) int, before ...func()) (missing int) {
	for range 4 {
		begin := time.Now()
		records := 0
		expires := e.soon(func(expires time.Time) { records = prepare(expires) })
		e.wait(ctx, expires)
		for _, f := range before {
			f()
		}
		missing = records - e.sweep(ctx, limit)
		if e.failed() || missing == 0 {
			return 0
		}
		took := time.Since(begin)
		e.sweep(ctx, sweepLimit)
		e.wait(ctx, time.Now().Add(took))
		if e.sweep(ctx, sweepLimit) > 0 {
			return 0
		}
	}
	return missing
}
