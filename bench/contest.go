package bench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"
)

// A contest lets contestants do the same work in turns.
type contest struct {
	rounds int
	turn   time.Duration // about how long one contestant works at a time
	// cpuOnly counts the time that processors worked, the garbage collector included, rather than what a clock on the
	// wall shows: for work that waits for nothing, so that what else the machine does matters less.
	cpuOnly bool
}

// A contestant does n operations when it is its turn.
type contestant struct {
	name string
	do   func(n int)
}

// A score is what a contest found out about a contestant.
type score struct {
	name   string
	ns     float64 // an operation, the median of all rounds
	allocs float64 // an operation, the median of all rounds
	ratio  float64 // how many times the first contestant's ns, the median of the ratios within each round
}

// inProcess measures nanoseconds and allocations an operation.
func (c contest) inProcess(contestants []contestant) []score {
	// The heap of a small server: with next to none, the collector would run all the time, and how often would depend
	// on what the cases before have left in memory.
	heap := make([]byte, 64<<20)
	defer runtime.KeepAlive(heap)
	counts := make([]int, len(contestants))
	for i, k := range contestants {
		counts[i] = c.calibrate(k.do)
	}
	ns := make([][]float64, len(contestants))
	allocs := make([][]float64, len(contestants))
	for range c.rounds {
		for i, k := range contestants {
			took, mallocs := c.measure(k.do, counts[i])
			ns[i] = append(ns[i], took)
			allocs[i] = append(allocs[i], mallocs)
		}
	}
	scores := make([]score, len(contestants))
	for i, k := range contestants {
		scores[i] = score{k.name, median(ns[i]), median(allocs[i]), medianRatio(ns[i], ns[0])}
	}
	return scores
}

// calibrate returns how many operations take about a turn.
func (c contest) calibrate(do func(int)) int {
	for n := 1; ; n *= 2 {
		start := time.Now()
		do(n)
		if took := time.Since(start); took >= c.turn/4 {
			return max(1, int(float64(n)*float64(c.turn)/float64(max(took, 1))))
		}
	}
}

func (c contest) measure(do func(int), n int) (ns, allocs float64) {
	// Each contestant's garbage is its own: the collector starts from the same point for all.
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	now := wallTime
	if c.cpuOnly {
		now = cpuTime
	}
	start := now()
	do(n)
	took := now() - start
	runtime.ReadMemStats(&after)
	return float64(took.Nanoseconds()) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	x = slices.Clone(x)
	slices.Sort(x)
	if n := len(x); n%2 == 0 {
		return (x[n/2-1] + x[n/2]) / 2
	}
	return x[len(x)/2]
}

// medianRatio returns the median of a/b, round by round.
func medianRatio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// A quantile finds p50 and p99 among durations.
type latencies []time.Duration

func (l latencies) quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(len(l)-1, int(q*float64(len(l))))]
}

// must is for what cannot fail but for a fault of the harness or of a server, which ends the run.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(fmt.Errorf("bench: %w", err))
	}
}
