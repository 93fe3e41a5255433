//go:build unix

package soak

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/session"
)

const (
	secret = "the secret of all processes, at least 32 bytes"
	tabs   = 3  // of a browser
	tail   = 32 // operations that a session remembers
)

// A site is what all processes serve alike.
type settings struct {
	idle, absolute, renew, grace time.Duration
	limit                        int // sessions for each user
}

func (s *settings) flags(f *flag.FlagSet) {
	f.DurationVar(&s.idle, "idle", 0, "Options.IdleTimeout")
	f.DurationVar(&s.absolute, "absolute", 0, "Options.AbsoluteTimeout")
	f.DurationVar(&s.renew, "renew", 0, "Options.RenewInterval")
	f.DurationVar(&s.grace, "grace", 0, "Options.RenewGrace")
	f.IntVar(&s.limit, "limit", 0, "Options.MaxSessionsPerUser")
}

func (s *settings) args() []string {
	return []string{
		"-idle", s.idle.String(), "-absolute", s.absolute.String(), "-renew", s.renew.String(), "-grace", s.grace.String(),
		"-limit", strconv.Itoa(s.limit),
	}
}

// A ledger is a value that tells which operations were applied to it, in which order.
type ledger struct {
	Count int
	Tail  []uint32 // the last of them
}

func (l ledger) add(op uint32) ledger {
	return ledger{l.Count + 1, append(slices.Clone(l.Tail[max(0, len(l.Tail)-tail+1):]), op)}
}

const (
	loginKey  session.Key[uint64] = "login" // which of all logins the session comes from
	ledgerKey session.Key[ledger] = "ledger"
)

func tabKey(tab string) session.Key[uint32] { return session.Key[uint32]("tab" + tab) }

// A state is what a response tells of the session.
type state struct {
	Login uint64 // 0: there is no session
	User  string
	Done  bool // what was asked for
	Exact bool // the ledger is as it was saved
	ledger
	Tabs [tabs]uint32
}

func look(s *session.Session) state {
	st := state{User: s.User()}
	st.Login, _ = loginKey.Get(s)
	st.ledger, _ = ledgerKey.Get(s)
	for i := range st.Tabs {
		st.Tabs[i], _ = tabKey(strconv.Itoa(i)).Get(s)
	}
	return st
}

// A service is one store's part of the site.
type service struct {
	manager  *session.Manager
	mu       sync.Mutex
	ops      map[string]int // calls of the store by operation
	events   map[string]int // by kind
	requests map[string]int
}

func newService(store session.Store, s *settings) (*service, error) {
	sv := &service{ops: map[string]int{}, events: map[string]int{}, requests: map[string]int{}}
	var err error
	sv.manager, err = session.New(store, []byte(secret), &session.Options{
		Cookie:      session.Cookie{InsecureHTTP: true},
		IdleTimeout: s.idle, AbsoluteTimeout: s.absolute, RenewInterval: s.renew, RenewGrace: s.grace,
		MaxSessionsPerUser: s.limit, EndOnReuse: true, SweepInterval: 10 * time.Second,
		Observer: func(_ context.Context, e session.Event) {
			sv.mu.Lock()
			defer sv.mu.Unlock()
			if sv.events[string(e.Kind)]++; e.Kind == session.EventStore {
				sv.ops[e.Op]++
			}
		},
	})
	return sv, err
}

func (sv *service) handler() http.Handler {
	mux := http.NewServeMux()
	// Each of these does what it is to do if the session is that of the login that the browser knows of.
	for name, do := range map[string]func(*http.Request, *session.Session, *state) error{
		"read": sv.read, "add": sv.add, "set": sv.set, "logout": sv.logout, "others": sv.others, "login": sv.login,
	} {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			st := look(s)
			if want := r.FormValue("login"); name == "login" || st.Login != 0 && strconv.FormatUint(st.Login, 10) == want {
				if err := do(r, s, &st); err != nil {
					http.Error(w, err.Error(), http.StatusServiceUnavailable)
					return
				}
				st.Done = true
			} else {
				sv.served(name + " in vain") // there is no session, or another one
			}
			json.NewEncoder(w).Encode(st)
		})
	}
	mux.HandleFunc("GET /list", sv.list)
	inner := sv.manager.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sv.served(r.URL.Path[1:])
		inner.ServeHTTP(w, r)
	})
}

// served counts requests.
func (sv *service) served(what string) {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	sv.requests[what]++
}

func (sv *service) read(_ *http.Request, _ *session.Session, st *state) error {
	st.Exact = true
	return nil
}

// add saves at once where it is asked to, so that the answer tells the operation's place among the others.
func (sv *service) add(r *http.Request, s *session.Session, st *state) error {
	op, err := strconv.ParseUint(r.FormValue("op"), 10, 32)
	if err != nil {
		return err
	}
	ledgerKey.Update(s, func(l ledger) ledger { return l.add(uint32(op)) })
	if r.FormValue("save") != "" && s.Save(r.Context()) == nil {
		*st = look(s)
		st.Exact = true
	}
	return nil
}

func (sv *service) set(r *http.Request, s *session.Session, _ *state) error {
	seq, err := strconv.ParseUint(r.FormValue("seq"), 10, 32)
	if err == nil {
		tabKey(r.FormValue("tab")).Set(s, uint32(seq))
	}
	return err
}

func (sv *service) logout(_ *http.Request, s *session.Session, st *state) error {
	s.Destroy()
	*st = state{}
	return nil
}

func (sv *service) others(r *http.Request, s *session.Session, _ *state) error {
	_, err := sv.manager.EndSessions(r.Context(), session.OfUser(s.User()).Others())
	return err
}

func (sv *service) login(r *http.Request, s *session.Session, st *state) error {
	login, err := strconv.ParseUint(r.FormValue("login"), 10, 64)
	if err != nil {
		return err
	}
	s.Clear()
	s.SetUser(r.FormValue("user"))
	loginKey.Set(s, login)
	*st = look(s)
	return nil
}

// list tells which logins the user's list names.
func (sv *service) list(w http.ResponseWriter, r *http.Request) {
	infos, err := sv.manager.Sessions(r.Context(), session.OfUser(r.FormValue("user")))
	logins := []uint64{}
	for _, info := range infos {
		rec, err2 := sv.manager.Inspect(r.Context(), info.ID)
		text, _ := rec.Value(string(loginKey))
		login, err3 := strconv.ParseUint(text, 10, 64)
		for _, e := range []error{err2, err3} {
			if err == nil {
				err = e
			}
		}
		logins = append(logins, login)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	json.NewEncoder(w).Encode(logins)
}

// stats is how a process is.
type stats struct {
	Heap       uint64 // bytes that lived at the last garbage collection
	Goroutines int
	Files      int
	CPU        time.Duration
	Services   map[string]serviceStats
}

type serviceStats struct{ Ops, Events, Requests map[string]int }

func measure(services map[string]*service) (st stats) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(samples)
	st.Heap, st.Goroutines = samples[0].Value.Uint64(), int(samples[1].Value.Uint64())
	files, _ := os.ReadDir("/proc/self/fd")
	st.Files = len(files)
	var use syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	st.CPU = time.Duration(use.Utime.Nano() + use.Stime.Nano())
	st.Services = map[string]serviceStats{}
	for name, sv := range services {
		sv.mu.Lock()
		st.Services[name] = serviceStats{clone(sv.ops), clone(sv.events), clone(sv.requests)}
		sv.mu.Unlock()
	}
	return st
}

func clone(m map[string]int) map[string]int {
	c := make(map[string]int, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// serve is one process: the test binary, run again.
func serve(args []string) error {
	var s settings
	services := map[string]*service{}
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := f.String("addr", "", "address to listen on")
	urls := map[string]string{}
	f.Func("store", "a store's `name=URL`", func(text string) error {
		name, rawURL, _ := strings.Cut(text, "=")
		urls[name] = rawURL
		return nil
	})
	s.flags(f)
	f.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	for name, rawURL := range urls {
		store, err := session.Open(ctx, rawURL)
		if err != nil {
			return err
		}
		defer store.Close()
		sv, err := newService(store, &s)
		if err != nil {
			return err
		}
		defer sv.manager.Close()
		services[name] = sv
		mux.Handle("/"+name+"/", http.StripPrefix("/"+name, sv.handler()))
	}
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(measure(services)) })
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: mux, ErrorLog: log.New(os.Stderr, "", 0)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return server.Shutdown(limit)
}
