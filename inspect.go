package session

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// For operators, who have the store and not the client's cookie: a look into records, and the end of a session by
// its ID. The command in cmd/session is built on this.

// Inspect tells what the record under an ID is, or returns an error that wraps ErrNotFound if there is none. It
// changes nothing, and does not count as a use of the session.
//
// What it tells, it tells as this manager sees it: with Options.EncryptAtRest, a session's record that is not
// encrypted is RecordDamaged.
func (m *Manager) Inspect(ctx context.Context, id ID) (RecordInfo, error) {
	rec, err := m.load(ctx, id)
	if err != nil {
		return RecordInfo{}, err
	}
	return m.inspect(id, rec), nil
}

// InspectUser is Inspect for the record that names a user's sessions, wherever that is. See Manager.UserSessions
// for the sessions themselves.
func (m *Manager) InspectUser(ctx context.Context, user string) (RecordInfo, error) {
	return m.Inspect(ctx, m.indexID(user))
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

	// Of a session, live or sealed. LastUsed is derived from Options.IdleTimeout, and exact to
	// Options.TouchInterval. AuthenticatedAt is when SetUser was last called, zero if User is empty.
	Created, LastUsed, AuthenticatedAt time.Time
	User, RemoteAddr, UserAgent        string
	Keys                               []string // of its values, in ascending order; see Value

	// Successor is the ID that a sealed or moved record leads to. It is readable in any case.
	Successor ID
	// Regenerated says of a retired ID that its session lives on under one that this one does not lead to. It is
	// readable in any case.
	Regenerated bool
	// Sessions are the present IDs of those that an index names. They may have ended since.
	Sessions []ID
	// LockedUntil is when a lock ends unless its holder prolongs it; zero if nobody holds it.
	LockedUntil time.Time

	values values
}

// A RecordKind tells what a record is for.
type RecordKind string

// What a store holds. Only the first is a session that a client can use.
const (
	RecordLive    RecordKind = "live"    // a session
	RecordSealed  RecordKind = "sealed"  // the former ID of a session that was renewed, which leads to its successor
	RecordRetired RecordKind = "retired" // the mark of an ID that was ended or regenerated
	RecordMoved   RecordKind = "moved"   // the mark of an old system's session, which leads to what became of it
	RecordIndex   RecordKind = "index"   // names the sessions of a user
	RecordLock    RecordKind = "lock"    // says who works on a session exclusively
	RecordDamaged RecordKind = "damaged" // not what this package wrote under this ID
)

// Value returns the value under a key in CBOR diagnostic notation (RFC 8949 section 8), and whether there is one. It
// is plain text on one line, control characters escaped; what has no such notation is hexadecimal, as in h'ff'.
func (r *RecordInfo) Value(key string) (string, bool) {
	values := r.values // get may rearrange them
	data, ok := values.get(key)
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
	l := link{id: id}
	d, err := m.decode(&l, rec.Data)
	if err != nil {
		return info
	}
	info.Encrypted = rec.Data[checksumSize] == formatEncrypted
	info.Readable = !info.Encrypted
	switch d.kind {
	case kindLive:
		info.Kind = RecordLive
		info.describe(m, &d.content)
	case kindSealed:
		info.Kind, info.Successor = RecordSealed, d.successor
		info.describe(m, &d.content)
	case kindRetired:
		info.Kind, info.Regenerated = RecordRetired, d.regenerated
	case kindMoved:
		info.Kind, info.Successor = RecordMoved, d.successor
	case kindLock:
		info.Kind = RecordLock
		_, info.LockedUntil = m.decodeLock(&l, rec.Data)
	case kindIndex:
		info.Kind = RecordIndex
		ix, err := m.decodeIndex(id, rec.Data)
		info.Readable = err == nil
		for _, e := range ix.entries {
			if n := len(e.ids); n > 0 && !e.ending {
				info.Sessions = append(info.Sessions, e.ids[n-1].id)
			}
		}
	}
	return info
}

// describe fills in what a session's content tells, if it is readable.
func (r *RecordInfo) describe(m *Manager, c *content) {
	if !r.Readable {
		return
	}
	r.Created, r.LastUsed = time.UnixMilli(c.created), time.UnixMilli(m.lastUsed(c, r.Expires))
	if r.Kind == RecordSealed { // its expiry is the end of the grace period
		r.LastUsed = time.UnixMilli(c.saved)
	}
	if c.authenticated != 0 {
		r.AuthenticatedAt = time.UnixMilli(c.authenticated)
	}
	r.User, r.RemoteAddr, r.UserAgent = string(c.user), string(c.remoteAddr), string(c.userAgent)
	r.Keys = c.values.keys()
	r.values = c.values
}

// End ends the session that an ID leads to, over renewals too, as Session.Destroy does: requests in flight cannot
// bring it back. It returns an error that wraps ErrNotFound if there is no such session or it has ended, and one
// that wraps ErrGone if the ID was regenerated, so that the session lives on under another, which the ID does not
// lead to. After any other error it can be called again. It goes on if ctx is cancelled; Options.StoreTimeout
// bounds it.
//
// For an application's own pages there is EndSession, which takes care that nobody ends another user's.
func (m *Manager) End(parent context.Context, id ID) error {
	ctx := newStoreContext(parent, &m.storeLimit)
	defer ctx.cancel()
	d, err := m.trace(ctx, id)
	if err != nil {
		return err
	}
	n := 0
	if c := &d.content; len(c.user) > 0 {
		// The index also names the ID that a regeneration under way is about to bring into use.
		n, err = m.endSessions(ctx, string(c.user), func(e *indexEntry) bool { return e.lineage == c.lineage })
		if err != nil && !errors.Is(err, errIndexDamaged) {
			return err
		}
	}
	again := newStoreContext(parent, &m.storeLimit)
	defer again.cancel()
	if err := m.endID(again, id, endedOnDemand, false); err != nil {
		return err
	}
	if _, err = m.trace(again, id); errors.Is(err, ErrNotFound) || n > 0 && errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// trace returns what the session that an ID leads to holds, or the error of End.
func (m *Manager) trace(ctx context.Context, id ID) (decoded, error) {
	var last decoded // the sealed record that led here
	for range maxHops {
		rec, err := m.load(ctx, id)
		if errors.Is(err, ErrNotFound) && last.kind == kindSealed {
			return last, nil // whoever follows it creates the successor
		}
		if err != nil {
			return decoded{}, err
		}
		d, err := m.decode(&link{id: id}, rec.Data)
		switch {
		case err != nil:
			return decoded{}, fmt.Errorf("session: what is under %v is damaged: %w", id, ErrNotFound)
		case d.kind == kindLive:
			return d, nil
		case d.kind == kindSealed:
			id, last = d.successor, d
		case d.kind == kindRetired && d.regenerated:
			return decoded{}, fmt.Errorf("session: %v was regenerated: %w", id, ErrGone)
		case d.kind == kindRetired:
			return decoded{}, fmt.Errorf("session: %v has ended: %w", id, ErrNotFound)
		default:
			return decoded{}, fmt.Errorf("session: %v is no session: %w", id, ErrNotFound)
		}
	}
	return decoded{}, fmt.Errorf("session: more than %d renewals lead on from one ID", maxHops)
}
