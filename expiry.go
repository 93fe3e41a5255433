package session

import "time"

// expiry returns when a session that is used now ends unless it is used again.
func (m *Manager) expiry(c *content, now time.Time) time.Time {
	limit := m.absoluteLimit(c)
	idle := m.idle(c)
	if idle <= 0 {
		return limit
	}
	expires := time.UnixMilli(now.Add(idle).UnixMilli())
	if sealed := m.sealedUntil(c); expires.Before(sealed) {
		expires = sealed
	}
	if !limit.IsZero() && limit.Before(expires) {
		return limit
	}
	return expires
}

// absoluteLimit returns when the session ends at the latest, the zero time for never.
func (m *Manager) absoluteLimit(c *content) time.Time {
	if m.absoluteTimeout <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(c.created).Add(m.absoluteTimeout)
}

// idle returns the session's idle timeout, 0 or less for none.
func (m *Manager) idle(c *content) time.Duration {
	if c.idle != 0 {
		return time.Duration(c.idle) * time.Millisecond
	}
	return m.idleTimeout
}

// sealedUntil returns until when there may be a sealed record that leads to the session, if that is longer than an
// idle timeout of its own, else the zero time. The session must not expire before that record: who then followed
// it would find nothing, take that for a renewal that came to a halt, and bring the session back.
func (m *Manager) sealedUntil(c *content) time.Time {
	if c.idle <= 0 || m.idle(c) >= m.renewGrace || m.renewEvery <= 0 || c.issued-c.created < m.renewEvery.Milliseconds() {
		return time.Time{} // never renewed, or no concern
	}
	return time.UnixMilli(c.issued).Add(m.renewGrace)
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
func (m *Manager) lastUsed(c *content, expires time.Time) time.Time {
	used := time.UnixMilli(c.saved)
	idle := m.idle(c)
	if idle <= 0 || expires.IsZero() {
		return used
	}
	if limit := m.absoluteLimit(c); !limit.IsZero() && !expires.Before(limit) {
		return used
	}
	if !expires.After(m.sealedUntil(c)) {
		return used
	}
	if at := expires.Add(-idle); at.After(used) {
		return at
	}
	return used
}
