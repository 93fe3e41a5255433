package sessiontest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"example.com/session"
)

func checkRaceCreate(ctx context.Context, e *env) {
	e.race(ctx, func(int) clash { return e.firstSave(ctx, e.newID(), "where no record is") })
}

func checkRaceExpired(ctx context.Context, e *env) {
	var ids []session.ID
	expires := e.soon(func(expires time.Time) {
		ids = nil
		for end := time.Now().Add(time.Until(expires) / 2); len(ids) < leastRaces || time.Now().Before(end) && len(ids) < raceRounds; {
			id := e.newID()
			ids = append(ids, id)
			e.create(ctx, id, session.Record{Data: []byte("short-lived"), Expires: expires})
		}
	})
	e.wait(ctx, expires)
	e.race(ctx, func(r int) clash { return e.firstSave(ctx, ids[r%len(ids)], "over an expired record") })
}

// firstSave has several goroutines save version 0 under an ID at once.
func (e *env) firstSave(ctx context.Context, id session.ID, where string) clash {
	writers := max(2, min(4, runtime.GOMAXPROCS(0)), len(e.store.handles))
	expires := hour()
	return clash{n: writers, play: func(ctx context.Context, i int, s session.Store) call {
		rec := session.Record{Data: fmt.Appendf(nil, "of writer %d", i), Expires: expires}
		return call{op: "Save", id: id, rec: rec, err: s.Save(ctx, id, rec)}
	}, judge: func(calls []call) {
		var winners []int
		for i, c := range calls {
			e.oneOf("Save", c.err, nil, session.ErrConflict)
			if c.err == nil {
				winners = append(winners, i)
			}
		}
		if len(winners) != 1 {
			e.failOf(id, "", "Save of version 0 %s by %d goroutines at once under one ID: want one to succeed, got %d", where, writers, len(winners))
			return
		}
		want := calls[winners[0]].rec
		want.Version = 1
		e.holds(ctx, id, want, "of what the only successful Save of version 0 has saved")
		e.delete(ctx, id, "of a live record") // so that there is room for the next, and for what the same ID is used for again
	}}
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

// raceSave has several goroutines save the next version of one record at once, over again.
func (e *env) raceSave(ctx context.Context) {
	id := e.newID()
	want := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, want)
	writers := max(2, min(4, runtime.GOMAXPROCS(0)), len(e.store.handles))
	e.race(ctx, func(r int) clash {
		version := uint64(r) + 1
		return clash{n: writers, play: func(ctx context.Context, i int, s session.Store) call {
			rec := session.Record{Version: version, Data: fmt.Appendf(nil, "of writer %d", i), Expires: want.Expires}
			return call{op: "Save", id: id, rec: rec, err: s.Save(ctx, id, rec)}
		}, judge: func(calls []call) {
			var winners []int
			for i, c := range calls {
				e.oneOf("Save", c.err, nil, session.ErrConflict)
				if c.err == nil {
					winners = append(winners, i)
				}
			}
			if len(winners) != 1 {
				e.failOf(id, "", "Save of version %d over that version by %d goroutines at once: want one to succeed, got %d", version, writers, len(winners))
				return
			}
			want := calls[winners[0]].rec
			want.Version++
			e.holds(ctx, id, want, "of what the only successful Save of that version has saved")
		}}
	})
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
	id := e.newID()
	rec := session.Record{Version: 1, Data: []byte("data"), Expires: hour()}
	later := rec
	later.Expires = later.Expires.Add(time.Minute)
	e.race(ctx, func(r int) clash {
		return clash{n: max(2, len(e.store.handles)), setUp: func() { e.create(ctx, id, rec) },
			play: func(ctx context.Context, i int, s session.Store) call {
				switch toucher, ok := s.(session.Toucher); {
				case i == 0:
					return call{op: "Delete", id: id, err: s.Delete(ctx, id)}
				case r%2 == 0 && touches && ok:
					return call{op: "Touch", id: id, rec: later, err: toucher.Touch(ctx, id, later)}
				}
				return call{op: "Save", id: id, rec: later, err: s.Save(ctx, id, later)}
			}, judge: func(calls []call) {
				for _, c := range calls {
					switch c.op {
					case "Delete":
						e.oneOf(c.op, c.err, nil)
					case "Touch":
						e.oneOf(c.op, c.err, nil, session.ErrNotFound, session.ErrConflict)
					default:
						e.oneOf(c.op, c.err, nil, session.ErrConflict)
					}
				}
				e.absent(ctx, id, "after Delete, and Save or Touch of version 1 at the same time")
			}}
	})
}

// checkRaceTouch has a Touch and a Save of the same version meet. In whatever order they come, the save is what is there.
func checkRaceTouch(ctx context.Context, e *env) {
	if !e.needsTouch(ctx) {
		return
	}
	id := e.newID()
	touched, saved := hour().Add(time.Minute), hour().Add(2*time.Minute)
	e.create(ctx, id, session.Record{Data: []byte("version 1"), Expires: hour()})
	e.race(ctx, func(r int) clash {
		before := e.load(ctx, id, "between the rounds of a race")
		after := session.Record{Version: before.Version, Data: fmt.Appendf(nil, "version %d", before.Version+1), Expires: saved}
		return clash{n: max(2, len(e.store.handles)), play: func(ctx context.Context, i int, s session.Store) call {
			toucher, ok := s.(session.Toucher)
			if i == 0 || !ok {
				rec := after
				if i > 0 { // one save is enough
					return call{op: "Load", id: id}
				}
				return call{op: "Save", id: id, rec: rec, err: s.Save(ctx, id, rec)}
			}
			rec := before
			rec.Expires = touched
			return call{op: "Touch", id: id, rec: rec, err: toucher.Touch(ctx, id, rec)}
		}, judge: func(calls []call) {
			for _, c := range calls[1:] {
				e.oneOf("Touch", c.err, nil, session.ErrConflict)
			}
			e.oneOf("Save of a version that another goroutine touches", calls[0].err, nil)
			want := after
			want.Version++
			e.holds(ctx, id, want, "after a Save, and a Touch of the version before at the same time")
		}}
	})
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
