package session

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"
)

// SetUser says who is logged in, to be called once the password, or whatever proves it, was checked. It gives the
// session a new key, as Regenerate does, begins its absolute timeout anew, and makes it one of the user's sessions,
// see Manager.Sessions. A user who logs in again, for something sensitive, keeps the place among them. The user is any
// string that names one in the application, best an ID that never changes; empty means nobody, makes the session one
// of nobody's, and leaves the absolute timeout as it is.
//
// Labels are names that the session has beside its user's, for as long as this login lasts, so that it is found by them as
// well: see Labelled. There can be 8, and none without a user. Each costs a login, a renewal and an end what the user's list
// costs them: a look, and a login and an end a save as well.
func (s *Session) SetUser(user string, labels ...Label) {
	login := newLogin()
	packed, err := encodeLabels(user, labels)
	c := s.change()
	defer s.mu.Unlock()
	if err != nil {
		c.fail(err)
		return
	}
	c.intent.user = &userChange{user: user, labels: packed, login: login, at: c.m.millis()}
}

// Labels returns the labels that SetUser gave to the session, in ascending order.
func (s *Session) Labels() []Label {
	return view(s, func(c *core) []Label { b := c.changed(); return decodeLabels(b.Labels) })
}

// User returns who SetUser said is logged in, empty if nobody is.
func (s *Session) User() string {
	c := s.open()
	defer s.mu.Unlock()
	return c.user()
}

// WithUser returns a context for a request that a Manager.Handler further in will serve, and a function that returns who
// was logged in once that handler has returned: an access log around it can name the user, as REMOTE_USER did. Of a request
// that logged out, it returns who was logged in before; of several managers, the innermost counts that knows somebody. It is
// empty if nobody was logged in, or if nothing used the session: it costs no store call.
func WithUser(ctx context.Context) (context.Context, func() string) {
	told, ok := ctx.Value(userWatch{}).(*atomic.Pointer[string])
	if !ok {
		told = new(atomic.Pointer[string])
		ctx = context.WithValue(ctx, userWatch{}, told)
	}
	return ctx, func() string {
		if user := told.Load(); user != nil {
			return *user
		}
		return ""
	}
}

type userWatch struct{}

// tellUser tells those who asked by WithUser.
func (s *Session) tellUser(ctx context.Context) {
	told, ok := ctx.Value(userWatch{}).(*atomic.Pointer[string])
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.core.phase == unloaded {
		return
	}
	user := string(s.core.body.User) // what is still wanted has come to nothing
	if s.core.m.off {
		user = s.core.user()
	}
	if user = cmp.Or(user, string(s.core.before)); user != "" {
		told.CompareAndSwap(nil, &user)
	}
}

// AuthenticatedAt returns when SetUser was last called, the zero time if nobody is logged in. Compare it before
// something sensitive is done, and ask for the password again if it is long ago (ASVS 5.0, 7.5.1).
func (s *Session) AuthenticatedAt() time.Time {
	c := s.open()
	defer s.mu.Unlock()
	if at := c.changed().Authenticated; at != 0 {
		return time.UnixMilli(at)
	}
	return time.Time{}
}
