package migrate

import (
	"context"
	"errors"
	"net/http"

	"github.com/alexedwards/scs/v2"

	"example.com/session"
)

// rememberMe is where scs keeps what RememberMe was told.
const rememberMe = "__rememberMe"

// SCS returns the migration of an application whose sessions github.com/alexedwards/scs/v2 has kept, in whatever store
// of its. old is the SessionManager as it was, with its Store, Codec and Cookie; LoadAndSave must no longer wrap the
// application. adapt may be nil.
//
// Values keep their keys and types, so the types that were registered with encoding/gob still have to be. The absolute
// lifetime goes on: Created is derived from the session's deadline. A session with RememberMe is remembered for
// old.Lifetime.
func SCS(old *scs.SessionManager, adapt Adapt) *session.Migration {
	// load returns a context that holds the old session.
	load := func(r *http.Request) (context.Context, error) {
		c, err := r.Cookie(old.Cookie.Name)
		if err != nil {
			return nil, session.ErrNotFound
		}
		ctx, err := old.Load(r.Context(), c.Value)
		if err == nil && old.Token(ctx) == "" { // it would begin a new one
			err = session.ErrNotFound
		}
		return ctx, err
	}
	return &session.Migration{
		Cookie: http.Cookie{
			Name:        old.Cookie.Name,
			Path:        old.Cookie.Path,
			Domain:      old.Cookie.Domain,
			Secure:      old.Cookie.Secure,
			HttpOnly:    old.Cookie.HttpOnly,
			SameSite:    old.Cookie.SameSite,
			Partitioned: old.Cookie.Partitioned,
		},
		Load: func(r *http.Request) (*session.OldSession, error) {
			ctx, err := load(r)
			if err != nil {
				return nil, err
			}
			s := &session.OldSession{
				Values:  make(map[string]any),
				Created: old.Deadline(ctx).Add(-old.Lifetime),
				Expires: old.Deadline(ctx),
			}
			for _, key := range old.Keys(ctx) {
				s.Values[key] = old.Get(ctx, key)
			}
			if old.GetBool(ctx, rememberMe) {
				s.Remember = old.Lifetime
			}
			delete(s.Values, rememberMe)
			return adapt.apply(s), nil
		},
		End: func(r *http.Request) error {
			ctx, err := load(r)
			if errors.Is(err, session.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return old.Destroy(ctx)
		},
	}
}
