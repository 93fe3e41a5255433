package storetest

import (
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
)

// RandomID returns an ID that no other test uses.
func RandomID() (id session.ID) {
	rand.Read(id[:])
	return id
}

// Fill saves n records with that expiry, and returns their IDs.
func Fill(t *testing.T, store session.Store, n int, expires time.Time) []session.ID {
	t.Helper()
	ids := make([]session.ID, n)
	for i := range ids {
		ids[i] = RandomID()
		if err := store.Save(t.Context(), ids[i], session.Record{Expires: expires, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// Pages checks that a store lists n records and two more, with the first and the last ID, which are more than a page holds,
// while the caller uses the store.
func Pages(t *testing.T, store session.Lister, n int) {
	t.Helper()
	want := make(map[session.ID]bool)
	for _, id := range Fill(t, store, n, time.Time{}) {
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

// SweepersAgree checks that of several sweepers at the same time, which remove so many at a time, none counts what another
// one removed, and none leaves anything that has expired, or takes what has not.
func SweepersAgree[S session.Sweeper](t *testing.T, step int, stores ...S) {
	t.Helper()
	const n = 1000
	Fill(t, stores[0], n, time.Now().Add(-time.Hour))
	live := Fill(t, stores[0], 10, time.Now().Add(time.Hour))
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
	for _, id := range live {
		if _, err := stores[len(stores)-1].Load(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
