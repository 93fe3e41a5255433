package sessiontest

import (
	"context"
	"time"

	"example.com/session"
)

// checkRaceSweep has records created again while those that expired before are swept away.
func checkRaceSweep(ctx context.Context, e *env) {
	if !e.needsSweep(ctx) {
		return
	}
	ids := make([]session.ID, 24)
	for i := range ids {
		ids[i] = e.newID()
	}
	live := session.Record{Data: []byte("created again"), Expires: hour()}
	expired := session.Record{Data: []byte("expired"), Expires: time.Now().Add(-time.Minute).Truncate(time.Millisecond)}
	random := e.rand()
	// Of each batch, those that are removed last have the longest time to be created in: in another order each time.
	e.race(ctx, func(r int) clash {
		order := random.Perm(len(ids))
		return clash{n: max(2, len(e.store.handles)), setUp: func() {
			many(len(ids), func(i int) { e.create(ctx, ids[i], expired) })
		}, play: func(ctx context.Context, i int, s session.Store) call {
			if sweeper, ok := s.(session.Sweeper); i == 0 && ok {
				n, err := sweeper.DeleteExpired(ctx, sweepLimit)
				return call{op: "DeleteExpired", number: sweepLimit, result: n, err: err}
			}
			if i > 1 {
				return call{op: "Count"} // a handle that has nothing to do in this round
			}
			c := call{op: "Save", rec: live}
			for _, k := range order {
				c.id = ids[k]
				if c.err = s.Save(ctx, c.id, live); c.err != nil {
					break
				}
			}
			return c
		}, judge: func(calls []call) {
			for _, c := range calls {
				e.oneOf(c.op+" while expired records are swept and created again", c.err, nil)
			}
			want := live
			want.Version = 1
			for _, id := range ids {
				e.holds(ctx, id, want, "of a record that was created again under the ID of an expired one, while DeleteExpired was at work")
			}
			many(len(ids), func(i int) { e.delete(ctx, ids[i], "of a live record") })
		}}
	})
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
