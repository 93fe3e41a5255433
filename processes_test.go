package session_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/session"
)

// processManager returns the manager that all processes of TestProcesses use.
func processManager(dir string) (*session.Manager, session.Store, error) {
	store, err := session.NewDirStore(dir, &session.DirOptions{NoSync: true})
	if err != nil {
		return nil, nil, err
	}
	m, err := session.New(store, []byte(strings.Repeat("s", 32)), &session.Options{SweepInterval: session.Never})
	return m, store, err
}

// childVisits works on the session of the cookie in the environment: 16 keys of its own, and 400 hits, by 16
// requests at a time.
func childVisits() {
	m, store, err := processManager(os.Getenv("SESSION_TEST_DIR"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer session.Close(store)
	defer m.Close()
	process, _ := strconv.Atoi(os.Getenv("SESSION_TEST_PROCESS"))
	visit := func(fn func(*session.Session)) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: "session_id", Value: os.Getenv("SESSION_TEST_COOKIE")})
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			fn(session.FromContext(r.Context()))
		})).ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			fmt.Println("status", w.Code)
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

// Four processes, with sixteen requests each at a time, work on one session in one directory: all 64 keys are there,
// and each of the 1,600 hits counts.
func TestProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	m, store, err := processManager(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	defer m.Close()
	v := &visitor{t: t, store: store, m: m}
	v.visit(func(s *session.Session) { hitCounter.Set(s, 0) })
	var all sync.WaitGroup
	for process := range 4 {
		child := childCommand(t, "visits", "SESSION_TEST_DIR="+dir, "SESSION_TEST_COOKIE="+v.cookie.Value,
			"SESSION_TEST_PROCESS="+strconv.Itoa(process))
		all.Go(func() {
			if out, err := child.Output(); err != nil || len(out) > 0 {
				t.Errorf("process %d: %v %s", process, err, out)
			}
		})
	}
	all.Wait()
	v.visit(func(s *session.Session) {
		if hits, _ := hitCounter.Get(s); s.Len() != 65 || hits != 1600 {
			t.Errorf("there are %d keys and %d hits", s.Len()-1, hits)
		}
	})
}
