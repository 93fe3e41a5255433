package servertest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Listen has serve called for each connection to the address that it returns, and closes the connection afterwards.
// Connections that are open when the test ends are closed then, and waited for.
func Listen(tb testing.TB, serve func(client *net.TCPConn)) (addr string) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	tb.Cleanup(func() {
		listener.Close()
		cancel()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { client.Close() })
			running.Go(func() {
				defer stop()
				defer client.Close()
				serve(client.(*net.TCPConn))
			})
		}
	})
	return listener.Addr().String()
}

// Proxy is Listen for a serve that passes on between the client and a server, each way on a goroutine of its own: request and
// reply see what comes before it is passed on, and end the connection by returning false. They may be nil. connect is called
// for each new connection; it returns the server's address, and request and reply.
func Proxy(tb testing.TB, connect func(client *net.TCPConn) (server string, request, reply func([]byte) bool)) (addr string) {
	tb.Helper()
	return Listen(tb, func(client *net.TCPConn) {
		target, request, reply := connect(client)
		server, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		var way sync.WaitGroup
		way.Go(func() {
			defer client.Close()
			Relay(client, server, reply)
		})
		Relay(server, client, request)
		server.Close()
		way.Wait()
	})
}

// Relay copies from one connection to another, as long as pass returns true for what comes, or is nil.
func Relay(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || pass != nil && !pass(buf[:n]) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
