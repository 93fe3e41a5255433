package sessiontest

import (
	"context"
	"math/rand/v2"
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
	raceTime   = 400 * time.Millisecond // for the rounds of one race
	raceRounds = 4000                   // at most: enough for a store in memory that compares, and swaps some nanoseconds later
	leastRaces = 12                     // at least, however slow the store is: enough where two round trips lie in between
)

// A clash is what goroutines do at the same instant.
type clash struct {
	n     int                                                    // goroutines
	play  func(ctx context.Context, i int, s session.Store) call // the i-th one's call; it says what it was
	judge func(calls []call)                                     // when all have returned
	setUp func()                                                 // before; may be nil
}

// race plays rounds, over again until there is no doubt that two calls have met at each point of the store's methods: many
// where the store is fast and the gap between looking and writing short. In each eighth round the context yields
// whenever the store looks at it, which makes the gap long.
func (e *env) race(ctx context.Context, next func(r int) clash) {
	end, most := time.Now().Add(raceTime), raceRounds
	if e.kit.short {
		end, most = time.Now().Add(raceTime/4), raceRounds/4
	}
	for r := 0; r < most && !e.failed() && (r < leastRaces || time.Now().Before(end)); {
		const batch = 32 // so that goroutines need not be started for each
		r += e.raceBatch(ctx, r, min(batch, most-r), end, next)
	}
}

// raceBatch plays up to n rounds with the goroutines that the first of them needs, and returns how many.
func (e *env) raceBatch(ctx context.Context, first, n int, end time.Time, next func(r int) clash) int {
	current := next(first)
	workers := current.n
	var b barrier
	b.n = workers
	calls := make([]call, workers)
	played, over := 0, false
	running := &call{op: "one of several calls at the same time"}
	lead := func() { // by the first goroutine, between rounds
		if current.setUp != nil {
			current.setUp()
		}
		e.store.resume(running)
	}
	judge := func() {
		e.store.pause(running)
		if current.judge(calls); e.failed() {
			e.store.note(calls...)
		}
		played++
		over = played >= n || e.failed() || ctx.Err() != nil || first+played >= leastRaces && !time.Now().Before(end)
		if !over {
			current = next(first + played)
		}
	}
	together(workers, func(i int) {
		returned := false
		defer func() {
			if !returned {
				e.fail("a method of the store: want it to return, but it ended the goroutine that called it")
				b.abandon()
			}
		}()
		jitter := rand.New(rand.NewPCG(uint64(first), uint64(i)))
		for {
			if i == 0 {
				lead()
			}
			b.wait()
			if b.abandoned() {
				break
			}
			for range jitter.IntN(200) {
				runtime.KeepAlive(i)
			}
			calls[i] = e.safely(ctx, current, i, first+played)
			b.wait()
			if i == 0 {
				judge()
			}
			b.wait()
			if over || b.abandoned() {
				break
			}
		}
		returned = true
	})
	return max(played, 1)
}

// safely makes one goroutine's call of a round. A panic fails the rule.
func (e *env) safely(ctx context.Context, r clash, i, number int) (c call) {
	n := (i + number) % len(e.store.handles)
	defer func() {
		if p := recover(); p != nil {
			e.fail("a method of the store: want it to return, got a panic: %v\n%s", p, debug.Stack())
		}
	}()
	if number%8 == 3 {
		ctx = slowContext{ctx}
	}
	c = r.play(ctx, i, e.store.handles[n])
	c.handle = n
	return c
}

// A barrier lets n goroutines wait for each other. They spin at first, so that all go on within some nanoseconds.
type barrier struct {
	n       int
	mu      sync.Mutex
	cond    *sync.Cond
	arrived int
	gone    bool // one of them never comes
	turn    atomic.Int64
}

func (b *barrier) wait() {
	turn := b.turn.Load()
	b.mu.Lock()
	if b.cond == nil {
		b.cond = sync.NewCond(&b.mu)
	}
	if b.arrived++; b.arrived == b.n || b.gone {
		b.arrived = 0
		b.turn.Add(1)
		b.cond.Broadcast()
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	for spins := range 3000 {
		if b.turn.Load() != turn {
			return
		}
		if spins%32 == 31 {
			runtime.Gosched()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.turn.Load() == turn {
		b.cond.Wait()
	}
}

func (b *barrier) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
	b.turn.Add(1)
	if b.cond != nil {
		b.cond.Broadcast()
	}
}

func (b *barrier) abandoned() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone
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
