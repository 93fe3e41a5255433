package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"sync/atomic"
)

// Form tokens let a form be sent once, and only by a page that this application served to this session. Against
// cross-site request forgery alone, net/http.CrossOriginProtection needs no token and no session, and is the better
// tool; a form token also stops the same form from being sent twice, and old pages from being used.

const (
	// maxFormTokens is how many forms of a session can be open at the same time; the oldest is dropped.
	maxFormTokens = 16
	formTokenSize = 16
	// formTokens is where a session keeps them. The name is reserved.
	formTokens Key[[][]byte] = "session.form_tokens"
	// FormTokenField is the name of the form field that FormTokenInput makes.
	FormTokenField = "form_token"
)

// FormToken returns a new token to be put into a form, 128 random bits as text. The session keeps it until it is used; of
// more than 16 the oldest is dropped, and the logger is told if they are of one request. Many forms of a page can share one
// token, if the page is loaded anew once one of them was sent. It must be called before the response begins if the session
// is new, as it needs the cookie then.
func (s *Session) FormToken() string {
	if s.forms.Add(1) > maxFormTokens {
		s.core.m.advise(s.core.origin.context(), fmt.Sprintf("a response has more than %d form tokens: the first ones are worthless; have its forms share one", maxFormTokens))
	}
	t := make([]byte, formTokenSize)
	rand.Read(t)
	formTokens.Update(s, func(tokens [][]byte) [][]byte {
		tokens = append(tokens, t)
		return tokens[max(0, len(tokens)-maxFormTokens):]
	})
	return base64.RawURLEncoding.EncodeToString(t)
}

// FormTokenInput returns a hidden input element with a new token, for a template:
//
//	<form method="post">{{.Session.FormTokenInput}} … </form>
//
// Where the session may be new, execute the template into a buffer: straight into the response, what stands in front
// of the form would send the header without the cookie.
func (s *Session) FormTokenInput() template.HTML {
	return template.HTML(fmt.Sprintf(`<input type="hidden" name="%s" value="%s">`, FormTokenField, s.FormToken()))
}

// HasFormToken reports whether the token is one that the session gave out and that was not used since.
func (s *Session) HasFormToken(token string) bool {
	tokens, _ := formTokens.Get(s)
	return findFormToken(tokens, token) >= 0
}

// UseFormToken reports whether the token is one that the session gave out, and removes it. It does so in the
// store, at once, as Save does: of several requests that send the same form at the same time, in whatever
// processes, one gets true.
func (s *Session) UseFormToken(ctx context.Context, token string) bool {
	if !s.HasFormToken(token) {
		return false
	}
	var used atomic.Bool // as of the last time that the change was made, perhaps by another goroutine
	formTokens.Update(s, func(tokens [][]byte) [][]byte {
		i := findFormToken(tokens, token)
		used.Store(i >= 0)
		if i >= 0 {
			tokens = slices.Delete(tokens, i, i+1)
		}
		return tokens
	})
	if !used.Load() {
		return false
	}
	return s.Save(ctx) == nil && used.Load()
}

// DropFormTokens removes all tokens of the session: no form that is open can be sent any more.
func (s *Session) DropFormTokens() { formTokens.Delete(s) }

// findFormToken looks at all tokens, and takes the same time wherever it finds one.
func findFormToken(tokens [][]byte, token string) int {
	sought, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(sought) != formTokenSize {
		return -1
	}
	found := -1
	for i, t := range tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(t, sought), i, found)
	}
	return found
}
