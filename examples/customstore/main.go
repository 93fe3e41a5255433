// Customstore keeps sessions where the library does not: in NATS JetStream, by a store of its own. store.go has all that takes,
// and main_test.go has it checked. Try it with nats-server -js and curl -c jar -b jar http://127.0.0.1:8080/
package main

import (
	"context"
	"crypto/rand"
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

func home(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	fmt.Fprintf(w, "This is visit %d.\n", visits.Update(s, func(n int) int { return n + 1 }))
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks a free one")
	storeURL := flag.String("store", "nats://127.0.0.1:4222", "`URL` of the session store")
	flag.Parse()
	secret := os.Getenv("SESSION_SECRET")
	if secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		secret = rand.Text() + rand.Text()
	}
	// From here on, session.Open knows the scheme, wherever it is called.
	if err := session.RegisterScheme("nats", openNATS); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *storeURL, secret); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx is done, and then until all requests are answered.
func run(ctx context.Context, addr, storeURL, secret string) error {
	store, err := session.Open(ctx, storeURL)
	if err != nil {
		return err
	}
	defer store.Close()
	cookie := session.Cookie{InsecureHTTP: true} // there is no TLS here
	m, err := session.New(store, []byte(secret), &session.Options{Cookie: cookie})
	if err != nil {
		return err
	}
	defer m.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", home)

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: m.Handler(mux), ReadTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(limit)
}
