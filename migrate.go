package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A Migration takes over the sessions of the session system that an application used before, so that nobody is
// logged out on the day of the change. It is the application that knows the old system: Load reads one of its
// sessions, End ends it. MIGRATING.md has both for two widely used libraries.
//
// A request that carries no session cookie of the Manager's, or none that leads to a live session, is looked at for
// the old cookie when its handler first uses the session. If Load finds a session behind that, the handler has it
// in its hands, and the commit moves it: the session is stored under a new ID, whose token is derived from a random
// number with the secret and owes nothing to the client; then a mark is stored, by compare-and-swap, under a hash of
// the old cookie's value; then End is called; and the response sets the new cookie and removes the old one.
//
//   - An old cookie moves one session once. Requests that carry it at the same time, in whatever processes, all end
//     up with the same new session, and the changes of all are in it.
//   - For Options.RenewGrace after the move, the old cookie still leads to the new session, for those requests and
//     for a client that the answer did not reach, as an ID that was renewed does. It never leads to a session that was
//     ended or regenerated, by a login for one. After that it is worth nothing, whatever the old system says: see
//     OldSession.Expires.
//   - Whatever fails or dies on the way, the client is left with a cookie that works: the old one until the mark is
//     stored, then the old one or the new one. The handler's changes may be lost, and it is told so as ever.
//   - A handler that panics, or that uses the session for the first time after the response has begun, moves nothing, and
//     nor does one that changes nothing for a client that has hung up. A later request does.
//   - If Load fails, the client gets Options.ErrorHandler's answer, with no cookie set or removed.
//   - If End fails, an Event says so. The old session then stays in its store until it expires there.
//
// Two things are beyond it. Processes of the old version know nothing of the new cookie, so the change has to come
// for all that one client can meet at the same time. And Manager.EndUserSessions and its like reach the sessions that
// have moved: for as long as a Migration is set, it is for the application to end a user's others in the old store,
// or for Load to refuse those that began before the user's last change of password.
type Migration struct {
	// Cookie is the old session cookie: its Name, which must not be that of the Manager's, and the attributes that the
	// old system gives it. An empty Path means "/". Value, Expires and MaxAge are not looked at.
	Cookie http.Cookie
	// Load returns the old session that the request's cookie leads to. It must not be nil. An error that wraps
	// ErrNotFound means that there is none: it expired, or has moved. Nil without an error means more: nobody was ever
	// given this cookie, as where a signature does not fit, and the Manager's store is not asked either. Any other
	// error means that nobody knows. The request's context ends after Options.StoreTimeout. Load must neither read the
	// body nor use the Manager, and is called by several goroutines, also for the same session.
	Load func(r *http.Request) (*OldSession, error)
	// End ends the session behind the request's old cookie in the old system, for good. It is called once the session
	// has moved, or was ended or regenerated instead, and the same rules hold for it. That there is no such session
	// is no error. Nil means that there is nothing to end: the old system keeps its sessions in the cookie.
	End func(r *http.Request) error
}

// An OldSession is what Migration.Load found. One with neither Values nor User is not moved.
type OldSession struct {
	// Values are stored as Session.SetAll would.
	Values map[string]any
	// User is who is logged in, as for Session.SetUser; empty means nobody. The session becomes one of the user's.
	// Options.MaxSessionsPerUser holds for it, and the oldest session ends even with RefuseNewSessions.
	User string
	// AuthenticatedAt is what Session.AuthenticatedAt is to return; zero means that it is not known.
	AuthenticatedAt time.Time
	// Created is when the session began, from which Options.AbsoluteTimeout counts; zero means at the move. A session
	// that the timeout would have ended by now is not moved.
	Created time.Time
	// Remember is for a session that the client asked to be remembered, as for Session.Remember; zero means no.
	Remember time.Duration
	// Expires is from when on the old system would not accept the cookie, however it is used until then. The mark that
	// keeps the cookie from being used again stays in the store until then. Zero means that it is not known, and
	// the mark stays forever. A session that has expired is not moved.
	Expires time.Time
}

// markSlack is how much longer the mark of an old session stays than it has to, for clocks that differ.
const markSlack = time.Hour

// check returns the migration with its defaults filled in, or all that is wrong with it.
func (mg Migration) check(own string) (*Migration, error) {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("session: Options.Migration: "+format, args...))
	}
	if mg.Load == nil {
		fault("there is no Load")
	}
	c := mg.Cookie
	if c.Path == "" {
		c.Path = "/"
	}
	c.Value, c.Quoted, c.MaxAge, c.Expires = "", false, -1, time.Unix(1, 0)
	if err := c.Valid(); err != nil {
		fault("Cookie: %s", strings.TrimPrefix(err.Error(), "http: "))
	}
	if c.Name == own {
		fault("Cookie: %q is the name of the manager's own cookie", own)
	}
	mg.Cookie = c
	return &mg, errors.Join(errs...)
}

// oldCookie returns the value of the old system's cookie, empty if the request has none.
func (x *exchange) oldCookie() string {
	if x.m.migration == nil {
		return ""
	}
	c, err := x.r.Cookie(x.m.migration.Cookie.Name)
	if err != nil {
		return ""
	}
	return c.Value
}

func (x *exchange) loadOld(ctx context.Context) (*OldSession, error) {
	return x.m.migration.Load(x.r.WithContext(ctx))
}

func (x *exchange) endOld(ctx context.Context) error {
	if x.m.migration.End == nil {
		return nil
	}
	return x.m.migration.End(x.r.WithContext(ctx))
}

// setCookie puts x.cookie into the header. Whichever it is, it takes the place of the old system's.
func (x *exchange) setCookie() {
	x.m.cookie.set(x.w.Header(), x.cookie)
	x.tellOuter(x.cookie.Name)
	if x.oldCookie() != "" {
		old := &x.m.migration.Cookie
		Cookie{Name: old.Name}.set(x.w.Header(), old)
		x.tellOuter(old.Name)
	}
}

// unsetCookie takes it out again. What setCookie did to Cache-Control stays.
func (x *exchange) unsetCookie() {
	x.m.cookie.unset(x.w.Header())
	if x.oldCookie() != "" {
		Cookie{Name: x.m.migration.Cookie.Name}.unset(x.w.Header())
	}
}

// worthless reports whether there is nothing to move.
func (o *OldSession) worthless(now time.Time) bool {
	return len(o.Values) == 0 && o.User == "" || !o.Expires.IsZero() && !now.Before(o.Expires)
}

// markExpires returns until when the store has to remember that the session moved or ended, at least until then; the
// zero time for ever.
func (o *OldSession) markExpires(least time.Time) time.Time {
	switch {
	case o.Expires.IsZero():
		return o.Expires
	case o.Expires.After(least):
		least = o.Expires
	}
	return least.Add(markSlack)
}

// An old session has a link, too. Its token is a hash of the old cookie; what is under its ID is the mark that says
// what became of the session. Until there is one, link.old is the session itself, and link.data what would be stored
// of it. So a session that is still to move is live for all that the handler may do to it, and only the commit has
// to know.

// oldLink returns the link of an old cookie. Managers with different cookie names keep apart.
func (m *Manager) oldLink(value string) link {
	names := []string{"session migration", m.cookie.Name, m.migration.Cookie.Name, value}
	l := link{token: sha256.Sum256([]byte(strings.Join(names, "\x00")))}
	l.id = l.token.id()
	return l
}

// loadOld finds the session that the old system's cookie leads to, for a request that no cookie of the manager's leads
// to one. s.mu is held.
func (s *Session) loadOld(ctx context.Context) {
	value := s.origin.oldCookie()
	if value == "" || s.m.off {
		return
	}
	// First the old system and then the mark: who finds a session ended there finds its mark here.
	old, err := s.origin.loadOld(ctx)
	switch {
	case errors.Is(err, ErrNotFound):
		old = nil
	case err != nil:
		s.state = failed
		s.fail(fmt.Errorf("session: loading the session of the old system: %w", err))
		return
	case old == nil:
		return
	}
	l := s.m.oldLink(value)
	rec, err := s.m.load(ctx, l.id)
	marked := !errors.Is(err, ErrNotFound)
	var found decoded
	err = s.m.followFrom(ctx, &l, rec, err, &found)
	switch {
	case err != nil:
		s.state = failed
		s.fail(err)
	case found.kind == kindLive:
		if !bytes.Equal(found.content.binding, s.origin.binding()) {
			s.m.observe(ctx, Event{Kind: EventBinding, ID: l.id})
			return
		}
		s.state = live
		s.link, s.content = l, found.content
		s.todo |= sendCookie
		s.lockImplicitly()
	case marked:
		s.stale = true
		if found.kind == kindRetired {
			s.state, s.replaced = gone, found.regenerated
		}
		s.m.observe(ctx, Event{Kind: EventUnknown, ID: l.id})
	case old != nil && !old.worthless(time.Now()):
		if err := s.prepareMove(l, old); err != nil {
			s.state = failed
			s.fail(err)
			return
		}
		if s.state == live {
			s.lockImplicitly()
		}
	}
}

// prepareMove makes s the old session, unless that has outlived the absolute timeout. s.mu is held.
func (s *Session) prepareMove(l link, old *OldSession) error {
	now := time.Now()
	millis := func(t time.Time, unknown int64) int64 {
		if t.IsZero() {
			return unknown
		}
		return max(0, min(t.UnixMilli(), now.UnixMilli()))
	}
	c := content{
		created: millis(old.Created, now.UnixMilli()),
		saved:   now.UnixMilli(),
		issued:  now.UnixMilli(),
		user:    []byte(old.User),
		binding: s.origin.binding(),
	}
	if old.User != "" {
		c.authenticated = millis(old.AuthenticatedAt, 0)
	}
	switch d := old.Remember; {
	case d == Never:
		c.persistent, c.idle = byte(persistent), -1
	case d != 0:
		c.persistent, c.idle = byte(persistent), max(1, d.Milliseconds())
	}
	// The same for all who move this session, or they would count as different ones of the user's.
	name := sha256.Sum256(append([]byte("session lineage\x00"), l.token[:]...))
	copy(c.lineage[:], name[:])
	addr, agent := s.origin.client()
	c.remoteAddr, c.userAgent = []byte(addr), []byte(agent)
	for key, v := range old.Values {
		data, err := encodeValue(v)
		if err != nil {
			return unencodable(key, err)
		}
		c.values.set(key, data)
	}
	l.expires = s.m.expiry(&c, now)
	if !l.expires.IsZero() && !now.Before(l.expires) {
		return nil
	}
	l.old = old
	l.data = s.m.encodeLive(&l, &c)
	s.link, s.content, s.state = l, c, live
	return nil
}

// stillToMove reports whether s is an old session that the store does not know yet. s.mu is held.
func (s *Session) stillToMove() bool { return s.state == live && s.link.old != nil }

// commitMove moves the session, if the client can still be told the new cookie. s.mu is held.
func (s *Session) commitMove(ctx context.Context, late bool) error {
	switch {
	case late && s.wants():
		return ErrHeaderSent
	case late, !s.wants() && !s.origin.reachable():
		return nil
	}
	return s.move(ctx)
}

// moveNow moves the session, if that is still to be done, for what needs it to be in the store. s.mu is held.
func (s *Session) moveNow(parent context.Context) error {
	if !s.stillToMove() {
		return nil
	}
	ctx := newStoreContext(parent, &s.m.storeLimit)
	defer ctx.cancel()
	return s.move(ctx)
}

// move stores the old session, as it was found, under an ID of this package's, and then the mark that leads there. The
// order matters: what a mark leads to exists, and is never created by who follows it, so that it cannot come
// back either. If another request has stored its mark first, what this one stored is dropped, and it goes where that
// mark leads. The handler's changes are made to the result, and still to be committed. s.mu is held.
func (s *Session) move(ctx context.Context) error {
	m, l := s.m, s.link
	now := time.Now()
	before, err := m.decode(&l, l.data)
	if err != nil {
		return err
	}
	if l.old.worthless(now) { // it has expired, and with it, perhaps, its mark
		s.state = gone
		return nil
	}
	nonce := newMark()
	s.next = &link{token: m.signer.successor(0, &l.token, nonce)}
	s.next.id = s.next.token.id()
	s.content = before.content
	if _, err := s.save(ctx, s.next, now); err != nil {
		s.next = nil
		if errors.Is(err, ErrConflict) {
			err = fmt.Errorf("session: the store reports a conflict under a new ID")
		}
		return err
	}
	if err := m.announce(ctx, &s.content, false, s.next.id); err != nil {
		s.dropNext(ctx)
		if errors.Is(err, ErrGone) { // the user's sessions are being ended, and this is one of them
			s.state = gone
			s.ended = append(s.ended, l)
			err = s.retireEnded(ctx)
		}
		return err
	}
	leads := now.Add(m.renewGrace)
	mark := Record{Expires: l.old.markExpires(leads), Data: encodeMoved(l.id, nonce, s.next.id, leads)}
	err = m.put(ctx, &l, mark, nonce)
	if conflict, ok := errors.AsType[*conflictError](err); ok {
		s.dropNext(ctx)
		var found decoded
		if err := m.followFrom(ctx, &l, conflict.found, conflict.err, &found); err != nil {
			return err
		}
		if found.kind == kindLive && !bytes.Equal(found.content.binding, s.origin.binding()) {
			found = decoded{}
		}
		s.link = l
		s.todo |= sendCookie
		return s.adopt(&found)
	}
	next := s.next
	s.next = nil // if it is not known whether the mark is stored, what it leads to has to stay
	if err != nil {
		return err
	}
	s.link = *next
	s.todo |= sendCookie
	m.observe(ctx, Event{Kind: EventMigrated, ID: s.link.id})
	s.endOld(ctx, l.id)
	return s.rebase(s.content)
}

// endOld ends the session in the old system. Failing at that is no reason to fail the request: the mark stands.
func (s *Session) endOld(ctx context.Context, id ID) {
	if err := s.origin.endOld(ctx); err != nil {
		err = fmt.Errorf("session: ending the session in the old system: %w", err)
		s.m.observe(ctx, Event{Kind: EventLost, ID: id, Op: "migrate", Err: err})
	}
}

// settle moves the session of the request, if that is still to be done, so that the user's index names it.
func (m *Manager) settle(ctx context.Context) error {
	s := m.lookup(ctx)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.moveNow(ctx); err != nil {
		return s.fail(err)
	}
	return nil
}

// encodeMoved returns the Data of a mark that leads from an old session to the one that it became.
func encodeMoved(id ID, nonce []byte, successor ID, until time.Time) []byte {
	b := newData(kindMoved, sealSize+binary.MaxVarintLen64)
	b = append(append(b, nonce...), successor[:]...)
	return checksummed(id, binary.AppendUvarint(b, uint64(max(0, until.UnixMilli()))))
}
