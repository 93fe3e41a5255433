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
	mostRace  = 500                    // in a bubble, whose clock stands still meanwhile

	// On a machine that is busy with other things a race may take three times as long, until its racers have been interrupted often
	// enough. A store that is slow needs none of that, as its gaps are wide, nor does a race that is to be short.
	leastInterrupts = 700
	slowCall        = 50 * time.Microsecond
)

// racing is how many goroutines race each other at least.
const racing = 6

// threads are how many run goroutines, which is one number for the process.
var threads struct {
	sync.Mutex
	races, before int
}

// interrupt has the racers interrupted at any point between two of their steps until over is closed, or ctx ends since they hang.
// It does so in two ways in turn, as some gaps show in the one and some in the other: each racer has a thread of its own, and with
// more threads than processors the system interrupts them; or they share two threads, and whichever racer is at work when all
// goroutines are stopped waits for the others. It counts how often it came to that.
func interrupt(ctx context.Context, over <-chan struct{}, times *atomic.Int64) {
	const turn, pause = 50 * time.Millisecond, 100 * time.Microsecond
	threads.Lock()
	if threads.races++; threads.races == 1 {
		threads.before = runtime.GOMAXPROCS(0)
	}
	threads.Unlock()
	defer func() {
		threads.Lock()
		defer threads.Unlock()
		if threads.races--; threads.races == 0 {
			runtime.GOMAXPROCS(threads.before)
		}
	}()
	var stats runtime.MemStats
	for shared := false; ; shared = !shared {
		threads.Lock()
		if shared {
			runtime.GOMAXPROCS(2)
		} else {
			runtime.GOMAXPROCS(max(threads.before, racing))
		}
		threads.Unlock()
		for began := time.Now(); time.Since(began) < turn; time.Sleep(pause) {
			select {
			case <-over:
				return
			case <-ctx.Done():
				return
			default:
			}
			times.Add(1)
			if shared {
				runtime.ReadMemStats(&stats) // stops all goroutines
			}
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
	if e.first {
		d /= 4 // whatever races show through one handle, they show through several
	}
	if e.kit.short {
		d /= 3
	}
	longest := d
	if d == raceTime {
		longest *= 3
	}
	began, over := time.Now(), make(chan struct{})
	var interrupts atomic.Int64
	var interrupted sync.WaitGroup
	defer interrupted.Wait()
	interrupted.Go(func() { interrupt(ctx, over, &interrupts) })
	done := func(step int, passed time.Duration) bool {
		switch {
		case passed == 0:
			return step >= mostRace
		case step < leastRace || passed < d:
			return false
		}
		return e.span.Load() > int64(slowCall) || passed > longest || interrupts.Load() > leastInterrupts
	}
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
			if i == 0 && done(step, passed) {
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
