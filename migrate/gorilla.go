package migrate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"example.com/session"
)

// Gorilla returns the migration of an application whose sessions of the name github.com/gorilla/sessions has kept, in
// store. options are the store's, for the look of the cookie and its MaxAge; nil stands for the library's own defaults.
// adapt may be nil. An application with sessions of several names has a Manager for
// each, with a cookie name of its own, or goes on to keep some of them where they are.
//
// Keys become strings, as fmt.Sprint has them. The types that were registered with encoding/gob still have to be: to the library, a
// session with a type that it does not know is none, and so it is here. The time when a session began is not known to the library,
// so it counts from the move.
//
// A session in a CookieStore cannot be ended there. Each value of the cookie can move once; one that was replaced
// before, and that somebody copied, is good until its MaxAge, as it was. A value that has been used is remembered for
// MaxAge, and for thirty days at least: so long do the library's codecs accept one, unless CookieStore.MaxAge or its like
// says otherwise.
func Gorilla(store sessions.Store, name string, options *sessions.Options, adapt Adapt) *session.Migration {
	if options == nil {
		options = &sessions.Options{Path: "/", MaxAge: codecMaxAge}
	}
	// load returns nil for a cookie that the library never gave out, or no longer accepts.
	load := func(r *http.Request) (*sessions.Session, error) {
		if c, err := r.Cookie(name); err == nil && !canonical(c.Value) {
			return nil, nil
		}
		s, err := store.New(r, name)
		switch bad, ok := errors.AsType[securecookie.Error](err); {
		case ok && bad.IsDecode():
			return nil, nil
		case errors.Is(err, fs.ErrNotExist), err == nil && s.IsNew:
			return nil, session.ErrNotFound
		}
		return s, err
	}
	return &session.Migration{
		Cookie: *sessions.NewCookie(name, "", options),
		Load: func(r *http.Request) (*session.OldSession, error) {
			s, err := load(r)
			if s == nil || err != nil {
				return nil, err
			}
			old := &session.OldSession{Values: make(map[string]any)}
			if options.MaxAge > 0 {
				old.Expires = time.Now().Add(time.Duration(max(options.MaxAge, codecMaxAge)) * time.Second)
			}
			for key, v := range s.Values {
				old.Values[fmt.Sprint(key)] = v
			}
			return adapt.apply(old), nil
		},
		End: func(r *http.Request) error {
			s, err := load(r)
			switch {
			case errors.Is(err, session.ErrNotFound), s == nil && err == nil:
				return nil
			case err != nil:
				return err
			}
			s.Options.MaxAge = -1
			return store.Save(r, nobody{}, s)
		},
	}
}

// codecMaxAge is for how many seconds securecookie accepts a value unless it is told otherwise.
const codecMaxAge = 30 * 86400

// canonical reports whether value is not another spelling of a value that the library gave out: base64 ends in bits
// that do not count, and a value that has moved must not move again with those changed.
func canonical(value string) bool {
	data, err := base64.URLEncoding.DecodeString(value)
	return err != nil || base64.URLEncoding.EncodeToString(data) == value
}

// nobody gets the response that a store writes its cookie to: the Manager removes that.
type nobody struct{}

func (nobody) Header() http.Header         { return make(http.Header) }
func (nobody) Write(b []byte) (int, error) { return len(b), nil }
func (nobody) WriteHeader(int)             {}
