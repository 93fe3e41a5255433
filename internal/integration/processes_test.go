package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/storetest"
)

// childVisits works on the session of the cookie in the environment: 16 keys of its own, and 400 hits, by 16
// requests at a time.
func childVisits() {
	store, err := openKind(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	m, err := session.New(store, secretOf('s'), &session.Options{SweepInterval: session.Never, StoreTimeout: time.Minute, TokenHeader: client.Header})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	process, _ := strconv.Atoi(os.Getenv("SESSION_TEST_PROCESS"))
	visit := func(fn func(*session.Session)) {
		if a := client.Ask(context.Background(), m, os.Getenv("SESSION_TEST_COOKIE"), fn); a.Status != http.StatusOK {
			fmt.Println(a)
		}
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			visit(func(s *session.Session) { s.Set(fmt.Sprintf("key %d", 16*process+i), true) })
			for range 25 {
				visit(func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) })
			}
		})
	}
	all.Wait()
}

// Four processes, with sixteen requests each at a time, work on one session in files that they share: all 64 keys are
// there, and each of the 1,600 hits counts.
func TestProcesses(t *testing.T) {
	storetest.EachLocal(t, storetest.Processes, func(t *testing.T, kind storetest.Kind) {
		place := kind.Place(t)
		m := newManager(t, kind.OpenAt(t, place), session.Options{})
		cookie := beginCount(t, m)
		var all sync.WaitGroup
		for process := range 4 {
			child := storetest.Child(t, "visits", "SESSION_TEST_KIND="+kind.Name, "SESSION_TEST_STORE="+place,
				"SESSION_TEST_COOKIE="+cookie, "SESSION_TEST_PROCESS="+strconv.Itoa(process))
			all.Go(func() {
				if out, err := child.Output(); err != nil || len(out) > 0 {
					t.Errorf("process %d: %v %s", process, err, out)
				}
			})
		}
		all.Wait()
		client.Ask(t.Context(), m, cookie, func(s *session.Session) {
			if hits, _ := hitCounter.Get(s); s.Len() != 65 || hits != 1600 {
				t.Errorf("there are %d keys and %d hits", s.Len()-1, hits)
			}
		})
	})
}
