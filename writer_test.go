package session_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/session"
)

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

func (f *fakeWriter) Header() http.Header         { return f.header }
func (f *fakeWriter) WriteHeader(int)             { f.note("WriteHeader") }
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
