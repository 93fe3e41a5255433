package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Never switches a timeout or an interval off.
const Never time.Duration = math.MinInt64

// Options changes what a Manager does. The zero value, and a nil *Options, are the defaults, which are meant to
// be right for most applications. The fields are read by New and not afterwards.
type Options struct {
	// PreviousSecrets are secrets that were in use before: a cookie that one of them signed is accepted, and
	// signed with the current secret when it is next sent. To change the secret, put the new one in its place
	// and the old one here until the sessions of its time have ended. Where several processes are restarted one after
	// the other, add the new one here first, in all of them, and exchange the two when that is done: a process that
	// does not know a secret takes its cookies for forged, and the sessions for unknown.
	PreviousSecrets [][]byte

	// Cookie is the look of the session cookie.
	Cookie Cookie

	// IdleTimeout ends a session that is not used for so long; 0 means 15 minutes. Never leaves it to
	// AbsoluteTimeout. (OWASP Session Management Cheat Sheet; ASVS 5.0, 7.3.1.)
	IdleTimeout time.Duration
	// AbsoluteTimeout ends a session that long after it began, used or not; 0 means 24 hours. Never lets a
	// session live for as long as it is used. (ASVS 5.0, 7.3.2.)
	AbsoluteTimeout time.Duration
	// RenewInterval is how long a session keeps an ID before it is given another one; 0 means 4 minutes.
	// Never keeps it until Session.Regenerate.
	RenewInterval time.Duration
	// RenewGrace is how long an ID that was renewed still leads to the session, over 64 further renewals at most, for
	// requests that were sent before their client knew the next one; and how long an ID that was ended is told from one
	// that is unknown. 0 means 30 seconds. A client that did not get the response that renewed its ID loses the session
	// if it does not come back within that time.
	RenewGrace time.Duration
	// TouchInterval is how old the recorded time of the last use has to be before a request that changes
	// nothing records a new one; 0 means a tenth of the session's idle timeout. It must be shorter than IdleTimeout;
	// for a session whose own idle timeout is not longer, a tenth of that applies.
	TouchInterval time.Duration

	// StoreTimeout bounds the time that loading or committing a session takes; 0 means 5 seconds. What looks at all
	// sessions of a user, or ends them, such as a login beyond MaxSessionsPerUser, has as much for each of them. The
	// store's context may end up to a 64th of it earlier.
	StoreTimeout time.Duration
	// MaxSize is the size in bytes that a session's record must not exceed; 0 means 1 MiB. Beside the values and
	// their keys, a record holds less than 600 bytes of its own. It also bounds the list of a user's sessions, to
	// some thousand for 1 MiB: beyond, a login is one beyond MaxSessionsPerUser. A store that takes less than 1 MiB
	// asks for less here.
	MaxSize int
	// SweepInterval is how often expired sessions are removed from a store that is a Sweeper; 0 means every
	// 5 minutes. Never leaves it to DeleteExpired.
	SweepInterval time.Duration

	// EncryptAtRest encrypts what the store holds of a session with AES-256-GCM, under a key that is derived from
	// the token in the client's cookie: a copy of the store, a backup of it, or its operator reads nothing
	// without the cookie, and can exchange nothing. False stores values as they are. To switch it on logs
	// everybody out, since nothing that is not encrypted is trusted any more; to switch it off does not.
	EncryptAtRest bool

	// MaxSessionsPerUser limits how many sessions a user can have at the same time, see Session.SetUser; zero
	// means no limit but that of MaxSize.
	MaxSessionsPerUser int
	// RefuseNewSessions says what happens at a login beyond MaxSessionsPerUser: false ends the user's oldest
	// session, true answers the login with ErrTooManySessions.
	RefuseNewSessions bool

	// Bind computes from a request what a session is bound to when it is created: a request for which it computes
	// something else gets a new session instead, and the owner's stays as it is. Nil binds to nothing. See
	// BindUserAgent, BindNetwork and BindAll.
	Bind func(*http.Request) string

	// Locking locks each session when it is first used, until its request has ended, so that requests of one
	// session run one after the other, see Session.Lock. False leaves locking to Session.Lock; most
	// applications need neither.
	Locking bool
	// LockLease is how long a lock holds when its process stands still or dies; a living one prolongs it. 0 means
	// 30 seconds.
	LockLease time.Duration
	// LockWait is how long a request waits for a lock; 0 means 10 seconds.
	LockWait time.Duration

	// Namespace keeps the records that belong to no session (the sessions of a user, locks) apart from those of
	// other managers on the same store; empty means the cookie's name. Managers with the same namespace see the
	// same users.
	Namespace string

	// ErrorHandler answers a request whose session could not be loaded or saved, in place of the handler,
	// whose header and body are dropped. It must not use the session. Nil, or one that writes nothing, means a plain
	// text answer: 409 Conflict for ErrGone and ErrLockLost; 403 Forbidden for ErrTooManySessions; 500 Internal
	// Server Error for a fault of the program (ErrTooLarge, a value that cannot be encoded); 503 Service Unavailable
	// for a fault of the store.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
	// Logger is told of what went wrong and no response could say, with the request's context less the session; nil
	// means slog.Default().
	Logger *slog.Logger
	// Observer is called for each Event, on the goroutine that it happens on, and must be quick and safe for
	// concurrent use. It gets the request's context less the session, which it must not use. Nil means none.
	Observer func(context.Context, Event)

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
// The manager removes expired sessions in the background until Close. It does not close the store.
func New(store Store, secret []byte, opts *Options) (*Manager, error) {
	if opts == nil {
		opts = new(Options)
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("session: "+format, args...)) }
	if store == nil {
		fault("New needs a store")
	}
	if len(secret) < minSecret {
		fault("the secret has %d bytes; it needs at least %d", len(secret), minSecret)
	}
	for i, s := range opts.PreviousSecrets {
		if len(s) < minSecret {
			fault("Options.PreviousSecrets[%d] has %d bytes; it needs at least %d", i, len(s), minSecret)
		}
	}
	cookie, err := opts.Cookie.check()
	if err != nil {
		errs = append(errs, err)
	}
	// duration returns an option's value: its default for 0, and 0 for Never where that is possible.
	duration := func(name string, d, usual time.Duration, canBeOff bool) time.Duration {
		switch {
		case d == 0:
			return usual
		case d == Never && canBeOff:
			return 0
		case d < time.Millisecond:
			fault("Options.%s is %v: a duration is a millisecond at least", name, d)
		}
		return d
	}
	m := &Manager{
		store:           store,
		signer:          newSigner(cookie.Name, append([][]byte{secret}, opts.PreviousSecrets...)),
		cookie:          cookie,
		idleTimeout:     duration("IdleTimeout", opts.IdleTimeout, 15*time.Minute, true),
		absoluteTimeout: duration("AbsoluteTimeout", opts.AbsoluteTimeout, 24*time.Hour, true),
		renewEvery:      duration("RenewInterval", opts.RenewInterval, 4*time.Minute, true),
		renewGrace:      duration("RenewGrace", opts.RenewGrace, 30*time.Second, false),
		touchEvery:      duration("TouchInterval", opts.TouchInterval, 0, false),
		storeLimit:      timeLimit{timeout: duration("StoreTimeout", opts.StoreTimeout, 5*time.Second, false)},
		maxSize:         opts.MaxSize,
		encrypt:         opts.EncryptAtRest,
		maxPerUser:      opts.MaxSessionsPerUser,
		refuseNew:       opts.RefuseNewSessions,
		bind:            opts.Bind,
		locking:         opts.Locking,
		lockLease:       duration("LockLease", opts.LockLease, 30*time.Second, false),
		lockWait:        duration("LockWait", opts.LockWait, 10*time.Second, false),
		namespace:       cmp.Or(opts.Namespace, cookie.Name),
		errorHandler:    opts.ErrorHandler,
		logger:          opts.Logger,
		observer:        opts.Observer,
		clientAddr:      opts.ClientAddr,
	}
	if m.idleTimeout > 0 && m.touchEvery >= m.idleTimeout {
		fault("Options.TouchInterval is %v: sessions in use would end, it must be shorter than the IdleTimeout of %v", m.touchEvery, m.idleTimeout)
	}
	if opts.Migration != nil {
		m.migration, err = opts.Migration.check(cookie.Name)
		errs = append(errs, err)
	}
	sweepEvery := duration("SweepInterval", opts.SweepInterval, 5*time.Minute, true)
	for _, s := range append([][]byte{secret}, opts.PreviousSecrets...) {
		m.indexCiphers = append(m.indexCiphers, payloadCipher(s))
	}
	switch store.(type) {
	case NullStore, *NullStore:
		m.off = true
	}
	if m.maxPerUser < 0 {
		fault("Options.MaxSessionsPerUser is negative")
	}
	if m.maxSize < 0 {
		fault("Options.MaxSize is negative")
	}
	if m.maxSize == 0 {
		m.maxSize = 1 << 20
	}
	if m.logger == nil {
		m.logger = slog.Default()
	}
	if m.errorHandler == nil {
		m.errorHandler = m.answerError
	}
	if m.clientAddr == nil {
		m.clientAddr = connectionAddr
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m.sweep(sweepEvery)
	return m, nil
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

// answerError is the default of Options.ErrorHandler.
func (m *Manager) answerError(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, ErrGone), errors.Is(err, ErrLockLost):
		status = http.StatusConflict
	case errors.Is(err, ErrTooManySessions):
		status = http.StatusForbidden
	case errors.Is(err, ErrTooLarge), errors.Is(err, errProgram):
		status = http.StatusInternalServerError
	}
	if status >= 500 {
		m.logger.ErrorContext(r.Context(), "session: request failed", "status", status, "err", err)
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}

// errProgram marks faults of the program that uses the package.
var errProgram = errors.New("session: mistake of the program")

func tooLarge(size, limit int) error {
	return fmt.Errorf("session: a record of %d bytes exceeds Options.MaxSize, %d: %w", size, limit, ErrTooLarge)
}
