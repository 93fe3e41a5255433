package session

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"
)

// A Session is what the server keeps for one client between its requests. FromContext returns the one that
// belongs to a request.
//
// It is loaded on first use; a request that never uses it costs no store call. Its methods record what the
// handler wants; the store sees it when the response begins, or else when the handler returns. A session that
// is new and has nothing in it is not stored, and no cookie is sent for it. One that becomes empty again is
// removed, with its cookie.
//
// Methods return no errors: the first failure sticks, see Err, and the client then gets the answer of
// Options.ErrorHandler in place of the handler's.
//
// Several requests may change one session at the same time. Each change is applied to what the others saved:
// changes of different keys all survive, of changes of one key the last one does, and Update loses none.
//
// A Session is safe for concurrent use by the goroutines of its request. It must not be used after the handler
// has returned.
type Session struct {
	m      *Manager
	origin origin

	mu       sync.Mutex
	link     link      // the record, while there is one
	content  content   // what the handler sees: the record's, with changes applied
	changes  []change  // what the handler did since the last commit, in order
	next     *link     // the record that a regeneration under way has stored, seldom there
	held     *heldLock // the lock that the request has or had
	locks    bool      // the handler asked for it
	ended    []link    // records of sessions that the handler destroyed
	state    state
	todo     todo  // beyond changes
	stale    bool  // the client sent an ID that the store does not know
	replaced bool  // its ID was retired by a regeneration
	renamed  bool  // the ID was regenerated in this request
	used     bool  // the response depends on it
	err      error // sticky
}

// origin is what a session wants to know of the request that it belongs to.
type origin interface {
	// candidate sets l's token to that of the next of the request's cookies that passes the check, moves pos on, and
	// reports whether there was one.
	candidate(pos *cookiePos, l *link) bool
	// client returns the address and the User-Agent that the request came from.
	client() (addr, agent string)
	// binding returns the hash of what Options.Bind computes for the request, nil without one.
	binding() []byte
	// commit saves the session, with its cookie as long as the header has not left.
	commit(ctx context.Context) error
	// reachable reports whether a cookie that is set would get to the client, as far as that is known.
	reachable() bool
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
}

// A state tells how much is known of a session's record.
type state byte

const (
	unloaded state = iota
	fresh          // there is none
	live           // there is one, see link
	gone           // there was one when the client sent its request, or not long before
	failed         // the store did not answer
)

// todo is what the handler asked for beyond changes of the content.
type todo byte

const (
	regenerate  todo = 1 << iota
	dropCookie       // the session of the client's cookie was destroyed
	sendCookie       // the client's cookie has to be replaced or prolonged
	endReplaced      // a session was to be destroyed whose ID had been regenerated
)

// link leads to a session's record as it was last seen.
type link struct {
	token   token
	key     int // which secret verified the token
	id      ID
	version uint64
	cas     uint64
	expires time.Time
	data    []byte
	old     *OldSession // set as long as there is none, but a session of the old system that is still to move

	overtaken bool // the last save's reply was lost, and when it was looked for, others had saved after it
}

// FromContext returns the session of the request that ctx belongs to; of several managers' sessions, the
// innermost. It panics if no Manager.Handler wraps the handler: that is a mistake of the program's wiring.
func FromContext(ctx context.Context) *Session {
	if s, ok := ctx.Value(contextKey{}).(*Session); ok {
		return s
	}
	panic("session: no session in the context: wrap the handler with Manager.Handler, and pass on the request's context")
}

type contextKey struct{}

// Get returns the value under the key, or nil and false if there is none. Without a type to decode into,
// integers come as int64 (*big.Int beyond its range), floating-point numbers as float64, lists as []any, maps and
// structs as map[string]any (map[any]any if a key is no string); booleans, strings, byte slices and times keep
// their types.
func (s *Session) Get(key string) (any, bool) {
	var v any
	ok := s.Decode(key, &v)
	return v, ok
}

// Decode stores the value under the key in what dst points to. It reports whether there was one that fits.
func (s *Session) Decode(key string, dst any) bool {
	id, data, ok := s.find(key)
	return ok && s.decode(id, key, data, dst)
}

// decode decodes the value under the key, and reports one that does not fit.
func (s *Session) decode(id ID, key string, data []byte, dst any) bool {
	err := decodeValue(data, dst)
	if err != nil {
		// The decoder's own error may quote the value.
		err = fmt.Errorf("session: the stored value does not decode as %T", dst)
		s.m.observe(s.origin.context(), Event{Kind: EventUndecodable, ID: id, Key: key, Err: err})
	}
	return err == nil
}

// find returns the encoded value under the key, which is never modified in place.
func (s *Session) find(key string) (id ID, data []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	data, ok = s.content.values.get(key)
	return s.link.id, data, ok
}

// Set stores a copy of the value under the key.
func (s *Session) Set(key string, v any) {
	data, err := encodeValue(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if err != nil {
		s.fail(unencodable(key, err))
		return
	}
	s.change(change{kind: changeSet, key: key, data: data})
}

// SetAll stores a copy of each value under its key, and leaves other keys alone.
func (s *Session) SetAll(values map[string]any) {
	for key, v := range values {
		s.Set(key, v)
	}
}

// SetDefault stores the value if there is none under the key, and returns the one that is there then, in the
// form that Get returns.
func (s *Session) SetDefault(key string, v any) any {
	s.update(key, func(old []byte, ok bool) ([]byte, error) {
		if ok {
			return old, nil
		}
		return encodeValue(v)
	})
	stored, _ := s.Get(key)
	return stored
}

// Delete removes the values under the keys. That there are none is no error.
func (s *Session) Delete(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	for _, key := range keys {
		s.change(change{kind: changeDelete, key: key})
	}
}

// Pop removes the value under the key and returns it as Get would.
func (s *Session) Pop(key string) (any, bool) {
	v, ok := s.Get(key)
	if ok {
		s.Delete(key)
	}
	return v, ok
}

// Clear removes all values. A session that has nothing else to keep is then removed, with its cookie. To end
// a session at logout, use Destroy.
func (s *Session) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	s.change(change{kind: changeClear})
}

// Has reports whether there is a value under the key.
func (s *Session) Has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	_, ok := s.content.values.get(key)
	return ok
}

// Len returns the number of values.
func (s *Session) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return s.content.values.len
}

// Keys returns the keys, in ascending order.
func (s *Session) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return s.content.values.keys()
}

// All goes through the keys and values as they are when the loop begins, in ascending order of the keys. The
// values have the form that Get returns.
func (s *Session) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, key := range s.Keys() {
			if v, ok := s.Get(key); ok && !yield(key, v) {
				return
			}
		}
	}
}

// Values goes through the values as All does.
func (s *Session) Values() iter.Seq[any] {
	return func(yield func(any) bool) {
		for _, v := range s.All() {
			if !yield(v) {
				return
			}
		}
	}
}

// Err returns the first failure of loading, encoding or saving, nil if there was none. ErrGone, ErrTooLarge and
// ErrHeaderSent tell what is behind it; any other error came from the store.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Save brings changes into the store at once, for a handler that runs long: a stream, a websocket. It returns
// what Err then returns, ErrGone if the session was ended meanwhile; without changes it does not look, see Reload. As
// long as the response's header has not left, it must be called on the handler's goroutine. Without a call, changes
// are saved when the handler returns. The save goes on if ctx is cancelled; Options.StoreTimeout bounds it.
func (s *Session) Save(ctx context.Context) error { return s.origin.commit(ctx) }

// Reload looks at the store again: it lets a long-lived handler see what other requests saved, with its own
// changes applied, and returns ErrGone if the session was ended meanwhile. A session that the store does not
// know yet stays as it is. To look is not to use: Reload does not put off the session's expiry.
//
// A handler that runs for longer than Options.RenewGrace has to look that often, with Reload or by saving a change.
// It goes by the ID that its client came with, and the way from there to the next one, which another request is
// given, is open for that long; later, the session is ErrGone to this handler although it lives on. Errors stick, so
// a handler that gets one is best ended: its client comes back, with a cookie that is up to date.
func (s *Session) Reload(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.err != nil || s.state != live || s.stillToMove() {
		if s.err == nil && s.state == gone {
			return ErrGone
		}
		return s.err
	}
	if err := s.reload(ctx); err != nil {
		return s.fail(err)
	}
	if s.state == gone {
		return ErrGone
	}
	return nil
}

// ID returns the ID of the session's record. A new session has one once it is saved; until then, ID returns
// the zero ID. A new ID that Regenerate asked for applies once it is saved, too.
func (s *Session) ID() ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.stillToMove() {
		return ID{}
	}
	return s.link.id
}

// IsNew reports whether the store does not know the session yet: the client sent no cookie, or none that leads
// to a session, or the session was destroyed and this is the next one. One that ended less than Options.RenewGrace
// ago is not new: it is empty, and WasUnknown reports it.
func (s *Session) IsNew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return s.state == fresh
}

// WasUnknown reports whether the client sent a genuine cookie whose session is not there: it expired, or was
// ended.
func (s *Session) WasUnknown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return s.stale
}

// WasRegenerated reports whether Regenerate gave, or is about to give, the session a new ID in this request.
func (s *Session) WasRegenerated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renamed || s.todo&regenerate != 0
}

// Created returns when the session began.
func (s *Session) Created() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return time.UnixMilli(s.content.created)
}

// LastUsed returns when the session was last used before this request, exact to Options.TouchInterval. For a new
// session it is the time of its creation.
func (s *Session) LastUsed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return time.UnixMilli(s.lastUsed())
}

// Expires returns when the session ends if it is not used again, or the zero time if it never does. For a
// session that is not saved yet, it is the time that saving it now would lead to.
func (s *Session) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.state != live || s.changed() {
		return s.m.expiry(&s.content, time.Now())
	}
	return s.link.expires
}

// RemoteAddr returns the address that created the session, see Options.ClientAddr.
func (s *Session) RemoteAddr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return string(s.content.remoteAddr)
}

// UserAgent returns the User-Agent header of the request that created the session, cut at 256 bytes.
func (s *Session) UserAgent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return string(s.content.userAgent)
}

// A persistence is a session's choice between a cookie that ends with the browser and one that does not.
type persistence byte

const (
	persistenceDefault persistence = iota // as the manager's Cookie has it
	persistent
	notPersistent
	lastPersistence = notPersistent
)

// SetPersistent chooses for this session whether its cookie survives the end of the browser ("remember me"),
// whatever Cookie.Persistent says. Once the response's header has left, that waits for the next cookie, with the next
// renewal at the latest.
func (s *Session) SetPersistent(on bool) {
	choice := notPersistent
	if on {
		choice = persistent
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.content.persistent == byte(choice) {
		return
	}
	s.todo |= sendCookie
	s.change(change{kind: changeMeta, key: "persistent", meta: func(c *content) { c.persistent = byte(choice) }})
}

// persistentCookie reports whether the session's cookie has an expiry. s.mu is held.
func (s *Session) persistentCookie() bool {
	switch persistence(s.content.persistent) {
	case persistent:
		return true
	case notPersistent:
		return false
	}
	return s.m.cookie.Persistent
}

// SetIdleTimeout gives this session an idle timeout of its own: Never switches it off, 0 goes back to
// Options.IdleTimeout. The absolute timeout stays in force. One that is shorter than Options.RenewGrace begins to
// count when the grace period of the last renewal is over. Other negative durations are an error.
func (s *Session) SetIdleTimeout(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if d < 0 && d != Never || d > 0 && d < time.Millisecond {
		s.fail(fmt.Errorf("%w: an idle timeout of %v is neither Never nor a millisecond or more", errProgram, d))
		return
	}
	idle := d.Milliseconds()
	if d == Never {
		idle = -1
	}
	if s.content.idle == idle {
		return
	}
	s.todo |= sendCookie
	s.change(change{kind: changeMeta, key: "idle", meta: func(c *content) { c.idle = idle }})
}

// Remember keeps the client logged in for that long after the last use, over the end of the browser: it is
// SetPersistent(true) and SetIdleTimeout(d). Options.AbsoluteTimeout is the limit, so it has to be as long as the
// longest that an application wants to remember anybody.
func (s *Session) Remember(d time.Duration) {
	s.SetPersistent(true)
	s.SetIdleTimeout(d)
}

// String describes the session for a person who looks for a fault: its ID, times and keys, and no value.
func (s *Session) String() string { return s.LogValue().String() }

// LogValue makes a session an slog attribute with what String shows. It loads nothing: a session that was not
// used yet says so.
func (s *Session) LogValue() slog.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == unloaded {
		return slog.GroupValue(slog.String("state", "not loaded"))
	}
	attrs := []slog.Attr{slog.String("state", [...]string{live: "live", fresh: "new", gone: "gone", failed: "failed"}[s.state])}
	if s.state == live {
		attrs = append(attrs, slog.String("id", s.link.id.String()), slog.Time("expires", s.link.expires))
	}
	changes := 0
	for _, ch := range s.changes {
		if !ch.vain {
			changes++
		}
	}
	attrs = append(attrs, slog.Time("created", time.UnixMilli(s.content.created)),
		slog.Any("keys", s.content.values.keys()), slog.Int("changes", changes))
	if s.err != nil {
		attrs = append(attrs, slog.String("err", s.err.Error()))
	}
	return slog.GroupValue(attrs...)
}

// open makes sure that the session is loaded. s.mu is held.
func (s *Session) open() {
	s.used = true
	if s.state == unloaded {
		s.load()
	}
}

// fail makes the first failure stick, and returns it. s.mu is held.
func (s *Session) fail(err error) error {
	if s.err == nil {
		s.err = err
	}
	return s.err
}
