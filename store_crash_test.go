package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"example.com/session"
)

// increment adds one to the number that a record holds, by compare-and-swap.
func increment(ctx context.Context, store session.Store, id session.ID) error {
	for {
		rec, err := store.Load(ctx, id)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(rec.Data))
		rec.Data = strconv.AppendInt(nil, int64(n+1), 10)
		if err := store.Save(ctx, id, rec); !errors.Is(err, session.ErrConflict) {
			return err
		}
	}
}

const incrementRounds = 50

// childIncrement increments one record with two goroutines, as fast as it can.
func childIncrement() {
	ctx := context.Background()
	store, err := session.Open(ctx, os.Getenv("SESSION_TEST_STORE"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer session.Close(store)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range incrementRounds {
				if err := increment(ctx, store, storeID(1)); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDirStoreSeveralProcesses(t *testing.T) {
	const processes = 4
	dir := filepath.Join(t.TempDir(), "sessions")
	var wg sync.WaitGroup
	for range processes {
		cmd := childCommand(t, "increment", "SESSION_TEST_STORE=dir://"+dir)
		wg.Go(func() {
			if output, err := cmd.Output(); err != nil || len(output) > 0 {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
	wg.Wait()
	rec, err := newDirStore(t, dir).Load(t.Context(), storeID(1))
	want := processes * 2 * incrementRounds
	if err != nil || rec.Version != uint64(want) || string(rec.Data) != fmt.Sprint(want) {
		t.Errorf("the counter is %s, version %d, %v, want %d", rec.Data, rec.Version, err, want)
	}
}

// The writers of the crash test, and the records that each of them goes round.
const crashWriters, crashRecords = 4, 4

var crashEpoch = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// crashRecord returns what the n-th record holds as that version, so that every byte can be checked.
func crashRecord(n int, version uint64) session.Record {
	rng := rand.New(rand.NewPCG(uint64(n), version))
	size := rng.IntN(2000)
	if rng.IntN(8) == 0 {
		size = rng.IntN(100_000)
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return session.Record{Version: version, Expires: crashEpoch.Add(time.Duration(version) * time.Minute), Data: data}
}

// crashTouched is the expiry that the record has after its version was touched.
func crashTouched(version uint64) time.Time {
	return crashEpoch.Add(time.Duration(version)*time.Minute + time.Second)
}

// childWrite saves and touches records until it is killed. It prints a line for each call that has returned:
// the record's number and version, and whether it was touched.
func childWrite() {
	ctx := context.Background()
	store, err := session.Open(ctx, os.Getenv("SESSION_TEST_STORE"))
	if err != nil {
		fmt.Println(err)
		return
	}
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				n := w*crashRecords + i%crashRecords
				if err := crashStep(ctx, store, n); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func crashStep(ctx context.Context, store session.Store, n int) error {
	rec, err := store.Load(ctx, storeID(n))
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	next := crashRecord(n, rec.Version+1)
	next.Version--
	if err := store.Save(ctx, storeID(n), next); err != nil {
		return err
	}
	next.Version++
	if fmt.Println(n, next.Version, 0); next.Version%3 != 0 {
		return nil
	}
	next.Expires = crashTouched(next.Version)
	if err := session.Touch(ctx, store, storeID(n), next); err != nil {
		return err
	}
	fmt.Println(n, next.Version, 1)
	return nil
}

// An acknowledgement is what a writer has said about a record.
type acknowledgement struct {
	version uint64
	touched int
}

// killWriter lets a writer work until it has acknowledged a number of calls, kills it, and adds to acks.
func killWriter(t *testing.T, url string, calls int, acks map[int]acknowledgement) {
	t.Helper()
	cmd := childCommand(t, "write", "SESSION_TEST_STORE="+url)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	for i := 0; ; i++ {
		if i == calls {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			break // and what was cut is no acknowledgement
		}
		var n int
		var a acknowledgement
		if _, err := fmt.Sscan(line, &n, &a.version, &a.touched); err != nil {
			t.Fatalf("the writer says: %s", line)
		}
		acks[n] = a
	}
	cmd.Wait()
}

// A process is killed at any moment, again and again: what it has acknowledged is there, nothing is half written.
func TestStoreSurvivesKill(t *testing.T) {
	for _, scheme := range []string{"file", "dir"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "sessions")
			url := scheme + "://" + path
			acks := make(map[int]acknowledgement)
			for range 100 {
				killWriter(t, url, rand.IntN(40), acks)
				store, err := session.Open(t.Context(), url)
				if err != nil {
					t.Fatal(err)
				}
				for n := range crashWriters * crashRecords {
					checkCrashed(t, store, n, acks)
				}
				if err := session.Close(store); err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					return
				}
			}
			if len(acks) != crashWriters*crashRecords {
				t.Errorf("only %d records were ever written", len(acks))
			}
			if scheme == "dir" {
				if stray := strayFiles(t, path); len(stray) > 100*crashWriters {
					t.Errorf("%d kills left %d files behind", 100, len(stray))
				}
			}
		})
	}
}

// checkCrashed checks that the n-th record is as it was acknowledged, or as the next call would have left it, and
// notes what it is.
func checkCrashed(t *testing.T, store session.Store, n int, acks map[int]acknowledgement) {
	t.Helper()
	ack := acks[n]
	rec, err := store.Load(t.Context(), storeID(n))
	if errors.Is(err, session.ErrNotFound) && ack.version == 0 {
		return
	}
	if err != nil {
		t.Fatalf("record %d, acknowledged %+v: %v", n, ack, err)
	}
	want := crashRecord(n, rec.Version)
	touched := rec.Expires.Equal(crashTouched(rec.Version))
	switch {
	case rec.Version != ack.version && rec.Version != ack.version+1:
		t.Errorf("record %d has version %d, acknowledged %+v", n, rec.Version, ack)
	case rec.Version == ack.version && ack.touched == 1 && !touched:
		t.Errorf("record %d expires at %v, acknowledged %+v", n, rec.Expires, ack)
	case !touched && !rec.Expires.Equal(want.Expires):
		t.Errorf("record %d of version %d expires at %v", n, rec.Version, rec.Expires)
	case !bytes.Equal(rec.Data, want.Data):
		t.Errorf("record %d of version %d has other data", n, rec.Version)
	}
	acks[n] = acknowledgement{version: rec.Version}
	if touched {
		acks[n] = acknowledgement{rec.Version, 1}
	}
}

// mountSmall returns a file system of one megabyte. It skips the test where none can be mounted.
func mountSmall(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", dir)
	if output, err := mount.CombinedOutput(); err != nil {
		t.Skipf("a small file system cannot be mounted: %v: %s", err, output)
	}
	t.Cleanup(func() {
		if output, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, output)
		}
	})
	return dir
}

// A full disk makes Save fail, and costs no record. When there is room again, the store works again.
func TestStoreOnFullDisk(t *testing.T) {
	for _, scheme := range []string{"file", "dir"} {
		t.Run(scheme, func(t *testing.T) {
			disk := mountSmall(t)
			path := filepath.Join(disk, "sessions")
			store, err := session.Open(t.Context(), scheme+"://"+path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { session.Close(store) })
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
			if err := session.Close(store); err != nil {
				t.Fatal(err)
			}
			if store, err = session.Open(t.Context(), scheme+"://"+path); err != nil {
				t.Fatal(err)
			}
			checkKept(t, store, kept)
		})
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
	if n, err := session.Count(t.Context(), store); n != len(kept) || err != nil {
		t.Errorf("Count = %d, %v, want %d", n, err, len(kept))
	}
}

// Where nothing can be written, reading goes on and every change is an error.
func TestStoreOnReadOnlyDisk(t *testing.T) {
	disk := mountSmall(t)
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
