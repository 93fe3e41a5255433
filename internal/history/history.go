// Package history plays random histories: actors, usually requests, that meet at a store in an order, with faults and at
// a pace that are drawn from a Tape. It is for bubbles of testing/synctest, whose clock is that of the history.
package history

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"example.com/session"
)

// A World is where a history takes place. Its fields are set, and its methods called, by the goroutine that the bubble
// began with; the actors' goroutines call the stores.
type World struct {
	*Tape

	Crash  float64         // how likely an actor dies instead of making a call
	Flaky  float64         // how likely a save gets lost or its reply does, or a look at what became of it fails
	Twice  float64         // how likely a save is delivered once more later
	Stale  float64         // how likely a Load that allows a cache returns what was there up to MaxAge ago
	MaxAge time.Duration   // of what such a cache has
	Late   time.Duration   // how late a second delivery may come
	Pace   []time.Duration // of which one is drawn before each call
	Saved  func(Write)     // is told of each save that the store made
	names  map[session.ID]string
	direct map[session.ID]bool
	actors []*Actor
	wake   chan struct{}
	ledger ledger

	mu      sync.Mutex
	pending []*call
	trace   []string
	start   time.Time
}

// A Write is a save that the store made.
type Write struct {
	Actor *Actor // nil: none
	ID    session.ID
	Data  []byte
}

// NewWorld returns a world around a store. Calls to it go through outside, unless that is nil: see Outside.
func NewWorld(tape *Tape, store session.Store, outside *Outside) *World {
	w := &World{
		Tape: tape, Late: time.Hour, names: make(map[session.ID]string), direct: make(map[session.ID]bool), wake: make(chan struct{}, 1), start: time.Now(),
	}
	w.ledger = ledger{
		store: store, outside: outside, shift: outside.shift(w.start), known: make(map[session.ID]bool),
		records: make(map[session.ID]session.Record), past: make(map[session.ID][]formerly),
	}
	return w
}

// An Actor is what runs on one goroutine. Only the world's goroutine reads and sets its fields.
type Actor struct {
	Name string
	Act  func(context.Context)
	// Before is called when the actor begins, by the world's goroutine.
	Before func()
	// After is called when Act has returned, unless the actor died, by the world's goroutine.
	After func()

	dead   atomic.Bool
	looks  bool // its last save went wrong, and it may want to know what became of it
	reaped bool

	mu   sync.Mutex
	over bool
}

// Until says when Play returns.
type Until int

// When Play returns.
const (
	AllEnd     Until = iota // all actors have ended, those of earlier calls as well
	TheseEnd                // those of this call have
	TheseBegin              // those of this call have begun
)

// Play lets actors begin, in any order, and makes the calls of all that run, one at a time.
func (w *World) Play(until Until, these ...*Actor) {
	waiting := slices.Clone(these)
	var last *Actor
	for {
		synctest.Wait()
		w.reap()
		if !w.goesOn(until, waiting, these) {
			return
		}
		choice := slices.Clone(waiting)
		for _, a := range w.actors {
			if w.call(a) != nil {
				choice = append(choice, a)
			}
		}
		if len(choice) == 0 {
			<-w.wake // all sleep
			continue
		}
		a := last
		if !slices.Contains(choice, a) || w.Chance(.3) {
			a = choice[w.Int(len(choice))]
		}
		last = a
		if len(w.Pace) > 0 {
			time.Sleep(Pick(w.Tape, w.Pace...))
			if w.Pace[len(w.Pace)-1] > 0 {
				synctest.Wait()
			}
		}
		if i := slices.Index(waiting, a); i >= 0 {
			waiting = slices.Delete(waiting, i, i+1)
			w.begin(a)
			continue
		}
		w.turn(a)
		if w.Twice > 0 && w.Chance(.05) {
			w.Again()
		}
	}
}

// goesOn reports whether Play has more to do.
func (w *World) goesOn(until Until, waiting, these []*Actor) bool {
	switch until {
	case AllEnd:
		return len(waiting) > 0 || len(w.actors) > 0
	case TheseEnd:
		return len(waiting) > 0 || slices.ContainsFunc(these, func(a *Actor) bool { return slices.Contains(w.actors, a) })
	}
	return len(waiting) > 0
}

// Begin lets an actor begin at once, from After for example. Play goes on until it has ended.
func (w *World) Begin(a *Actor) { w.begin(a) }

func (w *World) begin(a *Actor) {
	w.actors = append(w.actors, a)
	if a.Before != nil {
		a.Before()
	}
	w.note("%s begins", a.Name)
	go func() {
		defer func() {
			a.mu.Lock()
			a.over = true
			a.mu.Unlock()
			w.stir()
		}()
		a.Act(context.WithValue(context.Background(), actorKey{}, a))
	}()
}

// reap takes leave of the actors that have ended.
func (w *World) reap() {
	for _, a := range slices.Clone(w.actors) {
		a.mu.Lock()
		over := a.over
		a.mu.Unlock()
		if !over || a.reaped {
			continue
		}
		a.reaped = true
		w.actors = slices.DeleteFunc(w.actors, func(b *Actor) bool { return a == b })
		if a.dead.Load() {
			w.note("%s is dead", a.Name)
		} else if a.After != nil {
			a.After()
		}
	}
}

// call returns the call that the actor wants to make, nil if there is none.
func (w *World) call(a *Actor) *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.IndexFunc(w.pending, func(c *call) bool { return c.actor == a }); i >= 0 {
		return w.pending[i]
	}
	return nil
}

// stir wakes Play.
func (w *World) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// turn makes the actor's call, or draws what happens instead.
func (w *World) turn(a *Actor) {
	c := w.call(a)
	w.mu.Lock()
	w.pending = slices.DeleteFunc(w.pending, func(d *call) bool { return c == d })
	w.mu.Unlock()
	if w.Chance(w.Crash) {
		a.dead.Store(true)
	}
	w.decide(c)
	c.name = w.Called(c.id)
	w.note("%s", c)
	close(c.done)
}

// End lets all actors that run die, and waits until they have ended.
func (w *World) End() {
	for _, a := range w.actors {
		a.dead.Store(true)
	}
	w.Pace = nil
	w.Play(AllEnd)
}

// Wait lets the time pass, perhaps, until the first of those that sleep wakes up.
func (w *World) Wait() {
	if !w.Chance(.4) || len(w.actors) == 0 {
		return
	}
	synctest.Wait()
	w.reap()
	for _, a := range w.actors {
		if w.call(a) != nil {
			return
		}
	}
	select {
	case <-w.wake:
	default:
	}
	if len(w.actors) > 0 {
		<-w.wake
		w.stir()
	}
}

// note adds to the story.
func (w *World) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Since(w.start).Truncate(time.Millisecond)
	w.trace = append(w.trace, fmt.Sprintf("%9.3f ", at.Seconds())+fmt.Sprintf(format, args...))
}

// Note adds a line to the story.
func (w *World) Note(format string, args ...any) { w.note(format, args...) }

// Call gives what is under an ID a name in the story.
func (w *World) Call(id session.ID, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[id] = name
}

// Direct has calls for what is under an ID made at once, in nobody's turn: callers hold a mutex meanwhile, and who waits for
// one keeps the bubble from coming to rest.
func (w *World) Direct(id session.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.direct[id] = true
}

// Called returns the name of what is under an ID.
func (w *World) Called(id session.ID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := w.names[id]; ok {
		return name
	}
	return fmt.Sprintf("%.8v…", id)
}

// Err returns the first error of the store that its contract has no name for.
func (w *World) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ledger.err
}

// String tells the story.
func (w *World) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return "\t" + strings.Join(w.trace, "\n\t")
}
