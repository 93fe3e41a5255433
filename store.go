package session

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Store keeps opaque records under opaque IDs. Saving is a compare-and-swap: of several writers that
// start from the same version exactly one succeeds, across goroutines, processes and machines, and the
// others learn of it. Everything else that this package promises is built on that one rule.
//
// All methods are safe for concurrent use. They return when ctx is done, with an error for which
// errors.Is(err, ctx.Err()) holds, unless they can finish without waiting; whether a Save or Delete that was cut
// short took effect is then unknown. That a method has returned does not end its ctx: what waits for that waits until
// the deadline.
// Any other error than those named below means that the store could not do its work (it is down, full,
// read-only …). An error must name neither a password nor any Data.
//
// Data is shared, never copied: neither the caller nor the store modifies the bytes of a Record that went
// into Save or came out of Load.
//
// Time is the caller's: a store compares Expires with time.Now of the process that calls it, even where a
// server removes expired records by its own clock later on.
//
// Package [example.com/session/sessiontest] checks an implementation against all of this.
type Store interface {
	// Load returns the live record under id, or an error that wraps ErrNotFound.
	Load(ctx context.Context, id ID) (Record, error)

	// Save stores rec as version rec.Version+1 if the live record under id has version rec.Version, or, for
	// version 0, if no live record is there. Otherwise it changes nothing and returns an error that wraps
	// ErrConflict. Save returns an error that wraps ErrTooLarge if rec can never fit; Data of 64 KiB always does.
	// A rec that has expired already is saved like any other, and counts as absent.
	Save(ctx context.Context, id ID, rec Record) error

	// Delete removes the record under id. That there is none is no error.
	Delete(ctx context.Context, id ID) error
}

// A Record is what a Store keeps under an ID.
type Record struct {
	// Version counts the saves of the record, from 1. In a Record passed to Save it is the version that the
	// caller saw; 0 means that it saw none.
	Version uint64
	// Expires is the time from which on the record counts as absent. The zero time means never. Its resolution
	// is one millisecond; a store may drop what is finer. It is exact up to the year 2200; beyond, a store may
	// bring it forward.
	Expires time.Time
	// Data is opaque to the store. It may be empty.
	Data []byte

	cas uint64 // what Memcached calls the unique value; 0 where unknown or of no use
}

// Live reports whether the record does not count as expired at now.
func (r Record) Live(now time.Time) bool {
	return r.Expires.IsZero() || now.Before(r.Expires)
}

// An ID names a record. For a session it is the SHA-256 of the token in the client's cookie, from which the
// token cannot be found: an ID is no secret and safe to log.
type ID [32]byte

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns what String returns.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText sets the ID from 64 hexadecimal digits.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) {
		return fmt.Errorf("session: an ID has %d hexadecimal digits, not %d characters", 2*len(id), len(text))
	}
	var parsed ID
	if _, err := hex.Decode(parsed[:], text); err != nil {
		return fmt.Errorf("session: an ID has hexadecimal digits only: %q", text)
	}
	*id = parsed
	return nil
}

// ParseID returns the ID that String wrote as s.
func ParseID(s string) (ID, error) {
	var id ID
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// The errors that callers tell apart, always with errors.Is. All other errors mean that something failed.
var (
	// ErrNotFound is returned by Store.Load and Touch: no live record is under the ID.
	ErrNotFound = errors.New("session: no such record")
	// ErrConflict is returned by Store.Save and Touch: another writer was first.
	ErrConflict = errors.New("session: record was changed by another writer")
	// ErrTooLarge means that a session exceeds Options.MaxSize, or a record what its store can hold.
	ErrTooLarge = errors.New("session: too large")
	// ErrGone means that the session that a request wanted to change was destroyed, regenerated or expired
	// while the request ran. The default error handler answers 409 Conflict.
	ErrGone = errors.New("session: ended while the request was running")
	// ErrHeaderSent means that a change came too late: it needs a cookie (a new session, a new ID, the end of
	// a session), and the response's header had left.
	ErrHeaderSent = errors.New("session: the response header has left, a cookie can no longer be set")
	// ErrLocked means that another request kept the session locked for longer than Options.LockWait. The default
	// error handler answers 503 Service Unavailable.
	ErrLocked = errors.New("session: locked by another request")
	// ErrLockLost means that the request stood still for longer than Options.LockLease, or that its handler went on
	// after Manager.Handler had returned, as inside http.TimeoutHandler, so that another one may
	// have worked on the session meanwhile. Nothing was saved. The default error handler answers 409 Conflict.
	ErrLockLost = errors.New("session: the lock was lost")
	// ErrTooManySessions means that Options.MaxSessionsPerUser and RefuseNewSessions keep a user from logging in
	// once more. The default error handler answers 403 Forbidden.
	ErrTooManySessions = errors.New("session: the user has too many sessions")
)

// A Toucher is a Store that can move the expiry of a record without writing its data.
type Toucher interface {
	Store
	// Touch sets the expiry of the live record under id to rec.Expires, if its version is rec.Version, and
	// keeps version and data. rec is a record as Load returned it, with another Expires; if it is not, the
	// result may be ErrConflict. It returns an error
	// that wraps ErrNotFound if no live record is there, ErrConflict if it has another version, and
	// errors.ErrUnsupported if a store that this one wraps is no Toucher.
	Touch(ctx context.Context, id ID, rec Record) error
}

// A Sweeper is a Store whose expired records take up room until somebody removes them.
type Sweeper interface {
	Store
	// DeleteExpired removes at most limit records that have expired, and returns how many it removed: fewer
	// than limit if none is left. One call is one short step that holds nobody up for long. It returns
	// errors.ErrUnsupported if a store that this one wraps is no Sweeper.
	DeleteExpired(ctx context.Context, limit int) (int, error)
}

// A Lister is a Store that can go through its records without blocking its other users.
type Lister interface {
	Store
	// List goes through the live records, in no particular order. A record that is saved, created or deleted
	// meanwhile may be seen or not; every other one is seen exactly once. After the first error, which comes
	// with a zero Entry, the sequence ends. It yields errors.ErrUnsupported if a store that this one wraps is
	// no Lister.
	List(ctx context.Context) iter.Seq2[Entry, error]
	// Count returns the number of live records, at the price of List or less.
	Count(ctx context.Context) (int, error)
}

// An Entry is a Record with its ID, as List returns it.
type Entry struct {
	ID     ID
	Record Record
}

// sweepBatch is how many records one step of a removal takes: few enough for a server to remove between two
// requests, many enough to outrun what expires.
const sweepBatch = 1000

// Touch moves the expiry of the record under id to rec.Expires, as described at Toucher. Where store is no
// Toucher, it saves rec as a new version instead, and a record that is not there is an ErrConflict.
func Touch(ctx context.Context, store Store, id ID, rec Record) error {
	if t, ok := store.(Toucher); ok {
		if err := t.Touch(ctx, id, rec); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return store.Save(ctx, id, rec)
}

// DeleteExpired removes all records of store that have expired, in batches, and returns how many it removed.
// It returns an error that wraps errors.ErrUnsupported if store is no Sweeper; most often that means that its
// server removes them by itself.
func DeleteExpired(ctx context.Context, store Store) (int, error) {
	sweeper, ok := store.(Sweeper)
	if !ok {
		return 0, fmt.Errorf("session: %T removes nothing by hand: %w", store, errors.ErrUnsupported)
	}
	for total := 0; ; {
		n, err := sweeper.DeleteExpired(ctx, sweepBatch)
		total += n
		if err != nil || n < sweepBatch {
			return total, err
		}
		if err := ctx.Err(); err != nil {
			return total, err
		}
	}
}

// List goes through the live records of store, as described at Lister. It yields an error that wraps
// errors.ErrUnsupported if store is no Lister.
func List(ctx context.Context, store Store) iter.Seq2[Entry, error] {
	if l, ok := store.(Lister); ok {
		return l.List(ctx)
	}
	return func(yield func(Entry, error) bool) {
		yield(Entry{}, fmt.Errorf("session: %T cannot list its records: %w", store, errors.ErrUnsupported))
	}
}

// Count returns the number of live records in store: sessions, and the few others that this package keeps
// (index and lock records, the marks of ended sessions). It returns an error that wraps errors.ErrUnsupported
// if store is no Lister.
func Count(ctx context.Context, store Store) (int, error) {
	if l, ok := store.(Lister); ok {
		return l.Count(ctx)
	}
	return 0, fmt.Errorf("session: %T cannot count its records: %w", store, errors.ErrUnsupported)
}

// Close closes store if it is an io.Closer, and otherwise does nothing. A store that Open or a constructor
// with a path returned closes what it opened; a store built on a client of the application's leaves that open.
func Close(store Store) error {
	if c, ok := store.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// An OpenFunc opens the store that a URL names. Its errors must not show the URL's password.
type OpenFunc func(ctx context.Context, rawURL string) (Store, error)

// Open returns the store that rawURL names, ready to use; Close closes it. ctx bounds the opening only.
//
//	(empty)                a new temporary file, gone after Close or, but on Windows, any end of the process
//	memory:                this process's memory
//	file:///path/to/file   one file (file:name for a relative path)
//	dir:///path/to/dir     one file a session; without a path a new temporary directory, removed by Close
//	mysql://user:password@host:port/database        MySQL, and mariadb: MariaDB
//	postgres://user:password@host:port/database     PostgreSQL
//	redis://user:password@host:port/number          Redis; rediss: with TLS; valkey: and valkeys: the same
//	mongodb://user:password@host:port/database      MongoDB, and mongodb+srv:
//	memcached://host:port,host:port                 Memcached
//
// and the schemes that RegisterScheme added. What each store's URL has beyond that, and what stands for a part that
// is left out, is told at its type. An error never shows the URL's password.
//
// Open links every backend into the program. To link one alone, call its constructor.
func Open(ctx context.Context, rawURL string) (Store, error) {
	scheme, _, found := strings.Cut(rawURL, ":")
	scheme = strings.ToLower(scheme)
	if rawURL != "" && (!found || scheme == "") {
		return nil, fmt.Errorf("session: a store's URL starts with a scheme and a colon; known are %s", knownSchemes())
	}
	open, ok := lookupScheme(scheme)
	if !ok {
		open, ok = builtinSchemes()[scheme]
	}
	if !ok {
		if !validScheme(scheme) {
			scheme = "(not a scheme)" // who knows what it is, a password perhaps
		}
		return nil, fmt.Errorf("session: unknown kind of store %q; known are %s", scheme, knownSchemes())
	}
	return open(ctx, rawURL)
}

// builtinSchemes is reachable from Open alone, so that the linker drops the backends of a program that does
// not call it.
func builtinSchemes() map[string]OpenFunc {
	return map[string]OpenFunc{
		"":       openTemporary,
		"memory": openMemory,
		"file":   openFile,
		"dir":    openDir,

		"mysql": openMySQL, "mariadb": openMySQL,
		"postgres": openPostgres, "postgresql": openPostgres,
		"redis": openRedis, "rediss": openRedis, "valkey": openRedis, "valkeys": openRedis,
		"mongodb": openMongo, "mongodb+srv": openMongo,
		"memcached": openMemcache,
	}
}

var registered struct {
	sync.RWMutex
	schemes map[string]OpenFunc
}

// RegisterScheme lets Open know another kind of store, or another way to open a built-in one. The scheme is in
// lower case, as RFC 3986 section 3.1 has it. It returns an error if the scheme is invalid or was registered
// before. It is meant to be called by a program's main function, and is safe for concurrent use.
func RegisterScheme(scheme string, open OpenFunc) error {
	if !validScheme(scheme) || open == nil {
		return fmt.Errorf("session: RegisterScheme needs a lower-case scheme and a function, not %q", scheme)
	}
	registered.Lock()
	defer registered.Unlock()
	if registered.schemes[scheme] != nil {
		return fmt.Errorf("session: the scheme %q is registered already", scheme)
	}
	if registered.schemes == nil {
		registered.schemes = make(map[string]OpenFunc)
	}
	registered.schemes[scheme] = open
	return nil
}

func lookupScheme(scheme string) (OpenFunc, bool) {
	registered.RLock()
	defer registered.RUnlock()
	open, ok := registered.schemes[scheme]
	return open, ok
}

func knownSchemes() string {
	registered.RLock()
	defer registered.RUnlock()
	all := builtinSchemes()
	maps.Copy(all, registered.schemes)
	delete(all, "")
	return strings.Join(slices.Sorted(maps.Keys(all)), ":, ") + ": and the empty string (a temporary file)"
}

func validScheme(scheme string) bool {
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !(('0' <= c && c <= '9') || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return scheme != ""
}

// parseURL is url.Parse whose error does not repeat the URL, which may hold a password.
func parseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		scheme, _, _ := strings.Cut(rawURL, ":")
		return nil, fmt.Errorf("session: the %s: URL of the store is malformed (reserved characters in a user name or password are percent-encoded)", scheme)
	}
	return u, nil
}

// urlPath returns the local path of a file: or dir: URL, empty if it has none.
func urlPath(rawURL string) (string, error) {
	u, err := parseURL(rawURL)
	switch {
	case err != nil:
		return "", err
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("session: a %s: URL has a path only (\"?\" and \"#\" in it are percent-encoded)", u.Scheme)
	case u.Host != "" && u.Host != "localhost":
		return "", fmt.Errorf("session: the %[1]s: URL names the host %[2]q; an absolute path has three slashes: %[1]s:///path", u.Scheme, u.Host)
	case u.Opaque != "":
		path, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return "", fmt.Errorf("session: the path of the %s: URL is malformed", u.Scheme)
		}
		return path, nil
	}
	return u.Path, nil
}
