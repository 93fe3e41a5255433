package sessiontest

import (
	"context"
	"fmt"
	"time"

	"example.com/session"
)

func checkList(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	want := make(map[session.ID]session.Record)
	for i, rec := range []session.Record{
		{Data: []byte("with an expiry"), Expires: hour()},
		{Data: []byte("without an expiry")},
		{Expires: hour().AddDate(1, 0, 0)},
		{Data: noise(10_000), Expires: hour()},
		{Data: []byte("saved several times"), Expires: hour()},
	} {
		id := e.newID()
		if i < 3 { // what sorts first or last, or looks like a name that a store may keep to itself
			id[0], id[1] = []byte{0, 0xff, '_'}[i], id[1]|1
			e.track(id)
		}
		for ; rec.Version <= uint64(i); rec.Version++ {
			e.save(ctx, id, rec, nil, "over the live record of that version, or none")
		}
		want[id] = rec
	}
	got := e.list(ctx, want)
	for id, rec := range want {
		if len(got[id]) != 1 {
			e.fail("List: want each record once, got one %d times", len(got[id]))
		} else if d := difference(got[id][0], rec); d != "" {
			e.fail("List: %s", d)
		}
	}
}

func checkListLive(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	expired, past, deleted := e.newID(), e.newID(), e.newID()
	short := session.Record{Data: []byte("short-lived"), Expires: time.Now().Add(shortLife).Truncate(time.Millisecond)}
	e.create(ctx, expired, short)
	e.create(ctx, past, session.Record{Data: []byte("passed"), Expires: time.Now().Add(-time.Minute)})
	e.create(ctx, deleted, session.Record{Data: []byte("deleted"), Expires: hour()})
	e.delete(ctx, deleted, "of a live record")
	e.wait(ctx, short.Expires)
	gone := map[session.ID]session.Record{expired: {}, past: {}, deleted: {}}
	got := e.list(ctx, gone)
	for id, what := range map[session.ID]string{
		expired: "one whose Expires has passed",
		past:    "one that was saved with an Expires that had passed",
		deleted: "one that was deleted",
	} {
		if len(got[id]) > 0 {
			e.fail("List: want live records only, got %s", what)
		}
	}
}

func checkListStop(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	want := session.Record{Data: []byte("data"), Expires: hour()}
	var ids [4]session.ID
	for i := range ids {
		ids[i] = e.newID()
		e.create(ctx, ids[i], want)
	}
	want.Version = 1
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// More often than most pools have connections.
	for i := range 25 {
		if e.failed() {
			return
		}
		seen := 0
		if !returns(short, func() {
			for _, err := range e.store.List(short) {
				if seen++; err != nil {
					e.fail("List, left after the first record %d times: want a record, got %s", i, outcome(err))
				}
				break
			}
			e.save(short, ids[0], want, nil, fmt.Sprintf("after List was left early %d times", i+1))
		}) {
			e.fail("a method has not returned within %v after List was left early %d times", patience, i+1)
		}
		if seen != 1 {
			e.fail("List: want at least one of %d live records, got none", len(ids))
		}
		want.Version++
	}
}

func checkListOpen(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	id := e.newID()
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	e.create(ctx, id, rec)
	rec.Version = 1
	inside, cancel := context.WithCancel(ctx)
	defer cancel()
	var done chan struct{}
	blocked := false
	for _, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List: want records, got %s", outcome(err))
			return
		}
		done = make(chan struct{})
		go func() {
			defer close(done)
			e.holds(inside, id, rec, "while List is under way")
			e.save(inside, id, rec, nil, "while List is under way")
			e.create(inside, e.newID(), rec)
			e.delete(inside, id, "while List is under way")
		}()
		select {
		case <-done:
		case <-time.After(e.kit.patience() / 2):
			blocked = true
		}
		break
	}
	if !blocked {
		return
	}
	select {
	case <-done:
		e.failOf(session.ID{}, "List holds a lock, or the only connection or transaction, while it yields: read a page, let go, and yield then",
			"Load, Save and Delete: want them to go on while List is under way, but they had not within %v, and did as soon as List was left", e.kit.patience()/2)
	case <-time.After(e.kit.patience() / 2):
		e.fail("Load, Save and Delete: want them to go on while List is under way, but they have not returned within %v", e.kit.patience())
	}
}

func checkListChanges(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	// More than a small page of a store that goes through its records in pages.
	const records = 144
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	var ids [records]session.ID
	unchanged := make(map[session.ID]bool)
	for i := range ids {
		ids[i] = e.newID()
		unchanged[ids[i]] = true
	}
	many(len(ids), func(i int) { e.create(ctx, ids[i], rec) })
	rec.Version = 1
	seen := make(map[session.ID]int)
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List while records are changed: want records, got %s", outcome(err))
		}
		if e.failed() {
			return
		}
		id := entry.ID
		if !unchanged[id] {
			continue
		}
		seen[id]++
		// Those behind make pages shift, to and fro.
		switch n := len(seen); n / 16 % 3 {
		case 0:
			delete(unchanged, id)
			e.delete(ctx, id, "while List is under way")
		case 1:
			delete(unchanged, id)
			e.save(ctx, id, rec, nil, "while List is under way")
		default:
			e.create(ctx, e.newID(), rec)
		}
	}
	for id := range unchanged {
		if seen[id] != 1 {
			e.fail("List while records that it has passed are changed: want each other one once, got one %d times", seen[id])
		}
	}
}

func checkCount(ctx context.Context, e *env) {
	if !e.needsCount(ctx) || !e.needsList(ctx) { // without a list nobody knows what is right
		return
	}
	short := session.Record{Data: []byte("short-lived"), Expires: time.Now().Add(shortLife).Truncate(time.Millisecond)}
	for i := range byte(3) {
		e.create(ctx, e.newID(), short)
		e.create(ctx, e.newID(), session.Record{Data: []byte("data"), Expires: hour()})
		e.create(ctx, e.newID(), session.Record{Data: []byte{'d', i, 0xff, 'a'}})
	}
	e.create(ctx, e.newID(), session.Record{})
	deleted := e.newID()
	e.create(ctx, deleted, session.Record{Data: []byte("data")})
	e.delete(ctx, deleted, "of a live record")
	e.wait(ctx, short.Expires)
	for _, mark := range []struct {
		at int
		b  byte
	}{{-1, 0}, {0, 'd'}, {1, 'a'}, {1, 0}, {2, 0xff}, {3, 'a'}, {3, 'x'}, {4, 0}, {1000, 'd'}} {
		e.checkCountOf(ctx, mark.at, mark.b)
	}
}

// checkCountOf compares with what List has. Others may use the store: only what is wrong each time is wrong.
func (e *env) checkCountOf(ctx context.Context, at int, b byte) {
	var low, high, count int
	for range 5 {
		low = e.size(ctx, at, b)
		var err error
		if count, err = e.store.Count(ctx, at, b); err != nil {
			e.fail("Count: want success, got %s", outcome(err))
		}
		high = e.size(ctx, at, b)
		low, high = min(low, high), max(low, high)
		if e.failed() || low <= count && count <= high {
			return
		}
	}
	e.fail("Count of %#x at %d: want %d, as List had just before and after (%d and %d live records), got %d", b, at, high, low, high, count)
}

// needsList reports whether the store has a List, and skips the rule if not.
func (e *env) needsList(ctx context.Context) bool {
	for _, err := range e.store.List(ctx) {
		if !supported(err) {
			e.skip("List")
			return false
		}
		break
	}
	return true
}

// needsCount reports whether the store has a Count, and skips the rule if not.
func (e *env) needsCount(ctx context.Context) bool {
	if _, err := e.store.Count(ctx, -1, 0); !supported(err) {
		e.skip("Count")
		return false
	}
	return true
}

// list returns those of the wanted records that List yields, as often as it yields them. The records of others
// pass by.
func (e *env) list(ctx context.Context, want map[session.ID]session.Record) map[session.ID][]session.Record {
	got := make(map[session.ID][]session.Record)
	if e.failed() {
		return got
	}
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List: want records, got %s", outcome(err))
			break
		}
		if _, ok := want[entry.ID]; ok {
			got[entry.ID] = append(got[entry.ID], entry.Record)
		}
	}
	return got
}

func (e *env) size(ctx context.Context, at int, b byte) int {
	n := 0
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List: want records, got %s", outcome(err))
			break
		}
		if data := entry.Record.Data; at < 0 || at < len(data) && data[at] == b {
			n++
		}
	}
	return n
}
