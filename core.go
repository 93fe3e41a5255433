package session

import (
	"bytes"
	"context"
	"iter"
	"time"

	"example.com/session/internal/codec"
)

// A core is one request's view of its session: what is there, and what the handler wants. It is a Session without the
// mutex: whoever calls one of its methods has locked the Session.
type core struct {
	m      *Manager
	origin origin
	began  int64 // when the request did
	bare   bool  // the client's token has no expiry of its own

	place
	standing standing
	sent     sentCookie
	slot     slot
	reading
	device *deviceProof // nil where nobody asks for one: requests of all sessions would pay for its room
	old    *OldSession  // in phase unmoved

	intent  intent
	behind  []behindToken // that the client sent, of sessions whose cookies have gone on
	before  []byte        // who was logged in when the session was loaded
	own     ID            // of the session that the client's cookie led to before it ended
	now     int64         // as this commit goes by it
	nextKey [keySize]byte
	entry   codec.Login // that this commit has announced
	locks   bool        // the handler asked for a lock
	freed   bool        // and gave it back
	held    *heldLock   // that the request has or had

	proven   bool // this commit has seen the record, past all caches
	quiet    bool // this commit leaves out what nobody asked for: it failed
	lost     bool // the session was served to this request, and is no more
	issued   bool // the client has to be sent the cookie, or has nothing
	removed  bool // the client's cookie is worth nothing, and it knows no other
	stale    bool // the client sent a genuine cookie that leads nowhere
	signedIn bool // somebody has logged in in this request
	rekeyed  bool // the key was replaced in this request
	altered  bool // a commit of this request has saved changes, or an end
	logout   bool // this request has ended the session
	used     bool // the response depends on the session
	err      error

	unlocked bool // err says why the session could not be locked
}

// A reading is what a cookie and the record that it leads to say together.
type reading struct {
	token token         // the request shows it, or has given it to the session
	hash  codec.KeyHash // of the token's key
	env   codec.Envelope
	body  codec.Body
	// outside is the login of the session that Manager.Change works on, without a cookie; nil in a request.
	outside *codec.Login
}

// An intent is what a handler wants beyond what is there. It can be applied to whatever is there next.
type intent struct {
	after       *codec.Body // the session is to end; what follows begins here
	key         bool        // it is to have a new one
	save        bool        // it is to be saved whatever the changes are
	user        *userChange
	idle        *int64
	persistence *codec.Persistence
	changes     changes
}

// A userChange is what SetUser asked for.
type userChange struct {
	user   string
	labels []byte      // as in codec.Body
	login  codec.Login // unless user and labels are the same as before
	at     int64
}

// A sentCookie is what the client holds, as far as a request tells.
type sentCookie struct {
	token   token
	ok      bool
	expires int64 // in Unix milliseconds; 0: with the browser
}

// A behindToken is one that fell behind, with the user of its session for the observer.
type behindToken struct {
	token
	user string
}

// An origin is what a session wants to know of the request that it belongs to.
type origin interface {
	// tokens returns those in the request's cookies that pass the check: the first, and the others.
	tokens() (first token, ok bool, others []token)
	// began returns when the request was received, in Unix milliseconds.
	began() int64
	// client returns the address and the User-Agent that the request came from.
	client() (addr, agent string)
	// binding returns the hash of what Options.Bind computes for the request, nil without one.
	binding() []byte
	// proof returns what the request shows of the device that a session is, or may become, bound to.
	proof(id ID, cred *codec.Credential) *deviceProof
	// commit saves the session, with its cookie as long as the header has not left.
	commit(ctx context.Context) error
	// oldCookie returns the value of the old system's cookie, empty without one.
	oldCookie() string
	// loadOld returns the old system's session, nil if there is none.
	loadOld(ctx context.Context) (*OldSession, error)
	// endOld ends the old system's session.
	endOld(ctx context.Context) error
	// context returns the request's context.
	context() context.Context
	// ended reports whether the request is over, though a goroutine of its handler goes on.
	ended() bool
	// tooLate reports whether the response can set no cookie any more. Unlike commit it may be called while
	// the session is locked.
	tooLate() bool
}

// open makes sure that the session is loaded.
func (c *core) open() {
	c.used = true
	if c.phase == unloaded {
		c.load()
	}
}

// load finds the session that the request's cookies lead to.
func (c *core) load() {
	ctx := newStoreContext(c.origin.context(), &c.m.storeLimit)
	defer ctx.cancel()
	c.began = c.origin.began()
	first, ok, others := c.origin.tokens()
	if !ok {
		c.visit(place{phase: visitor})
		c.loadOld(ctx)
		return
	}
	found, reusedTokens := place{phase: visitor}, []behindToken(nil)
	for i := -1; i < len(others) && !(c.phase == locked && c.device.asked); i++ {
		t := first
		if i >= 0 {
			t = others[i]
		}
		err := c.find(ctx, &t)
		switch {
		case err != nil:
			c.phase = failed
			c.fail(err)
			return
		case c.phase == served:
			c.stale, c.before = false, c.body.User
			c.sent = sentCookie{token: t, ok: true, expires: c.cookieExpires()}
			c.lockImplicitly()
			return
		case c.phase == locked:
			found, c.own = c.place, c.slot.id
			continue
		case c.standing.served(): // and bound to something else
			continue
		case c.standing == reused:
			reusedTokens = append(reusedTokens, behindToken{t, c.owner()})
		}
		c.stale = true
		if found.phase != locked && (c.phase != visitor || c.own == (ID{}) || found.phase == visitor && c.slot.rec.Version > 0) {
			found, c.own = c.place, c.slot.id
		}
	}
	for i := range reusedTokens {
		c.reused(ctx, &reusedTokens[i])
	}
	c.behind = reusedTokens
	c.visit(found)
	if found.phase == visitor {
		c.loadOld(ctx)
	}
}

// anonymous reports whether the client has no session, nor has just had one.
func (c *core) anonymous() bool { return c.phase == visitor || c.phase == locked }

// visit makes the request that of a client without a session.
func (c *core) visit(p place) {
	c.place, c.standing = p, unknown
	c.slot, c.env, c.old = slot{m: c.m}, codec.Envelope{}, nil
	now := c.m.millis()
	c.body = codec.Body{Created: now, Saved: now}
}

// find looks where a token leads, and sets the request's place by it.
func (c *core) find(ctx context.Context, t *token) error {
	c.slot = slot{m: c.m, id: t.id()}
	c.token, c.hash = *t, t.keyHash()
	if err := c.slot.load(ctx); err != nil {
		return err
	}
	c.examine(ctx, false)
	if c.standing != current && c.slot.rec.Cached { // a cache decides for current alone
		if err := c.slot.look(ctx); err != nil {
			return err
		}
		c.examine(ctx, false)
	}
	if c.standing.served() && c.env.Secret > 0 {
		c.tell(ctx, Event{Kind: EventOldSecret, Reason: ReasonEncrypted})
	}
	switch {
	case c.standing == reused && c.lockBehind(ctx):
	case !c.standing.served():
		if c.standing != reused {
			c.m.observe(ctx, Event{Kind: EventUnknown, ID: c.slot.id, User: c.owner(), Reason: c.whyUnknown()})
		}
	case !bytes.Equal(c.body.Binding, c.origin.binding()):
		// It may be the owner's, so it stays as it is, and so does the client's cookie.
		c.tell(ctx, Event{Kind: EventBindingMismatch})
		c.phase = visitor
	default:
		c.unlock(ctx)
	}
	return nil
}

func (c *core) whyUnknown() Reason {
	switch {
	case c.env.Kind == codec.Tombstone:
		return ReasonEnded
	case c.env.Kind == codec.Session:
		return ReasonReplaced
	}
	return ReasonExpired
}

// examine takes the record in the slot apart, and says where the request stands with it; letIn says that the session was
// the request's before.
func (c *core) examine(ctx context.Context, letIn bool) {
	c.standing, c.env = unknown, codec.Envelope{}
	if c.slot.rec.Version > 0 {
		if err := c.read(ctx, letIn); err != nil {
			c.standing, c.env = unknown, codec.Envelope{}
			if !c.slot.rec.Cached { // else it is looked at again
				c.m.observe(ctx, Event{Kind: EventDamaged, ID: c.slot.id, Err: err})
			}
		}
	}
	if c.standing.served() {
		c.place = place{phase: served}
	} else {
		c.place = c.m.stand(c.standing, &c.env, c.began, letIn)
	}
}

// read sets the envelope, the standing, and the body if that is served.
func (c *core) read(ctx context.Context, letIn bool) error {
	if err := c.env.Open(c.slot.id, c.slot.rec.Data); err != nil {
		return err
	}
	if c.standing = c.judge(letIn); c.standing == reused && !c.slot.rec.Cached && c.fromItsDevice() {
		c.m.observe(ctx, Event{Kind: EventReused, ID: c.slot.id, User: c.owner()})
		c.standing = previous
	}
	if !c.standing.served() {
		return nil
	}
	if !c.env.Encrypted {
		if c.m.encrypt { // whoever can write to the store could have put it there
			return codec.ErrDamaged
		}
		return c.env.OpenBody(&c.body, c.slot.id, nil)
	}
	return c.env.OpenBody(&c.body, c.slot.id, func(i int) *codec.Cipher { return c.m.sessionCipher(i, &c.token) })
}

// judge returns what the record says to the request; letIn says that the session was the request's before.
func (c *core) judge(letIn bool) standing {
	if c.outside != nil {
		return c.judgeOutside()
	}
	st := c.m.judge(&c.env, &c.token, c.hash, c.began, letIn)
	if st == admitted && c.fromItsDevice() { // and is to have the present cookie
		return previous
	}
	return st
}

// reused reports a cookie that fell behind, and ends its session if that is asked for.
func (c *core) reused(ctx context.Context, t *behindToken) {
	id := t.id()
	c.m.observe(ctx, Event{Kind: EventReused, ID: id, User: t.user})
	if !c.m.endOnReuse {
		return
	}
	if err := c.endReused(ctx, t, ReasonReused); err != nil {
		c.m.observe(ctx, Event{Kind: EventLost, ID: id, User: t.user, Op: "end", Err: err})
	}
}

// endReused ends the session of a cookie that fell behind.
func (c *core) endReused(ctx context.Context, t *behindToken, reason Reason) error {
	id, hash := t.id(), t.keyHash()
	ended, err := c.m.end(ctx, id, false, func(e *codec.Envelope) bool {
		return c.m.judge(e, &t.token, hash, c.began, false) == reused && c.mayEnd(id, &e.Credential)
	})
	if ended {
		c.m.tellEnd(ctx, id, t.user, reason)
	}
	return err
}

// endBehind is the logout of a client whose cookie fell behind: it may know no other.
func (c *core) endBehind(parent context.Context) error {
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	for i := range c.behind {
		if err := c.endReused(ctx, &c.behind[i], ReasonDestroyed); err != nil {
			return err
		}
	}
	c.behind = nil
	return nil
}

// reload looks at the record again, and makes the handler's changes to what it finds.
func (c *core) reload(parent context.Context) error {
	ctx := newStoreContext(parent, &c.m.storeLimit)
	defer ctx.cancel()
	if c.phase == served {
		seen := c.slot.rec.Version
		if err := c.slot.look(ctx); err != nil {
			return c.fail(err)
		}
		if err := c.adopt(ctx); err != nil {
			return c.fail(err)
		}
		if c.held != nil && c.slot.rec.Version != seen { // it may have been the next holder who saved
			if err := c.held.check(ctx, true); err != nil {
				return c.fail(err)
			}
		}
	}
	if c.lost || c.phase != served && !c.anonymous() && c.phase != unmoved {
		return ErrGone
	}
	return nil
}

// adopt makes the handler's changes to the record that the slot has now.
func (c *core) adopt(ctx context.Context) error {
	wasServed := c.phase == served
	c.examine(ctx, true)
	if c.phase != served {
		c.own, c.lost, c.stale = c.slot.id, wasServed || c.lost, true
		c.visit(c.place)
	}
	return c.intent.changes.rebase(&c.base().Values)
}

// base returns what the handler's changes are made to.
func (c *core) base() *codec.Body {
	if c.intent.after != nil {
		return c.intent.after
	}
	return &c.body
}

func (c *core) get(key string) ([]byte, bool) { return c.intent.changes.get(&c.base().Values, key) }

func (c *core) set(key string, data []byte, ok bool) {
	c.intent.changes.set(&c.base().Values, key, data, ok)
}

func (c *core) update(key string, fn update) {
	if err := c.intent.changes.update(&c.base().Values, key, fn); err != nil {
		c.fail(err)
	}
}

// all goes through the application's values in ascending order of their keys.
func (c *core) all() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for key, data := range c.intent.changes.all(&c.base().Values) {
			if key != string(formTokens) && !yield(key, data) {
				return
			}
		}
	}
}

// creator returns the address and the User-Agent that created the session, or of this request if there is none.
func (c *core) creator() (addr, agent string) {
	if c.intent.after == nil && (c.phase == served || c.phase == unmoved) {
		return string(c.body.RemoteAddr), string(c.body.UserAgent)
	}
	return c.origin.client()
}

// lives reports whether the request has a session that is stored and is not to end.
func (c *core) lives() bool { return c.phase == served && c.intent.after == nil }

// user returns who is logged in, as the handler sees it.
func (c *core) user() string {
	if c.intent.user != nil {
		return c.intent.user.user
	}
	return string(c.base().User)
}

// changed returns the body as the handler wants it, but for the values.
func (c *core) changed() codec.Body {
	b := *c.base()
	if c.intent.idle != nil {
		b.Idle = *c.intent.idle
	}
	if c.intent.persistence != nil {
		b.Persistence = *c.intent.persistence
	}
	if u := c.intent.user; u != nil {
		b.User, b.Labels, b.Authenticated = []byte(u.user), u.labels, 0
		if u.user != "" {
			b.Authenticated, b.Created = u.at, u.at
		}
	}
	return b
}

// wants says what of the intent is still to be done.
func (c *core) wants() wants {
	in, base := &c.intent, c.base()
	w := wants{
		end:   in.after != nil,
		user:  in.user != nil,
		login: in.user != nil && in.user.user != "",
		key:   in.key || in.user != nil,
		save:  in.save,
		change: in.user != nil || in.changes.any(&base.Values) ||
			in.idle != nil && *in.idle != base.Idle || in.persistence != nil && *in.persistence != base.Persistence,
	}
	w.empty = w.change && c.user() == "" && in.changes.empty(&base.Values)
	return w
}

// differs reports whether the intent makes a difference.
func (c *core) differs() bool {
	w := c.wants()
	if c.anonymous() {
		return w.change && !w.empty
	}
	return w.end || w.key || w.change
}

func (c *core) created() int64 {
	if u := c.intent.user; u != nil && u.user != "" {
		return u.at
	}
	return c.base().Created
}

// lastUsed returns when the session was last used before this request, in Unix milliseconds.
func (c *core) lastUsed() int64 {
	if c.phase != served || c.intent.after != nil {
		return c.base().Saved
	}
	return c.m.lastUsed(&c.body, c.slot.rec.Expires)
}

func (c *core) expires() time.Time {
	if c.phase == served && !c.wants().any() {
		return c.slot.rec.Expires
	}
	b := c.changed()
	return c.m.expiry(&b, c.m.millis())
}

// countChanges returns how many keys have another value than in the record.
func (c *core) countChanges() int {
	n := 0
	for i := range c.intent.changes.ops {
		if c.intent.changes.ops[i].differs {
			n++
		}
	}
	return n
}

// state is the phase in a word, for people.
func (c *core) state() string {
	switch {
	case c.phase == unloaded:
		return "not loaded"
	case c.phase == failed:
		return "failed"
	case c.anonymous(), c.intent.after != nil:
		return "new"
	case c.phase == served, c.phase == unmoved:
		return "live"
	}
	return "gone"
}

// fail makes the first failure stick, and returns it.
func (c *core) fail(err error) error {
	if c.err == nil {
		c.err = err
	}
	return c.err
}
