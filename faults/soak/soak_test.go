//go:build unix

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/program"
	"example.com/session/internal/servertest"
	"github.com/redis/go-redis/v9"
)

const processes = 4

// A run is a soak under way. Its methods are for the test's goroutine.
type run struct {
	*load
	t         *testing.T
	length    time.Duration
	settings  settings
	bin       string
	servers   []*servertest.Server // of the parts
	urls      []string
	processes []*program.Process
	latest    []*stats // of each process
	total     total    // of those that have ended
	readings  []reading
	faults    []fault
	printed   time.Duration // until when
	observer  *redis.Client // of a node that nobody kills
	epoch     string        // of the cluster
	looked    time.Duration // when it was asked
}

// A fault is a time that is not like the others.
type fault struct {
	name     string
	store    string // empty: both
	from, to time.Duration
}

// TestSoak is the run that doc.go describes: of seconds, or as long as -for says.
func TestSoak(t *testing.T) {
	r := &run{t: t, length: *duration, settings: settings{
		idle: 40 * time.Second, absolute: 4 * time.Minute, renew: 5 * time.Second, grace: 10 * time.Second, limit: 4,
	}}
	if r.length == 0 {
		r.length = 12 * time.Second
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	r.say("seed %d, %d browsers, %v requests a second, for %v, on %d cores", *seed, *crowd, *rate, r.length, runtime.NumCPU())
	// The cluster is to answer for what it can while one of its masters has no successor.
	timeout := "5000"
	if !r.long() {
		timeout = "60000" // a machine that stands still is no failure; the replica is told to take over
	}
	cluster := servertest.Start(t, servertest.KindRedisCluster, "--cluster-node-timeout", timeout, "--cluster-require-full-coverage", "no")
	postgres := servertest.Start(t, servertest.KindPostgreSQL)
	r.say("%s; %s", cluster.Name, postgres.Name)
	r.load = &load{
		tb: t, began: time.Now(), rng: rand.New(rand.NewPCG(*seed, 0)),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}},
	}
	if r.eager = .1; !r.long() {
		r.eager = .5 // there is not much time
	}
	r.servers = []*servertest.Server{cluster, postgres}
	r.urls = []string{"redis=" + cluster.URL, "postgres=" + postgres.URL}
	r.parts = []*part{
		newPart("redis", *crowd/2, r.settings, r.now), newPart("postgres", *crowd-*crowd/2, r.settings, r.now),
	}
	r.observer = redis.NewClient(&redis.Options{Addr: cluster.Addrs[1]})
	defer r.observer.Close()
	r.startAll()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.began = time.Now()
	r.running.Go(func() { r.run(ctx, *rate) })
	r.troubles(cluster, postgres)
	r.until(r.length)
	if r.long() { // those end that nobody uses, and nothing else
		r.quietly.Store(true)
		r.until(r.now() + r.settings.idle + landing + 2*slack)
	}
	cancel()
	r.running.Wait()
	r.client.CloseIdleConnections()
	r.reconcile(cluster.URL, postgres.URL)
	r.conclude()
}

func (r *run) long() bool { return *duration >= 5*time.Minute }

func (r *run) say(format string, args ...any) {
	if *duration != 0 {
		fmt.Fprintf(os.Stdout, format+"\n", args...)
		return
	}
	r.t.Logf(format, args...)
}

// startAll starts the processes.
func (r *run) startAll() {
	bin, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.bin = bin
	r.bases = makeBases(processes)
	r.processes = make([]*program.Process, processes)
	r.latest = make([]*stats, processes)
	for i := range r.processes {
		r.launch(i)
	}
}

func (r *run) launch(i int) {
	args := r.settings.args()
	for _, u := range r.urls {
		args = append(args, "-store", u)
	}
	r.processes[i] = program.Start(r.t, r.bin, args...)
	r.bases[i].Store(&r.processes[i].Base)
}

// until lets the time pass, and looks at the processes meanwhile.
func (r *run) until(at time.Duration) {
	for now := r.now(); now < at; now = r.now() {
		step := min(at-now, max(time.Second, min(*every, r.length/10)))
		time.Sleep(step)
		r.look()
	}
}

// look reads all processes, and prints a line if it is time.
func (r *run) look() {
	rd := r.read()
	r.watch()
	r.readings = append(r.readings, rd)
	for i, st := range rd.stats {
		if st != nil {
			r.latest[i] = st
		}
	}
	if r.now()-r.printed < *every-time.Second/2 {
		return
	}
	from := r.printed
	r.printed = r.now()
	r.say("%8v %s; %s; %d violations", r.printed.Round(time.Second),
		describe(r.samples.where(func(s sample) bool { return s.at >= from && s.at < r.printed })), rd, r.violations())
}

func (r *run) violations() (n int) {
	for _, p := range r.parts {
		p.checker.mu.Lock()
		n += len(p.checker.violations)
		p.checker.mu.Unlock()
	}
	return n
}

// ended keeps what a process did that ends now.
func (r *run) ended(i int) {
	if st := r.latest[i]; st != nil {
		r.total.add(st)
		r.latest[i] = nil
	}
}

// reconcile compares the users' lists with what the browsers have, and with what the stores have.
func (r *run) reconcile(urls ...string) {
	for i, p := range r.parts {
		listed := 0
		for _, u := range p.users {
			logins, err := r.list(p, u)
			if err != nil {
				r.t.Fatal(err)
			}
			listed += len(logins)
			p.checker.checkList(u, logins, r.long())
		}
		store, err := session.Open(r.t.Context(), urls[i])
		if err != nil {
			r.t.Fatal(err)
		}
		live, err := session.Count(r.t.Context(), store)
		if err != nil {
			r.t.Fatal(err)
		}
		store.Close()
		held, sure := p.checker.held(p.browsers)
		r.say("%s: %d sessions live, %d are listed, browsers have %d, of which %d may just have expired", p.name, live, listed, held, held-sure)
		// Without quiet, some live whose cookie was lost, and some browsers do not know yet that another has ended theirs.
		if live < listed-(held-sure) || r.long() && (live > listed || live < sure || live > held) {
			r.t.Errorf("%s: the number of sessions that live, that are listed, and that browsers have, do not agree", p.name)
		}
	}
}
