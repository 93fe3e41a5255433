package session

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

// A sweeper removes expired records in the background.
type sweeper struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// sweep starts the removal of expired records every interval, with a tenth of jitter so that processes that
// were started together do not go at the store together. An interval of 0, or a store whose server removes them,
// starts nothing.
func (m *Manager) sweep(interval time.Duration) {
	if _, ok := m.store.(Sweeper); !ok || interval == 0 || m.off {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	m.sweeper.stop = stop
	m.sweeper.done.Go(func() {
		timer := time.NewTimer(jitter(interval))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			if _, err := m.DeleteExpired(ctx); errors.Is(err, errors.ErrUnsupported) {
				return // a decorator in front of a store that is no Sweeper
			}
			timer.Reset(jitter(interval))
		}
	})
}

func (s *sweeper) close() {
	if s.stop != nil {
		s.stop()
	}
	s.done.Wait()
}

// DeleteExpired removes the expired records from the store, in small batches, and returns how many it removed.
// It is what the manager does every Options.SweepInterval; call it where that is Never. It returns an error that
// wraps errors.ErrUnsupported if the store's server removes them by itself.
func (m *Manager) DeleteExpired(ctx context.Context) (int, error) {
	start := m.startTimer()
	n, err := DeleteExpired(ctx, m.store)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errors.ErrUnsupported) {
		m.logger.WarnContext(ctx, "session: expired sessions were not removed", "err", err)
	}
	if m.observer != nil {
		m.observer(ctx, Event{Kind: EventStore, Op: "sweep", Duration: time.Since(start), Count: n, Err: err})
	}
	return n, err
}

func jitter(d time.Duration) time.Duration {
	return d - d/20 + mathrand.N(d/10+1)
}
