package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"time"
)

// How a session gets out of the store and back into it: load, and commit with all that compare-and-swap asks
// for. What happens to IDs is in regenerate.go.

const (
	// maxTries bounds how often a save is repeated because another process was first. Each try that fails
	// means that somebody else's succeeded, so only a crowd comes near it.
	maxTries = 100
	// maxBackoff bounds the random pause between two tries.
	maxBackoff = 8 * time.Millisecond
	// maxResends bounds how often a save is sent again after its reply was lost.
	maxResends = 2
	// rememberWrites is for how long a record remembers a write, beyond the time that the writer has for it:
	// enough for clocks that differ.
	rememberWrites = time.Minute
	// lateWrites is for how long a record that can begin anew, at version 1, stays after its last use: a save that
	// comes later than that, from a process that stood still, could be taken for one of the record's next life.
	lateWrites = time.Hour
)

// load finds the session that the request's cookies lead to. s.mu is held.
func (s *Session) load() {
	ctx := newStoreContext(s.origin.context(), &s.m.storeLimit)
	defer ctx.cancel()
	ended := false
	for pos := (cookiePos{}); s.origin.candidate(&pos, &s.link); {
		s.link.id = s.link.token.id()
		s.todo = 0
		var found decoded
		err := s.follow(ctx, &found)
		switch {
		case err != nil:
			s.state = failed
			s.fail(err)
			return
		case found.kind == kindLive:
			if !bytes.Equal(found.content.binding, s.origin.binding()) {
				// It may be the owner's, so it stays as it is, and so does the client's cookie.
				s.m.observe(ctx, Event{Kind: EventBinding, ID: s.link.id})
				continue
			}
			s.state = live
			s.content = found.content
			s.lockImplicitly()
			return
		}
		s.stale = true
		ended = ended || found.kind == kindRetired
		s.replaced = s.replaced || found.regenerated
		reason := "expired, or ended before" // or the store has lost it
		if found.kind == kindRetired {
			reason = "ended"
		}
		s.m.observe(ctx, Event{Kind: EventUnknown, ID: s.link.id, Reason: reason})
	}
	s.todo = 0
	s.state = fresh
	if ended {
		s.state = gone
	}
	s.begin()
	if !ended {
		s.loadOld(ctx)
	}
}

// begin makes the session a new one. s.mu is held.
func (s *Session) begin() {
	now := time.Now().UnixMilli()
	s.link = link{}
	s.content = content{created: now, saved: now, issued: now}
}

// reload looks at the record again and makes the handler's changes to what it finds. s.mu is held.
func (s *Session) reload(parent context.Context) error {
	id, version := s.link.id, s.link.version
	if err := s.refresh(parent); err != nil {
		return err
	}
	if s.held == nil || s.link.id == id && s.link.version == version {
		return nil
	}
	ctx := newStoreContext(parent, &s.m.storeLimit)
	defer ctx.cancel()
	return s.held.check(ctx, true) // it may have been the next holder who saved
}

// refresh is reload without a look at the lock. s.mu is held.
func (s *Session) refresh(parent context.Context) error {
	ctx := newStoreContext(parent, &s.m.storeLimit)
	defer ctx.cancel()
	var found decoded
	if err := s.follow(uncached(ctx), &found); err != nil {
		return err
	}
	return s.adopt(&found)
}

// follow brings s.link up to date, and has the client follow with its cookie. s.mu is held.
func (s *Session) follow(ctx context.Context, found *decoded) error {
	rec, err := s.m.load(ctx, s.link.id)
	return s.followFrom(ctx, rec, err, found)
}

// followFrom is follow for a record that was loaded already. s.mu is held.
func (s *Session) followFrom(ctx context.Context, rec Record, err error, found *decoded) error {
	before := s.link.token
	err = s.m.followFrom(ctx, &s.link, rec, err, found)
	if s.link.token != before {
		s.todo |= sendCookie
	}
	return err
}

// adopt makes the handler's changes to the record that s.link leads to. s.mu is held.
func (s *Session) adopt(found *decoded) error {
	if found.kind != kindLive {
		s.state, s.replaced = gone, found.regenerated
		return nil
	}
	return s.rebase(found.content)
}

// A cookieAction is what a commit asks for in the response's header.
type cookieAction byte

const (
	keepCookie cookieAction = iota
	setCookie
	removeCookie
)

// commit brings into the store what the handler did. late means that no cookie can be set any more. s.mu is
// held.
func (s *Session) commit(parent context.Context, late bool) (cookieAction, error) {
	if s.state == unloaded || s.err != nil {
		return keepCookie, s.err
	}
	now := time.Now()
	if s.idleAt(now) {
		s.changes = nil
		return keepCookie, nil
	}
	ctx := newStoreContext(parent, &s.m.storeLimit)
	defer ctx.cancel()
	var err error
	if s.held != nil {
		err = s.held.check(ctx, false)
	}
	if err == nil {
		err = s.retireEnded(ctx)
	}
	if err == nil {
		switch s.state {
		case fresh:
			err = s.commitFresh(ctx, late)
		case live:
			if s.stillToMove() {
				err = s.commitMove(ctx, late)
			}
			if err == nil && s.state == live && !s.stillToMove() {
				err = s.commitLive(ctx, now, late)
			}
		}
	}
	switch {
	case err != nil:
	case s.state == gone && s.wants():
		s.m.observe(ctx, Event{Kind: EventStaleWrite, ID: s.link.id, Err: ErrGone})
		err = ErrGone
	case late && s.todo&dropCookie != 0:
		err = ErrHeaderSent // the session has ended all the same
	}
	todo := s.todo
	s.changes, s.todo = nil, 0
	switch {
	case err != nil:
		return keepCookie, s.fail(err)
	case s.state == live && todo&sendCookie != 0:
		return setCookie, nil
	case s.state == fresh && todo&dropCookie != 0:
		return removeCookie, nil
	}
	return keepCookie, nil
}

// confirm has the next commit look whether a session that was saved before is still there.
func (s *Session) confirm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == live {
		s.todo |= sendCookie
	}
}

// idleAt reports whether a commit would find nothing to do: the usual case for a request that only reads, kept
// short. s.mu is held.
func (s *Session) idleAt(now time.Time) bool {
	if s.changed() || len(s.ended) > 0 || s.todo != 0 || s.stillToMove() {
		return false
	}
	return s.state != live || !s.renewalDue(now) && !s.touchDue(now)
}

// commitFresh stores a session for the first time, if there is anything to store.
func (s *Session) commitFresh(ctx context.Context, late bool) error {
	s.todo &^= regenerate // a new session gets a new ID anyway
	if s.content.empty() || s.m.off {
		return nil
	}
	if late {
		return ErrHeaderSent
	}
	addr, agent := s.origin.client()
	s.content.remoteAddr, s.content.userAgent = []byte(addr), []byte(agent)
	s.content.binding = s.origin.binding()
	if s.content.lineage == (lineage{}) {
		rand.Read(s.content.lineage[:])
	}
	if err := s.lockNew(ctx); err != nil {
		return err
	}
	s.link = link{token: newToken()}
	s.link.id = s.link.token.id()
	now := time.Now()
	s.content.issued = now.UnixMilli()
	if _, err := s.save(ctx, &s.link, now); err != nil {
		return err
	}
	if err := s.m.announce(ctx, &s.content, true, s.link.id); err != nil {
		s.next = &s.link
		s.dropNext(ctx)
		return err
	}
	s.state = live
	s.todo |= sendCookie
	s.m.observe(ctx, Event{Kind: EventCreated, ID: s.link.id})
	return nil
}

// commitLive saves the changes to a session that the store knows.
func (s *Session) commitLive(ctx context.Context, now time.Time, late bool) error {
	renew := !late && s.renewalDue(now)
	if !s.wants() && !renew {
		if s.touch(ctx, now); late || s.todo&sendCookie == 0 {
			return nil
		}
		// A cookie is to be sent, and nothing was written: make sure that it is not that of a session that
		// ended meanwhile, or it might take the place of a newer one.
		if err := s.reload(ctx); err != nil || s.state != live || !s.changed() {
			return err
		}
	}
	if late && s.todo&regenerate != 0 {
		return ErrHeaderSent
	}
	place := s.link.id // the ID may change
	handed, err := s.m.queues.enter(ctx, place)
	if err != nil {
		return err
	}
	handed.yield(ctx)
	handOver := handover{streak: handed.streak + 1, began: time.Now()}
	defer func() {
		s.m.queues.leave(place, handOver)
	}()
	defer s.dropNext(ctx)
	if s.held != nil {
		// The lease may have run out in the queue, and what is handed over may hold what the next holder saved.
		if err := s.held.check(ctx, handed.saved.Version > s.link.version); err != nil {
			return err
		}
	}
	if rec := handed.saved; rec.Version > s.link.version {
		// Another request of this process was just here, and left what it saved.
		if d, err := s.m.decode(&s.link, rec.Data); err == nil {
			s.link.version, s.link.cas, s.link.expires, s.link.data = rec.Version, 0, rec.Expires, rec.Data
			if err := s.rebase(d.content); err != nil {
				return err
			}
		}
	}

	for try := 1; ; try++ {
		id := s.link.id
		var saved Record
		var err error
		switch {
		case s.content.empty() && s.wants() && !late: // late, when the cookie has to stay, so may the session
			err = s.commitEmpty(ctx)
		case s.todo&regenerate != 0:
			err = s.commitRegenerate(ctx, now)
		case renew:
			err = s.commitRenewal(ctx, now)
		case s.changed():
			saved, err = s.save(ctx, &s.link, now)
			if err == nil && s.link.overtaken { // the session may have ended since
				s.changes = nil
				return s.reload(ctx)
			}
		}
		if err == nil {
			handOver.saved = saved
			if try > 1 {
				s.m.observe(ctx, Event{Kind: EventConflict, ID: id, Count: try})
			}
			return nil
		}
		conflict, ok := errors.AsType[*conflictError](err)
		if !ok {
			if errors.Is(err, ErrGone) { // the index says that the session is to end
				s.state = gone
				_, _, err := s.m.end(ctx, &s.link)
				return err
			}
			if renew && !s.wants() && s.link.id == id {
				// Renewal has not begun: a store that cannot save is no reason to fail who only reads. But it is one
				// to set no cookie: the session may have ended.
				s.todo &^= sendCookie
				return nil
			}
			return err
		}
		if s.held != nil {
			if err := s.held.check(ctx, true); err != nil {
				return err
			}
		}
		if try >= maxTries {
			return err
		}
		rec, recErr := conflict.found, conflict.err
		if try > 1 {
			if !pause(ctx, try) {
				return err
			}
			rec, recErr = s.m.load(ctx, s.link.id) // what was found before the pause is history
		}
		var found decoded
		if err := s.followFrom(ctx, rec, recErr, &found); err != nil {
			return err
		}
		if err := s.adopt(&found); err != nil || s.state == gone {
			return err
		}
		now = time.Now()
		renew = !late && s.renewalDue(now)
		if !s.wants() && !renew {
			return nil // somebody else renewed
		}
	}
}

// touch moves the session's expiry, if that is worth a write.
func (s *Session) touch(ctx context.Context, now time.Time) {
	if !s.touchDue(now) {
		return
	}
	expires := s.m.expiry(&s.content, now)
	rec := Record{Version: s.link.version, Expires: expires, Data: s.link.data, cas: s.link.cas}
	start := s.m.startTimer()
	err := Touch(ctx, s.m.store, s.link.id, rec)
	s.m.observeStore(ctx, start, "touch", s.link.id, err)
	switch {
	case err == nil:
		s.link.expires = expires
		s.link.cas = 0
		if s.persistentCookie() {
			s.todo |= sendCookie
		}
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		// Somebody else saved, renewed or ended the session. There is nothing of ours in it to save.
	default:
		s.m.observe(ctx, Event{Kind: EventLost, ID: s.link.id, Op: "touch", Err: err})
	}
}

// save stores s.content under l, as the record that follows the version there. On success l is up to date.
func (s *Session) save(ctx context.Context, l *link, now time.Time) (Record, error) {
	c := s.content
	write := newMark()
	c.remember(write, now.UnixMilli(), s.m.rememberFor())
	c.saved = now.UnixMilli()
	rec := Record{Version: l.version, Expires: s.m.expiry(&c, now), cas: l.cas, Data: s.m.encodeLive(l, &c)}
	if n := len(rec.Data); n > s.m.maxSize {
		return Record{}, tooLarge(n, s.m.maxSize)
	}
	if err := s.m.put(ctx, l, rec, write); err != nil {
		return Record{}, err
	}
	moved := !rec.Expires.Equal(l.expires)
	rec.Version++
	rec.cas = 0
	l.version, l.cas, l.expires, l.data = rec.Version, 0, rec.Expires, rec.Data
	s.content = c
	if moved && s.persistentCookie() {
		s.todo |= sendCookie
	}
	return rec, nil
}

// touchDue reports whether the expiry that this use leads to is worth a write. s.mu is held.
func (s *Session) touchDue(now time.Time) bool {
	unrecorded := time.Duration(now.UnixMilli()-s.lastUsed()) * time.Millisecond
	return unrecorded >= s.m.touchInterval(&s.content) && s.m.expiry(&s.content, now).After(s.link.expires)
}

// lastUsed returns when the session was last used before this request, in Unix milliseconds. s.mu is held.
func (s *Session) lastUsed() int64 {
	if s.state != live {
		return s.content.saved
	}
	return s.m.lastUsed(&s.content, s.link.expires)
}

// A conflictError is an ErrConflict with what a second look at the record found.
type conflictError struct {
	found Record
	err   error // of the second look
}

func (e *conflictError) Error() string { return ErrConflict.Error() }
func (e *conflictError) Unwrap() error { return ErrConflict }

// put is Store.Save for a record that bears the mark of this write. Neither the store nor a client library that
// sends again by itself can tell a conflict with another writer from one with this very save, whose reply was
// lost; the mark can. An error that is no *conflictError leaves open whether the record was saved.
func (m *Manager) put(ctx context.Context, l *link, rec Record, write []byte) error {
	id := l.id
	l.overtaken = false
	for sent := 1; ; sent++ {
		start := m.startTimer()
		err := m.store.Save(ctx, id, rec)
		m.observeStore(ctx, start, "save", id, err)
		if err == nil || errors.Is(err, ErrTooLarge) {
			return err
		}
		found, lookErr := m.load(ctx, id)
		if lookErr == nil {
			if bytes.Equal(found.Data, rec.Data) {
				return nil
			}
			if d, err := m.decode(l, found.Data); err == nil && d.wrote(write) {
				l.overtaken = true
				return nil
			}
		}
		switch {
		case errors.Is(err, ErrConflict):
			return &conflictError{found, lookErr}
		case lookErr != nil && !errors.Is(lookErr, ErrNotFound), sent > maxResends:
			return err
		case found.Version != rec.Version:
			// Others have saved since. Whether this write was among them is known only if the record
			// remembers all of them.
			if lookErr != nil || found.Version-rec.Version < recentWrites {
				return &conflictError{found, lookErr}
			}
			return err
		}
		// Nothing was saved. Should the lost request still arrive, it is this one's conflict.
		rec.cas = found.cas
	}
}

// load is Store.Load, observed.
func (m *Manager) load(ctx context.Context, id ID) (Record, error) {
	start := m.startTimer()
	rec, err := m.store.Load(ctx, id)
	m.observeStore(ctx, start, "load", id, err)
	return rec, err
}

func (m *Manager) startTimer() time.Time {
	if m.observer == nil {
		return time.Time{}
	}
	return time.Now()
}

func (m *Manager) observeStore(ctx context.Context, start time.Time, op string, id ID, err error) {
	if m.observer != nil {
		m.observer(ctx, Event{Kind: EventStore, Op: op, ID: id, Duration: time.Since(start), Err: err})
	}
}

// rememberFor returns for how long a record remembers a write.
func (m *Manager) rememberFor() time.Duration { return m.storeLimit.timeout + rememberWrites }

// newMark returns the mark of a write.
func newMark() []byte {
	b := make([]byte, markSize)
	rand.Read(b)
	return b
}

// pause waits for a random time before another try, and reports false if ctx ended.
func pause(ctx context.Context, try int) bool {
	limit := min(maxBackoff, time.Millisecond<<min(try, 8)/4)
	timer := time.NewTimer(mathrand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
