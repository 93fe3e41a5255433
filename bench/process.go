package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
)

// A client sends requests to a handler in this process, one after the other, and costs next to nothing itself: no
// allocation of its own is counted.
type client struct {
	handler  http.Handler
	requests []*http.Request // one a session
	next     int
	follow   bool // take the cookie of a response for the session's next request
	work     http.Request
	writer   discard
	failed   int
}

// newClient returns a client whose requests carry one of the cookies each.
func newClient(h http.Handler, cookies []string, follow bool) *client {
	c := &client{handler: h, follow: follow, writer: discard{header: make(http.Header)}}
	for _, cookie := range cookies {
		c.requests = append(c.requests, newRequest(cookie))
	}
	return c
}

func newRequest(cookie string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	if cookie != "" {
		r.Header["Cookie"] = []string{cookie}
	}
	return r
}

// do sends n requests.
func (c *client) do(n int) {
	for range n {
		r := c.requests[c.next]
		if c.next++; c.next == len(c.requests) {
			c.next = 0
		}
		c.send(r)
		if lines := c.writer.header["Set-Cookie"]; c.follow && len(lines) > 0 {
			r.Header["Cookie"][0] = cookieOf(lines)
		}
	}
	if c.failed > 0 {
		panic(fmt.Sprintf("bench: %d of %d requests failed", c.failed, n))
	}
}

func (c *client) send(r *http.Request) {
	c.work = *r // some libraries change the request
	clear(c.writer.header)
	c.writer.status = http.StatusOK
	c.handler.ServeHTTP(&c.writer, &c.work)
	if c.writer.status != http.StatusOK {
		c.failed++
	}
}

// seed begins n sessions and returns their cookies.
func seed(l library, p payload, n int) []string {
	h := l.handler(create, p)
	cookies := make([]string, n)
	inParallel(n, 8, func(i int) { // stores on a disk are quicker then
		c := newClient(h, []string{""}, false)
		c.do(1)
		cookies[i] = cookieOf(c.writer.header["Set-Cookie"])
	})
	return cookies
}

// inParallel calls do with each number below n, by so many goroutines.
func inParallel(n, atOnce int, do func(i int)) {
	var wg sync.WaitGroup
	for first := range atOnce {
		wg.Go(func() {
			for i := first; i < n; i += atOnce {
				do(i)
			}
		})
	}
	wg.Wait()
}

// cookieOf returns what a Cookie header sends back of the last Set-Cookie line.
func cookieOf(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	pair, _, _ := strings.Cut(lines[len(lines)-1], ";")
	return pair
}

// A discard is a ResponseWriter with what that of net/http has, and drops what it is given.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Flush()                      {}

func (d *discard) ReadFrom(src io.Reader) (int64, error) { return io.Copy(io.Discard, src) }

func (d *discard) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.ErrUnsupported
}
