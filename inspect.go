package session

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"example.com/session/internal/codec"
)

// For operators, who have the store and not the client's cookie: a look into records, and the end of a session by
// its ID. The command in cmd/session is built on this.

// Inspect tells what the record under an ID is, or returns an error that wraps ErrNotFound if there is none. It
// changes nothing, and does not count as a use of the session.
//
// It tells what this manager sees: with Options.EncryptAtRest, a session's record that is not
// encrypted is RecordDamaged.
func (m *Manager) Inspect(ctx context.Context, id ID) (RecordInfo, error) {
	rec, err := m.load(ctx, id)
	if err != nil {
		return RecordInfo{}, err
	}
	return m.inspect(id, rec), nil
}

// InspectGroup is Inspect for the record that names the sessions of a user or label, wherever that is. See Manager.Sessions
// for the sessions themselves.
func (m *Manager) InspectGroup(ctx context.Context, g Group) (RecordInfo, error) {
	return m.Inspect(ctx, m.indexID(g))
}

// Records goes through all live records of the store, those of other managers too, in no particular order, as
// described at Lister. It yields an error that wraps errors.ErrUnsupported if the store cannot list them.
func (m *Manager) Records(ctx context.Context) iter.Seq2[RecordInfo, error] {
	return func(yield func(RecordInfo, error) bool) {
		for entry, err := range List(ctx, m.store) {
			if err != nil {
				yield(RecordInfo{}, err)
				return
			}
			if !yield(m.inspect(entry.ID, entry.Record), nil) {
				return
			}
		}
	}
}

// Count returns how many sessions live in store, those of all managers: not the marks of sessions that ended, indexes or
// locks, see CountRecords. It costs a look at each record, at one byte of it where the store is a Counter that can look into
// its records, and all of what List yields elsewhere (MongoDB): to be asked every minute rather than for each request. It
// returns an error that wraps errors.ErrUnsupported if store can neither count nor list, as Memcached.
func Count(ctx context.Context, store Store) (int, error) {
	return countRecords(ctx, store, codec.KindAt, byte(codec.Session))
}

// A RecordInfo is what can be told of a record without its client's cookie. It is the caller's.
type RecordInfo struct {
	ID      ID
	Kind    RecordKind
	Version uint64    // how often it was saved
	Expires time.Time // zero for never
	Size    int       // of its Data, in bytes

	// Encrypted says that Options.EncryptAtRest was set when it was written, and Readable whether the fields below
	// are filled in all the same. An encrypted session never is; an index is, with the secret that it was written
	// under.
	Encrypted, Readable bool

	// Of a session. LastUsed is derived from Options.IdleTimeout, and exact to Options.TouchInterval. AuthenticatedAt is
	// when SetUser was last called, zero if User is empty.
	Created, LastUsed, AuthenticatedAt time.Time
	User, RemoteAddr, UserAgent        string
	Labels                             []Label
	Keys                               []string // of its values, in ascending order; see Value

	// Of a session, readable in any case: when its cookie was last renewed, when it got its key, and since when it has been bound
	// to the key of a device, see DeviceBinding; zero if it is not.
	Renewed, Regenerated, Bound time.Time
	// Of a tombstone, readable in any case: when the session ended, and whether it was its own client that ended it.
	Ended    time.Time
	ByClient bool
	// Sessions are the IDs of those that an index names. They may have ended since.
	Sessions []ID
	// LockedUntil is when a lock ends unless its holder prolongs it; zero if nobody holds it.
	LockedUntil time.Time

	values codec.Values
}

// A RecordKind tells what a record is for.
type RecordKind string

// The kinds of records in a store.
const (
	RecordSession   RecordKind = "session"   // one that lives
	RecordTombstone RecordKind = "tombstone" // one that has ended
	RecordMoved     RecordKind = "moved"     // the mark of an old system's session, which leads to what became of it
	RecordIndex     RecordKind = "index"     // names the sessions of a user or label
	RecordLock      RecordKind = "lock"      // says who works on a session exclusively
	RecordDamaged   RecordKind = "damaged"   // not what this package wrote under this ID
)

// Value returns the value under a key in CBOR diagnostic notation (RFC 8949 section 8), and whether there is one. It
// is plain text on one line, control characters escaped; what has no such notation is hexadecimal, as in h'ff'.
func (r *RecordInfo) Value(key string) (string, bool) {
	values := r.values // Get may index them
	data, ok := values.Get(key)
	if !ok {
		return "", false
	}
	text, err := diagMode().Diagnose(data)
	if err != nil {
		text = "h'" + hex.EncodeToString(data) + "'"
	}
	return text, true
}

var diagMode = sync.OnceValue(func() cbor.DiagMode {
	mode, err := cbor.DiagOptions{ // as far as decMode goes
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
		MaxNestedLevels:  65535,
	}.DiagMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

func (m *Manager) inspect(id ID, rec Record) RecordInfo {
	info := RecordInfo{ID: id, Kind: RecordDamaged, Version: rec.Version, Expires: rec.Expires, Size: len(rec.Data)}
	sl := slot{m: m, id: id, rec: rec}
	e, err := sl.open()
	if err != nil {
		return info
	}
	info.Encrypted = e.Encrypted
	switch e.Kind {
	case codec.Session:
		var b codec.Body
		err := e.OpenBody(&b, id, nil)
		if !e.Encrypted && (m.encrypt || err != nil) {
			return info
		}
		info.Kind = RecordSession
		info.Renewed, info.Regenerated = time.UnixMilli(e.Credential.Issued), time.UnixMilli(e.Credential.Keyed)
		if e.Credential.Device != (codec.Device{}) {
			info.Bound = time.UnixMilli(e.Credential.Bound)
		}
		if err == nil {
			info.describe(m, &b)
		}
	case codec.Tombstone:
		info.Kind, info.Readable = RecordTombstone, true
		info.Ended, info.ByClient = time.UnixMilli(e.End.At), !e.End.Elsewhere
	case codec.Moved:
		info.Kind, info.Readable = RecordMoved, true
	case codec.Lock:
		info.Kind, info.Readable = RecordLock, true
		_, info.LockedUntil = decodeLock(&sl)
	case codec.Index:
		ix, err := m.decodeIndex(id, rec.Data)
		if !e.Encrypted && err != nil {
			return info
		}
		info.Kind, info.Readable = RecordIndex, err == nil
		for i := range ix.entries {
			if !ix.entries[i].ending {
				info.Sessions = append(info.Sessions, ix.entries[i].id)
			}
		}
	}
	return info
}

// describe fills in what a session's body tells.
func (r *RecordInfo) describe(m *Manager, b *codec.Body) {
	r.Readable = true
	r.Created, r.LastUsed = time.UnixMilli(b.Created), time.UnixMilli(m.lastUsed(b, r.Expires))
	if b.Authenticated != 0 {
		r.AuthenticatedAt = time.UnixMilli(b.Authenticated)
	}
	r.User, r.RemoteAddr, r.UserAgent = string(b.User), string(b.RemoteAddr), string(b.UserAgent)
	r.Labels = decodeLabels(b.Labels)
	for key := range b.Values.All() {
		r.Keys = append(r.Keys, string(key))
	}
	r.values = b.Values
}

// End ends the session under an ID, as Session.Destroy does: requests in flight cannot bring it back. It returns an
// error that wraps ErrNotFound if there is no such session or it has ended. After any other error it can be called
// again. It goes on if ctx is cancelled; Options.StoreTimeout bounds it.
//
// For an application's own pages there is EndSessions, which takes care that nobody ends another user's.
func (m *Manager) End(ctx context.Context, id ID) error {
	step := newStoreContext(ctx, &m.storeLimit)
	defer step.cancel()
	sl := slot{m: m, id: id}
	if err := sl.look(step); err != nil {
		return err
	}
	var body codec.Body
	var login codec.Login
	if e, err := sl.open(); err == nil && e.Kind == codec.Session {
		login = e.Credential.Login
		var b codec.Body
		if e.OpenBody(&b, id, nil) == nil {
			body = b
		}
	}
	first, err := m.end(step, id, false, func(*codec.Envelope) bool { return true })
	switch {
	case err != nil:
		return err
	case !first:
		return fmt.Errorf("session: %v is no session, or has ended: %w", id, ErrNotFound)
	}
	m.tellEnd(step, id, string(body.User), ReasonRevoked)
	m.forget(step, &body, login, id)
	return nil
}
