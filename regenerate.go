package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// The life of an ID. It begins when a session is stored for the first time, and ends in one of three ways:
//
//   - Renewal, from time to time: the record is sealed. For a grace period whoever holds the old token is led
//     on to the successor, whose token the server derives from the old one. Parallel requests all end up there.
//   - Regeneration, when privileges change: a record with a token that has nothing to do with the old one takes
//     over, and the old one is retired. It leads nowhere, or an attacker who planted it would come along.
//   - Destruction: the record is retired.
//
// A retired ID keeps a mark in the store, so that nothing that is still under way can bring it back.

const (
	// maxRetired bounds how long the mark of a retired ID stays.
	maxRetired = 24 * time.Hour
	// maxHops bounds how many renewals are followed: far more than fit into a grace period that makes sense.
	maxHops = 64
)

// Regenerate gives the session a new ID, to be called whenever the client's privileges change (OWASP Session
// Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"; ASVS 5.0, 7.2.4). The data stay.
// The old ID is worth nothing from then on, with no grace: requests in flight that carry it get ErrGone if they
// change anything. A session that is not saved yet gets a new ID anyway.
func (s *Session) Regenerate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.state == live || s.state == gone {
		s.todo |= regenerate
	}
}

// Destroy ends the session, on the server and in the client, to be called at logout (ASVS 5.0, 7.4.1). What it
// held is gone at once; what is set afterwards begins another session. Requests in flight cannot bring it back.
// If another request has regenerated the ID meanwhile, the session lives on out of this one's reach, and the client
// gets ErrGone's answer, not one that looks like a logout.
// If the response's header has left, the session ends all the same, and Err tells with ErrHeaderSent that the
// client keeps a cookie that is worth nothing.
func (s *Session) Destroy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	s.changes = nil
	s.todo = 0
	switch s.state {
	case live:
		s.ended = append(s.ended, s.link)
		s.todo = dropCookie
		s.state = fresh
	case gone:
		if s.replaced {
			s.todo = endReplaced
		}
	case failed:
		return
	}
	s.begin()
}

// renewalDue reports whether it is time for the periodic change of the ID. A client that may not get the cookie
// keeps its ID, or it would be logged out when the grace period ends. s.mu is held.
func (s *Session) renewalDue(now time.Time) bool {
	return s.m.renewEvery > 0 && now.UnixMilli()-s.content.issued >= s.m.renewEvery.Milliseconds() && s.origin.reachable()
}

// followFrom finds the live record that l leads to, over sealed ones, and brings l up to date. rec and err are
// what loading the record under l.id gave. What it sets d to is of kind kindLive, or kindRetired if the session ended
// a moment ago, or of no kind if there is none.
func (m *Manager) followFrom(ctx context.Context, l *link, rec Record, err error, d *decoded) error {
	for range maxHops {
		*d = decoded{}
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.decodeInto(d, l, rec.Data); err != nil {
			m.observe(ctx, Event{Kind: EventDamaged, ID: l.id, Err: err})
			*d = decoded{}
			return nil
		}
		if d.kind == kindLive {
			l.version, l.cas, l.expires, l.data = rec.Version, rec.cas, rec.Expires, rec.Data
			return nil
		}
		if (d.kind == kindRetired || d.kind == kindMoved) && time.Now().UnixMilli() >= d.goneUntil {
			*d = decoded{}
			return nil
		}
		if d.kind == kindRetired {
			return nil
		}
		next, ok := m.successor(l, d)
		if !ok { // sealed under a secret that is no longer known
			*d = decoded{}
			return nil
		}
		*l = next
		rec, err = m.load(ctx, l.id)
		if errors.Is(err, ErrNotFound) && d.kind == kindSealed {
			rec, err = m.createSuccessor(ctx, l, &d.content)
		}
	}
	*d = decoded{}
	return fmt.Errorf("session: more than %d renewals lead on from one ID", maxHops)
}

// successor returns where a sealed record leads to.
func (m *Manager) successor(l *link, d *decoded) (link, bool) {
	for key := range m.signer.keys { // usually the one that verified the client's token
		next := link{token: m.signer.successor((l.key+key)%len(m.signer.keys), &l.token, d.nonce)}
		if next.id = next.token.id(); next.id == d.successor {
			return next, true
		}
	}
	return link{}, false
}

// createSuccessor stores the record that a sealed one leads to, if nobody else did so first, and returns what is
// there then. All who follow the same seal store the same.
func (m *Manager) createSuccessor(ctx context.Context, l *link, c *content) (Record, error) {
	rec := Record{Expires: m.expiry(c, time.UnixMilli(c.saved)), Data: m.encodeLive(l, c)}
	if !rec.Live(time.Now()) {
		return Record{}, ErrNotFound
	}
	for sent := 1; ; sent++ {
		start := m.startTimer()
		err := m.store.Save(ctx, l.id, rec)
		m.observeStore(ctx, start, "save", l.id, err)
		if err == nil {
			rec.Version = 1
			return rec, nil
		}
		// Another one was first, or this one was and the reply is lost: it makes no difference.
		found, lookErr := m.load(ctx, l.id)
		switch {
		case lookErr == nil, errors.Is(err, ErrConflict):
			return found, lookErr
		case !errors.Is(lookErr, ErrNotFound), sent > maxResends:
			return Record{}, err
		}
	}
}

// commitRenewal seals the record with the changes in it and creates its successor. s.mu is held.
func (s *Session) commitRenewal(ctx context.Context, now time.Time) error {
	m, old := s.m, s.link
	write := newMark()
	c := s.content
	c.remember(write, now.UnixMilli(), m.rememberFor())
	c.saved, c.issued = now.UnixMilli(), now.UnixMilli()
	next := link{token: m.signer.successor(old.key, &old.token, write)}
	next.id = next.token.id()
	sealed := Record{
		Version: old.version,
		cas:     old.cas,
		Expires: earlier(now.Add(m.renewGrace), m.expiry(&c, now)),
		Data:    m.encodeSealed(&old, &c, write, next.id),
	}
	if n := len(sealed.Data) - sealSize; n > m.maxSize { // what a seal adds is not the application's
		return tooLarge(n, m.maxSize)
	}
	if err := m.announce(ctx, &c, false, old.id, next.id); err != nil {
		return err
	}
	ctx, done := m.inTime(ctx)
	defer done()
	if err := m.put(ctx, &old, sealed, write); err != nil {
		return err
	}
	s.content, s.changes = c, nil // whatever comes now, they are saved
	s.link = next
	rec, err := m.createSuccessor(ctx, &s.link, &c)
	var found decoded
	if err := m.followFrom(ctx, &s.link, rec, err, &found); err != nil { // others may have gone on from there
		return err
	}
	if found.kind != kindLive { // or ended the session
		s.state = gone
		return nil
	}
	s.content = found.content
	s.todo |= sendCookie
	m.observe(ctx, Event{Kind: EventRenewed, ID: old.id, Successor: next.id})
	return nil
}

// commitRegenerate stores the session under a new ID and retires the old one. On a conflict it is called again,
// and updates what it stored. s.mu is held.
func (s *Session) commitRegenerate(ctx context.Context, now time.Time) error {
	if s.next == nil {
		s.next = &link{token: newToken()}
		s.next.id = s.next.token.id()
	}
	s.content.issued = now.UnixMilli()
	if err := s.lockNew(ctx); err != nil {
		return err
	}
	if _, err := s.save(ctx, s.next, now); err != nil {
		if conflict, ok := errors.AsType[*conflictError](err); ok {
			d, decodeErr := s.m.decode(s.next, conflict.found.Data)
			if conflict.err == nil && decodeErr == nil && d.kind == kindRetired { // the index names it since the last try
				return ErrGone
			}
			err = fmt.Errorf("session: the store reports a conflict under a new ID %v", s.next.id)
		}
		return err
	}
	before, err := s.m.decode(&s.link, s.link.data)
	if err != nil {
		return err
	}
	sameUser := bytes.Equal(before.content.user, s.content.user) && before.content.lineage == s.content.lineage
	ids := []ID{s.next.id}
	if sameUser {
		ids = []ID{s.link.id, s.next.id}
	}
	if err := s.m.announce(ctx, &s.content, !sameUser, ids...); err != nil {
		return err
	}
	ctx, done := s.m.inTime(ctx)
	defer done()
	if err := s.m.retire(ctx, &s.link, true); err != nil {
		return err
	}
	if !sameUser {
		s.m.forget(ctx, &before.content)
	}
	old := s.link
	s.link, s.next = *s.next, nil
	s.todo = s.todo&^regenerate | sendCookie
	s.renamed = true
	s.m.observe(ctx, Event{Kind: EventRegenerated, ID: old.id, Successor: s.link.id})
	return nil
}

// dropNext removes what a regeneration that came to nothing stored. Nobody ever saw its token. s.mu is held.
func (s *Session) dropNext(ctx context.Context) {
	if s.next != nil && s.next.version > 0 {
		ctx, done := s.m.inTime(ctx)
		defer done()
		if err := s.m.store.Delete(ctx, s.next.id); err != nil {
			s.m.observe(ctx, Event{Kind: EventStore, Op: "delete", ID: s.next.id, Err: err})
		}
		next, err1 := s.m.decode(s.next, s.next.data)
		before, err2 := s.m.decode(&s.link, s.link.data)
		if err1 == nil && err2 == nil && next.content.lineage != before.content.lineage {
			s.m.forget(ctx, &next.content) // a login, which may have been announced
		}
	}
	s.next = nil
}

// commitEmpty removes a session in which nothing is left. s.mu is held.
func (s *Session) commitEmpty(ctx context.Context) error {
	if err := s.m.retire(ctx, &s.link, false); err != nil {
		return err
	}
	s.m.observe(ctx, Event{Kind: EventEnded, ID: s.link.id, Reason: "empty"})
	s.m.forgetRecord(ctx, &s.link)
	s.state = fresh
	s.begin()
	s.todo = dropCookie
	return nil
}

// retireEnded retires the sessions that the handler destroyed. s.mu is held.
func (s *Session) retireEnded(ctx context.Context) error {
	for len(s.ended) > 0 {
		found, first, err := s.m.end(ctx, &s.ended[0])
		if err != nil {
			return err
		}
		if !first { // another request was, and the client may have a newer cookie already
			s.todo &^= dropCookie
			s.state = gone
		}
		if found.regenerated {
			s.todo |= endReplaced
		}
		if first {
			s.m.observe(ctx, Event{Kind: EventEnded, ID: s.ended[0].id, Reason: "destroyed"})
			s.m.forgetRecord(ctx, &s.ended[0])
			if s.ended[0].old != nil {
				s.endOld(ctx, s.ended[0].id)
			}
		}
		s.ended = s.ended[1:]
	}
	return nil
}

// end retires the live record that l leads to, wherever it has gone meanwhile. If another was first, it returns
// what it found in its place.
func (m *Manager) end(ctx context.Context, l *link) (found decoded, first bool, err error) {
	for try := 1; ; try++ {
		err := m.retire(ctx, l, false)
		if _, ok := errors.AsType[*conflictError](err); !ok {
			return decoded{}, err == nil, err
		}
		if try >= maxTries || !pause(ctx, try) {
			return decoded{}, false, err
		}
		rec, err := m.load(ctx, l.id) // what was found before the pause is history
		if err := m.followFrom(ctx, l, rec, err, &found); err != nil || found.kind != kindLive {
			return found, false, err
		}
	}
}

// retire puts the mark of an ended session in place of the record, by compare-and-swap. The mark stays for as
// long as the session could have lived: by then, whatever a paused process still sends has expired too.
func (m *Manager) retire(ctx context.Context, l *link, regenerated bool) error {
	now := time.Now()
	goneUntil := now.Add(m.renewGrace)
	stays := now.Add(maxRetired)
	if !l.expires.IsZero() && l.expires.Before(stays) {
		stays = l.expires
	}
	if stays.Before(goneUntil) {
		stays = goneUntil
	}
	if l.old != nil {
		stays = l.old.markExpires(goneUntil)
	}
	write := newMark()
	mark := Record{Version: l.version, cas: l.cas, Expires: stays}
	// It remembers the writes before it, for a writer whose reply was lost.
	var c content
	if d, err := m.decode(l, l.data); err == nil {
		c = d.content
	}
	c.remember(write, now.UnixMilli(), m.rememberFor())
	mark.Data = encodeRetired(l.id, c.writes, goneUntil, regenerated)
	return m.put(ctx, l, mark, write)
}

// earlier returns the earlier of two times, of which the second may be zero for never.
func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
