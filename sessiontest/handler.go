package sessiontest

import (
	"crypto/rand"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"

	"example.com/session"
)

// NewManager returns a manager for a test: its sessions are in memory, its secret is random, what it logs goes to the
// test's output unless opts.Logger says otherwise, and it is closed when the test ends. All else is as opts has it,
// which may be nil, but for SweepInterval: 0 means Never. It may be made in a bubble of testing/synctest, where a
// time.Sleep of the test's makes sessions expire and cookies get old.
func NewManager(t testing.TB, opts *session.Options) *session.Manager {
	t.Helper()
	var o session.Options
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if o.SweepInterval == 0 {
		o.SweepInterval = session.Never
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	m, err := session.New(session.NewMemoryStore(), secret, &o)
	if err != nil {
		t.Fatalf("sessiontest: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// A Client sends requests to an application under test, without a network, the way one browser does: cookies stay with
// it from one response to the next request, the session's among them. The test sees to what is in the session before a
// request, and looks at what is in it afterwards, and need not care for cookies, secrets or a store. Two clients of one
// application are two browsers, or two devices of a user.
//
// A Client is safe for concurrent use, so that requests of one browser can meet. But Session, Set and Values may end
// the test, and so belong on the goroutine that runs it; Do and RoundTrip never do.
type Client struct {
	// Header is what requests have that do not say otherwise, such as the User-Agent of this device. RemoteAddr, if
	// not empty, is where all of them come from, as host:port. They are set before the first request.
	Header     http.Header
	RemoteAddr string
	// TokenHeader, if not empty, makes the client one that keeps its token by hand: the name of Options.TokenHeader. It sends
	// that header with each request, and no session cookie.
	TokenHeader string

	t       testing.TB
	manager *session.Manager
	handler http.Handler
	jar     http.CookieJar

	mu    sync.Mutex
	paths []string // for which cookies were set
	token string
}

// NewClient returns a client without any cookie. handler is what the program serves, with m.Handler in it or around it;
// m is the application's own, or one of NewManager.
func NewClient(t testing.TB, m *session.Manager, handler http.Handler) *Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatalf("sessiontest: %v", err)
	}
	return &Client{Header: make(http.Header), t: t, manager: m, handler: handler, jar: jar, paths: []string{"/"}}
}

// Do sends r, as httptest.NewRequest returns it, to the handler, and returns the response, whose body need not be
// closed. r itself is not changed. The client's cookies are added to those of r. All requests count as sent to
// the same host, over TLS, whatever r says, and redirects are not followed. A panic of the handler goes on up.
func (c *Client) Do(r *http.Request) *http.Response {
	return c.send(c.handler, r, c.jar.Cookies(at(r.URL.Path)))
}

// RoundTrip makes the client the Transport of an http.Client, which follows redirects and has methods such as PostForm.
// It is Do for the requests of that, and never returns an error. Cookies stay with c; the http.Client needs no Jar.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	return c.Do(r), nil
}

// Session calls use with the session that the client's next request will find, and saves what use does to it: to set
// the scene for that request, or to see what the last one has left. It counts as a request of its own, and ends the test
// if the session cannot be loaded or saved.
func (c *Client) Session(use func(s *session.Session)) {
	c.t.Helper()
	var err error
	c.send(c.manager.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := c.manager.FromContext(r.Context())
		use(s)
		err = s.Save(r.Context())
	})), httptest.NewRequest(http.MethodGet, "/", nil), c.cookies())
	if err != nil {
		c.t.Fatalf("sessiontest: %v", err)
	}
}

// Set stores the values in the session, and begins one if there is none. It ends the test if that fails.
func (c *Client) Set(values map[string]any) {
	c.t.Helper()
	c.Session(func(s *session.Session) { s.SetAll(values) })
}

// Values returns what is in the session, in the form that session.Session.Get returns; nothing if there is no
// session. The map is the caller's. Values ends the test if the session cannot be loaded.
func (c *Client) Values() map[string]any {
	c.t.Helper()
	var values map[string]any
	c.Session(func(s *session.Session) { values = maps.Collect(s.All()) })
	return values
}

// send sends a copy of r with the cookies to h.
func (c *Client) send(h http.Handler, r *http.Request, cookies []*http.Cookie) *http.Response {
	sent := r.Clone(r.Context())
	if sent.Body == nil { // as the requests of an http.Client may have it
		sent.Body = http.NoBody
	}
	if sent.Host == "" {
		sent.Host = r.URL.Host
	}
	if sent.RequestURI == "" {
		sent.RequestURI, sent.RemoteAddr = r.URL.RequestURI(), "192.0.2.1:1234"
	}
	if c.RemoteAddr != "" {
		sent.RemoteAddr = c.RemoteAddr
	}
	for name, values := range c.Header {
		if _, own := sent.Header[name]; !own {
			sent.Header[name] = slices.Clone(values)
		}
	}
	for _, cookie := range cookies {
		sent.AddCookie(cookie)
	}
	if _, own := sent.Header[http.CanonicalHeaderKey(c.TokenHeader)]; c.TokenHeader != "" && !own {
		sent.Header.Set(c.TokenHeader, c.Token())
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, sent)
	res := w.Result()
	res.Request = r
	c.keep(r, res)
	return res
}

// Token returns the token that the client's next request sends in the TokenHeader, empty if it has none.
func (c *Client) Token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// keep takes note of the cookies of a response, and of its token.
func (c *Client) keep(r *http.Request, res *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lines := res.Header.Values(c.TokenHeader); len(lines) > 0 {
		c.token = lines[0]
	}
	cookies := res.Cookies()
	for _, cookie := range cookies {
		cookie.Domain = ""
		if cookie.Path != "" && !slices.Contains(c.paths, cookie.Path) {
			c.paths = append(c.paths, cookie.Path)
		}
	}
	c.jar.SetCookies(at(r.URL.Path), cookies)
}

// cookies returns those for any path: wherever the session's cookie goes, it is among them.
func (c *Client) cookies() []*http.Cookie {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*http.Cookie
	for _, path := range c.paths {
		for _, cookie := range c.jar.Cookies(at(path)) {
			if !slices.ContainsFunc(all, func(o *http.Cookie) bool { return o.Name == cookie.Name && o.Value == cookie.Value }) {
				all = append(all, cookie)
			}
		}
	}
	return all
}

// at returns the URL under which a jar knows the site's path.
func at(path string) *url.URL { return &url.URL{Scheme: "https", Host: "client.test", Path: path} }
