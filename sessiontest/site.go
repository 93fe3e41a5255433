package sessiontest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
)

// A site is an application whose sessions are in one store. Its managers share nothing but the store and the
// secret, as the processes of an application do.
type site struct {
	store  *interleave.Store
	secret []byte
}

func newSite(store session.Store) *site {
	s := &site{store: interleave.NewStore(store), secret: make([]byte, 32)}
	rand.Read(s.secret)
	return s
}

// options returns options that leave nothing to chance, and records that soon expire.
func (s *site) options() session.Options {
	return session.Options{
		IdleTimeout:   2 * time.Minute,
		RenewInterval: session.Never,
		RenewGrace:    time.Minute,
		SweepInterval: session.Never,
		StoreTimeout:  30 * time.Second,
		Logger:        slog.New(slog.DiscardHandler),
	}
}

// manager returns a manager that needs no Close: it does nothing in the background.
func (s *site) manager(opts session.Options) (*session.Manager, error) {
	return session.New(s.store, s.secret, &opts)
}

// begin returns a manager, and the cookie of a session with the planted value in it.
func (s *site) begin(ctx context.Context, opts session.Options) (*session.Manager, string, error) {
	m, err := s.manager(opts)
	if err != nil {
		return nil, "", err
	}
	r := client.Ask(ctx, m, "", plant)
	if r.Status != http.StatusOK || r.Cookie == "" {
		return nil, "", fmt.Errorf("want a new session to come with a cookie, got the answer %v", r)
	}
	return m, r.Cookie, nil
}

const (
	planted      session.Key[string] = "planted"
	plantedValue                     = "from the beginning"
	count        session.Key[int]    = "count"
)

func plant(s *session.Session) { planted.Set(s, plantedValue) }

// written returns the key that the i-th request sets.
func written(i int) session.Key[bool] { return session.Key[bool](fmt.Sprintf(writtenFormat, i)) }

const writtenFormat = "written %d"

// An act is what a request does with the session.
type act int

const (
	reads act = iota
	writes
	regenerates // and writes
	destroys
)

func (a act) String() string { return [...]string{"reader", "writer", "regenerator", "destroyer"}[a] }

// do is the handler of the i-th request. It reports whether it found the planted value.
func (a act) do(s *session.Session, i int) (found bool) {
	found = planted.Has(s)
	switch a {
	case regenerates:
		s.Regenerate()
		fallthrough
	case writes:
		written(i).Set(s, true)
		count.Update(s, func(n int) int { return n + 1 })
	case destroys:
		s.Destroy()
	}
	return found
}

// A view is what a cookie leads to.
type view struct {
	id      session.ID // zero if that is no live session
	isNew   bool
	unknown bool
	planted string
	count   int
	written map[int]bool
}

// look reads the session behind a cookie.
func look(ctx context.Context, m *session.Manager, cookie string) (view, error) {
	v := view{written: map[int]bool{}}
	r := client.Ask(ctx, m, cookie, func(s *session.Session) {
		v.id, v.isNew, v.unknown = s.ID(), s.IsNew(), s.WasUnknown()
		v.planted, _ = planted.Get(s)
		v.count, _ = count.Get(s)
		for _, key := range s.Keys() {
			var i int
			if _, err := fmt.Sscanf(key, writtenFormat, &i); err == nil {
				v.written[i] = true
			}
		}
	})
	if r.Status != http.StatusOK {
		return v, fmt.Errorf("a request that looks at the session got the answer %v", r)
	}
	return v, nil
}

// holds checks that the session is alive, with what was planted and what n requests have set.
func (v view) holds(n int) error {
	switch {
	case v.id == session.ID{}:
		return errors.New("the cookie leads to no live session")
	case v.planted != plantedValue:
		return errors.New("the session has lost what it began with")
	case len(v.written) != n:
		return fmt.Errorf("the changes of %d requests are in the session, want %d", len(v.written), n)
	}
	return nil
}

// A meeting lets goroutines start together, and wait for each other once.
type meeting struct {
	n     int
	there sync.WaitGroup
}

func newMeeting(n int) *meeting {
	m := &meeting{n: n}
	m.there.Add(n)
	return m
}

// run calls f(0) to f(n-1) on goroutines of their own, and returns when all have returned.
func (m *meeting) run(f func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range m.n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}

// wait returns when all n goroutines have called it.
func (m *meeting) wait() {
	m.there.Done()
	m.there.Wait()
}

// sleepUntil returns at t by the wall clock, not a moment earlier, or when ctx ends.
func sleepUntil(ctx context.Context, t time.Time) error {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}
