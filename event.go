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
	// Successor is the ID that took the place of ID.
	Successor ID
	// Reason says why, in a word or two.
	Reason string
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

// What can happen.
const (
	EventCreated       EventKind = "created"          // a session was stored for the first time
	EventMigrated      EventKind = "migrated"         // a session of an old system was stored, see Options.Migration
	EventRenewed       EventKind = "renewed"          // its ID was changed periodically
	EventRegenerated   EventKind = "regenerated"      // its ID was changed on demand
	EventEnded         EventKind = "ended"            // it was destroyed, see Reason
	EventUnknown       EventKind = "unknown"          // a genuine cookie leads to no live session, see Reason
	EventCookieRefused EventKind = "cookie refused"   // a cookie failed the check, see Reason
	EventBinding       EventKind = "binding mismatch" // a session was not given out, the request is not like its owner's
	EventStaleWrite    EventKind = "stale write"      // a change was refused, the session had ended meanwhile
	EventConflict      EventKind = "conflict"         // a save had to be repeated, see Count
	EventUndecodable   EventKind = "undecodable"      // the value under Key does not decode as the type asked for
	EventDamaged       EventKind = "damaged"          // the bytes under ID are no session's; they read as absent
	EventLost          EventKind = "lost"             // something was not saved and no response could say so, see Err
	EventStore         EventKind = "store"            // the store was called
)

// LogValue returns the fields that are set, as a group.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("kind", string(e.Kind))}
	if e.ID != (ID{}) {
		attrs = append(attrs, slog.String("id", e.ID.String()))
	}
	if e.Successor != (ID{}) {
		attrs = append(attrs, slog.String("successor", e.Successor.String()))
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", e.Reason))
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
		m.observer(ctx, e)
	}
	switch e.Kind {
	case EventUndecodable, EventDamaged, EventLost:
		m.logger.LogAttrs(ctx, slog.LevelError, "session: "+string(e.Kind), slog.Any("event", e))
	}
}
