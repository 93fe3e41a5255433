//go:build !encrypted

package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"example.com/session"
	"example.com/session/internal/storetest"
)

func newFileStore(t *testing.T, path string) *session.FileStore {
	t.Helper()
	store, err := session.NewFileStore(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func TestFileStoreURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	id, expires := storeID(1), time.Now().Add(time.Hour).Truncate(time.Millisecond)
	rec := session.Record{Data: []byte("kept"), Expires: expires}
	for version := range uint64(3) {
		store, err := session.Open(t.Context(), "file://"+path)
		if err != nil {
			t.Fatal(err)
		}
		rec.Version = version
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	rec.Version = 3
	store := newFileStore(t, path)
	loaded, err := store.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	got := []session.Record{loaded}
	for e, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Record)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	// They can be read without the file, which is closed.
	if len(got) != 2 || !sameRecord(got[0], rec) || !sameRecord(got[1], rec) {
		t.Errorf("Load and List have %+v", got)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory holds %v, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if _, err := session.Open(t.Context(), "file:"); err == nil {
		t.Error("a file: URL without a path opens a store")
	}
}

func TestFileStoreTemporary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	store, err := session.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(t.Context(), storeID(1), session.Record{}); err != nil {
		t.Fatal(err)
	}
	// A process that is killed leaves nothing behind, but on Windows, where a file in use cannot be removed.
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 && runtime.GOOS != "windows" {
		t.Errorf("the temporary directory holds %v, %v", entries, err)
	}
	if _, err := store.Load(t.Context(), storeID(1)); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("after Close the temporary directory holds %v, %v", entries, err)
	}
}

func TestFileStoreRefusesForeignFiles(t *testing.T) {
	junk := make([]byte, 100_000)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range junk {
		junk[i] = byte(rng.Uint32())
	}
	tests := map[string][]byte{
		"text":           []byte("root:x:0:0:root:/root:/bin/sh\n"),
		"junk":           junk,
		"zeros":          make([]byte, 16384),
		"other program":  boltFile(t, "widgets", "k", "v"),
		"later format":   boltFile(t, "session.format", "session.format", "2"),
		"buckets absent": boltFile(t, "session.format", "session.format", "1"),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "foreign.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			store, err := session.NewFileStore(path, nil)
			if err == nil {
				store.Close()
				t.Fatal("it is taken for a store")
			}
			if !strings.HasPrefix(err.Error(), "session: ") || !strings.Contains(err.Error(), "foreign.db") {
				t.Errorf("the error is %q", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	dir := t.TempDir()
	for name, path := range map[string]string{"directory": dir, "missing": filepath.Join(dir, "x", "y.db"), "none": ""} {
		if store, err := session.NewFileStore(path, nil); err == nil {
			store.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// boltFile returns a bbolt database with one entry.
func boltFile(t *testing.T, bucket, key, value string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	updateBolt(t, path, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	})
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func updateBolt(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFileStoreUsesAnEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newFileStore(t, path)
}

// Calls that are written together fail and succeed each for itself, and there are fewer transactions than calls.
func TestFileStoreGroupCommit(t *testing.T) {
	const rounds, writers = 10, 32
	path := filepath.Join(t.TempDir(), "sessions.db")
	store := newFileStore(t, path)
	for round := range rounds {
		shared := storeID(round)
		var wg sync.WaitGroup
		var wins [writers]bool
		for w := range writers {
			wg.Go(func() {
				own := storeID(1000 + round*writers + w)
				saves := []func(){
					func() {
						if err := store.Save(t.Context(), own, session.Record{Data: fmt.Append(nil, w)}); err != nil {
							t.Errorf("own record: %v", err)
						}
					},
					func() {
						err := store.Save(t.Context(), shared, session.Record{Data: fmt.Append(nil, w)})
						if err != nil && !errors.Is(err, session.ErrConflict) {
							t.Errorf("shared record: %v", err)
						}
						wins[w] = err == nil
					},
				}
				if w%2 == 0 { // so that those that fail and those that succeed meet
					slices.Reverse(saves)
				}
				for _, save := range saves {
					save()
				}
				rec := session.Record{Version: 2}
				if err := store.Touch(t.Context(), own, rec); !errors.Is(err, session.ErrConflict) {
					t.Errorf("Touch of a wrong version: %v", err)
				}
			})
		}
		wg.Wait()
		winners := 0
		for w, won := range wins {
			if won {
				winners++
				rec, err := store.Load(t.Context(), shared)
				if err != nil || rec.Version != 1 || string(rec.Data) != fmt.Sprint(w) {
					t.Errorf("writer %d won, and there is %+v, %v", w, rec, err)
				}
			}
			own := storeID(1000 + round*writers + w)
			if rec, err := store.Load(t.Context(), own); err != nil || string(rec.Data) != fmt.Sprint(w) {
				t.Errorf("writer %d's record is %+v, %v", w, rec, err)
			}
		}
		if winners != 1 {
			t.Errorf("%d writers created the same record", winners)
		}
	}
	store.Close()
	var transactions int
	updateBolt(t, path, func(tx *bbolt.Tx) error { transactions = tx.ID(); return nil })
	if transactions >= rounds*(writers+1) {
		t.Errorf("%d changes took %d transactions", rounds*(writers+1), transactions)
	}
}

// An endedContext is one that ends just after the call that it was given to has begun.
type endedContext struct {
	context.Context
	calls int
}

func (c *endedContext) Err() error {
	if c.calls++; c.calls == 1 {
		return nil
	}
	return context.Canceled
}

func (c *endedContext) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func TestFileStoreGivesUpWaiting(t *testing.T) {
	store := newFileStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	ended := 0
	for i := range 50 {
		err := store.Save(&endedContext{Context: t.Context()}, storeID(i), session.Record{})
		if errors.Is(err, context.Canceled) {
			ended++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if ended == 0 {
		t.Error("no call ended with its context")
	}
	if err := store.Save(t.Context(), storeID(100), session.Record{}); err != nil {
		t.Error(err)
	}
}

func TestFileStoreDamagedEntries(t *testing.T) {
	records := []byte("session.records")
	tests := map[string]func(b *bbolt.Bucket, id session.ID, value []byte) error{
		"empty": func(b *bbolt.Bucket, id session.ID, _ []byte) error { return b.Put(id[:], nil) },
		"short": func(b *bbolt.Bucket, id session.ID, v []byte) error { return b.Put(id[:], v[:10]) },
		"cut":   func(b *bbolt.Bucket, id session.ID, v []byte) error { return b.Put(id[:], v[:len(v)-1]) },
		"longer": func(b *bbolt.Bucket, id session.ID, v []byte) error {
			return b.Put(id[:], append(bytes.Clone(v), 0))
		},
		"another's": func(b *bbolt.Bucket, id session.ID, _ []byte) error {
			other := storeID(2)
			return b.Put(id[:], bytes.Clone(b.Get(other[:])))
		},
	}
	for bit := range 8 * 30 {
		tests[fmt.Sprint("bit ", bit)] = func(b *bbolt.Bucket, id session.ID, v []byte) error {
			v = bytes.Clone(v)
			v[bit/8%len(v)] ^= 1 << (bit % 8)
			return b.Put(id[:], v)
		}
	}
	path := filepath.Join(t.TempDir(), "sessions.db")
	id, other := storeID(1), storeID(2)
	rec := session.Record{Data: []byte("0123456789"), Expires: time.Now().Add(time.Hour)}
	store, err := session.NewFileStore(path, &session.FileOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(t.Context(), other, rec); err != nil {
		t.Fatal(err)
	}
	for name, damage := range tests {
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Fatalf("%s: Save: %v", name, err)
		}
		store.Close()
		updateBolt(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket(records)
			return damage(b, id, b.Get(id[:]))
		})
		if store, err = session.NewFileStore(path, &session.FileOptions{NoSync: true}); err != nil {
			t.Fatal(err)
		}
		if got, err := store.Load(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: Load = %+v, %v", name, got, err)
		}
		if err := store.Touch(t.Context(), id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: Touch: %v", name, err)
		}
		if n, err := store.Count(t.Context(), -1, 0); n != 1 || err != nil {
			t.Errorf("%s: Count = %d, %v", name, n, err)
		}
		for e, err := range store.List(t.Context()) {
			if err != nil || e.ID != other {
				t.Errorf("%s: List has %v, %v", name, e, err)
			}
		}
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Errorf("%s: Save in its place: %v", name, err)
		}
		if got, err := store.Load(t.Context(), id); err != nil || got.Version != 1 {
			t.Errorf("%s: Load afterwards = %+v, %v", name, got, err)
		}
		if err := store.Delete(t.Context(), id); err != nil {
			t.Errorf("%s: Delete: %v", name, err)
		}
	}
	store.Close()
}

// A record that was damaged leaves an entry in the expiry index, which must not take its successor away.
func TestFileStoreSweepTrustsTheRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	store := newFileStore(t, path)
	replaced, damaged, deleted := storeID(1), storeID(2), storeID(3)
	rec := session.Record{Data: []byte("data"), Expires: time.Now().Add(-time.Hour)}
	for _, id := range []session.ID{replaced, damaged, deleted} {
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
	}
	store.Close()
	updateBolt(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("session.records"))
		for _, id := range []session.ID{replaced, damaged, deleted} {
			if err := b.Put(id[:], []byte("?")); err != nil {
				return err
			}
		}
		return nil
	})
	store = newFileStore(t, path)
	if err := store.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(t.Context(), replaced, session.Record{Data: []byte("successor")}); err != nil {
		t.Fatal(err)
	}
	if n, err := store.DeleteExpired(t.Context(), 10); n != 1 || err != nil {
		t.Errorf("DeleteExpired = %d, %v", n, err)
	}
	if got, err := store.Load(t.Context(), replaced); err != nil || string(got.Data) != "successor" {
		t.Errorf("Load = %+v, %v", got, err)
	}
	store.Close()
	updateBolt(t, path, func(tx *bbolt.Tx) error {
		for _, name := range []string{"session.records", "session.expiries"} {
			n := 0
			tx.Bucket([]byte(name)).ForEach(func(_, _ []byte) error { n++; return nil })
			if want := map[string]int{"session.records": 1}[name]; n != want {
				t.Errorf("%s holds %d entries, want %d", name, n, want)
			}
		}
		return nil
	})
}

// A record has one entry in the index of expiries, however often that moves.
func TestFileStoreIndexStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	store := newFileStore(t, path)
	id := storeID(1)
	for version := range uint64(5) {
		rec := session.Record{Version: version, Expires: time.Now().Add(time.Duration(version+1) * time.Hour)}
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
		rec.Version, rec.Expires = version+1, rec.Expires.Add(time.Minute)
		if err := store.Touch(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
	}
	store.Close()
	updateBolt(t, path, func(tx *bbolt.Tx) error {
		if n := tx.Bucket([]byte("session.expiries")).Stats().KeyN; n != 1 {
			t.Errorf("the index has %d entries", n)
		}
		return nil
	})
}

// A file whose pages are damaged, or that somebody cuts while it is open, makes calls fail. The process lives.
func TestFileStoreDamagedPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	store := newFileStore(t, path)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			rec := session.Record{Data: make([]byte, 10_000), Expires: time.Now().Add(time.Hour)}
			if err := store.Save(t.Context(), storeID(i), rec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	store.Close()
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	meta := 2 * os.Getpagesize()
	for name, damaged := range map[string][]byte{
		"ones":  append(intact[:meta:meta], bytes.Repeat([]byte{0xff}, len(intact)-meta)...),
		"zeros": append(intact[:meta:meta], make([]byte, len(intact)-meta)...),
		"short": intact[:meta],
	} {
		path := filepath.Join(t.TempDir(), "damaged.db")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if store, err := session.NewFileStore(path, nil); err == nil {
			store.Close()
			t.Errorf("%s: no error", name)
		}
	}
	for _, size := range []int{meta, 0} {
		if err := os.WriteFile(path, intact, 0o600); err != nil {
			t.Fatal(err)
		}
		store := newFileStore(t, path)
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			if rec, err := store.Load(t.Context(), storeID(i)); err == nil {
				t.Fatalf("record %d is still there, with %d bytes", i, len(rec.Data))
			}
			if err := store.Save(t.Context(), storeID(i), session.Record{Version: 1}); err == nil {
				t.Fatalf("record %d could be saved", i)
			}
		}
		store.Close()
	}
}

// The body of a loop over List writes so much that the file has to grow, which waits for readers.
func TestFileStoreListWhileWriting(t *testing.T) {
	store, err := session.NewFileStore(filepath.Join(t.TempDir(), "sessions.db"), &session.FileOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const n = 600
	for i := range n {
		if err := store.Save(t.Context(), storeID(i), session.Record{Data: []byte("old")}); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[session.ID]int)
	for e, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Record.Data) != "old" {
			continue
		}
		seen[e.ID]++
		large := session.Record{Data: make([]byte, 10_000)}
		if err := store.Save(t.Context(), storeID(n+len(seen)), large); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if seen[storeID(i)] != 1 {
			t.Fatalf("record %d was seen %d times", i, seen[storeID(i)])
		}
	}
}

// A record that is removed as it is listed takes none with it, wherever a transaction ends.
func TestFileStoreListWhileDeleting(t *testing.T) {
	store, err := session.NewFileStore(filepath.Join(t.TempDir(), "sessions.db"), &session.FileOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ids := storetest.Fill(t, store, 600, time.Time{})
	seen := make(map[session.ID]bool)
	for e, err := range store.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[e.ID] = true; store.Delete(t.Context(), e.ID) != nil {
			t.Fatal("it cannot be deleted")
		}
	}
	if len(seen) != len(ids) {
		t.Errorf("%d of %d records were listed", len(seen), len(ids))
	}
}

func TestFileStoreSweepInSteps(t *testing.T) {
	store, err := session.NewFileStore(filepath.Join(t.TempDir(), "sessions.db"), &session.FileOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for i := range 300 {
		rec := session.Record{Expires: time.Now().Add(-time.Hour)}
		if i%3 == 0 {
			rec.Expires = time.Now().Add(time.Hour)
		}
		if err := store.Save(t.Context(), storeID(i), rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{150, 50, 0} {
		if n, err := store.DeleteExpired(t.Context(), 150); n != want || err != nil {
			t.Errorf("DeleteExpired = %d, %v, want %d", n, err, want)
		}
	}
	if n, err := store.Count(t.Context(), -1, 0); n != 100 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
}

func TestFileStoreAfterClose(t *testing.T) {
	store := newFileStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	checkClosed(t, store, store.Close)
}

// A closable is what FileStore and DirStore are.
type closable interface {
	session.Toucher
	session.Sweeper
	session.Lister
	session.Counter
}

// checkClosed closes a store twice, and checks that every method says so afterwards.
func checkClosed(t *testing.T, store closable, closeStore func() error) {
	t.Helper()
	for range 2 {
		if err := closeStore(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, id := t.Context(), storeID(1)
	calls := map[string]func() error{
		"Load":          func() error { _, err := store.Load(ctx, id); return err },
		"Save":          func() error { return store.Save(ctx, id, session.Record{}) },
		"Touch":         func() error { return store.Touch(ctx, id, session.Record{}) },
		"Delete":        func() error { return store.Delete(ctx, id) },
		"DeleteExpired": func() error { _, err := store.DeleteExpired(ctx, 1); return err },
		"Count":         func() error { _, err := store.Count(ctx, -1, 0); return err },
		"List": func() (err error) {
			for _, err = range store.List(ctx) {
			}
			return err
		},
	}
	for name, call := range calls {
		err := call()
		if !errors.Is(err, fs.ErrClosed) || !strings.HasPrefix(err.Error(), "session: ") {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}
