// Frameworks is the same small application with chi, with gin and with Echo, and as procedures of connect-go. Choose by
// -framework, and try it with curl -c jar -b jar http://127.0.0.1:8080/
package main

import (
	"cmp"
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

func increment(n int) int { return n + 1 }

func greeting(user string, visit int) string {
	if user == "" {
		user = "stranger"
	}
	return fmt.Sprintf("Hello %s, this is visit %d.\n", user, visit)
}

var frameworks = map[string]func(*session.Manager) http.Handler{
	"chi": newChi, "gin": newGin, "echo": newEcho, "connect": newConnect,
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks a free one")
	storeURL := flag.String("store", "", "`URL` of the session store (default: the variable SESSION_STORE, or a temporary file)")
	framework := flag.String("framework", "chi", "chi, gin, echo or connect")
	flag.Parse()
	secret := os.Getenv("SESSION_SECRET")
	if secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		secret = rand.Text() + rand.Text()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, cmp.Or(*storeURL, os.Getenv("SESSION_STORE")), secret, *framework); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx is done, and then until all requests are answered.
func run(ctx context.Context, addr, storeURL, secret, framework string) error {
	newHandler, ok := frameworks[framework]
	if !ok {
		return fmt.Errorf("unknown framework %q", framework)
	}
	store, err := session.Open(ctx, storeURL)
	if err != nil {
		return err
	}
	defer store.Close()
	cookie := session.Cookie{InsecureHTTP: true} // there is no TLS here
	m, err := session.New(store, []byte(secret), &session.Options{Cookie: cookie, TokenHeader: "Session-Token"})
	if err != nil {
		return err
	}
	defer m.Close()

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: newHandler(m), ReadTimeout: 10 * time.Second}
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
