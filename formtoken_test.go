package session_test

import (
	"fmt"
	"html/template"
	"net/http"
	"slices"
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
		var all, seen sync.WaitGroup
		seen.Add(32)
		for i := range 32 {
			all.Go(func() {
				c := v.clone()
				if i%2 == 0 {
					c.m = other
				}
				wantStatus(t, c.visit(func(s *session.Session) {
					if !s.HasFormToken(token) {
						t.Error("the token is not there")
					}
					seen.Done()
					seen.Wait() // so that what each has loaded still has the token
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

// The cost of form tokens is in proportion to how many a request makes, or tries.
func BenchmarkFormTokens(b *testing.B) {
	v := newVictim(b, session.Options{Logger: quiet})
	for name, do := range map[string]func(s *session.Session){
		"make": func(s *session.Session) { s.FormToken() },
		"try":  func(s *session.Session) { s.UseFormToken(b.Context(), "AAAAAAAAAAAAAAAAAAAAAA") },
	} {
		for _, n := range []int{100, 1000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				h := handle(v.m, func(s *session.Session) {
					for range n {
						do(s)
					}
				})
				for b.Loop() {
					serve(h, "session_id="+v.value)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/token")
			})
		}
	}
}

// A token that is refused writes nothing, or whoever sends bad ones fills the store.
func TestRefusedFormTokenStoresNothing(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	res := v.visit(func(s *session.Session) {
		if s.UseFormToken(t.Context(), "bad") {
			t.Error("it is used")
		}
	})
	if n := recordCount(t, v.store); n != 0 || len(res.Header["Set-Cookie"]) > 0 {
		t.Errorf("the store has %d records, the client is sent %v", n, res.Header["Set-Cookie"])
	}
}

// Form tokens are no values of the application's, and nothing that goes through those shows them.
func TestFormTokensAreNoValues(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	for range 2 { // before and after they are stored
		v.visit(func(s *session.Session) {
			s.Set("k", int64(1))
			s.Set("session.form", int64(2))
			s.FormToken()
			if keys := s.Keys(); !slices.Equal(keys, []string{"k", "session.form"}) || s.Len() != 2 {
				t.Errorf("%d keys: %q", s.Len(), keys)
			}
			if values := slices.Collect(s.Values()); !slices.Equal(values, []any{int64(1), int64(2)}) {
				t.Errorf("Values: %v", values)
			}
			for key := range s.All() {
				if key != "k" && key != "session.form" {
					t.Errorf("All has %q", key)
				}
			}
			if text := s.String(); strings.Contains(text, "form_tokens") {
				t.Errorf("String: %s", text)
			}
		})
	}
	v.visit(func(s *session.Session) {
		s.Delete("k", "session.form")
		if s.Len() != 0 || s.Keys() != nil {
			t.Errorf("%d values, of %q", s.Len(), s.Keys())
		}
	})
	v.visit(func(s *session.Session) {
		if s.IsNew() {
			t.Error("a session with a form token and nothing else is gone")
		}
	})
}
