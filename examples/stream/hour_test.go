package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// A stream of an hour that never calls Reload saves what it has changed when it ends, though other requests have renewed
// the session's cookie many times since it began.
func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := newApp(session.NewMemoryStore(), []byte(strings.Repeat("s", 32)), true, 0, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer a.sessions.Close()
		stream := a.sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			w.Header().Set("Content-Type", "text/event-stream")
			for n := range 60 {
				fmt.Fprintf(w, "data: %d, %s\n\n", n, s.User())
				http.NewResponseController(w).Flush()
				messages.Update(s, func(n int) int { return n + 1 })
				time.Sleep(time.Minute)
			}
			draft.Set(s, "of the stream")
			if err := s.Err(); err != nil {
				t.Error(err)
			}
		}))
		b := &memory{t: t}
		b.send(a, "POST", "/login", "user=ann")
		opened := *b
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			res := opened.send(stream, "GET", "/stream", "")
			if got := strings.Count(res, ", ann"); got != 60 {
				t.Errorf("%d events, want 60", got)
			}
		}()
		renewals := 0
		for range 59 {
			time.Sleep(time.Minute)
			before := b.cookie.Value
			b.send(a, "GET", "/", "")
			if b.cookie.Value != before {
				renewals++
			}
		}
		if renewals < 10 {
			t.Errorf("there were %d renewals", renewals)
		}
		<-ended
		if opened.cookie.Value == b.cookie.Value {
			t.Error("the stream has the newest cookie")
		}
		if page := b.send(a, "GET", "/", ""); !strings.Contains(page, ">of the stream</textarea>") {
			t.Errorf("what the stream saved last is not there:\n%s", page)
		}
		b.send(a.sessions.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if n, _ := messages.Get(session.FromContext(r.Context())); n != 60 {
				t.Errorf("%d messages were counted, want 60", n)
			}
		})), "GET", "/", "")
	})
}

// A memory is a browser that has one cookie and no network.
type memory struct {
	t      *testing.T
	cookie *http.Cookie
}

func (b *memory) send(h http.Handler, method, path, form string) (body string) {
	r := httptest.NewRequest(method, path, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code >= 400 {
		b.t.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
	for _, c := range w.Result().Cookies() {
		b.cookie = c
	}
	return w.Body.String()
}
