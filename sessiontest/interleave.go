package sessiontest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
)

// A mode says what happens in a round besides requests.
type mode struct {
	renew  bool // cookies are renewed as soon as they may be
	faults bool // calls to the store fail, come late, or twice, replies get lost, responses do, processes die
}

const (
	maxRounds = 300              // each of the stores that races_test.go breaks is found out within 65
	roundTime = 20 * time.Second // for all rounds of a mode; a slow store gets through fewer of them
	atOnce    = 8                // rounds that are played side by side, each with a session of its own
	maxCast   = 6                // players in a round
)

// check plays rounds, in each of which a few requests of one browser meet.
func (m mode) check(ctx context.Context, s *site) error { return m.rounds(ctx, s, 1, maxRounds) }

// rounds plays so many rounds, the first one with that seed.
func (m mode) rounds(ctx context.Context, s *site, first, n uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(roundTime)
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			processes, err := m.processes(s)
			for err == nil && ctx.Err() == nil && time.Now().Before(end) {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				err = newRound(m, first+i).play(ctx, s, processes)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// processes returns a manager for each player of a round.
func (m mode) processes(s *site) ([]*session.Manager, error) {
	opts := s.options()
	opts.TouchInterval = time.Millisecond
	if m.renew {
		opts.RenewInterval = time.Millisecond
	}
	var processes []*session.Manager
	for range maxCast {
		p, err := s.manager(opts)
		if err != nil {
			return nil, err
		}
		processes = append(processes, p)
	}
	return processes, nil
}

// A round is one browser, with a session to begin with, some of whose requests meet. Each player sends one request, or one
// after the other, to a process of its own. A free round has two processes for all.
type round struct {
	*interleave.Round
	mode    mode
	players [][]*request
	began   time.Time
	cookie  string // of the session
	id      session.ID

	mu  sync.Mutex
	jar string // the cookie that the browser has
}

// A request is one of a round.
type request struct {
	*interleave.Actor
	index int
	act   act
	first bool   // it sends the round's cookie, as a client that never heard of another
	sleep [3]int // before it is sent, before its handler uses the session, and before that returns
	lost  bool   // the response never reaches the browser

	start, end int64     // ticks of the round
	sentAt     time.Time // it was
	sent       string    // the cookie
	seen       session.ID
	found      bool // the planted value
	reply      client.Answer
	family     *family // of the cookie that it sent; nil for none
}

func newRound(m mode, seed uint64) *round {
	r := &round{Round: interleave.New(seed), mode: m}
	r.Faults, r.Late = m.faults, m.faults
	r.Free = !m.faults && seed%4 == 0
	acts := [...]act{reads, reads, writes, writes, writes, writes, regenerates, destroys}
	n := 0
	for range 3 + r.Random.IntN(maxCast-2) {
		var player []*request
		for range 1 + r.Random.IntN(3)/2 {
			q := &request{index: n, act: acts[r.Random.IntN(len(acts))]}
			q.first = r.Random.IntN(4) == 0
			for i := range q.sleep {
				if r.Random.IntN(3) == 0 {
					q.sleep[i] = 1 + r.Random.IntN(10)
				}
			}
			q.lost = m.faults && r.Random.IntN(8) == 0
			player = append(player, q)
			n++
		}
		r.players = append(r.players, player)
	}
	return r
}

// requests returns all requests of the round.
func (r *round) requests() (all []*request) {
	for _, p := range r.players {
		all = append(all, p...)
	}
	return all
}

// play sends the requests and judges what comes of them.
func (r *round) play(ctx context.Context, s *site, processes []*session.Manager) error {
	reader, cookie, err := s.begin(ctx, s.options())
	if err != nil {
		return err
	}
	v, err := look(ctx, reader, cookie)
	if err != nil {
		return err
	}
	r.cookie, r.jar, r.id = cookie, cookie, v.id
	// By then renewing and touching it is due.
	if err := sleepUntil(ctx, time.Now().Add(2*time.Millisecond)); err != nil {
		return err
	}
	for i, player := range r.players {
		if r.Free {
			i %= 2
		}
		for j, q := range player {
			act := func(ctx context.Context) { r.send(ctx, processes[i], q) }
			if j == 0 {
				q.Actor = r.Add(q.String(), act)
			} else {
				q.Actor = player[j-1].Then(q.String(), act)
			}
		}
	}
	r.began = time.Now()
	r.Play(ctx)
	err = r.judge(func(cookie string) (view, error) { return look(ctx, reader, cookie) })
	if err != nil {
		return fmt.Errorf("%w\n%v", err, r)
	}
	return nil
}

// send sends a request, and puts the cookie of its response into the jar.
func (r *round) send(ctx context.Context, process *session.Manager, q *request) {
	interleave.Sleep(ctx, q.sleep[0])
	r.mu.Lock()
	q.sent, q.sentAt, q.start = r.jar, time.Now(), r.Tick()
	r.mu.Unlock()
	if q.first {
		q.sent = r.cookie
	}
	q.reply = client.Ask(ctx, process, q.sent, func(s *session.Session) {
		interleave.Sleep(ctx, q.sleep[1])
		q.seen = s.ID()
		q.found = q.act.do(s, q.index)
		interleave.Sleep(ctx, q.sleep[2])
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	q.end = r.Tick()
	switch {
	case q.lost || q.Died():
	case q.reply.Removed:
		r.jar = ""
	case q.reply.Cookie != "":
		r.jar = q.reply.Cookie
	}
}
