package session

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"time"

	"example.com/session/internal/codec"
)

// commit brings into the store what the handler did. h says whether the response can still set a cookie; which one
// cookieAction tells, once the commit is done.
func (c *core) commit(parent context.Context, h header) error {
	c.proven = false // what an earlier commit saw is history
	// Nothing brings back what has ended, so that an end needs no lock.
	if c.unlocked && c.intent.after != nil {
		c.unlocked, c.err = false, nil
	}
	if c.phase == unloaded || c.err != nil {
		return c.err
	}
	if c.m.off { // what the handler did lasts for the request
		c.altered = c.altered || c.differs()
		return nil
	}
	removed := c.removed
	c.quiet, c.entry, c.nextKey, c.now = false, codec.Login{}, [keySize]byte{}, c.m.millis()
	if c.intent.after != nil && c.phase == visitor {
		if err := c.endBehind(parent); err != nil {
			return c.fail(err)
		}
		c.logout = c.logout || c.stale && !c.lost // of a session that ended before
	}
	p := c.plan(h)
	if p.step == stepNone {
		c.settled()
		return nil
	}
	differs := c.differs()
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	var err error
	if c.held != nil {
		err = c.held.check(ctx, false)
	}
	if err == nil {
		err = c.run(ctx, h, p)
	}
	if err == nil && c.removed && !removed && h == headerSent && c.outside == nil {
		err = ErrHeaderSent // the session has ended all the same
	}
	c.settled()
	if err != nil {
		return c.fail(err)
	}
	c.altered = c.altered || differs
	return nil
}

// settled drops what is left of the intent: it makes no difference, or came to nothing.
func (c *core) settled() {
	if c.intent.after != nil && c.phase != served && c.phase != unmoved {
		c.removed = c.removed || c.stale && c.phase == visitor && !c.lost // a dead cookie need not stay in the client
		c.visit(c.place)
	}
	c.intent = intent{}
}

// plan returns the next step.
func (c *core) plan(h header) plan {
	_, isCall := c.origin.(*call)
	s := situation{
		place:    c.place,
		standing: c.standing,
		count:    c.token.count,
		cred:     &c.env.Credential,
		body:     &c.body,
		expires:  c.slot.rec.Expires,
		wants:    c.wants(),
		header:   h,
		device:   c.binds(),
		cookie:   !c.proven && c.cookieDue(),
		lost:     c.lost,
		call:     isCall,
		quiet:    c.quiet || c.proven || c.outside != nil,
		now:      c.now,
	}
	return c.m.plan(&s)
}

// run goes from step to step until there is none left.
func (c *core) run(ctx context.Context, h header, p plan) error {
	turn := turn{queues: &c.m.queues, id: c.slot.id}
	if p.step.saves() {
		waited, err := c.await(ctx, &turn)
		if err != nil {
			return err
		}
		defer turn.end()
		if waited {
			p = c.plan(h)
		}
	}
	write := newWriteID()
	found, err := true, error(nil)
	for found && err == nil {
		tries := 0
		found, err = c.slot.retry(ctx, write, func(try int) error {
			tries = try
			return c.attempt(ctx, h, &p, write, try > 1)
		})
		if tries > 1 && (err == nil || !errors.Is(err, ErrConflict)) {
			c.tell(ctx, Event{Kind: EventConflict, ID: cmp.Or(c.slot.id, c.own), Count: tries})
		}
		if found && err == nil {
			err = c.done(ctx, &p, true, nil)
			p = c.plan(h)
		}
	}
	if c.proven && c.phase == served && c.slot.id == turn.id {
		turn.left = c.slot.rec
	}
	return err
}

// attempt takes the steps from p on. It leaves in p the one that it could not take.
func (c *core) attempt(ctx context.Context, h header, p *plan, write writeID, again bool) error {
	if again {
		if err := c.refresh(ctx, true); err != nil {
			return err
		}
		*p = c.plan(h)
	}
	for ; p.step != stepNone; *p = c.plan(h) {
		if err := c.take(ctx, p, write); err != nil {
			return err
		}
	}
	return nil
}

// saves reports whether the step is a save of a session's record, for which requests queue up.
func (s step) saves() bool { return s >= stepSave && s <= stepEmpty }

// await waits until no other commit of this process is at the session's record, and takes over what the one before
// saved. It reports whether it had to wait.
func (c *core) await(ctx context.Context, t *turn) (waited bool, err error) {
	handed, err := t.queues.enter(ctx, t.id)
	if err != nil {
		return false, err
	}
	passed := false
	defer func() {
		if !passed { // also after a panic, of an Update's function for one
			t.end()
		}
	}()
	if waited = handed.streak > 0; waited {
		handed.yield(ctx)
		c.now = c.m.millis()
	}
	t.handover.streak = handed.streak + 1
	if t.handover.streak == maxStreak {
		t.handover.began = time.Now()
	}
	newer := handed.saved.Version > c.slot.rec.Version && c.slot.rec.Version > 0
	if c.held != nil {
		// The lease may have run out in the queue, and what is handed over may hold what the next holder saved.
		err = c.held.check(ctx, newer)
	}
	if newer && err == nil {
		c.slot.rec = handed.saved
		err = c.adopt(ctx)
	}
	passed = err == nil
	return waited, err
}

// refresh takes over what others have saved. Under a lock, the record comes first and then a look at the lock: nothing is
// built upon what was seen under one that is lost.
func (c *core) refresh(ctx context.Context, look bool) error {
	if c.held != nil {
		if err := c.held.check(ctx, look); err != nil {
			return err
		}
	}
	c.now = c.m.millis()
	return c.adopt(ctx)
}

// take does one step.
func (c *core) take(ctx context.Context, p *plan, write writeID) error {
	switch p.step {
	case stepLook:
		if err := c.slot.look(ctx); err != nil {
			if c.issued {
				return err
			}
			c.quiet = true // the client can do without
			return nil
		}
		c.proven = true
		return c.adopt(ctx)
	case stepTouch:
		return c.touch(ctx)
	case stepSave, stepRenew, stepLogin:
		return c.save(ctx, p, write)
	case stepDestroy, stepEmpty:
		if c.phase == unmoved {
			return c.buryOld(ctx, c.reason(p.step), write)
		}
		if err := c.slot.bury(ctx, c.outside != nil, write); err != nil {
			return err
		}
		return c.done(ctx, p, false, nil)
	case stepCreate:
		return c.create(ctx, write)
	case stepMove:
		return c.move(ctx)
	}
	if errors.Is(p.err, ErrGone) {
		c.tellStale(ctx, c.own)
	}
	return p.err
}

// touch moves the session's expiry. It need not succeed: nobody asked for it.
func (c *core) touch(ctx context.Context) error {
	err := c.slot.touch(ctx, c.m.expiry(&c.body, c.now))
	switch {
	case err == nil:
		c.proven = true
		return nil
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		// Somebody else saved or ended the session. There is nothing of ours in it to save.
	default:
		c.tell(ctx, Event{Kind: EventLost, Op: "touch", Err: err})
	}
	c.quiet = true
	return nil
}

// newReading returns that of a new session.
func newReading(t token, b codec.Body, now int64) reading {
	d := reading{token: t, hash: t.keyHash(), body: b}
	d.env.Credential = codec.Credential{Key: d.hash, Count: 1, Floor: 1, Keyed: now, Issued: now}
	return d
}

// save saves the record with the changes and the credential. The user's index says first what the record then says of the user.
func (c *core) save(ctx context.Context, p *plan, write writeID) error {
	d := c.reading
	d.body = c.changed()
	d.env.Credential = p.cred
	if err := c.registered(ctx, p.step, &d); err != nil {
		return err
	}
	if c.phase != served { // the index has it that the session is to end
		return nil
	}
	if p.step != stepSave { // the index may have taken long
		var cancel func()
		ctx, cancel = c.m.inTime(ctx)
		defer cancel()
		c.now = c.m.millis()
	}
	if c.intent.key || c.intent.user != nil {
		if c.nextKey == ([keySize]byte{}) {
			c.nextKey = newKey()
		}
		d.token.key, d.token.count = c.nextKey, p.cred.Count
		d.hash = d.token.keyHash()
		rekey(&d.env.Credential, d.hash, c.now)
	}
	var room [4]codec.Change
	overtaken, err := c.m.write(ctx, &c.slot, &d, c.intent.changes.encoded(room[:0]), c.now, write)
	switch {
	case err == nil:
		return c.done(ctx, p, overtaken, &d)
	case !errors.Is(err, ErrConflict) && !c.wants().any():
		// Renewal has not begun: a store that cannot save is no reason to fail a request that only reads. But it is one to set no
		// cookie: the session may have ended.
		c.quiet = true
		return nil
	}
	return err
}

// registered sees to it that the indexes of d's user and labels name the session.
func (c *core) registered(ctx context.Context, s step, d *reading) error {
	login := &d.env.Credential.Login
	switch u := c.intent.user; s {
	case stepLogin:
		if string(c.body.User) != u.user || !bytes.Equal(c.body.Labels, u.labels) {
			*login, d.env.Credential.Device, d.env.Credential.Bound = u.login, codec.Device{}, 0
		}
		if u.user == "" {
			*login = codec.Login{}
			return nil
		}
		a := announcement{id: c.slot.id, login: *login, body: &d.body, requires: c.entry, newcomer: true}
		if err := c.m.announce(ctx, &a); err != nil {
			if errors.Is(err, errEnding) { // so it says as well of a session that has become another's
				err = cmp.Or(c.overtaken(ctx), err)
			}
			return c.whyNot(ctx, c.slot.id, err)
		}
		c.entry = *login
	case stepRenew:
		a := announcement{id: c.slot.id, login: *login, body: &d.body, since: c.body.Authenticated}
		err := c.m.announce(ctx, &a)
		switch {
		case errors.Is(err, errEnding):
			return c.endAsListed(ctx)
		case err != nil: // a list that is out of reach keeps nobody from working
			c.tell(ctx, Event{Kind: EventLost, Op: "index", Err: err})
		}
	}
	return nil
}

// overtaken looks at the record, and returns a conflict if somebody else has saved it.
func (c *core) overtaken(ctx context.Context) error {
	ctx, done := c.m.inTime(ctx)
	defer done()
	seen := c.slot.rec.Version
	if err := c.slot.look(ctx); err != nil || c.slot.rec.Version == seen {
		return err
	}
	return &conflictError{}
}

// endAsListed ends the session, since its user's index says so. If somebody else has ended it, that says what this
// request gets: its client may have logged out, and have another cookie by now.
func (c *core) endAsListed(ctx context.Context) error {
	login := c.env.Credential.Login
	first, err := c.m.end(ctx, c.slot.id, false, func(e *codec.Envelope) bool { return e.Credential.Login == login })
	if err != nil {
		return err
	}
	if first {
		c.tell(ctx, Event{Kind: EventEnded, Reason: ReasonRevoked})
		c.own, c.lost, c.removed = c.slot.id, true, true
		c.visit(place{phase: revoked})
		return nil
	}
	if err := c.slot.look(ctx); err != nil {
		return err
	}
	if err := c.adopt(ctx); err != nil {
		return err
	}
	if c.phase == served { // with another login
		return &conflictError{}
	}
	return nil
}

// whyNot is what a login to the session under the ID gets that the index refuses.
func (c *core) whyNot(ctx context.Context, id ID, err error) error {
	switch {
	case errors.Is(err, errEnding):
		c.tellStale(ctx, id)
		return ErrGone
	case errors.Is(err, ErrTooManySessions):
		c.tell(ctx, Event{Kind: EventLoginRefused, ID: id, User: c.user(), Reason: ReasonLimit, Err: err})
	}
	return err
}

// tellStale tells of a change, or of a login, to a session that has ended or is about to.
func (c *core) tellStale(ctx context.Context, id ID) {
	c.tell(ctx, Event{Kind: EventStaleWrite, ID: id, User: string(c.before), Err: ErrGone})
	if c.wants().login {
		c.tell(ctx, Event{Kind: EventLoginRefused, ID: id, User: c.user(), Reason: ReasonRevoked, Err: ErrGone})
	}
}

// write saves what d is to be read as, with the changes, in the slot.
func (m *Manager) write(ctx context.Context, sl *slot, d *reading, changes *codec.Changes, now int64, write writeID) (overtaken bool, err error) {
	if now-d.body.Written > m.rememberFor().Milliseconds() {
		d.env.Writes = nil // their writers have given up by now
	}
	d.body.Written = now
	expires := sl.rec.Expires
	if d.outside == nil { // else it is no use of the session
		d.body.Saved, expires = now, m.expiry(&d.body, now)
	}
	data := codec.EncodeSession(sl.id, &d.env, write, &d.body, changes, m.sealer(&d.token))
	if n := len(data); n > m.maxSize {
		if n -= d.env.Growth(); n > m.maxSize {
			return false, tooLarge(n, m.maxSize)
		}
	}
	return sl.save(ctx, data, expires, write)
}

// done takes note that a step was taken. overtaken says that others have saved since: the slot has what they saved.
// Without d, what was saved, it was found out only later.
func (c *core) done(ctx context.Context, p *plan, overtaken bool, d *reading) error {
	if p.step == stepDestroy || p.step == stepEmpty {
		c.ended(ctx, c.reason(p.step))
		return nil
	}
	c.proven = true
	var before codec.Body
	login, newUser := c.env.Credential.Login, c.intent.user != nil
	if newUser {
		before = c.body
	}
	c.signedIn = c.signedIn || newUser && c.intent.user.user != ""
	if newUser || c.intent.key {
		c.token.key, c.token.count, c.issued, c.rekeyed = c.nextKey, p.cred.Count, true, true
		if d == nil {
			c.hash = c.token.keyHash()
		} else {
			c.hash = d.hash
		}
		c.m.observe(ctx, Event{Kind: EventRegenerated, ID: c.slot.id, User: c.user()})
	} else if p.cred.Count == c.env.Credential.Count+1 && c.standing == current {
		c.tell(ctx, Event{Kind: EventRenewed})
	}
	if p.cred.Device != c.env.Credential.Device && !newUser {
		c.tell(ctx, Event{Kind: EventDeviceBound})
	}
	if newUser && c.m.observer != nil {
		c.tellLogin(ctx, string(before.User), c.intent.user.user)
	}
	c.intent = intent{}
	if overtaken || d == nil {
		if err := c.adopt(ctx); err != nil {
			return err
		}
	} else {
		c.reading = *d
		c.standing = c.judge(true)
	}
	if newUser && login != c.env.Credential.Login {
		c.m.forget(ctx, &before, login, c.slot.id)
	}
	return nil
}

// reason is why a step ends the session.
func (c *core) reason(s step) Reason {
	switch {
	case c.outside != nil:
		return ReasonRevoked
	case s == stepEmpty:
		return ReasonEmptied
	}
	return ReasonDestroyed
}

// ended takes note that this request has ended the session.
func (c *core) ended(ctx context.Context, reason Reason) {
	if reason == ReasonEmptied {
		c.intent = intent{}
	}
	id := c.slot.id
	c.m.tellEnd(ctx, id, string(c.body.User), reason)
	c.m.forget(ctx, &c.body, c.env.Credential.Login, id)
	if c.old != nil {
		c.endOld(ctx, id)
	}
	after := c.intent.after
	c.intent.after = nil
	c.visit(place{phase: visitor})
	if after != nil {
		c.body = *after
	}
	c.removed, c.logout = true, c.logout || reason == ReasonDestroyed
}

// create stores a new session. It is stored before the index names it, and nobody has its cookie until both is done.
func (c *core) create(ctx context.Context, write writeID) error {
	m, d := c.m, newReading(newToken(), c.changed(), c.now)
	if u := c.intent.user; u != nil && u.user != "" {
		d.env.Credential.Login, c.signedIn = u.login, true
	} else {
		d.body.Created = c.now // a stream may have asked for it long ago
	}
	addr, agent := c.origin.client()
	d.body.RemoteAddr, d.body.UserAgent, d.body.Binding = []byte(addr), []byte(agent), c.origin.binding()
	c.slot, c.env = slot{m: m, id: d.token.id()}, codec.Envelope{}
	if err := c.lockNew(ctx); err != nil {
		return err
	}
	if _, err := m.write(ctx, &c.slot, &d, c.intent.changes.encoded(nil), c.now, write); err != nil {
		return newIDConflict(err)
	}
	if len(d.body.User) > 0 {
		a := announcement{
			id: c.slot.id, login: d.env.Credential.Login, body: &d.body, newcomer: true, own: c.own,
			requires: c.entry, forgot: c.phase == closed || c.phase == replaced, since: d.body.Authenticated,
		}
		if err := m.announce(ctx, &a); err != nil {
			c.discard(ctx, c.slot.id)
			c.m.forget(ctx, &d.body, d.env.Credential.Login, c.slot.id) // it may have been announced
			return c.whyNot(ctx, cmp.Or(c.own, c.slot.id), err)
		}
	}
	c.intent = intent{}
	c.place, c.standing = place{phase: served}, current
	c.reading = d
	c.proven, c.issued, c.removed, c.lost = true, true, false, false
	c.tell(ctx, Event{Kind: EventCreated})
	if m.observer != nil {
		c.tellLogin(ctx, "", string(d.body.User))
	}
	return nil
}

// newIDConflict is the error for a conflict where nobody else can have saved.
func newIDConflict(err error) error {
	if errors.Is(err, ErrConflict) {
		return errors.New("session: the store reports a conflict under a new ID")
	}
	return err
}

// discard removes a session that came to nothing. Nobody ever saw its cookie.
func (c *core) discard(ctx context.Context, id ID) {
	ctx, done := c.m.inTime(ctx)
	defer done()
	if err := c.m.delete(ctx, id); err != nil {
		c.m.observe(ctx, Event{Kind: EventLost, ID: id, Op: "delete", Err: err})
	}
}

// heldToken returns the cookie that the client should have.
func (c *core) heldToken() token {
	return token{name: c.token.name, key: c.token.key, count: c.env.Credential.Count}
}

// cookieExpires returns when the session's cookie does, in Unix milliseconds; 0: with the browser.
func (c *core) cookieExpires() int64 {
	if c.bare || !c.m.persistentCookie(&c.body) {
		return 0
	}
	return expiryMillis(c.slot.rec.Expires)
}

// cookieDue reports whether the client should have another cookie than it sent. A request that was let in before, and
// whose own cookie no longer counts, has none to give.
func (c *core) cookieDue() bool {
	if c.phase != served || c.standing != current && c.standing != previous {
		return false
	}
	should := c.heldToken()
	return !c.sent.ok || !should.same(&c.sent.token) || c.cookieExpires() != c.sent.expires
}

// A cookieAction is what a commit asks for in the response's header.
type cookieAction byte

const (
	keepCookie cookieAction = iota
	setCookie
	removeCookie
)

// cookie returns what the response's header is to do with the client's cookie: derived from what the client should
// have and what it sent, and only if this commit has seen that it is so.
func (c *core) cookie() (cookieAction, token) {
	switch {
	case c.proven && c.cookieDue(), c.proven && c.phase == served && c.standing == current && c.sent.token.secret != 0:
		return setCookie, c.heldToken()
	case c.removed && c.phase != served:
		return removeCookie, token{}
	}
	return keepCookie, token{}
}

// prove is the last look for a response that fails: without the cookie that an earlier commit issued, its client could
// not reach the session any more.
func (c *core) prove(parent context.Context) {
	if !c.issued || c.proven || !c.cookieDue() {
		return
	}
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	if c.slot.look(ctx) == nil {
		c.intent = intent{}
		c.proven = c.adopt(ctx) == nil
	}
}
