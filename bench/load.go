package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A site serves a library's handlers on the loopback interface.
type site struct {
	name   string
	server *http.Server
	addr   string
}

func newSite(l library) *site {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	s := &site{name: l.name, server: &http.Server{Handler: l.mux()}, addr: listener.Addr().String()}
	go s.server.Serve(listener)
	return s
}

func (s *site) close() { s.server.Close() }

// A load is a number of connections that each send a request, wait for the response, and send the next.
type load struct {
	site  *site
	conns []*conn
}

// newLoad connects. The connections share out the sessions.
func newLoad(s *site, path string, cookies []string, conns int, follow bool) *load {
	l := &load{site: s}
	for i := range conns {
		c := &conn{path: path, follow: follow}
		for j := i; j < len(cookies); j += conns {
			c.cookies = append(c.cookies, cookies[j])
		}
		c.Conn = must(net.Dial("tcp", s.addr))
		c.in = bufio.NewReader(c.Conn)
		l.conns = append(l.conns, c)
	}
	return l
}

func (l *load) close() {
	for _, c := range l.conns {
		c.Close()
	}
}

// run sends requests for that long, and at least one on each connection, and returns how many it sent a second and
// how long each took.
func (l *load) run(d time.Duration) (rate float64, took latencies) {
	perConn := make([]latencies, len(l.conns))
	errs := make([]error, len(l.conns))
	start := time.Now()
	var wg sync.WaitGroup
	for i, c := range l.conns {
		wg.Go(func() {
			for sent := start; errs[i] == nil && (len(perConn[i]) == 0 || time.Since(start) < d); {
				_, errs[i] = c.roundTrip()
				now := time.Now()
				perConn[i] = append(perConn[i], now.Sub(sent))
				sent = now
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	check(errors.Join(errs...))
	for _, t := range perConn {
		took = append(took, t...)
	}
	return float64(len(took)) / elapsed.Seconds(), took
}

// A conn is an HTTP/1.1 client with as little of its own as possible: the server shares the machine with it.
type conn struct {
	net.Conn
	in      *bufio.Reader
	out     []byte
	path    string
	cookies []string
	next    int
	follow  bool // as in client
	cookie  string
}

// roundTrip sends a request of the next session, and returns the response's body, which is good until the next call.
func (c *conn) roundTrip() ([]byte, error) {
	if err := c.send(); err != nil {
		return nil, err
	}
	return c.receive()
}

func (c *conn) send() error {
	c.out = append(append(append(c.out[:0], "GET "...), c.path...), " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\n"...)
	if cookie := c.cookies[c.next]; cookie != "" {
		c.out = append(append(append(c.out, "Cookie: "...), cookie...), "\r\n"...)
	}
	_, err := c.Write(append(c.out, "\r\n"...))
	return err
}

func (c *conn) receive() ([]byte, error) {
	c.cookie = ""
	length, status := 0, ""
	for line := 0; ; line++ {
		b, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		b = bytes.TrimRight(b, "\r\n")
		if line == 0 {
			status = string(b)
			continue
		}
		if len(b) == 0 {
			break
		}
		key, value, _ := bytes.Cut(b, []byte(": "))
		switch string(key) {
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, err
			}
		case "Set-Cookie":
			if pair, _, _ := bytes.Cut(value, []byte(";")); strings.HasPrefix(string(pair), cookieName) {
				c.cookie = string(pair)
			}
		}
	}
	body, err := c.in.Peek(length)
	if err == nil {
		_, err = c.in.Discard(length)
	}
	if err == nil && !strings.HasSuffix(status, "200 OK") {
		err = &statusError{fmt.Sprintf("%s, %q", status, body)}
	}
	if c.follow && c.cookie != "" {
		c.cookies[c.next] = c.cookie
	}
	if c.next++; c.next == len(c.cookies) {
		c.next = 0
	}
	return body, err
}

// A statusError is an answer other than 200.
type statusError struct{ answer string }

func (e *statusError) Error() string { return "the answer was " + e.answer }

// A loadScore is what overLoopback found out about a contestant.
type loadScore struct {
	name     string
	rate     float64 // requests a second, the median of all rounds
	ratio    float64 // how much of the first contestant's rate, the median of the ratios within each round
	cpu      float64 // µs of processor time a request in this process, the client's included, the median of all rounds
	cpuRatio float64 // how many times the first contestant's, the median of the ratios within each round
	p50, p99 time.Duration
}

// overLoopback measures requests a second, what they cost and how long they take, of loads that take turns.
func (c contest) overLoopback(loads []*load) []loadScore {
	rates := make([][]float64, len(loads))
	cpu := make([][]float64, len(loads))
	took := make([]latencies, len(loads))
	for round := range c.rounds + 1 {
		for i, l := range loads {
			before := cpuTime()
			rate, t := l.run(c.turn)
			if round > 0 { // the first is to warm up
				rates[i] = append(rates[i], rate)
				cpu[i] = append(cpu[i], micros(cpuTime()-before)/float64(len(t)))
				took[i] = append(took[i], t...)
			}
		}
	}
	scores := make([]loadScore, len(loads))
	for i, l := range loads {
		scores[i] = loadScore{
			name: l.site.name,
			rate: median(rates[i]), ratio: medianRatio(rates[i], rates[0]),
			cpu: median(cpu[i]), cpuRatio: medianRatio(cpu[i], cpu[0]),
			p50: took[i].quantile(0.5), p99: took[i].quantile(0.99),
		}
	}
	return scores
}

// sixAtOnce sends six requests of one session at the same time, waits for all responses, and goes on with the
// next session. It returns requests a second and the number of requests sent for each session.
type sixAtOnce struct {
	site  *site
	conns [6]*conn
	sent  int // for each session
}

func newSixAtOnce(s *site, path string, cookies []string) *sixAtOnce {
	six := &sixAtOnce{site: s}
	for i := range six.conns {
		six.conns[i] = newLoad(s, path, cookies, 1, false).conns[0]
	}
	return six
}

func (s *sixAtOnce) close() {
	for _, c := range s.conns {
		c.Close()
	}
}

// pass goes once through all sessions.
func (s *sixAtOnce) pass() (rate float64) {
	start := time.Now()
	requests := 0
	for range s.conns[0].cookies {
		for _, c := range s.conns {
			check(c.send())
		}
		for _, c := range s.conns {
			// An answer that says that the update is lost is as good as one that does not, for this count.
			if _, err := c.receive(); !isStatus(err) {
				check(err)
			}
			requests++
		}
	}
	s.sent += len(s.conns)
	return float64(requests) / time.Since(start).Seconds()
}

func isStatus(err error) bool {
	_, ok := errors.AsType[*statusError](err)
	return ok
}

// kept returns which share of the updates that requests made is still there.
func (s *sixAtOnce) kept(totalPath string) float64 {
	cookies := s.conns[0].cookies
	l := newLoad(s.site, totalPath, cookies, 1, false)
	defer l.close()
	sum := 0
	for range cookies {
		body := must(l.conns[0].roundTrip())
		sum += must(strconv.Atoi(string(body)))
	}
	return float64(sum) / float64(s.sent*len(cookies))
}

// whileRunning sends requests until work returns, and returns how long each took.
func (l *load) whileRunning(work func()) latencies {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		work()
	}()
	var took latencies
	for ctx.Err() == nil {
		_, t := l.run(10 * time.Millisecond)
		took = append(took, t...)
	}
	return took
}
