package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/program"
)

// A page is what /debug/vars shows.
type page struct {
	Session struct {
		Events   map[string]int
		Calls    map[string]int     `json:"store_calls"`
		Failures map[string]int     `json:"store_failures"`
		Seconds  map[string]float64 `json:"store_seconds"`
		Repeats  int                `json:"save_repeats"`
	}
	Live *int `json:"sessions_live"`
}

func TestMetrics(t *testing.T) {
	p := program.Start(t, program.Build(t), "-debug", "127.0.0.1:0")
	debug := p.Address("metrics")
	b := program.NewBrowser(t, p.Base)
	b.Want("This is visit 1.\n", "GET", "/", nil)
	b.Want("This is visit 2.\n", "GET", "/", nil)
	ended := b.Cookies()[0]
	b.Want("Good bye.\n", "POST", "/end", nil)
	b.SetCookie(ended)
	if status, text := b.Do("GET", "/", nil); status != http.StatusConflict {
		t.Errorf("with the cookie of a session that has ended: %d %q", status, text)
	}
	forged := program.NewBrowser(t, p.Base)
	forged.SetCookie(&http.Cookie{Name: ended.Name, Value: strings.Repeat("A", len(ended.Value))})
	forged.Want("This is visit 1.\n", "GET", "/", nil)

	status, text := program.NewBrowser(t, strings.TrimSuffix(debug, "/debug/vars")).Do("GET", "/debug/vars", nil)
	var got page
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, text, err)
	}
	wantEvents := map[string]int{
		"created": 2, "ended": 1, "unknown": 1, "stale_write": 1, "cookie_refused": 1,
		"lost": 0, "damaged": 0, "undecodable": 0,
	}
	if !maps.Equal(got.Session.Events, wantEvents) {
		t.Errorf("events: %v, want %v", got.Session.Events, wantEvents)
	}
	// The second visit, the end and the visit after it load; two first visits, the second one and the end save.
	if want := map[string]int{"load": 3, "save": 4}; !maps.Equal(got.Session.Calls, want) {
		t.Errorf("calls: %v, want %v", got.Session.Calls, want)
	}
	if len(got.Session.Failures) != 0 || got.Session.Repeats != 0 || got.Session.Seconds["save"] <= 0 {
		t.Errorf("failures %v, repeats %d, seconds %v", got.Session.Failures, got.Session.Repeats, got.Session.Seconds)
	}
	if got.Live == nil || *got.Live != 1 { // and not the mark of the one that ended
		t.Errorf("live sessions: %v, want 1", got.Live)
	}
	if strings.Contains(text, ended.Value) {
		t.Error("a cookie is shown")
	}
	if status, text := b.Do("GET", "/debug/vars", nil); status != http.StatusNotFound {
		t.Errorf("in public: %d %q", status, text)
	}
	p.Stop()
}

// What a store answers is no failure of its.
func TestFailures(t *testing.T) {
	var m metrics
	for _, err := range []error{nil, session.ErrNotFound, fmt.Errorf("in words: %w", session.ErrConflict), errors.New("down")} {
		m.observe(t.Context(), session.Event{Kind: session.EventStore, Op: "save", Duration: time.Second, Err: err})
	}
	m.observe(t.Context(), session.Event{Kind: session.EventConflict, Count: 3})
	const want = `{"save": 4} {"save": 4} {"save": 1} 2 {"conflict": 1}`
	if got := fmt.Sprint(&m.calls, &m.seconds, &m.failed, &m.repeats, &m.events); strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
