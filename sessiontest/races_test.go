package sessiontest_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/sessiontest"
)

func TestRunSessions(t *testing.T) {
	sessiontest.RunSessions(t, func(*testing.T) session.Store { return session.NewMemoryStore() })
}

// threeMethods is a store that has nothing optional.
type threeMethods struct{ session.Store }

func TestRunSessionsWithoutTouch(t *testing.T) {
	t.Parallel()
	sessiontest.RunSessions(t, func(*testing.T) session.Store { return threeMethods{session.NewMemoryStore()} })
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
		fault storeFault
		rules []string
	}{
		{"blind save", blindSave, []string{"parallel-updates", "interleaved", "interleaved-renewal", "interleaved-faults"}},
		{"check before save", looseSave, []string{"parallel-updates"}},
		{"save revives", revivingSave, []string{"expired"}},
		{"save forgotten", forgottenSave, []string{"parallel-updates"}},
		{"never expires", neverExpires, []string{"expired"}},
		{"stale load", staleLoad, []string{"ended-in-flight", "interleaved"}},
		{"blind touch", blindTouch, []string{"interleaved"}},
		{"retired is deleted", retiredDeleted, []string{"interleaved", "interleaved-renewal"}},
		{"down", down, []string{"parallel-changes", "parallel-renewals", "foreign", "interleaved"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := sessiontest.CheckSessions(t.Context(), &faultyStore{Store: session.NewMemoryStore(), fault: tt.fault})
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

type storeFault int

const (
	blindSave      storeFault = iota // ignores versions
	looseSave                        // compares, and later on swaps
	revivingSave                     // creates what a save started from and is no longer there
	forgottenSave                    // acknowledges a save, and now and then does not make it
	neverExpires                     // ignores Expires
	staleLoad                        // returns once more what was there before the last save
	blindTouch                       // writes what the toucher saw
	retiredDeleted                   // deletes records that turn small, as the marks of ended sessions are
	down                             // does nothing
)

var errDown = errors.New("down")

type faultyStore struct {
	session.Store
	fault storeFault

	mu     sync.Mutex
	saves  int
	before map[session.ID]session.Record
}

func (f *faultyStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if f.fault == down {
		return session.Record{}, errDown
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if rec, ok := f.before[id]; ok {
		delete(f.before, id)
		return rec, nil
	}
	return f.Store.Load(ctx, id)
}

func (f *faultyStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	current, err := f.Store.Load(ctx, id)
	f.mu.Lock()
	f.saves++
	nth := f.saves
	f.mu.Unlock()
	switch f.fault {
	case blindSave:
		rec.Version = current.Version
	case looseSave:
		if rec.Version != current.Version {
			return session.ErrConflict
		}
		runtime.Gosched()
		if current, err = f.Store.Load(ctx, id); err == nil {
			rec.Version = current.Version
		}
	case revivingSave:
		if err != nil {
			rec.Version = 0
		}
	case forgottenSave:
		if rec.Version == current.Version && nth%100 == 0 {
			return nil
		}
	case neverExpires:
		rec.Expires = time.Time{}
	case staleLoad:
		if err := f.Store.Save(ctx, id, rec); err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.before == nil {
			f.before = make(map[session.ID]session.Record)
		}
		if rec.Version > 0 {
			f.before[id] = current
		}
		return nil
	case retiredDeleted:
		if err == nil && rec.Version == current.Version && len(rec.Data) < len(current.Data)-30 {
			return f.Store.Delete(ctx, id)
		}
	case down:
		return errDown
	}
	return f.Store.Save(ctx, id, rec)
}

func (f *faultyStore) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	if f.fault == blindTouch {
		current, err := f.Store.Load(ctx, id)
		if err != nil {
			return err
		}
		rec.Version = current.Version
		return f.Store.Save(ctx, id, rec)
	}
	return f.Store.(session.Toucher).Touch(ctx, id, rec)
}
