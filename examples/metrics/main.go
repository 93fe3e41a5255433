// Metrics counts what happens to sessions and what the store does, in two ways: plain.go with expvar and nothing else, at
// /debug/vars, and telemetry.go with OpenTelemetry, at /metrics for Prometheus. Both are on an address of their own that is
// not for the public. An application needs one of them. Try it with curl -c jar -b jar http://127.0.0.1:8080/, and look at
// http://127.0.0.1:8081/metrics.
//
// prometheus.yaml has Prometheus fetch the metrics and watch them by alerts.yaml; dashboard.json is for Grafana.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"expvar"
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

const visits session.Key[int] = "visits"

func newHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		fmt.Fprintf(w, "This is visit %d.\n", visits.Update(s, func(n int) int { return n + 1 }))
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser(r.FormValue("user")) // who would have to give a password
		fmt.Fprintln(w, "Welcome.")
	})
	mux.HandleFunc("POST /work", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if s.Lock(r.Context()) == nil { // one request of a session at a time; Err has what went wrong
			visits.Update(s, func(n int) int { return n + 1 })
		}
		fmt.Fprintln(w, "Done.")
	})
	mux.HandleFunc("POST /end", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Destroy()
		fmt.Fprintln(w, "Good bye.")
	})
	return mux
}

func main() {
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks a free one")
	flag.StringVar(&c.debug, "debug", "127.0.0.1:8081", "`address` of /debug/vars and /metrics")
	flag.StringVar(&c.store, "store", "", "`URL` of the session store; one with a password belongs into "+
		"SESSION_STORE, since /debug/vars shows the command line; empty for a temporary file")
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

type config struct{ addr, debug, store, secret string }

// run serves until ctx is done, and then until all requests are answered.
func (c *config) run(ctx context.Context) error {
	store, err := session.Open(ctx, c.store)
	if err != nil {
		return err
	}
	defer store.Close()
	counted := newMetrics()
	counted.watch(store)
	exported, err := newTelemetry(store)
	if err != nil {
		return err
	}
	defer exported.close()
	m, err := session.New(store, []byte(c.secret), &session.Options{
		Cookie: session.Cookie{InsecureHTTP: true}, // there is no TLS here
		Observer: func(ctx context.Context, e session.Event) {
			counted.observe(ctx, e)
			exported.Observe(ctx, e)
		},
	})
	if err != nil {
		return err
	}
	defer m.Close()

	public, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	private, err := net.Listen("tcp", c.debug)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\nmetrics on http://%s/debug/vars\nprometheus on http://%[2]s/metrics\n", public.Addr(), private.Addr())
	debug := http.NewServeMux()
	debug.Handle("GET /debug/vars", expvar.Handler())
	debug.Handle("GET /metrics", exported.page)
	server := &http.Server{Handler: m.Handler(newHandler()), ReadTimeout: 10 * time.Second}
	look := &http.Server{Handler: debug, ReadTimeout: 10 * time.Second}
	defer look.Close()
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(public) }()
	go func() { failed <- look.Serve(private) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(limit)
}
