package sessionotel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/session"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options are the settings of an Observer. The zero value is right for most applications, but for Store.
type Options struct {
	// MeterProvider is where the metrics go; nil means otel.GetMeterProvider.
	MeterProvider metric.MeterProvider
	// TracerProvider is where the spans go; nil means otel.GetTracerProvider.
	TracerProvider trace.TracerProvider
	// Store is the one whose sessions session.live counts; nil means that they are not counted.
	Store session.Store
	// CountInterval is how old a count may be before the next is made, since session.Count costs a look at each record; 0
	// means a minute. Other values have to be positive.
	CountInterval time.Duration
}

// An Observer makes metrics and spans of events. New returns one. It is safe for concurrent use.
type Observer struct {
	tracer     trace.Tracer
	operations metric.Float64Histogram
	waits      metric.Float64Histogram
	events     metric.Int64Counter
	repeats    metric.Int64Counter
	swept      metric.Int64Counter
	labels     labels
	live       *counter // nil where nothing is counted
}

const scope = "example.com/session/sessionotel"

// The attributes that are no semantic convention of their own.
const (
	operationKey = attribute.Key("session.store.operation")
	outcomeKey   = attribute.Key("session.store.outcome")
	kindKey      = attribute.Key("session.event.kind")
	reasonKey    = attribute.Key("session.event.reason")
)

// buckets are for stores in the process, which take microseconds, to servers that come near session.Options.StoreTimeout.
var buckets = metric.WithExplicitBucketBoundaries(0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

// New returns an observer, whose Observe is for session.Options. Several managers may share one. Its errors are those of
// the options and of the MeterProvider. opts may be nil.
func New(opts *Options) (*Observer, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	switch {
	case o.CountInterval < 0:
		return nil, fmt.Errorf("sessionotel: a CountInterval of %v is not positive", o.CountInterval)
	case o.CountInterval == 0:
		o.CountInterval = time.Minute
	}
	v := &Observer{tracer: o.TracerProvider.Tracer(scope)}
	meter := o.MeterProvider.Meter(scope)
	if err := v.instruments(meter); err != nil {
		return nil, fmt.Errorf("sessionotel: %w", err)
	}
	if o.Store != nil {
		live, err := newCounter(meter, o.Store, o.CountInterval)
		if err != nil {
			return nil, fmt.Errorf("sessionotel: %w", err)
		}
		v.live = live
	}
	v.begin()
	return v, nil
}

func (v *Observer) instruments(meter metric.Meter) error {
	var errs [5]error
	v.operations, errs[0] = meter.Float64Histogram("session.store.operation.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of the session store's operations."))
	v.waits, errs[1] = meter.Float64Histogram("session.lock.wait.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of the waits for session locks."))
	v.events, errs[2] = meter.Int64Counter("session.events", metric.WithUnit("{event}"),
		metric.WithDescription("Events in the lives of sessions."))
	v.repeats, errs[3] = meter.Int64Counter("session.save.repeats", metric.WithUnit("{save}"),
		metric.WithDescription("Saves that were done again, since another request was first."))
	v.swept, errs[4] = meter.Int64Counter("session.store.swept", metric.WithUnit("{record}"),
		metric.WithDescription("Expired records that sweeps have removed."))
	return errors.Join(errs[:]...)
}

// begin counts none of what should not happen. A counter that begins at 1 has no increase.
func (v *Observer) begin() {
	for _, e := range []session.Event{
		{Kind: session.EventLost},
		{Kind: session.EventDamaged},
		{Kind: session.EventUndecodable},
		{Kind: session.EventReused},
		{Kind: session.EventStaleWrite},
		{Kind: session.EventLoginRefused, Reason: session.ReasonLimit},
		{Kind: session.EventCookieRefused, Reason: session.ReasonBadSignature},
		{Kind: session.EventDeviceRefused, Reason: session.ReasonBadSignature},
		{Kind: session.EventDeviceLocked, Reason: session.ReasonUnproven},
		{Kind: session.EventUnknown, Reason: session.ReasonExpired},
		{Kind: session.EventLock, Reason: session.ReasonTimeout},
		{Kind: session.EventLock, Reason: session.ReasonTakenOver},
		{Kind: session.EventLock, Reason: session.ReasonLost},
		{Kind: session.EventOldSecret, Reason: session.ReasonCookie},
	} {
		v.events.Add(context.Background(), 0, v.labels.event(&e))
	}
	v.repeats.Add(context.Background(), 0)
	v.swept.Add(context.Background(), 0)
}

// Observe is an Options.Observer.
func (v *Observer) Observe(ctx context.Context, e session.Event) {
	if e.Kind == session.EventStore {
		v.store(ctx, &e)
		return
	}
	v.events.Add(ctx, 1, v.labels.event(&e))
	switch {
	case e.Kind == session.EventConflict:
		v.repeats.Add(ctx, int64(e.Count-1))
	case e.Kind == session.EventLock && e.Reason != session.ReasonLost: // which is no wait
		v.waits.Record(ctx, e.Duration.Seconds(), v.labels.wait(&e))
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("session."+string(e.Kind), trace.WithAttributes(eventAttributes(&e)...))
	}
}

// store is Observe for a call of the store.
func (v *Observer) store(ctx context.Context, e *session.Event) {
	end := time.Now()
	v.operations.Record(ctx, e.Duration.Seconds(), v.labels.operation(e))
	if e.Op == "sweep" && e.Count > 0 {
		v.swept.Add(ctx, int64(e.Count))
	}
	if !trace.SpanContextFromContext(ctx).IsSampled() { // nor is one that is none
		return
	}
	outcome, errorType := outcomeOf(e.Err)
	_, span := v.tracer.Start(ctx, "session.store "+e.Op, trace.WithTimestamp(end.Add(-e.Duration)), trace.WithAttributes(
		sessionID(e.ID), operationKey.String(e.Op), outcomeKey.String(outcome)))
	if errorType != "" {
		span.SetAttributes(errorTypeKey.String(errorType))
		span.SetStatus(codes.Error, e.Err.Error())
	}
	span.End(trace.WithTimestamp(end))
}

// Close ends the count of the sessions that live, and waits for one that is under way. Events are taken as before.
func (v *Observer) Close() error {
	if v.live == nil {
		return nil
	}
	return v.live.close()
}
