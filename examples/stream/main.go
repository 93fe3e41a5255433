// Stream has two long-lived handlers that use the session: a websocket that saves a draft while it is being typed,
// and server-sent events that show what is saved, in all tabs. Both end when the session ends, wherever that is
// done. Run it, open the address that it prints in two tabs, and log out in one of them.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/session"
)

func main() {
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks a free one")
	flag.StringVar(&c.store, "store", "", "`URL` of the session store (default: the variable SESSION_STORE, or a temporary file)")
	flag.StringVar(&c.cert, "cert", "", "`file` with the TLS certificate; empty for plain HTTP, to develop with")
	flag.StringVar(&c.key, "key", "", "`file` with the certificate's private key")
	flag.DurationVar(&c.renew, "renew", 0, "how long a session's cookie keeps its value; 0 for 4 minutes")
	flag.DurationVar(&c.every, "every", 2*time.Second, "how often a stream looks what others have saved")
	flag.Parse()
	c.store = cmp.Or(c.store, os.Getenv("SESSION_STORE"))
	c.secret = os.Getenv("SESSION_SECRET")
	if c.secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		c.secret = rand.Text() + rand.Text()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		log.Fatal(err)
	}
}

type config struct {
	addr, store, cert, key, secret string
	renew, every                   time.Duration
}

// run serves until ctx is done, and then until all requests are answered and all streams have ended.
func (c *config) run(ctx context.Context) error {
	store, err := session.Open(ctx, c.store)
	if err != nil {
		return err
	}
	defer store.Close()
	app, err := newApp(store, []byte(c.secret), c.cert != "", c.renew, c.every)
	if err != nil {
		return err
	}
	defer app.sessions.Close()

	// No limit to the time that a response takes: those of the streams take long.
	server := &http.Server{Handler: app, ReadHeaderTimeout: 10 * time.Second}
	server.RegisterOnShutdown(app.endStreams)
	scheme, serve := "http", server.Serve
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		scheme, serve = "https", func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s://%s\n", scheme, listener.Addr())
	failed := make(chan error, 1)
	go func() { failed <- serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = server.Shutdown(limit)
	app.sockets.Wait() // Shutdown does not wait for them
	return err
}
