package session

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"example.com/session/internal/codec"
)

// An Event tells the Options.Observer what happened to a session or at its store. It holds an ID, never a
// token or a value, and is an slog.LogValuer.
type Event struct {
	// Kind says what happened. The other fields are set where they have a meaning.
	Kind EventKind
	// ID is the session's, which it has from its first save to its end; of EventStore and EventDamaged, the record's.
	ID ID
	// User is whose session it is, as SetUser was told; of EventLogout, who has left. Empty means nobody, or that it is not
	// known: a cookie that is refused, or leads to nothing, names nobody.
	User string
	// Reason says why.
	Reason Reason
	// Op is the store's operation: load, save, touch, delete or sweep; of EventLost, what came to nothing.
	Op string
	// Duration is how long the operation, or the wait for a lock, took. The event comes at its end.
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

// The kinds of events. They are fit for the labels of metrics. EVENTS.md tells of each which fields it has, and which are
// worth an alarm. A session that expires is no event; the cookie that comes later is one, EventUnknown.
const (
	EventLogin            EventKind = "login"             // SetUser was saved, see Reason for one who was logged in before
	EventLoginRefused     EventKind = "login_refused"     // SetUser was refused, see Reason
	EventLogout           EventKind = "logout"            // a user has left a session, see Reason; what others end is EventEnded alone
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
	EventOldSecret        EventKind = "old_secret"        // something that one of Options.PreviousSecrets made was accepted, see Reason
	EventLock             EventKind = "lock"              // a session was locked after Duration, or was not, or has lost its lock: see Reason
	EventStaleWrite       EventKind = "stale_write"       // a change, or a lock, was refused, the session had ended meanwhile
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
	ReasonDestroyed Reason = "destroyed" // ended, logout: by Session.Destroy
	ReasonEmptied   Reason = "emptied"   // ended, logout: nothing was left in it
	ReasonRevoked   Reason = "revoked"   // ended: by the Manager, for its user or an operator; login refused: it is to end from there
	ReasonLimit     Reason = "limit"     // ended, login refused: Options.MaxSessionsPerUser, or MaxSize
	ReasonReused    Reason = "reused"    // ended: Options.EndOnReuse

	ReasonAgain Reason = "again" // login: of the user who was logged in already

	ReasonEnded    Reason = "ended"    // unknown, key refused: the session has ended
	ReasonReplaced Reason = "replaced" // unknown: the cookie is from before a login or Session.Regenerate; key refused, locked: it is of another key, login or session; logout: SetUser named nobody, or somebody else
	ReasonExpired  Reason = "expired"  // unknown, key refused: there is no record, it expired, or the store has lost it; locked: the proof has run out

	ReasonUnproven Reason = "unproven" // locked: there is no proof
	ReasonSkipped  Reason = "skipped"  // locked: the browser says that it could not ask for one

	ReasonMalformed    Reason = "malformed"     // cookie or key refused: it is not what one looks like
	ReasonBadSignature Reason = "bad_signature" // cookie or key refused: no secret that is known signed it, or not the key

	ReasonCookie    Reason = "cookie"    // old secret: it signed the session's cookie
	ReasonHeader    Reason = "header"    // old secret: it signed a token in a header, or for Manager.Do
	ReasonDevice    Reason = "device"    // old secret: it signed by what a browser names its key
	ReasonEncrypted Reason = "encrypted" // old secret: a record is encrypted under it

	ReasonTakenOver Reason = "taken_over" // lock: locked, since the lease of the one before ran out
	ReasonTimeout   Reason = "timeout"    // lock: not locked within Options.LockWait
	ReasonFailed    Reason = "failed"     // lock: not locked, see Err
	ReasonLost      Reason = "lost"       // lock: it is another request's by now, or the lease ran out
)

// LogValue returns the fields that are set, as a group.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("kind", string(e.Kind))}
	if e.ID != (ID{}) {
		attrs = append(attrs, slog.String("id", e.ID.String()))
	}
	if e.User != "" {
		attrs = append(attrs, slog.String("user", e.User))
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	if e.Op != "" {
		attrs = append(attrs, slog.String("op", e.Op))
	}
	if e.Duration != 0 || e.Kind == EventStore {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
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

// tell hands the observer an event of the request's session.
func (c *core) tell(ctx context.Context, e Event) {
	if e.ID = cmp.Or(e.ID, c.slot.id); c.m.observer != nil {
		e.User = cmp.Or(e.User, string(c.body.User))
	}
	c.m.observe(ctx, e)
}

// tellLogin tells of who has logged in or left by SetUser: before is who was there.
func (c *core) tellLogin(ctx context.Context, before, user string) {
	if before != "" && before != user {
		c.tell(ctx, Event{Kind: EventLogout, User: before, Reason: ReasonReplaced})
	}
	switch user {
	case "":
	case before:
		c.tell(ctx, Event{Kind: EventLogin, User: user, Reason: ReasonAgain})
	default:
		c.tell(ctx, Event{Kind: EventLogin, User: user})
	}
}

// tellEnd tells of a session of the user's that ended.
func (m *Manager) tellEnd(ctx context.Context, id ID, user string, reason Reason) {
	m.observe(ctx, Event{Kind: EventEnded, ID: id, User: user, Reason: reason})
	if user != "" && (reason == ReasonDestroyed || reason == ReasonEmptied) {
		m.observe(ctx, Event{Kind: EventLogout, ID: id, User: user, Reason: reason})
	}
}

// owner returns whose session the record in the slot is, for the observer: also of one that is not served. It is empty if
// nobody knows.
func (c *core) owner() string {
	if c.m.observer == nil || c.env.Kind != codec.Session || c.m.encrypt && !c.env.Encrypted {
		return ""
	}
	var b codec.Body
	if c.env.OpenBody(&b, c.slot.id, func(i int) *codec.Cipher { return c.m.sessionCipher(i, &c.token) }) != nil {
		return ""
	}
	return string(b.User)
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
