package sessionotel

import (
	"context"
	"errors"
	"sync"

	"example.com/session"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

const errorTypeKey = semconv.ErrorTypeKey

// labels keeps the sets of attributes that metrics have, of which there are few: to make one costs more than to count.
type labels struct {
	mu   sync.RWMutex
	sets map[label]metric.MeasurementOption
}

// A label says which set of attributes: the name of the first one, and the values.
type label struct {
	first                attribute.Key
	value, outcome, more string
}

func (l *labels) operation(e *session.Event) metric.MeasurementOption {
	outcome, errorType := outcomeOf(e.Err)
	return l.get(label{operationKey, e.Op, outcome, errorType})
}

func (l *labels) event(e *session.Event) metric.MeasurementOption {
	return l.get(label{kindKey, string(e.Kind), "", string(e.Reason)})
}

func (l *labels) wait(e *session.Event) metric.MeasurementOption {
	return l.get(label{reasonKey, string(e.Reason), "", ""})
}

func (l *labels) get(of label) metric.MeasurementOption {
	l.mu.RLock()
	set, ok := l.sets[of]
	l.mu.RUnlock()
	if ok {
		return set
	}
	set = metric.WithAttributeSet(of.attributes())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sets == nil {
		l.sets = make(map[label]metric.MeasurementOption)
	}
	l.sets[of] = set
	return set
}

// attributes returns those that have a value.
func (of label) attributes() attribute.Set {
	var all []attribute.KeyValue
	add := func(key attribute.Key, value string) {
		if value != "" {
			all = append(all, key.String(value))
		}
	}
	add(of.first, of.value)
	add(outcomeKey, of.outcome)
	if of.first == operationKey {
		add(errorTypeKey, of.more)
	} else {
		add(reasonKey, of.more)
	}
	return attribute.NewSet(all...)
}

// outcomeOf says how an operation came out. "Not found" and "conflict" are answers of the store's, and no errors.
func outcomeOf(err error) (outcome, errorType string) {
	switch {
	case err == nil:
		return "ok", ""
	case errors.Is(err, session.ErrNotFound):
		return "not_found", ""
	case errors.Is(err, session.ErrConflict):
		return "conflict", ""
	case errors.Is(err, session.ErrTooLarge):
		return "error", "too_large"
	case errors.Is(err, context.DeadlineExceeded):
		return "error", "timeout"
	case errors.Is(err, context.Canceled):
		return "error", "canceled"
	}
	return "error", semconv.ErrorTypeOther.Value.AsString()
}

func sessionID(id session.ID) attribute.KeyValue { return semconv.SessionID(id.String()) }

// eventAttributes returns what a span's event tells of one.
func eventAttributes(e *session.Event) []attribute.KeyValue {
	var all []attribute.KeyValue
	if e.ID != (session.ID{}) {
		all = append(all, sessionID(e.ID))
	}
	if e.Reason != "" {
		all = append(all, reasonKey.String(string(e.Reason)))
	}
	if e.Duration != 0 {
		all = append(all, attribute.Float64("session.lock.wait.duration", e.Duration.Seconds()))
	}
	if e.Err != nil {
		all = append(all, semconv.ExceptionMessage(e.Err.Error()))
	}
	return all
}
