package integration_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

// Every store keeps the contract.
func TestStores(t *testing.T) {
	storetest.EachShared(t, storetest.Private, func(t *testing.T, kind storetest.Kind) { sessiontest.Run(t, kind.Stores()) })
}

// Whole sessions keep their promises on every store.
func TestSessions(t *testing.T) {
	storetest.EachShared(t, storetest.Private, func(t *testing.T, kind storetest.Kind) {
		t.Parallel() // much of the time it waits for a server
		sessiontest.RunSessions(t, kind.Stores())
	})
}

// Counted are the sessions that live, of all managers, and none of the other records that are kept: the marks of those
// that ended, the lists of users' sessions, locks.
func TestCountSessions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		want := func(n int, when string) {
			t.Helper()
			got, err := session.Count(t.Context(), store)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip("the store cannot count")
			}
			if got != n || err != nil {
				t.Errorf("%s: %d sessions, %v; want %d", when, got, err, n)
			}
		}
		want(0, "in an empty store")
		m := newManager(t, store, session.Options{Locking: true})
		sealed := newManager(t, store, session.Options{EncryptAtRest: true, Namespace: "sealed"})
		login := func(m *session.Manager) string {
			t.Helper()
			a := client.Ask(t.Context(), m, "", func(s *session.Session) { s.SetUser("ann") })
			if a.Status != http.StatusOK || a.Cookie == "" {
				t.Fatalf("a login: %v", a)
			}
			return a.Cookie
		}
		first := login(m)
		want(1, "with one session of a user")
		client.Ask(t.Context(), m, first, func(s *session.Session) {
			s.Set("k", 1)
			want(1, "with a lock")
		})
		login(sealed)
		login(m)
		visitor, id := begin(t, m)
		want(4, "with one that is encrypted, another of the same user, and a visitor's")
		client.Ask(t.Context(), m, visitor, func(s *session.Session) { s.Destroy() })
		want(3, "after a logout")
		if _, err := m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
			t.Fatal(err)
		}
		want(1, "after the end of a user's sessions")
		if n, err := session.CountRecords(t.Context(), store); n < 4 || err != nil {
			t.Errorf("%d records, %v; want the marks and lists, too", n, err)
		}
		for _, rec := range []session.Record{{}, {Data: []byte("short")}, {Data: []byte("a foreign record")}} {
			id[0]++
			if err := store.Save(t.Context(), id, rec); err != nil {
				t.Fatal(err)
			}
		}
		want(1, "beside foreign records")
		if _, err := sealed.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
			t.Fatal(err)
		}
		want(0, "after the end of the last")
	})
}

// Bytes under a session's ID that are not its own, on whatever store, are nobody's session: the client gets another
// one, and somebody is told. They stay, and do no harm to anybody else's.
func TestForeignRecords(t *testing.T) {
	storetest.Each(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		for _, encrypted := range []bool{false, true} {
			damaged := 0
			m := newManager(t, store, session.Options{
				EncryptAtRest: encrypted,
				Observer: func(_ context.Context, e session.Event) {
					if e.Kind == session.EventDamaged {
						damaged++
					}
				},
			})
			others, otherID := begin(t, m)
			another, err := store.Load(t.Context(), otherID)
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{
				"nothing":   {},
				"text":      []byte("not a session"),
				"binary":    bytes.Repeat([]byte{0, 0xff}, 50_000),
				"another's": another.Data,
			} {
				value, id := begin(t, m)
				rec, err := store.Load(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				rec.Data = data
				if err := store.Save(t.Context(), id, rec); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				damaged = 0
				a := client.Ask(t.Context(), m, value, func(s *session.Session) {
					if !s.IsNew() || s.Len() != 0 || s.Err() != nil {
						t.Errorf("%s reads as %v", name, s)
					}
					s.Set("k", 2)
				})
				if a.Status != http.StatusOK || a.Cookie == "" || client.Parse(a.Cookie).ID() == id || damaged == 0 {
					t.Errorf("%s: the answer is %v, and somebody was told %d times", name, a, damaged)
				}
				if rec, err := store.Load(t.Context(), id); err != nil || !bytes.Equal(rec.Data, data) {
					t.Errorf("%s: the record is now %d bytes, %v", name, len(rec.Data), err)
				}
			}
			client.Ask(t.Context(), m, others, func(s *session.Session) {
				if !s.Has("k") {
					t.Errorf("another session is %v", s)
				}
			})
		}
	})
}
