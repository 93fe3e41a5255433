package console

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// A copier makes one store hold what another one holds.
//
// It has no memory of its own, so that it can be killed at any time: what is to be done follows from what both stores
// hold. All it writes is version 1 of a record, and an application's next save of it makes it version 2, so whoever
// wrote a record can be told by its version, even if nobody can read it. To replace a version 1 by another, it is first
// saved as expired, then created again. Both steps are compare-and-swap and take nothing away from an application that
// has saved the record in between.
type copier struct {
	from, to session.Store
	parallel int
	limit    *rate.Limiter
	// mayRemove returns an error unless that many surplus records may be removed, while that many others stay.
	mayRemove func(surplus, stay int) error

	seed maphash.Seed
}

// A trace is what is remembered of a record in TO.
type trace struct {
	sum     uint64
	expires int64
	version uint64
}

// pass copies what is missing in TO or has changed. If remove is set, it removes what is gone from FROM.
func (cp *copier) pass(ctx context.Context, c *console, remove bool) (*copied, error) {
	result := &copied{TooLarge: []session.ID{}}
	held, err := cp.look(ctx, c)
	switch {
	case err != nil:
		return result, err
	case held == nil && !remove:
		return result, errors.New("TO cannot list what it holds, so that what ends meanwhile would stay there: stop the " +
			"application, then use --final")
	}
	for _, t := range held {
		if t.version > 1 {
			result.InUse++
		}
	}
	if result.InUse > 0 {
		return result, errInUse(result.InUse)
	}

	if err := cp.bringAll(ctx, c, held, result); err != nil {
		return result, err
	}
	if result.Surplus = len(held); remove && result.Surplus > 0 {
		if err := cp.removeSurplus(ctx, c, held, result); err != nil {
			return result, err
		}
	}
	switch {
	case result.InUse > 0:
		return result, errInUse(result.InUse)
	case len(result.TooLarge) > 0:
		return result, fmt.Errorf("%s too large for TO", count(len(result.TooLarge), "record"))
	}
	return result, nil
}

func errInUse(n int) error {
	return fmt.Errorf("an application has saved %s in TO: it is in use, or was; copy into an empty place instead, or, "+
		"if the application has moved there, leave it", count(n, "record"))
}

// An outcome is what became of a record.
type outcome byte

const (
	undone outcome = iota
	created
	changed
	prolonged
	same
	inUse
	tooLarge
)

func (r *copied) note(id session.ID, done outcome) {
	switch done {
	case created:
		r.Created++
	case changed:
		r.Changed++
	case prolonged:
		r.Prolonged++
	case same:
		r.Same++
	case inUse:
		r.InUse++
	case tooLarge:
		r.TooLarge = append(r.TooLarge, id)
	}
}

// bringAll makes TO hold all records of FROM, and leaves in held what FROM does not have.
func (cp *copier) bringAll(ctx context.Context, c *console, held map[session.ID]trace, result *copied) error {
	bar := c.progress("copying", cp.total(ctx, c))
	defer bar.Finish()
	var mu sync.Mutex // of result
	note := func(id session.ID, done outcome) {
		mu.Lock()
		defer mu.Unlock()
		result.note(id, done)
		bar.Add(1) // fails when there are more than were counted
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(cp.parallel)
	err := cp.each(groupCtx, cp.from, func(e session.Entry) error {
		t, known := held[e.ID]
		delete(held, e.ID)
		result.Records++
		if known && cp.settled(&t, &e.Record) {
			note(e.ID, same)
			return nil
		}
		group.Go(func() error {
			done, err := cp.bring(groupCtx, e, t, known)
			note(e.ID, done)
			return err
		})
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed // that of a worker ends the listing too
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return errors.New("FROM cannot list what it holds")
	}
	return err
}

// maxTries bounds how often a record is looked at again because somebody changed it in TO, where nobody should.
const maxTries = 10

// bring makes TO hold the record. If known is set, TO had t under its ID a while ago; if TO cannot be listed, it is not.
func (cp *copier) bring(ctx context.Context, e session.Entry, t trace, known bool) (outcome, error) {
	create := session.Record{Expires: e.Record.Expires, Data: e.Record.Data}
	seen := session.Record{Version: t.version}
	fresh := created
	for range maxTries {
		if err := cp.limit.Wait(ctx); err != nil {
			return undone, err
		}
		var err error
		switch {
		case !known:
			err = cp.to.Save(ctx, e.ID, create)
			if err == nil {
				return fresh, nil
			}
		case cp.settled(&t, &e.Record):
			return same, nil
		case t.version > 1:
			return inUse, nil
		case t.sum == cp.sum(e.Record.Data):
			seen.Expires, seen.Data = e.Record.Expires, e.Record.Data
			if err = session.Touch(ctx, cp.to, e.ID, seen); err == nil {
				return prolonged, nil
			}
		default:
			if err = cp.expire(ctx, e.ID, seen); err == nil {
				known, fresh = false, changed
				continue
			}
		}
		if errors.Is(err, session.ErrTooLarge) {
			return tooLarge, nil
		}
		if !errors.Is(err, session.ErrConflict) && !errors.Is(err, session.ErrNotFound) {
			return undone, err
		}
		switch seen, err = cp.to.Load(ctx, e.ID); {
		case err == nil:
			t, known = cp.trace(seen), true
		case errors.Is(err, session.ErrNotFound):
			known = false
			if !e.Record.Live(time.Now()) {
				return same, nil
			}
		default:
			return undone, err
		}
	}
	return inUse, nil
}

// expire makes a record that was seen in TO absent, unless it has changed since.
func (cp *copier) expire(ctx context.Context, id session.ID, seen session.Record) error {
	seen.Expires, seen.Data = time.Now().Add(-time.Hour), nil
	return cp.to.Save(ctx, id, seen)
}

// removeSurplus removes from TO what FROM does not have any more.
func (cp *copier) removeSurplus(ctx context.Context, c *console, surplus map[session.ID]trace, result *copied) error {
	if err := cp.mayRemove(len(surplus), result.Records); err != nil {
		return err
	}
	bar := c.progress("removing", len(surplus))
	defer bar.Finish()
	var removed, used atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(cp.parallel)
	for id, t := range surplus {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error {
			bar.Add(1)
			if _, err := cp.from.Load(groupCtx, id); !errors.Is(err, session.ErrNotFound) {
				return err // it is there after all: it was created or changed while FROM was listed
			}
			if err := cp.limit.Wait(groupCtx); err != nil {
				return err
			}
			switch err := cp.expire(groupCtx, id, session.Record{Version: t.version}); {
			case err == nil:
				removed.Add(1)
			case !errors.Is(err, session.ErrConflict):
				return err
			default:
				if _, err := cp.to.Load(groupCtx, id); err == nil {
					used.Add(1)
				}
			}
			return nil
		})
	}
	err := group.Wait()
	if err == nil {
		err = ctx.Err()
	}
	result.Removed = int(removed.Load())
	result.InUse += int(used.Load())
	result.Surplus = 0
	return err
}

// look returns what TO holds, nil if it cannot be listed.
func (cp *copier) look(ctx context.Context, c *console) (map[session.ID]trace, error) {
	if cp.seed == (maphash.Seed{}) {
		cp.seed = maphash.MakeSeed()
	}
	bar := c.progress("looking at what is there", -1)
	defer bar.Finish()
	held := make(map[session.ID]trace)
	err := cp.each(ctx, cp.to, func(e session.Entry) error {
		held[e.ID] = cp.trace(e.Record)
		bar.Add(1)
		return nil
	})
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	return held, err
}

// each calls fn for each record of a store.
func (cp *copier) each(ctx context.Context, store session.Store, fn func(session.Entry) error) error {
	for e, err := range session.List(ctx, store) {
		if err == nil {
			err = fn(e)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// total returns how many records FROM has, for the progress that somebody sees, else -1.
func (cp *copier) total(ctx context.Context, c *console) int {
	if !isTerminal(c.stderr) {
		return -1
	}
	n, err := session.CountRecords(ctx, cp.from)
	if err != nil {
		return -1
	}
	return n
}

func (cp *copier) trace(rec session.Record) trace {
	return trace{sum: cp.sum(rec.Data), expires: expiry(rec.Expires), version: rec.Version}
}

func (cp *copier) sum(data []byte) uint64 { return maphash.Bytes(cp.seed, data) }

// settled reports whether what TO has needs no change: the same bytes, and no earlier expiry. A session's expiry only
// moves ahead unless its bytes change.
func (cp *copier) settled(have *trace, want *session.Record) bool {
	return have.sum == cp.sum(want.Data) && have.expires >= expiry(want.Expires)
}

// expiry returns a time in Unix milliseconds, as exact as all stores keep it. Beyond 2200 they do not.
func expiry(t time.Time) int64 {
	switch {
	case t.IsZero():
		return math.MaxInt64
	case t.Year() > 2200:
		return math.MaxInt64 - 1
	}
	return t.UnixMilli()
}
