package sessiontest_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

func TestRunSessions(t *testing.T) {
	sessiontest.RunSessions(t, alone(func() session.Store { return session.NewMemoryStore() }))
}

func TestRunSessionsWithoutTouch(t *testing.T) {
	t.Parallel()
	sessiontest.RunSessions(t, alone(func() session.Store { return double.Plain{Store: session.NewMemoryStore()} }))
}

// RunSessions plays the same rounds each time. These are others.
func TestOtherRounds(t *testing.T) {
	t.Parallel()
	n, first := storetest.Rounds()
	if err := sessiontest.PlayRounds(t.Context(), session.NewMemoryStore(), first, uint64(n)); err != nil {
		t.Error(err)
	}
}

func TestCheckSessionsEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sessiontest.CheckSessions(ctx, session.NewMemoryStore()); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
	if err := sessiontest.CheckSessions(t.Context(), nil); err == nil {
		t.Errorf("a store that is nil passes")
	}
}

// Each store breaks one rule of the contract. All rules that are named must be found broken.
func TestCheckSessionsFindsFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault func(session.Store) double.Hook
		rules []string
	}{
		{"blind save", blindSave, []string{"parallel-updates", "parallel-renewals", "expired", "interleaved", "interleaved-renewal", "interleaved-faults"}},
		{"check before save", looseSave, []string{"parallel-updates"}},
		{"save revives", revivingSave, []string{"expired"}},
		{"save forgotten", forgottenSave, []string{"parallel-updates"}},
		{"never expires", neverExpires, []string{"expired"}},
		{"stale load", staleLoad, []string{"ended-in-flight", "interleaved", "interleaved-renewal"}},
		{"blind touch", blindTouch, []string{"interleaved", "interleaved-faults"}},
		{"retired is deleted", retiredDeleted, []string{"ended-in-flight", "interleaved", "interleaved-renewal", "interleaved-faults"}},
		{"down", func(session.Store) double.Hook { return double.Fail(errors.New("down")) }, []string{"parallel-changes", "parallel-renewals", "foreign", "interleaved"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store := double.New(session.NewMemoryStore())
			store.Hook(tt.fault(store.Store))
			err := sessiontest.CheckSessions(t.Context(), store)
			for _, rule := range tt.rules {
				if err == nil || !strings.Contains(err.Error(), "rule "+rule+":") {
					t.Errorf("rule %s is not found broken", rule)
				}
			}
			if t.Failed() {
				t.Log(err)
			}
		})
	}
}

// blindSave ignores versions.
func blindSave(store session.Store) double.Hook {
	return double.Before(func(ctx context.Context, c *double.Call) error {
		current, _ := store.Load(ctx, c.ID)
		c.Record.Version = current.Version
		return nil
	}, double.Save)
}

// looseSave compares, and later on swaps.
func looseSave(store session.Store) double.Hook {
	return double.Before(func(ctx context.Context, c *double.Call) error {
		if current, _ := store.Load(ctx, c.ID); c.Record.Version != current.Version {
			return session.ErrConflict
		}
		runtime.Gosched()
		if current, err := store.Load(ctx, c.ID); err == nil {
			c.Record.Version = current.Version
		}
		return nil
	}, double.Save)
}

// revivingSave creates what a save started from and is no longer there.
func revivingSave(store session.Store) double.Hook {
	return double.Before(func(ctx context.Context, c *double.Call) error {
		if _, err := store.Load(ctx, c.ID); err != nil {
			c.Record.Version = 0
		}
		return nil
	}, double.Save)
}

// forgottenSave acknowledges a save, and now and then does not make it.
func forgottenSave(store session.Store) double.Hook {
	var saves atomic.Int64
	return double.On(func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
		current, _ := store.Load(ctx, c.ID)
		if saves.Add(1)%100 == 0 && c.Record.Version == current.Version {
			return nil
		}
		return next(ctx)
	}, double.Save)
}

// neverExpires ignores Expires.
func neverExpires(session.Store) double.Hook {
	return double.Before(func(_ context.Context, c *double.Call) error {
		c.Record.Expires = time.Time{}
		return nil
	}, double.Save)
}

// staleLoad returns once more what was there before the last save.
func staleLoad(store session.Store) double.Hook {
	var before sync.Map
	return func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
		current, _ := store.Load(ctx, c.ID)
		err := next(ctx)
		switch c.Op {
		case double.Load:
			if old, ok := before.LoadAndDelete(c.ID); ok {
				c.Record, err = old.(session.Record), nil
			}
		case double.Save:
			if err == nil && c.Record.Version > 0 {
				before.Store(c.ID, current)
			}
		}
		return err
	}
}

// blindTouch writes what the toucher saw.
func blindTouch(store session.Store) double.Hook {
	return double.On(func(ctx context.Context, c *double.Call, _ func(context.Context) error) error {
		current, err := store.Load(ctx, c.ID)
		if err != nil {
			return err
		}
		c.Record.Version = current.Version
		return store.Save(ctx, c.ID, c.Record)
	}, double.Touch)
}

// retiredDeleted deletes records that turn small, as the marks of ended sessions are.
func retiredDeleted(store session.Store) double.Hook {
	return double.On(func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
		current, err := store.Load(ctx, c.ID)
		if err == nil && c.Record.Version == current.Version && len(c.Record.Data) < len(current.Data)-30 {
			return store.Delete(ctx, c.ID)
		}
		return next(ctx)
	}, double.Save)
}
