// Quickstart counts visits and knows who is logged in. Try it with curl -c jar -b jar http://127.0.0.1:8080/
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

	"example.com/session"
)

const visits session.Key[int] = "visits" // a typed key is a constant

func home(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	n := visits.Update(s, func(n int) int { return n + 1 })
	fmt.Fprintf(w, "Hello %s, this is visit %d.\n", cmp.Or(s.User(), "stranger"), n)
}

func login(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	s.SetUser(r.FormValue("user")) // once the password was checked; the client gets another cookie, too
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func logout(w http.ResponseWriter, r *http.Request) {
	session.FromContext(r.Context()).Destroy()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

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
	http.HandleFunc("GET /{$}", home)
	http.HandleFunc("POST /login", login)
	http.HandleFunc("POST /logout", logout)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: m.Handler(http.DefaultServeMux)}
	go server.Serve(listener)
	<-ctx.Done()
	return server.Shutdown(context.Background()) // once all requests are answered
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on; port 0 picks a free one")
	storeURL := flag.String("store", "", "URL of the store (default: the variable SESSION_STORE, or a temporary file)")
	flag.Parse()
	secret := os.Getenv("SESSION_SECRET")
	if secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		secret = rand.Text() + rand.Text()
	}
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err := run(ctx, *addr, cmp.Or(*storeURL, os.Getenv("SESSION_STORE")), secret); err != nil {
		log.Fatal(err)
	}
}
