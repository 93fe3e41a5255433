// Package interleave is for tests in which requests meet at a store: it draws the order of their calls, so that the
// same order, or much the same, can be drawn again.
package interleave

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Round is a few actors, usually requests, that meet. One at a time makes one call to a Store, drawn from those
// that want to make one. So nothing may keep an actor waiting for another but the store: actors of one round do not
// share a session.Manager, unless the round is free.
type Round struct {
	// Random draws what happens. It is the caller's while Play does not run.
	Random *mathrand.Rand
	// Free leaves the order of calls to the goroutines.
	Free bool
	// Faults makes calls fail, loses replies, and lets actors die. It is not for free rounds.
	Faults bool

	seed   uint64
	actors []*Actor
	ready  chan *Actor // wants to make a call
	done   chan *Actor // has returned
	clock  atomic.Int64

	mu    sync.Mutex
	trace []call
}

// New returns a round without actors. The same seed draws the same.
func New(seed uint64) *Round {
	return &Round{seed: seed, Random: mathrand.New(mathrand.NewPCG(seed, 0))}
}

// An Actor is what runs on one goroutine of a round. Its methods tell what has become of it, once Play has returned.
type Actor struct {
	round *Round
	name  string
	act   func(context.Context)
	index int
	turn  chan turn

	began, saved  int64
	faulted, dead bool
}

// Add adds an actor that does act. Its calls to a Store are those made with act's context, or one derived from it.
func (r *Round) Add(name string, act func(context.Context)) *Actor {
	a := &Actor{round: r, name: name, act: act, index: len(r.actors), turn: make(chan turn, 1)}
	r.actors = append(r.actors, a)
	return a
}

// Play has all actors act at the same time, and returns when they have returned.
func (r *Round) Play(ctx context.Context) {
	r.ready = make(chan *Actor, len(r.actors))
	r.done = make(chan *Actor, len(r.actors))
	for _, a := range r.actors {
		go func() {
			defer func() { r.done <- a }()
			a.act(context.WithValue(ctx, actorKey{}, a))
		}()
	}
	r.direct()
}

// direct gives turns until all actors are done.
func (r *Round) direct() {
	var waiting []*Actor
	for playing := len(r.actors); playing > 0; {
		for len(waiting) < playing {
			select {
			case a := <-r.ready:
				waiting = append(waiting, a)
			case <-r.done:
				playing--
			}
		}
		if playing == 0 {
			return
		}
		slices.SortFunc(waiting, func(a, b *Actor) int { return cmp.Compare(a.index, b.index) })
		i := r.Random.IntN(len(waiting))
		a := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		a.turn <- r.drawTurn()
	}
}

// A turn says what becomes of a call to the store.
type turn int

const (
	succeed turn = iota
	fail         // the store does not get it
	lose         // the store's reply gets lost
	die          // the process dies before it makes the call
)

func (r *Round) drawTurn() turn {
	if r.Faults {
		switch n := r.Random.IntN(100); {
		case n < 3:
			return fail
		case n < 9:
			return lose
		case n < 12:
			return die
		}
	}
	return succeed
}

var (
	errFailed = errors.New("it did not get through")
	errLost   = errors.New("the reply was lost")
	errDead   = errors.New("the process died")
)

// call makes a call to the store with f when it is a's turn.
func (a *Actor) call(c call, f func() error) error {
	if a.dead {
		return errDead
	}
	r := a.round
	t := a.waitForTurn()
	a.faulted = a.faulted || t != succeed
	a.began, a.saved = r.clock.Add(1), 0
	switch t {
	case fail:
		c.err = errFailed
	case die:
		c.err = errDead
		a.dead = true
	default:
		c.err = f()
		if c.op == "save" && c.err == nil {
			a.saved = r.clock.Add(1)
		}
	}
	c.actor, c.lost = a.name, t == lose
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace = append(r.trace, c)
	if c.lost {
		return errLost
	}
	return c.err
}

func (a *Actor) waitForTurn() turn {
	if a.round.Free {
		for range mathrand.N(3) {
			runtime.Gosched()
		}
		return succeed
	}
	a.round.ready <- a
	return <-a.turn
}

// Died reports whether the actor's process died: nobody knows what it was told last.
func (a *Actor) Died() bool { return a.dead }

// Faulted reports whether one of its calls failed, or the reply to it was lost.
func (a *Actor) Faulted() bool { return a.faulted }

// SavedBefore reports whether the actor's last call was a Save that had succeeded before b's last call began.
func (a *Actor) SavedBefore(b *Actor) bool { return 0 < a.saved && a.saved < b.began }

// String tells the story of the round: all calls, in the order in which they returned.
func (r *Round) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tthe round with seed %d:", r.seed)
	for _, c := range r.trace {
		fmt.Fprintf(&b, "\n\t%v", c)
	}
	for _, a := range r.actors {
		if a.dead {
			fmt.Fprintf(&b, "\n\t%s died", a.name)
		}
	}
	return b.String()
}
