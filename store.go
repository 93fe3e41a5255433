package session

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Store keeps opaque records under opaque IDs. Saving is a compare-and-swap: of several writers that
// start from the same version, or from no live record, exactly one succeeds, across goroutines, processes and machines, and the
// others learn of it. Everything else that this package promises is built on that one rule. Every other store at the same place
// sees at once what one has saved, touched or deleted.
//
// All methods are safe for concurrent use. They return when ctx is done, with an error for which
// errors.Is(err, ctx.Err()) holds, unless they can finish without waiting; whether a Save or Delete that was cut
// short took effect is then unknown. A ctx that was done before is no exception: a store may do its work all the same. A method
// that returns no error has done its work, whatever became of ctx. A ctx goes on when the method has returned: what waits for its
// end waits until the deadline.
// Any other error than those named below means that the store could not do its work (it is down, full,
// read-only …). An error must name neither a password nor any Data.
//
// Data is shared, never copied: neither the caller nor the store modifies the bytes of a Record that went
// into Save or came out of Load.
//
// Time is the caller's: a store compares Expires with time.Now of the process that calls it, even where a
// server removes expired records by its own clock later on.
//
// A store with a cache may return from Load what others have replaced since, if it says so in Record.Cached, and if
// CacheAllowed says that the caller can do with it. [CacheStore] is one.
//
// Package [example.com/session/sessiontest] checks an implementation against all of this.
type Store interface {
	// Load returns the live record under id, or an error that wraps ErrNotFound.
	Load(ctx context.Context, id ID) (Record, error)

	// Save stores rec as version rec.Version+1 if the live record under id has version rec.Version, or, for
	// version 0, if no live record is there. Otherwise it changes nothing and returns an error that wraps
	// ErrConflict. Save returns an error that wraps ErrTooLarge if rec can never fit, and changes nothing then either; Data of
	// 64 KiB always does. A rec that has expired already is saved like any other, and counts as absent.
	Save(ctx context.Context, id ID, rec Record) error

	// Delete removes the record under id. It is no error if there is none.
	Delete(ctx context.Context, id ID) error
}

// A Record is what a Store keeps under an ID.
type Record struct {
	// Version counts the saves of the record, from 1, in 64 bits. In a Record passed to Save it is the version that the
	// caller saw; 0 means that it saw none. A record that is created under the ID of one that was deleted, or has expired, begins
	// at 1 again.
	Version uint64
	// Expires is the time from which on the record counts as absent. The zero time means never. Its resolution
	// is one millisecond; a store may drop what is finer. It is exact up to the year 2200; beyond, a store may
	// bring it forward, but the record stays live. Any time before now, be it before 1970, has passed.
	Expires time.Time
	// Data is opaque to the store. It may be empty.
	Data []byte
	// Cached is set by the Load of a store that may return what others have replaced since: the record comes from a
	// cache. Save and Touch ignore it.
	Cached bool

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
	// ErrGone means that the session that a request wanted to change was ended, or given another key by another request,
	// while the request ran or within 5 seconds before it began. The default error handler answers 409 Conflict. One that
	// expired, or that the store lost, is no error: the change begins a new one, if the response can set a cookie.
	ErrGone = errors.New("session: ended while the request was running")
	// ErrHeaderSent means that a change came too late: it needs a cookie (a new session, a new key, the end of
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
	// ErrUnproven means that the session is bound to a device, and that the browser could not prove just now that it
	// has the device's key, but may be able to do so soon; see DeviceBinding. The default error handler answers 503
	// Service Unavailable.
	ErrUnproven = errors.New("session: the browser has not proved that it has the key of the session's device")
)

// WithoutCache returns a copy of ctx with which Load asks the store itself, whatever cache there is on the way: for
// decisions that no compare-and-swap would put right. Other methods take no notice of it.
func WithoutCache(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutCacheKey{}, true)
}

// CacheAllowed reports whether a Load with ctx may return a record from a cache: not with a context that comes from
// WithoutCache. Whoever writes a store with a cache asks it in Load, sets Record.Cached in what comes out of the cache,
// and does not set it in what comes from elsewhere. It does not allocate.
func CacheAllowed(ctx context.Context) bool { return ctx.Value(withoutCacheKey{}) == nil }

type withoutCacheKey struct{}

// A Toucher is a Store that can move the expiry of a record without writing its data.
type Toucher interface {
	Store
	// Touch sets the expiry of the live record under id to rec.Expires, if its version is rec.Version, in one step that no other
	// writer comes between, and keeps version and data. rec is a record as Load returned it, with another Expires; if it is not,
	// the result may be ErrConflict. It returns an error that wraps ErrNotFound if no live record is there, ErrConflict if it has
	// another version, and errors.ErrUnsupported if a store that this one wraps is no Toucher.
	Touch(ctx context.Context, id ID, rec Record) error
}

// A Sweeper is a Store whose expired records take up room until somebody removes them.
type Sweeper interface {
	Store
	// DeleteExpired removes at most limit records that have expired, and returns how many it removed: fewer than limit if none is
	// left. A limit of 0 removes nothing. It counts by the present Expires, however that was set, and removes nothing early, nor
	// what was created again under the ID of an expired record meanwhile. One call is one short step that holds nobody up for long.
	// It returns errors.ErrUnsupported if a store that this one wraps is no Sweeper.
	DeleteExpired(ctx context.Context, limit int) (int, error)
}

// A Lister is a Store that can go through its records without blocking its other users.
type Lister interface {
	Store
	// List goes through the live records, in no particular order. A record that is saved, created or deleted meanwhile may be seen
	// or not; every other one is seen exactly once, also one that is touched meanwhile, with the one expiry or the other. After the
	// first error, which comes with a zero Entry, the sequence ends. A sequence that ends without an error was complete, whatever
	// became of ctx or of a connection. One that is left early gives back all that it took. It yields errors.ErrUnsupported if a
	// store that this one wraps is no Lister.
	List(ctx context.Context) iter.Seq2[Entry, error]
}

// A Counter is a Store that can count live records for less than what List costs.
type Counter interface {
	Store
	// Count returns how many of the live records have the byte b at the index at of their Data, which is how this package marks
	// what a record is for. A negative at counts all. A count that does not come to the end is an error. A record that is saved,
	// created or deleted meanwhile may be counted or not. It returns errors.ErrUnsupported if a store that this one wraps is no
	// Counter.
	Count(ctx context.Context, at int, b byte) (int, error)
}

// An Entry is a Record with its ID, as List returns it.
type Entry struct {
	ID     ID
	Record Record
}

const (
	// sweepBatch is how many records one step of a removal takes: few enough for a server to remove between two
	// requests, many enough to outrun what expires.
	sweepBatch = 100
	// sweepRest is how many times as long as a step the pause after it is. Without it, one request in a hundred takes five
	// times as long while MariaDB or a directory is swept.
	sweepRest = 2
)

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

// DeleteExpired removes all records of store that have expired, and returns how many it removed. It takes small steps, and
// leaves two thirds of the time to requests. It returns an error that wraps errors.ErrUnsupported if store is no Sweeper;
// most often that means that its server removes them by itself.
func DeleteExpired(ctx context.Context, store Store) (int, error) {
	sweeper, ok := store.(Sweeper)
	if !ok {
		return 0, fmt.Errorf("session: %T removes nothing by hand: %w", store, errors.ErrUnsupported)
	}
	for total := 0; ; {
		start := time.Now()
		n, err := sweeper.DeleteExpired(ctx, sweepBatch)
		total += n
		if err != nil || n < sweepBatch {
			return total, err
		}
		if !sleep(ctx, sweepRest*time.Since(start)) {
			return total, ctx.Err()
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

// CountRecords returns the number of live records in store: sessions, and the others that this package keeps (indexes,
// locks, the marks of sessions that ended). Where store is no Counter, it counts what List yields. It
// returns an error that wraps errors.ErrUnsupported if store is no Lister either.
func CountRecords(ctx context.Context, store Store) (int, error) {
	return countRecords(ctx, store, -1, 0)
}

// countRecords counts as Counter does.
func countRecords(ctx context.Context, store Store, at int, b byte) (int, error) {
	if c, ok := store.(Counter); ok {
		if n, err := c.Count(ctx, at, b); !errors.Is(err, errors.ErrUnsupported) {
			return n, err
		}
	}
	n := 0
	for e, err := range List(ctx, store) {
		if err != nil {
			return 0, err
		}
		if hasByte(e.Record.Data, at, b) {
			n++
		}
	}
	return n, nil
}

// hasByte reports whether Counter counts a record with these Data.
func hasByte(data []byte, at int, b byte) bool { return at < 0 || at < len(data) && data[at] == b }

// never is the time in milliseconds of what does not expire.
const never int64 = math.MaxInt64

// expiryMillis returns a Record's Expires as milliseconds since 1970.
func expiryMillis(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixMilli()
}

// expiryTime is the inverse of expiryMillis.
func expiryTime(millis int64) time.Time {
	if millis == never {
		return time.Time{}
	}
	return time.UnixMilli(millis)
}

// hasExpired reports whether a record with that expiry counts as absent at this instant.
func hasExpired(millis int64) bool {
	return millis != never && millis <= time.Now().UnixMilli()
}

// untilDone returns what f returns or, if ctx is done before, its error. f then goes on in a goroutine of its
// own, and what it returns is dropped. It is for clients that do not heed a context.
func untilDone[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if err := ctx.Err(); err != nil {
		return *new(T), err
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}

// overdue adds the error of ctx to err if ctx is done: a client reports a deadline as a time-out of its own, and
// may do so just before ctx itself takes notice.
func overdue(ctx context.Context, err error) error {
	done := ctx.Err()
	if deadline, ok := ctx.Deadline(); done == nil && ok && !time.Now().Before(deadline) {
		done = context.DeadlineExceeded
	}
	if done == nil || errors.Is(err, done) {
		return err
	}
	return fmt.Errorf("%w: %w", done, err)
}

// callAgain calls f and, where a connection had ended, f again: as often as the client holds connections that the end
// of a server has made useless, and once more. To repeat a write that had taken effect makes it a conflict.
func callAgain[T any](ctx context.Context, idle func() int, f func() (T, error)) (T, error) {
	value, err := f()
	if brokenConn(err) {
		for left := idle(); left >= 0 && brokenConn(err) && ctx.Err() == nil; left-- {
			value, err = f()
		}
	}
	return value, err
}

// sleep waits for d, and reports false if ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// brokenConn reports whether err says that a connection had ended, or ended before the whole reply was there.
func brokenConn(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// A connDialer knows the connections that it made and that are not closed yet.
type connDialer struct {
	net.Dialer
	age  time.Duration // for how long a connection is used; 0 for as long as it lasts
	mu   sync.Mutex
	open map[*dialedConn]struct{}
}

// DialContext is that of net.Dialer.
func (d *connDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &dialedConn{Conn: conn, dialer: d, since: time.Now()}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = make(map[*dialedConn]struct{})
	}
	d.open[c] = struct{}{}
	return c, nil
}

// drop closes the connections that were made before: they lead to a server that is no longer the one that is meant. A call on
// one gets an error, and the client makes new ones.
func (d *connDialer) drop(before time.Time) {
	d.mu.Lock()
	var old []*dialedConn
	for c := range d.open {
		if c.since.Before(before) {
			old = append(old, c)
		}
	}
	d.mu.Unlock()
	for _, c := range old {
		c.drop()
	}
}

type dialedConn struct {
	net.Conn
	dialer  *connDialer
	since   time.Time
	dropped atomic.Bool
}

func (c *dialedConn) drop() {
	c.dropped.Store(true)
	c.Close()
}

// Read is that of net.Conn. A dropped connection looks as if the server had ended it: clients know what to do then.
func (c *dialedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && c.dropped.Load() {
		err = syscall.EPIPE
	}
	return n, err
}

// Write is that of net.Conn, and drops what is too old.
func (c *dialedConn) Write(b []byte) (int, error) {
	if c.dialer.age > 0 && time.Since(c.since) > c.dialer.age {
		c.drop()
	}
	n, err := c.Conn.Write(b)
	if err != nil && c.dropped.Load() {
		err = syscall.EPIPE
	}
	return n, err
}

func (c *dialedConn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.open, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}
