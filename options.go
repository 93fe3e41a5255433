package session

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/session/internal/codec"
)

// Never switches a timeout or an interval off.
const Never time.Duration = math.MinInt64

// longest is the longest duration: a few of them can be added up, and what expires that much later does so at a time that
// every store keeps exactly.
const longest = 100 * 365 * 24 * time.Hour

const (
	// usualAbsolute is the AbsoluteTimeout that is not set.
	usualAbsolute = 24 * time.Hour
	// minSize is the least MaxSize, of which a record needs 600 bytes for itself.
	minSize = 1 << 10
	// minLease is the least LockLease: a third of it has to do for a save, on a machine that is busy.
	minLease = 100 * time.Millisecond
)

// Options changes what a Manager does. The zero value, and a nil *Options, are the defaults, which are meant to
// be right for most applications. A duration beyond 100 years counts as 100 years. The fields are read by New and not
// afterwards.
type Options struct {
	// PreviousSecrets are secrets that were in use before: a cookie that one of them signed is accepted, and
	// signed with the current secret by the next save. A secret that leaked does not belong here: with an old copy of a
	// cookie, it makes a new one. To change the secret, put the new one in its place
	// and the old one here until the sessions of its time have ended. Where several processes are restarted one after
	// the other, add the new one here first, in all of them, and exchange the two when that is done: a process that
	// does not know a secret takes its cookies for forged, and the sessions for unknown.
	PreviousSecrets [][]byte

	// Cookie is the look of the session cookie.
	Cookie Cookie
	// TokenHeader names a header that carries the token instead of the cookie, Session-Token for instance, for native and
	// mobile applications and for APIs. A request with that header, empty as long as the client has no token, is such a
	// client's: it gets its tokens in the response's header of the same name, an empty one when its session has ended, and
	// cookies are neither read nor set. A request without it is a browser's. A token from one is refused in the other.
	// Empty means that there are cookies alone. Managers that meet in one request need different headers. See CLIENTS.md.
	TokenHeader string

	// IdleTimeout ends a session that is not used for so long; 0 means 15 minutes. Never leaves it to
	// AbsoluteTimeout, and so would a longer one: New refuses that. (OWASP Session Management Cheat Sheet; ASVS 5.0, 7.3.1.)
	IdleTimeout time.Duration
	// AbsoluteTimeout ends a session that long after it began, used or not; 0 means 24 hours. Never lets a
	// session live for as long as it is used. (ASVS 5.0, 7.3.2.)
	AbsoluteTimeout time.Duration
	// RenewInterval is how old a session's cookie gets before it is renewed; 0 means 4 minutes. Never leaves that to
	// Session.SetUser and Session.Regenerate. The cookie before is accepted until the client has shown the new one in a
	// request that saves, and RenewGrace and a minute longer, so that a response that gets lost logs nobody out. As long
	// as it is accepted, there is no other renewal.
	RenewInterval time.Duration
	// RenewGrace is for how long a request may be under way; 0 means 30 seconds. For so long, and a minute longer since
	// clocks differ, a cookie is accepted once a newer one was shown. For so long, the cookie of a session that ended, or
	// that SetUser or Regenerate replaced, is told from one that leads nowhere: it gets an empty session, and no request
	// that only reads gets an error or another cookie. A change gets ErrGone for 5 seconds, or for RenewGrace if that is
	// shorter, and begins a new session after that.
	RenewGrace time.Duration
	// EndOnReuse says what happens when somebody shows a cookie that is no longer accepted, since a newer one of the
	// session was shown: two clients have copies of it, and one of them is likely a thief. False lets it lead to no
	// session, and reports EventReused; true ends the session for both as well, as OAuth does with refresh tokens (RFC
	// 9700 section 4.14).
	EndOnReuse bool
	// TouchInterval is how old the recorded time of the last use has to be before a request that changes
	// nothing records a new one; 0 means a tenth of the session's idle timeout. It must be shorter than IdleTimeout;
	// for a session whose own idle timeout is not longer, a tenth of that applies.
	TouchInterval time.Duration

	// StoreTimeout bounds the time that loading or committing a session takes; 0 means 5 seconds. An operation on
	// all sessions of a user, such as a login beyond MaxSessionsPerUser, has as much for each of them. The
	// store's context may end up to a 64th of it earlier.
	StoreTimeout time.Duration
	// MaxSize is the size in bytes that a session's record must not exceed, 1 KiB at least; 0 means 1 MiB. Beside the values and
	// their keys, a record holds less than 600 bytes of its own. It also bounds the list of a user's sessions, to
	// some thousand for 1 MiB: beyond, a login is one beyond MaxSessionsPerUser. A store that takes less than 1 MiB
	// asks for less here.
	MaxSize int
	// SweepInterval is how often expired sessions are removed from a store that is a Sweeper; 0 means every
	// 5 minutes. Never leaves it to DeleteExpired.
	SweepInterval time.Duration

	// EncryptAtRest encrypts what the store holds of a session with AES-256-GCM, under a key that is derived from
	// the secret and the client's cookie: a copy of the store, a backup of it, or its operator reads nothing of it
	// without both, and can exchange nothing between records, but can put back what the same record held before. The
	// lists of users' sessions are encrypted under the secret alone. Two things stay readable: which cookies a record
	// accepts, by hashes and times, and when a session ended. False stores values as they are. To switch it on logs
	// everybody out, since nothing that is not encrypted is trusted any more; to switch it off does not.
	EncryptAtRest bool

	// MaxSessionsPerUser limits how many sessions a user can have at the same time, see Session.SetUser; zero
	// means no limit but that of MaxSize.
	MaxSessionsPerUser int
	// RefuseNewSessions says what happens at a login beyond MaxSessionsPerUser: false ends the user's oldest
	// session, true answers the login with ErrTooManySessions. It needs MaxSessionsPerUser.
	RefuseNewSessions bool

	// Bind computes from a request what a session is bound to when it is created: a request for which it computes
	// something else gets a new session instead, and the owner's stays as it is. Nil binds to nothing. See
	// BindUserAgent, BindNetwork and BindAll.
	Bind func(*http.Request) string

	// Device binds the sessions of those who are logged in to their devices, where the browser can. Nil binds none.
	Device *DeviceBinding

	// Locking locks each session when it is first used, until its request has ended, so that requests of one
	// session run one after the other, see Session.Lock. A request whose session cannot be locked fails, unless it
	// ends the session. False leaves locking to Session.Lock; most applications need neither.
	Locking bool
	// LockLease is how long a lock holds when its process stands still or dies; a living one prolongs it. 0 means
	// 30 seconds; 100 milliseconds is the least.
	LockLease time.Duration
	// LockWait is how long a request waits for a lock; 0 means 10 seconds.
	LockWait time.Duration

	// Namespace keeps the records that belong to no session (the sessions of a user, locks) apart from those of
	// other managers on the same store; empty means the cookie's name. Managers with the same namespace see the
	// same users.
	Namespace string

	// ErrorHandler answers a request whose session could not be loaded or saved, in place of the handler,
	// whose header and body are dropped, see Manager.Handler. The header says that no cache is to keep the answer. It must not
	// use the session. Nil, or one that writes nothing, means a plain text answer with the status of HTTPStatus.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
	// Logger is told of what went wrong and no response could say, and once of each use of the package that does less than
	// it seems to, with the request's context less the session; nil means slog.Default().
	Logger *slog.Logger
	// Observer is called for each Event, on the goroutine that it happens on, and must be quick and safe for
	// concurrent use. It gets the request's context less the session, which it must not use; in the background, that of the
	// sweep has nothing of a request. A panic of it there ends the process. Nil means none.
	Observer func(context.Context, Event)

	// ClearSiteData is what a browser is told to clear at logout, that is by the response to a request that called
	// Session.Destroy, and so ended the session or removed the cookie of one that had ended before: "cache", "cookies",
	// "storage" and what else the header of that name knows, or "*" for all (W3C Clear Site Data; browsers obey it over TLS
	// alone). "cookies" ends device-bound sessions as well, and takes all cookies of the site and its subdomains along, one
	// that the same response sets included. Empty means that the session's cookie is removed, and no more. A client with
	// TokenHeader is told nothing.
	ClearSiteData []string

	// Disabled switches sessions off without a change to the handlers: each request has a new and empty session,
	// saving it does nothing, and no cookie is sent. The store may be nil then, and is not used. Nothing can be
	// listed, inspected or ended; that finds nothing.
	Disabled bool

	// Migration takes over the sessions of the session system that the application used before. Nil means that there
	// is none.
	Migration *Migration

	// ClientAddr returns the address of the client behind a request. Nil means that of the connection, which
	// behind a proxy is the proxy's: trust a forwarded header only if every request comes through a proxy
	// that sets it.
	ClientAddr func(*http.Request) netip.Addr
}

// New returns a manager of the sessions in store. The secret signs the cookies: at least 32 bytes from a
// cryptographic random generator, the same in all processes that share the store, kept like a password. opts may
// be nil. New checks everything and returns all that is wrong, joined.
//
// Line ends at the end of a secret that is text are no part of it, so that it is the same from a file and from a variable. A
// secret with control characters elsewhere is taken as it is: those are random bytes.
//
// The manager removes expired sessions in the background until Close. It does not close the store.
func New(store Store, secret []byte, opts *Options) (*Manager, error) {
	if opts == nil {
		opts = new(Options)
	}
	var f faults
	secrets := [][]byte{withoutLineEnds(secret)}
	for _, previous := range opts.PreviousSecrets {
		secrets = append(secrets, withoutLineEnds(previous))
	}
	cookie := f.identity(store, secrets, opts)
	m := &Manager{
		store:        store,
		cookie:       cookie,
		tokenHeader:  f.tokenHeader(opts.TokenHeader),
		timing:       f.timing(opts),
		endOnReuse:   opts.EndOnReuse,
		storeLimit:   timeLimit{timeout: f.duration("StoreTimeout", opts.StoreTimeout, 5*time.Second, false)},
		maxSize:      cmp.Or(f.number("MaxSize", opts.MaxSize), 1<<20),
		encrypt:      opts.EncryptAtRest,
		maxPerUser:   f.number("MaxSessionsPerUser", opts.MaxSessionsPerUser),
		refuseNew:    opts.RefuseNewSessions,
		bind:         opts.Bind,
		off:          opts.Disabled,
		locking:      opts.Locking,
		lockLease:    f.duration("LockLease", opts.LockLease, 30*time.Second, false),
		lockWait:     f.duration("LockWait", opts.LockWait, 10*time.Second, false),
		namespace:    cmp.Or(opts.Namespace, cookie.Name),
		errorHandler: opts.ErrorHandler,
		logger:       cmp.Or(opts.Logger, slog.Default()),
		observer:     opts.Observer,
		clientAddr:   opts.ClientAddr,
		clearData:    f.clearData(opts.ClearSiteData),
		migration:    f.migration(opts, cookie.Name),
	}
	m.binder = f.device(m, opts)
	f.idle(opts)
	sweepEvery := f.duration("SweepInterval", opts.SweepInterval, 5*time.Minute, true)
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	m.persistent = cookie.Persistent
	keys := make([]*macKey, len(secrets))
	for i, s := range secrets {
		keys[i] = newMacKey(s)
		m.indexCiphers = append(m.indexCiphers, codec.NewIndexCipher(s))
	}
	m.signer, m.bearer = newCookieSigner(cookie, keys), newSigner("bearer", cookie.Name, keys)
	if m.errorHandler == nil {
		m.errorHandler = m.answerError
	}
	if m.clientAddr == nil {
		m.clientAddr = connectionAddr
	}
	if m.off {
		m.store = nullStore{}
	}
	m.sweep(sweepEvery)
	return m, nil
}

// Faults are all that is wrong with the arguments of New.
type faults []error

func (f *faults) add(format string, args ...any) {
	*f = append(*f, fmt.Errorf("session: "+format, args...))
}

// withoutLineEnds returns a secret less the line ends at its end, if it is text.
func withoutLineEnds(secret []byte) []byte {
	text := bytes.TrimRight(secret, lineEnds)
	if !utf8.Valid(text) || bytes.ContainsFunc(text, unicode.IsControl) {
		return secret
	}
	return text
}

// identity checks what cookies are made of, and returns the cookie with its defaults filled in. The first of the secrets is
// the one that signs.
func (f *faults) identity(store Store, secrets [][]byte, opts *Options) Cookie {
	if store == nil && !opts.Disabled {
		f.add("New needs a store")
	}
	for i, s := range secrets {
		switch {
		case len(s) >= minSecret:
		case i == 0:
			f.add("the secret has %d bytes; it needs at least %d", len(s), minSecret)
		default:
			f.add("Options.PreviousSecrets[%d] has %d bytes; it needs at least %d", i-1, len(s), minSecret)
		}
	}
	cookie, err := opts.Cookie.check()
	if err != nil {
		*f = append(*f, err)
	}
	return cookie
}

func (f *faults) timing(opts *Options) timing {
	t := timing{
		idleTimeout:     f.duration("IdleTimeout", opts.IdleTimeout, 15*time.Minute, true),
		absoluteTimeout: f.duration("AbsoluteTimeout", opts.AbsoluteTimeout, usualAbsolute, true),
		renewEvery:      f.duration("RenewInterval", opts.RenewInterval, 4*time.Minute, true),
		renewGrace:      f.duration("RenewGrace", opts.RenewGrace, 30*time.Second, false),
		touchEvery:      f.duration("TouchInterval", opts.TouchInterval, 0, false),
	}
	if t.idleTimeout > 0 && t.touchEvery >= t.idleTimeout {
		f.add("Options.TouchInterval is %v: sessions in use would end, it must be shorter than the IdleTimeout of %v", t.touchEvery, t.idleTimeout)
	}
	return t
}

// idle finds what is accepted and would do nothing, or let nothing be done.
func (f *faults) idle(opts *Options) {
	if idle, limit := opts.IdleTimeout, cmp.Or(opts.AbsoluteTimeout, usualAbsolute); idle > limit && limit > 0 {
		f.add("Options.IdleTimeout is %v: sessions would end before, after the AbsoluteTimeout of %v", idle, limit)
	}
	if opts.RefuseNewSessions && opts.MaxSessionsPerUser == 0 {
		f.add("Options.RefuseNewSessions is set without MaxSessionsPerUser: no session would be refused")
	}
	if opts.EndOnReuse && opts.RenewInterval == Never {
		f.add("Options.EndOnReuse is set with a RenewInterval of Never: no cookie would be known to be reused")
	}
	if d := opts.LockLease; d > 0 && d < minLease {
		f.add("Options.LockLease is %v: a lock would be lost before the store has prolonged it, it must be %v at least", d, minLease)
	}
	if n := opts.MaxSize; n > 0 && n < minSize {
		f.add("Options.MaxSize is %d: a session hardly fits, it must be %d at least", n, minSize)
	}
}

// duration returns an option's value: its default for 0, and 0 for Never where that is possible.
func (f *faults) duration(name string, d, usual time.Duration, canBeOff bool) time.Duration {
	switch {
	case d == 0:
		return usual
	case d == Never && canBeOff:
		return 0
	case d < time.Millisecond:
		f.add("Options.%s is %v: a duration is a millisecond at least", name, d)
	}
	return min(d, longest)
}

func (f *faults) number(name string, n int) int {
	if n < 0 {
		f.add("Options.%s is negative", name)
	}
	return n
}

// clearData returns the value of the header Clear-Site-Data.
func (f *faults) clearData(types []string) string {
	var quoted []string
	for _, t := range types {
		if t == "" || strings.ContainsFunc(t, func(r rune) bool { return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) && r != '*' }) {
			f.add("Options.ClearSiteData: %q is no type of data, such as cache, cookies or storage", t)
		}
		quoted = append(quoted, `"`+t+`"`)
	}
	return strings.Join(quoted, ", ")
}

func (f *faults) migration(opts *Options, cookie string) *Migration {
	if opts.Migration == nil {
		return nil
	}
	m, err := opts.Migration.check(cookie)
	if err != nil {
		*f = append(*f, err)
	}
	return m
}

// connectionAddr returns the address at the other end of the request's connection.
func connectionAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, _ := netip.ParseAddr(host)
	return addr
}

// HTTPStatus returns the status that the default of Options.ErrorHandler answers an error of a session with: 409 Conflict for
// ErrGone and ErrLockLost, 403 Forbidden for ErrTooManySessions, 500 Internal Server Error for a fault of the program
// (ErrTooLarge, a value that cannot be encoded), and 503 Service Unavailable for everything else, which came from the store,
// and for ErrUnproven. Of no error, it is 200 OK.
func HTTPStatus(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, ErrGone), errors.Is(err, ErrLockLost):
		return http.StatusConflict
	case errors.Is(err, ErrTooManySessions):
		return http.StatusForbidden
	case errors.Is(err, ErrTooLarge), errors.Is(err, errProgram):
		return http.StatusInternalServerError
	}
	return http.StatusServiceUnavailable
}

// answerError is the default of Options.ErrorHandler.
func (m *Manager) answerError(w http.ResponseWriter, r *http.Request, err error) {
	status := HTTPStatus(err)
	if status >= 500 && !errors.Is(err, ErrUnproven) {
		m.logger.ErrorContext(r.Context(), "session: request failed", "status", status, "err", err,
			"method", r.Method, "host", r.Host, "path", r.URL.Path, "store", fmt.Sprintf("%T", m.store))
	}
	http.Error(w, http.StatusText(status), status)
}

// errProgram marks faults of the program that uses the package.
var errProgram = errors.New("session: mistake of the program")

func tooLarge(size, limit int) error {
	return fmt.Errorf("session: a record of %d bytes exceeds Options.MaxSize, %d: %w", size, limit, ErrTooLarge)
}

// A nullStore keeps nothing: it takes the place of the store where sessions are switched off.
type nullStore struct{}

func (nullStore) Load(context.Context, ID) (Record, error) { return Record{}, ErrNotFound }
func (nullStore) Save(context.Context, ID, Record) error   { return nil }
func (nullStore) Delete(context.Context, ID) error         { return nil }
