package sqlite

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/storetest"
)

// Every byte comes back, and so do the greatest version and expiry.
func testBytes(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	store := newStore(t, db, nil)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, data := range [][]byte{nil, {}, {0}, every, []byte("2026-01-02 03:04:05"), []byte("1"), bytes.Repeat(every, 400)} {
		for _, expires := range []time.Time{{}, time.UnixMilli(math.MaxInt64 - 1), time.Now().Add(time.Hour).Truncate(time.Millisecond)} {
			id := storetest.RandomID()
			if err := store.Save(t.Context(), id, session.Record{Expires: expires, Data: data}); err != nil {
				t.Fatal(err)
			}
			rec, err := store.Load(t.Context(), id)
			if err != nil || !bytes.Equal(rec.Data, data) || rec.Version != 1 || !rec.Expires.Equal(expires) {
				t.Errorf("%d bytes until %v: %+v, %v", len(data), expires, rec, err)
			}
		}
	}
	id := storetest.RandomID()
	for _, version := range []uint64{math.MaxInt64 - 1, math.MaxInt64} {
		if _, err := db.Exec("REPLACE INTO sessions VALUES (?, ?, ?, 'x')", id[:], int64(version), int64(math.MaxInt64)); err != nil {
			t.Fatal(err)
		}
		rec, err := store.Load(t.Context(), id)
		if err != nil || rec.Version != version {
			t.Errorf("version %d: %+v, %v", version, rec, err)
		}
		want := error(nil)
		if version == math.MaxInt64 { // there is no next one
			want = session.ErrConflict
		}
		if err := store.Touch(t.Context(), id, rec); err != nil {
			t.Error(err)
		}
		if err := store.Save(t.Context(), id, rec); !errors.Is(err, want) {
			t.Errorf("after version %d: %v, want %v", version, err, want)
		}
	}
	for _, version := range []uint64{math.MaxInt64 + 1, math.MaxUint64} {
		if err := store.Save(t.Context(), id, session.Record{Version: version}); !errors.Is(err, session.ErrConflict) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// Rows that no store has written are absent, and keep nobody from the others.
func testDamagedRows(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	store := newStore(t, db, nil)
	sound := storetest.Fill(t, store, 1, time.Time{})[0]
	for _, row := range []string{
		"x'%x', 0, 9223372036854775807, 'x'", "x'%x', -1, 9223372036854775807, 'x'", "x'%x', 'text', 9223372036854775807, 'x'",
		"x'%x', 1.5, 9223372036854775807, 'x'", "x'%x', 1, 'text', 'x'", "x'%x', 1, 9e99, 'x'", "x'%x', x'01', 9223372036854775807, 'x'",
	} {
		id := storetest.RandomID()
		if _, err := db.Exec("INSERT INTO sessions VALUES (" + strings.Replace(row, "%x", id.String(), 1) + ")"); err != nil {
			t.Fatal(err)
		}
		if rec, err := store.Load(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: %+v, %v", row, rec, err)
		}
		if err := store.Touch(t.Context(), id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: Touch: %v", row, err)
		}
	}
	for _, id := range []string{"x'0102'", "'text'", "1"} {
		if _, err := db.Exec("INSERT INTO sessions VALUES (" + id + ", 1, 9223372036854775807, 'x')"); err != nil {
			t.Fatal(err)
		}
	}
	var listed []session.ID
	for entry, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, entry.ID)
	}
	if len(listed) != 1 || listed[0] != sound {
		t.Errorf("the list has %v, want %v", listed, sound)
	}
	if n, err := session.DeleteExpired(t.Context(), store); err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
}

// A record beyond the connections' limit is told as such, and leaves the one before.
func testTooLarge(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	db.SetMaxOpenConns(1)
	store := newStore(t, db, nil)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Limit(conn, 100_000); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	id := storetest.Fill(t, store, 1, time.Time{})[0]
	for _, version := range []uint64{0, 1} {
		for _, size := range []int{100_000, 1 << 20} {
			of := id
			if version == 0 {
				of = storetest.RandomID()
			}
			err := store.Save(t.Context(), of, session.Record{Version: version, Data: make([]byte, size)})
			if !errors.Is(err, session.ErrTooLarge) {
				t.Errorf("%d bytes, version %d: %v", size, version, err)
			}
		}
	}
	if rec, err := store.Load(t.Context(), id); err != nil || string(rec.Data) != "data" {
		t.Errorf("Load: %+v, %v", rec, err)
	}
	if err := store.Save(t.Context(), id, session.Record{Version: 1, Data: make([]byte, 1<<16)}); err != nil {
		t.Errorf("64 KiB: %v", err)
	}
}

// A list of several pages has the first ID and the last, over one connection, which the caller uses meanwhile.
func testPages(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	db.SetMaxOpenConns(1)
	store := newStore(t, db, nil)
	storetest.Fill(t, store, 10, time.Now().Add(-time.Hour))
	storetest.Pages(t, store, 600)
	if n, err := store.Count(t.Context(), -1, 0); n != 602 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if n, err := store.Count(t.Context(), 0, 'd'); n != 600 || err != nil {
		t.Errorf("Count of those that begin with a d: %d, %v", n, err)
	}
}

// Of several sweepers at once, none counts what another has removed, and none leaves anything.
func testSweepers(t *testing.T, d Driver) {
	path := newPath(t)
	var stores []*session.SQLiteStore
	for range 3 {
		stores = append(stores, newStore(t, d.open(t, path, fast...), nil))
	}
	storetest.SweepersAgree(t, 90, stores...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stores[0].DeleteExpired(ctx, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
