//go:build !encrypted

package session_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
)

// A sqlStore is what both SQL stores are.
type sqlStore interface {
	session.Toucher
	session.Sweeper
	session.Lister
	session.Counter
	io.Closer
}

var (
	_ sqlStore = (*session.MySQLStore)(nil)
	_ sqlStore = (*session.PostgresStore)(nil)
)

// A sqlOperation is a call with the error that it has to return.
type sqlOperation struct {
	name string
	want error
	do   func() error
}

// sqlOperations returns calls of every kind, in an order in which they meet what they are meant to meet.
func sqlOperations(ctx context.Context, store sqlStore) []sqlOperation {
	known, unknown := storetest.RandomID(), storetest.RandomID()
	hour := time.Now().Add(time.Hour)
	record := func(version uint64, expires time.Time) session.Record {
		return session.Record{Version: version, Expires: expires, Data: []byte("data")}
	}
	return []sqlOperation{
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
		{"count", nil, func() error { _, err := store.Count(ctx, -1, 0); return err }},
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
	}
}

// wantOneTrip checks that each operation on the store, which talks through w over one connection, takes one
// round trip. The first pass has the statements prepared.
func wantOneTrip(t *testing.T, w *wire, store sqlStore) {
	t.Helper()
	for pass := range 2 {
		for _, op := range sqlOperations(t.Context(), store) {
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

// wantOperations checks that each operation does what it has to, and that every byte comes back.
func wantOperations(t *testing.T, store sqlStore) {
	t.Helper()
	for _, op := range sqlOperations(t.Context(), store) {
		if err := op.do(); !errors.Is(err, op.want) {
			t.Errorf("%s: error %v, want %v", op.name, err, op.want)
		}
	}
	var every []byte // pairs too, since some character sets have two bytes a character, the second a backslash
	for i := range 256 {
		every = append(every, byte(i), '\\', byte(i), '\'', byte(i))
	}
	for _, data := range [][]byte{nil, every} {
		id := storetest.RandomID()
		if err := store.Save(t.Context(), id, session.Record{Data: data}); err != nil {
			t.Error(err)
		}
		rec, err := store.Load(t.Context(), id)
		if err != nil || !bytes.Equal(rec.Data, data) || rec.Version != 1 || !rec.Expires.IsZero() {
			t.Errorf("%d bytes: %+v, %v", len(data), rec, err)
		}
		if err := store.Delete(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// wantSweep checks that a store removes n records that have expired and have been put into its table.
func wantSweep(t *testing.T, store sqlStore, n int) {
	t.Helper()
	if removed, err := session.DeleteExpired(t.Context(), store); removed != n || err != nil {
		t.Errorf("removed %d (%v), want %d", removed, err, n)
	}
}

// wantRoomForAll checks that all of some processes' worth of requests succeed, on a server without room for them all.
func wantRoomForAll(t *testing.T, rawURL string) {
	t.Helper()
	const processes, requests = 3, 400
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a store's timeout, on a machine as busy as can be
	defer cancel()
	var stores [processes]session.StoreCloser
	for i := range stores {
		store, err := session.Open(ctx, rawURL)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		stores[i] = store
	}
	var running sync.WaitGroup
	for i := range processes * requests {
		running.Go(func() {
			store, id := stores[i%processes], storetest.RandomID()
			if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour)}); err != nil {
				t.Error(err)
			}
			if _, err := store.Load(ctx, id); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
}

// openAtOnce has eight processes' worth of constructors run on an empty database.
func openAtOnce(t *testing.T, open func() (session.StoreCloser, error)) {
	t.Helper()
	const openers = 8
	stores := make([]session.StoreCloser, openers)
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
		if err := store.Close(); err != nil {
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

// randomName returns a name that no other test uses.
func randomName(prefix string) string {
	id := storetest.RandomID()
	return fmt.Sprintf("%s_%s", prefix, hex.EncodeToString(id[:6]))
}

// wantUsable checks that a store works.
func wantUsable(t *testing.T, store session.Store) {
	t.Helper()
	id := storetest.RandomID()
	if err := store.Save(t.Context(), id, session.Record{Data: []byte("data")}); err != nil {
		t.Fatal(err)
	}
	if rec, err := store.Load(t.Context(), id); err != nil || string(rec.Data) != "data" || rec.Version != 1 {
		t.Fatalf("Load: %+v, %v", rec, err)
	}
	storetest.Fill(t, store, 1, time.Now().Add(-time.Hour))
	if n, err := session.DeleteExpired(t.Context(), store); n != 1 || err != nil {
		t.Fatalf("DeleteExpired: %d, %v", n, err)
	}
}

// wantOutlives checks that a store works again after its server was gone for a while.
func wantOutlives(t *testing.T, server *servertest.Server, store session.Store) {
	t.Helper()
	id := storetest.Fill(t, store, 1, time.Time{})[0]
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
