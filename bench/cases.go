package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"example.com/session"
)

// A scale says how much of everything a run does.
type scale struct {
	backends []namedBackend
	works    []work
	process  contest // for what runs in this process
	loopback contest // for what goes over a server
	conns    int
	sessions int  // that requests go round
	many     int  // in a store, beside these
	passes   int  // of six requests at once
	deep     bool // what takes long: many sessions, removal, memory, processors
	// sweepWait is how long requests run while a memory store removes what has expired.
	sweepWait time.Duration
}

// run runs the cases of one backend.
func (s scale) run(tb testing.TB, r *report, b backend) {
	switch {
	case b.standIn:
		kept := len(r.Lines)
		defer func() { r.Lines = r.Lines[:kept] }()
	case b.server != "":
		r.Servers[b.name] = b.server
	}
	for _, w := range s.works {
		for i, p := range payloads {
			// The size makes no difference to a request that does nothing, and hardly one to a new cookie.
			if i == 0 || w != unused && w != regenerate && w != renew {
				s.compare(r, b, w, i, p)
			}
		}
	}
	if b.name == "memory" {
		s.ownRatios(r)
		s.setAll(r)
	}
	s.sixAtOnce(r, b)
	if !s.deep {
		return
	}
	if b.crowd != nil {
		s.crowded(tb, r, b)
	}
	if b.name == "memory" {
		s.processors(r, b)
		s.heap(r)
		s.sweepOthers(r)
	}
}

// compare is one kind of request with sessions of one size.
func (s scale) compare(r *report, b backend, w work, i int, p payload) {
	name := caseName(b.name, w, p)
	libraries := having(b.libraries, w, p)
	if !b.remote {
		var contestants []contestant
		for _, l := range libraries {
			c := newClient(l.handler(w, p), s.cookies(l, w, p), movesOn(w))
			contestants = append(contestants, contestant{l.name, c.do})
		}
		contest := s.process
		if contest.cpuOnly = !b.disk; b.disk { // what the one before has left to the disk would be a good part of a short turn
			contest.turn *= 10
			contest.rounds = min(contest.rounds, 5)
		}
		r.addInProcess(name, contest.inProcess(contestants))
		return
	}
	var loads []*load
	for _, l := range libraries {
		site := newSite(l)
		defer site.close()
		load := newLoad(site, path(w, i), s.cookies(l, w, p), s.conns, movesOn(w))
		defer load.close()
		loads = append(loads, load)
	}
	r.addLoad(name, s.loopback.overLoopback(loads))
}

// movesOn reports whether a request gives its session another cookie, with which the next one has to come.
func movesOn(w work) bool { return w == regenerate }

func caseName(backend string, w work, p payload) string {
	return backend + "/" + string(w) + "/" + p.name
}

// cookies begins the sessions that requests go round; for new sessions, they are none.
func (s scale) cookies(l library, w work, p payload) []string {
	switch {
	case w == create:
		return make([]string, s.conns)
	case l.name == bareHandlerName:
		return []string{cookieName + "=none"}
	}
	return seed(l, p, s.sessions)
}

// sixAtOnce is six requests at a time that each add one to the same value of the same session.
func (s scale) sixAtOnce(r *report, b backend) {
	name := b.name + "/six at once/small"
	libraries := having(b.libraries, count, small)
	if b.name == "memory" { // what has no store to keep anything in, has no part in it
		libraries = without(libraries, bareHandlerName, cookieStore)
	}
	var sixes []*sixAtOnce
	for _, l := range libraries {
		site := newSite(l)
		defer site.close()
		six := newSixAtOnce(site, path(count, 0), seed(l, small, max(1, s.sessions/20)))
		defer six.close()
		sixes = append(sixes, six)
	}
	rates := make([][]float64, len(sixes))
	for range s.passes {
		for i, six := range sixes {
			rates[i] = append(rates[i], six.pass())
		}
	}
	ours := sixes[0].kept(path(total, 0))
	for i, six := range sixes[1:] {
		r.add(line{name, median(rates[0]), six.site.name, median(rates[i+1]), "requests/s", medianRatio(rates[0], rates[i+1])})
		kept := six.kept(path(total, 0))
		r.add(line{name, 100 * ours, six.site.name, 100 * kept, "% of updates kept", ours / kept})
	}
}

func without(libraries []library, names ...string) []library {
	var rest []library
	for _, l := range libraries {
		keep := true
		for _, name := range names {
			keep = keep && l.name != name
		}
		if keep {
			rest = append(rest, l)
		}
	}
	return rest
}

// crowded compares requests with few and with many other sessions in the store, and then removes those of them
// that have expired while requests run.
func (s scale) crowded(tb testing.TB, r *report, b backend) {
	expired := 0
	if b.sweeps > 0 {
		expired = s.many / b.sweeps
	}
	store := b.crowd(tb, "many", s.many, expired)
	few := oursNamed(fmt.Sprintf("with %d sessions", s.sessions), b.crowd(tb, "few", s.sessions, 0))
	many := oursNamed(fmt.Sprintf("with %d sessions", s.many), store)
	for _, w := range []work{read, write} {
		crowded := b
		crowded.name = fmt.Sprintf("%s/%d sessions", b.name, s.many)
		crowded.libraries = []library{many, few}
		s.compare(r, crowded, w, 0, small)
	}
	if b.name == "memory" {
		s.compareStores(r, store)
	}
	if expired > 0 {
		s.sweep(r, b, many, store, expired)
	}
}

// longestCalm is enough requests for the slowest of ten thousand.
const longestCalm = 20 * time.Second

// sweep removes what has expired while requests run, and compares how long those take with and without.
func (s scale) sweep(r *report, b backend, l library, store session.Store, expired int) {
	name := fmt.Sprintf("%s/removing %d of %d", b.name, expired, s.many)
	site := newSite(l)
	defer site.close()
	// One connection, so that there is a processor left for the removal: two would slow each other down anyway.
	load := newLoad(site, path(read, 0), seed(l, small, s.sessions), 1, false)
	defer load.close()
	load.run(s.loopback.turn)
	var removed int
	var took time.Duration
	busy := load.whileRunning(func() {
		start := time.Now()
		removed = must(session.DeleteExpired(context.Background(), store))
		took = time.Since(start)
	})
	calm := load.whileRunning(func() { time.Sleep(min(max(took, 2*s.loopback.turn), longestCalm)) })
	if removed < expired {
		panic(fmt.Sprintf("bench: %s: %d were removed", name, removed))
	}
	for _, q := range []struct {
		unit string
		at   float64
	}{{"µs p50", 0.5}, {"µs p99", 0.99}, {"µs p99.9", 0.999}} {
		with, without := micros(busy.quantile(q.at)), micros(calm.quantile(q.at))
		r.add(line{name, with, "without removal", without, q.unit, without / with})
	}
	r.add(line{name, micros(took) / float64(removed), "-", 0, "µs for each removed", 0})
}
