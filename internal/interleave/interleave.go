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
	"time"

	"example.com/session/internal/double"
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
	// Late, with Faults, lets saves and touches arrive later than their actor hears that they failed, or once more.
	Late bool

	// Clock, unless it is nil, goes on by a millisecond with each call, and by more while actors sleep by it.
	Clock *Clock

	seed   uint64
	actors []*Actor
	first  []*Actor    // those that begin with the round
	ready  chan *Actor // wants to make a call
	done   chan *Actor // has returned, and nobody follows it
	clock  atomic.Int64
	turns  int        // that were given
	late   []lateCall // still under way

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
	next  *Actor        // follows it
	wakes int           // when so many turns were given
	until time.Duration // it sleeps, by the clock; 0: it does not

	began, saved  int64
	faulted, dead bool
}

// A Clock shows the time in a round. It may outlive the round, as managers do that go by it. The zero Clock stands still.
type Clock struct{ began, passed atomic.Int64 }

// Start begins with the present time.
func (c *Clock) Start() {
	c.began.Store(time.Now().UnixNano())
	c.passed.Store(0)
}

// Now returns the time.
func (c *Clock) Now() time.Time { return time.Unix(0, c.began.Load()).Add(c.since()) }

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) { c.passed.Add(int64(d)) }

func (c *Clock) since() time.Duration { return time.Duration(c.passed.Load()) }

// Add adds an actor that does act. Its calls to a Store are those made with act's context, or one derived from it.
func (r *Round) Add(name string, act func(context.Context)) *Actor {
	a := r.newActor(name, act)
	r.first = append(r.first, a)
	return a
}

// Then adds an actor that begins when a has returned, even if a died. They can share a session.Manager.
func (a *Actor) Then(name string, act func(context.Context)) *Actor {
	a.next = a.round.newActor(name, act)
	return a.next
}

func (r *Round) newActor(name string, act func(context.Context)) *Actor {
	a := &Actor{round: r, name: name, act: act, index: len(r.actors), turn: make(chan turn, 1)}
	r.actors = append(r.actors, a)
	return a
}

// Play has all actors act at the same time, and returns when they have returned and nothing is under way any more.
func (r *Round) Play(ctx context.Context) {
	r.ready = make(chan *Actor, len(r.actors))
	r.done = make(chan *Actor, len(r.actors))
	for _, first := range r.first {
		go func() {
			defer func() { r.done <- first }()
			for a := first; a != nil; a = a.next {
				a.act(context.WithValue(ctx, actorKey{}, a))
			}
		}()
	}
	r.direct(ctx)
	for len(r.late) > 0 {
		r.deliver(ctx)
	}
}

// Sleep holds the actor up that ctx belongs to, while others get as many turns, or until all others have returned or
// sleep for longer.
func Sleep(ctx context.Context, turns int) {
	a, ok := ctx.Value(actorKey{}).(*Actor)
	switch {
	case !ok || turns == 0 || a.dead:
	case a.round.Free:
		for range turns {
			runtime.Gosched()
		}
	default:
		a.wakes = turns // direct makes a time of it
		a.round.ready <- a
		<-a.turn
	}
}

// SleepFor holds the actor up that ctx belongs to, by the clock of its round. Others have turns meanwhile, also if d is 0. It
// does nothing in a free round.
func SleepFor(ctx context.Context, d time.Duration) {
	a, ok := ctx.Value(actorKey{}).(*Actor)
	if !ok || a.dead || a.round.Free {
		return
	}
	a.until = max(a.round.Clock.since()+d, 1)
	a.round.ready <- a
	<-a.turn
}

// Tick returns a number that is higher with each call, and than those of the calls to stores that were made before.
func (r *Round) Tick() int64 { return r.clock.Add(1) }

// direct gives turns until all actors are done.
func (r *Round) direct(ctx context.Context) {
	var waiting, asleep []*Actor
	for playing := len(r.first); playing > 0; {
		for len(waiting)+len(asleep) < playing {
			select {
			case a := <-r.ready:
				if a.wakes > 0 {
					a.wakes += r.turns
				}
				if a.until > 0 {
					asleep = append(asleep, a)
				} else {
					waiting = append(waiting, a)
				}
			case <-r.done:
				playing--
			}
		}
		if playing == 0 {
			return
		}
		if len(r.late) > 0 && r.Random.IntN(6) == 0 {
			r.deliver(ctx)
		}
		waiting, asleep = r.rouse(waiting, asleep)
		slices.SortFunc(waiting, func(a, b *Actor) int { return cmp.Or(cmp.Compare(a.wakes, b.wakes), cmp.Compare(a.index, b.index)) })
		r.turns = max(r.turns, waiting[0].wakes)
		awake := len(waiting)
		for waiting[awake-1].wakes > r.turns {
			awake--
		}
		i := r.Random.IntN(awake)
		a := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		r.turns++
		if t := succeed; a.wakes > 0 || a.until > 0 {
			a.wakes, a.until = 0, 0
			a.turn <- t
		} else {
			r.tickClock()
			a.turn <- r.drawTurn()
		}
	}
}

// shortSleep is what a call to a store may take, so that whoever makes one meets others that wake up.
const shortSleep = 6 * time.Second

// rouse lets those go on whose time has come. When nobody else can, it lets time pass until then.
func (r *Round) rouse(waiting, asleep []*Actor) (_, _ []*Actor) {
	if len(asleep) == 0 {
		return waiting, asleep
	}
	next := slices.MinFunc(asleep, func(a, b *Actor) int { return cmp.Compare(a.until, b.until) }).until
	if ahead := next - r.Clock.since(); ahead > 0 &&
		(len(waiting) == 0 || ahead <= shortSleep && r.Random.IntN(10) == 0) {
		r.Clock.Pass(ahead)
	}
	for _, a := range asleep {
		if a.until <= r.Clock.since() {
			waiting = append(waiting, a)
		}
	}
	return waiting, slices.DeleteFunc(asleep, func(a *Actor) bool { return a.until <= r.Clock.since() })
}

func (r *Round) tickClock() {
	if r.Clock != nil {
		r.Clock.Pass(time.Millisecond)
	}
}

// A lateCall is one that the store gets once its actor has gone on.
type lateCall struct {
	call call
	make func(context.Context) error
}

// deliver makes one of the calls that are under way.
func (r *Round) deliver(ctx context.Context) {
	i := r.Random.IntN(len(r.late))
	l := r.late[i]
	r.late = slices.Delete(r.late, i, i+1)
	l.call.late = true
	l.call.err = l.make(ctx)
	r.note(l.call)
}

// A turn says what becomes of a call to the store.
type turn int

const (
	succeed turn = iota
	fail         // the store does not get it
	lose         // the store's reply gets lost
	die          // the process dies before it makes the call
	delay        // the store gets it when the caller has given it up
	repeat       // the store gets it once more later on
)

func (r *Round) drawTurn() turn {
	if r.Faults {
		switch n := r.Random.IntN(100); {
		case r.Late && n >= 94:
			return repeat
		case r.Late && n >= 90:
			return delay
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
func (a *Actor) call(ctx context.Context, c call, f func(context.Context) error) error {
	if a.dead {
		return errDead
	}
	r := a.round
	t := a.waitForTurn()
	if c.op != double.Save && c.op != double.Touch { // a late load does nothing, and a late delete must not be survived
		switch t {
		case delay:
			t = fail
		case repeat:
			t = succeed
		}
	}
	a.faulted = a.faulted || t != succeed && t != repeat
	a.began, a.saved = r.clock.Add(1), 0
	c.actor = a.name
	switch t {
	case fail:
		c.err = errFailed
	case die:
		c.err = errDead
		a.dead = true
	case delay:
		r.late = append(r.late, lateCall{c, f})
		c.err = errFailed
	default:
		if t == repeat {
			r.late = append(r.late, lateCall{c, f})
		}
		c.err = f(ctx)
		if c.op == double.Save && c.err == nil {
			a.saved = r.clock.Add(1)
		}
	}
	c.lost = t == lose
	r.note(c)
	if c.lost {
		return errLost
	}
	return c.err
}

func (r *Round) note(c call) {
	if r.Clock != nil {
		c.at = r.Clock.since()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace = append(r.trace, c)
}

func (a *Actor) waitForTurn() turn {
	if a.round.Free {
		a.round.tickClock()
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
