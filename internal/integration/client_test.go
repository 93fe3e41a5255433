package integration_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
)

// quiet is a logger for tests that provoke what would be logged.
var quiet = slog.New(slog.DiscardHandler)

// secretOf returns a secret of the least length, made of one letter.
func secretOf(letter byte) []byte { return bytes.Repeat([]byte{letter}, 32) }

const hitCounter session.Key[int] = "hits"

// A crew is managers that share nothing but the store and the secret, as the processes of an application do.
type crew []*session.Manager

func newCrew(t *testing.T, store session.Store, n int, opts session.Options) crew {
	t.Helper()
	opts.SweepInterval = session.Never
	opts.StoreTimeout = time.Minute // a busy machine is no fault of the store
	opts.Logger = quiet
	opts.TokenHeader = client.Header
	var c crew
	for range n {
		m, err := session.New(store, secretOf('s'), &opts)
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, m)
	}
	return c
}

// by makes the managers go by a clock.
func (c crew) by(clock interface{ Now() time.Time }) crew {
	for _, m := range c {
		storetest.SetClock(m, clock.Now)
	}
	return c
}

// newManager returns a manager that logs nothing and removes nothing by itself.
func newManager(t *testing.T, store session.Store, opts session.Options) *session.Manager {
	t.Helper()
	return newCrew(t, store, 1, opts)[0]
}

// begin returns the cookie of a new session in which k is 1, and its ID.
func begin(t *testing.T, m *session.Manager) (cookie string, id session.ID) {
	t.Helper()
	a := client.Ask(t.Context(), m, "", func(s *session.Session) { s.Set("k", 1) })
	if a.Status != http.StatusOK || a.Cookie == "" {
		t.Fatalf("a new session: %v", a)
	}
	return a.Cookie, client.Parse(a.Cookie).ID()
}
