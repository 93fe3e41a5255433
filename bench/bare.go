package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
)

const (
	bareHandlerName = "bare handler"
	bareClientName  = "bare client"
)

// bareHandler is no session library, but what one cannot be faster than: a handler, with one value in its request's
// context.
func bareHandler() library {
	type key struct{}
	return library{bareHandlerName, func(work, payload) http.Handler {
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer(w, r.Context().Value(key{}) != nil)
		})
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, w)))
		})
	}}
}

// A bareClient gets and sets bytes under a key, each in one round trip.
type bareClient interface {
	get(ctx context.Context, key string) ([]byte, error)
	add(ctx context.Context, key string, data []byte) error     // under a key that is not in use
	replace(ctx context.Context, key string, data []byte) error // under a key that is
}

// bare keeps the bytes of a session under the cookie's value, with as many round trips as a session needs: one to
// read, two to write. It signs, encodes, compares and guards nothing.
func bare(client bareClient) library {
	return library{bareClientName, func(w work, p payload) http.Handler {
		if w == count || w == total {
			return nil
		}
		return bareClientHandler(client, w, p)
	}}
}

func bareClientHandler(client bareClient, kind work, p payload) http.HandlerFunc {
	// about what a session's record has beside its values
	blank := make([]byte, p.size()+64)
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		var key string
		var data []byte
		var err error
		if kind == unused {
			answer(w, true)
			return
		}
		if kind != create {
			var cookie *http.Cookie
			if cookie, err = r.Cookie(cookieName); err == nil {
				key = cookie.Value
				data, err = client.get(ctx, key)
			}
			if err != nil || len(data) == 0 {
				answer(w, false)
				return
			}
		}
		switch kind {
		case write:
			data[0]++
			err = client.replace(ctx, key, data)
		case create:
			key = newKey()
			err = client.add(ctx, key, blank)
			setKey(w, key)
		case regenerate, renew: // the record stays where it is, and so would a signed name; the rest of the cookie is new
			data[0]++
			err = client.replace(ctx, key, data)
			setKey(w, key)
		}
		answer(w, err == nil)
	}
}

// newKey returns a random key.
func newKey() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// setKey sets the cookie to the key.
func setKey(w http.ResponseWriter, key string) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: key, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	})
}
