package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"example.com/session/internal/codec"
)

// A slot is an ID with the record under it as it was last seen. All records are written by way of slots.
type slot struct {
	m   *Manager
	id  ID
	rec Record // Version 0: there is none
}

const (
	// maxTries bounds how often a save is repeated because another writer was first. Each try that fails means that
	// somebody else's succeeded, so only a crowd comes near it.
	maxTries = 100
	// maxBackoff bounds the random pause between two tries.
	maxBackoff = 8 * time.Millisecond
	// maxResends bounds how often a save is sent again after its reply was lost.
	maxResends = 2
	// rememberWrites is for how long a record remembers a write, beyond the time that the writer has for it:
	// enough for clocks that differ.
	rememberWrites = clockSlack
	// lateWrites is how late a save may come, from a process that stood still. A record that can begin anew, at version
	// 1, stays for so long after its last use: the save could be taken for one of the record's next life.
	lateWrites = time.Hour
)

// A writeID tells a write from all others, so that a writer whose reply was lost finds out whether it was applied.
type writeID [codec.WriteIDSize]byte

// newWriteID returns one that nobody else has. It is no secret.
func newWriteID() (w writeID) {
	binary.NativeEndian.PutUint64(w[:], rand.Uint64())
	return w
}

// A conflictError is an ErrConflict with what became of the second look at the record.
type conflictError struct{ look error }

func (e *conflictError) Error() string { return ErrConflict.Error() }
func (e *conflictError) Unwrap() error { return ErrConflict }

// load looks at the record. A missing one is no error.
func (sl *slot) load(ctx context.Context) error {
	rec, err := sl.m.load(ctx, sl.id)
	if errors.Is(err, ErrNotFound) {
		rec, err = Record{}, nil
	}
	if err == nil {
		sl.rec = rec
	}
	return err
}

// look is load past all caches.
func (sl *slot) look(ctx context.Context) error { return sl.load(WithoutCache(ctx)) }

// open takes the record apart, and returns codec.ErrDamaged where there is none.
func (sl *slot) open() (codec.Envelope, error) {
	return codec.Open(sl.id, sl.rec.Data)
}

// retry calls attempt until it makes no more conflict. Before each further call the slot has what others saved. Only
// here are saves repeated. If the record turns out to bear the write, it was attempt's save after all: retry returns true.
func (sl *slot) retry(ctx context.Context, write writeID, attempt func(try int) error) (found bool, err error) {
	for try := 1; ; try++ {
		err := attempt(try)
		conflict, ok := errors.AsType[*conflictError](err)
		if !ok || try >= maxTries {
			return false, err
		}
		switch {
		case try > 1: // what was found before the pause is history
			if !pause(ctx, try) {
				return false, err
			}
			fallthrough
		case conflict.look != nil:
			if err := sl.look(ctx); err != nil {
				return false, err
			}
			if sl.bears(write) {
				return true, nil
			}
		}
	}
}

// save saves data, which bears the write, after what the slot has, and then has that. It returns true if the reply was lost
// and others have saved since: the slot then has what they saved. Neither the store nor a client library that sends again by
// itself can tell a conflict with another writer from one with this very save. An error that is no *conflictError leaves
// open whether it was applied.
func (sl *slot) save(ctx context.Context, data []byte, expires time.Time, write writeID) (overtaken bool, err error) {
	rec := Record{Version: sl.rec.Version, cas: sl.rec.cas, Expires: expires, Data: data}
	return sl.send(ctx, rec, func() bool { return sl.bears(write) })
}

// fence saves what the slot has once more, byte for byte, so that whoever is about to save conflicts. A later version
// with the same bytes is its success, whoever saved it; one with others is a conflict, since it may be just the one that
// the fence was to keep out.
func (sl *slot) fence(ctx context.Context) error {
	seen := sl.rec
	overtaken, err := sl.send(ctx, seen, func() bool { return sl.rec.Version > seen.Version })
	if err == nil && overtaken {
		return &conflictError{}
	}
	return err
}

// send saves rec, and finds out what became of it if the reply was lost: applied tells by what the slot has then.
func (sl *slot) send(ctx context.Context, rec Record, applied func() bool) (overtaken bool, err error) {
	for sent := 1; ; sent++ {
		err := sl.m.save(ctx, sl.id, rec)
		if err == nil {
			rec.Version++
			rec.cas, rec.Cached = 0, false
			sl.rec = rec
			return false, nil
		}
		if errors.Is(err, ErrTooLarge) {
			return false, err
		}
		look := sl.look(ctx)
		if look == nil && applied() {
			return !bytes.Equal(sl.rec.Data, rec.Data), nil
		}
		switch {
		case errors.Is(err, ErrConflict):
			return false, &conflictError{look}
		case look != nil, sent > maxResends:
			return false, err
		case sl.rec.Version != rec.Version:
			// Others have saved since. Whether this write was among them is known only if the record remembers all of
			// them.
			if sl.rec.Version == 0 || sl.rec.Version-rec.Version < codec.RecentWrites {
				return false, &conflictError{}
			}
			return false, err
		}
		// Nothing was saved. Should the lost request still arrive, it is this one's conflict.
		rec.cas = sl.rec.cas
	}
}

func (sl *slot) bears(write writeID) bool {
	return sl.rec.Version > 0 && codec.HasWrite(sl.id, sl.rec.Data, write[:])
}

// touch moves the record's expiry, if nobody else has saved.
func (sl *slot) touch(ctx context.Context, expires time.Time) error {
	rec := sl.rec
	rec.Expires, rec.Cached = expires, false
	start := sl.m.startTimer()
	err := Touch(ctx, sl.m.store, sl.id, rec)
	sl.m.observeStore(ctx, start, "touch", sl.id, err)
	if err == nil {
		sl.rec.Expires, sl.rec.cas = expires, 0
	}
	return err
}

// load is Store.Load, observed.
func (m *Manager) load(ctx context.Context, id ID) (Record, error) {
	start := m.startTimer()
	rec, err := m.store.Load(ctx, id)
	m.observeStore(ctx, start, "load", id, err)
	return rec, err
}

// save is Store.Save, observed.
func (m *Manager) save(ctx context.Context, id ID, rec Record) error {
	start := m.startTimer()
	err := m.store.Save(ctx, id, rec)
	m.observeStore(ctx, start, "save", id, err)
	return err
}

// delete is Store.Delete, observed.
func (m *Manager) delete(ctx context.Context, id ID) error {
	start := m.startTimer()
	err := m.store.Delete(ctx, id)
	m.observeStore(ctx, start, "delete", id, err)
	return err
}

// rememberFor returns for how long a record remembers a write.
func (m *Manager) rememberFor() time.Duration { return m.storeLimit.timeout + rememberWrites }

// pause waits for a random time before another try, and reports false if ctx ended.
func pause(ctx context.Context, try int) bool {
	limit := min(maxBackoff, time.Millisecond<<min(try, 8)/4)
	return sleep(ctx, rand.N(limit))
}
