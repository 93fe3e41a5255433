package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"example.com/session"
	"example.com/session/sessionotel"
)

// telemetry makes OpenTelemetry metrics of events, for Prometheus to fetch. With an exporter for OTLP in the place of this one, and
// a TracerProvider, they go to a collector, and the traces of requests have the store's operations in them.
type telemetry struct {
	*sessionotel.Observer
	page   http.Handler
	meters *metric.MeterProvider
}

func newTelemetry(store session.Store) (*telemetry, error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(
		exporter.WithRegisterer(registry),
		exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes), // names as dashboard.json has them
		exporter.WithoutScopeInfo(),
	)
	if err != nil {
		return nil, err
	}
	t := &telemetry{
		page:   promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		meters: metric.NewMeterProvider(metric.WithReader(reader)),
	}
	t.Observer, err = sessionotel.New(&sessionotel.Options{
		MeterProvider: t.meters,
		Store:         store,
		CountInterval: 15 * time.Second, // this store is small; a minute is right for large ones
	})
	return t, err
}

func (t *telemetry) close() error {
	limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(t.Close(), t.meters.Shutdown(limit))
}
