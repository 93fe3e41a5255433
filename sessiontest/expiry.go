package sessiontest

import (
	"context"
	"time"

	"example.com/session"
)

func checkExpiresNever(ctx context.Context, e *env) {
	id := e.newID()
	rec := session.Record{Data: []byte("for ever")}
	e.create(ctx, id, rec)
	rec.Version = 1
	e.holds(ctx, id, rec, "of a record that never expires")
	rec.Expires = hour()
	e.save(ctx, id, rec, nil, "over a record that never expires")
	rec.Version = 2
	e.holds(ctx, id, rec, "of a record that never expired before it was saved again")
	rec.Expires = time.Time{}
	e.save(ctx, id, rec, nil, "without an expiry over a record that has one")
	rec.Version = 3
	e.holds(ctx, id, rec, "of a record that had an expiry before it was saved again")
}

func checkExpiresFar(ctx context.Context, e *env) {
	now := time.Now().Truncate(time.Millisecond)
	for _, expires := range []time.Time{
		now.AddDate(0, 0, 30).Add(-time.Second), // Memcached counts seconds from now up to here
		now.AddDate(0, 0, 31),
		now.AddDate(0, 0, 400),
		time.Date(2039, 1, 1, 0, 0, 0, 0, time.UTC), // beyond seconds in 31 bits,
		time.Date(2107, 1, 1, 0, 0, 0, 0, time.UTC), // and in 32
		time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		id := e.newID()
		rec := session.Record{Data: []byte("far"), Expires: expires}
		e.create(ctx, id, rec)
		rec.Version = 1
		e.holds(ctx, id, rec, "of a record that expires at "+timeText(expires))
	}
	// A time that nobody lives to see may be brought forward, but the record must not be lost.
	for _, expires := range []time.Time{
		time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC), // beyond nanoseconds in 63 bits
		time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC),
	} {
		id := e.newID()
		e.create(ctx, id, session.Record{Data: []byte("too far"), Expires: expires})
		e.load(ctx, id, "of a record that expires at "+timeText(expires))
	}
}

func checkExpiresResolution(ctx context.Context, e *env) {
	second := hour().Truncate(time.Second)
	for _, fraction := range []time.Duration{0, 1, 1e6, 1e6 - 1, 123_456_789, 500e6, 987_654_321, 1e9 - 1} {
		id := e.newID()
		rec := session.Record{Data: []byte("exact"), Expires: second.Add(fraction)}
		e.create(ctx, id, rec)
		rec.Version = 1
		e.holds(ctx, id, rec, "of a record that expires at "+timeText(rec.Expires))
	}
	// The same instant in another place, and with a monotonic clock reading.
	for _, expires := range []time.Time{second.In(time.FixedZone("", 5*3600+45*60)), time.Now().Add(time.Hour)} {
		id := e.newID()
		rec := session.Record{Data: []byte("exact"), Expires: expires}
		e.create(ctx, id, rec)
		rec.Version = 1
		e.holds(ctx, id, rec, "of a record that expires at "+expires.Format(time.RFC3339Nano))
	}
}

func checkExpiresReplaced(ctx context.Context, e *env) {
	var later, never, shorter session.ID
	rec := session.Record{Version: 2, Data: []byte("saved twice"), Expires: hour()}
	forever := session.Record{Version: 2, Data: []byte("saved twice")}
	expires := e.soon(func(expires time.Time) {
		later, never, shorter = e.newID(), e.newID(), e.newID()
		old := session.Record{Data: []byte("saved once"), Expires: expires}
		e.create(ctx, later, old)
		e.create(ctx, never, old)
		old.Expires = hour()
		e.create(ctx, shorter, old)
		for id, expires := range map[session.ID]time.Time{later: rec.Expires, never: {}, shorter: expires} {
			saved := session.Record{Version: 1, Data: rec.Data, Expires: expires}
			e.save(ctx, id, saved, nil, "with another expiry than before")
		}
	})
	e.wait(ctx, expires)
	e.holds(ctx, later, rec, "when the first expiry has passed, the second has not")
	e.holds(ctx, never, forever, "when the first expiry has passed, and the second is never")
	e.absent(ctx, shorter, "when the second expiry has passed, the first has not")
}

func checkExpiresPast(ctx context.Context, e *env) {
	now := time.Now().Truncate(time.Millisecond)
	// The epoch is the zero of many a clock, and must not read as never.
	for _, expires := range []time.Time{now, now.Add(-time.Minute), time.Unix(0, 0), time.Unix(-1e9, 0)} {
		what := " with the Expires " + timeText(expires) + ", which has passed"
		rec := session.Record{Data: []byte("passed"), Expires: expires}
		live := session.Record{Data: []byte("live"), Expires: hour()}
		id := e.newID()
		e.save(ctx, id, rec, nil, "where no record is"+what)
		e.absent(ctx, id, "after Save"+what)
		e.save(ctx, id, live, nil, "after Save"+what)
		live.Version, rec.Version = 1, 1
		e.holds(ctx, id, live, "after Save"+what+", and one that has not")

		e.save(ctx, id, rec, nil, "over the live record of that version"+what)
		e.absent(ctx, id, "after Save over a live record"+what)
		e.save(ctx, id, live, session.ErrConflict, "after Save over a live record"+what)
		e.absent(ctx, id, "after Save over a live record"+what)
	}
}

func checkExpiredLoad(ctx context.Context, e *env) {
	id := e.newID()
	want := session.Record{Data: []byte("short-lived")}
	want.Expires = e.soon(func(expires time.Time) {
		id = e.newID()
		want.Expires = expires
		e.create(ctx, id, want)
	})
	want.Version = 1
	for !e.failed() {
		begin := time.Now()
		got, err := e.store.Load(ctx, id)
		end := time.Now()
		switch {
		case err == nil && !begin.Before(want.Expires):
			e.fail("Load %v after Expires: want session.ErrNotFound, got the record", begin.Sub(want.Expires))
		case err == nil && difference(got, want) != "":
			e.fail("Load before Expires: %s", difference(got, want))
		case err != nil && end.Before(want.Expires):
			e.fail("Load %v before Expires: want the record, got %s", want.Expires.Sub(end), outcome(err))
		case err != nil && !matches(err, session.ErrNotFound):
			e.fail("Load at Expires: want session.ErrNotFound, got %s", outcome(err))
		}
		if !begin.Before(want.Expires) {
			return
		}
		next := time.Now().Add(10 * time.Millisecond)
		if next.After(want.Expires) {
			next = want.Expires
		}
		e.wait(ctx, next)
	}
}

func checkExpiredSave(ctx context.Context, e *env) {
	created, changed := e.newID(), e.newID()
	old := session.Record{Data: []byte("short-lived"), Expires: time.Now().Add(shortLife).Truncate(time.Millisecond)}
	e.create(ctx, created, old)
	e.create(ctx, changed, old)
	e.wait(ctx, old.Expires)

	rec := session.Record{Data: []byte("the next one"), Expires: hour()}
	e.save(ctx, created, rec, nil, "over an expired record")
	rec.Version = 1
	e.holds(ctx, created, rec, "after Save of version 0 over an expired record")

	e.save(ctx, changed, rec, session.ErrConflict, "over the expired record of that version")
	e.absent(ctx, changed, "after a Save that was to fail")
	rec.Version = 0
	e.save(ctx, changed, rec, nil, "over an expired record")
	rec.Version = 1
	e.holds(ctx, changed, rec, "after Save of version 0 over an expired record")
}
