//go:build !encrypted

package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

func TestMemoryStoreURL(t *testing.T) {
	for _, url := range []string{"memory:", "MEMORY:"} {
		store, err := session.Open(t.Context(), url)
		if _, ok := store.(*session.MemoryStore); !ok || err != nil {
			t.Errorf("Open(%q) = %T, %v", url, store, err)
		}
	}
	for _, url := range []string{"memory:x", "memory://", "memory://user:hunter2@host"} {
		if store, err := session.Open(t.Context(), url); err == nil {
			t.Errorf("Open(%q) = %T, want an error", url, store)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q): the error shows the password: %v", url, err)
		}
	}
}

func TestMemoryStoreZeroValue(t *testing.T) {
	var store session.MemoryStore
	id := storeID(1)
	if _, err := store.Load(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("Load = %v, want ErrNotFound", err)
	}
	if n, err := store.DeleteExpired(t.Context(), 1); n != 0 || err != nil {
		t.Fatalf("DeleteExpired = %d, %v", n, err)
	}
	if err := store.Save(t.Context(), id, session.Record{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Count(t.Context(), -1, 0); n != 1 || err != nil {
		t.Fatalf("Count = %d, %v", n, err)
	}
}

func TestMemoryStoreLoadDoesNotAllocate(t *testing.T) {
	store := session.NewMemoryStore()
	ctx, id := t.Context(), storeID(1)
	rec := session.Record{Expires: time.Now().Add(time.Hour), Data: make([]byte, 100)}
	if err := store.Save(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := store.Load(ctx, id); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("Load allocates %v times", allocs)
	}
}

// The content of a store is compared with a plain map through a long random history, in which the number of records
// rises and falls several times. The IDs share few first bytes, so that each part of the store gets large.
func TestMemoryStoreAgainstModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { memoryHistory(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func memoryHistory(t *testing.T, rng *rand.Rand) {
	ctx := t.Context()
	store := session.NewMemoryStore()
	model := make(map[session.ID]session.Record)
	for step := range 20_000 {
		id := storeID(rng.IntN(2000))
		id[0] %= 3
		rec, live := model[id]
		if live = live && rec.Live(time.Now()); !live {
			rec = session.Record{}
		}
		expires := time.Now().Add(time.Duration(rng.IntN(5000)) * time.Millisecond)
		if rng.IntN(10) == 0 {
			expires = time.Time{}
		}
		removing := step/4_000%2 == 1
		switch op := rng.IntN(10); {
		case op < 5 && !removing:
			rec.Expires, rec.Data = expires, fmt.Append(nil, step)
			if err := store.Save(ctx, id, rec); err != nil {
				t.Fatalf("step %d: Save: %v", step, err)
			}
			rec.Version++
			model[id] = rec
		case op < 6:
			rec.Version++ // one that it never had
			if err := store.Save(ctx, id, rec); !errors.Is(err, session.ErrConflict) {
				t.Fatalf("step %d: Save of a wrong version: %v", step, err)
			}
		case op < 8:
			rec.Expires = expires
			err := store.Touch(ctx, id, rec)
			if want := live; (err == nil) != want || !want && !errors.Is(err, session.ErrNotFound) {
				t.Fatalf("step %d: Touch: %v, live %t", step, err, live)
			}
			if live {
				model[id] = rec
			}
		case op < 9:
			if err := store.Delete(ctx, id); err != nil {
				t.Fatalf("step %d: Delete: %v", step, err)
			}
			delete(model, id)
		default:
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
			if rng.IntN(20) == 0 {
				checkSweep(t, store, model, rng.IntN(40))
			}
		}
		if step%1_000 == 0 {
			checkContent(t, store, model)
		}
	}
	checkContent(t, store, model)
	time.Sleep(time.Hour)
	checkSweep(t, store, model, 1_000_000)
	checkContent(t, store, model)
	for id := range model {
		if err := store.Delete(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	checkContent(t, store, nil)
}

// checkSweep checks that DeleteExpired removes as many as it may of those that have expired.
func checkSweep(t *testing.T, store *session.MemoryStore, model map[session.ID]session.Record, limit int) {
	t.Helper()
	now := time.Now()
	var expired []session.ID
	for id, rec := range model {
		if !rec.Live(now) {
			expired = append(expired, id)
		}
	}
	n, err := store.DeleteExpired(t.Context(), limit)
	if err != nil || n != min(limit, len(expired)) {
		t.Fatalf("DeleteExpired(%d) = %d, %v with %d expired", limit, n, err, len(expired))
	}
	if n == len(expired) {
		for _, id := range expired {
			delete(model, id)
		}
		return
	}
	// Which of them went is the store's choice: remove the others, too.
	rest, err := store.DeleteExpired(t.Context(), len(model))
	if err != nil || n+rest != len(expired) {
		t.Fatalf("DeleteExpired = %d and then %d, %v with %d expired", n, rest, err, len(expired))
	}
	for _, id := range expired {
		delete(model, id)
	}
}

func checkContent(t *testing.T, store *session.MemoryStore, model map[session.ID]session.Record) {
	t.Helper()
	want := maps.Clone(model)
	maps.DeleteFunc(want, func(_ session.ID, rec session.Record) bool { return !rec.Live(time.Now()) })
	if n, err := store.Count(t.Context(), -1, 0); n != len(want) || err != nil {
		t.Fatalf("Count = %d, %v, want %d", n, err, len(want))
	}
	seen := make(map[session.ID]bool)
	for e, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		w, ok := want[e.ID]
		if !ok || seen[e.ID] || !sameRecord(e.Record, w) {
			t.Fatalf("List: %v has %+v, want %+v, seen before %t", e.ID, e.Record, w, seen[e.ID])
		}
		seen[e.ID] = true
		if loaded, err := store.Load(t.Context(), e.ID); err != nil || !sameRecord(loaded, w) {
			t.Fatalf("Load(%v) = %+v, %v, want %+v", e.ID, loaded, err, w)
		}
	}
	if len(seen) != len(want) {
		t.Fatalf("List has %d records, want %d", len(seen), len(want))
	}
}

// One step takes no more than it was asked to, and of one part of the store the earliest.
func TestMemoryStoreDeletesEarliestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		start := time.Now()
		order := rand.New(rand.NewPCG(1, 2)).Perm(100)
		for _, i := range order {
			id := storeID(i)
			id[0] = 7
			rec := session.Record{Expires: start.Add(time.Duration(i+1) * time.Second), Data: []byte{byte(i)}}
			if err := store.Save(t.Context(), id, rec); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(50 * time.Second)
		for _, want := range []int{20, 20, 10, 0} {
			if n, err := store.DeleteExpired(t.Context(), 20); n != want || err != nil {
				t.Fatalf("DeleteExpired = %d, %v, want %d", n, err, want)
			}
		}
		var left []int
		for e := range store.List(t.Context()) {
			left = append(left, int(e.Record.Data[0]))
		}
		slices.Sort(left)
		if len(left) != 50 || left[0] != 50 {
			t.Fatalf("left are %v", left)
		}
	})
}

// BenchmarkMemoryStore shows that a store with many records costs little more than one with few.
func BenchmarkMemoryStore(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		store := session.NewMemoryStore()
		for i := range n {
			rec := session.Record{Expires: time.Now().Add(time.Hour), Data: make([]byte, 150)}
			if err := store.Save(b.Context(), storeID(i), rec); err != nil {
				b.Fatal(err)
			}
		}
		ids := make([]session.ID, n)
		for i := range ids {
			ids[i] = storeID(i * 7919 % n)
		}
		b.Run(fmt.Sprintf("load/%d", n), func(b *testing.B) {
			ctx := b.Context()
			for i := 0; b.Loop(); i++ {
				if _, err := store.Load(ctx, ids[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// storeID returns the n-th of a series of IDs.
func storeID(n int) session.ID {
	rng := rand.New(rand.NewPCG(uint64(n), 0x1d))
	var id session.ID
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	return id
}

func sameRecord(a, b session.Record) bool {
	return a.Version == b.Version && a.Expires.Equal(b.Expires) && bytes.Equal(a.Data, b.Data)
}
