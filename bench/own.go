package bench

import (
	"fmt"
	"net/http"

	"example.com/session"
)

// ownRatios sets requests of ours beside others of ours, for what is to cost no more than so many times as much.
func (s scale) ownRatios(r *report) {
	many := newPayload("64 values", 64, 12) // as short as the three of the small one
	for _, test := range []struct {
		name, other   string
		work, beside  work
		payload, with payload
	}{
		{"renewal", "a write", renew, write, small, small},
		{"regeneration", "a write", regenerate, write, small, small},
		{"read one of 64 values", "one of 3", read, read, many, small},
		{"write one of 64 values", "one of 3", write, write, many, small},
	} {
		contestants := make([]contestant, 2)
		for i, c := range []struct {
			name string
			work work
			p    payload
		}{{"session", test.work, test.payload}, {test.other, test.beside, test.with}} {
			l := ours(session.NewMemoryStore())
			contestants[i] = contestant{c.name, newClient(l.handler(c.work, c.p), s.cookies(l, c.work, c.p), movesOn(c.work)).do}
		}
		contest := s.process
		contest.cpuOnly = true
		r.addInProcess("memory/"+test.name, contest.inProcess(contestants))
	}
}

// setAll sets so many values at once, and ten times as many.
func (s scale) setAll(r *report) {
	const n = 1000
	contestants := make([]contestant, 2)
	for i, keys := range []int{10 * n, n} {
		values := newPayload("", keys, 12).values
		m := must(session.New(session.NewMemoryStore(), secret, &session.Options{SweepInterval: session.Never}))
		h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session.FromContext(r.Context()).SetAll(values)
			answer(w, true)
		}))
		c := newClient(h, []string{""}, false)
		contestants[i] = contestant{fmt.Sprintf("%d keys", keys), c.do}
	}
	contest := s.process
	contest.cpuOnly = true
	scores := contest.inProcess(contestants)
	many, few := scores[0], scores[1]
	r.add(line{fmt.Sprintf("memory/SetAll of %s", many.name), many.ns / (10 * n), few.name, few.ns / n, "ns/key", 10 * few.ns / many.ns})
}
