package faults

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
)

const (
	secret = "the secret of an application that is under test"
	// counter is a text that is in each request to the server that saves the counter, and in no other.
	counter                  = "number-of-hits"
	hits    session.Key[int] = counter

	// storeTimeout is Options.StoreTimeout where a request is to fail, and the test waits for it.
	storeTimeout = time.Second
	// longTimeout is Options.StoreTimeout where a request is to succeed, however busy the machine is.
	longTimeout = time.Minute
	// patience is what a request that fails may take beyond the timeout, by processTime.
	patience = time.Second
	// recovery is what a request that succeeds may take, by processTime: the default of Options.StoreTimeout.
	recovery = 5 * time.Second
)

var (
	// logHandler is where the log of all applications goes.
	logHandler slog.Handler = slog.DiscardHandler
	// processTime is the clock that measures requests.
	processTime clock
)

// An app is a web application with its own connections to the store. It has two managers, which share them.
type app struct {
	tb      testing.TB
	store   session.StoreCloser
	patient *service
	hurried *service
	between func() // called by /between, after the session was read and before it is written
}

// A service is a manager with the application's handlers.
type service struct {
	timeout time.Duration // Options.StoreTimeout
	manager *session.Manager
	handler http.Handler
}

// openApp returns an application that uses the store under the URL. It is closed when tb ends, or by close.
func openApp(tb testing.TB, rawURL string) *app {
	tb.Helper()
	store, err := session.Open(tb.Context(), rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	a := &app{tb: tb, store: store}
	tb.Cleanup(a.close)
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "plain") })
	mux.HandleFunc("/get/{key}", a.get)
	mux.HandleFunc("/set/{key}/{value}", a.set)
	mux.HandleFunc("/between/{key}/{value}", a.set)
	mux.HandleFunc("/hit", a.hit)
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Destroy()
	})
	a.patient = a.serve(mux, longTimeout)
	a.hurried = a.serve(mux, storeTimeout)
	return a
}

func (a *app) serve(mux *http.ServeMux, timeout time.Duration) *service {
	a.tb.Helper()
	m, err := session.New(a.store, []byte(secret), &session.Options{
		StoreTimeout: timeout,
		Logger:       slog.New(logHandler),
	})
	if err != nil {
		a.tb.Fatal(err)
	}
	return &service{timeout: timeout, manager: m, handler: m.Handler(mux)}
}

// close closes the application; more than once does no harm.
func (a *app) close() {
	if a.store == nil {
		return
	}
	for _, s := range []*service{a.patient, a.hurried} {
		if s != nil {
			s.manager.Close()
		}
	}
	if err := a.store.Close(); err != nil {
		a.tb.Errorf("closing the store: %v", err)
	}
	a.store = nil
}

// unknown is what /get answers to a client that has no session.
const unknown = "(new session)"

func (a *app) get(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	value, _ := session.Key[string](r.PathValue("key")).Get(s)
	if s.IsNew() {
		value = unknown
	}
	io.WriteString(w, value)
}

func (a *app) set(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if strings.HasPrefix(r.URL.Path, "/between/") {
		s.Len() // loads it
		a.between()
	}
	session.Key[string](r.PathValue("key")).Set(s, r.PathValue("value"))
	io.WriteString(w, "set")
}

func (a *app) hit(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, hits.Update(session.FromContext(r.Context()), func(n int) int { return n + 1 }))
}

// A client is a browser, which can send several requests at a time.
type client struct {
	app *app

	mu     sync.Mutex
	cookie string
}

// A result is a response.
type result struct {
	path    string
	status  int
	body    string
	cookies []string      // Set-Cookie lines
	took    time.Duration // by processTime
	elapsed time.Duration // by the machine's clock
}

func (r result) String() string {
	return fmt.Sprintf("%s: %d %q, Set-Cookie %q, after %v, less the time in which the process was held up: %v",
		r.path, r.status, r.body, r.cookies, r.elapsed, r.took)
}

// do sends a request that is to succeed.
func (c *client) do(path string) result { return c.send(c.app.patient, path) }

func (c *client) send(s *service, path string) result {
	req := httptest.NewRequest(http.MethodGet, "https://example.com"+path, nil)
	c.mu.Lock()
	if c.cookie != "" {
		req.Header.Set("Cookie", c.cookie)
	}
	c.mu.Unlock()
	rec := httptest.NewRecorder()
	began, beganAt := processTime.now(), time.Now()
	s.handler.ServeHTTP(rec, req)
	res := result{
		path: path, status: rec.Code, body: rec.Body.String(), cookies: rec.Header().Values("Set-Cookie"),
		took: processTime.now() - began, elapsed: time.Since(beganAt),
	}
	for _, cookie := range rec.Result().Cookies() {
		c.mu.Lock()
		c.cookie = cookie.Name + "=" + cookie.Value
		if cookie.MaxAge < 0 {
			c.cookie = ""
		}
		c.mu.Unlock()
	}
	return res
}

// want sends a request that has to be answered with 200 and that body.
func (c *client) want(path, body string) {
	c.app.tb.Helper()
	if res := c.do(path); res.status != http.StatusOK || res.body != body || res.took > recovery {
		c.app.tb.Errorf("%v; want 200 %q within %v", res, body, recovery)
	}
}

// wantFailure sends a request that has to fail as one has to whose session cannot be read or saved. Each step of it
// may take the timeout: to load the session is one, to save it another.
func (c *client) wantFailure(path string, steps int) {
	c.app.tb.Helper()
	c.app.checkFailure(c.send(c.app.hurried, path), time.Duration(steps)*storeTimeout+patience)
}

// checkFailure checks the answer to a request whose session could not be read or saved.
func (a *app) checkFailure(res result, limit time.Duration) {
	a.tb.Helper()
	if res.status != http.StatusServiceUnavailable || len(res.cookies) > 0 || res.took > limit {
		a.tb.Errorf("%v; want 503 without a cookie within %v", res, limit)
	}
}

// login returns a client that has a session with user=name in it.
func (a *app) login(name string) *client {
	a.tb.Helper()
	c := &client{app: a}
	c.want("/set/user/"+name, "set")
	if c.cookie == "" {
		a.tb.Fatal("a login set no cookie")
	}
	return c
}

// all runs the functions at the same time.
func all(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
