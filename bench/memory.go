package bench

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"example.com/session"
	scsmem "github.com/alexedwards/scs/v2/memstore"
)

// compareStores is a memory store alone, with many sessions and with few.
func (s scale) compareStores(r *report, many session.Store) {
	few := session.NewMemoryStore()
	data := sampleData()
	ids := map[session.Store][]session.ID{}
	for i, store := range []session.Store{many, few} {
		// The same number of sessions in use among many and among few, beyond what the caches hold in neither.
		n := s.sessions
		if i == 0 {
			n = s.many
		}
		for k := range n {
			// others than those of the crowd
			id := crowdID(s.many + k)
			check(store.Save(context.Background(), id, session.Record{Expires: crowdExpiry(false), Data: data}))
			ids[store] = append(ids[store], id)
		}
	}
	load := func(store session.Store) func(int) {
		ids, next := ids[store], 0
		return func(n int) {
			for range n {
				must(store.Load(context.Background(), ids[next]))
				next = int(mix(uint64(next)) % uint64(len(ids))) // no order that a cache could foresee
			}
		}
	}
	r.addInProcess(fmt.Sprintf("memory/%d sessions/load alone", s.many), s.process.inProcess([]contestant{
		{"", load(many)}, {fmt.Sprintf("with %d sessions", s.sessions), load(few)},
	}))
}

// heap is the memory that a session takes beyond its data.
func (s scale) heap(r *report) {
	data := sampleData()
	expires := crowdExpiry(false)
	fill := func(save func(i int)) float64 {
		before := heapInUse()
		for i := range s.many {
			save(i)
		}
		return (heapInUse() - before) / float64(s.many)
	}
	store := session.NewMemoryStore()
	ours := fill(func(i int) {
		check(store.Save(context.Background(), crowdID(i), session.Record{Expires: expires, Data: data}))
	})
	other := scsmem.NewWithCleanupInterval(0)
	theirs := fill(func(i int) {
		check(other.Commit(crowdID(i).String()[:43], data, expires)) // as long as their tokens are
	})
	runtime.KeepAlive(store)
	runtime.KeepAlive(other)
	r.add(line{"memory/beyond the data", ours, "scs", theirs, "bytes/session", theirs / ours})
}

func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what the first has found, the second frees
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// processors is how much faster two processors are than one, and how much more each request costs on two: what does not
// get dearer is held up by nothing but what else the machine does.
func (s scale) processors(r *report, b backend) {
	if runtime.NumCPU() < 2 {
		return
	}
	for _, w := range []work{read, write} {
		libraries := without(having(b.libraries, w, small), bareHandlerName, cookieStore)
		gain, cost := make([]float64, len(libraries)), make([]float64, len(libraries))
		for i, l := range libraries {
			gain[i], cost[i] = s.twoProcessors(l.handler(w, small), seed(l, small, s.sessions))
		}
		for i, l := range libraries[1:] {
			r.add(line{"memory/" + string(w) + "/2 CPUs", gain[0], l.name, gain[i+1], "times 1 CPU", gain[0] / gain[i+1]})
			r.add(line{"memory/" + string(w) + "/2 CPUs", cost[0], l.name, cost[i+1], "CPU time of 1 CPU", cost[i+1] / cost[0]})
		}
	}
}

// twoProcessors returns how many times the throughput of one processor two have, and the processor time of a request.
func (s scale) twoProcessors(h http.Handler, cookies []string) (gain, cost float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	clients := [2]*client{newClient(h, cookies, false), newClient(h, cookies, false)}
	n := s.process.calibrate(clients[0].do)
	var wall, cpu [2][]float64 // by how many processors
	for range s.process.rounds {
		for i := range wall {
			runtime.GOMAXPROCS(i + 1)
			runtime.GC()
			wallBefore, cpuBefore := wallTime(), cpuTime()
			var wg sync.WaitGroup
			for _, c := range clients {
				wg.Go(func() { c.do(n) })
			}
			wg.Wait()
			wall[i] = append(wall[i], (wallTime() - wallBefore).Seconds())
			cpu[i] = append(cpu[i], (cpuTime() - cpuBefore).Seconds())
		}
	}
	return medianRatio(wall[0], wall[1]), medianRatio(cpu[1], cpu[0])
}

// sweepOthers is sweep's case for the memory of scs, whose every request waits for the whole removal.
func (s scale) sweepOthers(r *report) {
	store := scsmem.NewWithCleanupInterval(s.sweepWait)
	data := sampleData()
	for i := range s.many {
		check(store.Commit(crowdID(i).String()[:43], data, crowdExpiry(i < s.many/2)))
	}
	l := newSCS(store)
	c := newClient(l.handler(read, small), seed(l, small, s.sessions), false)
	longest := slices.Max(c.each(2 * s.sweepWait))
	store.StopCleanup()

	mine := session.NewMemoryStore()
	fillStore(mine, s.many, s.many/2, 2)
	c = newClient(ours(mine).handler(read, small), seed(ours(mine), small, s.sessions), false)
	var wg sync.WaitGroup
	wg.Go(func() { must(session.DeleteExpired(context.Background(), mine)) })
	ours := slices.Max(c.each(s.sweepWait))
	wg.Wait()
	r.add(line{fmt.Sprintf("memory/removing %d of %d", s.many/2, s.many), micros(ours), "scs", micros(longest),
		"µs longest", micros(longest) / max(micros(ours), math.SmallestNonzeroFloat64)})
}

// each sends requests for so long and returns how long each took.
func (c *client) each(d time.Duration) latencies {
	var took latencies
	for start := time.Now(); time.Since(start) < d; {
		sent := time.Now()
		c.do(1)
		took = append(took, time.Since(sent))
	}
	return took
}
