package sessiontest

import (
	"context"
	"time"

	"example.com/session"
)

func checkLoadUnknown(ctx context.Context, e *env) {
	e.absent(ctx, e.newID(), "of an ID that was never used")
}

func checkVersions(ctx context.Context, e *env) {
	id := e.newID()
	rec := session.Record{Data: []byte("saved once"), Expires: hour()}
	e.create(ctx, id, rec)
	for version := uint64(1); version <= 5 && !e.failed(); version++ {
		rec.Version = version
		e.holds(ctx, id, rec, "after as many saves")
		if version%2 == 0 {
			rec = e.load(ctx, id, "after a few saves") // with what a store hides in it
		}
		e.save(ctx, id, rec, nil, "over the live record of that version")
	}
}

// checkVersionsMany saves a record as often as a counter of 8 bits can count and, where the store is fast, of 16.
func checkVersionsMany(ctx context.Context, e *env) {
	id := e.newID()
	rec := session.Record{Data: []byte("saved many times"), Expires: hour()}
	const enough = 1<<16 + 2
	end := time.Now().Add(3 * time.Second)
	most := enough
	if e.kit.short {
		most = 1<<8 + 2
	}
	for int(rec.Version) < most && !e.failed() && (rec.Version < 1<<8+2 || time.Now().Before(end)) {
		e.save(ctx, id, rec, nil, "over the live record of that version, or none")
		rec.Version++
		if v := rec.Version; v&(v-1) == 0 || v%1000 == 0 || (v-1)&(v-2) == 0 {
			e.holds(ctx, id, rec, "after as many saves")
		}
	}
	e.holds(ctx, id, rec, "after as many saves")
	stale := rec
	for _, back := range []uint64{1 << 7, 1 << 8, 1 << 15, 1 << 16} {
		if stale.Version = rec.Version - back; back < rec.Version {
			e.save(ctx, id, stale, session.ErrConflict, "over a live record of a later version")
		}
	}
}

func checkSaveOverLive(ctx context.Context, e *env) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("first"), Expires: hour()})
	second := session.Record{Data: []byte("second"), Expires: hour()}
	e.save(ctx, id, second, session.ErrConflict, "over a live record of version 1")

	loaded := e.load(ctx, id, "after one save")
	e.save(ctx, id, loaded, nil, "over the live record of that version")
	e.save(ctx, id, second, session.ErrConflict, "over a live record of version 2")
	loaded = e.load(ctx, id, "after two saves")
	loaded.Version = 0
	e.save(ctx, id, loaded, session.ErrConflict, "over a live record of version 2, with what Load returned otherwise")

	forever := e.newID()
	e.create(ctx, forever, session.Record{Data: []byte("for ever")})
	e.save(ctx, forever, second, session.ErrConflict, "over a live record without an expiry")
}

func checkSaveStale(ctx context.Context, e *env) {
	id := e.newID()
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, rec)
	loaded := e.load(ctx, id, "after one save")
	for rec.Version = 1; rec.Version < 3; rec.Version++ {
		e.save(ctx, id, rec, nil, "over the live record of that version")
	}
	e.save(ctx, id, loaded, session.ErrConflict, "over a live record of version 3, with what Load returned before")
	for rec.Version = 1; rec.Version < 3; rec.Version++ {
		e.save(ctx, id, rec, session.ErrConflict, "over a live record of version 3")
	}
}

func checkSaveAhead(ctx context.Context, e *env) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	// The later ones are 1 to a store that keeps 8, 16, 32 … bits of it.
	for _, version := range []uint64{2, 3, 1<<8 + 1, 1<<15 + 1, 1<<16 + 1, 1<<31 + 1, 1<<32 + 1, 1<<48 + 1, 1<<53 + 1, 1<<63 + 1, 1<<64 - 1} {
		rec := session.Record{Version: version, Data: []byte("ahead"), Expires: hour()}
		e.save(ctx, id, rec, session.ErrConflict, "over a live record of version 1")
	}
}

func checkSaveAbsent(ctx context.Context, e *env) {
	for _, version := range []uint64{1, 2, 1 << 32} {
		id := e.newID()
		rec := session.Record{Version: version, Data: []byte("data"), Expires: hour()}
		e.save(ctx, id, rec, session.ErrConflict, "under an ID that was never used")
		e.absent(ctx, id, "after a Save that was to fail")
	}
}

func checkSaveCopy(ctx context.Context, e *env) {
	from, to := e.newID(), e.newID()
	want := session.Record{Data: []byte("moves to another ID"), Expires: hour()}
	e.create(ctx, from, want)
	rec := e.load(ctx, from, "after one save")
	rec.Version = 0
	e.save(ctx, to, rec, nil, "where no record is, of one loaded from under another ID")
	want.Version = 1
	e.holds(ctx, to, want, "of the copy")
	e.holds(ctx, from, want, "of the original")
}

func checkConflictKeeps(ctx context.Context, e *env) {
	id := e.newID()
	want := session.Record{Data: []byte("the first data"), Expires: hour()}
	e.create(ctx, id, want)
	want.Version, want.Data = 1, []byte("the second data")
	e.save(ctx, id, want, nil, "over the live record of that version")
	want.Version = 2

	const when = "over a live record of version 2"
	for _, version := range []uint64{0, 1, 3} {
		other := session.Record{Version: version, Data: []byte("of a loser")}
		e.save(ctx, id, other, session.ErrConflict, when)
		e.holds(ctx, id, want, "after an ErrConflict")
		other.Expires = hour().AddDate(0, 0, 1)
		e.save(ctx, id, other, session.ErrConflict, when)
		e.holds(ctx, id, want, "after an ErrConflict")
		other.Expires = hour().AddDate(-1, 0, 0)
		e.save(ctx, id, other, session.ErrConflict, when)
		e.holds(ctx, id, want, "after an ErrConflict of a Save with an Expires that has passed")
	}
}

func checkDelete(ctx context.Context, e *env) {
	id, other := e.newID(), e.newID()
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, rec)
	e.create(ctx, other, rec)
	e.delete(ctx, id, "of a live record")
	e.absent(ctx, id, "after Delete")
	rec.Version = 1
	e.holds(ctx, other, rec, "after Delete of another record")

	e.save(ctx, other, rec, nil, "over the live record of that version")
	e.delete(ctx, other, "of a live record of version 2")
	e.absent(ctx, other, "after Delete")
}

func checkDeleteAbsent(ctx context.Context, e *env) {
	id := e.newID()
	e.delete(ctx, id, "under an ID that was never used")
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	e.delete(ctx, id, "of a live record")
	e.delete(ctx, id, "of a record that was deleted before")
}

func checkDeleteStale(ctx context.Context, e *env) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	loaded := e.load(ctx, id, "after one save")
	e.delete(ctx, id, "of a live record")
	e.save(ctx, id, loaded, session.ErrConflict, "after Delete, with what Load returned before")
	e.absent(ctx, id, "after Delete and a Save that was to fail")
	rec := session.Record{Version: 1, Data: []byte("data"), Expires: hour()}
	e.save(ctx, id, rec, session.ErrConflict, "after Delete")
	e.absent(ctx, id, "after Delete and a Save that was to fail")
}

func checkDeleteCreate(ctx context.Context, e *env) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
	rec := session.Record{Version: 1, Data: []byte("data"), Expires: hour()}
	e.save(ctx, id, rec, nil, "over the live record of that version")
	e.delete(ctx, id, "of a live record")
	rec = session.Record{Data: []byte("data of another record"), Expires: hour()}
	e.save(ctx, id, rec, nil, "after Delete")
	rec.Version = 1
	e.holds(ctx, id, rec, "after Delete and one save")
}
