package main

import (
	"context"
	"errors"
	"expvar"
	"time"

	"example.com/session"
)

// metrics counts what happens to sessions, for /debug/vars to show.
type metrics struct {
	events  expvar.Map // by kind
	calls   expvar.Map // of the store, by operation
	failed  expvar.Map // of these, those that the store could not do
	seconds expvar.Map // that they took, all together
	repeats expvar.Int // saves that had to be done again, because another request was first
}

// newMetrics publishes metrics that begin at zero. With another system, Prometheus for one, it is the same few counters.
func newMetrics() *metrics {
	m := new(metrics)
	all := expvar.NewMap("session")
	all.Set("events", &m.events)
	all.Set("store_calls", &m.calls)
	all.Set("store_failures", &m.failed)
	all.Set("store_seconds", &m.seconds)
	all.Set("save_repeats", &m.repeats)
	// From the first look on, what should stay at zero.
	for _, kind := range []session.EventKind{session.EventLost, session.EventDamaged, session.EventUndecodable} {
		m.events.Add(string(kind), 0)
	}
	return m
}

// observe is an Options.Observer. Several goroutines call it, while requests wait for it: so it counts and does nothing
// else. Kinds and operations are few and fixed; what a client can choose must not become the name of a counter.
func (m *metrics) observe(_ context.Context, e session.Event) {
	switch e.Kind {
	case session.EventStore:
		m.calls.Add(e.Op, 1)
		m.seconds.AddFloat(e.Op, e.Duration.Seconds())
		// "Nothing is there" and "another was first" are answers, too.
		if e.Err != nil && !errors.Is(e.Err, session.ErrNotFound) && !errors.Is(e.Err, session.ErrConflict) {
			m.failed.Add(e.Op, 1)
		}
		return
	case session.EventConflict:
		m.repeats.Add(int64(e.Count - 1))
	}
	m.events.Add(string(e.Kind), 1)
}

// watch publishes how many sessions live, where the store can tell. It is asked each time that somebody looks, which costs
// a look at each record: with a million of them, let a timer ask instead.
func (m *metrics) watch(store session.Store) {
	expvar.Publish("sessions_live", expvar.Func(func() any {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		n, err := session.Count(ctx, store)
		if err != nil {
			return nil
		}
		return n
	}))
}
