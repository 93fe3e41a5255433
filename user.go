package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// SetUser says who is logged in, to be called once the password, or whatever proves it, was checked. It gives the
// session a new ID, as Regenerate does, begins its absolute timeout anew, and makes it one of the user's sessions,
// see Manager.UserSessions. Who logs in again, for something sensitive, keeps the place among them. The user is any
// string that names one in the application, best an ID that never changes; empty means nobody, makes the session one
// of nobody's, and leaves the absolute timeout as it is.
func (s *Session) SetUser(user string) {
	now := time.Now().UnixMilli()
	var lineage [16]byte
	rand.Read(lineage[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	s.change(change{kind: changeMeta, key: "user", meta: func(c *content) {
		if string(c.user) != user {
			c.lineage = lineage
		}
		c.user, c.authenticated = []byte(user), 0
		if user != "" {
			c.authenticated, c.created = now, now
		}
	}})
	if s.state == live || s.state == gone {
		s.todo |= regenerate
	}
}

// User returns who SetUser said is logged in, empty if nobody is.
func (s *Session) User() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return string(s.content.user)
}

// AuthenticatedAt returns when SetUser was last called, the zero time if nobody is logged in. Compare it before
// something sensitive is done, and ask for the password again if it is long ago (ASVS 5.0, 7.5.1).
func (s *Session) AuthenticatedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	if s.content.authenticated == 0 {
		return time.Time{}
	}
	return time.UnixMilli(s.content.authenticated)
}

// A UserSession describes one of a user's sessions, for a page such as "your devices".
type UserSession struct {
	// Handle names the session for EndSession, as long as it lives. It is no secret.
	Handle string
	// ID is the session's ID at present; it changes by renewal.
	ID ID
	// Created is the time of the login.
	Created time.Time
	// LastUsed is exact to Options.TouchInterval.
	LastUsed time.Time
	// Expires is when the session ends if it is not used again; zero for never.
	Expires time.Time
	// RemoteAddr and UserAgent are those of the request that created the session.
	RemoteAddr, UserAgent string
	// Current is set for the session of the request that the context belongs to.
	Current bool
}

// UserSessions returns the live sessions of a user, the most recently used first. Options.StoreTimeout bounds each of
// the steps, one a session and a few. It returns an error if the list that the store has of them cannot be read: see
// EndUserSessions.
func (m *Manager) UserSessions(ctx context.Context, user string) ([]UserSession, error) {
	ctx = uncached(ctx)
	var current lineage
	if s := m.lookup(ctx); s != nil {
		current = s.lineage()
	}
	if err := m.settle(ctx); err != nil {
		return nil, err
	}
	ctx = sessionless{ctx}
	step, cancel := context.WithTimeout(ctx, m.storeLimit.timeout)
	_, ix, err := m.loadIndex(step, user)
	cancel()
	if err == nil && ix.damaged {
		err = errIndexDamaged
	}
	if err != nil {
		return nil, err
	}
	var list []UserSession
	for _, e := range ix.entries {
		if e.ending {
			continue
		}
		step, cancel := context.WithTimeout(ctx, m.storeLimit.timeout)
		id, rec, _, err := m.liveRecord(step, &e)
		cancel()
		if err != nil {
			return nil, err
		}
		if id == (ID{}) {
			continue
		}
		list = append(list, UserSession{
			Handle:     hex.EncodeToString(e.lineage[:]),
			ID:         id,
			Created:    time.UnixMilli(e.created),
			LastUsed:   time.UnixMilli(m.lastUsed(&content{created: e.created, saved: e.used, idle: e.idle}, rec.Expires)),
			Expires:    rec.Expires,
			RemoteAddr: string(e.remoteAddr),
			UserAgent:  string(e.userAgent),
			Current:    e.lineage == current,
		})
	}
	slices.SortStableFunc(list, func(a, b UserSession) int { return b.LastUsed.Compare(a.LastUsed) })
	return list, nil
}

// EndSession ends the session of the user that has the handle. It returns an error that wraps ErrNotFound if the
// user has no such session, so that nobody ends another user's.
func (m *Manager) EndSession(ctx context.Context, user, handle string) error {
	n, err := m.endSessions(ctx, user, func(e *indexEntry) bool {
		return hex.EncodeToString(e.lineage[:]) == handle
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("session: the user has no session with that handle: %w", ErrNotFound)
	}
	return err
}

// EndOtherSessions ends all sessions of the user who is logged in, but for the one of the request that ctx belongs
// to: to be offered to users, and called when a password was changed (ASVS 5.0, 7.4.3). It returns how many it
// ended. It panics where FromContext would.
func (m *Manager) EndOtherSessions(ctx context.Context) (int, error) {
	s := m.FromContext(ctx)
	user, current := s.User(), s.lineage()
	if user == "" {
		return 0, s.Err()
	}
	return m.endSessions(ctx, user, func(e *indexEntry) bool { return e.lineage != current })
}

// EndUserSessions ends all sessions of a user, the one of the request included: when the account is closed, or was
// taken over (ASVS 5.0, 7.4.2). It returns how many it ended. After an error it can be called again, and goes on where
// it stopped.
//
// It returns an error if the list that the store has of them cannot be read, because it is damaged, or encrypted under
// a secret that is not known here. The next login or renewal of one of them begins a new list, into which each comes
// back with its own next renewal: so call it once more when Options.RenewInterval has passed.
func (m *Manager) EndUserSessions(ctx context.Context, user string) (int, error) {
	return m.endSessions(ctx, user, func(*indexEntry) bool { return true })
}

// lineage returns the name that the session keeps whatever its ID, the zero one if it has none yet.
func (s *Session) lineage() lineage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	return s.content.lineage
}

// A lineage names a session as long as it lives, whatever its ID.
type lineage = [16]byte

// endSessions ends those of the user's sessions that match, in three steps of which each can be done again: the
// index says that they are to end, they end, the index forgets them. If a process dies in between, the next write
// to the index finishes the work.
func (m *Manager) endSessions(parent context.Context, user string, match func(*indexEntry) bool) (int, error) {
	if err := m.settle(parent); err != nil {
		return 0, err
	}
	ctx := newStoreContext(parent, &m.storeLimit)
	defer ctx.cancel()
	n := 0
	err := m.updateIndex(ctx, user, endedOnDemand, func(ix *index) error {
		if ix.damaged {
			return errIndexDamaged
		}
		n = 0
		for i := range ix.entries {
			if e := &ix.entries[i]; match(e) { // also one that another call was to end, and may not get to it
				e.ending = true
				n++
			}
		}
		return nil
	})
	return n, err
}
