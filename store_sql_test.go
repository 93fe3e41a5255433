package session_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
)

// A sqlWire is a TCP proxy that counts round trips: how often a client speaks after the server has had the word.
type sqlWire struct {
	addr  string
	trips atomic.Int64
}

func newSQLWire(t *testing.T, target string) *sqlWire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &sqlWire{addr: listener.Addr().String()}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		listener.Close()
		cancel()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
			running.Go(func() {
				defer stop()
				w.carry(client, server)
			})
		}
	})
	return w
}

func (w *sqlWire) carry(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	var serverSpoke atomic.Bool
	serverSpoke.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		relay(client, server, func() { serverSpoke.Store(true) })
	}()
	relay(server, client, func() {
		if serverSpoke.Swap(false) {
			w.trips.Add(1)
		}
	})
	server.Close()
	<-done
}

// relay copies from one connection to the other and calls heard before it passes something on.
func relay(to io.Writer, from io.Reader, heard func()) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			heard()
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A sqlStore is what both SQL stores are.
type sqlStore interface {
	session.Toucher
	session.Sweeper
	session.Lister
	io.Closer
}

var (
	_ sqlStore = (*session.MySQLStore)(nil)
	_ sqlStore = (*session.PostgresStore)(nil)
)

// wantOneTrip checks that each operation on the store, which talks through w over one connection, takes one
// round trip. The first pass has the statements prepared.
func wantOneTrip(t *testing.T, w *sqlWire, store sqlStore) {
	t.Helper()
	ctx := t.Context()
	for pass := range 2 {
		known, unknown := randomID(), randomID()
		hour := time.Now().Add(time.Hour)
		record := func(version uint64, expires time.Time) session.Record {
			return session.Record{Version: version, Expires: expires, Data: []byte("data")}
		}
		for _, op := range []struct {
			name string
			want error
			do   func() error
		}{
			{"save new", nil, func() error { return store.Save(ctx, known, record(0, hour.Add(-2*time.Hour))) }},
			{"save over expired", nil, func() error { return store.Save(ctx, known, record(0, hour)) }},
			{"save over live", session.ErrConflict, func() error { return store.Save(ctx, known, record(0, hour)) }},
			{"save next", nil, func() error { return store.Save(ctx, known, record(1, hour)) }},
			{"save stale", session.ErrConflict, func() error { return store.Save(ctx, known, record(1, hour)) }},
			{"load", nil, func() error { _, err := store.Load(ctx, known); return err }},
			{"load unknown", session.ErrNotFound, func() error { _, err := store.Load(ctx, unknown); return err }},
			{"touch", nil, func() error { return store.Touch(ctx, known, record(2, hour.Add(time.Hour))) }},
			{"touch to the same", nil, func() error { return store.Touch(ctx, known, record(2, hour.Add(time.Hour))) }},
			{"touch stale", session.ErrConflict, func() error { return store.Touch(ctx, known, record(1, hour)) }},
			{"touch unknown", session.ErrNotFound, func() error { return store.Touch(ctx, unknown, record(1, hour)) }},
			{"sweep", nil, func() error { _, err := store.DeleteExpired(ctx, 10); return err }},
			{"count", nil, func() error { _, err := store.Count(ctx); return err }},
			{"list", nil, func() error {
				for _, err := range store.List(ctx) {
					if err != nil {
						return err
					}
				}
				return nil
			}},
			{"delete", nil, func() error { return store.Delete(ctx, known) }},
			{"delete unknown", nil, func() error { return store.Delete(ctx, known) }},
		} {
			before := w.trips.Load()
			err := op.do()
			if !errors.Is(err, op.want) {
				t.Fatalf("%s: error %v, want %v", op.name, err, op.want)
			}
			if trips := w.trips.Load() - before; pass > 0 && trips != 1 {
				t.Errorf("%s: %d round trips, want 1", op.name, trips)
			}
		}
	}
}

// openAtOnce has eight processes' worth of constructors run on an empty database.
func openAtOnce(t *testing.T, open func() (session.Store, error)) {
	t.Helper()
	const openers = 8
	stores := make([]session.Store, openers)
	errs := make([]error, openers)
	var ready, done sync.WaitGroup
	ready.Add(openers)
	for i := range openers {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			stores[i], errs[i] = open()
		})
	}
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, store := range stores {
		err := store.Save(t.Context(), session.ID{1}, session.Record{Version: uint64(i), Data: []byte("x")})
		if err != nil {
			t.Errorf("store %d: %v", i, err)
		}
		if err := session.Close(store); err != nil {
			t.Error(err)
		}
	}
}

// wantError checks that err says all of the texts, and not the secret.
func wantError(t *testing.T, err error, secret string, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range append(texts, "session: ") {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if secret != "" && strings.Contains(e.Error(), secret) {
			t.Errorf("error %q shows the secret %q", e, secret)
		}
	}
}

// withUser returns a URL with another user and password, and no query.
func withUser(t *testing.T, rawURL, user, password string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// withDatabase returns a URL with another database.
func withDatabase(t *testing.T, rawURL, database string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

// fill saves n records with that expiry, and returns their IDs.
func fill(t *testing.T, store session.Store, n int, expires time.Time) []session.ID {
	t.Helper()
	ids := make([]session.ID, n)
	for i := range ids {
		ids[i] = randomID()
		if err := store.Save(t.Context(), ids[i], session.Record{Expires: expires, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func randomID() (id session.ID) {
	rand.Read(id[:])
	return id
}

// randomName returns a name that no other test uses.
func randomName(prefix string) string {
	id := randomID()
	return fmt.Sprintf("%s_%s", prefix, hex.EncodeToString(id[:6]))
}

// wantUsable checks that a store works.
func wantUsable(t *testing.T, store session.Store) {
	t.Helper()
	id := randomID()
	if err := store.Save(t.Context(), id, session.Record{Data: []byte("data")}); err != nil {
		t.Fatal(err)
	}
	if rec, err := store.Load(t.Context(), id); err != nil || string(rec.Data) != "data" || rec.Version != 1 {
		t.Fatalf("Load: %+v, %v", rec, err)
	}
	fill(t, store, 1, time.Now().Add(-time.Hour))
	if n, err := session.DeleteExpired(t.Context(), store); n != 1 || err != nil {
		t.Fatalf("DeleteExpired: %d, %v", n, err)
	}
}

// wantPages checks that a store lists more records than a page holds, the first and the last ID among them,
// while the caller uses the store.
func wantPages(t *testing.T, store sqlStore) {
	t.Helper()
	const n = 2*256 - 2 // with the first and the last ID two full pages
	want := map[session.ID]bool{}
	for _, id := range fill(t, store, n, time.Time{}) {
		want[id] = true
	}
	first, last := session.ID{}, session.ID([]byte(strings.Repeat("\xff", 32)))
	for _, id := range []session.ID{first, last} {
		if err := store.Save(t.Context(), id, session.Record{}); err != nil {
			t.Fatal(err)
		}
		want[id] = true
	}
	for entry, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !want[entry.ID] {
			t.Errorf("%s is listed twice, or is not there", entry.ID)
		}
		delete(want, entry.ID)
		if _, err := store.Load(t.Context(), entry.ID); err != nil {
			t.Fatal(err)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d of %d records are not listed", len(want), n+2)
	}
}

// wantSweepersAgree checks that of several sweepers at the same time none counts what another one removed, and
// none leaves anything behind.
func wantSweepersAgree(t *testing.T, stores ...sqlStore) {
	t.Helper()
	const n, step = 1000, 50
	fill(t, stores[0], n, time.Now().Add(-time.Hour))
	var removed atomic.Int64
	var sweepers sync.WaitGroup
	for _, store := range stores {
		sweepers.Go(func() {
			for {
				k, err := store.DeleteExpired(t.Context(), step)
				removed.Add(int64(k))
				if err != nil {
					t.Error(err)
				}
				if err != nil || k < step {
					return
				}
			}
		})
	}
	sweepers.Wait()
	left, err := stores[0].DeleteExpired(t.Context(), n)
	if removed.Load() != n || left != 0 || err != nil {
		t.Errorf("%d were removed and %d left (%v), of %d", removed.Load(), left, err, n)
	}
}

// wantOutlives checks that a store works again after its server was gone for a while.
func wantOutlives(t *testing.T, server *servertest.Server, store session.Store) {
	t.Helper()
	id := fill(t, store, 1, time.Time{})[0]
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := store.Load(ctx, id); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load without a server: %v", err)
	}
	server.Restart(false)
	if _, err := store.Load(ctx, id); err != nil {
		t.Errorf("Load after the restart: %v", err)
	}
	if err := store.Save(ctx, id, session.Record{Version: 1}); err != nil {
		t.Errorf("Save after the restart: %v", err)
	}
	wantUsable(t, store)
}

// badTableNames returns names that no store may put into a statement.
func badTableNames() []string {
	return []string{"a b", "a-b", "1a", ".a", "a.", "a.b.c", "a;b", "a`b", `a"b`, "a'b", "ä", "a\x00", " ",
		strings.Repeat("x", 51), strings.Repeat("x", 64) + ".a", "a.`b`", "a.1", "1.a"}
}
