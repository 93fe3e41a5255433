package session

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"example.com/session/internal/codec"
)

// A Label is a name that a session has beside its user's, such as a tenant, or the session ID of an OpenID provider ("sid").
// Sessions of one name and value make a group. See Session.SetUser.
type Label struct{ Name, Value string }

// maxLabels bounds how many labels a session has.
const maxLabels = 8

// A Group names the live sessions of a user or of a label, all of them or some. It is a value, and good for every Manager.
// The store has a list of each, of some thousand sessions: Options.MaxSize bounds it, and beyond, the oldest end.
type Group struct {
	label  string // empty: the user's
	value  string // the user, or the label's value
	handle string
	others bool
}

// OfUser returns the group of a user's sessions. Nobody, the empty user, has none.
func OfUser(user string) Group { return Group{value: user} }

// Labelled returns the group of the sessions that have the label, whoever their users are.
func Labelled(l Label) Group { return Group{label: l.Name, value: l.Value} }

// One returns the session of the group that has a SessionInfo.Handle, so that nobody ends one that is not theirs.
func (g Group) One(handle string) Group {
	g.handle = handle
	return g
}

// Others returns the group without the session of the request that the context belongs to, for "log out my other devices".
// The context has to be that of a request, or it panics where FromContext would. A session that is not in the group leaves all
// of it: take the user from Session.User, which is empty for a client that has been logged out meanwhile.
func (g Group) Others() Group {
	g.others = true
	return g
}

// empty reports whether there can be no session in the group.
func (g Group) empty() bool { return g.label == "" && g.value == "" }

// groupsOf goes through the groups that a session with that body is in.
func groupsOf(b *codec.Body) iter.Seq[Group] {
	return func(yield func(Group) bool) {
		if len(b.User) == 0 || !yield(OfUser(string(b.User))) {
			return
		}
		for _, l := range decodeLabels(b.Labels) {
			if !yield(Labelled(l)) {
				return
			}
		}
	}
}

// encodeLabels returns the labels as a record has them.
func encodeLabels(user string, labels []Label) (packed []byte, err error) {
	if len(labels) > maxLabels || len(labels) > 0 && user == "" {
		return nil, fmt.Errorf("%w: SetUser with %d labels: there can be %d, and none without a user", errProgram, len(labels), maxLabels)
	}
	sorted := slices.SortedFunc(slices.Values(labels), func(x, y Label) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
	})
	for _, l := range slices.Compact(sorted) {
		if l.Name == "" || l.Value == "" {
			return nil, fmt.Errorf("%w: SetUser with the label %q: a label has a name and a value", errProgram, l)
		}
		packed = codec.AppendBytes(codec.AppendBytes(packed, []byte(l.Name)), []byte(l.Value))
	}
	return packed, nil
}

func decodeLabels(packed []byte) (labels []Label) {
	for r := codec.NewReader(packed); r.More(); {
		labels = append(labels, Label{string(r.Bytes()), string(r.Bytes())})
	}
	return labels
}

// A SessionInfo describes one session of a group, for a page such as "your devices".
type SessionInfo struct {
	// Handle names the session for Group.One, as long as it lives. It is no secret.
	Handle string
	// ID is the session's ID.
	ID ID
	// User is who is logged in.
	User string
	// Created is the time of the login.
	Created time.Time
	// LastUsed is exact to Options.TouchInterval.
	LastUsed time.Time
	// Expires is when the session ends if it is not used again; zero for never.
	Expires time.Time
	// RemoteAddr and UserAgent are those of the request that created the session.
	RemoteAddr, UserAgent string
	// Bound is since when the session has been bound to the key of a device, see DeviceBinding; zero if it is not.
	Bound time.Time
	// Current is set for the session of the request that the context belongs to.
	Current bool
}

// Sessions returns the live sessions of a group, the most recently used first. Options.StoreTimeout bounds each of
// the steps, one a session and a few. It returns an error if the list that the store has of them cannot be read: see
// EndSessions. Of sessions that are to end, it lists those that still live. Sessions that the store cannot reach
// just now are missing: it returns the others together with an error for each of these.
func (m *Manager) Sessions(ctx context.Context, g Group) ([]SessionInfo, error) {
	ctx = WithoutCache(ctx)
	if err := m.settle(ctx); err != nil {
		return nil, err
	}
	match, current, _, err := m.members(ctx, g)
	if err != nil || g.empty() {
		return nil, err
	}
	var device Device
	if s := m.lookup(ctx); s != nil {
		device = s.Device()
	}
	ctx = sessionless{ctx}
	step, cancel := context.WithTimeout(ctx, m.storeLimit.timeout)
	_, ix, err := m.loadIndex(step, g)
	cancel()
	if err == nil && ix.damaged {
		err = errIndexDamaged
	}
	if err != nil {
		return nil, err
	}
	var list []SessionInfo
	var errs []error
	listed := make(map[codec.Login]bool)
	for i := range slices.Backward(ix.entries) { // of one that moved, the last
		e := &ix.entries[i]
		if listed[e.login] || !match(e) {
			continue
		}
		step, cancel := context.WithTimeout(ctx, m.storeLimit.timeout)
		described, lives, err := m.describe(step, e)
		cancel()
		if err != nil {
			errs = append(errs, err)
		}
		if lives {
			listed[e.login] = true
			described.User = g.user(e)
			if described.Current = e.login == current; described.Current {
				described.Bound = device.Bound // also if it is about to be
			}
			list = append(list, described)
		}
	}
	slices.SortStableFunc(list, func(a, b SessionInfo) int { return b.LastUsed.Compare(a.LastUsed) })
	return list, errors.Join(errs...)
}

// members returns what tells which entries of its index a group means, the login of the request that ctx belongs to, and
// whether the session of that is in the group, and left out.
func (m *Manager) members(ctx context.Context, g Group) (match func(*indexEntry) bool, current codec.Login, spares bool, err error) {
	s := m.lookup(ctx)
	if g.others {
		s = m.FromContext(ctx)
	}
	if s != nil {
		current = s.login()
	}
	if g.others {
		err = s.Err()
		spares = g.label == "" && s.User() == g.value || g.label != "" && slices.Contains(s.Labels(), Label{g.label, g.value})
	}
	return func(e *indexEntry) bool {
		return (g.handle == "" || e.handle() == g.handle) && !(g.others && e.login == current)
	}, current, spares, err
}

// user returns whose session the entry of the group's index is, empty if nobody knows.
func (g Group) user(e *indexEntry) string {
	if g.label == "" {
		return g.value
	}
	return string(e.user)
}

// handle names the entry's session as long as it lives.
func (e *indexEntry) handle() string { return hex.EncodeToString(e.login[:]) }

// describe returns what can be told of a session, and whether it lives.
func (m *Manager) describe(ctx context.Context, e *indexEntry) (SessionInfo, bool, error) {
	sl := slot{m: m, id: e.id}
	if err := sl.look(ctx); err != nil || sl.rec.Version == 0 {
		return SessionInfo{}, false, err
	}
	r, err := sl.open()
	if err != nil || r.Kind != codec.Session || r.Credential.Login != e.login {
		return SessionInfo{}, false, nil
	}
	// Without its client's cookie, an encrypted session tells no more than its expiry.
	body := codec.Body{Created: e.created, Saved: e.created, Idle: e.idle}
	var b codec.Body
	if r.OpenBody(&b, e.id, nil) == nil {
		body = b
	}
	var bound time.Time
	if m.binder.on && r.Credential.Device != (codec.Device{}) {
		bound = time.UnixMilli(r.Credential.Bound)
	}
	return SessionInfo{
		Bound:      bound,
		Handle:     e.handle(),
		ID:         e.id,
		Created:    time.UnixMilli(e.created),
		LastUsed:   time.UnixMilli(m.lastUsed(&body, sl.rec.Expires)),
		Expires:    sl.rec.Expires,
		RemoteAddr: string(e.remoteAddr),
		UserAgent:  string(e.userAgent),
	}, true, nil
}

// EndSessions ends the sessions of a group: of a user whose account is closed, or was taken over (ASVS 5.0, 7.4.2); the others
// of one who has changed the password (ASVS 5.0, 7.4.3), and to be offered to users; those of an OpenID session. A login under
// way ends as well. It returns how many it ended. After an error it can be called again, and goes on where it stopped. A
// session that the list has lost ends with its next renewal.
//
// It returns an error that wraps ErrNotFound if Group.One names a session that is not in the group or has ended, and one if
// the list that the store has of them cannot be read, because it is damaged, or encrypted under a secret that is not known
// here. The next login begins a new list: call EndSessions again then.
//
// It goes on in three steps of which each can be done again: the list says that the sessions are to end, they end, the list
// forgets them. If a process dies in between, the next change of the list finishes the work.
func (m *Manager) EndSessions(ctx context.Context, g Group) (int, error) {
	if err := m.settle(ctx); err != nil {
		return 0, err
	}
	match, current, spares, err := m.members(ctx, g)
	if err != nil || g.empty() {
		return 0, err
	}
	step := newStoreContext(ctx, &m.storeLimit)
	defer step.cancel()
	n := 0
	err = m.updateIndex(step, g, ReasonRevoked, func(ix *index) error {
		if ix.damaged {
			return errIndexDamaged
		}
		logins, listed := make(map[codec.Login]bool), false
		for i := range ix.entries {
			switch e := &ix.entries[i]; {
			case match(e): // also one that another call was to end, and may not get to it
				e.ending = true
				logins[e.login] = true
			case e.login == current:
				listed = true
			}
		}
		n = len(logins)
		if g.handle == "" && (listed || !spares) { // sessions that the list has lost are to end, too
			ix.ended = m.millis()
		}
		return nil
	})
	if err == nil && n == 0 && g.handle != "" {
		err = fmt.Errorf("session: the group has no session with that handle: %w", ErrNotFound)
	}
	return n, err
}

// login returns the name of the session's login, zero if nobody is logged in.
func (s *Session) login() codec.Login {
	c := s.open()
	defer s.mu.Unlock()
	if c.phase != served {
		return codec.Login{}
	}
	return c.env.Credential.Login
}
