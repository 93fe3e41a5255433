package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// The save does not depend on the client's patience.
func TestClientHangsUp(t *testing.T) {
	m := newManager(t, double.New(session.NewMemoryStore(), double.Slow(0)), nil)
	value, _ := begin(t, m)
	entered, done := make(chan struct{}), make(chan struct{})
	srv := newServer(t, false, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		s := session.FromContext(r.Context())
		s.Set("before", 1)
		close(entered)
		<-r.Context().Done()
		s.Set("after", 1)
		io.WriteString(w, "is anybody there?")
		if err := s.Err(); err != nil {
			t.Errorf("the commit failed: %v", err)
		}
	})))
	ctx, hangUp := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	r.Header.Set("Cookie", "session_id="+value)
	go func() {
		<-entered
		hangUp()
	}()
	if res, err := srv.Client().Do(r); err == nil {
		res.Body.Close() // the answer was faster than the end of the connection
	}
	<-done
	serve(handle(m, func(s *session.Session) {
		if got := s.Keys(); !slices.Equal(got, []string{"after", "before", "k"}) {
			t.Errorf("saved were %v", got)
		}
	}), "session_id="+value)
}

// A handler that does not return leaves nothing behind, and its panic is the server's to see.
func TestPanicSavesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func()
		want any
	}{
		{"panic", func() { panic("boom") }, "boom"},
		{"ErrAbortHandler", func() { panic(http.ErrAbortHandler) }, http.ErrAbortHandler},
		{"Goexit", runtime.Goexit, nil},
	} {
		for _, do := range []string{"create", "change", "regenerate", "destroy"} {
			t.Run(test.name+"/"+do, func(t *testing.T) {
				store := double.New(session.NewMemoryStore())
				m := newManager(t, store, nil)
				cookie := ""
				if do != "create" {
					value, _ := begin(t, m)
					cookie = "session_id=" + value
				}
				store.Calls()
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Cookie", cookie)
				var got any
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { got = recover() }()
					handle(m, func(s *session.Session) {
						s.Set("k", 2)
						switch do {
						case "regenerate":
							s.Regenerate()
						case "destroy":
							s.Destroy()
						}
						test.end()
					}).ServeHTTP(w, r)
				})
				wg.Wait()
				if got != test.want {
					t.Errorf("what came up is %v, want %v", got, test.want)
				}
				if calls := store.Calls(); calls[1]+calls[2]+calls[3] > 0 || len(w.Header()) > 0 {
					t.Errorf("saves, touches, deletes: %v; header: %v", calls[1:], w.Header())
				}
				if do != "create" {
					serve(handle(m, func(s *session.Session) {
						if got, _ := s.Get("k"); got != int64(1) {
							t.Errorf("afterwards, the value is %v", got)
						}
					}), cookie)
				}
			})
		}
	}
}

// A proxy that meets the error of a failed commit and aborts does not cut off the error handler's answer.
func TestAbortAfterFailedCommit(t *testing.T) {
	backend := newServer(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = backend.Client().Transport
	m := newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), &session.Options{Logger: quiet})
	for _, http2 := range []bool{false, true} {
		srv := newServer(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session.FromContext(r.Context()).Set("k", 1)
			proxy.ServeHTTP(w, r)
		})))
		res, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Errorf("HTTP/2 %v: there is no answer: %v", http2, err)
			continue
		}
		wantStatus(t, res, http.StatusServiceUnavailable)
		if body := readBody(t, res); body != "Service Unavailable\n" {
			t.Errorf("HTTP/2 %v: the body is %q", http2, body)
		}
	}
}

// Any other panic after a failed commit goes up, and so does that of an error handler that aborts.
func TestPanicAfterFailedCommit(t *testing.T) {
	for _, test := range []struct {
		name    string
		answer  func(w http.ResponseWriter)
		handler func()
		want    any
	}{
		{"panic", func(w http.ResponseWriter) { w.WriteHeader(503) }, func() { panic("boom") }, "boom"},
		{"Goexit", func(w http.ResponseWriter) { w.WriteHeader(503) }, runtime.Goexit, nil},
		{"ErrAbortHandler", func(w http.ResponseWriter) { w.WriteHeader(503) }, func() { panic(http.ErrAbortHandler) }, nil},
		{"error handler aborts", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, func() {}, http.ErrAbortHandler},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), &session.Options{
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { test.answer(w) },
			})
			var got any
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() { got = recover() }()
				serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					session.FromContext(r.Context()).Set("k", 1)
					io.WriteString(w, "hello")
					test.handler()
				})))
			})
			wg.Wait()
			if got != test.want {
				t.Errorf("what came up is %v, want %v", got, test.want)
			}
		})
	}
}

// A panic in the store or the observer goes up like the handler's own, through every method that may load.
func TestPanicWhileLoading(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, nil)
	value, _ := begin(t, m)
	store.Hook(double.On(panics, double.Load))
	for name, use := range map[string]func(s *session.Session){
		"Get":    func(s *session.Session) { s.Get("k") },
		"Has":    func(s *session.Session) { s.Has("k") },
		"Set":    func(s *session.Session) { s.Set("k", 1) },
		"Update": func(s *session.Session) { session.Key[int]("k").Update(s, func(int) int { return 1 }) },
		"Reload": func(s *session.Session) { s.Reload(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			up := make(chan any, 1)
			go func() {
				defer func() { up <- recover() }()
				serve(handle(m, use), "session_id="+value)
			}()
			select {
			case got := <-up:
				if got != "boom" {
					t.Errorf("what came up is %v", got)
				}
			case <-time.After(10 * time.Second): // a lock that nobody releases
				t.Fatal("the request hangs")
			}
		})
	}
}

// A handler that recovers from a panic in the store goes on with its session, not with one that reads as logged out, nor
// with one that it has not locked.
func TestRecoveredWhileLoading(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{Locking: true})
	value, id := begin(t, m)
	other, _ := begin(t, m)
	serve(handle(m, func(s *session.Session) { s.Destroy() }), "session_id="+other)
	for spare := range 4 { // other, value, its lock, and value again
		lock, err := store.Load(t.Context(), m.LockID(id))
		if err != nil {
			t.Fatal(err)
		}
		serve(handle(m, func(s *session.Session) {
			store.Hook(double.Nth(spare+1, panics, double.Load))
			func() {
				defer func() { recover() }()
				s.Has("k")
				t.Errorf("after %d calls the store does not panic", spare)
			}()
			store.Hook()
			if !s.Has("k") {
				t.Errorf("after %d calls: %v", spare, s)
			}
			if now, err := store.Load(t.Context(), m.LockID(id)); err != nil || now.Version == lock.Version {
				t.Errorf("after %d calls the session is not locked: %v", spare, err)
			}
		}), "session_id="+other+"; session_id="+value)
	}
}

// In a stream, changes are saved by Save and when the handler returns.
func TestLateChanges(t *testing.T) {
	store := session.NewMemoryStore()
	m := newManager(t, store, nil)
	value, _ := begin(t, m)
	stored := func() string {
		keys := ""
		serve(handle(m, func(s *session.Session) { keys = strings.Join(s.Keys(), " ") }), "session_id="+value)
		return keys
	}
	serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.Set("early", 1)
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		if got := stored(); got != "early k" {
			t.Errorf("after the first byte the store has %q", got)
		}
		s.Set("middle", 1)
		if err := s.Save(r.Context()); err != nil {
			t.Errorf("Save: %v", err)
		}
		if got := stored(); got != "early k middle" {
			t.Errorf("after Save the store has %q", got)
		}
		s.Set("late", 1)
		s.Delete("k")
	})), "session_id="+value)
	if got := stored(); got != "early late middle" {
		t.Errorf("after the return the store has %q", got)
	}
}

// A change that needs a cookie is refused once the header has left, and leaves nothing in the store.
func TestTooLate(t *testing.T) {
	for _, test := range []struct {
		name     string
		existing bool
		do       func(s *session.Session)
		ends     bool
	}{
		{"new session", false, func(s *session.Session) { s.Set("k", 1) }, false},
		{"regenerate", true, func(s *session.Session) { s.Regenerate() }, false},
		{"regenerate and change", true, func(s *session.Session) { s.Regenerate(); s.Set("k", 2) }, false},
		{"destroy", true, func(s *session.Session) { s.Destroy() }, true},
		{"destroy and begin another", true, func(s *session.Session) { s.Destroy(); s.Set("k", 2) }, true},
	} {
		for _, used := range []bool{false, true} {
			for _, save := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/used %v/save %v", test.name, used, save), func(t *testing.T) {
					store := double.New(session.NewMemoryStore())
					var lost []session.Event
					m := newManager(t, store, &session.Options{Logger: quiet, Observer: func(_ context.Context, e session.Event) {
						if e.Kind == session.EventLost {
							lost = append(lost, e)
						}
					}})
					cookie, records := "", 0
					if test.existing {
						value, _ := begin(t, m)
						cookie, records = "session_id="+value, 1
					}
					store.Calls()
					res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						s := session.FromContext(r.Context())
						if used {
							s.Has("k")
						}
						w.WriteHeader(http.StatusOK)
						test.do(s)
						if !save {
							return
						}
						if err := s.Save(r.Context()); !errors.Is(err, session.ErrHeaderSent) || !errors.Is(s.Err(), err) {
							t.Errorf("Save returns %v, Err %v", err, s.Err())
						}
					})), cookie)
					wantStatus(t, res, http.StatusOK)
					if setCookie(t, res.Header, "session_id") != "" {
						t.Error("a cookie was set")
					}
					want := 0
					if test.ends {
						want = 1 // the mark of the ended session
					}
					if calls := store.Calls(); calls[1] != want {
						t.Errorf("%d saves, want %d", calls[1], want)
					}
					if n := recordCount(t, store); n != records {
						t.Errorf("%d records, want %d", n, records)
					}
					if !save && (len(lost) != 1 || !errors.Is(lost[0].Err, session.ErrHeaderSent)) {
						t.Errorf("nobody was told: %v", lost)
					}
					if test.existing {
						serve(handle(m, func(s *session.Session) {
							if got, ok := s.Get("k"); ok == test.ends || ok && got != int64(1) {
								t.Errorf("afterwards, the value is %v, %v", got, ok)
							}
						}), cookie)
					}
				})
			}
		}
	}
}

// A handler that is wrapped twice has one session, committed once.
func TestNestedHandler(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, nil)
	res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("outer", 1)
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, inner *http.Request) {
			s := session.FromContext(inner.Context())
			if s != session.FromContext(r.Context()) || s != m.FromContext(inner.Context()) || !s.Has("outer") {
				t.Error("the inner handler has another session")
			}
			s.Set("inner", 1)
		})).ServeHTTP(w, r)
	})))
	if setCookie(t, res.Header, "session_id") == "" || store.Calls()[1] != 1 {
		t.Error("there is no cookie, or not one save")
	}
}

// Managers with different cookies share a request and a store.
func TestTwoManagers(t *testing.T) {
	store := session.NewMemoryStore()
	outer := newManager(t, store, &session.Options{Cookie: session.Cookie{Name: "outer"}})
	inner := newManager(t, store, &session.Options{Cookie: session.Cookie{Name: "inner"}})
	visit := func(fn func(o, i, innermost *session.Session), cookies ...string) *http.Response {
		return serve(outer.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fn(outer.FromContext(r.Context()), inner.FromContext(r.Context()), session.FromContext(r.Context()))
			io.WriteString(w, "x")
		}))), cookies...)
	}
	res := visit(func(o, i, innermost *session.Session) {
		if i != innermost || o == i {
			t.Error("FromContext is not that of the innermost manager")
		}
		o.Set("k", "outer")
		i.Set("k", "inner")
	})
	o, i := setCookie(t, res.Header, "outer"), setCookie(t, res.Header, "inner")
	if o == "" || i == "" {
		t.Fatalf("the cookies are %q", res.Header["Set-Cookie"])
	}
	wantBoth := func(o, i, _ *session.Session) {
		a, _ := o.Get("k")
		b, _ := i.Get("k")
		if a != "outer" || b != "inner" {
			t.Errorf("the values are %v and %v", a, b)
		}
	}
	visit(wantBoth, "outer="+cookieValue(o)+"; inner="+cookieValue(i))
	swapped := visit(func(o, i, _ *session.Session) {
		if o.Has("k") || i.Has("k") {
			t.Error("a manager takes the other's cookie")
		}
	}, "outer="+cookieValue(i)+"; inner="+cookieValue(o))
	if got := swapped.Header.Values("Vary"); !slices.Equal(got, []string{"Cookie"}) {
		t.Errorf("Vary is %q", got)
	}
	visit(func(o, i, _ *session.Session) { i.Destroy() }, "outer="+cookieValue(o)+"; inner="+cookieValue(i))
	visit(func(o, i, _ *session.Session) {
		if !o.Has("k") || i.Has("k") {
			t.Error("the end of one session is not the end of that one alone")
		}
	}, "outer="+cookieValue(o)+"; inner="+cookieValue(i))
}

// A manager that fails drops what the handler did to the header, but not the cookie of one within, whose session has a
// new ID.
func TestFailureAroundAnotherManager(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	opts := func(name string) *session.Options {
		return &session.Options{Cookie: session.Cookie{Name: name}, Logger: quiet}
	}
	outermost := opts("outer")
	outermost.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusServiceUnavailable) }
	outer, middle, inner := newManager(t, store, outermost), newManager(t, session.NewMemoryStore(), opts("middle")),
		newManager(t, session.NewMemoryStore(), opts("inner"))
	h := outer.Handler(middle.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range []*session.Manager{outer, middle, inner} {
			s := m.FromContext(r.Context())
			s.Set("k", 1)
			s.Regenerate()
		}
		http.SetCookie(w, &http.Cookie{Name: "other", Value: "1"})
	}))))
	store.Hook(double.Fail(errDown, double.Save))
	res := serve(h)
	wantStatus(t, res, http.StatusServiceUnavailable)
	for name, want := range map[string]bool{"outer": false, "middle": true, "inner": true, "other": false} {
		line := setCookie(t, res.Header, name)
		if got := line != ""; got != want {
			t.Errorf("the cookie %s is set: %v", name, got)
		}
		if want && !strings.Contains(line, "HttpOnly") {
			t.Errorf("the cookie is %q", line)
		}
	}
	if len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("header: %v", res.Header)
	}
}

// Where there can be no session, though the handler is wrapped, the panic does not ask to wrap it.
func TestFromContextBesideHandler(t *testing.T) {
	for _, test := range []struct {
		name string
		opts func(ask func(context.Context)) *session.Options
	}{
		{"ErrorHandler", func(ask func(context.Context)) *session.Options {
			return &session.Options{Logger: quiet, ErrorHandler: func(_ http.ResponseWriter, r *http.Request, _ error) { ask(r.Context()) }}
		}},
		{"Observer", func(ask func(context.Context)) *session.Options {
			return &session.Options{Logger: quiet, Observer: func(ctx context.Context, _ session.Event) { ask(ctx) }}
		}},
		{"Logger", func(ask func(context.Context)) *session.Options {
			return &session.Options{Logger: slog.New(calling{quiet.Handler(), ask})}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := 0
			var m *session.Manager
			ask := func(ctx context.Context) {
				for _, from := range []func(){func() { session.FromContext(ctx) }, func() { m.FromContext(ctx) }} {
					func() {
						defer func() {
							asked++
							got := fmt.Sprint(recover())
							if !strings.HasPrefix(got, "session: ") || strings.Contains(got, "wrap") || !strings.Contains(got, test.name) {
								t.Errorf("the panic is %q", got)
							}
						}()
						from()
					}()
				}
			}
			outer := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "outer"}})
			m = newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), test.opts(ask))
			for _, h := range []http.Handler{
				handle(m, func(s *session.Session) { s.Set("k", 1) }),
				outer.Handler(handle(m, func(s *session.Session) { s.Set("k", 1) })),
			} {
				serve(h, "session_id=forged")
			}
			if asked < 4 {
				t.Errorf("%d looks", asked)
			}
		})
	}
}

// A calling handler calls back for each record.
type calling struct {
	slog.Handler
	call func(context.Context)
}

func (c calling) Enabled(context.Context, slog.Level) bool { return true }

func (c calling) Handle(ctx context.Context, _ slog.Record) error {
	c.call(ctx)
	return nil
}

// Without the middleware there is no session, and the panic says what to do.
func TestFromContextWithoutHandler(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	other := newManager(t, session.NewMemoryStore(), nil)
	for name, fn := range map[string]func(context.Context){
		"FromContext":         func(ctx context.Context) { session.FromContext(ctx) },
		"Manager.FromContext": func(ctx context.Context) { m.FromContext(ctx) },
		"another manager": func(context.Context) {
			serve(other.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { m.FromContext(r.Context()) })))
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, "Handler") || !strings.HasPrefix(got, "session: ") {
					t.Errorf("the panic is %q", got)
				}
			}()
			fn(t.Context())
		})
	}
}

// The error handler of the application's own is told what went wrong, and answers alone.
func TestErrorHandler(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(store *double.Store, s *session.Session)
		want  error
	}{
		{"store", func(store *double.Store, s *session.Session) {
			store.Hook(double.Fail(errDown, double.Save))
			s.Set("k", 2)
		}, errDown},
		{"timeout", func(store *double.Store, s *session.Session) {
			store.Hook(double.Fail(fmt.Errorf("dial: %w", context.DeadlineExceeded), double.Save))
			s.Set("k", 2)
		}, context.DeadlineExceeded},
		{"too large", func(_ *double.Store, s *session.Session) { s.Set("k", make([]byte, 2<<20)) }, session.ErrTooLarge},
		{"gone", func(store *double.Store, s *session.Session) {
			if err := newManager(t, store, nil).End(t.Context(), s.ID()); err != nil {
				t.Error(err)
			}
			s.Set("k", 2)
		}, session.ErrGone},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			var got error
			m := newManager(t, store, &session.Options{Logger: quiet, ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				got = err
				w.Header().Set("X-Error", r.URL.Path)
				w.WriteHeader(http.StatusTeapot)
				io.WriteString(w, "sorry")
			}})
			value, _ := begin(t, m)
			res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				test.fault(store, session.FromContext(r.Context()))
				w.Header().Set("X-Handler", "1")
				io.WriteString(w, "hello")
			})), "session_id="+value)
			if !errors.Is(got, test.want) {
				t.Errorf("the error is %v", got)
			}
			if body := readBody(t, res); res.StatusCode != http.StatusTeapot || body != "sorry" ||
				res.Header.Get("X-Error") != "/" || res.Header.Get("X-Handler") != "" {
				t.Errorf("the response is %s %v %q", res.Status, res.Header, body)
			}
		})
	}
}

// Middleware inside the manager says how the site's responses may be read, as that of gin and Echo always does. The answer
// to an error says so, too; it says nothing of the response that it takes the place of.
func TestErrorKeepsPolicies(t *testing.T) {
	keep := http.Header{
		"Access-Control-Allow-Origin": {"https://app.example"}, "Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Expose-Headers": {"X-Request-Id"}, "Vary": {"Accept", "Origin"}, "Strict-Transport-Security": {"max-age=63072000"},
		"Content-Security-Policy": {"default-src 'none'"}, "Cross-Origin-Resource-Policy": {"same-site"}, "Referrer-Policy": {"no-referrer"},
		"X-Frame-Options": {"DENY"}, "X-Request-Id": {"42"}, "Timing-Allow-Origin": {"*"}, "access-control-max-age": {"5"},
	}
	drop := http.Header{
		"Location": {"/welcome"}, "Content-Type": {"image/png"}, "Content-Encoding": {"gzip"}, "Content-Length": {"7"}, "Etag": {`"x"`},
		"Last-Modified": {"yesterday"}, "Content-Disposition": {"attachment"}, "X-Accel-Redirect": {"/secret"}, "Refresh": {"0; /"},
		"Hx-Redirect": {"/"}, "Set-Cookie": {"flash=saved"}, "Cache-Control": {"public"}, "Link": {"</a>"}, "Clear-Site-Data": {"*"},
		"X-Outer": {"inner"},
	}
	for name, own := range map[string]func(http.ResponseWriter, *http.Request, error){
		"default": nil, "own": func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "sorry", http.StatusServiceUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save)), &session.Options{Logger: quiet, ErrorHandler: own})
			inner := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Add("Vary", "Origin")
				for _, set := range []http.Header{keep, drop} {
					for name, lines := range set {
						if name != "Vary" {
							w.Header()[name] = lines
						}
					}
				}
				session.FromContext(r.Context()).Set("k", 1)
				w.WriteHeader(http.StatusFound)
			}))
			w := httptest.NewRecorder()
			w.Header().Set("Vary", "Accept")
			w.Header().Set("X-Outer", "outer")
			inner.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
			header := w.Result().Header
			for name, want := range keep {
				if got := header[name]; name != "Vary" && !slices.Equal(got, want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if got := header["Vary"]; !slices.Equal(got, []string{"Accept", "Origin", "Cookie"}) {
				t.Errorf("Vary is %q", got)
			}
			for name, lines := range drop {
				if got := header[name]; slices.Equal(got, lines) {
					t.Errorf("%s is %q", name, got)
				}
			}
			if got := header.Get("X-Outer"); got != "outer" {
				t.Errorf("X-Outer is %q", got)
			}
		})
	}
}

// An error handler that forgets to answer does not make a success of a failure, and one that answers in any way that
// there is answers alone.
func TestErrorHandlerAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter)
		status int
		body   string
	}{
		"not":         {func(http.ResponseWriter) {}, 503, "Service Unavailable\n"},
		"a header":    {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "1") }, 503, "Service Unavailable\n"},
		"early hints": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) }, 503, "Service Unavailable\n"},
		"a status":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) }, 418, ""},
		"a body":      {func(w http.ResponseWriter) { io.WriteString(w, "sorry") }, 200, "sorry"},
		"a flush":     {func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }, 200, ""},
		"deadlines": {func(w http.ResponseWriter) {
			control := http.NewResponseController(w)
			err := errors.Join(control.SetReadDeadline(time.Now().Add(time.Hour)), control.SetWriteDeadline(time.Now().Add(time.Hour)),
				control.EnableFullDuplex())
			if err != nil {
				t.Error(err)
			}
		}, 503, "Service Unavailable\n"},
		"by hand": {func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 507 Full\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}, 507, ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := double.New(session.NewMemoryStore(), double.Fail(errDown, double.Save))
			m := newManager(t, store, &session.Options{
				Logger:       quiet,
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { test.answer(w) },
			})
			server := httptest.NewServer(handle(m, func(s *session.Session) { s.Set("k", 1) }))
			defer server.Close()
			res, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			if body := readBody(t, res); res.StatusCode != test.status || body != test.body {
				t.Errorf("%s %q, want %d %q", res.Status, body, test.status, test.body)
			}
		})
	}
}

// A crowd of strangers costs nothing at the store, whether their session is looked at or not.
func TestAnonymousRequests(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, nil)
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			session.FromContext(r.Context()).Get("k")
		}
		io.WriteString(w, "hello")
	}))
	read, idle := httptest.NewRequest("GET", "/read", nil), httptest.NewRequest("GET", "/", nil)
	for i := range 100_000 {
		w := &fakeWriter{header: http.Header{}}
		h.ServeHTTP(w, []*http.Request{read, idle}[i%2])
		if w.header["Set-Cookie"] != nil {
			t.Fatal("a cookie was set")
		}
	}
	if calls := store.Calls(); calls != [4]int{} || recordCount(t, store) != 0 {
		t.Errorf("loads, saves, touches, deletes: %v", calls)
	}
}

// Requests that do not use the session do not depend on it.
func TestUnusedSession(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, nil)
	value, _ := begin(t, m)
	store.Calls()
	down := newManager(t, double.New(store, double.Fail(errDown, double.Load, double.Save, double.Delete)), nil)
	for _, m := range []*session.Manager{m, down} {
		for _, cookie := range []string{"", "session_id=forged", "session_id=" + value} {
			res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got, want := m.HasToken(r), strings.Contains(cookie, value); got != want {
					t.Errorf("HasToken is %v", got)
				}
				_ = session.FromContext(r.Context()).String()
				_ = session.FromContext(r.Context()).Err()
				io.WriteString(w, "hello")
			})), cookie)
			if body := readBody(t, res); res.StatusCode != http.StatusOK || body != "hello" {
				t.Errorf("the response is %s %q", res.Status, body)
			}
			for _, name := range []string{"Vary", "Cache-Control", "Set-Cookie"} {
				if got := res.Header.Values(name); len(got) > 0 {
					t.Errorf("%s is %q", name, got)
				}
			}
		}
	}
	if calls := store.Calls(); calls != [4]int{} {
		t.Errorf("loads, saves, touches, deletes: %v", calls)
	}
}

// A Logger hears of a failed commit, and not the cookie's value.
func TestFailureIsLogged(t *testing.T) {
	var log strings.Builder
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	value, _ := begin(t, m)
	store.Hook(double.Fail(errDown, double.Save))
	serve(handle(m, func(s *session.Session) { s.Set("k", 2) }), "session_id="+value)
	got := log.String()
	for _, want := range []string{errDown.Error(), "status=503", "method=GET", "host=example.com", "path=/", "store=*double.Store"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log does not speak of %q: %q", want, got)
		}
	}
	if strings.Contains(got, value) {
		t.Errorf("the log is %q", got)
	}
}

// A fault that comes up once the header has left can be in no response; the log has it, unless Save returned it.
func TestLateFailureIsLogged(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(store *double.Store, s *session.Session)
		log  string
	}{
		{"load", func(store *double.Store, s *session.Session) {
			store.Hook(double.Fail(errDown, double.Load))
			s.Get("k")
		}, errDown.Error()},
		{"encode", func(_ *double.Store, s *session.Session) { s.Set("c", make(chan int)) }, "cannot be encoded"},
		{"save", func(store *double.Store, s *session.Session) {
			store.Hook(double.Fail(errDown, double.Save))
			s.Set("k", 2)
		}, errDown.Error()},
		{"told by Save", func(store *double.Store, s *session.Session) {
			store.Hook(double.Fail(errDown, double.Save))
			s.Set("k", 2)
			if err := s.Save(t.Context()); !errors.Is(err, errDown) {
				t.Errorf("Save: %v", err)
			}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			store := double.New(session.NewMemoryStore())
			m := newManager(t, store, &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			value, _ := begin(t, m)
			res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "hello")
				test.do(store, session.FromContext(r.Context()))
			})), "session_id="+value)
			if body := readBody(t, res); body != "hello" {
				t.Errorf("the body is %q", body)
			}
			if got := log.String(); !strings.Contains(got, test.log) || test.log == "" && got != "" {
				t.Errorf("the log is %q", got)
			}
		})
	}
}

// All goroutines of a request have the same session, whoever asks first.
func TestFromContextInGoroutines(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	for range 1000 {
		var sessions [4]*session.Session
		res := serve(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range sessions {
				wg.Go(func() {
					<-start
					sessions[i] = session.FromContext(r.Context())
					sessions[i].Set(fmt.Sprint(i), i)
				})
			}
			close(start)
			wg.Wait()
		})), "")
		for i, s := range sessions {
			if s != sessions[0] {
				t.Fatalf("goroutine %d has another session", i)
			}
		}
		if n := sessions[0].Len(); n != len(sessions) {
			t.Fatalf("%d values are there", n)
		}
		setCookie(t, res.Header, "session_id")
	}
}

// A request's context that is printed shows nothing of the session in it.
func TestContextPrintsNoSecrets(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	value, _ := begin(t, m)
	serve(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Get("k")
		for _, ctx := range []context.Context{r.Context(), context.WithoutCancel(r.Context())} {
			if got := fmt.Sprintf("%v %+v", ctx, ctx); strings.ContainsAny(got, "{[") {
				t.Errorf("the context prints as %s", got)
			}
		}
	})), "session_id="+value)
}

// A new ID that Save stored reaches the client through whoever recovers from a panic, and what came after the Save
// is dropped for good.
func TestPanicAfterSave(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	value, _ := begin(t, m)
	var s *session.Session
	res := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			recover()
			w.WriteHeader(http.StatusInternalServerError)
		}()
		handle(m, func(its *session.Session) {
			s = its
			s.Regenerate()
			if err := s.Save(t.Context()); err != nil {
				t.Errorf("Save: %v", err)
			}
			s.Set("k", 2)
			panic("boom")
		}).ServeHTTP(w, r)
	}), "session_id="+value)
	if err := s.Save(t.Context()); err != nil {
		t.Errorf("Save by a goroutine that was left: %v", err)
	}
	serve(handle(m, func(s *session.Session) {
		if got, _ := s.Get("k"); got != int64(1) {
			t.Errorf("the value is %v", got)
		}
	}), "session_id="+cookieValue(setCookie(t, res.Header, "session_id")))
}

// Late in a response, a session may become empty: it stays, as its cookie does.
func TestEmptiedLate(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	value, id := begin(t, m)
	serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
		session.FromContext(r.Context()).Clear()
	})), "session_id="+value)
	serve(handle(m, func(s *session.Session) {
		if s.ID() != id || s.Len() != 0 || s.WasUnknown() {
			t.Errorf("the session is %v", s)
		}
	}), "session_id="+value)
}

// net/http removes the temporary files of an upload when the request has ended.
func TestUploadsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	m := newManager(t, session.NewMemoryStore(), nil)
	uploads := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "multipart-*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	server := httptest.NewServer(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1); err != nil || len(uploads()) != 1 {
			t.Errorf("%v, files %q", err, uploads())
		}
	})))
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	file, err := form.CreateFormFile("file", "name")
	if err != nil {
		t.Fatal(err)
	}
	file.Write(make([]byte, 11<<20)) // more than package multipart keeps in memory in any case
	form.Close()
	res, err := server.Client().Post(server.URL, form.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	server.Close() // waits for the request's end
	if names := uploads(); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
}

// Values that ServeMux, other routers and net/http put into the request are there for middleware outside, as it is without the
// manager: access logs, metrics and traces name their routes by it.
func TestRequestComesBack(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, test := range []struct {
		name, pattern, method, path, body string
		handle                            func(r *http.Request)
		want                              string
	}{
		{"pattern", "GET /users/{id}", "GET", "/users/7", "", nil, "GET /users/{id} id=7"},
		{"several wildcards", "/{a}/x/{rest...}", "GET", "/1/x/2/3", "", nil, "/{a}/x/{rest...} a=1 rest=2/3"},
		{"host and end", "example.com/{a}/{$}", "GET", "http://example.com/1/", "", nil, "example.com/{a}/{$} a=1"},
		{"none", "/", "GET", "/x", "", nil, "/"},
		{"of the handler's own", "/", "GET", "/x", "", func(r *http.Request) {
			r.Pattern = "/{id:[0-9]+}/{b}" // as of a router with another syntax
			r.SetPathValue("id", "8")
			r.SetPathValue("b", "9")
		}, "/{id:[0-9]+}/{b} id=8 b=9"},
		{"form", "POST /{$}", "POST", "/?q=1", "f=2", func(r *http.Request) { r.ParseForm() }, "POST /{$} q=1 f=2 f=2"},
		{"upload", "POST /{$}", "POST", "/?q=1", "", func(r *http.Request) { r.ParseMultipartForm(1 << 20) }, "POST /{$} q=1 u=3 u=3"},
		{"panic", "GET /users/{id}", "GET", "/users/7", "", func(*http.Request) { panic(http.ErrAbortHandler) }, "GET /users/{id} id=7"},
		{"redirect to the clean path", "/a/{b}/", "GET", "/a/1//", "", nil, "/a/{b}/"},
	} {
		for how, wrap := range map[string]func(http.Handler) http.Handler{
			"without": func(h http.Handler) http.Handler { return h },
			"one":     func(h http.Handler) http.Handler { return newManager(t, session.NewMemoryStore(), nil).Handler(h) },
			"disabled": func(h http.Handler) http.Handler {
				return newManager(t, nil, &session.Options{Disabled: true}).Handler(h)
			},
			"two": func(h http.Handler) http.Handler {
				outer := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "outer"}})
				return outer.Handler(newManager(t, session.NewMemoryStore(), nil).Handler(h))
			},
		} {
			t.Run(test.name+"/"+how, func(t *testing.T) {
				mux := http.NewServeMux()
				mux.HandleFunc(test.pattern, func(_ http.ResponseWriter, r *http.Request) {
					if test.handle != nil {
						test.handle(r)
					}
				})
				r := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
				r.Header.Set("Content-Type", form)
				if test.name == "upload" {
					var body bytes.Buffer
					w := multipart.NewWriter(&body)
					w.WriteField("u", "3")
					w.Close()
					r.Body = io.NopCloser(&body)
					r.Header.Set("Content-Type", w.FormDataContentType())
				}
				ctx := r.Context()
				func() {
					defer func() { recover() }()
					wrap(mux).ServeHTTP(httptest.NewRecorder(), r)
				}()
				got := []string{r.Pattern}
				for _, name := range []string{"a", "id", "id:[0-9]+", "b", "rest", "$", "rest..."} {
					if v := r.PathValue(name); v != "" {
						got = append(got, name+"="+v)
					}
				}
				for _, values := range []url.Values{r.Form, r.PostForm} {
					for _, name := range []string{"q", "f", "u"} {
						if v := values.Get(name); v != "" {
							got = append(got, name+"="+v)
						}
					}
				}
				if got := strings.Join(got, " "); got != test.want || r.Context() != ctx {
					t.Errorf("outside, the request has %q, want %q", got, test.want)
				}
			})
		}
	}
}

// Trailers of the request, which net/http puts there once the body has been read, are seen inside and outside.
func TestRequestTrailers(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	inside, outside := "", ""
	inner := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		inside = r.Trailer.Get("X-Sum")
	}))
	for _, http2 := range []bool{false, true} {
		inside, outside = "", ""
		srv := newServer(t, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r)
			outside = r.Trailer.Get("X-Sum")
		}))
		r, err := http.NewRequest(http.MethodPost, srv.URL, io.MultiReader(strings.NewReader("body"))) // of unknown length
		if err != nil {
			t.Fatal(err)
		}
		r.Trailer = http.Header{"X-Sum": {"7"}}
		res, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if inside != "7" || outside != "7" {
			t.Errorf("HTTP/2 %v: the trailer is %q inside and %q outside", http2, inside, outside)
		}
	}
}

// An error handler may show a page of the application. The session is out of reach there, and says so: it does not fail
// once more, and call the error handler again.
func TestErrorHandlerWithinApplication(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	var app http.Handler
	calls := 0
	m := newManager(t, store, &session.Options{Logger: quiet, ErrorHandler: func(w http.ResponseWriter, r *http.Request, _ error) {
		if calls++; calls > 9 {
			return
		}
		page := r.Clone(r.Context())
		page.URL.Path = "/sorry"
		app.ServeHTTP(w, page)
	}})
	value, _ := begin(t, m)
	app = m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sorry" {
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, "ErrorHandler") {
					t.Errorf("panic: %s", p)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				io.WriteString(w, "sorry")
			}()
		}
		session.FromContext(r.Context()).Get("k")
	}))
	store.Hook(double.Fail(errDown))
	res := serve(app, "session_id="+value)
	if body := readBody(t, res); res.StatusCode != http.StatusServiceUnavailable || body != "sorry" || calls != 1 {
		t.Errorf("the answer is %d %q, after %d calls of the error handler", res.StatusCode, body, calls)
	}
}

// After a panic no cookie is sent, so that a goroutine of the handler stores no new session: nobody could reach it.
func TestSaveAfterPanic(t *testing.T) {
	store := session.NewMemoryStore()
	m := newManager(t, store, &session.Options{Logger: quiet})
	var kept *session.Session
	func() {
		defer func() { recover() }()
		serve(handle(m, func(s *session.Session) {
			kept = s
			s.Get("k")
			panic("boom")
		}))
	}()
	kept.Set("k", 1)
	if err := kept.Save(t.Context()); !errors.Is(err, session.ErrHeaderSent) || recordCount(t, store) != 0 {
		t.Errorf("Save: %v, and the store has %d records", err, recordCount(t, store))
	}
}
