package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"example.com/session/internal/codec"
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
// for all that one client can meet at the same time. And Manager.EndSessions reaches the sessions that
// have moved: for as long as a Migration is set, it is for the application to end a user's others in the old store,
// or for Load to refuse those that began before the user's last change of password.
type Migration struct {
	// Cookie is the old session cookie: its Name, which must not be that of the Manager's, and the attributes that the
	// old system gives it. An empty Path means "/". Value, Expires and MaxAge are not looked at.
	Cookie http.Cookie
	// Load returns the old session that the request's cookie leads to. It must not be nil. Return an error that wraps
	// ErrNotFound if there is none: it expired, or has moved. Return nil, nil for a forged cookie, as where a signature
	// does not fit: then the Manager's store is not asked either. Any other error means that nobody knows. The request's
	// context ends after Options.StoreTimeout. Load must neither read the body nor use the Manager, and is called by
	// several goroutines, also for the same session.
	Load func(r *http.Request) (*OldSession, error)
	// End ends the session behind the request's old cookie in the old system, for good. It is called once the session
	// has moved, or was ended or regenerated instead, and the same rules hold for it. A missing session
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
	// Remember is for a session that the client asked to be remembered, as for Session.Remember; zero means no. What
	// Session.SetIdleTimeout refuses fails the request.
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
	wrong := cookieFaults(c.Name, c.Path, c.Domain)
	for _, text := range wrong {
		fault("Cookie: %s", text)
	}
	if err := c.Valid(); err != nil && len(wrong) == 0 {
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
	if x.m.migration == nil || x.inHeader {
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

// worthless reports whether there is nothing to move.
func (o *OldSession) worthless(now time.Time) bool {
	return len(o.Values) == 0 && o.User == "" || !o.Expires.IsZero() && !now.Before(o.Expires)
}

// markExpires returns until when the store has to remember that the session moved or ended, at least until then; the
// zero time for ever.
func (o *OldSession) markExpires(least time.Time) time.Time {
	switch {
	case o.Expires.IsZero(), o.Expires.Sub(least) > longest:
		return time.Time{}
	case o.Expires.After(least):
		least = o.Expires
	}
	return least.Add(markSlack)
}

// oldID returns where the mark of an old session is, by its cookie. Managers with different cookie names keep apart.
func (m *Manager) oldID(value string) ID {
	name := sha256.Sum256(codec.Joined("session migration", m.cookie.Name, m.migration.Cookie.Name, value))
	return sha256.Sum256(name[:])
}

// loadOld finds the session that the old system's cookie leads to, for a request that no cookie of the manager's leads
// to one.
func (c *core) loadOld(ctx context.Context) {
	value := c.origin.oldCookie()
	if value == "" || c.m.off {
		return
	}
	// First the old system and then the mark: whoever finds a session ended there finds its mark here.
	old, err := c.origin.loadOld(ctx)
	switch {
	case errors.Is(err, ErrNotFound):
		old = nil
	case err != nil:
		c.phase = failed
		c.fail(fmt.Errorf("session: loading the session of the old system: %w", err))
		return
	case old == nil:
		return
	}
	mark := slot{m: c.m, id: c.m.oldID(value)}
	err = mark.look(ctx)
	switch {
	case err != nil:
	case mark.rec.Version > 0:
		err = c.followMark(ctx, &mark)
	case old != nil && !old.worthless(c.m.now()):
		err = c.prepareMove(mark, old)
	}
	if err != nil {
		c.phase = failed
		c.fail(err)
		return
	}
	if c.phase == served || c.phase == unmoved {
		c.lockImplicitly()
	}
}

// followMark finds what became of an old session that has a mark.
func (c *core) followMark(ctx context.Context, mark *slot) error {
	e, err := mark.open()
	if err != nil {
		c.m.observe(ctx, Event{Kind: EventDamaged, ID: mark.id, Err: err})
	}
	found := place{phase: visitor}
	if e.Kind == codec.Tombstone {
		c.env = e
		if c.began < e.End.GoneUntil {
			found = c.m.stand(ended, &e, c.began, false)
		}
	}
	if e.Kind == codec.Moved && c.began < e.Move.Until {
		for secret := range c.m.signer.keys { // usually the one that signs
			t := c.m.signer.derived(secret, mark.id, e.Move.Nonce[:])
			if err := c.find(WithoutCache(ctx), &t); err != nil {
				return err
			}
			if c.phase == served {
				return nil
			}
			if c.phase != visitor {
				found, c.own = c.place, c.slot.id
			}
		}
	} else {
		c.m.observe(ctx, Event{Kind: EventUnknown, ID: mark.id, Reason: ReasonEnded})
	}
	if c.own == (ID{}) {
		c.own = mark.id
	}
	c.stale = true
	c.visit(found)
	return nil
}

// prepareMove makes the request's session the old one, unless that has outlived the absolute timeout.
func (c *core) prepareMove(mark slot, old *OldSession) error {
	now := c.m.millis()
	millis := func(t time.Time, unknown int64) int64 {
		if t.IsZero() {
			return unknown
		}
		return max(0, min(t.UnixMilli(), now))
	}
	b := codec.Body{Created: millis(old.Created, now), Saved: now, User: []byte(old.User), Binding: c.origin.binding()}
	if old.User != "" {
		b.Authenticated = millis(old.AuthenticatedAt, 0)
	}
	if old.Remember != 0 {
		idle, err := idleMillis(old.Remember)
		if err != nil {
			return err
		}
		b.Persistence, b.Idle = codec.Persistent, idle
		c.adviseIdle(old.Remember)
	}
	addr, agent := c.origin.client()
	b.RemoteAddr, b.UserAgent = []byte(addr), []byte(agent)
	var list []codec.Change
	for key, v := range old.Values {
		data, err := codec.EncodeValue(v)
		if err != nil {
			return unencodable(key, err)
		}
		list = append(list, codec.Change{Key: key, Data: data})
	}
	b.Values = b.Values.With(&codec.Changes{List: list})
	expires := c.m.expiry(&b, now)
	if !expires.IsZero() && expires.UnixMilli() <= now {
		return nil
	}
	c.place, c.old, c.slot, c.body = place{phase: unmoved}, old, mark, b
	return nil
}

// moveNow moves the session, if that is still to be done, for what needs it to be in the store.
func (c *core) moveNow(parent context.Context) error {
	if c.phase != unmoved {
		return nil
	}
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	return c.move(ctx)
}

// move stores the old session, as it was found, and then the mark that leads there. The order matters: what a mark
// leads to exists, and is never created by whoever follows it, so that it cannot come back either. If another request
// has stored its mark first, what this one stored is dropped, and it goes where that mark leads. The handler's changes
// are made to the result, and still to be committed.
func (c *core) move(ctx context.Context) error {
	m, now, old, mark := c.m, c.m.millis(), c.old, c.slot
	if old.worthless(m.now()) { // it has expired, and with it, perhaps, its mark
		c.own = mark.id
		c.visit(place{closed, true})
		return nil
	}
	var nonce [codec.NonceSize]byte
	rand.Read(nonce[:])
	d := newReading(m.signer.derived(0, mark.id, nonce[:]), c.body, now)
	stored := slot{m: m, id: d.token.id()}
	if len(d.body.User) > 0 { // the same for all who move this session, or they would count as different ones of the user's
		login := sha256.Sum256(codec.Joined("session login", string(mark.id[:])))
		copy(d.env.Credential.Login[:], login[:])
	}
	if _, err := m.write(ctx, &stored, &d, &codec.Changes{}, now, newWriteID()); err != nil {
		return newIDConflict(err)
	}
	if err := c.register(ctx, &d, stored.id); err != nil {
		c.drop(ctx, &d, stored.id)
		if errors.Is(err, errEnding) { // the user's sessions are being ended, and this is one of them
			err = c.buryOld(ctx, ReasonRevoked, newWriteID())
			if err == nil && c.phase == visitor {
				c.own, c.place, c.lost = mark.id, place{phase: revoked}, true
			}
		}
		return err
	}
	write, leads := newWriteID(), time.UnixMilli(now).Add(m.renewGrace)
	data := codec.EncodeMoved(mark.id, codec.Move{Nonce: nonce, Until: leads.UnixMilli()}, codec.Writes{This: write})
	_, err := mark.save(ctx, data, old.markExpires(leads), write)
	switch {
	case errors.Is(err, ErrConflict):
		c.drop(ctx, &d, stored.id)
		return c.goAlong(ctx, &mark)
	case err != nil: // it is not known whether the mark is stored, so what it leads to has to stay
		return err
	}
	c.place, c.standing, c.old = place{phase: served}, current, nil
	c.slot, c.reading = stored, d
	c.sent, c.proven, c.issued = sentCookie{}, true, true
	c.tell(ctx, Event{Kind: EventMigrated})
	c.endOld(ctx, mark.id)
	return c.intent.changes.rebase(&c.base().Values)
}

// register has the user's index name a session that is about to move.
func (c *core) register(ctx context.Context, d *reading, id ID) error {
	if len(d.body.User) == 0 {
		return nil
	}
	since := cmp.Or(d.body.Authenticated, d.body.Created)
	return c.m.announce(ctx, &announcement{id: id, login: d.env.Credential.Login, body: &d.body, since: since})
}

// drop removes a session that another request has moved elsewhere.
func (c *core) drop(ctx context.Context, d *reading, id ID) {
	c.discard(ctx, id)
	c.m.forget(ctx, &d.body, d.env.Credential.Login, id)
}

// goAlong leads the request where another one has moved its session.
func (c *core) goAlong(ctx context.Context, mark *slot) error {
	if err := mark.look(ctx); err != nil {
		return err
	}
	c.old = nil
	if err := c.followMark(ctx, mark); err != nil {
		return err
	}
	if c.proven = c.phase == served; !c.proven {
		if c.straggler = true; c.phase == visitor {
			c.phase = closed
		}
	}
	return c.intent.changes.rebase(&c.base().Values)
}

// buryOld puts a tombstone in the place of the mark of a session that was to move.
func (c *core) buryOld(ctx context.Context, reason Reason, write writeID) error {
	now := c.m.millis()
	end := codec.End{At: now, GoneUntil: now + c.m.renewGrace.Milliseconds(), Elsewhere: reason == ReasonRevoked}
	mark := c.slot
	data := codec.EncodeTombstone(mark.id, end, codec.Writes{This: write})
	_, err := mark.save(ctx, data, c.old.markExpires(time.UnixMilli(end.GoneUntil)), write)
	if errors.Is(err, ErrConflict) {
		return c.goAlong(ctx, &mark)
	}
	if err == nil {
		c.ended(ctx, reason)
	}
	return err
}

// endOld ends the session in the old system. Failing at that is no reason to fail the request: the mark stands.
func (c *core) endOld(ctx context.Context, id ID) {
	if err := c.origin.endOld(ctx); err != nil {
		err = fmt.Errorf("session: ending the session in the old system: %w", err)
		c.tell(ctx, Event{Kind: EventLost, ID: id, Op: "migrate", Err: err})
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
	if err := s.core.moveNow(ctx); err != nil {
		return s.core.fail(err)
	}
	return nil
}
