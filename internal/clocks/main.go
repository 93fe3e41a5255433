// Clocks is an application of which several processes share a store. Its tests run them with clocks that differ.
//
// A request to /do carries steps, which its handler takes one after the other with the session; the answer tells
// what the session was then. /held and /release tell of a handler that holds, and let it go on. /sweep removes
// the expired sessions.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"example.com/session"
)

const hits session.Key[int] = "hits"

// An answer is what a request to /do found, once it had taken its steps.
type answer struct {
	New, Unknown bool
	Hits         int
}

type app struct {
	store session.Store
	m     *session.Manager
	holds chan chan struct{} // each closed to let a handler go on

	mu   sync.Mutex
	held []chan struct{} // those that /held has told of
}

func (a *app) do(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	s.Len() // it is loaded before anything else is done
	for _, step := range r.URL.Query()["step"] {
		switch step {
		case "hit":
			hits.Update(s, func(n int) int { return n + 1 })
		case "regenerate":
			s.Regenerate()
		case "login":
			s.SetUser("ann")
		case "destroy":
			s.Destroy()
		case "lock":
			s.Lock(r.Context()) // its error stays with the session
		case "hold":
			hold := make(chan struct{})
			a.holds <- hold
			<-hold
		default:
			http.Error(w, fmt.Sprintf("unknown step %q", step), http.StatusBadRequest)
			return
		}
	}
	json.NewEncoder(w).Encode(answer{s.IsNew(), s.WasUnknown(), hits.GetOr(s, 0)})
}

func (a *app) wait(http.ResponseWriter, *http.Request) {
	hold := <-a.holds
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = append(a.held, hold)
}

func (a *app) release(http.ResponseWriter, *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, hold := range a.held {
		close(hold)
	}
	a.held = nil
}

func (a *app) end(w http.ResponseWriter, r *http.Request) {
	n, err := a.m.EndSessions(r.Context(), session.OfUser("ann"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, n)
}

func (a *app) sweep(w http.ResponseWriter, r *http.Request) {
	n, err := session.DeleteExpired(r.Context(), a.store)
	switch {
	case errors.Is(err, errors.ErrUnsupported): // the server does it
		w.WriteHeader(http.StatusNotImplemented)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, n)
}

func run(storeURL string, opts *session.Options) error {
	store, err := session.Open(context.Background(), storeURL)
	if err != nil {
		return err
	}
	defer store.Close()
	m, err := session.New(store, []byte(strings.Repeat("s", 32)), opts)
	if err != nil {
		return err
	}
	defer m.Close()
	a := &app{store: store, m: m, holds: make(chan chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/do", a.do)
	mux.HandleFunc("/held", a.wait)
	mux.HandleFunc("/release", a.release)
	mux.HandleFunc("/end", a.end)
	mux.HandleFunc("/sweep", a.sweep)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(listener, m.Handler(mux))
	fmt.Printf("%s %d\n", listener.Addr(), time.Now().UnixMilli())
	io.Copy(io.Discard, os.Stdin) // until the test ends
	return nil
}

func main() {
	opts := &session.Options{
		Cookie:        session.Cookie{InsecureHTTP: true},
		SweepInterval: session.Never,
		StoreTimeout:  30 * time.Second, // for machines that are busy
	}
	storeURL := flag.String("store", "", "URL of the store")
	flag.DurationVar(&opts.IdleTimeout, "idle", 0, "Options.IdleTimeout")
	flag.DurationVar(&opts.RenewGrace, "grace", 0, "Options.RenewGrace")
	flag.DurationVar(&opts.LockWait, "lock-wait", 0, "Options.LockWait")
	flag.Parse()
	if err := run(*storeURL, opts); err != nil {
		log.Fatal(err)
	}
}
