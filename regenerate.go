package session

import (
	"context"
	"crypto/rand"
	"time"

	"example.com/session/internal/codec"
)

// A session has one record from its first save until it has ended. The cookie that it accepts changes, see
// codec.Credential:
//
//   - Renewal, from time to time: the cookie's count goes up. The one before is accepted until somebody has shown the
//     new one, and for a window after that. So no answer that gets lost logs anybody out.
//   - Confirmation: the first save by a request that shows the new count begins the window.
//   - Regeneration, when privileges change: the cookie gets another key. The one before is worth nothing, or an attacker
//     who planted it would come along.
//   - The end: a tombstone takes the record's place, so that nothing that is still under way can bring it back.

// A standing is what a record says to the cookie of a request.
type standing byte

const (
	unknown standing = iota // it leads to no session
	reused                  // its count fell behind: somebody has a copy that did not
	rekeyed                 // it has the key before the present one
	ended                   // so has the session
	// From here on it is served.
	current  // it is the one that was issued last
	previous // it is an earlier one that is still accepted
	ahead    // the store has lost the write that issued it
	admitted // it was accepted before
)

func (st standing) served() bool { return st >= current }

// judge returns what the record says to the token, whose key has the hash, in a request that began then. letIn says
// that the session was the request's before: its key counts then, and its count no more.
func (t *timing) judge(e *codec.Envelope, tok *token, hash codec.KeyHash, began int64, letIn bool) standing {
	c := &e.Credential
	switch {
	case e.Kind == codec.Tombstone:
		if letIn || began < e.End.GoneUntil {
			return ended
		}
		return unknown
	case e.Kind != codec.Session:
		return unknown
	case hash != c.Key:
		if letIn || hash == c.Before && began < c.Keyed+t.renewGrace.Milliseconds() {
			return rekeyed
		}
		return unknown
	case tok.count == c.Count:
		return current
	case tok.count > c.Count:
		return ahead
	case tok.count >= c.Floor && (c.Until == 0 || began < c.Until):
		return previous
	case letIn:
		return admitted
	}
	return reused
}

// rekey gives the credential another key.
func rekey(c *codec.Credential, key codec.KeyHash, now int64) {
	c.Before, c.Key = c.Key, key
	c.Floor, c.Until = c.Count, 0
	c.Keyed, c.Issued = now, now
}

// Regenerate gives the session's cookie a new key, to be called whenever the client's privileges change (OWASP Session
// Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"; ASVS 5.0, 7.2.4). The data and the
// ID of the record stay. The old cookie is worth nothing from then on, with no grace: requests in flight that carry it
// get ErrGone if they change anything. A session that is not saved yet has a new key anyway.
func (s *Session) Regenerate() {
	c := s.change()
	defer s.mu.Unlock()
	if !c.anonymous() {
		c.intent.key = true
	}
}

// Destroy ends the session, on the server and in the client, to be called at logout (ASVS 5.0, 7.4.1). Its values are
// gone at once; a value that is set afterwards begins another session. Requests in flight cannot bring it back.
//
// If another request has logged in or called Regenerate meanwhile, the session lives on out of this one's reach, and
// the client gets ErrGone's answer, not one that looks like a logout. If the response's header has left, the session
// ends all the same, and Err tells with ErrHeaderSent that the client keeps a cookie that is worth nothing.
func (s *Session) Destroy() {
	c := s.change()
	defer s.mu.Unlock()
	if c.phase != failed {
		now := c.m.millis()
		c.intent = intent{after: &codec.Body{Created: now, Saved: now}}
	}
}

// newKey returns 128 random bits for a token.
func newKey() (key [keySize]byte) {
	rand.Read(key[:])
	return key
}

// newLogin returns 128 random bits.
func newLogin() (l codec.Login) {
	rand.Read(l[:])
	return l
}

// bury puts a tombstone in the place of the session's record, once: after a conflict it returns that. The
// tombstone stays until no first save of the session can come any more, however late.
func (sl *slot) bury(ctx context.Context, elsewhere bool, write writeID) error {
	now := sl.m.millis()
	end := codec.End{At: now, GoneUntil: now + sl.m.renewGrace.Milliseconds(), Elsewhere: elsewhere}
	e, err := sl.open()
	if err != nil {
		return err
	}
	begun := e.Credential.Keyed // or before that
	stays := max(end.GoneUntil, begun+lateWrites.Milliseconds()) + clockSlack.Milliseconds()
	_, err = sl.save(ctx, codec.EncodeTombstone(sl.id, end, codec.Writes{Before: e.Writes, This: write}), time.UnixMilli(stays), write)
	return err
}

// end ends the session under an ID for somebody who is not its client. matches says whether it is the one that is meant;
// another one is left alone or, with fence set, saved as it is, so that a login under way looks at the index again. It
// reports whether it was this call that ended it.
func (m *Manager) end(ctx context.Context, id ID, fence bool, matches func(*codec.Envelope) bool) (first bool, err error) {
	sl := slot{m: m, id: id}
	if err := sl.look(ctx); err != nil {
		return false, err
	}
	write := newWriteID()
	found, err := sl.retry(ctx, write, func(int) error {
		first = false
		e, err := sl.open()
		switch {
		case err != nil || e.Kind != codec.Session:
			return nil
		case matches(&e):
			err := sl.bury(ctx, true, write)
			first = err == nil
			return err
		case fence:
			return sl.fence(ctx)
		}
		return nil
	})
	return first || found, err
}
