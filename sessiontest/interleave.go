package sessiontest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
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

// A round is a few requests that carry the cookie of one session, each to a process of its own. One request at a
// time makes one call to the store, drawn from those that want to make one. A free round leaves the order to the
// goroutines, and has two processes for all.
type round struct {
	mode
	seed    uint64
	random  *mathrand.Rand
	free    bool
	cookie  string
	players []*player
	ready   chan *player // wants to make a call
	done    chan *player // has its reply
	clock   atomic.Int64

	mu    sync.Mutex
	trace []call
}

// A player is a request of a round. Until it is done, the fields below turn are its goroutine's.
type player struct {
	round *round
	index int
	act   act
	turn  chan turn

	reply   reply
	found   bool  // the planted value
	began   int64 // when its last call to the store began
	saved   int64 // when its last call ended, if it was a Save that succeeded
	faulted bool  // one of its calls failed, or the reply was lost
	dead    bool
}

func newRound(m mode, seed uint64) *round {
	r := &round{
		mode:   m,
		seed:   seed,
		random: mathrand.New(mathrand.NewPCG(seed, 0)),
		free:   !m.faults && seed%4 == 0,
		ready:  make(chan *player, maxCast),
		done:   make(chan *player, maxCast),
	}
	acts := [...]act{reads, reads, writes, writes, writes, writes, regenerates, destroys}
	for i := range 3 + r.random.IntN(maxCast-2) {
		p := &player{round: r, index: i, act: acts[r.random.IntN(len(acts))], turn: make(chan turn, 1)}
		r.players = append(r.players, p)
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
		if r.free {
			i %= 2
		}
		go func() {
			p.reply = send(context.WithValue(ctx, playerKey{}, p), processes[i], cookie, func(s *session.Session) {
				p.found = p.act.do(s, p.index)
			})
			r.done <- p
		}()
	}
	r.direct()
	err = r.judge(func(cookie string) (view, error) { return look(ctx, reader, cookie) })
	if err != nil {
		return fmt.Errorf("%w\n%v", err, r)
	}
	return nil
}

// direct gives turns until all players are done.
func (r *round) direct() {
	var waiting []*player
	for playing := len(r.players); playing > 0; {
		for len(waiting) < playing {
			select {
			case p := <-r.ready:
				waiting = append(waiting, p)
			case <-r.done:
				playing--
			}
		}
		if playing == 0 {
			return
		}
		slices.SortFunc(waiting, func(a, b *player) int { return cmp.Compare(a.index, b.index) })
		i := r.random.IntN(len(waiting))
		p := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		p.turn <- r.drawTurn()
	}
}

// A turn says what becomes of a call to the store.
type turn int

const (
	succeed turn = iota
	fail         // the store does not get it
	lose         // the store's reply gets lost
	die          // the process dies before it makes the call
)

func (r *round) drawTurn() turn {
	if r.faults {
		switch n := r.random.IntN(100); {
		case n < 3:
			return fail
		case n < 9:
			return lose
		case n < 12:
			return die
		}
	}
	return succeed
}

var (
	errFailed = errors.New("it did not get through")
	errLost   = errors.New("the reply was lost")
	errDead   = errors.New("the process died")
)

// call makes a call to the store with f when it is p's turn.
func (p *player) call(c call, f func() error) error {
	if p.dead {
		return errDead
	}
	t := p.waitForTurn()
	p.faulted = p.faulted || t != succeed
	p.began, p.saved = p.round.clock.Add(1), 0
	switch t {
	case fail:
		c.err = errFailed
	case die:
		c.err = errDead
		p.dead = true
	default:
		c.err = f()
		if c.op == "save" && c.err == nil {
			p.saved = p.round.clock.Add(1)
		}
	}
	c.player, c.lost = p, t == lose
	p.round.mu.Lock()
	defer p.round.mu.Unlock()
	p.round.trace = append(p.round.trace, c)
	if c.lost {
		return errLost
	}
	return c.err
}

func (p *player) waitForTurn() turn {
	if p.round.free {
		for range mathrand.N(3) {
			runtime.Gosched()
		}
		return succeed
	}
	p.round.ready <- p
	return <-p.turn
}
