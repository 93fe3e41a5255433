package integration_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/session/internal/storetest"
)

// playRounds plays rounds of a race, several side by side, until one fails. Each of those side by side has a function of its
// own to play them, which draws all that it draws from the seed.
func playRounds(t *testing.T, newRound func() func(ctx context.Context, seed uint64) error) {
	t.Helper()
	t.Parallel() // with the rounds on other stores: much of the time they wait for servers
	rounds, first := storetest.Rounds()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range 4 {
		play := newRound()
		workers.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= uint64(rounds) {
					return
				}
				if err := play(ctx, first+n); err != nil && ctx.Err() == nil {
					t.Errorf("round %d, SESSION_TEST_SEED=%d: %v", n, first+n, err)
					cancel()
				}
			}
		})
	}
	workers.Wait()
}
