package sessiontest

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
)

// together calls f(0) … f(n-1) at the same time, and returns when all have returned.
func together(n int, f func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// many calls f(0) … f(n-1), a few at a time, which takes a server less time than one by one.
func many(n int, f func(i int)) {
	const workers = 4
	together(workers, func(worker int) {
		for i := worker; i < n; i += workers {
			f(i)
		}
	})
}

const (
	raceTime  = 800 * time.Millisecond // for one race
	leastRace = 12                     // steps of the first racer, however slow the store is: enough where round trips lie in between
	mostRace  = 3000                   // in a bubble, whose clock stands still meanwhile
)

// racing is how many goroutines race each other at least, each on a thread of its own: with more threads than processors, and on
// a busy machine, the system interrupts them at any point, which is what shows a gap between two steps.
const racing = 6

var threads struct {
	sync.Mutex
	users, before int
}

// moreThreads has goroutines run on threads of their own until the function that it returns is called.
func moreThreads() (done func()) {
	threads.Lock()
	defer threads.Unlock()
	if threads.users++; threads.users == 1 {
		threads.before = runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(max(threads.before, racing))
	}
	return func() {
		threads.Lock()
		defer threads.Unlock()
		if threads.users--; threads.users == 0 {
			runtime.GOMAXPROCS(threads.before)
		}
	}
}

// A racer does one thing over again, through a handle of its own. It is given the number of the step.
type racer func(ctx context.Context, s session.Store, step int)

// race lets racers do what they do at the same time. They do not wait for each other: so nearly all of the time is spent within
// the store's methods, and whichever of them is interrupted between two steps, and for however long, the others come in between.
// Every eighth step has a context that yields whenever the store looks at it. The first racer leads: the others stop when it has.
func (e *env) race(ctx context.Context, racers ...racer) {
	d := raceTime
	if e.kit.short {
		d /= 3
	}
	defer moreThreads()()
	began, over := time.Now(), make(chan struct{})
	together(max(len(racers), len(e.store.handles), racing), func(i int) {
		race := racers[min(i, len(racers)-1)]
		s := e.store.handles[i%len(e.store.handles)]
		running := &call{op: "one of several calls at the same time"}
		defer func() {
			e.store.pause(running)
			if i == 0 {
				close(over)
			}
		}()
		for step := 0; !e.failed() && ctx.Err() == nil; step++ {
			passed := time.Since(began)
			if i == 0 && (step >= leastRace && passed > d || step >= mostRace && passed == 0) {
				return
			}
			select {
			case <-over:
				return
			default:
			}
			if step%64 == 0 || passed > time.Second {
				e.store.resume(running)
			}
			stepCtx := ctx
			if step%8 == 3 {
				stepCtx = slowContext{ctx}
			}
			e.safely(func() { race(stepCtx, s, step) })
		}
	})
}

// timed calls f, and keeps how long such a call takes for linger: the shortest of late, since on a busy machine one may take
// milliseconds that else takes none.
func (e *env) timed(f func() error) error {
	began := time.Now()
	err := f()
	took, span := int64(time.Since(began)), e.span.Load()
	if span == 0 || took < span {
		e.span.Store(took)
	} else {
		e.span.Store(span + span/16 + 10)
	}
	return err
}

// linger waits for that share of the time that the last call that was timed has taken, so that whoever was in the middle of such a
// call has time to do harm. It does not look at a clock, which stands still in a bubble for as long as it waits.
func (e *env) linger(share float64) {
	d := time.Duration(share * float64(min(e.span.Load(), int64(3*time.Millisecond))))
	if d > 20*time.Microsecond {
		time.Sleep(d)
		return
	}
	for range d {
		runtime.KeepAlive(e)
	}
}

// meet waits until n is another number than was seen, for a short time at most: so calls of several goroutines begin in the same
// moment, where they would hardly ever meet because the store is so fast. A slow store needs no help.
func (e *env) meet(n *atomic.Int64, seen int64) {
	for range 2000 {
		if n.Load() != seen || e.failed() || e.span.Load() > int64(20*time.Microsecond) {
			return
		}
		runtime.Gosched()
	}
}

// safely calls f. A panic fails the rule, and so does a method that ends the goroutine.
func (e *env) safely(f func()) {
	returned := false
	defer func() {
		if p := recover(); p != nil {
			e.fail("a method of the store: want it to return, got a panic: %v\n%s", p, debug.Stack())
		} else if !returned {
			e.fail("a method of the store: want it to return, but it ended the goroutine that called it")
		}
	}()
	f()
	returned = true
}

// A slowContext lets others go first whenever somebody looks at it: what a store does in several steps, with a look at
// the context in between, is in danger there.
type slowContext struct{ context.Context }

func (c slowContext) yield() { time.Sleep(time.Microsecond) }

func (c slowContext) Done() <-chan struct{} {
	c.yield()
	return c.Context.Done()
}

func (c slowContext) Err() error {
	c.yield()
	return c.Context.Err()
}

func (c slowContext) Deadline() (time.Time, bool) {
	c.yield()
	return c.Context.Deadline()
}

// A fuse is a context that ends when it was looked at so many times: at a certain point of a store's method, the same one in
// each run.
type fuse struct {
	context.Context
	left   atomic.Int64
	cancel context.CancelFunc
}

func newFuse(ctx context.Context, looks int) *fuse {
	f := new(fuse)
	f.Context, f.cancel = context.WithCancel(ctx)
	f.left.Store(int64(looks))
	return f
}

func (f *fuse) look() {
	if f.left.Add(-1) < 0 {
		f.cancel()
	}
}

func (f *fuse) Done() <-chan struct{} {
	f.look()
	return f.Context.Done()
}

func (f *fuse) Err() error {
	f.look()
	return f.Context.Err()
}

func (f *fuse) Deadline() (time.Time, bool) {
	f.look()
	return f.Context.Deadline()
}

func (f *fuse) Value(key any) any {
	f.look()
	return f.Context.Value(key)
}
