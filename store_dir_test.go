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
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"example.com/session"
	"example.com/session/internal/storetest"
)

func newDirStore(t *testing.T, path string) *session.DirStore {
	t.Helper()
	store, err := session.NewDirStore(path, &session.DirOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// sessionFile returns the path of a record's file.
func sessionFile(dir string, id session.ID) string { return filepath.Join(dir, id.String()+".session") }

// strayFiles returns the names in a store's directory other than those of records and of the locks.
func strayFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".locks" && !strings.HasSuffix(e.Name(), ".session") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestDirStoreLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "sessions")
	store := openStore(t, "dir://"+dir)
	if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	id := storeID(1)
	expires := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	for version, expires := range []time.Time{expires, expires.Add(time.Minute)} {
		if err := store.Save(t.Context(), id, session.Record{Version: uint64(version), Expires: expires}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(sessionFile(dir, id))
		if err != nil || info.Mode() != 0o600 || !info.ModTime().Equal(expires) {
			t.Errorf("the file has mode %v and time %v, want %v", info.Mode(), info.ModTime(), expires)
		}
	}
	if stray := strayFiles(t, dir); len(stray) != 0 {
		t.Errorf("there are %v", stray)
	}
	if err := store.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(sessionFile(dir, id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete: %v", err)
	}
}

// Expiries that a file's time cannot hold as they are.
func TestDirStoreUnusualExpiries(t *testing.T) {
	store := newDirStore(t, filepath.Join(t.TempDir(), "sessions"))
	ctx := t.Context()
	sentinel := time.Unix(1<<30, 0) // what stands for never
	for i, test := range []struct {
		expires time.Time
		live    bool
	}{
		{time.Time{}, true},
		{sentinel, false},
		{time.Unix(0, 0), false},
		{time.Unix(-1e9, 0), false},
		{time.Time{}.Add(1), false},
		{time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), true},
		{time.Date(292_000_000, 1, 1, 0, 0, 0, 0, time.UTC), true},
	} {
		id := storeID(i)
		if err := store.Save(ctx, id, session.Record{Expires: test.expires}); err != nil {
			t.Fatal(err)
		}
		rec, err := store.Load(ctx, id)
		if live := err == nil; live != test.live || live && rec.Expires.IsZero() != test.expires.IsZero() {
			t.Errorf("Expires %v: Load = %v, %v", test.expires, rec.Expires, err)
		}
		if !test.live {
			continue
		}
		for _, expires := range []time.Time{time.Now().Add(time.Hour), test.expires} {
			if err := store.Touch(ctx, id, session.Record{Version: 1, Expires: expires}); err != nil {
				t.Fatal(err)
			}
		}
		if again, err := store.Load(ctx, id); err != nil || !again.Expires.Equal(rec.Expires) {
			t.Errorf("Expires %v: after Touch Load = %v, %v", test.expires, again.Expires, err)
		}
	}
}

func TestDirStoreTemporary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	store, err := session.Open(t.Context(), "dir:")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(t.Context(), storeID(1), session.Record{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the temporary directory holds %v, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("after Close the temporary directory holds %v, %v", entries, err)
	}
}

func TestDirStoreRefusesDirectory(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	locks := filepath.Join(base, "locks")
	if err := os.Mkdir(locks, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(locks, ".locks"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{"no path": "", "file": file, "below a file": filepath.Join(file, "x"), "locks": locks}
	for _, mode := range []fs.FileMode{0o770, 0o702, 0o777 | fs.ModeSticky} {
		path := filepath.Join(base, mode.String())
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		paths[mode.String()] = path
	}
	for name, path := range paths {
		store, err := session.NewDirStore(path, nil)
		if err == nil {
			store.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.HasPrefix(err.Error(), "session: ") {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}

// Anything but a regular file under a record's name counts as absent. Nothing follows a link.
func TestDirStoreLinks(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "sessions")
	store := newDirStore(t, dir)
	ctx, id, other := t.Context(), storeID(1), storeID(2)
	rec := session.Record{Data: []byte("data"), Expires: time.Now().Add(time.Hour).Truncate(time.Millisecond)}

	// The targets are perfect files for the ID, which only the link discredits.
	if err := store.Save(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	inside, outside := filepath.Join(dir, "inside"), filepath.Join(base, "outside")
	if err := os.Rename(sessionFile(dir, id), inside); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(inside)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(ctx, other, rec); err != nil {
		t.Fatal(err)
	}
	snapshot := func() (state string) {
		for _, path := range []string{inside, outside} {
			content, err := os.ReadFile(path)
			info, serr := os.Lstat(path)
			if err != nil || serr != nil {
				t.Fatal(err, serr)
			}
			state += fmt.Sprintf("%x %v %v\n", content, info.ModTime(), info.Mode())
		}
		return state
	}

	symlink := func(target string) func(path string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	plants := map[string]func(path string) error{
		"relative link inside": symlink("inside"),
		"link inside":          symlink(inside),
		"link to a record":     symlink(sessionFile(dir, other)),
		"link outside":         symlink(outside),
		"relative link out":    symlink("../outside"),
		"dangling link":        symlink("nowhere"),
		"link to itself":       symlink(id.String() + ".session"),
		"link to a directory":  symlink(base),
		"directory":            func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":                 func(path string) error { return exec.Command("mkfifo", path).Run() },
	}
	for _, expires := range []time.Time{rec.Expires, time.Now().Add(-time.Hour)} {
		for _, target := range []string{inside, outside} {
			if err := os.Chtimes(target, expires, expires); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot()
		for name, plant := range plants {
			t.Run(name, func(t *testing.T) { checkPlanted(t, store, dir, id, other, plant) })
			if after := snapshot(); after != before {
				t.Errorf("%s: the target was changed from\n%sto\n%s", name, before, after)
			}
			if got, err := store.Load(ctx, other); err != nil || got.Version != 1 {
				t.Errorf("%s: the other record = %+v, %v", name, got, err)
			}
		}
	}
}

// checkPlanted checks that what plant puts at a record's place counts as nothing, and that Save and Delete clear it away.
// The other record is the only one that is there.
func checkPlanted(t *testing.T, store *session.DirStore, dir string, id, other session.ID, plant func(path string) error) {
	t.Helper()
	ctx, path := t.Context(), sessionFile(dir, id)
	if err := plant(path); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load = %+v, %v", got, err)
	}
	if err := store.Touch(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Touch: %v", err)
	}
	if err := store.Save(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrConflict) {
		t.Errorf("Save of version 1: %v", err)
	}
	if n, err := store.Count(ctx, -1, 0); n != 1 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
	for e, err := range store.List(ctx) {
		if err != nil || e.ID != other {
			t.Errorf("List has %v, %v", e, err)
		}
	}
	if n, err := store.DeleteExpired(ctx, 10); n != 0 || err != nil {
		t.Errorf("DeleteExpired = %d, %v", n, err)
	}
	if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Errorf("Save in its place: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("it was not replaced: %v, %v", info, err)
	}
	if got, err := store.Load(ctx, id); err != nil || got.Version != 1 {
		t.Errorf("Load afterwards = %+v, %v", got, err)
	}
	for _, planted := range []bool{false, true} {
		if err := store.Delete(ctx, id); err != nil {
			t.Errorf("Delete: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Delete: %v", err)
		}
		if !planted {
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that is none does not stop whoever opens it. (To open a named pipe is to wait for a writer.)
func TestDirStoreNamedPipe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	store := newDirStore(t, dir)
	path, later := sessionFile(dir, storeID(1)), time.Now().Add(time.Hour)
	if err := exec.Command("mkfifo", path).Run(); err != nil {
		t.Skip("there are no named pipes:", err)
	}
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(sessionFile(dir, storeID(2)), 0o700); err != nil { // as large as a file can be, on most disks
		t.Fatal(err)
	}
	if err := os.Chtimes(sessionFile(dir, storeID(2)), later, later); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if rec, err := store.Load(t.Context(), storeID(i+1)); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Load: %v, %v", rec, err)
		}
	}
	if n, err := store.Count(t.Context(), -1, 0); n != 0 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
}

func TestDirStoreDamagedFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	store := newDirStore(t, dir)
	ctx, id, other := t.Context(), storeID(1), storeID(2)
	rec := session.Record{Data: []byte("0123456789"), Expires: time.Now().Add(time.Hour)}
	for _, id := range []session.ID{id, other} {
		if err := store.Save(ctx, id, rec); err != nil {
			t.Fatal(err)
		}
	}
	intact, err := os.ReadFile(sessionFile(dir, id))
	if err != nil {
		t.Fatal(err)
	}
	others, err := os.ReadFile(sessionFile(dir, other))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]byte{
		"another's": others,
		"foreign":   []byte("#!/bin/sh\necho this file is no session, and longer than the head of one\n"),
		"zeros":     make([]byte, len(intact)),
		"longer":    append(bytes.Clone(intact), 0),
	}
	for n := range intact {
		tests[fmt.Sprintf("first %d bytes", n)] = intact[:n]
	}
	for bit := range 8 * len(intact) {
		b := bytes.Clone(intact)
		b[bit/8] ^= 1 << (bit % 8)
		tests[fmt.Sprintf("bit %d", bit)] = b
	}
	for name, content := range tests {
		path := sessionFile(dir, id)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, rec.Expires, rec.Expires); err != nil {
			t.Fatal(err)
		}
		if got, err := store.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: Load = %+v, %v", name, got, err)
		}
		for e, err := range store.List(ctx) {
			if err != nil || e.ID != other {
				t.Errorf("%s: List has %v, %v", name, e, err)
			}
		}
		if err := store.Save(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrConflict) {
			t.Errorf("%s: Save of version 1: %v", name, err)
		}
		if err := store.Save(ctx, id, rec); err != nil {
			t.Errorf("%s: Save in its place: %v", name, err)
		}
		if got, err := store.Load(ctx, id); err != nil || got.Version != 1 || !bytes.Equal(got.Data, rec.Data) {
			t.Errorf("%s: Load afterwards = %+v, %v", name, got, err)
		}
	}
	upper := filepath.Join(dir, strings.ToUpper(other.String())+".session")
	if err := os.WriteFile(upper, others, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Count(ctx, -1, 0); n != 2 || err != nil {
		t.Errorf("Count = %d, %v with a second name in upper case", n, err)
	}
}

func TestDirStoreSweepInBatches(t *testing.T) {
	store := newDirStore(t, filepath.Join(t.TempDir(), "sessions"))
	save := func(from, to int, age time.Duration) {
		for i := from; i < to; i++ {
			if err := store.Save(t.Context(), storeID(i), session.Record{Expires: time.Now().Add(-age)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep := func(limit, want int) {
		t.Helper()
		if n, err := store.DeleteExpired(t.Context(), limit); n != want || err != nil {
			t.Errorf("DeleteExpired(%d) = %d, %v, want %d", limit, n, err, want)
		}
	}
	save(0, 10, time.Hour)
	save(10, 20, -time.Hour)
	sweep(0, 0)
	sweep(4, 4)
	save(20, 30, time.Hour) // some of them behind where the sweep stopped
	sweep(3, 3)
	sweep(100, 13)
	sweep(100, 0)
	save(30, 31, time.Hour)
	sweep(1, 1)
	sweep(1, 0)
	if n, err := store.Count(t.Context(), -1, 0); n != 10 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
	for i := 100; i < 700; i += 20 { // each sweep goes on from where the last one stopped, behind the end from the beginning
		save(i, i+20, time.Hour)
		sweep(9, 9)
	}
}

// Whoever gives a listing up does not wait until a directory with millions of files is through.
func TestDirStoreListIsGivenUp(t *testing.T) {
	store := newDirStore(t, filepath.Join(t.TempDir(), "sessions"))
	storetest.Fill(t, store, 20, time.Time{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs []error
	for _, err := range store.List(ctx) {
		cancel()
		errs = append(errs, err)
	}
	if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], context.Canceled) {
		t.Errorf("it yields %v", errs)
	}
}

// A record that takes the place of an expired one is not removed in its stead.
func TestDirStoreSweepSparesTheSaved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	store, sweeper := newDirStore(t, dir), newDirStore(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := sweeper.DeleteExpired(ctx, 10); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	id := storeID(1)
	for range 500 {
		if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(-time.Second)}); err != nil {
			t.Fatal(err)
		}
		if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		rec, err := store.Load(ctx, id)
		if err != nil {
			t.Fatal("a live record was swept")
		}
		rec.Expires = time.Now().Add(-time.Second)
		if err := store.Touch(ctx, id, rec); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
}

func TestDirStoreSweepsStaleTemporaryFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	store := newDirStore(t, dir)
	name := func(age time.Duration) string {
		return fmt.Sprintf(".saving-%x-ABCDEFGHIJKLMNOPQRSTUVWXYZ", time.Now().Add(-age).Unix())
	}
	stale, fresh, foreign := name(2*time.Hour), name(time.Minute), ".saving-the-world"
	for _, name := range []string{stale, fresh, foreign} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("half a rec"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1<<30, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.Count(t.Context(), -1, 0); n != 0 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
	if n, err := store.DeleteExpired(t.Context(), 10); n != 0 || err != nil {
		t.Errorf("DeleteExpired = %d, %v", n, err)
	}
	if got := strayFiles(t, dir); len(got) != 2 {
		t.Errorf("left are %v, want %v", got, []string{fresh, foreign})
	}
	if _, err := os.Lstat(filepath.Join(dir, stale)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", stale, err)
	}
}

// A writer that waits for another process gives up with its context, and goes on when the lock is free.
func TestDirStoreWaitsForTheLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	store := newDirStore(t, dir)
	id := storeID(1)
	lock := flock.New(filepath.Join(dir, ".locks", id.String()[:2]))
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second waits for the file as well, and not for the first
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		err := store.Save(ctx, id, session.Record{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Save under another's lock: %v", err)
		}
	}
	if _, err := store.Load(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load under another's lock: %v", err)
	}
	saved := make(chan error)
	go func() { saved <- store.Save(t.Context(), id, session.Record{}) }()
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-saved; err != nil {
		t.Errorf("Save after that: %v", err)
	}
}

// Stores of one process that share a directory exclude each other as those of several processes do.
func TestDirStoreSeveralInOneProcess(t *testing.T) {
	const stores, writers, rounds = 3, 3, 30
	dir := filepath.Join(t.TempDir(), "sessions")
	var wg sync.WaitGroup
	for range stores {
		store := newDirStore(t, dir)
		for range writers {
			wg.Go(func() {
				for range rounds {
					if err := storetest.Increment(t.Context(), store, storeID(1)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	rec, err := newDirStore(t, dir).Load(t.Context(), storeID(1))
	want := stores * writers * rounds
	if err != nil || rec.Version != uint64(want) || string(rec.Data) != fmt.Sprint(want) {
		t.Errorf("the counter is %s, version %d, %v, want %d", rec.Data, rec.Version, err, want)
	}
}

func TestDirStoreAfterClose(t *testing.T) {
	store := newDirStore(t, filepath.Join(t.TempDir(), "sessions"))
	checkClosed(t, store, store.Close)
}

// Writers exclude each other by the lock files of the directory that they write to, whatever happens to its name.
func TestDirStoreLocksItsOwnDirectory(t *testing.T) {
	top := t.TempDir()
	path := func(name string) string { return filepath.Join(top, name) }
	open := func(name string) *session.DirStore {
		t.Helper()
		store, err := session.NewDirStore(path(name), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	for _, name := range []string{"one", "two"} {
		open(name)
	}
	if err := os.Symlink("one", path("current")); err != nil {
		t.Skip(err) // Windows asks for a privilege
	}
	linked := open("current")
	if err := errors.Join(os.Remove(path("current")), os.Symlink("two", path("current"))); err != nil {
		t.Fatal(err)
	}
	if err := linked.Save(t.Context(), session.ID{1}, session.Record{}); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]bool{"one": true, "two": false} {
		_, err := os.Stat(filepath.Join(path(name), ".locks", "01"))
		if got := err == nil; got != want {
			t.Errorf("there is a lock file in %s: %v", name, got)
		}
	}
	// Another directory in its place has other lock files.
	if err := errors.Join(os.Rename(path("one"), path("old")), os.Rename(path("two"), path("one"))); err != nil {
		t.Fatal(err)
	}
	if err := linked.Save(t.Context(), session.ID{1}, session.Record{Version: 1}); err == nil || errors.Is(err, session.ErrConflict) {
		t.Errorf("Save in a directory that was replaced: %v", err)
	}
	if rec, err := linked.Load(t.Context(), session.ID{1}); err != nil || rec.Version != 1 {
		t.Errorf("Load: %+v, %v", rec, err)
	}
}

// Two processes that change the same few records on a full disk: of each version there is one, whoever looks, and each
// save that succeeds is one version.
func TestDirStoreFullDiskTwoProcesses(t *testing.T) {
	disk := storetest.SmallDisk(t, "1m")
	path := filepath.Join(disk, "sessions")
	stores := []session.Store{newDirStore(t, path), newDirStore(t, path)} // whose locks keep each other out
	const records, writers, saves = 3, 4, 60
	size := func(tag string) []byte { return append([]byte(tag), bytes.Repeat([]byte{' '}, 3_000-len(tag))...) }
	for id := range records {
		if err := stores[0].Save(t.Context(), storeID(id), session.Record{Data: size("first")}); err != nil {
			t.Fatal(err)
		}
	}
	storetest.FillDisk(t, disk)
	var mu sync.Mutex
	seen := make(map[string]string) // what a version of a record holds
	see := func(id int, version uint64, data []byte) {
		mu.Lock()
		defer mu.Unlock()
		key := fmt.Sprint(id, " ", version)
		if before, ok := seen[key]; ok && before != string(data) {
			t.Errorf("version %d of record %d is %.20q and %.20q", version, id, before, data)
		}
		seen[key] = string(data)
	}
	var won [records]atomic.Uint64
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			store := stores[w%2]
			for n := 0; n < saves; {
				id := rand.N(records)
				rec, err := store.Load(t.Context(), storeID(id))
				if err != nil {
					t.Errorf("Load: %v", err)
					return
				}
				see(id, rec.Version, rec.Data)
				rec.Data = size(fmt.Sprintf("%d by %d", n, w))
				switch err := store.Save(t.Context(), storeID(id), rec); {
				case err == nil:
					see(id, rec.Version+1, rec.Data)
					won[id].Add(1)
					n++
				case !errors.Is(err, session.ErrConflict):
					t.Errorf("Save: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	for id := range records {
		if rec, err := stores[1].Load(t.Context(), storeID(id)); err != nil || rec.Version != won[id].Load()+1 {
			t.Errorf("record %d has version %d, %v, after %d saves", id, rec.Version, err, won[id].Load())
		}
	}
}
