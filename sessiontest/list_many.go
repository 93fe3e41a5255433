package sessiontest

import (
	"bytes"
	"context"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/session"
)

const (
	manyRecords = 2500            // more than two pages of any store that has pages of round numbers
	fewRecords  = 400             // what a slow store gets
	manyTime    = 4 * time.Second // to create them
)

// createMany creates as many records as a fast store is given, or fewer. Some IDs are such as random ones hardly ever are.
func (e *env) createMany(ctx context.Context, rec session.Record) (ids []session.ID) {
	end, most := time.Now().Add(manyTime), manyRecords
	if e.kit.short {
		most = fewRecords
	}
	for len(ids) < most && !e.failed() && (len(ids) < fewRecords || time.Now().Before(end)) {
		batch := make([]session.ID, 100)
		for i := range batch {
			batch[i] = e.newID()
			if edge := len(ids) + i; edge < 5 {
				for k := range 4 {
					batch[i][k] = []byte{0, 0xff, ' ', '0', '_'}[edge]
				}
				e.track(batch[i])
			}
		}
		many(len(batch), func(i int) { e.create(ctx, batch[i], rec) })
		ids = append(ids, batch...)
	}
	return ids
}

// checkListMany lists thousands of records while others come and go, before and behind.
func checkListMany(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	rec := session.Record{Data: []byte("data"), Expires: hour()}
	ids := e.createMany(ctx, rec)
	rec.Version = 1
	// Few are changed, so that the first and the last of a page are hardly ever among them. Each of the others is to be seen once.
	unchanged, changing := ids[:len(ids)*5/6], ids[len(ids)*5/6:]
	seen := make(map[session.ID]int)
	var others sync.WaitGroup
	work, stop := context.WithCancel(ctx)
	defer others.Wait()
	defer stop()
	n, changed := 0, 0
	change := func(i int) {
		switch id := changing[i]; i % 4 {
		case 0:
			e.save(ctx, id, rec, nil, "while List is under way")
		case 1:
			e.create(ctx, e.newID(), rec)
		default: // more than are created, or pages would shift one way and back again
			e.delete(ctx, id, "while List is under way")
		}
	}
	others.Go(func() { // at the same time, in no order
		for i := len(changing) - 1; i >= len(changing)/2 && work.Err() == nil && !e.failed(); i-- {
			change(i)
		}
	})
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List of %d records: want records, got %s", len(ids), outcome(err))
		}
		if e.failed() {
			return
		}
		seen[entry.ID]++
		if n++; n%3 == 0 && changed < len(changing)/2 { // and in the middle, so that the pages of each run shift
			change(changed)
			changed++
		}
	}
	e.seenOnce(seen, unchanged, "List of %d records while others are saved, created and deleted", len(ids))
}

// seenOnce expects each of the IDs to have been seen once.
func (e *env) seenOnce(seen map[session.ID]int, ids []session.ID, what string, n int) {
	none, twice := 0, 0
	for _, id := range ids {
		switch seen[id] {
		case 0:
			none++
		case 1:
		default:
			twice++
		}
	}
	if none+twice > 0 {
		e.fail(what+": want each record once that was not changed, got %d not at all and %d more than once", n, none, twice)
	}
}

// checkListTouched touches records while they are listed.
func checkListTouched(ctx context.Context, e *env) {
	if !e.needsList(ctx) || !e.needsTouch(ctx) {
		return
	}
	rec := session.Record{Data: []byte("data")}
	var ids []session.ID
	for i := range 300 { // each expires at another time
		rec.Expires = hour().Add(time.Duration(i) * time.Second)
		id := e.newID()
		ids = append(ids, id)
		e.create(ctx, id, rec)
	}
	rec.Version = 1
	mine := make(map[session.ID]int)
	for i, id := range ids {
		mine[id] = i
	}
	seen := make(map[session.ID]int)
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			e.fail("List: want records, got %s", outcome(err))
		}
		if e.failed() {
			return
		}
		i, ok := mine[entry.ID]
		if !ok {
			continue
		}
		seen[entry.ID]++
		// The one that was seen moves to the end, another one to the front.
		e.touch(ctx, entry.ID, entry.Record, hour().Add(24*time.Hour), nil, "of what List has just returned")
		if other := ids[(i+150)%len(ids)]; i%2 == 0 && seen[other] == 0 {
			e.touch(ctx, other, e.load(ctx, other, "while List is under way"), hour().Add(-time.Minute), nil, "while List is under way")
		}
	}
	e.seenOnce(seen, ids, "List of %d records while they are touched", len(ids))
}

// checkListCut has contexts end at each point of List and Count where somebody looks at them: what is short must not look complete.
func checkListCut(ctx context.Context, e *env) {
	lists := e.needsList(ctx)
	if !lists {
		return
	}
	want := make(map[session.ID]bool)
	for range 40 {
		id := e.newID()
		want[id] = true
		e.create(ctx, id, session.Record{Data: []byte("\x00a mark"), Expires: hour()})
	}
	counts := e.store.counts(ctx)
	for looks := range 60 {
		if e.failed() {
			return
		}
		cut := newFuse(ctx, looks)
		e.listCut(cut, want, looks%7 == 6, "List whose context ended while it was at work")
		cut.cancel()
		if !counts {
			continue
		}
		cut = newFuse(ctx, looks)
		n, err := e.store.Count(cut, -1, 0)
		cut.cancel()
		e.endsWith("Count whose context ended while it was at work", err)
		if err == nil && n < len(want) {
			e.fail("Count whose context ended while it was at work: want an error, or the %d live records, got %d and no error", len(want), n)
		}
	}
	// By the clock, too: not everybody looks at a context that waits for it.
	for d := 20 * time.Microsecond; d < 50*time.Millisecond && !e.failed(); d = d * 3 / 2 {
		short, cancel := context.WithTimeout(ctx, d)
		e.listCut(short, want, false, "List whose deadline passed while it was at work")
		cancel()
		if counts {
			short, cancel := context.WithTimeout(ctx, d)
			n, err := e.store.Count(short, -1, 0)
			cancel()
			if err == nil && n < len(want) {
				e.fail("Count whose deadline passed while it was at work: want an error, or the %d live records, got %d and no error", len(want), n)
			}
		}
	}
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	e.listCancelled(cut, cancel, want)
}

// listCut expects an error, or all records.
func (e *env) listCut(ctx context.Context, want map[session.ID]bool, slow bool, what string) {
	n := 0
	err := e.drain(func(yield func(session.Entry, error) bool) {
		e.store.List(ctx)(func(entry session.Entry, err error) bool {
			if want[entry.ID] {
				n++
			}
			if slow {
				time.Sleep(time.Millisecond)
			}
			return yield(entry, err)
		})
	})
	e.endsWith(what, err)
	if err == nil && n < len(want) {
		e.failOf(session.ID{}, "the error that the driver's rows, cursor or scanner keeps to the end was not asked for: rows.Err(), cursor.Err()",
			"%s: want an error, or all of %d records, got %d and no error", what, len(want), n)
	}
}

// listCancelled cancels after the first record.
func (e *env) listCancelled(ctx context.Context, cancel func(), want map[session.ID]bool) {
	n := 0
	for entry, err := range e.store.List(ctx) {
		if err != nil {
			return
		}
		if want[entry.ID] {
			n++
		}
		cancel()
	}
	if n < len(want) {
		e.fail("List whose context was cancelled after the first record: want an error, or all of %d records, got %d and no error", len(want), n)
	}
}

// endsWith expects success, or the error of a context that has ended.
func (e *env) endsWith(what string, err error) {
	if err != nil && supported(err) && !matches(err, context.Canceled) && !matches(err, context.DeadlineExceeded) {
		e.failOf(session.ID{}, hint(err), "%s: want an error that wraps ctx.Err() and no other, got %s", what, outcome(err))
	}
}

func (g *guard) counts(ctx context.Context) bool {
	_, err := g.Count(ctx, -1, 0)
	return supported(err)
}

// checkListLeft leaves lists early, and counts what they leave behind.
func checkListLeft(ctx context.Context, e *env) {
	if !e.needsList(ctx) {
		return
	}
	for range 300 { // more than a store reads ahead
		e.create(ctx, e.newID(), session.Record{Data: []byte("data"), Expires: hour()})
	}
	const times, most = 50, 30
	label := strconv.FormatUint(e.rand().Uint64(), 36)
	var goroutines, files int
	// Twice, since a pool may be filling up: only what goes on growing is a leak.
	for range 2 {
		filesBefore := openFiles()
		pprof.Do(ctx, pprof.Labels("sessiontest", label), func(ctx context.Context) {
			for range times {
				for _, err := range e.store.List(ctx) {
					if err != nil {
						e.fail("List, left after the first record: want a record, got %s", outcome(err))
					}
					break
				}
			}
		})
		for wait := time.Millisecond; ; wait *= 2 { // what ends may take a moment to
			goroutines, files = labelled(label), openFiles()-filesBefore
			if goroutines < most && files < most || wait > time.Second {
				break
			}
			time.Sleep(wait)
		}
		if goroutines < most && files < most || e.failed() {
			return
		}
	}
	if goroutines >= most {
		e.fail("List, left after the first record %d times: want all goroutines gone that it has begun, got %d left", 2*times, goroutines)
	} else {
		e.fail("List, left after the first record %d times: want all connections and files closed, got %d more than before", times, files)
	}
}

// labelled counts the goroutines that have a label.
func labelled(label string) (n int) {
	var profile bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	count := 0
	for line := range strings.Lines(profile.String()) {
		if number, _, ok := strings.Cut(line, " @ "); ok {
			count, _ = strconv.Atoi(number)
		} else if strings.HasPrefix(line, "# labels:") && strings.Contains(line, label) {
			n += count
		}
	}
	return n
}

// openFiles returns how many files and connections this process has open, or 0 where it cannot tell.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
