package session

import (
	"time"

	"example.com/session/internal/codec"
)

// A timing is the part of the options that says when sessions expire and their cookies change. Most requests ask it, so
// it calculates in Unix milliseconds: a time.Time takes longer (BenchmarkRequest/read).
type timing struct {
	idleTimeout     time.Duration // 0 is never, for this and the next two
	absoluteTimeout time.Duration
	renewEvery      time.Duration
	renewGrace      time.Duration
	touchEvery      time.Duration // 0: a tenth of the session's idle timeout
	persistent      bool          // cookies survive the end of the browser, unless a session has it otherwise
}

// clockSlack is by how much the clocks of processes may differ that share a store.
const clockSlack = time.Minute

// expiry returns when a session that is used now ends unless it is used again.
func (t *timing) expiry(b *codec.Body, now int64) time.Time {
	limit := t.absoluteLimit(b)
	idle := t.idle(b)
	if idle <= 0 {
		return expiryTime(limit)
	}
	return time.UnixMilli(min(now+idle.Milliseconds(), limit))
}

// absoluteLimit returns when the session ends at the latest.
func (t *timing) absoluteLimit(b *codec.Body) int64 {
	if t.absoluteTimeout <= 0 {
		return never
	}
	return b.Created + t.absoluteTimeout.Milliseconds()
}

// idle returns the session's idle timeout, 0 or less for none.
func (t *timing) idle(b *codec.Body) time.Duration {
	if b.Idle != 0 {
		return time.Duration(max(-1, min(b.Idle, longest.Milliseconds()))) * time.Millisecond
	}
	return t.idleTimeout
}

// touchInterval returns how old the last recorded use has to be for a new one to be recorded.
func (t *timing) touchInterval(b *codec.Body) time.Duration {
	idle := t.idle(b)
	if t.touchEvery != 0 && (idle <= 0 || t.touchEvery < idle) {
		return t.touchEvery
	}
	return idle / 10
}

// lastUsed derives the time of the last use from the expiry that it led to: a Touch moves nothing else.
func (t *timing) lastUsed(b *codec.Body, expires time.Time) int64 {
	idle, until := t.idle(b), expiryMillis(expires)
	if idle <= 0 || until >= t.absoluteLimit(b) {
		return b.Saved
	}
	return max(b.Saved, until-idle.Milliseconds())
}

// touchDue reports whether the expiry that a use now leads to is worth a write.
func (t *timing) touchDue(b *codec.Body, expires time.Time, now int64) bool {
	unrecorded := time.Duration(now-t.lastUsed(b, expires)) * time.Millisecond
	to := t.expiry(b, now)
	if !to.IsZero() && expiryMillis(expires) > to.UnixMilli()+clockSlack.Milliseconds() { // of a longer timeout, or of a clock that was ahead
		return true
	}
	return unrecorded >= t.touchInterval(b) && to.After(expires)
}

// persistentCookie reports whether the session's cookie has an expiry.
func (t *timing) persistentCookie(b *codec.Body) bool {
	switch b.Persistence {
	case codec.Persistent:
		return true
	case codec.NotPersistent:
		return false
	}
	return t.persistent
}
