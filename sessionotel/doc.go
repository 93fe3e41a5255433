// Package sessionotel makes OpenTelemetry metrics and traces of the events of package session.
//
//	telemetry, err := sessionotel.New(&sessionotel.Options{Store: store})
//	m, err := session.New(store, secret, &session.Options{Observer: telemetry.Observe})
//
// The providers are the global ones unless Options names others, so that whatever exporter the application has gets them:
// OTLP, or Prometheus, see examples/metrics. Names follow the semantic conventions.
//
// # Metrics
//
//   - session.store.operation.duration, a histogram in s: the store's operations, by session.store.operation (load, save, touch,
//     delete, sweep) and session.store.outcome: ok; not_found and conflict, which are answers; error, with error.type beside it
//     (timeout, canceled, too_large, _OTHER).
//   - session.lock.wait.duration, a histogram in s: the waits for session locks, by session.event.reason (taken_over, timeout,
//     failed; none where it was simply locked).
//   - session.events, a counter: all other events, by session.event.kind and session.event.reason. Those that should not happen
//     are there from the beginning, at 0, so that an alarm sees the first one.
//   - session.save.repeats, a counter: saves that were done again, since another request was first.
//   - session.store.swept, a counter: expired records that sweeps have removed.
//   - session.live, a gauge: the sessions that live in the store, where it can count them. Processes that share a store all
//     report the same number.
//
// No metric has the ID of a session or the name of a user.
//
// # Traces
//
// A store operation of a request whose trace is sampled is a span under the request's, "session.store load" for one, with
// session.id. It is the ID of the record: of a lock or of a list of sessions, it is no session's. Other events are events of the
// request's span: the one in the context that Manager.Handler gets, so tracing middleware belongs around it. Operations in the
// background have no span. Traces have no user, since they go far; a log is the place for that, see session.Event.
package sessionotel
