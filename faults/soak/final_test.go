//go:build unix

package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

func makeBases(n int) []atomic.Pointer[string] { return make([]atomic.Pointer[string], n) }

// list asks which logins a user's list names.
func (r *run) list(p *part, u *user) (logins []uint64, err error) {
	res, err := http.Get(*r.bases[0].Load() + "/" + p.name + "/list?user=" + url.QueryEscape(u.name))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the list of %s: %d %s", u.name, res.StatusCode, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &logins)
	}
	return logins, err
}

// checkList judges a user's list. All requests have ended. If all is quiet, no session lives but those that browsers have.
func (k *checker) checkList(u *user, logins []uint64, quiet bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if len(logins) > k.limit {
		k.violated(len(k.losses) > 0, "%s has %d sessions, at most %d are allowed", u.name, len(logins), k.limit)
	}
	for i, id := range logins {
		switch l := k.logins[id]; {
		case l == nil || l.browser.user != u || slices.Index(logins, id) != i:
			k.violated(false, "the list of %s has login %d: %s", u.name, id, l)
		case l.mustEnd != 0:
			k.violated(k.risky(l.mustEnd), "the list of %s has a session that ended by %s: %s", u.name, l.because, l)
		case quiet && l.browser.cur != l:
			k.violated(false, "the list of %s has a session that nobody uses: %s", u.name, l)
		}
	}
	for _, l := range u.logins {
		why := k.reason(l, now)
		if quiet { // the browser has looked since whatever else there was
			why = k.expired(l, now)
		}
		if l.browser.cur == l && !slices.Contains(logins, l.id) && why == "" {
			k.violated(k.risky(l.end), "the list of %s lacks a session that lives: %s", u.name, l)
		}
	}
}

// held returns how many browsers are logged in as far as they know, and how many of these sessions cannot have expired since.
func (k *checker) held(browsers []*browser) (held, sure int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range browsers {
		if b.cur == nil {
			continue
		}
		if held++; k.expired(b.cur, k.now()) == "" {
			sure++
		}
	}
	return held, sure
}

// conclude prints what the run was like, and fails the test if it was not as it should be.
func (r *run) conclude() {
	for i := range r.processes {
		r.ended(i)
	}
	for _, p := range r.parts {
		r.phases(p)
		r.say("%s: %s", p.name, counts(p.checker.count, ""))
		sv := r.total.services[p.name]
		r.say("%s: the processes' requests: %s; calls of the store: %s; events: %s", p.name, counts(sv.Requests, ""), counts(sv.Ops, ""), counts(sv.Events, "store"))
		if n := sv.Events["reused"] + sv.Events["damaged"] + sv.Events["undecodable"]; n > 0 {
			r.t.Errorf("%s: %d events that should not be", p.name, n)
		}
		for i, text := range p.checker.violations {
			if r.t.Errorf("%s", text); i == 30 {
				r.t.Errorf("and %d more", len(p.checker.violations)-i-1)
				break
			}
		}
	}
	all := r.samples.where(func(sample) bool { return true })
	r.say("all: %s", describe(all))
	r.took("the processes", r.total.cpu, len(all))
	for i, p := range r.parts {
		r.took(p.name, r.servers[i].CPU(), len(r.samples.where(func(s sample) bool { return s.store == p.name })))
	}
	var use syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	r.took("the browsers", time.Duration(use.Utime.Nano()+use.Stime.Nano()), len(all))
	r.flat()
	verdict := "nothing was lost, nothing came back, nobody was logged out without a reason"
	if r.t.Failed() {
		verdict = "FAILED"
	}
	r.say("seed %d: %s", *seed, verdict)
}

// took prints what of the machine somebody took. Servers count from when they were last started.
func (r *run) took(who string, cpu time.Duration, requests int) {
	r.say("%s took %.1f s of processor time, %.3f cores, %.2f ms a request", who, cpu.Seconds(),
		cpu.Seconds()/r.now().Seconds(), ms(cpu)/float64(max(1, requests)))
}

// phases prints how long requests took before, during and after the faults of a store, and judges errors.
func (r *run) phases(p *part) {
	last := time.Duration(0)
	in := func(from, to time.Duration) []sample {
		return r.samples.where(func(s sample) bool { return s.store == p.name && s.at >= from && s.at < to })
	}
	calm := func(name string, from, to time.Duration) {
		found := slices.DeleteFunc(in(from, to), func(s sample) bool { return s.at+s.took >= to }) // the fault has met these
		r.say("%s, %s: %s", p.name, name, describe(found))
		bad := 0
		for _, s := range found {
			if s.kind != "ok" && s.kind != "refused" && s.kind != "cut off" {
				bad++
			}
		}
		if r.long() && bad*1000 > len(found) {
			r.t.Errorf("%s, %s: %d of %d requests failed, while nothing was wrong", p.name, name, bad, len(found))
		}
	}
	before := "before"
	for _, f := range r.faults {
		if f.store != "" && f.store != p.name {
			continue
		}
		calm(before, last, f.from)
		r.say("%s, %s: %s", p.name, f.name, describe(in(f.from, f.to)))
		before, last = "after "+f.name, f.to
	}
	calm(before, last, r.now())
}

// flat wants memory, goroutines and files at the end of a long run to be what they were.
func (r *run) flat() {
	for _, figure := range []struct {
		name  string
		of    func(*stats) float64
		grace float64
	}{
		{"heap in MiB", func(s *stats) float64 { return float64(s.Heap) / (1 << 20) }, 4},
		{"goroutines", func(s *stats) float64 { return float64(s.Goroutines) }, 20},
		{"files", func(s *stats) float64 { return float64(s.Files) }, 20},
	} {
		first := level(r.readings, r.length/10, r.length*4/10, figure.of)
		last := level(r.readings, r.length*7/10, r.length, figure.of)
		r.say("%s of a process: %.1f in the first part of the run, %.1f in the last", figure.name, first, last)
		if r.long() && last > first*1.3+figure.grace {
			r.t.Errorf("%s: %.1f, and %.1f in the end", figure.name, first, last)
		}
	}
}
