package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
)

// crowd takes what room there is on a disk, but for the last bytes.
func crowd(t *testing.T, disk string, last int) {
	t.Helper()
	storetest.FillDisk(t, disk)
	filler := filepath.Join(disk, "filler")
	info, err := os.Stat(filler)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filler, info.Size()-int64(last)); err != nil {
		t.Fatal(err)
	}
}

// On a full disk nothing is added, and everything can end, one after the other, whoever takes what becomes free in between.
func testFullDisk(t *testing.T, d Driver) {
	for _, journal := range []string{"WAL", "WAL without checkpoints", "DELETE"} {
		for _, size := range []int{100, 3_000, 20_000} {
			t.Run(fmt.Sprintf("%s/%d bytes", journal, size), func(t *testing.T) {
				disk := storetest.SmallDisk(t, "16m")
				mode, _, without := strings.Cut(journal, " ")
				db := d.open(t, filepath.Join(disk, "sessions.db"), slices.Concat(fast, []string{"journal_mode=" + mode})...)
				if without { // the application makes them, some time
					db.SetMaxOpenConns(1)
					if _, err := db.Exec("PRAGMA wal_autocheckpoint = 0"); err != nil {
						t.Fatal(err)
					}
				}
				room, last := 1<<20, uint64(3)
				switch {
				case without: // so that more is written than fits the reserve
					last = 20
				case mode == "DELETE": // where each end takes the reserve, and makes it anew
					room, last = 1<<15, 2
				}
				fillAndEnd(t, disk, newStore(t, db, nil), room, size, last)
			})
		}
	}
}

// fillAndEnd fills what room there is to be on a disk with records of that size, and puts small ones in their places, up to
// the last version.
func fillAndEnd(t *testing.T, disk string, store *session.SQLiteStore, room, size int, last uint64) {
	t.Helper()
	save := func(id session.ID, version uint64, size int) error {
		return store.Save(t.Context(), id, session.Record{Version: version, Expires: time.Now().Add(time.Hour), Data: make([]byte, size)})
	}
	ids := storetest.Fill(t, store, 1, time.Now().Add(time.Hour)) // which makes the reserve
	crowd(t, disk, room)
	for {
		id := storetest.RandomID()
		err := save(id, 0, size)
		if err != nil {
			wantError(t, err, "full")
			break
		}
		if ids = append(ids, id); len(ids) == 100_000 {
			t.Fatal("the disk never was full")
		}
	}
	storetest.FillDisk(t, disk)
	for version := uint64(1); version < last; version++ {
		for i, id := range ids {
			if err := save(id, version, 60); err != nil {
				t.Fatalf("the end of record %d of %d: %v", i, len(ids), err)
			}
			storetest.FillDisk(t, disk)
		}
	}
	for _, addition := range []error{save(storetest.RandomID(), 0, size), save(ids[0], last, 8<<20)} {
		wantError(t, addition, "full")
	}
	for _, id := range ids {
		rec, err := store.Load(t.Context(), id)
		if err != nil || rec.Version != last || len(rec.Data) != 60 {
			t.Fatalf("%d bytes of version %d, %v", len(rec.Data), rec.Version, err)
		}
		if err := store.Touch(t.Context(), id, rec); err != nil {
			t.Fatalf("Touch: %v", err)
		}
		if err := store.Delete(t.Context(), id); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := save(storetest.RandomID(), 0, size); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A call that has returned outlives a loss of power, with the settings for that.
func testPowerLoss(t *testing.T, d Driver) {
	for journal, synchronous := range map[string]string{"WAL": "FULL", "DELETE": "EXTRA"} {
		t.Run(journal, func(t *testing.T) {
			storetest.PowerLoss(t, func(dir string) (session.StoreCloser, error) {
				return d.OpenStore(context.Background(), dir, "journal_mode="+journal, "synchronous="+synchronous)
			})
		})
	}
}

// A logout, and the end of all sessions of a user, work on a full disk.
func testLogoutOnFullDisk(t *testing.T, d Driver) {
	disk := storetest.SmallDisk(t, "16m")
	store := newStore(t, d.open(t, filepath.Join(disk, "sessions.db"), fast...), nil)
	m, err := session.New(store, make([]byte, 32), &session.Options{SweepInterval: session.Never, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	login := func(s *session.Session) { s.SetUser("ann") }
	var cookies []string
	for range 20 {
		cookies = append(cookies, client.Ask(t.Context(), m, "", login).Cookie)
	}
	crowd(t, disk, 100_000)
	for a := client.Ask(t.Context(), m, "", login); a.Status == http.StatusOK; a = client.Ask(t.Context(), m, "", login) {
		cookies = append(cookies, a.Cookie)
	}
	storetest.FillDisk(t, disk)
	storetest.LogoutsOnFullDisk(t, disk, m, "ann", cookies)
}
