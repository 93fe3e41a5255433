package session_test

import (
	"html/template"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/session"
)

func TestFormTokens(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	var tokens []string
	v.visit(func(s *session.Session) {
		for range 17 {
			tokens = append(tokens, s.FormToken())
		}
	})
	v.visit(func(s *session.Session) {
		if s.HasFormToken(tokens[0]) {
			t.Error("the oldest of 17 tokens was kept")
		}
		for i, token := range tokens[1:] {
			if !s.HasFormToken(token) {
				t.Errorf("token %d was not kept", i+1)
			}
		}
		for _, wrong := range []string{"", "x", tokens[1][1:], tokens[1] + "A", strings.Repeat("A", len(tokens[1])), "!!!"} {
			if s.HasFormToken(wrong) || s.UseFormToken(t.Context(), wrong) {
				t.Errorf("%q passes", wrong)
			}
		}
		if !s.UseFormToken(t.Context(), tokens[5]) || s.UseFormToken(t.Context(), tokens[5]) {
			t.Error("a token is not good for exactly one use")
		}
	})
	v.visit(func(s *session.Session) {
		if s.HasFormToken(tokens[5]) || !s.HasFormToken(tokens[6]) {
			t.Error("the use of a token was not saved")
		}
		s.DropFormTokens()
	})
	v.visit(func(s *session.Session) {
		if s.HasFormToken(tokens[6]) {
			t.Error("a dropped token passes")
		}
	})
	stranger := newVisitor(t, session.NewMemoryStore(), nil)
	stranger.visit(func(s *session.Session) {
		if s.HasFormToken(tokens[7]) || s.UseFormToken(t.Context(), tokens[7]) {
			t.Error("a token passes in another session")
		}
	})
}

// The same form, sent many times at once: one gets through.
func TestFormTokenIsUsedOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		v := newVisitor(t, newStore(t), nil)
		var token string
		v.visit(func(s *session.Session) { token = s.FormToken(); s.Set("k", 1) })
		other := newManager(t, v.store, nil)
		var used atomic.Int32
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				c := v.clone()
				if i%2 == 0 {
					c.m = other
				}
				wantStatus(t, c.visit(func(s *session.Session) {
					if s.UseFormToken(t.Context(), token) {
						used.Add(1)
					}
				}), http.StatusOK)
			})
		}
		all.Wait()
		if n := used.Load(); n != 1 {
			t.Errorf("the form was accepted %d times", n)
		}
	})
}

func TestFormTokenInput(t *testing.T) {
	page := template.Must(template.New("").Parse(`<form method="post">{{.FormTokenInput}}</form>`))
	v := newVisitor(t, session.NewMemoryStore(), nil)
	var html strings.Builder
	v.visit(func(s *session.Session) {
		if err := page.Execute(&html, s); err != nil {
			t.Error(err)
		}
	})
	_, rest, _ := strings.Cut(html.String(), `<form method="post"><input type="hidden" name="form_token" value="`)
	token, ok := strings.CutSuffix(rest, `"></form>`)
	v.visit(func(s *session.Session) {
		if !ok || !s.HasFormToken(token) {
			t.Errorf("the page is %s", &html)
		}
	})
}
