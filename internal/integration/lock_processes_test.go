package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
)

// 64 requests in four processes read a number, wait, and write one more, without Update: under a lock none is lost.
func TestLockAmongProcesses(t *testing.T) {
	storetest.EachShared(t, storetest.Processes, func(t *testing.T, kind storetest.Kind) {
		place := kind.Place(t)
		m := newCrew(t, kind.OpenAt(t, place), 1, session.Options{})[0]
		cookie := beginCount(t, m)
		var all sync.WaitGroup
		for range 4 {
			child := storetest.Child(t, "lockers", "SESSION_TEST_KIND="+kind.Name, "SESSION_TEST_STORE="+place,
				"SESSION_TEST_COOKIE="+cookie)
			all.Go(func() {
				if output, err := child.Output(); err != nil || len(output) > 0 {
					t.Errorf("%v: %s", err, output)
				}
			})
		}
		all.Wait()
		wantCount(t, m, cookie, 64)
	})
}

// childLockers makes 16 requests at once that count under a lock; every other one takes it implicitly.
func childLockers() {
	managers, err := openLocking(0)
	if err != nil {
		fmt.Println(err)
		return
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			a := client.Ask(context.Background(), managers[i%2], os.Getenv("SESSION_TEST_COOKIE"), func(s *session.Session) {
				if i%2 == 0 {
					s.Lock(context.Background())
				}
				n := hitCounter.GetOr(s, 0)
				time.Sleep(time.Millisecond)
				hitCounter.Set(s, n+1)
			})
			if a.Status != http.StatusOK {
				fmt.Println(a)
			}
		})
	}
	all.Wait()
}

// openLocking returns managers on the store that the environment names: one that locks when it is asked to, and one
// that always does. lease is Options.LockLease.
func openLocking(lease time.Duration) ([2]*session.Manager, error) {
	var managers [2]*session.Manager
	store, err := openKind(context.Background())
	for i := range managers {
		if err == nil {
			managers[i], err = session.New(store, secretOf('s'), &session.Options{
				Locking: i == 1, LockLease: lease, LockWait: 10 * time.Minute, StoreTimeout: time.Minute,
				SweepInterval: session.Never, Logger: quiet, TokenHeader: client.Header,
			})
		}
	}
	return managers, err
}

// A holder that is killed delays the others until its lease ends, and no longer. Changes that it did not save are not there.
func TestLockHolderKilled(t *testing.T) {
	storetest.EachShared(t, storetest.Processes, func(t *testing.T, kind storetest.Kind) {
		place := kind.Place(t)
		m := newCrew(t, kind.OpenAt(t, place), 1, session.Options{LockWait: 10 * time.Minute})[0]
		cookie := beginCount(t, m)
		holder := startHolder(t, kind, place, cookie)
		if err := holder.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if a := countLocked(t.Context(), m, cookie, nil); a.Status != http.StatusOK {
					t.Errorf("a request after the holder died: %v", a)
				}
			})
		}
		all.Wait()
		wantCount(t, m, cookie, 4)
	})
}

// countLocked counts one more, under a lock, and calls meanwhile before it does.
func countLocked(ctx context.Context, m *session.Manager, cookie string, meanwhile func()) client.Answer {
	return client.Ask(ctx, m, cookie, func(s *session.Session) {
		s.Lock(ctx)
		n := hitCounter.GetOr(s, 0)
		if meanwhile != nil {
			meanwhile()
		}
		hitCounter.Set(s, n+1)
	})
}

// beginCount returns the cookie, or the token for the header, of a session that has counted to nothing.
func beginCount(t *testing.T, m *session.Manager) string {
	t.Helper()
	blank := []string{"", client.Native}[rand.IntN(2)]
	a := client.Ask(t.Context(), m, blank, func(s *session.Session) { hitCounter.Set(s, 0) })
	if a.Cookie == "" {
		t.Fatalf("a new session: %v", a)
	}
	return a.Cookie
}

func wantCount(t *testing.T, m *session.Manager, cookie string, want int) {
	t.Helper()
	client.Ask(t.Context(), m, cookie, func(s *session.Session) {
		if err := s.Reload(t.Context()); err != nil { // past a cache
			t.Error(err)
		}
		if n := hitCounter.GetOr(s, -1); n != want {
			t.Errorf("the session has counted to %d, want %d", n, want)
		}
	})
}

// A lockHolder is a process that holds the locks of sessions until its input ends.
type lockHolder struct {
	cmd    *exec.Cmd
	input  io.Closer
	output *bufio.Reader
}

// startHolder returns when the process has the locks.
func startHolder(t *testing.T, kind storetest.Kind, place string, cookies ...string) *lockHolder {
	t.Helper()
	h := &lockHolder{cmd: storetest.Child(t, "holder", "SESSION_TEST_KIND="+kind.Name, "SESSION_TEST_STORE="+place,
		"SESSION_TEST_COOKIE="+strings.Join(cookies, " "))}
	input, err1 := h.cmd.StdinPipe()
	output, err2 := h.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, h.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		h.cmd.Wait()
	})
	h.input, h.output = input, bufio.NewReader(output)
	for range cookies {
		if line, err := h.output.ReadString('\n'); line != "locked\n" {
			t.Fatalf("the holder says %q, %v", line, err)
		}
	}
	return h
}

// childHolder locks the sessions of the cookies, waits for its input to end, counts, and prints the answers.
func childHolder() {
	ctx := context.Background()
	managers, err := openLocking(500 * time.Millisecond)
	if err != nil {
		fmt.Println(err)
		return
	}
	goOn := make(chan struct{})
	var all sync.WaitGroup
	for _, cookie := range strings.Fields(os.Getenv("SESSION_TEST_COOKIE")) {
		all.Go(func() {
			a := countLocked(ctx, managers[0], cookie, func() {
				fmt.Println("locked")
				<-goOn
			})
			fmt.Println(a.Status)
		})
	}
	io.Copy(io.Discard, os.Stdin)
	close(goOn)
	all.Wait()
}
