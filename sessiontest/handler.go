package sessiontest

import (
	"crypto/rand"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"testing"

	"example.com/session"
)

// A Client sends requests to a handler under test, the way one browser does: cookies stay with it from one
// response to the next request, the session's among them. The test sees to what is in the session before a
// request, and looks at what is in it afterwards, and need not care for cookies, secrets or a store.
//
// The sessions of a Client are in memory, apart from those of any other. Their IDs change only when the handler
// regenerates them.
//
// A Client is safe for concurrent use, so that requests of one browser can meet. But Session, Set and Values may end
// the test, and so belong on the goroutine that runs it; Do never does.
type Client struct {
	t       testing.TB
	manager *session.Manager
	handler http.Handler
	jar     http.CookieJar
}

// NewClient returns a client without any cookie. handler is one that calls session.FromContext and expects others to
// wrap it with a session.Manager; NewClient does that. What the manager logs goes to the test's output.
func NewClient(t testing.TB, handler http.Handler) *Client {
	t.Helper()
	secret := make([]byte, 32)
	rand.Read(secret)
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		RenewInterval: session.Never,
		SweepInterval: session.Never, // nothing in the background: a test may run in a synctest bubble
		Logger:        slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{t: t, manager: m, handler: m.Handler(handler), jar: jar}
}

// Do sends r, as httptest.NewRequest returns it, to the handler, and returns the response, whose body need not be
// closed. r itself is not changed. The client's cookies are added to those of r. All requests count as sent to
// the same host, over TLS, whatever r says, and redirects are not followed. A panic of the handler goes on up.
func (c *Client) Do(r *http.Request) *http.Response { return c.send(c.handler, r) }

// Session calls use with the session that the client's next request will find, and saves what use does to it: to set
// the scene for that request, or to see what the last one has left. It ends the test if the session cannot be loaded
// or saved.
func (c *Client) Session(use func(s *session.Session)) {
	c.t.Helper()
	var err error
	c.send(c.manager.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		use(s)
		err = s.Save(r.Context())
	})), httptest.NewRequest(http.MethodGet, "/", nil))
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

func (c *Client) send(h http.Handler, r *http.Request) *http.Response {
	site := &url.URL{Scheme: "https", Host: "client.test", Path: r.URL.Path}
	r = r.Clone(r.Context())
	for _, cookie := range c.jar.Cookies(site) {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	cookies := res.Cookies()
	for _, cookie := range cookies {
		cookie.Domain = ""
	}
	c.jar.SetCookies(site, cookies)
	return res
}
