package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/session/internal/codec"
)

// Locks are for handlers that read, think, and write back what depends on what they read. Most do not need one:
// parallel changes are merged, and Key.Update is atomic.
//
// A lock is a record that names its holder and the end of its lease. It is taken, prolonged and released by
// compare-and-swap. Whoever takes over a lock whose lease ran out saves the session once before anything else: a
// holder that was paused and wakes up then conflicts, looks at the lock, and learns that it lost it.

// Lock waits until no other request works on the session under a lock, at most for Options.LockWait or until ctx is
// done, and then sees to it that none does until this request has ended, also by a panic. It loads what others
// saved meanwhile. Requests of the same process take turns in the order in which they asked. Calling Lock again
// does nothing. A session that the store does not know yet, which no other request can have, is locked as it is stored,
// unless the handler has returned by then.
//
// It returns ErrLocked if the wait was in vain, ErrGone if the session has ended, ErrHeaderSent if it is an old system's
// that cannot move any more, or the store's error, and Err returns the same from then on. A session that could not be locked
// can still be ended, by Destroy. If the lock is lost on the way, because this process stood still for longer than
// Options.LockLease, the commit fails with ErrLockLost. So do Lock and a commit after the request has ended, in a
// handler that http.TimeoutHandler inside Manager.Handler has given up on: put it outside.
//
// A lock keeps out those who ask for it. Others still read and change the session.
func (s *Session) Lock(ctx context.Context) error {
	c := s.open()
	defer s.mu.Unlock()
	c.locks = true
	if c.err == nil && c.gone() {
		c.fail(ErrGone)
		c.tellStale(c.origin.context(), c.own)
	}
	if c.err != nil || c.anonymous() {
		return c.err
	}
	if err := c.takeLock(ctx); err != nil {
		return c.failLock(err)
	}
	return nil
}

// Unlock saves the session, as Save does, and gives its lock back before the request has ended, whether Lock or
// Options.Locking asked for it: for a handler that goes on for long. It returns what Err then returns. Later
// changes are merged as without a lock; Lock takes it again. Before the first use of the session, Unlock keeps Options.Locking
// from locking it.
func (s *Session) Unlock(ctx context.Context) error {
	err := s.Save(ctx)
	s.mu.Lock()
	held := s.core.held
	s.core.held, s.core.locks, s.core.freed = nil, false, true
	s.mu.Unlock()
	if held != nil {
		held.release(ctx)
	}
	return err
}

// gone reports whether the client's session has ended, or is another's, while it may not know.
func (c *core) gone() bool { return c.phase == closed || c.phase == replaced || c.phase == revoked }

// lockImplicitly locks the session that was just loaded, if Options.Locking asks for it.
func (c *core) lockImplicitly() {
	if !c.m.locking || c.freed {
		return
	}
	err := c.takeLock(c.origin.context())
	switch {
	case err == nil:
	case errors.Is(err, ErrGone) && c.phase != served: // one that ends while this request waits is none
	case errors.Is(err, ErrHeaderSent): // it can be read and ended, and no more
	default:
		c.failLock(err)
	}
}

// failLock is fail for a session that could not be locked.
func (c *core) failLock(err error) error {
	c.unlocked = c.unlocked || c.err == nil
	return c.fail(err)
}

// A heldLock is one that this request has taken.
type heldLock struct {
	m       *Manager
	ctx     context.Context // of the request, for what is done beside it
	session ID              // that is locked,
	user    string          // and whose it is
	holder  writeID
	leave   func()

	mu    sync.Mutex
	slot  slot
	until time.Time // end of the lease
	lost  bool
	timer *time.Timer // for the next extension
}

// takeLock locks the session, unless it is locked, and looks at it again.
func (c *core) takeLock(parent context.Context) error {
	switch {
	case c.held != nil:
		return c.held.check(parent, false)
	case c.origin.ended():
		return ErrLockLost
	case c.phase == unmoved && c.origin.tooLate(): // its client would keep the old cookie, which leads there for the grace only
		return ErrHeaderSent
	}
	if err := c.moveNow(parent); err != nil {
		return err
	}
	stolen, seen := false, c.slot.rec.Version
	if c.phase == served {
		var err error
		if stolen, err = c.holdLock(parent); err != nil {
			return err
		}
	}
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	if c.phase == served {
		if err := c.slot.look(ctx); err != nil {
			return err
		}
		// As long as nobody has saved since before the lock was taken, nobody has taken it over, or is about to and will
		// save. Else what was found may be what the next holder works on.
		if err := c.refresh(ctx, c.slot.rec.Version != seen); err != nil {
			return err
		}
	}
	if c.phase != served {
		return ErrGone
	}
	if !stolen {
		return nil
	}
	// Should the one before wake up, it must find the session changed.
	_, err := c.slot.retry(ctx, writeID{}, func(try int) error {
		if try > 1 {
			if err := c.refresh(ctx, true); err != nil || c.phase != served {
				return cmp.Or(err, ErrGone)
			}
		}
		return c.slot.fence(ctx)
	})
	return err
}

// lockNew locks a session that is about to be stored, if the request works under a lock.
func (c *core) lockNew(ctx context.Context) error {
	if !c.locks && (!c.m.locking || c.freed) || c.origin.ended() {
		return nil
	}
	if c.held != nil { // of the session before
		c.held.release(ctx)
		c.held = nil
	}
	_, err := c.holdLock(ctx)
	return err
}

// lockID returns where a session's lock is.
func (m *Manager) lockID(id ID) ID {
	return sha256.Sum256(codec.Joined("session lock", m.namespace, string(id[:])))
}

// holdLock waits for the lock of the session in the slot and takes it. It reports whether it was taken over from a holder
// whose lease ran out.
func (c *core) holdLock(parent context.Context) (stolen bool, err error) {
	start := c.m.startTimer()
	if stolen, err = c.waitForLock(parent); c.m.observer == nil {
		return stolen, err
	}
	e := Event{Kind: EventLock, Duration: time.Since(start), Err: err}
	switch {
	case errors.Is(err, ErrLocked):
		e.Reason = ReasonTimeout
	case err != nil:
		e.Reason = ReasonFailed
	case stolen:
		e.Reason = ReasonTakenOver
	}
	c.tell(parent, e)
	return stolen, err
}

// waitForLock is holdLock, unobserved.
func (c *core) waitForLock(parent context.Context) (stolen bool, err error) {
	m, id := c.m, c.m.lockID(c.slot.id)
	wait, cancel := context.WithTimeoutCause(parent, m.lockWait, ErrLocked)
	defer cancel()
	if _, err := m.queues.enter(wait, id); err != nil {
		return false, lockError(wait, err)
	}
	held := &heldLock{
		m: m, ctx: sessionless{context.WithoutCancel(c.origin.context())}, session: c.slot.id, user: string(c.body.User),
		holder: newWriteID(), slot: slot{m: m, id: id}, leave: func() { m.queues.leave(id, handover{}) },
	}
	defer func() {
		if c.held != held { // also after a panic of the store
			held.leave()
		}
	}()
	if stolen, err = held.take(wait); err != nil {
		return false, lockError(wait, err)
	}
	c.held = held
	held.mu.Lock()
	defer held.mu.Unlock()
	held.timer = time.AfterFunc(m.lockLease/3, held.extend)
	return stolen, nil
}

// lockError tells a wait that was too long from a store that failed.
func lockError(wait context.Context, err error) error {
	if wait.Err() != nil {
		return fmt.Errorf("session: waiting for the lock: %w", context.Cause(wait))
	}
	return err
}

// take waits until the lock is free and takes it. It reports whether it was taken over from a holder whose lease
// ran out.
func (h *heldLock) take(wait context.Context) (stolen bool, err error) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(wait), h.m.lockWait+h.m.storeLimit.timeout)
	defer cancel()
	ctx := sessionless{limited}
	for try := 1; ; try++ {
		if err := h.slot.look(ctx); err != nil {
			return false, err
		}
		holder, until := decodeLock(&h.slot)
		if now := h.m.now(); !now.Before(until) {
			err := h.save(ctx, now.Add(h.m.lockLease))
			if err == nil {
				return holder != writeID{}, nil
			}
			if !errors.Is(err, ErrConflict) {
				return false, err
			}
		}
		if !pause(wait, try+2) {
			return false, wait.Err()
		}
	}
}

// save stores the lock with another end of the lease; the zero time releases it.
func (h *heldLock) save(ctx context.Context, until time.Time) error {
	var payload []byte
	if !until.IsZero() {
		payload = binary.AppendUvarint(h.holder[:], uint64(until.UnixMilli()))
	}
	write := newWriteID()
	data := codec.EncodeLock(h.slot.id, payload, codec.Writes{This: write})
	expires := h.m.now().Add(h.m.lockLease + lateWrites) // a late holder meets versions that have moved on
	overtaken, err := h.slot.save(ctx, data, expires, write)
	if overtaken {
		return &conflictError{}
	}
	if err == nil {
		h.until = until
	}
	return err
}

// decodeLock returns who holds the lock and until when, nothing if it is free.
func decodeLock(sl *slot) (writeID, time.Time) {
	e, _ := sl.open() // what is not there, or damaged, has no payload
	r := codec.NewReader(e.Payload)
	holder, until := writeID(r.Take(codec.WriteIDSize)), r.Time()
	if !r.Good() {
		return writeID{}, time.Time{}
	}
	return holder, time.UnixMilli(until)
}

// extend prolongs the lease while the request runs.
func (h *heldLock) extend() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost || h.timer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, min(h.m.storeLimit.timeout, h.m.lockLease/3))
	defer cancel()
	h.move(ctx, h.m.now().Add(h.m.lockLease))
	if !h.lost { // after an error, the next try may still be in time
		h.timer.Reset(h.m.lockLease / 3)
	}
}

// move is save for a lock of this request, and finds out whether it has lost that.
func (h *heldLock) move(ctx context.Context, until time.Time) error {
	err := h.save(ctx, until)
	conflict, ok := errors.AsType[*conflictError](err)
	if !ok || conflict.look != nil {
		return err
	}
	if holder, saved := decodeLock(&h.slot); holder == h.holder {
		// It was an earlier save of this holder's that got through, of which no reply came.
		h.until = saved
		return h.save(ctx, until)
	}
	h.lose()
	return err
}

// lose takes note that the lock is lost.
func (h *heldLock) lose() {
	if !h.lost {
		h.lost = true
		h.m.observe(h.ctx, Event{Kind: EventLock, ID: h.session, User: h.user, Reason: ReasonLost, Err: ErrLockLost})
	}
}

// check returns ErrLockLost unless the lock is still held. With look, it asks the store.
func (h *heldLock) check(ctx context.Context, look bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.lost && look {
		seen := slot{m: h.m, id: h.slot.id}
		if err := seen.look(ctx); err != nil {
			return err
		}
		if holder, _ := decodeLock(&seen); holder != h.holder {
			h.lose()
		}
	}
	if h.lost || !h.m.now().Before(h.until) {
		h.lose()
		return ErrLockLost
	}
	return nil
}

// release gives the lock back, for good. It need not succeed: the lease ends by itself.
func (h *heldLock) release(parent context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer == nil { // it was given back before
		return
	}
	defer h.leave()
	h.timer.Stop()
	h.timer = nil
	if !h.lost && h.m.now().Before(h.until) {
		ctx := newStoreContext(parent, &h.m.storeLimit)
		defer ctx.cancel()
		if err := h.move(ctx, time.Time{}); err != nil {
			h.m.observe(ctx, Event{Kind: EventLost, Op: "unlock", ID: h.session, User: h.user, Err: err})
		}
	}
	h.lost = true
}

// unlock releases the lock at the end of the request.
func (s *Session) unlock(ctx context.Context) {
	s.mu.Lock()
	held := s.core.held
	s.mu.Unlock()
	if held != nil {
		held.release(ctx)
	}
}
