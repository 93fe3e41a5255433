package session

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"example.com/session/internal/codec"
	"example.com/session/internal/dbsc"
)

// A DeviceBinding binds sessions to the device that their users logged in from, where the browser can (W3C, Device Bound
// Session Credentials): a cookie that was copied from there is worth minutes. Its zero value is right for most
// applications.
//
// At each SetUser the manager offers the browser to register a key, whose private part stays in the device's hardware.
// From then on the browser gets a second cookie, with "-device" behind the name of the session's, for which it proves
// possession of the key whenever the last one is about to run out. Browsers that know nothing of this, or have no such
// hardware, ignore the offer, and for them nothing changes.
//
// A session is bound once its client has shown the first of these cookies: an answer that gets lost locks nobody out. It is
// bound to that key until SetUser names another user, other labels or nobody, or until it ends; so no SetUser may be without
// a password, or whatever proves it, before it. A request without a cookie that counts then finds it
// locked: for the handler it is as if there were no session, EventDeviceLocked tells of it, and the session, its cookie and
// its expiry stay as they are. See Session.Device for how a handler tells.
//
// A browser that has the key, and could not reach the manager or has proved possession too often, says so
// (Secure-Session-Skipped), and one whose clock is behind shows a proof that ran out. Both get the answer of
// Options.ErrorHandler to ErrUnproven, which is not that of somebody who is logged out, unless the handler calls SetUser: that
// begins a new session in any case. Without the key, any change does. A page that is opened from elsewhere is answered once by
// one that loads itself again (401), since some browsers ask for no proof before.
//
// The manager answers the browser's own requests itself, before the wrapped handler sees them, at the cost of one Load for
// a proof and without any write. Middleware and proxies around it have to let POST requests with an empty body through to
// Path. They must not answer with a redirect, nor with 4xx: to the browser, that is the end of the key. No cache may keep
// the answers.
//
// A new secret has to be among the PreviousSecrets of all processes before any signs with it: to one that does not know it, a
// browser's key is not the manager's, and is ended. A CacheStore can show a record as it was before it was bound; New
// refuses one whose MaxAge is longer than a session is served without a proof after that, 90 seconds with the usual options. It
// does not see a CacheStore within another store.
//
// After a logout, the browser forgets its key with the next request, or at once with "cookies" in Options.ClearSiteData.
//
// Without Device, everybody is served without a look at the device; browsers that have a key can still prove possession, so
// that nobody has to log in when it is switched on again.
//
// With Cookie.Domain, all hosts of the site are guarded. A browser whose user logs in at another host than the domain itself
// asks that, at /.well-known/device-bound-sessions, for JSON such as {"registering_origins":["https://www.example.com"]},
// which is the application's to serve: each origin there may bind sessions. Otherwise the browser does not register a key.
type DeviceBinding struct {
	// Path is where the browser's requests are answered: Path, with the cookie's name behind it; empty means
	// "/.session/device/" below Cookie.Path, where any other has to be, too. It ends with a slash.
	Path string
	// Lifetime is for how long a proof counts, to a second, and a tenth longer (a minute at most) since clocks differ; 0
	// means 10 minutes. Browsers prove anew when less than two minutes are left, and not more often than six times in
	// nine minutes: less than 4 minutes is for tests.
	Lifetime time.Duration
	// Exclude are paths of which browsers send requests without a proof, since they use no session, such as static files.
	// Each begins with a slash, and stands for all below it as well.
	Exclude []string
}

// A Device is what is known of the device that a request comes from. The zero value means that the session is not bound to
// one.
type Device struct {
	// Bound is since when the session has been bound to the device's key.
	Bound time.Time
	// Proven is when the browser proved that it has the key. Zero means that it has not: the session is not bound, or was
	// so shortly before the request that it was let in without.
	Proven time.Time
	// Locked says that the client sent the cookie of a session that is bound, without a proof that counts: it was not
	// given out.
	Locked bool
}

// Device tells what is known of the device that the request comes from, for a handler that wants a proof before something
// sensitive (Manager.RequireDevice), or that tells users why they have to log in again.
func (s *Session) Device() Device { return view(s, (*core).deviceState) }

func (c *core) deviceState() (d Device) {
	switch cred := &c.env.Credential; {
	case c.phase == locked:
		d.Locked = true
	case c.phase != served || !c.m.binder.on:
	case cred.Device != (codec.Device{}):
		d.Bound = time.UnixMilli(cred.Bound)
		fallthrough
	default:
		if c.device.proves(cred) {
			d.Proven = time.UnixMilli(c.device.at)
		}
		if d.Bound.IsZero() && !d.Proven.IsZero() { // it is about to be
			d.Bound = time.UnixMilli(c.began)
		}
	}
	return d
}

// RequireDevice returns a handler that calls next for a session whose browser has proved possession of its device's key
// within the given time (and a little longer, since clocks differ; see DeviceBinding.Lifetime). Less than two minutes count as
// that, since browsers prove no more than six times in nine minutes. A browser whose last proof is older is made to prove it
// now: the answer is a redirect to the same place, which keeps method and body (307). All others get otherwise, which may ask
// for the password: sessions that are not bound, or locked. Neither is called for a browser that is to come again, see
// DeviceBinding.
//
// A proof says that the request comes from the device, and nothing of who sits in front of it. Use it inside Handler; it
// panics where FromContext would.
func (m *Manager) RequireDevice(within time.Duration, next, otherwise http.Handler) http.Handler {
	within = max(within, min(leastWithin, m.binder.lifetime))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.FromContext(r.Context())
		switch d := s.Device(); {
		case d.Locked && view(s, (*core).comesAgain): // what is answered is ErrUnproven
		case d.Proven.IsZero():
			otherwise.ServeHTTP(w, r)
		case m.now().Sub(d.Proven) <= within+m.binder.slack:
			next.ServeHTTP(w, r)
		default: // without the cookie, the browser has to get another one before it comes back
			m.binder.forget(w.Header())
			notStored(w.Header())
			w.Header().Set("Location", samePlace(r))
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
}

// leastWithin keeps a page that asks for proofs all the time from using up those that the browser is ready for.
const leastWithin = 2 * time.Minute

func (c *core) comesAgain() bool { return c.phase == locked && c.straggler }

// samePlace returns the request's path and query, so that a browser takes it for no other host.
func samePlace(r *http.Request) string {
	place := r.RequestURI
	if !strings.HasPrefix(place, "/") { // with the scheme and the host, as to a proxy
		place = r.URL.RequestURI()
	}
	if len(place) > 1 && (place[1] == '/' || place[1] == '\\') {
		place = "/." + place
	}
	return place
}

// A deviceProof is what a request shows of the device that it comes from, for one session and login.
type deviceProof struct {
	login  codec.Login
	device codec.Device // zero: it shows nothing that counts,
	why    Reason       // for this reason
	at     int64        // when the browser proved possession, in Unix milliseconds
	later  bool         // it shows nothing, and its browser may do so yet,
	asked  bool         // which is not said by a cookie, as a sibling domain can plant one
}

// proves reports whether it is one for a session with that credential. p is nil where there is none.
func (p *deviceProof) proves(c *codec.Credential) bool {
	return p != nil && p.device != (codec.Device{}) && p.login == c.Login && (p.device == c.Device || c.Device == codec.Device{})
}

// unlock asks whether the request may use the session that it has found. If not, the session is locked.
func (c *core) unlock(ctx context.Context) {
	b, cred := c.m.binder, &c.env.Credential
	if !b.on || cred.Login == (codec.Login{}) {
		return
	}
	c.device = c.origin.proof(c.slot.id, cred)
	if cred.Device == (codec.Device{}) || c.device.proves(cred) || c.began < cred.Bound+b.grace.Milliseconds() {
		return
	}
	c.shutOut(ctx, c.device)
}

// fromItsDevice reports whether a cookie that fell behind comes with a proof of the session's device. It is the owner's, then,
// whom a thief with a copy could shut out otherwise by having the session renewed. With Options.EndOnReuse it ends both.
func (c *core) fromItsDevice() bool {
	cred := &c.env.Credential
	return !c.m.endOnReuse && c.m.binder.guards(cred) && c.origin.proof(c.slot.id, cred).proves(cred)
}

// lockBehind locks the session of a cookie that fell behind, if its browser may yet prove that it is the owner's: another
// session in its place would leave the thief with this one.
func (c *core) lockBehind(ctx context.Context) bool {
	cred := &c.env.Credential
	if !c.m.binder.guards(cred) {
		return false
	}
	p := c.origin.proof(c.slot.id, cred)
	if !p.later || p.proves(cred) {
		return false
	}
	c.m.observe(ctx, Event{Kind: EventReused, ID: c.slot.id, User: c.owner()})
	c.shutOut(ctx, p)
	return true
}

// shutOut locks the session, as the request's proof does not count.
func (c *core) shutOut(ctx context.Context, p *deviceProof) {
	c.device, c.place = p, place{locked, p.later}
	c.tell(ctx, Event{Kind: EventDeviceLocked, Reason: p.why})
}

// mayEnd reports whether a cookie that fell behind may end the session under an ID. Of one that is bound, a copy without a
// proof is worth nothing, not even that.
func (c *core) mayEnd(id ID, cred *codec.Credential) bool {
	return !c.m.binder.guards(cred) || c.origin.proof(id, cred).proves(cred)
}

// guards reports whether a session with that credential is bound.
func (b *binder) guards(cred *codec.Credential) bool { return b.on && cred.Device != (codec.Device{}) }

// binds returns the device that the session is to be bound to, since the request shows a proof and it is not.
func (c *core) binds() codec.Device {
	cred := &c.env.Credential
	if c.phase == served && cred.Device == (codec.Device{}) && c.intent.user == nil && c.device.proves(cred) {
		return c.device.device
	}
	return codec.Device{}
}

// proof returns what the request shows for a session with that credential.
func (x *exchange) proof(id ID, cred *codec.Credential) *deviceProof {
	b := x.m.binder
	if x.inHeader { // whose sessions are offered no device
		return &deviceProof{}
	}
	again, now := fromElsewhere(x.r), x.start
	p := &deviceProof{login: cred.Login, why: ReasonUnproven, later: again, asked: again}
	var pos cookiePos
	for {
		value, more := pos.next(x.r.Header, b.cookie.Name)
		if !more {
			break
		}
		device, at, until, ok := b.openProof(value, id, cred.Login)
		switch {
		case !ok || cred.Device != (codec.Device{}) && device != cred.Device: // the browser asks for no other while it has this one
			p.later, p.why = true, ReasonReplaced
		case now >= until+b.slack.Milliseconds(): // the same: by the browser's clock it has time left
			p.later, p.why = true, ReasonExpired
		case at >= p.at:
			p.device, p.at = device, at
		}
	}
	if x.skipped(id, cred.Login) { // which is no reason to trust it
		p.later, p.asked, p.why = true, true, ReasonSkipped
	}
	return p
}

// skipped reports whether the browser says that it could not ask for a proof of the session's key. It says so of the keys that
// other applications of the site have, too.
func (x *exchange) skipped(id ID, login codec.Login) bool {
	left := maxSkipped
	for identifier := range dbsc.Skips(x.r.Header) {
		if d, ok := x.m.binder.openIdentifier(identifier); identifier == "" || left == 0 || ok && d.id == id && d.login == login {
			return true
		}
		left--
	}
	return false
}

// fromElsewhere reports whether the request is for a page from elsewhere, so that a page in its place that loads itself again
// has the browser ask for a proof as it does for requests of the site's own. In a frame that is sandboxed it would load itself
// for ever, since each request then comes from elsewhere.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Dest") == "document" && site != "" && site != "same-origin"
}

// againPage does without a script, which the site's policies may forbid.
const againPage = `<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>One moment</title>
<p>One moment, please. <a href="">Go on</a>
`

// askAgain answers with a page that loads itself again, if that may help.
func (x *exchange) askAgain() bool {
	if !errors.Is(x.failed, ErrUnproven) || !fromElsewhere(x.r) || x.r.Header.Get(dbsc.Skipped) != "" {
		return false
	}
	x.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	x.w.Header().Del("Content-Security-Policy") // which can be "sandbox", see fromElsewhere
	x.w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(x.w, againPage)
	return true
}

// tellDevice puts into the header what the browser is to know of its device's key: in a response that sets the cookie of a
// login, the offer to bind the session. A proof that is worth nothing goes, with the session's cookie or where the session
// is bound: as long as there is one, the browser asks for no other.
func (x *exchange) tellDevice(c *core, action cookieAction) {
	b, header := x.m.binder, x.w.Header()
	cred := &c.env.Credential
	bound := c.phase == served && b.guards(cred)
	if !b.on || x.inHeader || action == keepCookie && c.phase != locked && !bound {
		return
	}
	if action == setCookie && c.signedIn && c.phase == served && !bound && cred.Login != (codec.Login{}) {
		b.withdraw(header)
		header[dbsc.Registration] = append(header[dbsc.Registration], b.offer(c.slot.id, cred.Login))
		c.tell(x.Context, Event{Kind: EventDeviceOffered})
	}
	if _, shown := new(cookiePos).next(x.r.Header, b.cookie.Name); shown && !(c.phase == served && c.device.proves(cred)) {
		b.forget(header)
	}
}

// forget has the browser forget its proof.
func (b *binder) forget(header http.Header) {
	setCookieLine(header, b.cookie.Name, b.cookie.cookie("", -1).String(), b.removes...)
}

// The browser's own requests are answered here. Nothing is stored for them: what the browser has to send back is signed. For
// Chromium, each answer between 300 and 499 to a refresh is the end of its key for good, but for a 403 with a challenge, and
// after some of 500 and above it asks for nothing for minutes. So neither is sent to it, and "continue": false only where the
// session has ended. If nobody knows, since the store is down, it gets the cookie: that is good for the session alone, and
// whoever shows it needs the store.

const (
	// challengeAge is for how long a challenge can be answered.
	challengeAge = time.Minute
	// maxIdentifier is the longest session identifier that is looked at,
	maxIdentifier = 2 << 10
	// maxSkipped how many of those in Secure-Session-Skipped are; where there are more, one is taken for the session's.
	maxSkipped = 16
)

// A binder is what a manager needs to bind sessions to devices. It is immutable, and there is one in any case.
type binder struct {
	m       *Manager
	on      bool   // else the keys that there are stay good, for when it is on again
	path    string // of the requests that it answers
	inner   string // likewise, where something around the manager has taken Cookie.Path off
	domain  string
	exclude []string
	cookie  Cookie

	attributes             string        // of the cookie
	removes                []string      // the lines that remove it where it was before
	lifetime, slack, grace time.Duration // of a proof; for clocks; without a proof, once the session is bound

	proofs, offers, identifiers, challenges []byte // what the MACs of each begin with
}

const (
	// deviceSuffix is what the name of the cookie that proves possession has behind that of the session's.
	deviceSuffix = "-device"
	// usualDevicePath is below Cookie.Path.
	usualDevicePath = ".session/device/"
)

// device checks the options.
func (f *faults) device(m *Manager, opts *Options) *binder {
	session := m.cookie
	on, d, below := opts.Device != nil, DeviceBinding{}, strings.TrimSuffix(session.Path, "/")+"/"
	if on {
		d = *opts.Device
	}
	if d.Path == "" {
		d.Path = below + usualDevicePath
	}
	fault := func(format string, args ...any) { f.add("Options.Device: "+format, args...) }
	for _, path := range append([]string{d.Path}, d.Exclude...) {
		if !strings.HasPrefix(path, "/") || (&url.URL{Path: path}).EscapedPath() != path {
			fault("the path %q does not start with a slash, or has characters that do not belong into a URL", path)
		}
	}
	switch {
	case !strings.HasPrefix(d.Path, below):
		fault("the path %q is not below that of the cookie, %q", d.Path, session.Path)
	case !strings.HasSuffix(d.Path, "/"):
		fault("the path %q does not end with a slash", d.Path)
	}
	if on && (session.InsecureHTTP || session.Partitioned) {
		fault("browsers bind no session of a cookie with InsecureHTTP, or one that is Partitioned")
	}
	cookie := session
	cookie.Name = session.Name + deviceSuffix
	b := &binder{
		m:        m,
		on:       on,
		path:     d.Path + endpointName(session.Name),
		domain:   strings.TrimPrefix(session.Domain, "."),
		exclude:  d.Exclude,
		cookie:   cookie,
		removes:  cookie.removals(),
		lifetime: max(time.Second, f.duration("Device.Lifetime", d.Lifetime, 10*time.Minute, false)).Truncate(time.Second),
	}
	b.inner = "/" + strings.TrimPrefix(b.path, below)
	b.attributes = strings.TrimPrefix(cookie.cookie("", 0).String(), cookie.Name+"=; ")
	b.slack = min(b.lifetime/10, clockSlack)
	b.grace = min(b.lifetime, m.renewGrace) + b.slack
	if c, ok := m.store.(*CacheStore); ok && on && c.maxAge > b.grace {
		fault("a cache with a MaxAge of %v, above %v, shows sessions as they were before they were bound for too long", c.maxAge, b.grace)
	}
	b.proofs = codec.Joined("session device proof", session.Name)
	b.offers = codec.Joined("session device offer", session.Name)
	b.identifiers = codec.Joined("session device identifier", session.Name)
	b.challenges = codec.Joined("session device challenge", session.Name)
	return b
}

// endpointName returns the last part of the path for a cookie's name.
func endpointName(name string) string {
	if url.PathEscape(name) == name {
		return name
	}
	return fmt.Sprintf("%x", name)
}

// serves reports whether it is for the manager to answer the request. One for a key of its own is, also where the path was
// another when the browser got it.
func (b *binder) serves(r *http.Request) bool {
	if b.on && (r.URL.Path == b.path || r.URL.Path == b.inner) {
		return true
	}
	if r.Method != http.MethodPost || len(r.Header[dbsc.Identifier]) == 0 {
		return false
	}
	_, own := b.openIdentifier(dbsc.String(r.Header, dbsc.Identifier))
	return own
}

// ServeHTTP answers the browser's requests.
func (b *binder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	notStored(w.Header())
	identifier := dbsc.String(r.Header, dbsc.Identifier)
	switch {
	case identifier != "" && r.Method != http.MethodPost:
		http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
	case identifier != "":
		b.refresh(w, r, identifier)
	default:
		b.register(w, r)
	}
}

// register answers the request that follows an offer. The browser shows no cookie if the login began at another site, so the
// offer says which session is meant.
func (b *binder) register(w http.ResponseWriter, r *http.Request) {
	p, err := dbsc.Parse(dbsc.String(r.Header, dbsc.Response))
	if err != nil || p.Key == nil {
		b.refuse(w, r, ID{}, ReasonMalformed)
		return
	}
	d, why := b.openOffer(p.Challenge)
	if why == "" && !p.SignedBy(p.Key) {
		why = ReasonBadSignature
	}
	if why != "" {
		b.refuse(w, r, d.id, why)
		return
	}
	d.key = p.Key
	if why := b.examine(r, &d); why != "" {
		b.refuse(w, r, d.id, why)
		return
	}
	b.m.observe(r.Context(), Event{Kind: EventDeviceRegistered, ID: d.id})
	b.grant(w, r, &d, b.identify(&d))
}

// refuse answers a registration that came to nothing. The browser has no key then.
func (b *binder) refuse(w http.ResponseWriter, r *http.Request, id ID, why Reason) {
	b.m.observe(r.Context(), Event{Kind: EventDeviceRefused, ID: id, Reason: why})
	http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
}

// refresh answers a request for another cookie: first with a challenge.
func (b *binder) refresh(w http.ResponseWriter, r *http.Request, identifier string) {
	d, ok := b.openIdentifier(identifier)
	if !ok {
		b.end(w, r, ID{}, identifier, ReasonBadSignature)
		return
	}
	p, err := dbsc.Parse(dbsc.String(r.Header, dbsc.Response))
	if err != nil || !b.answers(p.Challenge, &d) || !p.SignedBy(d.key) {
		challenge := fmt.Sprintf(`"%s";id="%s"`, b.challenge(&d), identifier)
		w.Header()[dbsc.Challenge] = []string{challenge}
		http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
		return
	}
	if why := b.examine(r, &d); why != "" {
		b.end(w, r, d.id, identifier, why)
		return
	}
	b.m.observe(r.Context(), Event{Kind: EventDeviceRefreshed, ID: d.id})
	if b.m.observer != nil && identifier != b.identify(&d) { // which the browser keeps for as long as its key
		b.m.observe(r.Context(), Event{Kind: EventOldSecret, ID: d.id, Reason: ReasonDevice})
	}
	b.grant(w, r, &d, identifier)
}

// end has the browser forget its key, since the session has ended, or is another device's.
func (b *binder) end(w http.ResponseWriter, r *http.Request, id ID, identifier string, why Reason) {
	b.m.observe(r.Context(), Event{Kind: EventDeviceRefused, ID: id, Reason: why})
	told := dbsc.Instructions{Identifier: identifier, Continue: new(bool)}
	told.Send(w)
}

// A deviceKey is a key for one login with one session.
type deviceKey struct {
	id    ID
	login codec.Login
	key   *dbsc.Key
}

// examine says why the key is not the session's, with one Load; empty if it is, or nobody knows. A session that is bound to
// none may become bound to it.
func (b *binder) examine(r *http.Request, d *deviceKey) Reason {
	if b.hasLeft(r, d.id) {
		return ReasonReplaced
	}
	ctx := newStoreContext(r.Context(), &b.m.storeLimit)
	defer ctx.cancel()
	sl := slot{m: b.m, id: d.id}
	switch err := sl.look(ctx); {
	case b.m.off, err != nil:
		return ""
	case sl.rec.Version == 0:
		return ReasonExpired
	}
	e, err := sl.open()
	device := e.Credential.Device
	switch {
	case err != nil || e.Kind != codec.Session || b.m.encrypt && !e.Encrypted:
		return ReasonEnded
	case e.Credential.Login != d.login, device != (codec.Device{}) && device != d.key.Thumbprint():
		return ReasonReplaced
	}
	return ""
}

// hasLeft reports whether the browser has the cookie of another session by now: the key of the former one would get it a
// cookie that takes the place of the present one's. It looks at all cookies of the name, so that none that a sibling domain
// has planted hides the session's own.
func (b *binder) hasLeft(r *http.Request, id ID) (left bool) {
	var pos cookiePos
	for {
		value, more := pos.next(r.Header, b.m.signer.name)
		if !more {
			return left
		}
		if t, ok := b.m.signer.verify(value); ok {
			if t.id() == id {
				return false
			}
			left = true
		}
	}
}

// grant gives the browser the cookie that proves possession of the key.
func (b *binder) grant(w http.ResponseWriter, r *http.Request, d *deviceKey, identifier string) {
	s := dbsc.Scope{}
	if b.domain != "" { // all hosts of the site share the cookie
		s.Origin, s.IncludeSite = "https://"+b.domain, true
		if _, port, err := net.SplitHostPort(r.Host); err == nil {
			s.Origin += ":" + port
		}
	}
	for _, path := range b.exclude {
		s.Rules = append(s.Rules, dbsc.Rule{Type: "exclude", Domain: "*", Path: path})
	}
	line := b.cookie.cookie(b.prove(d), b.lifetime).String()
	setCookieLine(w.Header(), b.cookie.Name, line, b.removes...)
	if !b.on { // the browser is to keep what it was told
		return
	}
	told := dbsc.Instructions{
		Identifier: identifier,
		RefreshURL: b.path,
		Scope:      &s,
		Cookies:    []dbsc.Cookie{{Type: "cookie", Name: b.cookie.Name, Attributes: b.attributes}},
		Initiators: []string{"*"}, // else links from other sites find the session locked
	}
	told.Send(w)
}

// sign returns shown, with a MAC of bound and it, as text.
func (b *binder) sign(purpose, bound, shown []byte) string {
	sum := b.m.signer.keys[0].sum(purpose, append(bound[:len(bound):len(bound)], shown...))
	return cookieEncoding.EncodeToString(append(shown[:len(shown):len(shown)], sum[:]...))
}

// open is the inverse of sign. It puts what is shown into room.
func (b *binder) open(purpose, bound []byte, text string, room []byte) (shown []byte, ok bool) {
	if cookieEncoding.DecodedLen(len(text)) > len(room)-len(bound) {
		return nil, false
	}
	n, err := cookieEncoding.Decode(room[copy(room, bound):], []byte(text))
	if n -= macSize; err != nil || n < 0 {
		return nil, false
	}
	end := len(bound) + n
	for _, k := range b.m.signer.keys {
		if sum := k.sum(purpose, room[:end]); hmac.Equal(sum[:], room[end:end+macSize]) {
			return room[len(bound):end], true
		}
	}
	return nil, false
}

func (d *deviceKey) append(to []byte) []byte { return append(append(to, d.id[:]...), d.login[:]...) }

// prove returns the value of the cookie that proves possession. It is good for one session and login.
func (b *binder) prove(d *deviceKey) string {
	thumbprint := d.key.Thumbprint()
	shown := binary.BigEndian.AppendUint64(thumbprint[:], uint64(b.m.millis()))
	shown = binary.BigEndian.AppendUint32(shown, uint32(b.lifetime/time.Second))
	return b.sign(b.proofs, d.append(nil), shown)
}

const (
	ownerSize = len(ID{}) + len(codec.Login{})
	proofSize = len(codec.Device{}) + 8 + 4
)

// openProof returns which device the cookie is a proof of, when it was given, and until when it counts.
func (b *binder) openProof(value string, id ID, login codec.Login) (device codec.Device, at, until int64, ok bool) {
	var room [ownerSize + proofSize + macSize + 2]byte
	owner := deviceKey{id: id, login: login}
	shown, ok := b.open(b.proofs, owner.append(make([]byte, 0, ownerSize)), value, room[:])
	if !ok || len(shown) != proofSize {
		return device, 0, 0, false
	}
	copy(device[:], shown)
	at = int64(binary.BigEndian.Uint64(shown[len(device):]))
	return device, at, at + 1000*int64(binary.BigEndian.Uint32(shown[len(device)+8:])), true
}

// offer returns the header's line that offers the browser to bind the session.
func (b *binder) offer(id ID, login codec.Login) string {
	d := deviceKey{id: id, login: login}
	challenge := b.sign(b.offers, nil, binary.BigEndian.AppendUint64(d.append(nil), uint64(b.m.millis())))
	return fmt.Sprintf(`%s;path="%s";challenge="%s"`, dbsc.Algorithms, b.path, challenge)
}

// withdraw removes the manager's offer from the header, and leaves those of others.
func (b *binder) withdraw(header http.Header) {
	header[dbsc.Registration] = slices.DeleteFunc(header[dbsc.Registration], func(line string) bool {
		return strings.Contains(line, `;path="`+b.path+`";`)
	})
	if len(header[dbsc.Registration]) == 0 {
		delete(header, dbsc.Registration)
	}
}

// openOffer returns for which session and login the offer was that the challenge comes from.
func (b *binder) openOffer(challenge string) (d deviceKey, why Reason) {
	var room [ownerSize + 8 + macSize + 2]byte
	shown, ok := b.open(b.offers, nil, challenge, room[:])
	if !ok || len(shown) != ownerSize+8 {
		return d, ReasonBadSignature
	}
	copy(d.login[:], shown[copy(d.id[:], shown):])
	if !b.recent(shown[ownerSize:]) {
		return d, ReasonExpired
	}
	return d, ""
}

// recent reports whether a challenge of that time can still be answered, whichever process it came from.
func (b *binder) recent(at []byte) bool {
	age := time.Duration(b.m.millis()-int64(binary.BigEndian.Uint64(at))) * time.Millisecond
	return age < challengeAge+clockSlack && age > -clockSlack
}

// identify returns the name of the key that the browser sends with each refresh. It has the key in it, so that it is
// found whatever cookies come along, though the record be encrypted, and without a place in the record. Each login has others, so
// that the end of one is not taken for the end of the next.
func (b *binder) identify(d *deviceKey) string {
	return b.sign(b.identifiers, nil, append(d.append(nil), d.key.Bytes()...))
}

func (b *binder) openIdentifier(identifier string) (d deviceKey, ok bool) {
	if len(identifier) > maxIdentifier {
		return d, false
	}
	shown, ok := b.open(b.identifiers, nil, identifier, make([]byte, len(identifier)))
	if !ok || len(shown) < ownerSize {
		return d, false
	}
	copy(d.login[:], shown[copy(d.id[:], shown):])
	var err error
	d.key, err = dbsc.ParseKey(shown[ownerSize:])
	return d, err == nil
}

// challenge returns one for the holder of the key.
func (b *binder) challenge(d *deviceKey) string {
	thumbprint := d.key.Thumbprint()
	return b.sign(b.challenges, append(d.append(nil), thumbprint[:]...), binary.BigEndian.AppendUint64(nil, uint64(b.m.millis())))
}

// answers reports whether the challenge is one for the holder of the key, and not too old.
func (b *binder) answers(challenge string, d *deviceKey) bool {
	var room [ownerSize + len(codec.Device{}) + 8 + macSize + 2]byte
	thumbprint := d.key.Thumbprint()
	at, ok := b.open(b.challenges, append(d.append(nil), thumbprint[:]...), challenge, room[:])
	return ok && len(at) == 8 && b.recent(at)
}
