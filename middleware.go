package session

import (
	"context"
	"crypto/cipher"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Manager gives the requests of a web application their sessions. New returns one; Handler puts it to work.
// It is safe for concurrent use.
type Manager struct {
	store  Store
	signer *signer
	cookie Cookie

	idleTimeout     time.Duration // 0 is never, for this and the next two
	absoluteTimeout time.Duration
	renewEvery      time.Duration
	renewGrace      time.Duration
	touchEvery      time.Duration // 0: a tenth of the session's idle timeout
	storeLimit      timeLimit
	maxSize         int
	encrypt         bool
	indexCiphers    []cipher.AEAD // one a secret
	namespace       string
	maxPerUser      int
	refuseNew       bool
	bind            func(*http.Request) string
	off             bool // the store is a NullStore
	locking         bool
	lockLease       time.Duration
	lockWait        time.Duration
	errorHandler    func(http.ResponseWriter, *http.Request, error)
	logger          *slog.Logger
	observer        func(context.Context, Event)
	clientAddr      func(*http.Request) netip.Addr
	migration       *Migration

	queues  queues
	sweeper sweeper
}

// Handler returns a handler that puts the session of each request into its context and calls next.
//
// The session is loaded when it is first used, and committed once: before the first byte of the response's
// final header leaves, at the first Write, WriteHeader, Flush, ReadFrom or Hijack, or when next returns. If that
// fails, the client gets Options.ErrorHandler's answer instead of next's, and next's writes return an error.
// What next changes later is saved when it returns, or by Session.Save.
//
// A panic of next drops what is not committed yet, and goes on up, but for http.ErrAbortHandler after a failed commit,
// which would cut off ErrorHandler's answer.
//
// The ResponseWriter that next gets is an http.Flusher, http.Hijacker, io.ReaderFrom or http.Pusher if the
// original is, and works with http.ResponseController. A response that sets the cookie is kept out of shared
// caches by Cache-Control; one whose handler used the session gets "Vary: Cookie".
//
// A handler that hijacks the connection and writes the header itself finds the cookie for a new session or a new
// ID in the "Set-Cookie" of the ResponseWriter's Header, and has to send it. The periodic renewal waits for another
// request then, as it does when the client has hung up or http.TimeoutHandler has answered.
func (m *Manager) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.lookup(r.Context()) != nil { // wrapped twice
			next.ServeHTTP(w, r)
			return
		}
		x := &exchange{Context: r.Context(), m: m, w: w, r: r}
		inner := r.WithContext(x)
		if before := w.Header(); len(before) > 0 {
			x.before = before.Clone()
		}
		returned := false
		defer func() {
			defer x.unlock()
			if r.MultipartForm == nil { // net/http removes the temporary files of the request that it knows
				r.MultipartForm = inner.MultipartForm
			}
			if returned || !x.abort() {
				return
			}
			// The client has ErrorHandler's answer. http.ErrAbortHandler, by which httputil.ReverseProxy for one
			// takes leave when Write fails, would cut it off.
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		next.ServeHTTP(x.writer(), inner)
		returned = true
		x.finish()
	})
}

// FromContext returns this manager's session of the request that ctx belongs to, where several managers wrap
// the same request. It panics if m.Handler does not wrap the handler.
func (m *Manager) FromContext(ctx context.Context) *Session {
	if s := m.lookup(ctx); s != nil {
		return s
	}
	panic("session: no session of this manager in the context: wrap the handler with its Handler, and pass on the request's context")
}

func (m *Manager) lookup(ctx context.Context) *Session {
	s, _ := ctx.Value(managerKey{m}).(*Session)
	return s
}

type managerKey struct{ m *Manager }

// HasCookie reports whether the request carries a session cookie that this manager signed, without a look at the
// store: the session may have ended. It is there if Session.ID is not the zero ID. A cookie that is refused is no Event
// here, but when the session is loaded.
func (m *Manager) HasCookie(r *http.Request) bool {
	var pos cookiePos
	var l link
	return m.candidate(r, &pos, &l, false)
}

// candidate sets l's token to that of the next of the request's cookies that passes the check, and moves pos on.
func (m *Manager) candidate(r *http.Request, pos *cookiePos, l *link, observe bool) bool {
	for pos.checked < maxCookies && pos.genuine < maxCandidates {
		value, ok := m.signer.next(r.Header, pos)
		if !ok {
			return false
		}
		pos.checked++
		if m.signer.verify(value, l) {
			pos.genuine++
			return true
		}
		if observe {
			m.observe(r.Context(), Event{Kind: EventCookieRefused, Reason: refusal(value)})
		}
	}
	return false
}

// An exchange is a request and its response. It is the request's context, too.
type exchange struct {
	context.Context
	m       *Manager
	session atomic.Pointer[Session] // nil until somebody asks for it: many requests never do
	w       http.ResponseWriter
	r       *http.Request
	before  http.Header                 // what the header held before the handler
	over    atomic.Bool                 // Handler is about to return, or has
	dropped atomic.Pointer[http.Header] // what the handler has for a header once the error handler has answered

	mu       sync.Mutex
	cookie   *http.Cookie // what the final header is to set; nil: nothing
	others   []string     // names of the cookies that managers within have set
	failed   error        // the error handler answered instead
	answered bool         // and has returned
	sent     bool         // the final header has left, or is about to
	hijacked bool         // by the handler's hand, with the cookie or without
	told     bool         // Save returned the failure
}

// Value makes the session part of the request's context.
func (x *exchange) Value(key any) any {
	switch key := key.(type) {
	case contextKey:
		return x.open()
	case managerKey:
		if key.m == x.m {
			return x.open()
		}
	case exchangeKey:
		return x
	}
	return x.Context.Value(key)
}

// open returns the session, which is loaded when it is first used.
func (x *exchange) open() *Session {
	if s := x.session.Load(); s != nil {
		return s
	}
	x.session.CompareAndSwap(nil, &Session{m: x.m, origin: x})
	return x.session.Load()
}

func (x *exchange) ended() bool { return x.over.Load() }

// unlock gives the session's lock back, if there is one, and sees to it that none is taken any more.
func (x *exchange) unlock() {
	x.over.Store(true)
	if s := x.session.Load(); s != nil {
		s.unlock(x.Context)
	}
}

// String keeps token and values out of what prints the context.
func (x *exchange) String() string {
	if parent, ok := x.Context.(fmt.Stringer); ok {
		return parent.String() + ".WithSession"
	}
	return fmt.Sprintf("%T.WithSession", x.Context)
}

func (x *exchange) context() context.Context { return x.Context }

func (x *exchange) candidate(pos *cookiePos, l *link) bool { return x.m.candidate(x.r, pos, l, true) }

// maxUserAgent is how many bytes of a User-Agent header are kept.
const maxUserAgent = 256

func (x *exchange) client() (addr, agent string) {
	if a := x.m.clientAddr(x.r); a.IsValid() {
		addr = a.String()
	}
	agent = x.r.UserAgent()
	return addr, agent[:min(len(agent), maxUserAgent)]
}

func (x *exchange) binding() []byte {
	if x.m.bind == nil {
		return nil
	}
	return hashBinding(x.m.bind(x.r))
}

// reachable does not hold for a client that hung up, for a request that timed out, nor where the handler writes the
// header itself. x.mu is held.
func (x *exchange) reachable() bool { return !x.hijacked && x.Context.Err() == nil }

// commit is Session.Save: a commit whose failure is the caller's to handle, and the response's too.
func (x *exchange) commit(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, err := x.commitLocked(ctx)
	x.told = x.told || err != nil
	return err
}

// commitLocked commits the session, and takes note of the cookie to set as long as there is a header to do so in. It
// reports whether the response depends on the session. x.mu is held.
func (x *exchange) commitLocked(ctx context.Context) (used bool, err error) {
	s := x.session.Load()
	if s == nil {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	action, err := s.commit(ctx, x.sent)
	if x.sent {
		return s.used, err
	}
	switch action {
	case setCookie:
		age := time.Duration(0)
		if s.persistentCookie() {
			age = maxCookieAge
			if !s.link.expires.IsZero() {
				age = max(time.Until(s.link.expires), time.Second)
			}
		}
		x.cookie = x.m.cookie.cookie(x.m.signer.sign(&s.link.token), age)
	case removeCookie:
		x.cookie = x.m.cookie.cookie("", -1)
	case keepCookie:
		if s.state == gone {
			x.cookie = nil
		}
	}
	return s.used, err
}

// begin commits before the final header leaves. It returns an error if the handler's response must not: the
// error handler has then answered. A cookie that an earlier commit asks for is set all the same, since its ID may be
// the only one that still leads to the session; unless that has ended meanwhile, and the client may have a newer one.
func (x *exchange) begin() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.beginLocked()
}

// beginLocked is begin. x.mu is held.
func (x *exchange) beginLocked() error {
	if x.sent {
		return x.failed
	}
	if x.cookie != nil {
		x.session.Load().confirm()
	}
	used := false
	used, x.failed = x.commitLocked(x.Context)
	x.sent = true
	if x.failed != nil {
		x.dropHeader()
	}
	if x.cookie != nil {
		x.setCookie()
	}
	if used {
		varyCookie(x.w.Header())
	}
	if x.failed != nil {
		x.answerError()
		x.answered = true
		x.dropped.Store(&http.Header{})
	}
	return x.failed
}

// dropHeader removes what the handler did to the header, but for the cookies of other managers: what they lead to has
// been saved, and their old ones may lead nowhere. x.mu is held.
func (x *exchange) dropHeader() {
	header := x.w.Header()
	lines := header["Set-Cookie"]
	clear(header)
	maps.Copy(header, x.before)
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		if slices.Contains(x.others, name) && !slices.Contains(header["Set-Cookie"], line) {
			header["Set-Cookie"] = append(header["Set-Cookie"], line)
			notShared(header)
		}
	}
}

// within takes note of the cookie that a manager within has set. It is not called with x.mu held, but with that one's.
func (x *exchange) within(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.others = append(x.others, name)
	x.tellOuter(name)
}

// tellOuter tells the manager around this one, if there is one, of a cookie.
func (x *exchange) tellOuter(name string) {
	if outer, ok := x.Context.Value(exchangeKey{}).(*exchange); ok {
		outer.within(name)
	}
}

type exchangeKey struct{}

// goBack takes back the first begin, after which nothing has left: the response cannot do what the handler tried.
func (x *exchange) goBack() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed == nil {
		x.sent, x.hijacked = false, false
		x.unsetCookie()
	}
}

// begun reports whether the final header has left, or is about to.
func (x *exchange) begun() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent
}

// answerError has the error handler answer. Where it writes nothing, net/http would send the 200 of a success.
func (x *exchange) answerError() {
	answer := &errorAnswer{ResponseWriter: x.w, controls: controls{x.w}}
	x.m.errorHandler(answer, x.r, x.failed)
	if !answer.given {
		x.m.answerError(x.w, x.r, x.failed)
	}
}

// An errorAnswer is the ResponseWriter that the error handler gets.
type errorAnswer struct {
	http.ResponseWriter
	controls
	given bool // something was written, or may have been
}

func (a *errorAnswer) WriteHeader(status int) {
	a.given = a.given || status >= 200
	a.ResponseWriter.WriteHeader(status)
}

func (a *errorAnswer) Write(b []byte) (int, error) {
	a.given = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController, which can flush and hijack, if not through this.
func (a *errorAnswer) Unwrap() http.ResponseWriter {
	a.given = true
	return a.ResponseWriter
}

// beginHijack is begin for a handler that takes the connection.
func (x *exchange) beginHijack() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hijacked = !x.sent
	return x.beginLocked()
}

// finish commits what is not committed yet when the handler has returned.
func (x *exchange) finish() {
	x.over.Store(true)
	x.mu.Lock()
	defer x.mu.Unlock()
	sent := x.sent
	if !sent {
		x.beginLocked()
	}
	x.dropTrailers()
	if !sent {
		return
	}
	if _, err := x.commitLocked(x.Context); err != nil && x.failed == nil && !x.told {
		x.m.observe(x.Context, Event{Kind: EventLost, ID: x.session.Load().ID(), Op: "commit", Err: err})
	}
}

// dropTrailers removes the trailers that the handler set after it had failed: they go with the body. x.mu is held.
func (x *exchange) dropTrailers() {
	if x.failed == nil {
		return
	}
	maps.DeleteFunc(x.w.Header(), func(name string, _ []string) bool {
		_, had := x.before[name]
		return !had && strings.HasPrefix(name, http.TrailerPrefix)
	})
}

// abort drops what is not committed yet. What Save committed still gets its cookie, if somebody above answers. It
// reports whether the error handler has answered.
func (x *exchange) abort() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropTrailers()
	if !x.sent && x.cookie != nil {
		x.setCookie()
		varyCookie(x.w.Header())
	}
	if s := x.session.Load(); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changes, s.ended, s.todo = nil, nil, 0
	}
	return x.answered
}

// Close stops the background work of the manager and waits until it has ended. Requests may still be served.
// The store stays open: close it next.
func (m *Manager) Close() error {
	m.sweeper.close()
	return nil
}
