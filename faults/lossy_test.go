package faults

import (
	"bytes"
	"example.com/session/internal/servertest"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A lossy is a proxy that loses what it is told to: requests that hold a certain text, or their replies.
type lossy struct {
	addr     string
	upstream string
	text     []byte

	mu       sync.Mutex
	requests int // so many of the next requests are lost, before the server sees them
	replies  int // so many of the next replies are lost, when the server has done its work
	lost     int
	then     func() // called when a reply is lost, before anybody learns of it; nil: nothing
}

func newLossy(tb testing.TB, upstream, text string) *lossy {
	tb.Helper()
	p := &lossy{upstream: upstream, text: []byte(text)}
	p.addr = servertest.Listen(tb, p.serve)
	return p
}

// lose sets how many of the next requests and replies are lost, and what happens when a reply is.
func (p *lossy) lose(requests, replies int, then func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.replies, p.then, p.lost = requests, replies, then, 0
}

// count returns how many requests and replies were lost since lose.
func (p *lossy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// judge decides what becomes of a request.
func (p *lossy) judge(request []byte) (loseRequest, loseReply bool) {
	if !bytes.Contains(request, p.text) {
		return false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.requests > 0:
		p.requests--
		p.lost++
		return true, false
	case p.replies > 0:
		p.replies--
		p.lost++
		return false, true
	}
	return false, false
}

// serve passes on what comes, until something is to be lost: the connection is then reset. A request is taken
// to come in one piece, and its reply to begin after it, as with all protocols here.
func (p *lossy) serve(client *net.TCPConn) {
	conn, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	var awaited atomic.Bool // the reply that is to be lost
	var replies sync.WaitGroup
	defer replies.Wait()
	defer server.Close()
	replies.Go(func() {
		defer client.Close()
		servertest.Relay(client, server, func([]byte) bool { return !awaited.Load() })
		if awaited.Load() {
			p.mu.Lock()
			then := p.then
			p.mu.Unlock()
			if then != nil {
				then()
			}
		}
		client.SetLinger(0)
	})
	servertest.Relay(server, client, func(request []byte) bool {
		loseRequest, loseReply := p.judge(request)
		if loseReply {
			awaited.Store(true)
		}
		return !loseRequest
	})
	if !awaited.Load() {
		client.SetLinger(0)
		return
	}
	// Whoever waits for the reply closes the connection, when it is there.
	io.Copy(io.Discard, client)
}
