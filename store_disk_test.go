//go:build !encrypted

package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
)

// A full disk makes Save fail, and costs no record. When there is room again, the store works again.
func TestStoreOnFullDisk(t *testing.T) {
	for _, scheme := range []string{"file", "dir"} {
		t.Run(scheme, func(t *testing.T) {
			disk := storetest.SmallDisk(t, "1m")
			path := filepath.Join(disk, "sessions")
			store := openStore(t, scheme+"://"+path)
			ballast := filepath.Join(disk, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 200_000), 0o600); err != nil {
				t.Fatal(err)
			}

			kept := make(map[int]session.Record)
			save := func(n, size int) error {
				rec := kept[n]
				rec.Data = bytes.Repeat([]byte{byte(n), byte(size)}, size/2)
				err := store.Save(t.Context(), storeID(n), rec)
				if err == nil {
					rec.Version++
					kept[n] = rec
				}
				return err
			}
			failures := 0
			for n := 0; failures < 20; n++ {
				if n == 1000 {
					t.Fatal("the disk never was full")
				}
				for _, n := range []int{n, n / 2} { // create and replace
					err := save(n, 10_000)
					for _, other := range []error{session.ErrConflict, session.ErrNotFound, session.ErrTooLarge} {
						if errors.Is(err, other) {
							t.Fatalf("a full disk is told as %v", err)
						}
					}
					if err != nil {
						failures++
					}
				}
			}
			checkKept(t, store, kept)
			if scheme == "dir" {
				if stray := strayFiles(t, path); len(stray) != 0 {
					t.Errorf("it left %v behind", stray)
				}
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			for n := range 10 {
				if err := save(n, 2_000); err != nil {
					t.Errorf("with room again: %v", err)
				}
			}
			checkKept(t, store, kept)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			store = openStore(t, scheme+"://"+path)
			checkKept(t, store, kept)
		})
	}
}

// An end needs no more room than what it ends: on a full disk nothing is added, and everything can end, in any order and
// whoever reads meanwhile.
func TestEndOnFullDisk(t *testing.T) {
	for _, scheme := range []string{"file", "dir"} {
		for name, size := range map[string]func() int{
			"100 bytes":    func() int { return 100 },
			"3000 bytes":   func() int { return 3_000 },
			"20000 bytes":  func() int { return 20_000 },
			"any size":     func() int { return rand.N(30_000) + 60 },
			"mostly small": func() int { return min(100+30_000/(1+rand.N(300)), 20_000) },
		} {
			for _, atOnce := range []int{1, 50} {
				t.Run(fmt.Sprintf("%s/%s/%d at once", scheme, name, atOnce), func(t *testing.T) {
					testEndOnFullDisk(t, scheme, size, atOnce)
				})
			}
		}
	}
}

func testEndOnFullDisk(t *testing.T, scheme string, size func() int, atOnce int) {
	disk := storetest.SmallDisk(t, "1m")
	store := openStore(t, scheme+"://"+filepath.Join(disk, "sessions"))
	var ids []session.ID
	save := func(id session.ID, version uint64, size int, left time.Duration) error {
		return store.Save(t.Context(), id, session.Record{Version: version, Expires: time.Now().Add(left), Data: make([]byte, size)})
	}
	for failed := 0; failed < 3 && len(ids) < 500; { // a smaller one may still fit
		id := storetest.RandomID()
		if err := save(id, 0, size(), time.Duration(rand.N(60)+1)*time.Minute); err != nil {
			checkFault(t, "Save", err, "no space left")
			failed++
			continue
		}
		ids = append(ids, id)
	}
	storetest.FillDisk(t, disk)
	reading, stop := context.WithCancel(t.Context())
	var readers, ends sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for reading.Err() == nil {
				for _, err := range session.List(reading, store) {
					if err != nil && reading.Err() == nil {
						t.Error(err)
					}
				}
				time.Sleep(100 * time.Microsecond) // so that the ends have a processor as well
			}
		})
	}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	turns := make(chan bool, atOnce)
	for i, id := range ids {
		turns <- true
		ends.Go(func() {
			defer func() { <-turns }()
			if err := save(id, 1, 60, 65*time.Minute); err != nil {
				t.Errorf("the end of record %d of %d: %v", i, len(ids), err)
			}
			storetest.FillDisk(t, disk) // others take what becomes free
			if i%3 == 0 {
				save(storetest.RandomID(), 0, size(), time.Hour) // so does what may not need the reserve
			}
		})
	}
	ends.Wait()
	stop()
	readers.Wait()
	checkFault(t, "Save", save(storetest.RandomID(), 0, 1<<20, time.Hour), "no space left")
	for _, id := range ids {
		if rec, err := store.Load(t.Context(), id); err != nil || rec.Version != 2 || len(rec.Data) != 60 {
			t.Errorf("%d bytes of version %d, %v", len(rec.Data), rec.Version, err)
		}
		if err := store.Delete(t.Context(), id); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := save(storetest.RandomID(), 0, size(), time.Hour); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A file that is full leaves entries of its index where they are. The sweep finds what has expired all the same, and not
// before.
func TestSweepAfterFullDisk(t *testing.T) {
	disk := storetest.SmallDisk(t, "1m")
	path := filepath.Join(disk, "sessions")
	synctest.Test(t, func(t *testing.T) {
		store, err := session.NewFileStore(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		var ids []session.ID
		for _, size := range []int{5_000, 100} { // until not even a small one fits
			for err = nil; err == nil; {
				id := storetest.RandomID()
				rec := session.Record{Data: make([]byte, size), Expires: time.Now().Add(10 * time.Minute)}
				if err = store.Save(t.Context(), id, rec); err == nil {
					ids = append(ids, id)
				}
			}
		}
		storetest.FillDisk(t, disk)
		for i, id := range ids {
			rec := session.Record{Version: 1, Data: make([]byte, 60), Expires: time.Now().Add(time.Hour)}
			change := store.Save
			if i < len(ids)/2 {
				change = store.Touch
			}
			if err := change(t.Context(), id, rec); err != nil {
				t.Error(err)
			}
		}
		for _, step := range []struct{ after, swept, left int }{{0, 0, len(ids)}, {11, 0, len(ids)}, {50, len(ids), 0}} {
			time.Sleep(time.Duration(step.after) * time.Minute)
			if n, err := store.DeleteExpired(t.Context(), 1000); n != step.swept || err != nil {
				t.Errorf("%d records are swept after %d more minutes, want %d: %v", n, step.after, step.swept, err)
			}
			if n := recordCount(t, store); n != step.left {
				t.Errorf("%d of %d records are left", n, len(ids))
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	})
	updateBolt(t, path, func(tx *bbolt.Tx) error {
		for _, name := range []string{"session.records", "session.expiries"} {
			if k, _ := tx.Bucket([]byte(name)).Cursor().First(); k != nil {
				t.Errorf("%s holds %x", name, k)
			}
		}
		return nil
	})
}

// A logout, and the end of all sessions of a user, work on a full disk.
func TestLogoutOnFullDisk(t *testing.T) {
	for _, test := range []struct {
		scheme  string
		locking bool
	}{{"file", false}, {"file", true}, {"dir", false}, {"dir", true}} {
		t.Run(fmt.Sprintf("%s, locking %v", test.scheme, test.locking), func(t *testing.T) {
			disk := storetest.SmallDisk(t, "1m")
			store := openStore(t, test.scheme+"://"+filepath.Join(disk, "sessions"))
			m, err := session.New(store, secretOf('s'), &session.Options{Locking: test.locking, Logger: quiet, SweepInterval: session.Never, Cookie: session.Cookie{InsecureHTTP: true}})
			if err != nil {
				t.Fatal(err)
			}
			login := func(s *session.Session) { s.SetUser("ann") }
			var cookies []string
			for range 20 {
				cookies = append(cookies, client.Ask(t.Context(), m, "", login).Cookie)
			}
			for a := client.Ask(t.Context(), m, "", login); a.Status == http.StatusOK; a = client.Ask(t.Context(), m, "", login) {
				cookies = append(cookies, a.Cookie)
				storetest.FillDisk(t, disk)
			}
			storetest.LogoutsOnFullDisk(t, disk, m, "ann", cookies)
		})
	}
}

// A call that has returned outlives a loss of power: a copy of the device has it, of which the file system has not written back
// anything that nobody asked for.
func TestPowerLoss(t *testing.T) {
	for scheme, open := range map[string]func(path string) (session.StoreCloser, error){
		"file": func(path string) (session.StoreCloser, error) { return session.NewFileStore(path, nil) },
		"dir":  func(path string) (session.StoreCloser, error) { return session.NewDirStore(path, nil) },
	} {
		t.Run(scheme, func(t *testing.T) { storetest.PowerLoss(t, open) })
	}
}

func checkKept(t *testing.T, store session.Store, kept map[int]session.Record) {
	t.Helper()
	for n, want := range kept {
		if got, err := store.Load(t.Context(), storeID(n)); err != nil || !sameRecord(got, want) {
			t.Errorf("record %d has version %d and %d bytes, %v, want %d and %d",
				n, got.Version, len(got.Data), err, want.Version, len(want.Data))
		}
	}
	if n, err := session.CountRecords(t.Context(), store); n != len(kept) || err != nil {
		t.Errorf("Count = %d, %v, want %d", n, err, len(kept))
	}
}

// Where nothing can be written, reading goes on and every change is an error.
func TestStoreOnReadOnlyDisk(t *testing.T) {
	disk := storetest.SmallDisk(t, "1m")
	dir := filepath.Join(disk, "sessions")
	store := newDirStore(t, dir)
	rec := session.Record{Data: []byte("data")}
	if err := store.Save(t.Context(), storeID(1), rec); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mount", "-o", "remount,ro", disk).CombinedOutput(); err != nil {
		t.Skipf("a file system cannot be mounted anew: %v: %s", err, output)
	}
	rec.Version = 1
	for name, call := range map[string]func() error{
		"Save":     func() error { return store.Save(t.Context(), storeID(1), rec) },
		"Save new": func() error { return store.Save(t.Context(), storeID(2), session.Record{}) },
		"Touch":    func() error { return store.Touch(t.Context(), storeID(1), rec) },
		"Delete":   func() error { return store.Delete(t.Context(), storeID(1)) },
	} {
		if err := call(); err == nil || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := store.Load(t.Context(), storeID(1)); err != nil || !sameRecord(got, rec) {
		t.Errorf("Load = %+v, %v", got, err)
	}
	if stray := strayFiles(t, dir); len(stray) != 0 {
		t.Errorf("there are %v", stray)
	}
	if _, err := session.NewDirStore(filepath.Join(disk, "another"), nil); err == nil {
		t.Error("a directory was made")
	}
	if _, err := session.NewFileStore(filepath.Join(disk, "sessions.db"), nil); err == nil {
		t.Error("a file was made")
	}
}
