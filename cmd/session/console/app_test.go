package console

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"golang.org/x/time/rate"
)

// A movingApp is an application at a real port with clients who know what their sessions have to hold. Requests can be
// held up, as by a proxy.
type movingApp struct {
	t       *testing.T
	encrypt bool
	server  *httptest.Server
	gate    sync.RWMutex // held up while it is locked
	store   session.StoreCloser
	manager *session.Manager
	handler http.Handler
	clients []*mover

	requests, renewals, logouts atomic.Int64
}

// A mover is a client. Its session is used by one request at a time.
type mover struct {
	cookie string
	visits int
	user   string
	out    bool // has logged out; the cookie is kept, and must be worth nothing
}

const visits session.Key[int] = "visits"

func newMovingApp(t *testing.T, rawURL string, encrypt bool) *movingApp {
	a := &movingApp{t: t, encrypt: encrypt}
	a.start(rawURL)
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.gate.RLock()
		defer a.gate.RUnlock()
		a.handler.ServeHTTP(w, r)
	}))
	a.server.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 100
	t.Cleanup(a.server.Close)
	return a
}

// start starts the application on a store.
func (a *movingApp) start(rawURL string) {
	a.t.Helper()
	a.store = openTest(a.t, rawURL)
	a.manager = newApp(a.t, a.store, session.Options{
		EncryptAtRest: a.encrypt,
		Cookie:        session.Cookie{InsecureHTTP: true},
		IdleTimeout:   6 * time.Hour,
		RenewInterval: time.Second,
		StoreTimeout:  time.Minute,
		Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventRenewed {
				a.renewals.Add(1)
			}
		},
	})
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(s *session.Session, r *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			fn(s, r)
			fmt.Fprintf(w, "%d %s", visits.GetOr(s, 0), s.User())
		})
	}
	handle("/visit", func(s *session.Session, _ *http.Request) { visits.Update(s, func(n int) int { return n + 1 }) })
	handle("/read", func(*session.Session, *http.Request) {})
	handle("/login", func(s *session.Session, r *http.Request) { s.SetUser(r.FormValue("user")) })
	handle("/logout", func(s *session.Session, _ *http.Request) { s.Destroy() })
	a.handler = a.manager.Handler(mux)
}

// hold waits for the requests under way, holds up further ones, and stops the application.
func (a *movingApp) hold() {
	a.gate.Lock()
	a.manager.Close()
	if err := a.store.Close(); err != nil {
		a.t.Error(err)
	}
}

// goOn lets the requests in again.
func (a *movingApp) goOn() { a.gate.Unlock() }

// seed gives n clients a session each, every third with a user.
func (a *movingApp) seed(n int) {
	a.clients = make([]*mover, n)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				c := new(mover)
				a.clients[i] = c
				r := httptest.NewRequest(http.MethodGet, "/visit", nil)
				w := httptest.NewRecorder()
				a.manager.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					s := session.FromContext(r.Context())
					visits.Set(s, 1)
					s.Set("padding", strings.Repeat("x", i%300))
					if i%3 == 0 {
						c.user = fmt.Sprintf("user%d", i%(n/2+1))
						s.SetUser(c.user)
					}
					if err := s.Save(r.Context()); err != nil {
						a.t.Error(err)
					}
				})).ServeHTTP(w, r)
				c.visits = 1
				c.takeCookie(w.Result())
			}
		})
	}
	wg.Wait()
}

func (c *mover) takeCookie(res *http.Response) bool {
	for _, cookie := range res.Cookies() {
		if cookie.MaxAge >= 0 {
			c.cookie = cookie.Value
			return true
		}
	}
	return false
}

// send sends a request of a client and returns the answer. Not one of them may fail.
func (a *movingApp) send(c *mover, path string) string {
	r, err := http.NewRequest(http.MethodGet, a.server.URL+path, nil)
	if err != nil {
		a.t.Error(err)
		return ""
	}
	r.AddCookie(&http.Cookie{Name: "session_id", Value: c.cookie})
	res, err := a.server.Client().Do(r)
	if err != nil {
		a.t.Error(err)
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		a.t.Errorf("%s: %s, %v: %s", path, res.Status, err, body)
	}
	c.takeCookie(res)
	a.requests.Add(1)
	return string(body)
}

// work has clients send requests until stop is called, and what they get is checked.
func (a *movingApp) work() (stop func()) {
	const workers = 4
	pace := rate.NewLimiter(300, 1) // as many as leave the machine to copy
	ctx, cancel := context.WithCancel(a.t.Context())
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			// Most requests come from a few, so that some sessions see many.
			for {
				if pace.Wait(ctx) != nil {
					return
				}
				span := len(a.clients)
				if random.IntN(3) > 0 {
					span = min(span, 100)
				}
				i := random.IntN(span)/workers*workers + worker
				if i >= len(a.clients) || a.clients[i].out {
					continue
				}
				a.step(a.clients[i], random)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	a.t.Cleanup(stop)
	return stop
}

// step is one request of a client's.
func (a *movingApp) step(c *mover, random *rand.Rand) {
	switch n := random.IntN(100); {
	case n < 60:
		if got, want := a.send(c, "/visit"), fmt.Sprintf("%d %s", c.visits+1, c.user); got != want {
			a.t.Errorf("a visit gets %q, want %q", got, want)
		}
		c.visits++
	case n < 90:
		a.wantState(c)
	case n < 98:
		c.user = fmt.Sprintf("user%d", random.IntN(len(a.clients)))
		if got, want := a.send(c, "/login?user="+c.user), fmt.Sprintf("%d %s", c.visits, c.user); got != want {
			a.t.Errorf("a login gets %q, want %q", got, want)
		}
	case a.halfOut():
		a.wantState(c)
	default:
		a.send(c, "/logout")
		c.out = true
		a.logouts.Add(1)
	}
}

// halfOut reports whether half of the clients have logged out. The others stay, however long a test takes.
func (a *movingApp) halfOut() bool { return int(a.logouts.Load()) >= len(a.clients)/2 }

// wantState checks that a client's session is what it was, or nothing if the client has logged out.
func (a *movingApp) wantState(c *mover) {
	want := fmt.Sprintf("%d %s", c.visits, c.user)
	if c.out {
		want = "0 "
	}
	if got := a.send(c, "/read"); got != want {
		a.t.Errorf("a session is %q, want %q (logged out: %v)", got, want, c.out)
	}
}

// verify checks the sessions of all clients.
func (a *movingApp) verify() {
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < len(a.clients); i += 8 {
				a.wantState(a.clients[i])
			}
		})
	}
	wg.Wait()
}

// await waits until something has come true while the clients work, and stops if the test has failed.
func (a *movingApp) await(cond func() bool) {
	a.t.Helper()
	for !cond() {
		if a.t.Failed() || a.t.Context().Err() != nil {
			a.t.FailNow()
		}
		time.Sleep(10 * time.Millisecond) // between two looks: clients do not tell
	}
}

// busy returns a condition that comes true when there have been some more requests, renewals and logouts.
func (a *movingApp) busy() func() bool {
	requests, renewals, logouts := a.requests.Load(), a.renewals.Load(), a.logouts.Load()
	return func() bool {
		return a.requests.Load() > requests+100 && a.renewals.Load() > renewals+5 &&
			(a.logouts.Load() > logouts || a.halfOut())
	}
}
