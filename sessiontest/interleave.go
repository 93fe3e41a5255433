package sessiontest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
	"example.com/session/internal/interleave"
)

// A mode says what happens in a round besides requests.
type mode struct {
	renew  bool // IDs are renewed all the time
	faults bool // calls to the store fail, replies get lost, processes die
}

const (
	maxRounds = 1000
	roundTime = 20 * time.Second // for all rounds of a mode; a slow store gets through fewer of them
	atOnce    = 8                // rounds that are played side by side, each with a session of its own
	maxCast   = 6                // requests in a round
)

// check plays rounds, in each of which a few requests that carry the same cookie meet.
func (m mode) check(ctx context.Context, s *site) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(roundTime)
	var last atomic.Uint64
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			processes, err := m.processes(s)
			for err == nil && ctx.Err() == nil && time.Now().Before(end) {
				seed := last.Add(1)
				if seed > maxRounds {
					return
				}
				err = newRound(m, seed).play(ctx, s, processes)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// processes returns a manager for each request of a round.
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

// A round is a few requests that carry the cookie of one session, each to a process of its own. A free round has two
// processes for all.
type round struct {
	*interleave.Round
	cookie  string
	players []*player
}

// A player is a request of a round.
type player struct {
	*interleave.Actor
	index int
	act   act
	reply reply
	found bool // the planted value
}

func newRound(m mode, seed uint64) *round {
	r := &round{Round: interleave.New(seed)}
	r.Faults = m.faults
	r.Free = !m.faults && seed%4 == 0
	acts := [...]act{reads, reads, writes, writes, writes, writes, regenerates, destroys}
	for i := range 3 + r.Random.IntN(maxCast-2) {
		r.players = append(r.players, &player{index: i, act: acts[r.Random.IntN(len(acts))]})
	}
	return r
}

// play sends the requests and judges what comes of them.
func (r *round) play(ctx context.Context, s *site, processes []*session.Manager) error {
	reader, cookie, err := s.begin(ctx, s.options())
	if err != nil {
		return err
	}
	r.cookie = cookie
	// By then renewing and touching it is due.
	if err := sleepUntil(ctx, time.Now().Add(2*time.Millisecond)); err != nil {
		return err
	}
	for i, p := range r.players {
		if r.Free {
			i %= 2
		}
		p.Actor = r.Add(p.String(), func(ctx context.Context) {
			p.reply = send(ctx, processes[i], cookie, func(s *session.Session) {
				p.found = p.act.do(s, p.index)
			})
		})
	}
	r.Play(ctx)
	err = r.judge(func(cookie string) (view, error) { return look(ctx, reader, cookie) })
	if err != nil {
		return fmt.Errorf("%w\n%v", err, r)
	}
	return nil
}
