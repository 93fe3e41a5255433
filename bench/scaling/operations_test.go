package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/sessiontest"
)

// A countingStore counts what it is asked for.
type countingStore struct {
	session.Store
	mu sync.Mutex
	n  operations
}

func (s *countingStore) count(n *float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*n++
}

func (s *countingStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	s.count(&s.n.Load)
	return s.Store.Load(ctx, id)
}

func (s *countingStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	s.count(&s.n.Save)
	return s.Store.Save(ctx, id, rec)
}

func (s *countingStore) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	s.count(&s.n.Touch)
	return session.Touch(ctx, s.Store, id, rec)
}

// TestOperations wants each kind of request to ask the store for as much as the model has it.
func TestOperations(t *testing.T) {
	type use = func(*session.Session)
	login := func(s *session.Session) { s.SetUser("ann"); s.Set("cart", 1) }
	look := func(s *session.Session) { s.Get("cart") }
	begin := func(s *session.Session) { s.Set("cart", 1) }
	for _, test := range []struct {
		kind   string
		before use
		wait   time.Duration
		do     use
	}{
		{kindUnused, login, 0, nil},
		{kindRead, login, time.Second, look},
		{kindTouch, login, 100 * time.Second, look},
		{kindRenewal, login, 5 * time.Minute, look},
		{kindWrite, login, time.Second, func(s *session.Session) { s.Set("cart", 2) }},
		{kindNew, nil, 0, begin},
		{kindLogin, nil, 0, login},
		{kindLoginAgain, begin, time.Second, login},
		{kindLocked, login, time.Second, func(s *session.Session) {
			if err := s.Lock(context.Background()); err != nil {
				t.Error(err)
			}
		}},
		{kindLogout, login, time.Second, func(s *session.Session) { s.Destroy() }},
	} {
		t.Run(test.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &countingStore{Store: session.NewMemoryStore()}
				m, err := session.New(store, []byte("a secret of at least 32 bytes, for a test"), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				var do use
				c := sessiontest.NewClient(t, m, m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if do != nil {
						do(session.FromContext(r.Context()))
					}
				})))
				request := func(what use) {
					do = what
					c.Do(httptest.NewRequest(http.MethodGet, "/", nil))
				}
				request(test.before)
				time.Sleep(test.wait)
				store.n = operations{}
				request(test.do)
				if want := costs[test.kind]; store.n != want {
					t.Errorf("%+v, the model has %+v", store.n, want)
				}
			})
		})
	}
}

// TestOthers wants what the end of several sessions costs to be what SCALING.md says.
func TestOthers(t *testing.T) {
	for _, k := range []float64{1, 5} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testOthers(t, k) })
		})
	}
}

func testOthers(t *testing.T, k float64) {
	store := &countingStore{Store: session.NewMemoryStore()}
	m, err := session.New(store, []byte("a secret of at least 32 bytes, for a test"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range int(k) {
		sessiontest.NewClient(t, m, m.Handler(http.NotFoundHandler())).Session(func(s *session.Session) { s.SetUser("ann") })
	}
	time.Sleep(time.Second)
	store.n = operations{}
	if n, err := m.EndSessions(t.Context(), session.OfUser("ann")); n != int(k) || err != nil {
		t.Fatal(n, err)
	}
	if want := endOf(k); store.n != want {
		t.Errorf("%+v, want %+v", store.n, want)
	}
}
