package session

import "time"

// What most requests ask is calculated in Unix milliseconds, see never: a time.Time takes longer (BenchmarkRequest/read).

// expiry returns when a session that is used now ends unless it is used again.
func (m *Manager) expiry(c *content, now time.Time) time.Time {
	limit := m.absoluteLimit(c)
	idle := m.idle(c)
	if idle <= 0 {
		return expiryTime(limit)
	}
	expires := max(now.UnixMilli()+idle.Milliseconds(), m.sealedUntil(c))
	return time.UnixMilli(min(expires, limit))
}

// absoluteLimit returns when the session ends at the latest.
func (m *Manager) absoluteLimit(c *content) int64 {
	if m.absoluteTimeout <= 0 {
		return never
	}
	return c.created + m.absoluteTimeout.Milliseconds()
}

// idle returns the session's idle timeout, 0 or less for none.
func (m *Manager) idle(c *content) time.Duration {
	if c.idle != 0 {
		return time.Duration(c.idle) * time.Millisecond
	}
	return m.idleTimeout
}

// sealedUntil returns until when there may be a sealed record that leads to the session, if that is longer than an
// idle timeout of its own, else 0. The session must not expire before that record: who then followed
// it would find nothing, take that for a renewal that came to a halt, and bring the session back.
func (m *Manager) sealedUntil(c *content) int64 {
	if c.idle <= 0 || m.idle(c) >= m.renewGrace || m.renewEvery <= 0 || c.issued-c.created < m.renewEvery.Milliseconds() {
		return 0 // never renewed, or no concern
	}
	return c.issued + m.renewGrace.Milliseconds()
}

// touchInterval returns how old the last recorded use has to be for a new one to be recorded.
func (m *Manager) touchInterval(c *content) time.Duration {
	idle := m.idle(c)
	if m.touchEvery != 0 && (idle <= 0 || m.touchEvery < idle) {
		return m.touchEvery
	}
	return idle / 10
}

// lastUsed derives the time of the last use from the expiry that it led to: a Touch moves nothing else.
func (m *Manager) lastUsed(c *content, expires time.Time) int64 {
	idle, until := m.idle(c), expiryMillis(expires)
	if idle <= 0 || until >= m.absoluteLimit(c) || until <= m.sealedUntil(c) {
		return c.saved
	}
	return max(c.saved, until-idle.Milliseconds())
}
