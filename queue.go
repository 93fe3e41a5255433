package session

import (
	"context"
	"slices"
	"sync"
	"time"
)

// queues lets the commits of one session in this process pass one by one, first come, first served, each with a
// look at what the one before it saved: so they need not find out by conflicts.
type queues struct {
	mu     sync.Mutex
	queues map[ID]*queue // of the sessions that are being committed
}

type queue struct {
	waiting []chan handover
}

// A handover is what a commit leaves to the next one in the queue.
type handover struct {
	saved  Record    // the record as it is now, if that is known
	streak int       // how many commits have passed without a pause
	began  time.Time // when the last one came to the store
}

// maxStreak is how many commits of one session a process may do in a row before it lets others have a go.
const maxStreak = 8

// maxYield bounds the pause for others.
const maxYield = 50 * time.Millisecond

// yield pauses after a streak. The next commit has the last one's record and needs one step at the store, while another process
// needs two, look and save, and would never fit them in.
func (h *handover) yield(ctx context.Context) {
	if h.streak < maxStreak {
		return
	}
	h.streak = 0
	sleep(ctx, min(3*time.Since(h.began), maxYield))
}

// enter waits for its turn, at most until ctx is done. It returns what the one before left, if anything; the
// caller passes what it leaves itself to leave.
func (q *queues) enter(ctx context.Context, id ID) (handover, error) {
	q.mu.Lock()
	line, busy := q.queues[id]
	if !busy {
		if q.queues == nil {
			q.queues = make(map[ID]*queue)
		}
		q.queues[id] = nil // nobody waits, nearly always: no queue to allocate (BenchmarkRequest/write)
		q.mu.Unlock()
		return handover{}, nil
	}
	if line == nil {
		line = new(queue)
		q.queues[id] = line
	}
	turn := make(chan handover, 1)
	line.waiting = append(line.waiting, turn)
	q.mu.Unlock()

	select {
	case last := <-turn:
		return last, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(line.waiting, turn)
	if i >= 0 {
		line.waiting = slices.Delete(line.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // its turn has come at the same moment
		q.leave(id, <-turn)
	}
	return handover{}, ctx.Err()
}

// leave lets the next one in.
func (q *queues) leave(id ID, left handover) {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.queues[id]
	if line == nil || len(line.waiting) == 0 {
		delete(q.queues, id)
		return
	}
	line.waiting[0] <- left
	line.waiting = line.waiting[1:]
}

// A turn is a commit's place in the queue of its process.
type turn struct {
	queues   *queues
	id       ID
	handover handover
	left     Record
}

// end lets the next one in.
func (t *turn) end() {
	t.handover.saved = t.left
	t.queues.leave(t.id, t.handover)
}
