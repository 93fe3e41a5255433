package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Locks are for handlers that read, think, and write back what depends on what they read. Most do not need one:
// parallel changes are merged, and Key.Update is atomic.
//
// A lock is a record that names its holder and the end of its lease. It is taken, prolonged and released by
// compare-and-swap. Who takes over a lock whose lease ran out saves the session once before anything else: a
// holder that was paused and wakes up then conflicts, looks at the lock, and learns that it lost it.

// Lock waits until no other request works on the session under a lock, at most for Options.LockWait or until ctx is
// done, and then sees to it that none does until this request has ended, also by a panic. What others saved
// meanwhile is loaded. Requests of the same process take turns in the order in which they asked. Calling Lock again
// does nothing. A session that the store does not know yet, which no other request can have, is locked as it is stored,
// unless the handler has returned by then.
//
// It returns ErrLocked if the wait was in vain, ErrGone if the session has ended, or the store's error, and Err
// returns the same from then on. If the lock is lost on the way, because this process stood still for longer than
// Options.LockLease, the commit fails with ErrLockLost. So do Lock and a commit after the request has ended, in a
// handler that http.TimeoutHandler inside Manager.Handler has given up on: put it outside.
//
// A lock keeps out those who ask for it. Others still read and change the session.
func (s *Session) Lock(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	s.locks = true
	if s.err == nil && s.state == gone {
		s.fail(ErrGone)
	}
	if s.err != nil || s.state != live {
		return s.err
	}
	if err := s.takeLock(ctx); err != nil {
		return s.fail(err)
	}
	return nil
}

// lockImplicitly locks the session that was just loaded, if Options.Locking asks for it. s.mu is held.
func (s *Session) lockImplicitly() {
	if !s.m.locking {
		return
	}
	switch err := s.takeLock(s.origin.context()); {
	case s.state == gone: // it ended while this request waited
		s.begin()
	case err != nil:
		s.fail(err)
	}
}

// A heldLock is one that this request has taken.
type heldLock struct {
	m      *Manager
	holder []byte
	leave  func()
	before *heldLock // that of the session that this one took the place of, at a login for example

	mu    sync.Mutex
	link  link
	until time.Time // end of the lease
	lost  bool
	timer *time.Timer // for the next extension
}

// takeLock locks the session, unless it is locked, and looks at it again. s.mu is held.
func (s *Session) takeLock(parent context.Context) error {
	m := s.m
	switch {
	case s.held != nil:
		return s.held.check(parent, false)
	case s.origin.ended():
		return ErrLockLost
	}
	if err := s.moveNow(parent); err != nil {
		return err
	}
	if s.state == gone {
		return ErrGone
	}
	stolen, err := s.holdLock(parent)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		if err := s.refresh(parent); err != nil {
			return err
		}
		if s.state == gone {
			return ErrGone
		}
		if !stolen {
			return nil
		}
		// Should the one before wake up, it must find the session changed.
		ctx := newStoreContext(parent, &m.storeLimit)
		undone := s.content
		decoded, err := m.decode(&s.link, s.link.data)
		if err == nil {
			s.content = decoded.content // not with the changes that are still to be committed
			_, err = s.save(ctx, &s.link, time.Now())
			saved := s.content.saved
			writes := s.content.writes
			s.content = undone
			s.content.saved, s.content.writes = saved, writes
		}
		ctx.cancel()
		if err == nil || !errors.Is(err, ErrConflict) || try >= maxTries {
			return err
		}
	}
}

// lockNew locks a session that is about to be stored under a new name, if the request works under a lock. s.mu is held.
func (s *Session) lockNew(ctx context.Context) error {
	if !s.locks && !s.m.locking || s.origin.ended() {
		return nil
	}
	if s.held != nil && s.held.link.id == s.m.lockID(s.content.lineage) {
		return nil
	}
	_, err := s.holdLock(ctx)
	return err
}

// lockID returns where a session's lock is.
func (m *Manager) lockID(l lineage) ID {
	return sha256.Sum256([]byte(strings.Join([]string{"session lock", m.namespace, string(l[:])}, "\x00")))
}

// holdLock waits for the lock of the session's name and takes it. It reports whether it was taken over from a holder
// whose lease ran out. s.mu is held.
func (s *Session) holdLock(parent context.Context) (stolen bool, err error) {
	m, id := s.m, s.m.lockID(s.content.lineage)
	wait, cancel := context.WithTimeoutCause(parent, m.lockWait, ErrLocked)
	defer cancel()
	if _, err := m.queues.enter(wait, id); err != nil {
		return false, lockError(wait, err)
	}
	held := &heldLock{
		m: m, holder: newMark(), link: link{id: id}, leave: func() { m.queues.leave(id, handover{}) }, before: s.held,
	}
	defer func() {
		if s.held != held { // also after a panic of the store
			held.leave()
		}
	}()
	if stolen, err = held.take(wait); err != nil {
		return false, lockError(wait, err)
	}
	s.held = held
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
	ctx := uncached(sessionless{limited})
	rec, err := h.m.load(ctx, h.link.id)
	for try := 1; ; try++ {
		var holder []byte
		var until time.Time
		switch {
		case errors.Is(err, ErrNotFound):
			h.link = link{id: h.link.id}
		case err != nil:
			return false, err
		default:
			h.link.version, h.link.cas = rec.Version, rec.cas
			holder, until = h.m.decodeLock(&h.link, rec.Data)
		}
		if now := time.Now(); !now.Before(until) {
			err := h.save(ctx, now.Add(h.m.lockLease))
			if err == nil {
				return holder != nil, nil
			}
			if !errors.Is(err, ErrConflict) {
				return false, err
			}
		}
		if !pause(wait, try+2) {
			return false, wait.Err()
		}
		rec, err = h.m.load(ctx, h.link.id)
	}
}

// save stores the lock with another end of the lease; the zero time releases it.
func (h *heldLock) save(ctx context.Context, until time.Time) error {
	now := time.Now()
	write := newMark()
	c := content{saved: now.UnixMilli()}
	c.remember(write, now.UnixMilli(), h.m.rememberFor())
	var payload []byte
	if !until.IsZero() {
		payload = appendNumbers(append(payload, h.holder...), uint64(until.UnixMilli()))
	}
	b := appendWrites(newData(kindLock, 1+markSize+len(payload)), c.writes)
	rec := Record{
		Version: h.link.version,
		cas:     h.link.cas,
		Data:    checksummed(h.link.id, append(b, payload...)),
		Expires: now.Add(h.m.lockLease + lateWrites), // a late holder meets versions that have moved on
	}
	if err := h.m.put(ctx, &h.link, rec, write); err != nil {
		return err
	}
	h.link.version++
	h.link.cas = 0
	h.until = until
	return nil
}

// decodeLock returns who holds the lock and until when, nothing if it is free.
func (m *Manager) decodeLock(l *link, data []byte) ([]byte, time.Time) {
	d, err := m.decode(l, data)
	if err != nil || d.kind != kindLock || len(d.payload) == 0 {
		return nil, time.Time{}
	}
	r := reader{rest: d.payload}
	holder, until := r.take(markSize), r.time()
	if r.bad {
		return nil, time.Time{}
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
	ctx, cancel := context.WithTimeout(context.Background(), min(h.m.storeLimit.timeout, h.m.lockLease/3))
	defer cancel()
	h.move(ctx, time.Now().Add(h.m.lockLease))
	if !h.lost { // after an error, the next try may still be in time
		h.timer.Reset(h.m.lockLease / 3)
	}
}

// move is save for a lock that is held. It finds out whether that is so no longer. h.mu is held.
func (h *heldLock) move(ctx context.Context, until time.Time) error {
	err := h.save(ctx, until)
	conflict, ok := errors.AsType[*conflictError](err)
	switch {
	case !ok, conflict.err != nil && !errors.Is(conflict.err, ErrNotFound):
		return err
	case conflict.err == nil:
		if holder, saved := h.m.decodeLock(&h.link, conflict.found.Data); bytes.Equal(holder, h.holder) {
			// It was an earlier save of this holder's that got through, of which no reply came.
			h.link.version, h.link.cas, h.until = conflict.found.Version, conflict.found.cas, saved
			return h.save(ctx, until)
		}
	}
	h.lost = true
	return err
}

// check returns ErrLockLost unless the lock is still held. With look, it asks the store.
func (h *heldLock) check(ctx context.Context, look bool) error {
	if h.before != nil {
		if err := h.before.check(ctx, look); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.lost && look {
		rec, err := h.m.load(uncached(ctx), h.link.id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		holder, _ := h.m.decodeLock(&h.link, rec.Data)
		h.lost = err != nil || !bytes.Equal(holder, h.holder)
	}
	if h.lost || !time.Now().Before(h.until) {
		h.lost = true
		return ErrLockLost
	}
	return nil
}

// release gives the lock back, for good. It need not succeed: the lease ends by itself.
func (h *heldLock) release(parent context.Context) {
	if h.before != nil {
		defer h.before.release(parent)
	}
	defer h.leave()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer.Stop()
	h.timer = nil
	if !h.lost && time.Now().Before(h.until) {
		ctx := newStoreContext(parent, &h.m.storeLimit)
		defer ctx.cancel()
		if err := h.move(ctx, time.Time{}); err != nil {
			h.m.observe(ctx, Event{Kind: EventLost, Op: "unlock", ID: h.link.id, Err: err})
		}
	}
	h.lost = true
}

// unlock releases the lock at the end of the request.
func (s *Session) unlock(ctx context.Context) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		held.release(ctx)
	}
}
