package session

import (
	"cmp"
	"context"
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
	"unicode/utf8"

	"example.com/session/internal/codec"
	"example.com/session/internal/dbsc"
)

// A Manager gives the requests of a web application their sessions. New returns one; Handler puts it to work.
// It is safe for concurrent use.
type Manager struct {
	store       Store
	signer      *cookieSigner
	cookie      Cookie
	bearer      signer // of tokens that travel in no cookie
	tokenHeader string

	timing
	endOnReuse   bool
	storeLimit   timeLimit
	maxSize      int
	encrypt      bool
	indexCiphers []*codec.Cipher // one a secret
	namespace    string
	maxPerUser   int
	refuseNew    bool
	bind         func(*http.Request) string
	binder       *binder
	off          bool // sessions are
	locking      bool
	lockLease    time.Duration
	lockWait     time.Duration
	errorHandler func(http.ResponseWriter, *http.Request, error)
	logger       *slog.Logger
	observer     func(context.Context, Event)
	clientAddr   func(*http.Request) netip.Addr
	migration    *Migration
	clearData    string           // at logout
	clock        func() time.Time // nil: time.Now

	queues  queues
	sweeper sweeper
	advised sync.Map // texts that the logger was told
}

// Handler returns a handler that puts the session of each request into its context and calls next.
//
// The session is loaded when it is first used, and committed once: before the first byte of the response's
// final header leaves, at the first Write, WriteHeader, Flush, ReadFrom or Hijack, or when next returns. If that
// fails, the client gets Options.ErrorHandler's answer instead of next's, and next's writes return an error. Of the header
// that next and middleware within have set, what lets a browser read that answer stays: CORS, HSTS, CSP and other policies,
// Vary, a request ID. Set anything else that errors are to have outside.
// Later changes are saved when next returns, or by Session.Save.
//
// A panic of next drops what is not committed yet, and goes on up, but for http.ErrAbortHandler after a failed commit,
// which would cut off ErrorHandler's answer.
//
// The ResponseWriter that next gets is an http.Flusher, http.Hijacker, io.ReaderFrom or http.Pusher if the
// original is, and works with http.ResponseController. A response that sets the cookie is kept out of shared
// caches by Cache-Control and the headers that some of them go by instead (RFC 9213, Surrogate-Control, Edge-Control,
// X-Accel-Expires); one whose handler used the session gets "Vary: Cookie".
//
// The request that next gets is a copy. The Pattern, path values and parsed forms that it is given there are in the
// original as well when Handler returns, for middleware outside.
//
// A handler that hijacks the connection and writes the header itself finds the cookie for a new session or a new key in the
// "Set-Cookie" of the ResponseWriter's Header, or the token in Options.TokenHeader, and has to send it. The periodic renewal
// waits for another request then, as it does when the client has hung up or http.TimeoutHandler has answered.
func (m *Manager) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.binder.serves(r) {
			m.binder.ServeHTTP(w, r)
			return
		}
		if r.Context().Value(managerKey{m}) != nil { // wrapped twice, or by the error handler
			next.ServeHTTP(w, r)
			return
		}
		x := &exchange{Context: r.Context(), m: m, w: w, r: r, start: m.millis(), inHeader: m.inHeader(r)}
		inner := r.WithContext(x)
		if before := w.Header(); len(before) > 0 {
			x.before = before.Clone()
		}
		returned := false
		defer func() {
			defer x.leave()
			bringBack(r, inner)
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

// bringBack puts into the request what net/http has put into the one that the handler got. The server removes the
// temporary files of the one that it knows, and middleware around the manager names routes by its Pattern. Nothing else is
// written, since a goroutine of theirs may be reading.
func bringBack(r, inner *http.Request) {
	if r.Pattern != inner.Pattern {
		r.Pattern = inner.Pattern
	}
	for _, rest, ok := strings.Cut(inner.Pattern, "{"); ok; _, rest, ok = strings.Cut(rest, "{") {
		name := rest[:max(0, strings.IndexAny(rest, ".:}"))] // the colon is other routers'
		if v := inner.PathValue(name); v != r.PathValue(name) {
			r.SetPathValue(name, v)
		}
	}
	if r.Form == nil && inner.Form != nil {
		r.Form = inner.Form
	}
	if r.PostForm == nil && inner.PostForm != nil {
		r.PostForm = inner.PostForm
	}
	if r.MultipartForm == nil && inner.MultipartForm != nil {
		r.MultipartForm = inner.MultipartForm
	}
}

// FromContext returns this manager's session of the request that ctx belongs to, where several managers wrap
// the same request. It panics if m.Handler does not wrap the handler.
func (m *Manager) FromContext(ctx context.Context) *Session {
	if s := m.lookup(ctx); s != nil {
		return s
	}
	panic(without(ctx.Value(managerKey{m}), "session: no session of this manager in the context: wrap the handler with its Handler, and pass on the request's context"))
}

func (m *Manager) lookup(ctx context.Context) *Session {
	s, _ := ctx.Value(managerKey{m}).(*Session)
	return s
}

type managerKey struct{ m *Manager }

// now returns the time.
func (m *Manager) now() time.Time {
	if m.clock != nil {
		return m.clock()
	}
	return time.Now()
}

// millis returns the time in Unix milliseconds.
func (m *Manager) millis() int64 { return m.now().UnixMilli() }

// An exchange is a request and its response. It is the request's context, too.
type exchange struct {
	context.Context
	m        *Manager
	session  atomic.Pointer[Session] // nil until somebody asks for it: many requests never do
	w        http.ResponseWriter
	r        *http.Request
	before   http.Header                 // what the header held before the handler
	start    int64                       // when it was received, in Unix milliseconds
	inHeader bool                        // the client has its token in a header
	over     atomic.Bool                 // Handler is about to return, or has
	sent     atomic.Bool                 // the final header has left, or is about to; set by whoever holds mu
	dropped  atomic.Pointer[http.Header] // what the handler has for a header once the error handler has answered

	mu       sync.Mutex
	others   []string // names of the cookies, or headers, that managers within have set
	failed   error    // the error handler answered instead
	answered bool     // and has returned
	hijacked bool     // by the handler's hand, with the cookie or without
	told     bool     // Save returned the failure
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
	x.session.CompareAndSwap(nil, &Session{core: core{m: x.m, origin: x, bare: x.inHeader}})
	return x.session.Load()
}

func (x *exchange) ended() bool { return x.over.Load() }

func (x *exchange) tooLate() bool { return x.sent.Load() }

// leave gives the session's lock back, if there is one, sees to it that none is taken any more, and tells those outside
// who was logged in.
func (x *exchange) leave() {
	x.over.Store(true)
	if s := x.session.Load(); s != nil {
		s.unlock(x.Context)
		s.tellUser(x.Context)
	}
}

// String keeps token and values out of what prints the context.
func (x *exchange) String() string { return describeContext(x.Context) }

func describeContext(parent context.Context) string {
	if parent, ok := parent.(fmt.Stringer); ok {
		return parent.String() + ".WithSession"
	}
	return fmt.Sprintf("%T.WithSession", parent)
}

func (x *exchange) context() context.Context { return x.Context }

func (x *exchange) began() int64 { return x.start }

func (x *exchange) tokens() (first token, ok bool, others []token) {
	return x.m.tokens(x.r, x.inHeader, true)
}

// maxUserAgent is how many bytes of a User-Agent header are kept.
const maxUserAgent = 256

func (x *exchange) client() (addr, agent string) {
	return describeClient(x.m.clientAddr(x.r), x.r.UserAgent())
}

// describeClient returns what a session keeps of a client's address and User-Agent.
func describeClient(from netip.Addr, userAgent string) (addr, agent string) {
	if from.IsValid() {
		addr = from.String()
	}
	if agent = userAgent; len(agent) > maxUserAgent {
		end := maxUserAgent
		for end > maxUserAgent-utf8.UTFMax && !utf8.RuneStart(agent[end]) { // not within a character
			end--
		}
		agent = agent[:end]
	}
	return addr, agent
}

func (x *exchange) binding() []byte {
	if x.m.bind == nil {
		return nil
	}
	ctx := context.WithValue(x.r.Context(), clientAddrKey{}, x.m.clientAddr)
	return hashBinding(x.m.bind(x.r.WithContext(ctx)))
}

// commit is Session.Save: a commit whose failure is the caller's to handle, and the response's too.
func (x *exchange) commit(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.session.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := x.header()
	if x.over.Load() { // also after a panic, when nothing has left
		h = headerSent
	}
	err := s.core.commit(ctx, h)
	x.told = x.told || err != nil
	return err
}

// header says whether the response can set a cookie. It will hardly reach a client that hung up, nor one whose request
// timed out, nor may a handler send it that writes the header itself.
func (x *exchange) header() header {
	switch {
	case x.sent.Load():
		return headerSent
	case x.hijacked || x.Context.Err() != nil:
		return headerLost
	}
	return headerOpen
}

// begin commits before the final header leaves. It returns an error if the handler's response must not: the error
// handler has then answered.
func (x *exchange) begin() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.beginOnce()
}

// beginOnce is begin in whoever holds x.mu.
func (x *exchange) beginOnce() error {
	if x.sent.Load() {
		return x.failed
	}
	if s := x.session.Load(); s != nil {
		x.failed = x.beginWith(s)
	} else {
		x.sent.Store(true)
	}
	if x.failed != nil {
		x.answerError()
		x.answered = true
		x.dropped.Store(&http.Header{})
	}
	return x.failed
}

// beginWith commits the session, and puts into the header what the client is to know of it.
func (x *exchange) beginWith(s *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.core.commit(x.Context, x.header())
	x.sent.Store(true)
	if err != nil {
		s.core.prove(x.Context)
		x.dropHeader()
	}
	x.setToken(&s.core)
	if s.core.used {
		x.vary()
	}
	return err
}

// dropHeader removes what the handler did to the header, but for what lets a browser read the answer to the error, and
// for the tokens of other managers: what they lead to has been saved, and their old ones may lead nowhere.
func (x *exchange) dropHeader() {
	header := x.w.Header()
	lines := header["Set-Cookie"]
	maps.DeleteFunc(header, func(name string, _ []string) bool {
		return !isPolicy(name) && !slices.Contains(x.others, headerField+name)
	})
	for name, lines := range x.before {
		if _, ok := header[name]; !ok {
			header[name] = lines
		}
	}
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		if slices.Contains(x.others, name) && !slices.Contains(header["Set-Cookie"], line) {
			header["Set-Cookie"] = append(header["Set-Cookie"], line)
			notShared(header)
		}
	}
}

// isPolicy reports whether a header says how any response of the site may be read, whatever it answers. net/http.Error
// keeps all but what describes the content, but some of that makes a success of a failure: Location, X-Accel-Redirect, a
// cookie of the application's. So those that stay are listed.
func isPolicy(name string) bool {
	switch name = http.CanonicalHeaderKey(name); name {
	case "Vary", "Strict-Transport-Security", "Content-Security-Policy", "Content-Security-Policy-Report-Only",
		"Permissions-Policy", "Referrer-Policy", "Timing-Allow-Origin", "Origin-Agent-Cluster", "X-Content-Type-Options",
		"X-Frame-Options", "X-Permitted-Cross-Domain-Policies", "X-Xss-Protection", "Reporting-Endpoints", "Report-To", "Nel",
		"X-Request-Id", "X-Correlation-Id", dbsc.Registration: // of managers within, as are their cookies
		return true
	}
	return strings.HasPrefix(name, "Access-Control-") || strings.HasPrefix(name, "Cross-Origin-")
}

// within takes note of the cookie, or header, that a manager within has set.
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
		x.sent.Store(false)
		x.hijacked = false
		x.unsetToken()
	}
}

// begun reports whether the final header has left, or is about to.
func (x *exchange) begun() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent.Load()
}

// answerError has the error handler answer. Where it writes nothing, net/http would send the 200 of a success.
func (x *exchange) answerError() {
	notStored(x.w.Header())
	if x.askAgain() {
		return
	}
	answer := &errorAnswer{ResponseWriter: x.w, controls: controls{x.w}}
	r := x.r.WithContext(failedContext{x.Context, x.m})
	x.m.errorHandler(answer, r, x.failed)
	if !answer.given {
		x.m.answerError(x.w, r, x.failed)
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
	x.hijacked = !x.sent.Load()
	return x.beginOnce()
}

// finish commits what is not committed yet when the handler has returned.
func (x *exchange) finish() {
	x.over.Store(true)
	x.mu.Lock()
	defer x.mu.Unlock()
	sent := x.sent.Load()
	if !sent {
		x.beginOnce()
	}
	x.dropTrailers()
	if !sent {
		return
	}
	s := x.session.Load()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.core.commit(x.Context, headerSent); err != nil && x.failed == nil && !x.told {
		s.core.tell(x.Context, Event{Kind: EventLost, ID: cmp.Or(s.core.slot.id, s.core.own), Op: "commit", Err: err})
	}
}

// dropTrailers removes the trailers that the handler set after it had failed: they go with the body.
func (x *exchange) dropTrailers() {
	if x.failed == nil {
		return
	}
	maps.DeleteFunc(x.w.Header(), func(name string, _ []string) bool {
		_, had := x.before[name]
		return !had && strings.HasPrefix(name, http.TrailerPrefix)
	})
}

// abort drops what is not committed yet. A commit by Save still gets its cookie, if somebody above answers. It
// reports whether the error handler has answered.
func (x *exchange) abort() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropTrailers()
	if s := x.session.Load(); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.core.intent, s.core.proven = intent{}, false
		if !x.sent.Load() {
			s.core.prove(x.Context)
			if x.setToken(&s.core) {
				x.vary()
			}
		}
	}
	return x.answered
}

// Close stops the background work of the manager and waits until it has ended. Requests may still be served.
// The store stays open: close it next.
func (m *Manager) Close() error {
	m.sweeper.close()
	return nil
}
