package session

import (
	"context"
	"log/slog"
	"time"
)

// An Event tells the Options.Observer what happened to a session or at its store. It holds an ID, never a
// token or a value, and is an slog.LogValuer.
type Event struct {
	// Kind says what happened. The other fields are set where they have a meaning.
	Kind EventKind
	// ID is the session's, or the record's.
	ID ID
	// Reason says why.
	Reason Reason
	// Op is the store's operation: load, save, touch, delete or sweep.
	Op string
	// Duration is how long the operation took.
	Duration time.Duration
	// Count is the number of tries that a save took, or of records that a sweep removed.
	Count int
	// Key names the value in question.
	Key string
	// Err is what went wrong.
	Err error
}

// An EventKind says what an Event is about.
type EventKind string

// The kinds of events. They are fit for the labels of metrics.
const (
	EventCreated          EventKind = "created"           // a session was stored for the first time
	EventMigrated         EventKind = "migrated"          // a session of an old system was stored, see Options.Migration
	EventRenewed          EventKind = "renewed"           // its cookie was renewed, as happens from time to time
	EventRegenerated      EventKind = "regenerated"       // its cookie got another key, by SetUser or Regenerate
	EventEnded            EventKind = "ended"             // it ended, see Reason
	EventUnknown          EventKind = "unknown"           // a genuine cookie leads to no live session, see Reason
	EventReused           EventKind = "reused"            // a genuine cookie fell behind: somebody has a copy of it that did not
	EventCookieRefused    EventKind = "cookie_refused"    // a cookie, or a token in a header, failed the check, see Reason
	EventBindingMismatch  EventKind = "binding_mismatch"  // a session was not given out, the request is not like its owner's
	EventDeviceOffered    EventKind = "device_offered"    // the browser was offered to bind the session to its device, see DeviceBinding
	EventDeviceRegistered EventKind = "device_registered" // it has a key for the session, which is bound once that was shown
	EventDeviceBound      EventKind = "device_bound"      // the session is bound to the device
	EventDeviceRefreshed  EventKind = "device_refreshed"  // the browser has proved that it has the key
	EventDeviceRefused    EventKind = "device_refused"    // a key does not count, see Reason
	EventDeviceLocked     EventKind = "device_locked"     // a session was not given out, the request shows no proof that counts, see Reason
	EventStaleWrite       EventKind = "stale_write"       // a change was refused, the session had ended meanwhile
	EventConflict         EventKind = "conflict"          // a save had to be repeated, see Count
	EventUndecodable      EventKind = "undecodable"       // the value under Key does not decode as the type asked for
	EventDamaged          EventKind = "damaged"           // the bytes under ID are no session's; they read as absent
	EventLost             EventKind = "lost"              // something was not saved and no response could say so, see Err
	EventStore            EventKind = "store"             // the store was called
)

// A Reason says why an Event happened. The reasons are fit for the labels of metrics.
type Reason string

// Why a session ended, a cookie leads to none, or was refused.
const (
	ReasonDestroyed Reason = "destroyed" // ended: by Session.Destroy
	ReasonEmptied   Reason = "emptied"   // ended: nothing was left in it
	ReasonRevoked   Reason = "revoked"   // ended: by the Manager, for its user or an operator
	ReasonLimit     Reason = "limit"     // ended: Options.MaxSessionsPerUser, or MaxSize
	ReasonReused    Reason = "reused"    // ended: Options.EndOnReuse

	ReasonEnded    Reason = "ended"    // unknown, key refused: the session has ended
	ReasonReplaced Reason = "replaced" // unknown: the cookie is from before a login or Session.Regenerate; key refused, locked: it is of another key, login or session
	ReasonExpired  Reason = "expired"  // unknown, key refused: there is no record, it expired, or the store has lost it; locked: the proof has run out

	ReasonUnproven Reason = "unproven" // locked: there is no proof
	ReasonSkipped  Reason = "skipped"  // locked: the browser says that it could not ask for one

	ReasonMalformed    Reason = "malformed"     // cookie or key refused: it is not what one looks like
	ReasonBadSignature Reason = "bad_signature" // cookie or key refused: no secret that is known signed it, or not the key
)

// LogValue returns the fields that are set, as a group.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("kind", string(e.Kind))}
	if e.ID != (ID{}) {
		attrs = append(attrs, slog.String("id", e.ID.String()))
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	if e.Op != "" {
		attrs = append(attrs, slog.String("op", e.Op), slog.Duration("duration", e.Duration))
	}
	if e.Count != 0 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	if e.Key != "" {
		attrs = append(attrs, slog.String("key", e.Key))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("err", e.Err.Error()))
	}
	return slog.GroupValue(attrs...)
}

// observe hands the event to the observer. Those that somebody should look into reach the logger too.
func (m *Manager) observe(ctx context.Context, e Event) {
	if m.observer != nil {
		m.observer(sessionless{ctx}, e)
	}
	switch e.Kind {
	case EventUndecodable, EventDamaged, EventLost:
		m.logger.LogAttrs(sessionless{ctx}, slog.LevelError, "session: "+string(e.Kind), slog.Any("event", e))
	}
}

// advise tells the logger once of a use of the package that does less than it seems to.
func (m *Manager) advise(ctx context.Context, text string, args ...any) {
	if _, told := m.advised.LoadOrStore(text, true); !told {
		m.logger.WarnContext(sessionless{ctx}, "session: "+text, args...)
	}
}

// adviseIdle tells of a session's own idle timeout that never comes.
func (c *core) adviseIdle(d time.Duration) {
	if limit := c.m.absoluteTimeout; limit > 0 && d > limit {
		c.m.advise(c.origin.context(), "an idle timeout is longer than Options.AbsoluteTimeout, which ends the session before", "idle", d, "absolute", limit)
	}
}

// startTimer returns when a store call began, if somebody wants to know.
func (m *Manager) startTimer() time.Time {
	if m.observer == nil {
		return time.Time{}
	}
	return time.Now()
}

func (m *Manager) observeStore(ctx context.Context, start time.Time, op string, id ID, err error) {
	if m.observer != nil {
		m.observer(ctx, Event{Kind: EventStore, Op: op, ID: id, Duration: time.Since(start), Err: err})
	}
}
