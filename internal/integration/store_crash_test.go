package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/storetest"
)

// storeID returns the ID of the n-th record of a test.
func storeID(n int) (id session.ID) {
	id[0], id[1] = byte(n>>8), byte(n)
	return id
}

// openURL returns the store that a URL stands for.
func openURL(t *testing.T, url string) session.Store {
	t.Helper()
	return storetest.Closed(t)(session.Open(t.Context(), url))
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
	defer store.Close()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range incrementRounds {
				if err := storetest.Increment(ctx, store, storeID(1)); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Four processes add to one record, as fast as they can.
func TestStoreSeveralProcesses(t *testing.T) {
	const processes = 4
	storetest.EachLocal(t, storetest.Processes, func(t *testing.T, kind storetest.Kind) {
		url := kind.Scheme + "://" + kind.Place(t)
		var wg sync.WaitGroup
		for range processes {
			cmd := storetest.Child(t, "increment", "SESSION_TEST_STORE="+url)
			wg.Go(func() {
				if output, err := cmd.Output(); err != nil || len(output) > 0 {
					t.Errorf("%v: %s", err, output)
				}
			})
		}
		wg.Wait()
		rec, err := openURL(t, url).Load(t.Context(), storeID(1))
		want := processes * 2 * incrementRounds
		if err != nil || rec.Version != uint64(want) || string(rec.Data) != fmt.Sprint(want) {
			t.Errorf("the counter is %s, version %d, %v, want %d", rec.Data, rec.Version, err, want)
		}
	})
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
	cmd := storetest.Child(t, "write", "SESSION_TEST_STORE="+url)
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
	const kills = 200
	storetest.EachLocal(t, storetest.OneProcess, func(t *testing.T, kind storetest.Kind) {
		t.Parallel()
		path := kind.Place(t)
		url := kind.Scheme + "://" + path
		acks := make(map[int]acknowledgement)
		for range kills {
			killWriter(t, url, rand.IntN(40), acks)
			store, err := session.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			for n := range crashWriters * crashRecords {
				checkCrashed(t, store, n, acks)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if t.Failed() {
				return
			}
		}
		if len(acks) != crashWriters*crashRecords {
			t.Errorf("only %d records were ever written", len(acks))
		}
		if kind.Name == "dir" {
			stray, err := filepath.Glob(filepath.Join(path, "*"))
			stray = slices.DeleteFunc(stray, func(name string) bool { return strings.HasSuffix(name, ".session") })
			if err != nil || len(stray) > kills*crashWriters {
				t.Errorf("%d kills left %d files behind, %v", kills, len(stray), err)
			}
		}
	})
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

// childOpen opens a store in another process, and prints the error.
func childOpen() {
	store, err := session.Open(context.Background(), os.Getenv("SESSION_TEST_STORE"))
	fmt.Printf("%v", err)
	if err == nil {
		store.Close()
	}
}

func TestFileStoreIsForOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	store, err := session.NewFileStore(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	_, err = session.NewFileStore(path, nil)
	if err == nil {
		t.Fatal("a file is open twice")
	}
	output, cerr := storetest.Child(t, "open", "SESSION_TEST_STORE=file://"+path).Output()
	if cerr != nil {
		t.Fatal(cerr)
	}
	for _, text := range []string{err.Error(), string(output)} {
		if !strings.HasPrefix(text, "session: ") || !strings.Contains(text, "dir:") {
			t.Errorf("the error does not name dir: %s", text)
		}
	}
	if err := store.Save(t.Context(), storeID(1), session.Record{}); err != nil {
		t.Errorf("the first store: %v", err)
	}
	store.Close()
	openURL(t, "file://"+path)
}
