package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"example.com/session/internal/codec"
)

// Change calls fn with the session under an ID, outside of the session's own requests, and saves what fn changes: when a
// user's roles have changed, or for an operator. fn only reads, or only changes; either way it is no use of the session,
// and puts off no expiry. Like any other change, it is merged with those of requests that run at the same time, and brings no
// session back that ends meanwhile.
//
// fn is called once, on the goroutine of the caller, and must not use the session after it has returned. A Session.Save in
// it saves early; Session.Destroy is End. SetUser and Regenerate need a cookie, and are refused with ErrHeaderSent.
// SetIdleTimeout and SetPersistent take effect with the next use. A panic of fn drops what is not saved, and goes on up.
//
// Change returns the session's first failure. It wraps ErrNotFound if there is no such session or it has ended,
// errors.ErrUnsupported if it is encrypted for its client, see Options.EncryptAtRest; it is ErrGone if the session ended
// meanwhile, or is another login's by now. It goes on if ctx is cancelled; Options.StoreTimeout bounds each of loading and
// saving.
func (m *Manager) Change(ctx context.Context, id ID, fn func(*Session)) error {
	o := &outside{ctx: sessionless{ctx}, start: m.millis()}
	o.session = Session{core: core{m: m, origin: o, reading: reading{outside: new(codec.Login)}, began: o.start, slot: slot{m: m, id: id}}}
	s := &o.session
	if err := s.core.loadOutside(); err != nil {
		return err
	}
	defer s.unlock(o.ctx)
	fn(s)
	return o.commit(ctx)
}

// An outside takes the place of the request for a session that is changed from elsewhere.
type outside struct {
	requestless
	ctx     context.Context
	start   int64
	session Session
}

// A requestless has the methods of an origin that ask for what requests alone have.
type requestless struct{}

func (requestless) binding() []byte                              { return nil }
func (requestless) proof(ID, *codec.Credential) *deviceProof     { return &deviceProof{} }
func (requestless) oldCookie() string                            { return "" }
func (requestless) loadOld(context.Context) (*OldSession, error) { return nil, nil }
func (requestless) endOld(context.Context) error                 { return nil }

func (o *outside) tokens() (token, bool, []token) { return token{}, false, nil }
func (o *outside) began() int64                   { return o.start }
func (o *outside) client() (addr, agent string)   { return "", "" }
func (o *outside) context() context.Context       { return o.ctx }
func (o *outside) ended() bool                    { return false }
func (o *outside) tooLate() bool                  { return true }

// commit is Session.Save.
func (o *outside) commit(context.Context) error {
	s := &o.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := &s.core; c.err == nil && c.phase == served && c.wants().any() { // a Touch meanwhile keeps the version
		if err := c.reload(o.ctx); err != nil && c.err != nil {
			return err
		}
	}
	return s.core.commit(o.ctx, headerSent)
}

// loadOutside finds the session in the slot, whoever its client is.
func (c *core) loadOutside() error {
	ctx := newStoreContext(c.origin.context(), &c.m.storeLimit)
	defer ctx.cancel()
	if err := c.slot.look(ctx); err != nil {
		return err
	}
	e, err := c.slot.open()
	switch {
	case err == nil && e.Kind == codec.Session && e.Encrypted:
		return fmt.Errorf("session: %v is encrypted for its client: %w", c.slot.id, errors.ErrUnsupported)
	case err == nil && e.Kind == codec.Session:
		*c.outside = e.Credential.Login
		c.examine(ctx, false)
	}
	if c.phase != served {
		return fmt.Errorf("session: %v is no session, or has ended: %w", c.slot.id, ErrNotFound)
	}
	return nil
}

// judgeOutside is judge for whoever has no cookie: as long as the session lives, and with the same login, it is the one that
// was meant.
func (c *core) judgeOutside() standing {
	switch {
	case c.env.Kind == codec.Tombstone:
		return ended
	case c.env.Kind == codec.Session && c.env.Credential.Login == *c.outside:
		return admitted
	}
	return unknown
}

// Do calls fn with the session that the token leads to in fn's context, for what is no HTTP request: a call of an RPC
// server, a message of a queue, a job. FromContext finds the session. It is saved when fn returns nil; if fn returns an
// error, or panics, what Session.Save has not saved by then is dropped.
//
// Do returns the token that the client is to send from now on, also together with an error. The one that was given is no
// news: where calls of one client overlap, leave in place what another has brought meanwhile. An empty token is that of a
// client without a session, before and after. Of a token that is refused, or leads nowhere, a change makes a new session, as
// with cookies. Tokens are those of Options.TokenHeader, whether that is set or not, and no cookie's; managers of several
// processes have them in common if they have the secret and Cookie.Name in common. A client that misses the token of a
// renewal stays logged in, one that misses that of a login or of Regenerate logs in again. Calls with one token at the same
// time are served like requests. After a panic of fn, the client keeps the token that it has.
//
// The error is fn's, or the session's first failure: ErrGone if the session ended or expired meanwhile, and fn has changed it and
// logged nobody in; ErrTooLarge, ErrTooManySessions, or the store's. ctx ends nothing that is being saved; Options.StoreTimeout
// bounds that. Options.Bind has no request to look at: with it, Do returns an error. Do is safe for concurrent use; fn may call Do,
// but waits in vain for a lock that its own session holds.
func (m *Manager) Do(ctx context.Context, token string, fn func(context.Context) error) (next string, err error) {
	if m.bind != nil {
		return token, fmt.Errorf("%w: Manager.Do has no request, which Options.Bind needs", errProgram)
	}
	d := &call{Context: ctx, m: m, shown: token, start: m.millis()}
	d.session.core = core{m: m, origin: d, bare: true}
	defer d.leave()
	returned := false
	defer func() {
		if !returned { // goroutines of fn may still save
			d.abandon()
		}
	}()
	err = fn(d)
	if returned = true; err != nil {
		return d.abandon(), err
	}
	return d.finish()
}

// WithClient returns a context for Manager.Do whose client has the address and the User-Agent, for Session.RemoteAddr and
// Session.UserAgent.
func WithClient(ctx context.Context, addr netip.Addr, userAgent string) context.Context {
	return context.WithValue(ctx, clientKey{}, client{addr, userAgent})
}

type clientKey struct{}

type client struct {
	addr  netip.Addr
	agent string
}

// A call takes the place of the request for a session that Do found. It is fn's context, too.
type call struct {
	context.Context
	requestless
	m       *Manager
	session Session
	shown   string
	start   int64 // in Unix milliseconds
	over    atomic.Bool
}

// Value makes the session part of fn's context.
func (d *call) Value(key any) any {
	switch key := key.(type) {
	case contextKey:
		return &d.session
	case managerKey:
		if key.m == d.m {
			return &d.session
		}
	}
	return d.Context.Value(key)
}

// finish commits what fn did, and returns the client's next token: under one lock, since a goroutine that fn has left
// behind may call Save at any moment.
func (d *call) finish() (next string, err error) {
	d.session.mu.Lock()
	defer d.session.mu.Unlock()
	h := d.header()
	d.over.Store(true)
	if err = d.session.core.commit(d, h); err != nil {
		d.session.core.prove(d)
	}
	return d.next(&d.session.core), err
}

// abandon drops what is not saved, and returns the client's next token.
func (d *call) abandon() (next string) {
	d.over.Store(true)
	d.session.mu.Lock()
	defer d.session.mu.Unlock()
	d.session.core.intent, d.session.core.proven = intent{}, false
	d.session.core.prove(d)
	return d.next(&d.session.core)
}

// next returns what the client is to send from now on.
func (d *call) next(c *core) string {
	action, t := c.cookie()
	if action == keepCookie {
		return d.shown
	}
	return d.m.bearerText(action, &t)
}

func (d *call) leave() {
	d.over.Store(true)
	d.session.unlock(d.Context)
	if d.m.lookup(d.Context) == nil { // else it is the request around that has the user
		d.session.tellUser(d.Context)
	}
}

// header says whether the client gets to know another token.
func (d *call) header() header {
	switch {
	case d.over.Load():
		return headerSent
	case d.Context.Err() != nil:
		return headerLost
	}
	return headerOpen
}

func (d *call) tokens() (first token, ok bool, others []token) {
	if d.shown != "" {
		first, ok = d.m.checkToken(d.Context, &d.m.bearer, d.shown, true)
	}
	return first, ok, nil
}

func (d *call) client() (addr, agent string) {
	c, _ := d.Context.Value(clientKey{}).(client)
	return describeClient(c.addr, c.agent)
}

// commit is Session.Save.
func (d *call) commit(ctx context.Context) error {
	d.session.mu.Lock()
	defer d.session.mu.Unlock()
	return d.session.core.commit(ctx, d.header())
}

func (d *call) began() int64             { return d.start }
func (d *call) context() context.Context { return d.Context }
func (d *call) ended() bool              { return d.over.Load() }
func (d *call) tooLate() bool            { return d.over.Load() }

// String and GoString keep token and values out of what prints the context.
func (d *call) String() string   { return describeContext(d.Context) }
func (d *call) GoString() string { return d.String() }
