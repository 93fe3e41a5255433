// Package client has how tests send requests to a manager, and what they see of the answers.
package client

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/session"
)

// An Answer is what of a response concerns the session.
type Answer struct {
	Status  int
	Cookie  string // that the response sets; of a client that has its token in the header, Native and the token
	Removed bool   // the response removes the cookie
}

const (
	// Header is the Options.TokenHeader of managers that are to serve clients of both kinds.
	Header = "Session-Token"
	// Native is the cookie of a client that has its token in the header, and has none yet. It begins all that it has later.
	Native = "native:"
)

// Ask sends a request with the cookie, none if it is empty, to a handler that calls use. Others may come with it. A cookie
// that begins with Native is sent in the header.
func Ask(ctx context.Context, m *session.Manager, cookie string, use func(*session.Session), others ...*http.Cookie) Answer {
	return Send(ctx, m, cookie, func(_ http.ResponseWriter, r *http.Request) { use(session.FromContext(r.Context())) }, others...)
}

// Send is Ask with the whole of the handler.
func Send(ctx context.Context, m *session.Manager, cookie string, h http.HandlerFunc, others ...*http.Cookie) Answer {
	const name = "session_id"
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	token, native := strings.CutPrefix(cookie, Native)
	switch {
	case native:
		r.Header.Set(Header, token)
	case cookie != "":
		r.AddCookie(&http.Cookie{Name: name, Value: cookie})
	}
	for _, other := range others {
		r.AddCookie(other)
	}
	w := httptest.NewRecorder()
	m.Handler(h).ServeHTTP(w, r)
	a := Answer{Status: w.Code}
	if lines := w.Result().Header.Values(Header); len(lines) > 0 {
		a.Cookie, a.Removed = Native+lines[0], lines[0] == ""
		if len(lines) > 1 || !native {
			panic(fmt.Sprintf("the header %q for a client that sent %q", lines, cookie))
		}
	}
	for _, c := range w.Result().Cookies() {
		if native {
			panic("a cookie for a client that has its token in the header")
		}
		if c.Name == name {
			a.Cookie, a.Removed = c.Value, c.MaxAge < 0
		}
	}
	return a
}

func (a Answer) String() string {
	text := fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status))
	switch {
	case a.Removed:
		text += " and the cookie removed"
	case a.Cookie != "":
		text += fmt.Sprintf(" and cookie %v", Parse(a.Cookie))
	}
	return text
}

// Next returns the cookie that a client has after the answer, which had another one before.
func (a Answer) Next(before string) string {
	if a.Cookie == "" && !a.Removed {
		return before
	}
	return a.Cookie
}

// Expect returns an error unless the answer has the status and touches no cookie.
func (a Answer) Expect(status int) error {
	if want := (Answer{Status: status}); a != want {
		return fmt.Errorf("want the answer %v, got %v", want, a)
	}
	return nil
}

// A Cookie is what the value of one is made of, but for the signature.
type Cookie struct {
	Name, Key [16]byte
	Count     uint32
}

// Parse takes a cookie's value apart. One that is empty, or made otherwise, has nothing in it.
func Parse(value string) (c Cookie) {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(value, Native))
	if err != nil || len(data) != 16+16+4+32 {
		return c
	}
	copy(c.Name[:], data)
	copy(c.Key[:], data[16:])
	c.Count = binary.BigEndian.Uint32(data[32:])
	return c
}

// ID returns the ID of the session that the cookie belongs to, the zero ID for none.
func (c Cookie) ID() session.ID {
	if c == (Cookie{}) {
		return session.ID{}
	}
	return sha256.Sum256(c.Name[:])
}

// String shows the ID, the key's hash, and the count.
func (c Cookie) String() string {
	return fmt.Sprintf("%.6v… %.3x… %d", c.ID(), sha256.Sum256(c.Key[:]), c.Count)
}
