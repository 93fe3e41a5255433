// Login is a web application with accounts: log in, stay logged in, see your devices and log them out, change the
// password. Run it, open the address that it prints, and log in with what it prints.
//
// It is complete in what has to do with sessions. A public site needs more, which is left out: signing up,
// resetting a lost password, a second factor, and a limit to the rate of attempts.
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
	flag.StringVar(&c.user, "user", "ann", "`name` of the one user")
	flag.DurationVar(&c.renew, "renew", 0, "how long a session's cookie keeps its value; 0 for 4 minutes")
	flag.DurationVar(&c.fresh, "fresh", 5*time.Minute, "how recent a login must be to change the password")
	flag.Parse()
	c.store = cmp.Or(c.store, os.Getenv("SESSION_STORE"))
	c.secret = os.Getenv("SESSION_SECRET")
	if c.secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		c.secret = rand.Text() + rand.Text()
	}
	c.password = os.Getenv("LOGIN_PASSWORD")
	if c.password == "" {
		c.password = rand.Text()
		log.Printf("LOGIN_PASSWORD is not set; log in as %s with the password %s", c.user, c.password)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		log.Fatal(err)
	}
}

type config struct {
	addr, store, cert, key, secret string
	user, password                 string
	renew, fresh                   time.Duration
}

// run serves until ctx is done, and then until all requests are answered.
func (c *config) run(ctx context.Context) error {
	store, err := session.Open(ctx, c.store)
	if err != nil {
		return err
	}
	defer store.Close()
	people := newAccounts(defaultIterations)
	if err := people.setPassword(c.user, c.password); err != nil {
		return err
	}
	app, err := newApp(store, []byte(c.secret), people, c.cert != "", c.renew, c.fresh)
	if err != nil {
		return err
	}
	defer app.sessions.Close()

	server := &http.Server{Handler: app, ReadTimeout: 10 * time.Second}
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
	return server.Shutdown(limit)
}
