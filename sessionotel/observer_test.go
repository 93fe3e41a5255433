package sessionotel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	api "go.opentelemetry.io/otel/trace"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessionotel"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

var (
	secret  = []byte("a secret of at least thirty-two bytes")
	errDown = errors.New("store is down")
	quiet   = slog.New(slog.DiscardHandler)
)

const hits session.Key[string] = "hits"

// A lab is an application with sessions, and all that its telemetry exports.
type lab struct {
	t        *testing.T
	m        *session.Manager
	observer *sessionotel.Observer
	reader   *metric.ManualReader
	spans    *tracetest.InMemoryExporter
	traces   *trace.TracerProvider
	cookies  []*http.Cookie
	handler  func(s *session.Session, ctx context.Context)
	served   http.Handler
}

func newLab(t *testing.T, store session.Store, counted bool, opts session.Options, sampler trace.Sampler) *lab {
	t.Helper()
	l := &lab{t: t, reader: metric.NewManualReader(), spans: tracetest.NewInMemoryExporter()}
	meters := metric.NewMeterProvider(metric.WithReader(l.reader))
	l.traces = trace.NewTracerProvider(trace.WithSyncer(l.spans), trace.WithSampler(sampler))
	o := &sessionotel.Options{MeterProvider: meters, TracerProvider: l.traces}
	if counted {
		o.Store = store
	}
	var err error
	if l.observer, err = sessionotel.New(o); err != nil {
		t.Fatal(err)
	}
	opts.Observer, opts.Logger, opts.SweepInterval = l.observer.Observe, quiet, session.Never
	if l.m, err = session.New(store, secret, &opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.m.Close()
		l.observer.Close()
		meters.Shutdown(context.Background())
		l.traces.Shutdown(context.Background())
	})
	inner := l.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.handler(session.FromContext(r.Context()), r.Context())
	}))
	l.served = otelhttp.NewHandler(inner, "page", otelhttp.WithTracerProvider(l.traces), otelhttp.WithMeterProvider(meters))
	return l
}

// visit sends a request of the client's.
func (l *lab) visit(do func(s *session.Session, ctx context.Context)) int {
	l.t.Helper()
	l.handler = do
	r := httptest.NewRequest("GET", "https://example.com/", nil)
	for _, c := range l.cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	l.served.ServeHTTP(w, r)
	if set := w.Result().Cookies(); len(set) > 0 {
		l.cookies = set
	}
	return w.Code
}

func (l *lab) set(value string) int {
	return l.visit(func(s *session.Session, _ context.Context) { hits.Set(s, value) })
}

// id returns the session's.
func (l *lab) id() (id session.ID) {
	l.handler = func(s *session.Session, _ context.Context) { id = s.ID() }
	r := httptest.NewRequest("GET", "https://example.com/", nil)
	for _, c := range l.cookies {
		r.AddCookie(c)
	}
	l.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id = session.FromContext(r.Context()).ID()
	})).ServeHTTP(httptest.NewRecorder(), r)
	return id
}

// metrics returns all points: "name{attribute=value …}" and the value, or the count of a histogram.
func (l *lab) metrics() map[string]int64 {
	l.t.Helper()
	var all metricdata.ResourceMetrics
	if err := l.reader.Collect(l.t.Context(), &all); err != nil {
		l.t.Fatal(err)
	}
	points := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		if scope.Scope.Name != "example.com/session/sessionotel" {
			continue
		}
		for _, m := range scope.Metrics {
			key := func(set attribute.Set) string { return m.Name + "{" + text(set.ToSlice()) + "}" }
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					points[key(p.Attributes)] = p.Value
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					points[key(p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				if m.Unit != "s" {
					l.t.Errorf("%s is in %q", m.Name, m.Unit)
				}
				for _, p := range data.DataPoints {
					points[key(p.Attributes)] = int64(p.Count)
				}
			default:
				l.t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	return points
}

func text(attrs []attribute.KeyValue) string {
	var all []string
	for _, a := range attrs {
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	return strings.Join(all, " ")
}

// Operations by outcome, events by kind and reason, and the sessions that live, on a store in the process and on a server.
func TestMetrics(t *testing.T) {
	for _, name := range []string{"memory", "redis"} {
		t.Run(name, func(t *testing.T) {
			kind, ok := storetest.Named(name)
			if !ok {
				t.Fatalf("there is no store %q", name)
			}
			store := double.New(kind.New(t))
			l := newLab(t, store, true, session.Options{}, trace.AlwaysSample())
			for _, at := range []string{"lost", "damaged", "undecodable", "reused"} {
				if n, ok := l.metrics()["session.events{session.event.kind="+at+"}"]; n != 0 || !ok {
					t.Errorf("%s is %d at first, and is there: %v", at, n, ok)
				}
			}
			l.set("one")
			l.visit(func(s *session.Session, _ context.Context) {
				s.SetUser("ann")
				l.id() // another request loads it
			})
			l.visit(func(s *session.Session, ctx context.Context) {
				if err := s.Lock(ctx); err != nil {
					t.Error(err)
				}
				hits.Set(s, "two")
			})
			store.Hook(double.Fail(errDown, double.Load))
			if status := l.set("three"); status != http.StatusServiceUnavailable {
				t.Errorf("status %d while the store is down", status)
			}
			store.Hook()
			l.visit(func(s *session.Session, _ context.Context) { s.Destroy() })
			l.cookies = []*http.Cookie{{Name: "session_id", Value: strings.Repeat("A", 91)}}
			l.set("forged")
			got := l.metrics()
			for point, want := range map[string]int64{
				"session.events{session.event.kind=created}":                                                                   2,
				"session.events{session.event.kind=login}":                                                                     1,
				"session.events{session.event.kind=regenerated}":                                                               1,
				"session.events{session.event.kind=lock}":                                                                      1,
				"session.events{session.event.kind=ended session.event.reason=destroyed}":                                      1,
				"session.events{session.event.kind=logout session.event.reason=destroyed}":                                     1,
				"session.events{session.event.kind=cookie_refused session.event.reason=bad_signature}":                         1,
				"session.events{session.event.kind=store}":                                                                     0,
				"session.lock.wait.duration{}":                                                                                 1,
				"session.save.repeats{}":                                                                                       0,
				"session.store.operation.duration{error.type=_OTHER session.store.operation=load session.store.outcome=error}": 1,
			} {
				if got[point] != want {
					t.Errorf("%s is %d, want %d", point, got[point], want)
				}
			}
			for _, op := range []string{"load ok", "save ok", "load not_found"} {
				name, outcome, _ := strings.Cut(op, " ")
				if got["session.store.operation.duration{session.store.operation="+name+" session.store.outcome="+outcome+"}"] == 0 {
					t.Errorf("no %s: %v", op, got)
				}
			}
			if n := got["session.live{}"]; n != 0 { // as counted at the first look, not long ago
				t.Errorf("%d sessions live", n)
			}
		})
	}
}

// What becomes of each error.
func TestOutcomes(t *testing.T) {
	l := newLab(t, session.NewMemoryStore(), false, session.Options{}, trace.AlwaysSample())
	for _, test := range []struct {
		err        error
		want       string
		unanswered bool // so that the span is one of an error
	}{
		{nil, "ok", false},
		{session.ErrNotFound, "not_found", false},
		{fmt.Errorf("in words: %w", session.ErrConflict), "conflict", false},
		{session.ErrTooLarge, "error too_large", true},
		{context.DeadlineExceeded, "error timeout", true},
		{fmt.Errorf("gone: %w", context.Canceled), "error canceled", true},
		{errDown, "error _OTHER", true},
	} {
		t.Run(test.want, func(t *testing.T) {
			l.spans.Reset()
			ctx, span := l.traces.Tracer("test").Start(t.Context(), "request")
			l.observer.Observe(ctx, session.Event{Kind: session.EventStore, Op: "save", Duration: time.Second, Err: test.err})
			span.End()
			outcome, errorType, failed := strings.Cut(test.want, " ")
			point := "session.store.operation.duration{session.store.operation=save session.store.outcome=" + outcome + "}"
			if failed {
				point = strings.Replace(point, "{", "{error.type="+errorType+" ", 1)
			}
			if got := l.metrics(); got[point] != 1 {
				t.Errorf("%s is missing: %v", point, got)
			}
			s := l.spans.GetSpans()[0]
			if (s.Status.Code == codes.Error) != test.unanswered || s.EndTime.Sub(s.StartTime) != time.Second {
				t.Errorf("the span has the status %v, and took %v", s.Status, s.EndTime.Sub(s.StartTime))
			}
		})
	}
}

// The spans of a request: each operation under the request's, within its time, in the order in which they were made.
func TestSpans(t *testing.T) {
	l := newLab(t, session.NewMemoryStore(), false, session.Options{}, trace.AlwaysSample())
	l.set("one")
	id := l.id()
	for _, test := range []struct {
		name   string
		do     func(s *session.Session, ctx context.Context)
		spans  []string // those under the request's, in order
		events []string // of the request's own span
	}{
		{"unused", func(*session.Session, context.Context) {}, nil, nil},
		{"read", func(s *session.Session, _ context.Context) { hits.Get(s) }, []string{"load ok"}, nil},
		{"write", func(s *session.Session, _ context.Context) { hits.Set(s, "two") }, []string{"load ok", "save ok"}, nil},
		{"a value that does not decode", func(s *session.Session, _ context.Context) { session.Key[int]("hits").Get(s) },
			[]string{"load ok"}, []string{"session.undecodable"}},
		{"regenerated", func(s *session.Session, _ context.Context) { s.Regenerate() }, []string{"load ok", "save ok"}, []string{"session.regenerated"}},
		{"under a span of the handler's", func(s *session.Session, ctx context.Context) {
			ctx, span := l.traces.Tracer("test").Start(ctx, "work")
			defer span.End()
			hits.Set(s, "three")
			if err := s.Save(ctx); err != nil {
				t.Error(err)
			}
		}, []string{"work", "load ok", "work > save ok"}, nil},
		{"ended", func(s *session.Session, _ context.Context) { s.Destroy() }, []string{"load ok", "save ok"}, []string{"session.ended"}},
		{"stale", func(s *session.Session, _ context.Context) { hits.Set(s, "four") }, []string{"load ok"}, []string{"session.unknown", "session.stale_write"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cookies := l.cookies
			l.spans.Reset()
			l.visit(test.do)
			if test.name == "ended" {
				l.cookies = cookies
			}
			all := l.spans.GetSpans()
			names := make(map[api.SpanID]string)
			var request tracetest.SpanStub
			for _, s := range all {
				if s.SpanKind == api.SpanKindServer {
					request = s
				}
			}
			slices.SortStableFunc(all, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
			var got []string
			for _, s := range all {
				names[s.SpanContext.SpanID()] = s.Name
				if s.SpanKind == api.SpanKindServer {
					continue
				}
				line := strings.TrimPrefix(s.Name, "session.store ")
				if outcome, ok := attr(s.Attributes, "session.store.outcome"); ok {
					line += " " + outcome
					if at, _ := attr(s.Attributes, "session.id"); at != id.String() {
						t.Errorf("%s has session.id %q, want %v", s.Name, at, id)
					}
				}
				if s.Parent.SpanID() != request.SpanContext.SpanID() {
					line = names[s.Parent.SpanID()] + " > " + line
				}
				got = append(got, line)
				if s.StartTime.Before(request.StartTime) || s.EndTime.After(request.EndTime) || s.EndTime.Before(s.StartTime) {
					t.Errorf("%s is not within the request: %v to %v, %v to %v", s.Name, s.StartTime, s.EndTime, request.StartTime, request.EndTime)
				}
				if s.SpanContext.TraceID() != request.SpanContext.TraceID() {
					t.Errorf("%s is of another trace", s.Name)
				}
			}
			if !slices.Equal(got, test.spans) {
				t.Errorf("the spans are %q, want %q", got, test.spans)
			}
			var events []string
			for _, e := range request.Events {
				events = append(events, e.Name)
				if at, _ := attr(e.Attributes, "session.id"); at != id.String() {
					t.Errorf("%s has session.id %q, want %v", e.Name, at, id)
				}
			}
			if !slices.Equal(events, test.events) {
				t.Errorf("the events are %q, want %q", events, test.events)
			}
		})
	}
}

func attr(attrs []attribute.KeyValue, key attribute.Key) (string, bool) {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value.AsString(), true
		}
	}
	return "", false
}

// A trace that is not sampled, and what has no trace, such as a sweep, has no spans.
func TestNoSpans(t *testing.T) {
	l := newLab(t, session.NewMemoryStore(), false, session.Options{}, trace.NeverSample())
	l.set("one")
	if all := l.spans.GetSpans(); len(all) != 0 {
		t.Errorf("%d spans of a trace that is not sampled", len(all))
	}
	l = newLab(t, session.NewMemoryStore(), false, session.Options{}, trace.AlwaysSample())
	if _, err := l.m.DeleteExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := l.spans.GetSpans(); len(all) != 0 {
		t.Errorf("%d spans of what is no request", len(all))
	}
	if n := l.metrics()["session.store.operation.duration{session.store.operation=sweep session.store.outcome=ok}"]; n != 1 {
		t.Errorf("%d sweeps", n)
	}
}

// Nothing that is exported has a token, the secret, a value or a user's name in it, and no metric an ID.
func TestNothingSecret(t *testing.T) {
	l := newLab(t, session.NewMemoryStore(), true, session.Options{}, trace.AlwaysSample())
	secrets := []string{string(secret), "the value", "ann@example.com"}
	l.set("the value")
	secrets = append(secrets, l.cookies[0].Value)
	old := l.cookies
	l.visit(func(s *session.Session, ctx context.Context) { s.Lock(ctx); s.SetUser("ann@example.com") })
	secrets = append(secrets, l.cookies[0].Value)
	id := l.id()
	l.visit(func(s *session.Session, _ context.Context) { session.Key[int]("hits").Get(s) })
	renewed := l.cookies
	l.cookies = old
	l.set("of before")
	l.cookies = renewed
	l.visit(func(s *session.Session, _ context.Context) { s.Destroy() })
	var all metricdata.ResourceMetrics
	if err := l.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	metrics := fmt.Sprintf("%+v %v", all, slices.Sorted(maps.Keys(l.metrics())))
	spans, err := json.Marshal(l.spans.GetSpans())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(spans), id.String()) || !strings.Contains(string(spans), "session.store save") {
		t.Errorf("the traces are not what was expected: %s", spans)
	}
	if strings.Contains(metrics, id.String()) {
		t.Error("an ID is in the metrics")
	}
	for _, s := range secrets {
		if strings.Contains(metrics, s) || strings.Contains(string(spans), s) {
			t.Errorf("%q is exported", s)
		}
	}
}

func TestNewFaults(t *testing.T) {
	if _, err := sessionotel.New(&sessionotel.Options{CountInterval: -time.Second}); err == nil || !strings.Contains(err.Error(), "CountInterval") {
		t.Errorf("the error is %v", err)
	}
	o, err := sessionotel.New(nil) // the global providers
	if err != nil {
		t.Fatal(err)
	}
	o.Observe(t.Context(), session.Event{Kind: session.EventStore, Op: "load"})
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkObserve is what an event costs the request that waits for it.
func BenchmarkObserve(b *testing.B) {
	for name, sampler := range map[string]trace.Sampler{"untraced": trace.NeverSample(), "traced": trace.AlwaysSample()} {
		b.Run(name, func(b *testing.B) {
			traces := trace.NewTracerProvider(trace.WithSampler(sampler))
			o, err := sessionotel.New(&sessionotel.Options{
				MeterProvider: metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())), TracerProvider: traces,
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx, span := traces.Tracer("test").Start(b.Context(), "request")
			defer span.End()
			e := session.Event{Kind: session.EventStore, Op: "load", Duration: time.Millisecond}
			b.ReportAllocs()
			for b.Loop() {
				o.Observe(ctx, e)
			}
		})
	}
}
