package session

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// A response is the ResponseWriter that the handler gets. Whatever makes the header leave goes through
// exchange.begin first, and there is no way around it: Unwrap leads to a guard, not to the original.
type response struct{ x *exchange }

func (w response) Header() http.Header {
	if dropped := w.x.dropped.Load(); dropped != nil {
		return *dropped
	}
	return w.x.w.Header()
}

func (w response) WriteHeader(status int) {
	if 100 <= status && status <= 199 && status != http.StatusSwitchingProtocols {
		// An informational response: the final one is still to come.
		w.x.mu.Lock()
		failed := w.x.failed
		w.x.mu.Unlock()
		if failed == nil {
			w.x.w.WriteHeader(status)
		}
		return
	}
	if w.x.begin() == nil {
		w.x.w.WriteHeader(status)
	}
}

func (w response) Write(b []byte) (int, error) {
	if err := w.x.begin(); err != nil {
		return 0, err
	}
	return w.x.w.Write(b)
}

func (w response) WriteString(s string) (int, error) {
	if err := w.x.begin(); err != nil {
		return 0, err
	}
	return io.WriteString(w.x.w, s)
}

// FlushError is what http.ResponseController.Flush calls.
func (w response) FlushError() error {
	first := !w.x.begun()
	err := w.x.begin()
	flushErr := http.NewResponseController(w.x.w).Flush() // what the error handler wrote as well
	if first && errors.Is(flushErr, http.ErrNotSupported) {
		w.x.goBack()
	}
	return cmp.Or(err, flushErr)
}

// Unwrap is for http.ResponseController.
func (w response) Unwrap() http.ResponseWriter { return guard{w, controls{w.x.w}, w.x} }

// A guard lets an http.ResponseController have what the original, or what that wraps, has to offer, and
// nothing that would send the header without a commit.
type guard struct {
	http.ResponseWriter // the response, less its optional methods
	controls
	x *exchange
}

// controls are the methods for an http.ResponseController that send nothing.
type controls struct{ original http.ResponseWriter }

func (c controls) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(c.original).SetReadDeadline(t)
}

func (c controls) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(c.original).SetWriteDeadline(t)
}

func (c controls) EnableFullDuplex() error {
	return http.NewResponseController(c.original).EnableFullDuplex()
}

func (g guard) Hijack() (net.Conn, *bufio.ReadWriter, error) { return hijacker{g.x}.Hijack() }

// The optional interfaces, each a type of its own so that a response can have any set of them.
type (
	flusher    struct{ x *exchange }
	hijacker   struct{ x *exchange }
	readerFrom struct{ x *exchange }
	pusher     struct{ x *exchange }
)

func (f flusher) Flush() {
	f.x.begin()
	f.x.w.(http.Flusher).Flush() // also what the error handler wrote: the handler may go on for long
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	first := !h.x.begun()
	if err := h.x.beginHijack(); err != nil {
		return nil, nil, err
	}
	conn, buf, err := http.NewResponseController(h.x.w).Hijack()
	if first && err != nil && !errors.Is(err, http.ErrHijacked) {
		h.x.goBack()
	}
	return conn, buf, err
}

// sniffLen is how much net/http wants to see of a body to tell its type.
const sniffLen = 512

func (r readerFrom) ReadFrom(src io.Reader) (n int64, err error) {
	if !r.x.begun() {
		// A source without a first byte leaves the header to the handler, as it does with net/http.
		first := make([]byte, sniffLen)
		length, err := io.ReadAtLeast(src, first, 1)
		if err == io.EOF {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
		written, err := response(r).Write(first[:length])
		if n = int64(written); err != nil {
			return n, err
		}
	}
	if err := r.x.begin(); err != nil {
		return n, err
	}
	more, err := r.x.w.(io.ReaderFrom).ReadFrom(src)
	return n + more, err
}

func (p pusher) Push(target string, opts *http.PushOptions) error {
	return p.x.w.(http.Pusher).Push(target, opts)
}

// writer returns a response with exactly the optional interfaces that the original has.
func (x *exchange) writer() http.ResponseWriter {
	const f, h, r, p = 1, 2, 4, 8
	has := 0
	if _, ok := x.w.(http.Flusher); ok {
		has |= f
	}
	if _, ok := x.w.(http.Hijacker); ok {
		has |= h
	}
	if _, ok := x.w.(io.ReaderFrom); ok {
		has |= r
	}
	if _, ok := x.w.(http.Pusher); ok {
		has |= p
	}
	w := response{x}
	switch has {
	case f:
		return struct {
			response
			flusher
		}{w, flusher{x}}
	case h:
		return struct {
			response
			hijacker
		}{w, hijacker{x}}
	case f | h:
		return struct {
			response
			flusher
			hijacker
		}{w, flusher{x}, hijacker{x}}
	case r:
		return struct {
			response
			readerFrom
		}{w, readerFrom{x}}
	case f | r:
		return struct {
			response
			flusher
			readerFrom
		}{w, flusher{x}, readerFrom{x}}
	case h | r:
		return struct {
			response
			hijacker
			readerFrom
		}{w, hijacker{x}, readerFrom{x}}
	case f | h | r: // net/http's HTTP/1.1
		return struct {
			response
			flusher
			hijacker
			readerFrom
		}{w, flusher{x}, hijacker{x}, readerFrom{x}}
	case p:
		return struct {
			response
			pusher
		}{w, pusher{x}}
	case f | p: // net/http's HTTP/2
		return struct {
			response
			flusher
			pusher
		}{w, flusher{x}, pusher{x}}
	case h | p:
		return struct {
			response
			hijacker
			pusher
		}{w, hijacker{x}, pusher{x}}
	case f | h | p:
		return struct {
			response
			flusher
			hijacker
			pusher
		}{w, flusher{x}, hijacker{x}, pusher{x}}
	case r | p:
		return struct {
			response
			readerFrom
			pusher
		}{w, readerFrom{x}, pusher{x}}
	case f | r | p:
		return struct {
			response
			flusher
			readerFrom
			pusher
		}{w, flusher{x}, readerFrom{x}, pusher{x}}
	case h | r | p:
		return struct {
			response
			hijacker
			readerFrom
			pusher
		}{w, hijacker{x}, readerFrom{x}, pusher{x}}
	case f | h | r | p:
		return struct {
			response
			flusher
			hijacker
			readerFrom
			pusher
		}{w, flusher{x}, hijacker{x}, readerFrom{x}, pusher{x}}
	}
	return w
}
