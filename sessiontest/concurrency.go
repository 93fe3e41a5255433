package sessiontest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"example.com/session"
)

func checkRaceCreate(ctx context.Context, e *env) {
	const rounds, writers = 8, 8
	for range rounds {
		id := e.newID()
		var winners [writers]bool
		var recs [writers]session.Record
		for i := range recs {
			recs[i] = session.Record{Data: fmt.Appendf(nil, "of writer %d", i), Expires: hour()}
		}
		together(writers, func(i int) {
			err := e.store.Save(ctx, id, recs[i])
			winners[i] = err == nil
			e.oneOf("Save", err, nil, session.ErrConflict)
		})
		won := 0
		for _, w := range winners {
			if w {
				won++
			}
		}
		if won != 1 {
			e.fail("Save of version 0 by %d goroutines at once under one ID: want one to succeed, got %d", writers, won)
		}
		if e.failed() {
			return
		}
		want := recs[slices.Index(winners[:], true)]
		want.Version = 1
		e.holds(ctx, id, want, "of what the only successful Save of version 0 has saved")
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
		e.fail("%d goroutines, each of which added 1 to a number %d times, by Load and Save until it succeeded: "+
			"want %d, got %d", writers, times, writers*times, sum)
	}
	if d := difference(rec, want); d != "" {
		e.fail("Load after %d successful saves by %d goroutines: %s", writers*times, writers, d)
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
				err := e.store.(session.Toucher).Touch(ctx, id, rec)
				e.oneOf("Touch", err, nil, session.ErrNotFound, session.ErrConflict)
			default:
				e.oneOf("Save", e.store.Save(ctx, id, rec), nil, session.ErrConflict)
			}
		})
		e.absent(ctx, id, "after Delete, and Save or Touch of version 1 at the same time")
	}
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
				err := e.store.(session.Toucher).Touch(ctx, id, rec)
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
	e.fail("%s while others change the record: want %s, got %s", method, strings.Join(texts, " or "), outcome(err))
}
