package sessiontest

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"example.com/session"
)

func checkRaceCreate(ctx context.Context, e *env) {
	id := e.newID()
	e.raceFirst(ctx, id, "where no record is", func(ctx context.Context, s session.Store) {
		e.note("Delete", id, session.Record{}, s.Delete(ctx, id), nil)
	})
}

func checkRaceExpired(ctx context.Context, e *env) {
	var id session.ID
	expires := e.soon(func(expires time.Time) {
		id = e.newID()
		e.create(ctx, id, session.Record{Data: []byte("short-lived"), Expires: expires})
	})
	e.wait(ctx, expires)
	e.raceFirst(ctx, id, "over an expired record", func(ctx context.Context, s session.Store) {
		past := session.Record{Version: 1, Data: []byte("expired"), Expires: time.Now().Add(-time.Minute)}
		e.note("Save", id, past, s.Save(ctx, id, past), nil)
	})
}

// raceFirst has several goroutines save version 0 under one ID, over again. Whoever succeeds has the record for itself, as one
// has a lock, until end makes room for the next.
func (e *env) raceFirst(ctx context.Context, id session.ID, where string, end func(ctx context.Context, s session.Store)) {
	var inside atomic.Int32
	var ends atomic.Int64
	expires := hour()
	racer := func(i int) racer {
		return func(step context.Context, s session.Store, n int) {
			rec := session.Record{Data: strconv.AppendInt(nil, int64(n*racing+i), 10), Expires: expires}
			seen := ends.Load()
			err := e.timed(func() error { return s.Save(step, id, rec) })
			if e.note("Save", id, rec, err, nil, session.ErrConflict); err != nil {
				if n%2 == 0 {
					e.meet(&ends, seen)
				}
				return
			}
			if others := inside.Add(1); others > 1 {
				e.failOf(id, "", "Save of version 0 %s by several goroutines at once under one ID: want one to succeed, got %d", where, others)
			}
			e.linger(1)
			rec.Version = 1
			got, err := s.Load(session.WithoutCache(ctx), id)
			if d := difference(got, rec); err == nil && d != "" {
				e.failOf(id, "", "Load of what the only successful Save of version 0 %s has saved: %s", where, d)
			}
			e.note("Load", id, got, err, nil)
			inside.Add(-1)
			end(ctx, s)
			ends.Add(1)
		}
	}
	e.race(ctx, racer(1), racer(2), racer(3))
}

// note is oneOf, for a call that was made without the guard. It is in the story of a failure only if it is why.
func (e *env) note(op string, id session.ID, rec session.Record, err error, valid ...error) {
	if !slices.Contains(valid, cause(err)) {
		e.store.note(call{op: op, id: id, rec: rec, err: err})
		e.oneOf(op, err, valid...)
	}
}

func checkRaceIncrement(ctx context.Context, e *env) {
	const writers, times = 4, 10
	id := e.newID()
	together(writers, func(int) {
		for range times {
			e.increment(ctx, id, writers*times)
		}
	})
	rec := e.load(ctx, id, "after all increments")
	want := rec
	want.Version = writers * times
	if sum, _ := strconv.Atoi(string(rec.Data)); sum != writers*times {
		e.failOf(id, "", "%d goroutines, each of which added 1 to a number %d times, by Load and Save until it succeeded: "+
			"want %d, got %d", writers, times, writers*times, sum)
	}
	if d := difference(rec, want); d != "" {
		e.failOf(id, "", "Load after %d successful saves by %d goroutines: %s", writers*times, writers, d)
	}
	e.raceSave(ctx)
}

// raceSave has several goroutines save one record, each over the version that it has loaded.
func (e *env) raceSave(ctx context.Context) {
	id := e.newID()
	e.create(ctx, id, session.Record{Data: []byte("0"), Expires: hour()})
	var saves atomic.Int64
	racer := func(step context.Context, s session.Store, n int) {
		rec, err := s.Load(session.WithoutCache(ctx), id)
		if e.note("Load", id, rec, err, nil); err != nil {
			return
		}
		least := saves.Load() // since one of those may not be counted yet
		number, _ := strconv.ParseInt(string(rec.Data), 10, 64)
		if number+1 != int64(rec.Version) {
			e.failOf(id, "", "Load while others save: want the Data of version %d, got those of version %d", rec.Version, number+1)
		}
		rec.Data = strconv.AppendInt(nil, number+1, 10)
		if n%3 == 0 {
			rec.Version = uint64(least) + 1 // what was seen some time ago
			rec.Data = strconv.AppendInt(nil, least+1, 10)
		}
		err = e.timed(func() error { return s.Save(step, id, rec) })
		if e.note("Save", id, rec, err, nil, session.ErrConflict); err == nil {
			saves.Add(1)
		}
	}
	e.race(ctx, racer, racer, racer)
	last := e.load(ctx, id, "after all saves")
	if n := saves.Load(); int64(last.Version) != n+1 {
		e.failOf(id, "", "several goroutines saved one record, each over the version that it had loaded, and %d saves succeeded: "+
			"want version %d, got version %d", n+1, n+1, last.Version)
	}
}

// increment adds one to the number under id, by compare-and-swap. Each ErrConflict is due to the success of
// another goroutine, so there can be no more of them than successes in all; ten times as many are not due to that.
func (e *env) increment(ctx context.Context, id session.ID, successes int) {
	for range 10 * successes {
		rec, err := e.store.Load(ctx, id)
		if e.oneOf("Load", err, nil, session.ErrNotFound); e.failed() {
			return
		}
		number, _ := strconv.ParseInt(string(rec.Data), 10, 64)
		rec.Data = strconv.AppendInt(nil, number+1, 10)
		rec.Expires = hour()
		err = e.store.Save(ctx, id, rec)
		if e.oneOf("Save", err, nil, session.ErrConflict); err == nil {
			return
		}
	}
	e.fail("Load and Save, over again after each session.ErrConflict: want success within %d tries, "+
		"since no more saves of others can come first, got none in %d", successes, 10*successes)
}

func checkRaceDelete(ctx context.Context, e *env) {
	const rounds, goroutines = 16, 4
	touches := e.touches(ctx)
	for round := range rounds {
		if e.failed() {
			return
		}
		id := e.newID()
		e.create(ctx, id, session.Record{Data: []byte("data"), Expires: hour()})
		rec := e.load(ctx, id, "after one save")
		rec.Expires = rec.Expires.Add(time.Minute)
		together(goroutines, func(i int) {
			switch {
			case i == round/2%goroutines: // each has its turn, since one may always be first
				e.oneOf("Delete", e.store.Delete(ctx, id), nil)
			case round%2 == 0 && touches:
				err := e.store.Touch(ctx, id, rec)
				e.oneOf("Touch", err, nil, session.ErrNotFound, session.ErrConflict)
			default:
				e.oneOf("Save", e.store.Save(ctx, id, rec), nil, session.ErrConflict)
			}
		})
		e.absent(ctx, id, "after Delete, and Save or Touch of version 1 at the same time")
	}
	e.raceDelete(ctx, touches)
}

// raceDelete has one goroutine create and delete a record, over again, while others save it or touch it.
func (e *env) raceDelete(ctx context.Context, touches bool) {
	id := e.newID()
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	later := session.Record{Version: 1, Data: rec.Data, Expires: rec.Expires.Add(time.Minute)}
	owner := func(step context.Context, s session.Store, n int) {
		if err := s.Save(step, id, rec); err != nil {
			e.failOf(id, "", "Save of version 0 after Delete, while others saved or touched what was there before: want success, got %s", outcome(err))
			return
		}
		for range 3 { // so that others find it, most of the time
			e.linger(1)
			got, err := s.Load(session.WithoutCache(ctx), id)
			e.note("Load", id, got, err, nil)
		}
		e.note("Delete", id, rec, s.Delete(step, id), nil)
		for range 3 { // and whoever comes late finds nothing
			e.linger(1)
			if got, err := s.Load(session.WithoutCache(ctx), id); err == nil {
				e.failOf(id, "", "Load after Delete, while others save or touch what was there: want session.ErrNotFound, got version %d", got.Version)
			}
		}
	}
	saver := func(step context.Context, s session.Store, n int) {
		got, err := s.Load(session.WithoutCache(ctx), id)
		if e.note("Load", id, got, err, nil, session.ErrNotFound); err == nil {
			err = e.timed(func() error { return s.Save(step, id, got) })
			e.note("Save", id, got, err, nil, session.ErrConflict)
		}
	}
	toucher := func(step context.Context, s session.Store, n int) {
		if toucher, ok := s.(session.Toucher); ok {
			err := e.timed(func() error { return toucher.Touch(step, id, later) })
			e.note("Touch", id, later, err, nil, session.ErrConflict, session.ErrNotFound)
		}
	}
	e.race(ctx, owner, saver, saver)
	e.delete(ctx, id, "of a record that others have saved")
	if touches {
		e.race(ctx, owner, toucher, toucher)
		e.delete(ctx, id, "of a record that others have touched")
	}
}

// checkRaceTouch has one goroutine save a record, over again, while others touch the version that they have seen. Each save
// and each touch sets an expiry that tells of which version it is.
func checkRaceTouch(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	base := hour()
	saved := func(version uint64) time.Time { return base.Add(time.Duration(version) * time.Millisecond) }
	touched := func(version uint64) time.Time { return saved(version).Add(1000 * time.Hour) }
	e.create(ctx, id, session.Record{Data: []byte("1"), Expires: saved(1)})
	version := uint64(1)
	saver := func(step context.Context, s session.Store, n int) {
		rec := session.Record{Version: version, Data: strconv.AppendUint(nil, version+1, 10), Expires: saved(version + 1)}
		if e.note("Save of a version that others touch", id, rec, s.Save(step, id, rec), nil); e.failed() {
			return
		}
		version++
		rec.Version = version
		for range 3 {
			e.linger(1)
			got, err := s.Load(session.WithoutCache(ctx), id)
			if e.note("Load", id, got, err, nil); err != nil {
				return
			}
			if got.Expires.Equal(touched(version)) {
				got.Expires = rec.Expires
			}
			if d := difference(got, rec); d != "" {
				e.failOf(id, "", "Load after a Save, while others touch this version and the one before: %s", d)
				return
			}
		}
	}
	toucher := func(step context.Context, s session.Store, n int) {
		rec, err := s.Load(session.WithoutCache(ctx), id)
		if e.note("Load", id, rec, err, nil); err != nil {
			return
		}
		if !rec.Expires.Equal(saved(rec.Version)) && !rec.Expires.Equal(touched(rec.Version)) {
			e.failOf(id, "", "Load while others save and touch the version that they have seen: want the expiry of version %d, got that of another", rec.Version)
		}
		rec.Expires = touched(rec.Version)
		t, ok := s.(session.Toucher)
		for range 4 {
			if !ok || err != nil {
				return
			}
			err = e.timed(func() error { return t.Touch(step, id, rec) })
			e.note("Touch", id, rec, err, nil, session.ErrConflict)
		}
	}
	e.race(ctx, saver, toucher, toucher)
}

func checkRaceReaders(ctx context.Context, e *env) {
	const writers, readers, times, size = 2, 3, 15, 2000
	id := e.newID()
	e.create(ctx, id, session.Record{Data: sealed(id, 1, size), Expires: hour()})
	if e.failed() {
		return
	}
	var writing atomic.Int32
	writing.Store(writers)
	together(writers+readers, func(i int) {
		if i < writers {
			defer writing.Add(-1)
			for range times {
				rec := e.load(ctx, id, "while others save")
				rec.Data = sealed(id, rec.Version+1, size+int(rec.Version))
				e.oneOf("Save", e.store.Save(ctx, id, rec), nil, session.ErrConflict)
				if e.failed() {
					return
				}
			}
			return
		}
		for last := uint64(1); writing.Load() > 0 && !e.failed(); {
			rec := e.load(ctx, id, "while others save")
			if e.failed() {
				return
			}
			if rec.Version < last {
				e.fail("Load while others save: want version %d or later, as before, got version %d", last, rec.Version)
			} else if fault := unsealed(id, rec); fault != "" {
				e.fail("Load while others save: got %s", fault)
			}
			last = rec.Version
			time.Sleep(time.Microsecond) // lets a bubble's clock go on
		}
	})
}

func checkRaceMixed(ctx context.Context, e *env) {
	const workers, steps = 6, 30
	ids := []session.ID{e.newID(), e.newID()}
	touches := e.touches(ctx)
	together(workers, func(worker int) {
		random := rand.New(rand.NewPCG(uint64(worker), 0))
		for range steps {
			id := ids[random.IntN(len(ids))]
			rec, err := e.store.Load(ctx, id)
			if e.oneOf("Load", err, nil, session.ErrNotFound); err == nil {
				if fault := unsealed(id, rec); fault != "" {
					e.fail("Load while others save and delete: got %s", fault)
				}
			}
			if e.failed() {
				return
			}
			rec.Expires = hour()
			switch n := random.IntN(10); {
			case n < 7:
				rec.Data = sealed(id, rec.Version+1, 200+random.IntN(4000))
				e.oneOf("Save", e.store.Save(ctx, id, rec), nil, session.ErrConflict)
			case n < 9 && touches:
				err := e.store.Touch(ctx, id, rec)
				e.oneOf("Touch", err, nil, session.ErrConflict, session.ErrNotFound)
			case n == 9:
				e.oneOf("Delete", e.store.Delete(ctx, id), nil)
			}
		}
	})
}

// oneOf expects err to be one of the valid outcomes of a method whose record others change at the same time.
func (e *env) oneOf(method string, err error, valid ...error) {
	if slices.Contains(valid, cause(err)) {
		return
	}
	texts := make([]string, len(valid))
	for i := range valid {
		texts[i] = outcome(valid[i])
	}
	e.failOf(session.ID{}, hint(err), "%s while others change the record: want %s, got %s", method, strings.Join(texts, " or "), outcome(err))
}
