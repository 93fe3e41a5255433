package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/servertest"
)

// encrypted makes newManager's managers encrypt. With the tag of that name the tests run so, but for those whose files
// say that they do not: what the records hold makes no difference to them, or they encrypt by themselves.
var encrypted bool

// quiet is a logger for tests that provoke what would be logged.
var quiet = slog.New(slog.DiscardHandler)

// hitCounter counts in the tests in which requests meet.
const hitCounter session.Key[int] = "hits"

var errDown = errors.New("store is down")

// panics is a store's.
var panics = double.Before(func(context.Context, *double.Call) error { panic("boom") })

// secretOf returns a secret of the least length, made of one letter.
func secretOf(letter byte) []byte { return bytes.Repeat([]byte{letter}, 32) }

// serve sends one request to h, with the given Cookie header lines.
func serve(h http.Handler, cookies ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Cookie"] = cookies
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// handle wraps fn, which gets the session, with m.
func handle(m *session.Manager, fn func(s *session.Session)) http.Handler {
	return m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fn(session.FromContext(r.Context()))
	}))
}

// setCookie returns the Set-Cookie line of the name in the header, empty if there is none.
func setCookie(t *testing.T, header http.Header, name string) string {
	t.Helper()
	found := ""
	for _, line := range header.Values("Set-Cookie") {
		if strings.HasPrefix(line, name+"=") {
			if found != "" {
				t.Errorf("two cookies %q in one response", name)
			}
			found = line
		}
	}
	return found
}

// cookieValue is the value in a Set-Cookie line.
func cookieValue(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	_, value, _ := strings.Cut(pair, "=")
	return value
}

// begin stores a session with k=1 and returns the value of its cookie and its ID.
func begin(t *testing.T, m *session.Manager) (string, session.ID) {
	t.Helper()
	var s *session.Session
	res := serve(handle(m, func(its *session.Session) {
		s = its
		s.Set("k", 1)
		if err := s.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}))
	line := setCookie(t, res.Header, "session_id")
	if line == "" {
		t.Fatal("the session has no cookie")
	}
	return cookieValue(line), s.ID()
}

// newServer starts a server with TLS and returns it with its client, which follows no redirects.
func newServer(t *testing.T, http2 bool, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = http2
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client := srv.Client()
	client.Transport.(*http.Transport).DisableCompression = true
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return srv
}

// recordCount returns how many live records are in the store.
func recordCount(t *testing.T, store session.Store) int {
	t.Helper()
	n, err := session.CountRecords(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func readBody(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("reading the body: %v", err)
	}
	return string(body)
}

// A wire passes on connections to a server, and counts round trips: how often a client speaks after the server has had the
// word.
type wire struct {
	addr   string
	trips  atomic.Int64
	server atomic.Value // the address that new connections lead to, a string
}

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	w := new(wire)
	w.server.Store(server)
	w.addr = servertest.Proxy(t, func(*net.TCPConn) (to string, request, reply func([]byte) bool) {
		var asked atomic.Bool
		request = func([]byte) bool {
			if !asked.Swap(true) {
				w.trips.Add(1)
			}
			return true
		}
		reply = func([]byte) bool {
			asked.Store(false)
			return true
		}
		return w.server.Load().(string), request, reply
	})
	return w
}
