package session

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session/internal/codec"
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
// has returned: a change is lost then, of which the logger is told.
type Session struct {
	mu    sync.Mutex
	core  core
	forms atomic.Int32 // form tokens that the request has made
}

// open locks the session, and makes sure that it is loaded.
func (s *Session) open() *core {
	s.mu.Lock()
	opened := false
	defer func() {
		if !opened { // the store has panicked
			s.core.phase = unloaded // or what was found so far would count
			s.mu.Unlock()
		}
	}()
	s.core.open()
	opened = true
	return &s.core
}

// change is open for whoever is about to change the session.
func (s *Session) change() *core {
	if o := s.core.origin; o.ended() {
		s.core.m.advise(o.context(), "a session was changed after its handler had returned: the change is lost unless Save follows")
	}
	return s.open()
}

// view returns what fn finds in the session.
func view[T any](s *Session, fn func(*core) T) T {
	c := s.open()
	defer s.mu.Unlock()
	return fn(c)
}

// FromContext returns the session of the request that ctx belongs to; of several managers' sessions, the
// innermost. It panics if no Manager.Handler wraps the handler: that is a mistake of the program's wiring.
func FromContext(ctx context.Context) *Session {
	found := ctx.Value(contextKey{})
	if s, ok := found.(*Session); ok {
		return s
	}
	panic(without(found, "session: no session in the context: wrap the handler with Manager.Handler, and pass on the request's context"))
}

type contextKey struct{}

// Get returns the value under the key, or nil and false if there is none. Without a type to decode into,
// integers come as int64 (*big.Int beyond its range), floating-point numbers as float64, lists as []any, maps and
// structs as map[string]any (map[any]any if a key is no string); booleans, strings, byte slices and times keep
// their types. The value is a copy: what is done to a map or a slice is lost without a Set.
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
	err := codec.DecodeValue(data, dst)
	if err != nil {
		// The decoder's own error may quote the value.
		err = fmt.Errorf("session: the stored value does not decode as %T", dst)
		s.core.m.observe(s.core.origin.context(), Event{Kind: EventUndecodable, ID: id, Key: key, Err: err})
	}
	return err == nil
}

// find returns the encoded value under the key, which is never modified in place.
func (s *Session) find(key string) (id ID, data []byte, ok bool) {
	c := s.open()
	defer s.mu.Unlock()
	data, ok = c.get(key)
	return c.slot.id, data, ok
}

// Set stores a copy of the value under the key. One that Get could not return is refused, see Key and Err.
func (s *Session) Set(key string, v any) {
	data, err := codec.EncodeValue(v)
	s.put(key, data, err)
}

// put is Set for an encoded value, or the error that there was.
func (s *Session) put(key string, data []byte, err error) {
	c := s.change()
	defer s.mu.Unlock()
	if err != nil {
		c.fail(unencodable(key, err))
		return
	}
	c.set(key, data, true)
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
	data, err := codec.EncodeValue(v)
	s.update(key, func(old []byte, ok bool) ([]byte, error) {
		if ok {
			return old, nil
		}
		return data, err
	})
	stored, _ := s.Get(key)
	return stored
}

// update is Update for encoded values.
func (s *Session) update(key string, fn update) {
	c := s.change()
	defer s.mu.Unlock()
	c.update(key, fn)
}

// Delete removes the values under the keys. Missing ones are no error.
func (s *Session) Delete(keys ...string) {
	c := s.change()
	defer s.mu.Unlock()
	for _, key := range keys {
		c.set(key, nil, false)
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
	c := s.change()
	defer s.mu.Unlock()
	c.intent.changes.clear()
}

// Has reports whether there is a value under the key.
func (s *Session) Has(key string) bool {
	c := s.open()
	defer s.mu.Unlock()
	_, ok := c.get(key)
	return ok
}

// Len returns the number of values.
func (s *Session) Len() int {
	c := s.open()
	defer s.mu.Unlock()
	n := 0
	for range c.all() {
		n++
	}
	return n
}

// Keys returns the keys, in ascending order.
func (s *Session) Keys() []string {
	c := s.open()
	defer s.mu.Unlock()
	var keys []string
	for key := range c.all() {
		keys = append(keys, key)
	}
	return keys
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
	return s.core.err
}

// Save brings changes into the store at once, for a handler that runs long: a stream, a websocket. It returns
// what Err then returns, ErrGone if the session was ended meanwhile; without changes it does not look, see Reload. As
// long as the response's header has not left, it must be called on the handler's goroutine. Without a call, changes
// are saved when the handler returns. The save goes on if ctx is cancelled; Options.StoreTimeout bounds it.
func (s *Session) Save(ctx context.Context) error { return s.core.origin.commit(ctx) }

// Changed reports whether this request has changed the session, saved or not yet: its values, user, timeouts or key, or
// that it ends. A change that makes no difference does not count, nor does the periodic renewal. It loads nothing.
func (s *Session) Changed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.altered || s.core.differs()
}

// ForceSave has the next commit save the session although nothing has changed, which counts as a use of it now, whatever
// Options.TouchInterval says. If that fails, so does the response. A session that is new and has nothing in it is still
// not stored.
func (s *Session) ForceSave() {
	c := s.open()
	defer s.mu.Unlock()
	c.intent.save = true
}

// Reload looks at the store again: it lets a long-lived handler see what other requests saved, with its own
// changes applied, and returns ErrGone if the session was ended meanwhile. A session that the store does not
// know yet stays as it is. To look is not to use: Reload does not put off the session's expiry.
func (s *Session) Reload(ctx context.Context) error {
	c := s.open()
	defer s.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return c.reload(ctx)
}

// ID returns the ID of the session's record, which it keeps until it ends. A new session has one once it is saved; until
// then, and for a session that has ended, ID returns the zero ID.
func (s *Session) ID() ID {
	c := s.open()
	defer s.mu.Unlock()
	if !c.lives() {
		return ID{}
	}
	return c.slot.id
}

// IsNew reports whether the store does not know the session yet: the client sent no cookie, or none that leads
// to a session, or the session was destroyed and this is the next one. One that ended less than Options.RenewGrace
// ago is not new: it is empty, and WasUnknown reports it.
func (s *Session) IsNew() bool {
	return view(s, func(c *core) bool { return c.anonymous() || c.intent.after != nil })
}

// WasUnknown reports whether the client sent a genuine cookie whose session is not there: it expired, or was
// ended.
func (s *Session) WasUnknown() bool {
	return view(s, func(c *core) bool { return c.stale })
}

// WasRegenerated reports whether Regenerate gave, or is about to give, the session a new key in this request.
func (s *Session) WasRegenerated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.rekeyed || s.core.intent.key
}

// Created returns when the session began.
func (s *Session) Created() time.Time {
	return view(s, func(c *core) time.Time { return time.UnixMilli(c.created()) })
}

// LastUsed returns when the session was last used before this request, exact to Options.TouchInterval. For a new
// session it is the time of its creation.
func (s *Session) LastUsed() time.Time {
	return view(s, func(c *core) time.Time { return time.UnixMilli(c.lastUsed()) })
}

// Expires returns when the session ends if it is not used again, or the zero time if it never does. For a
// session that is not saved yet, it is the time that saving it now would lead to.
func (s *Session) Expires() time.Time {
	return view(s, (*core).expires)
}

// RemoteAddr returns the address that created the session, or would by this request, see Options.ClientAddr.
func (s *Session) RemoteAddr() string {
	return view(s, func(c *core) string { addr, _ := c.creator(); return addr })
}

// UserAgent returns the User-Agent header of the request that created the session, or would, cut at 256 bytes and not
// within a character.
func (s *Session) UserAgent() string {
	return view(s, func(c *core) string { _, agent := c.creator(); return agent })
}

// SetPersistent chooses for this session whether its cookie survives the end of the browser ("remember me"),
// whatever Cookie.Persistent says. Once the response's header has left, that waits for the next cookie, with the next
// renewal at the latest.
func (s *Session) SetPersistent(on bool) {
	choice := codec.NotPersistent
	if on {
		choice = codec.Persistent
	}
	c := s.change()
	defer s.mu.Unlock()
	c.intent.persistence = &choice
}

// SetIdleTimeout gives this session an idle timeout of its own: Never switches it off, 0 goes back to
// Options.IdleTimeout. The absolute timeout stays in force, and the logger is told of a longer idle timeout. Other
// negative durations are an error.
func (s *Session) SetIdleTimeout(d time.Duration) {
	c := s.change()
	defer s.mu.Unlock()
	idle, err := idleMillis(d)
	if err != nil {
		c.fail(err)
		return
	}
	c.adviseIdle(d)
	c.intent.idle = &idle
}

// idleMillis returns an idle timeout as codec.Body has it.
func idleMillis(d time.Duration) (int64, error) {
	switch {
	case d == Never:
		return -1, nil
	case d < 0, d > 0 && d < time.Millisecond:
		return 0, fmt.Errorf("%w: an idle timeout of %v is neither Never nor a millisecond or more", errProgram, d)
	}
	return d.Milliseconds(), nil
}

// Remember keeps the client logged in for that long after the last use, also after the browser closes: it is
// SetPersistent(true) and SetIdleTimeout(d). Options.AbsoluteTimeout is the limit, 24 hours unless you set it, so it has to
// be as long as the longest that an application wants to remember anybody.
func (s *Session) Remember(d time.Duration) {
	s.SetPersistent(true)
	s.SetIdleTimeout(d)
}

// String describes the session for a person who looks for a fault: its ID, user, address, times and keys, and no value.
func (s *Session) String() string { return s.LogValue().String() }

// LogValue makes a session an slog attribute with what String shows. It loads nothing: a session that was not
// used yet says so.
func (s *Session) LogValue() slog.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.core
	attrs := []slog.Attr{slog.String("state", c.state())}
	if c.phase == unloaded {
		return slog.GroupValue(attrs...)
	}
	if c.lives() {
		attrs = append(attrs, slog.String("id", c.slot.id.String()), slog.Time("expires", c.slot.rec.Expires))
	}
	keys := []string{}
	for key := range c.all() {
		keys = append(keys, key)
	}
	if user := c.user(); user != "" {
		attrs = append(attrs, slog.String("user", user))
	}
	if addr := c.base().RemoteAddr; len(addr) > 0 {
		attrs = append(attrs, slog.String("addr", string(addr)))
	}
	attrs = append(attrs, slog.Time("created", time.UnixMilli(c.created())), slog.Time("last_used", time.UnixMilli(c.lastUsed())),
		slog.Any("keys", keys), slog.Int("changes", c.countChanges()))
	if c.err != nil {
		attrs = append(attrs, slog.String("err", c.err.Error()))
	}
	return slog.GroupValue(attrs...)
}
