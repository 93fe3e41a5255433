package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// A responseCase is one of the ways in which a handler can answer.
type responseCase struct {
	name     string
	method   string                                                                        // GET if empty
	body     string                                                                        // of the request, sent after 100 Continue
	answer   func(t *testing.T, w http.ResponseWriter, r *http.Request, file string) error // the first error met
	status   int
	want     string // body of the response
	http1    bool   // HTTP/2 has no such thing
	noError  bool   // nothing in answer could tell of a failure
	interims []int
}

var responseCases = []responseCase{
	{name: "Write", status: 200, want: "hello", answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		_, err := w.Write([]byte("hello"))
		return err
	}},
	{name: "WriteString", status: 200, want: "hello", answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		_, err := w.(io.StringWriter).WriteString("hello")
		return err
	}},
	{name: "WriteHeader and Write", status: 201, want: "hello", answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.WriteHeader(http.StatusCreated)
		_, err := io.WriteString(w, "hello")
		return err
	}},
	{name: "WriteHeader alone", status: 202, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.WriteHeader(http.StatusAccepted)
		return nil
	}},
	{name: "nothing", status: 200, noError: true, answer: func(*testing.T, http.ResponseWriter, *http.Request, string) error {
		return nil
	}},
	{name: "Flush", status: 200, want: "hello", answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.(http.Flusher).Flush()
		_, err := io.WriteString(w, "hello")
		return err
	}},
	{name: "Flush alone", status: 200, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.(http.Flusher).Flush()
		return nil
	}},
	{name: "ResponseController.Flush", status: 200, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		return http.NewResponseController(w).Flush()
	}},
	{name: "io.Copy of a file", status: 200, want: "file", answer: func(t *testing.T, w http.ResponseWriter, _ *http.Request, file string) error {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}},
	{name: "ServeFile", status: 200, want: "file", noError: true, answer: func(_ *testing.T, w http.ResponseWriter, r *http.Request, file string) error {
		http.ServeFile(w, r, file)
		return nil
	}},
	{name: "103 and Write", status: 200, want: "hello", interims: []int{103}, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.Header().Set("Link", "</style.css>; rel=preload; as=style")
		w.WriteHeader(http.StatusEarlyHints)
		_, err := io.WriteString(w, "hello")
		return err
	}},
	{name: "103 twice and nothing", status: 200, interims: []int{103, 103}, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusEarlyHints)
		return nil
	}},
	{name: "100 by reading the body", method: "POST", body: "ping", status: 200, want: "ping", interims: []int{100}, answer: func(_ *testing.T, w http.ResponseWriter, r *http.Request, _ string) error {
		_, err := io.Copy(w, r.Body)
		return err
	}},
	{name: "100 by hand", method: "POST", body: "ping", status: 200, want: "ping", interims: []int{100}, answer: func(t *testing.T, w http.ResponseWriter, r *http.Request, _ string) error {
		w.WriteHeader(http.StatusContinue)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the request: %v", err)
		}
		_, err = w.Write(b)
		return err
	}},
	{name: "101 and Hijack", status: 101, want: "raw", http1: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		return upgrade(w, w.(http.Hijacker).Hijack)
	}},
	{name: "101 and ResponseController.Hijack", status: 101, want: "raw", http1: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		return upgrade(w, http.NewResponseController(w).Hijack)
	}},
	{name: "Hijack and a header by hand", status: 200, want: "raw", http1: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return err
		}
		defer conn.Close()
		h := http.Header{"Set-Cookie": w.Header()["Set-Cookie"], "Connection": {"close"}}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		h.Write(conn)
		io.WriteString(conn, "\r\nraw")
		return nil
	}},
	{name: "ResponseController deadlines", status: 200, want: "hello", answer: func(t *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		c := http.NewResponseController(w)
		late := time.Now().Add(time.Hour)
		if err := errors.Join(c.SetReadDeadline(late), c.SetWriteDeadline(late), c.EnableFullDuplex()); err != nil {
			t.Errorf("ResponseController: %v", err)
		}
		_, err := io.WriteString(w, "hello")
		return err
	}},
	{name: "Redirect", status: 303, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, r *http.Request, _ string) error {
		http.Redirect(w, r, "/elsewhere", http.StatusSeeOther)
		return nil
	}},
	{name: "304", status: 304, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}},
	{name: "204", status: 204, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}},
	{name: "HEAD", method: "HEAD", status: 200, noError: true, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		return nil
	}},
	{name: "HEAD and Write", method: "HEAD", status: 200, answer: func(_ *testing.T, w http.ResponseWriter, _ *http.Request, _ string) error {
		_, err := io.WriteString(w, "hello")
		return err
	}},
}

// upgrade switches protocols, sends three bytes and hangs up.
func upgrade(w http.ResponseWriter, hijack func() (net.Conn, *bufio.ReadWriter, error)) error {
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "test")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, _, err := hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "raw")
	return err
}

// However a handler answers, the cookie is in the final header, and in no other.
func TestCookieArrives(t *testing.T) {
	forEachResponse(t, func(t *testing.T, c *responseCase, http2 bool) {
		m := newManager(t, session.NewMemoryStore(), nil)
		res, interims, err := exchange(t, m, c, http2)
		if err != nil {
			t.Errorf("the handler met the error %v", err)
		}
		if got := readBody(t, res); res.StatusCode != c.status || got != c.want {
			t.Errorf("the response is %s with body %q, want %d with %q", res.Status, got, c.status, c.want)
		}
		line := setCookie(t, res.Header, "session_id")
		if line == "" {
			t.Fatal("the response has no session cookie")
		}
		for _, header := range interims {
			if setCookie(t, header, "session_id") != "" {
				t.Error("a 1xx response has the session cookie")
			}
		}
		serve(handle(m, func(s *session.Session) {
			if !s.Has("k") {
				t.Error("the cookie leads to no session with the value in it")
			}
		}), "session_id="+cookieValue(line))
	})
}

// When the session cannot be loaded or saved, the client gets an error and nothing of the handler's, whatever the
// handler did.
func TestFailedCommitReplacesResponse(t *testing.T) {
	for _, fault := range []string{"save", "load"} {
		t.Run(fault, func(t *testing.T) {
			forEachResponse(t, func(t *testing.T, c *responseCase, http2 bool) {
				store := double.New(session.NewMemoryStore())
				m := newManager(t, store, &session.Options{Logger: quiet})
				value := ""
				if fault == "load" {
					value, _ = begin(t, m)
					store.Hook(double.Fail(errDown, double.Load))
				} else {
					store.Hook(double.Fail(errDown, double.Save))
				}
				res, _, err := exchange(t, m, c, http2, value)
				if err == nil && !c.noError {
					t.Error("the handler was not told")
				}
				want := "Service Unavailable\n"
				if c.method == "HEAD" {
					want = ""
				}
				if got := readBody(t, res); got != want || res.StatusCode != 503 {
					t.Errorf("the response is %s with body %q", res.Status, got)
				}
				wantHeader := map[string]string{
					"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", "Vary": "Accept, Cookie",
					"X-Outer": "outer", "Set-Cookie": "outer=1", "X-Content-Type-Options": "nosniff",
				}
				for name, values := range res.Header {
					switch name {
					case "Date", "Content-Length", "Connection":
					default:
						if got := strings.Join(values, ", "); got != wantHeader[name] {
							t.Errorf("header %s is %q, want %q", name, got, wantHeader[name])
						}
						delete(wantHeader, name)
					}
				}
				if len(wantHeader) > 0 {
					t.Errorf("headers are missing: %v", wantHeader)
				}
				if n := res.ContentLength; n != int64(len("Service Unavailable\n")) && n != -1 {
					t.Errorf("Content-Length is %d", n)
				}
				if len(res.Trailer) > 0 {
					t.Errorf("the response has trailers: %v", res.Trailer)
				}
			})
		})
	}
}

func forEachResponse(t *testing.T, fn func(t *testing.T, c *responseCase, http2 bool)) {
	for i := range responseCases {
		c := &responseCases[i]
		for _, proto := range []string{"HTTP1", "HTTP2"} {
			if http2 := proto == "HTTP2"; !http2 || !c.http1 {
				t.Run(proto+"/"+c.name, func(t *testing.T) { fn(t, c, http2) })
			}
		}
	}
}

// exchange has a real server answer one request in the way of c, after setting headers of all kinds and k in the
// session. It returns the response, the headers of those before the final one, and the handler's error.
func exchange(t *testing.T, m *session.Manager, c *responseCase, http2 bool, cookie ...string) (*http.Response, []http.Header, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(file, []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	inner := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("k", 1)
		maps.Copy(w.Header(), http.Header{
			"Content-Type": {"text/x-handler"}, "Content-Encoding": {"x-handler"}, "Etag": {`"handler"`},
			"X-Handler": {"1"}, "Trailer": {"X-Late"}, "Cache-Control": {"max-age=1"},
		})
		w.Header().Add("Set-Cookie", "handler=1")
		if c.http1 {
			w.Header().Del("Trailer")
		} else if session.FromContext(r.Context()).Err() != nil {
			w.Header().Set("Content-Length", "4711")
		}
		result <- c.answer(t, w, r, file)
		w.Header().Set("X-Late", "1")
		w.Header().Set(http.TrailerPrefix+"X-Later", "1")
	}))
	srv := newServer(t, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Outer", "outer")
		w.Header().Set("Set-Cookie", "outer=1")
		w.Header().Set("Vary", "Accept")
		inner.ServeHTTP(w, r)
	}))
	var mu sync.Mutex
	var interims []http.Header
	var codes []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			codes, interims = append(codes, code), append(interims, http.Header(header))
			return nil
		},
	})
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	r, err := http.NewRequestWithContext(ctx, c.method, srv.URL+"/file.txt", body)
	if err != nil {
		t.Fatal(err)
	}
	if c.body != "" {
		r.Header.Set("Expect", "100-continue")
		srv.Client().Transport.(*http.Transport).ExpectContinueTimeout = time.Hour
	}
	for _, value := range cookie {
		r.Header.Set("Cookie", "session_id="+value)
	}
	res, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[bool]int{false: 1, true: 2}[http2]; res.ProtoMajor != want {
		t.Fatalf("the response came by %s", res.Proto)
	}
	mu.Lock()
	defer mu.Unlock()
	if res.StatusCode < 500 && !slices.Equal(codes, c.interims) {
		t.Errorf("the responses before the final one are %v, want %v", codes, c.interims)
	}
	return res, interims, <-result
}

// A save on request is not yet the header: what comes between the two is not lost, and shows no cookie.
func TestSaveBeforeHeader(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	res, interims, _ := exchange(t, m, &responseCase{status: 200, interims: []int{103}, answer: func(t *testing.T, w http.ResponseWriter, r *http.Request, _ string) error {
		if err := session.FromContext(r.Context()).Save(r.Context()); err != nil {
			t.Errorf("Save: %v", err)
		}
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		return nil
	}}, false)
	readBody(t, res)
	if setCookie(t, res.Header, "session_id") == "" {
		t.Error("the final response has no session cookie")
	}
	if got := res.Header.Get("Cache-Control"); got != "max-age=3600, private" && got != "private, max-age=3600" {
		t.Errorf("a response with the cookie has Cache-Control %q", got)
	}
	for _, header := range interims {
		if setCookie(t, header, "session_id") != "" {
			t.Error("a 1xx response has the session cookie")
		}
	}
}

// A new ID that Save brought into the store reaches the client, also if a later commit fails: the old one is
// worth nothing any more.
func TestSavedCookieSurvivesLaterFailure(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{Logger: quiet})
	value, _ := begin(t, m)
	res := serve(handle(m, func(s *session.Session) {
		s.Regenerate()
		if err := s.Save(t.Context()); err != nil {
			t.Errorf("Save: %v", err)
		}
		store.Hook(double.Fail(errDown, double.Save))
		s.Set("k", 2)
	}), "session_id="+value)
	wantStatus(t, res, http.StatusServiceUnavailable)
	store.Hook()
	line := setCookie(t, res.Header, "session_id")
	serve(handle(m, func(s *session.Session) {
		if got, _ := s.Get("k"); got != int64(1) {
			t.Errorf("after an error the client has no session: k is %v", got)
		}
	}), "session_id="+cookieValue(line))
}

// Between a Save and the header the session may end: its cookie then stays away, or it would take the place of the
// one that a login has set meanwhile.
func TestSavedCookieOfEndedSession(t *testing.T) {
	for name, change := range map[string]func(*session.Session){
		"renewed":    func(s *session.Session) { s.Get("k") },
		"prolonged":  func(s *session.Session) { s.SetPersistent(true) },
		"and at end": func(s *session.Session) { s.SetPersistent(true) },
		"and fails":  func(s *session.Session) { s.SetPersistent(true) },
		"and panics": func(s *session.Session) { s.SetPersistent(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, Logger: quiet})
				v.visit(func(s *session.Session) { s.Set("k", 1) })
				tab := v.clone()
				if name == "renewed" {
					time.Sleep(5 * time.Minute)
				}
				status := http.StatusOK
				h := handle(v.m, func(s *session.Session) {
					change(s)
					if err := s.Save(t.Context()); err != nil {
						t.Errorf("Save: %v", err)
					}
					wantStatus(t, tab.visit(func(s *session.Session) { s.SetUser("ann") }), http.StatusOK)
					switch name {
					case "and at end":
						s.Set("late", 1)
						status = http.StatusConflict
					case "and fails":
						s.Set("late", make(chan int)) // cannot be encoded
						status = http.StatusInternalServerError
					case "and panics":
						status = http.StatusBadGateway
						panic("boom")
					}
				})
				res := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() {
						if recover() != nil {
							w.WriteHeader(http.StatusBadGateway)
						}
					}()
					h.ServeHTTP(w, r)
				}), "session_id="+v.cookie.Value)
				wantStatus(t, res, status)
				if len(res.Cookies()) > 0 {
					t.Errorf("the response sets %v", res.Cookies())
				}
				if !tab.alive() {
					t.Error("the session is lost")
				}
			})
		})
	}
}

// A handler that streams for long and looks at no error does not keep the client from the error handler's answer.
func TestFailureIsFlushed(t *testing.T) {
	for name, flush := range map[string]func(w http.ResponseWriter){
		"Flush":              func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"ResponseController": func(w http.ResponseWriter) { http.NewResponseController(w).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), &session.Options{Logger: quiet})
			answered := make(chan struct{})
			srv := newServer(t, false, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				session.FromContext(r.Context()).Set("k", 1)
				io.WriteString(w, "data: 1\n\n")
				flush(w)
				select {
				case <-answered:
				case <-r.Context().Done():
				case <-time.After(10 * time.Second):
					t.Error("the client waits for its answer")
				}
			})))
			res, err := srv.Client().Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			wantStatus(t, res, http.StatusServiceUnavailable)
			close(answered)
			readBody(t, res)
		})
	}
}

// The periodic renewal waits when the client will hardly get the cookie.
func TestRenewalWaitsForCookieToArrive(t *testing.T) {
	use := func(r *http.Request) { session.FromContext(r.Context()).Has("k") }
	for _, test := range []struct {
		name    string
		wrap    func(http.Handler) http.Handler
		answer  func(w http.ResponseWriter, r *http.Request, hangUp func())
		renewed bool
	}{
		{"answered", nil, func(_ http.ResponseWriter, r *http.Request, _ func()) { use(r) }, true},
		{"hung up", nil, func(_ http.ResponseWriter, r *http.Request, hangUp func()) { use(r); hangUp() }, false},
		{"timed out", func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Second, "") },
			func(_ http.ResponseWriter, r *http.Request, _ func()) { use(r); time.Sleep(2 * time.Second) }, false},
		{"hijacked", nil, func(w http.ResponseWriter, r *http.Request, _ func()) {
			use(r)
			if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
				t.Errorf("Hijack: %v", err)
			}
		}, false},
		{"hijacked after 101", nil, func(w http.ResponseWriter, r *http.Request, _ func()) {
			use(r)
			w.WriteHeader(http.StatusSwitchingProtocols)
			if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
				t.Errorf("Hijack: %v", err)
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
				v.visit(func(s *session.Session) { s.Set("k", 1) })
				id, due := v.id(), time.Now().Add(5*time.Minute)
				time.Sleep(5 * time.Minute)
				ctx, hangUp := context.WithCancel(t.Context())
				defer hangUp()
				r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
				r.AddCookie(v.cookie)
				h := v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { test.answer(w, r, hangUp) }))
				if test.wrap != nil {
					h = test.wrap(h)
				}
				h.ServeHTTP(hijackable{httptest.NewRecorder()}, r)
				time.Sleep(31 * time.Second) // until the last handler has returned
				if got := !inspect(t, v.m, id).Renewed.Before(due); got != test.renewed {
					t.Errorf("renewed: %v, want %v", got, test.renewed)
				}
			})
		})
	}
}

type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// A response that cannot do what the handler tries has not begun: whatever the handler does next is saved, and sets the
// cookie.
func TestResponseThatCannot(t *testing.T) {
	plain := func(h http.Handler) http.Handler { // a response that can do nothing in particular
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
	}
	same := func(h http.Handler) http.Handler { return h }
	for name, test := range map[string]struct {
		http2 bool
		wrap  func(http.Handler) http.Handler
		try   func(w http.ResponseWriter) error
		want  error
	}{
		"hijack HTTP/2": {true, same, func(w http.ResponseWriter) error {
			_, _, err := http.NewResponseController(w).Hijack()
			return err
		}, http.ErrNotSupported},
		"hijack by hand": {false, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(hijackFails{w}, r) })
		}, func(w http.ResponseWriter) error {
			_, _, err := w.(http.Hijacker).Hijack()
			return err
		}, errFake},
		"flush":        {false, plain, func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }, http.ErrNotSupported},
		"flush nested": {false, nested(t, plain), func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }, http.ErrNotSupported},
		"a source that fails": {false, same, func(w http.ResponseWriter) error {
			_, err := io.Copy(w, iotest.ErrReader(errFake))
			return err
		}, errFake},
		"a source with nothing in it": {false, same, func(w http.ResponseWriter) error {
			_, err := io.Copy(w, strings.NewReader(""))
			return err
		}, nil},
	} {
		for _, then := range []string{"set", "destroy", "ended by others"} {
			if then == "ended by others" && strings.HasPrefix(name, "a source") {
				continue // the session is not stored before
			}
			t.Run(name+", then "+then, func(t *testing.T) {
				m := newManager(t, session.NewMemoryStore(), &session.Options{RenewInterval: time.Hour})
				server := newServer(t, test.http2, test.wrap(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s := session.FromContext(r.Context())
					if then == "ended by others" {
						s.SetUser("ann")
					}
					s.Set("before", 1)
					if err := test.try(w); !errors.Is(err, test.want) {
						t.Errorf("the error is %v, want %v", err, test.want)
					}
					switch then {
					case "destroy":
						s.Destroy()
					case "ended by others":
						if _, err := m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
							t.Error(err)
						}
					default:
						s.Set("after", 1)
					}
					w.Header().Set("X-After", "yes")
					w.WriteHeader(http.StatusCreated)
				}))))
				res, err := server.Client().Get(server.URL)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				line := setCookie(t, res.Header, "session_id")
				if res.StatusCode != http.StatusCreated || res.Header.Get("X-After") != "yes" || (cookieValue(line) != "") != (then == "set") {
					t.Fatalf("%s, header %v", res.Status, res.Header)
				}
				if then == "set" {
					// A wait for a cookie ends when it arrives.
					if err := m.Age(t.Context(), cookieValue(line), 2*time.Hour); err != nil {
						t.Fatal(err)
					}
					r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Cookie", "session_id="+cookieValue(line))
					res, err := server.Client().Do(r)
					if err != nil {
						t.Fatal(err)
					}
					res.Body.Close()
					renewed := setCookie(t, res.Header, "session_id")
					if renewed == "" {
						t.Error("the ID was not renewed")
					}
					serve(handle(m, func(s *session.Session) {
						if !s.Has("before") || !s.Has("after") {
							t.Errorf("the session has %q", s.Keys())
						}
					}), "session_id="+cookieValue(line))
				}
			})
		}
	}
}

// nested puts another manager's handler between.
func nested(t *testing.T, wrap func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	m := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "outer"}})
	return func(h http.Handler) http.Handler { return wrap(m.Handler(h)) }
}

type hijackFails struct{ http.ResponseWriter }

func (hijackFails) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errFake }

// A handler's changes of the header after it has failed do not get into the error handler's answer, not even where
// something outside keeps that back.
func TestHeaderAfterFailure(t *testing.T) {
	m := newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), &session.Options{Logger: quiet})
	res := serve(http.TimeoutHandler(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("k", 1)
		if _, err := io.WriteString(w, "hello"); err == nil {
			t.Error("the write succeeded")
		}
		http.SetCookie(w, &http.Cookie{Name: "remember", Value: "secret"})
		w.Header().Set("Cache-Control", "public, max-age=3600")
		if w.Header().Get("Cache-Control") == "" {
			t.Error("the handler does not see its own header")
		}
	})), time.Hour, ""))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header["Set-Cookie"] != nil || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s, header %v", res.Status, res.Header)
	}
}

// A header that has left stays so, whatever the response cannot do afterwards.
func TestResponseThatCannotAnyMore(t *testing.T) {
	for name, try := range map[string]func(w http.ResponseWriter) error{
		"flush": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
		"hijack": func(w http.ResponseWriter) error {
			_, _, err := http.NewResponseController(w).Hijack()
			return err
		},
	} {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		v.send(v.m, func(w http.ResponseWriter, r *http.Request) {
			v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := session.FromContext(r.Context())
				io.WriteString(w, "hello")
				if err := try(w); !errors.Is(err, http.ErrNotSupported) {
					t.Errorf("%s: %v", name, err)
				}
				s.Regenerate()
				if err := s.Save(r.Context()); !errors.Is(err, session.ErrHeaderSent) {
					t.Errorf("after a %s that failed: Save: %v, want ErrHeaderSent", name, err)
				}
			})).ServeHTTP(struct{ http.ResponseWriter }{w}, r.WithContext(t.Context()))
		})
		if !v.alive() {
			t.Errorf("%s: the client is logged out", name)
		}
	}
}

// fakeWriter is a ResponseWriter that takes note of what reaches it, and with which cookie.
type fakeWriter struct {
	header http.Header
	calls  []string
}

func (f *fakeWriter) note(call string) {
	if len(f.header["Set-Cookie"]) == 0 {
		call += " without a cookie"
	}
	f.calls = append(f.calls, call)
}

func (f *fakeWriter) Header() http.Header { return f.header }

func (f *fakeWriter) WriteHeader(int) { f.note("WriteHeader") }

func (f *fakeWriter) Write(b []byte) (int, error) { f.note("Write"); return len(b), nil }

type (
	fakeFlusher    struct{ f *fakeWriter }
	fakeHijacker   struct{ f *fakeWriter }
	fakeReaderFrom struct{ f *fakeWriter }
	fakePusher     struct{ f *fakeWriter }
)

var errFake = errors.New("it is only a fake")

func (f fakeFlusher) Flush() { f.f.note("Flush") }

func (f fakeHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	f.f.note("Hijack")
	return nil, nil, errFake
}

func (f fakeReaderFrom) ReadFrom(io.Reader) (int64, error) {
	f.f.note("ReadFrom")
	return 0, errFake
}

func (f fakePusher) Push(string, *http.PushOptions) error {
	f.f.calls = append(f.f.calls, "Push") // its response is another one
	return errFake
}

// The handler's writer has the optional interfaces of the original, no more and no less, and each of them commits.
func TestOptionalInterfaces(t *testing.T) {
	base := new(fakeWriter)
	f, h, r, p := fakeFlusher{base}, fakeHijacker{base}, fakeReaderFrom{base}, fakePusher{base}
	type (
		flusher    = http.Flusher
		hijacker   = http.Hijacker
		readerFrom = io.ReaderFrom
		pusher     = http.Pusher
	)
	writers := []http.ResponseWriter{ // the index is a set: 1 flusher, 2 hijacker, 4 readerFrom, 8 pusher
		base,
		struct {
			*fakeWriter
			flusher
		}{base, f},
		struct {
			*fakeWriter
			hijacker
		}{base, h},
		struct {
			*fakeWriter
			flusher
			hijacker
		}{base, f, h},
		struct {
			*fakeWriter
			readerFrom
		}{base, r},
		struct {
			*fakeWriter
			flusher
			readerFrom
		}{base, f, r},
		struct {
			*fakeWriter
			hijacker
			readerFrom
		}{base, h, r},
		struct {
			*fakeWriter
			flusher
			hijacker
			readerFrom
		}{base, f, h, r},
		struct {
			*fakeWriter
			pusher
		}{base, p},
		struct {
			*fakeWriter
			flusher
			pusher
		}{base, f, p},
		struct {
			*fakeWriter
			hijacker
			pusher
		}{base, h, p},
		struct {
			*fakeWriter
			flusher
			hijacker
			pusher
		}{base, f, h, p},
		struct {
			*fakeWriter
			readerFrom
			pusher
		}{base, r, p},
		struct {
			*fakeWriter
			flusher
			readerFrom
			pusher
		}{base, f, r, p},
		struct {
			*fakeWriter
			hijacker
			readerFrom
			pusher
		}{base, h, r, p},
		struct {
			*fakeWriter
			flusher
			hijacker
			readerFrom
			pusher
		}{base, f, h, r, p},
	}
	m := newManager(t, session.NewMemoryStore(), nil)
	for set, original := range writers {
		interfaces := func(w http.ResponseWriter) (set int, use []func() string) {
			if w, ok := w.(http.Flusher); ok {
				set |= 1
				use = append(use, func() string { w.Flush(); return "Flush" })
			}
			if w, ok := w.(http.Hijacker); ok {
				set |= 2
				use = append(use, func() string { w.Hijack(); return "Hijack" })
			}
			if w, ok := w.(io.ReaderFrom); ok {
				set |= 4
				use = append(use, func() string { w.ReadFrom(strings.NewReader("x")); return "Write ReadFrom" })
			}
			if w, ok := w.(http.Pusher); ok {
				set |= 8
				use = append(use, func() string { w.Push("/", nil); return "Push" })
			}
			return set, use
		}
		if got, _ := interfaces(original); got != set {
			t.Fatalf("the test's own writer %d has the set %d", set, got)
		}
		for i := range 5 {
			*base = fakeWriter{header: http.Header{}}
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got, use := interfaces(w)
				if got != set {
					t.Errorf("for the set %d, the handler gets %d", set, got)
				}
				if i >= len(use) {
					return
				}
				session.FromContext(r.Context()).Set("k", 1)
				if want := use[i](); strings.Join(base.calls, " ") != want {
					t.Errorf("set %d: %s led to %q", set, want, base.calls)
				}
			})).ServeHTTP(original, httptest.NewRequest(http.MethodGet, "/", nil))
		}
	}
}

// unwrapper has nothing to offer but what it wraps.
type unwrapper struct {
	*fakeWriter
	inner http.ResponseWriter
}

func (u unwrapper) Unwrap() http.ResponseWriter { return u.inner }

// Whoever unwraps the writer, or lets a ResponseController do it, still commits first.
func TestNoWayAroundCommit(t *testing.T) {
	unwrap := func(w http.ResponseWriter) http.ResponseWriter {
		for {
			u, ok := w.(interface{ Unwrap() http.ResponseWriter })
			if !ok {
				return w
			}
			w = u.Unwrap()
		}
	}
	for _, test := range []struct {
		name string
		do   func(w http.ResponseWriter)
	}{
		{"Flush", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }},
		{"Hijack", func(w http.ResponseWriter) { http.NewResponseController(w).Hijack() }},
		{"Write", func(w http.ResponseWriter) { unwrap(w).Write(nil) }},
		{"WriteHeader", func(w http.ResponseWriter) { unwrap(w).WriteHeader(200) }},
		{"Flush", func(w http.ResponseWriter) { http.NewResponseController(unwrap(w)).Flush() }},
		{"Hijack", func(w http.ResponseWriter) { http.NewResponseController(unwrap(w)).Hijack() }},
		{"Flush", func(w http.ResponseWriter) {
			if w, ok := unwrap(w).(http.Flusher); ok {
				w.Flush()
			}
		}},
		{"Hijack", func(w http.ResponseWriter) {
			if w, ok := unwrap(w).(http.Hijacker); ok {
				w.Hijack()
			}
		}},
		{"ReadFrom", func(w http.ResponseWriter) {
			if w, ok := unwrap(w).(io.ReaderFrom); ok {
				w.ReadFrom(new(bytes.Buffer))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := &fakeWriter{header: http.Header{}}
			whole := struct {
				*fakeWriter
				fakeFlusher
				fakeHijacker
				fakeReaderFrom
			}{base, fakeFlusher{base}, fakeHijacker{base}, fakeReaderFrom{base}}
			m := newManager(t, session.NewMemoryStore(), nil)
			for _, original := range []http.ResponseWriter{whole, unwrapper{base, whole}, unwrapper{base, unwrapper{base, whole}}} {
				base.header, base.calls = http.Header{}, nil
				m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					session.FromContext(r.Context()).Set("k", 1)
					test.do(w)
				})).ServeHTTP(original, httptest.NewRequest(http.MethodGet, "/", nil))
				for _, call := range base.calls {
					if call != test.name {
						t.Errorf("the original saw %q", base.calls)
					}
				}
			}
		})
	}
}

// A handler that saves is told of it, but only its response brings the client the new cookie. So it fails if the last look at the
// store does: the client must not take a login for done without its cookie.
func TestLastLookFails(t *testing.T) {
	for _, login := range []bool{true, false} {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{Logger: quiet})
		if !login {
			v.login()
		}
		res := v.visit(func(s *session.Session) {
			if login {
				s.SetUser("ann")
			} else {
				s.Regenerate()
			}
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
			store.Hook(double.Fail(errDown))
		})
		wantStatus(t, res, http.StatusServiceUnavailable)
	}
}
