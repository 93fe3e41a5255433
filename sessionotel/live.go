package sessionotel

import (
	"context"
	"errors"
	"sync"
	"time"

	"example.com/session"
	"go.opentelemetry.io/otel/metric"
)

// A counter reports how many sessions live. It counts them when somebody collects metrics and the last count is old, but lets
// nobody wait for that twice: a look at each record of a large store takes longer than a scrape may.
type counter struct {
	store    session.Store
	interval time.Duration
	stop     context.CancelFunc
	ctx      context.Context
	gauge    metric.Registration

	mu       sync.Mutex
	running  chan struct{} // closed when the count that is under way has ended; nil: none is
	asked    time.Time     // when the last count began
	counted  time.Time     // when the last one that succeeded did; zero: none has
	n        int64
	hopeless bool // the store cannot count
}

// patience is how long whoever collects waits for the first count.
const patience = time.Second

func newCounter(meter metric.Meter, store session.Store, interval time.Duration) (*counter, error) {
	c := &counter{store: store, interval: interval}
	c.ctx, c.stop = context.WithCancel(context.Background())
	gauge, err := meter.Int64ObservableGauge("session.live", metric.WithUnit("{session}"),
		metric.WithDescription("Sessions that live in the store."))
	if err != nil {
		return nil, err
	}
	c.gauge, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		if n, ok := c.get(ctx); ok {
			o.ObserveInt64(gauge, n)
		}
		return nil
	}, gauge)
	return c, err
}

// get returns the last count, and whether there is one that is not too old: a store that does not answer is no store without
// sessions.
func (c *counter) get(ctx context.Context) (int64, bool) {
	c.mu.Lock()
	if now := time.Now(); c.running == nil && !c.hopeless && c.ctx.Err() == nil && (c.asked.IsZero() || now.Sub(c.asked) >= c.interval) {
		c.asked, c.running = now, make(chan struct{})
		go c.count(now)
	}
	running, first := c.running, c.counted.IsZero()
	c.mu.Unlock()
	if running != nil && first {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-running:
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, !c.counted.IsZero() && time.Since(c.counted) < 3*c.interval
}

// count counts, for as long as the next count is away at most.
func (c *counter) count(began time.Time) {
	ctx, cancel := context.WithTimeout(c.ctx, max(c.interval, 10*time.Second))
	defer cancel()
	n, err := session.Count(ctx, c.store)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.n, c.counted = int64(n), began
	case errors.Is(err, errors.ErrUnsupported):
		c.hopeless = true
	}
	close(c.running)
	c.running = nil
}

// close stops counting, for good.
func (c *counter) close() error {
	err := c.gauge.Unregister()
	c.stop()
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if running != nil {
		<-running
	}
	return err
}
