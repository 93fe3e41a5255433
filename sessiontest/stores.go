package sessiontest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
)

// Stores says where the stores are that [Run] and [RunSessions] check, and how they are opened.
type Stores struct {
	// Place returns the name of a place for records: a path, a URL, a prefix, or nothing. It is called for each rule, and
	// removes what it makes by t.Cleanup, when all stores are closed. Nil stands for one that returns "".
	Place func(t *testing.T) string

	// Open opens a store at a place, and again at the same place while it is open: as many processes would, each with connections,
	// locks and caches of its own. A store that implements io.Closer is closed in the end. ctx bounds the opening only.
	Open func(ctx context.Context, place string) (session.Store, error)

	// Once says that a place cannot be opened twice: what is in memory, or belongs to one process at a time.
	Once bool

	// Processes says that several processes share a place. Run then starts the program of the test a second time, for the
	// same test alone. Its Run calls Open, and makes calls for the first one. So nothing that comes before Run may do
	// harm when it is done twice, and Open needs no more than the place to find what Place made.
	Processes bool

	// Short has Run do no more than with -short: for another configuration of a store that is checked as a whole elsewhere.
	Short bool
}

func (s Stores) place(t *testing.T) string {
	if s.Place == nil {
		return ""
	}
	return s.Place(t)
}

// open opens a store, and closes it when the test has ended.
func (s Stores) open(t *testing.T, place string) session.Store {
	t.Helper()
	store, err := s.Open(t.Context(), place)
	if err != nil {
		t.Fatalf("sessiontest: Open: %v", err)
	}
	t.Cleanup(func() {
		if err := closeStore(store); err != nil {
			t.Errorf("sessiontest: Close: %v", err)
		}
	})
	return store
}

func closeStore(s session.Store) error {
	if closer, ok := s.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// A kit is one run of the rules.
type kit struct {
	seed  uint64
	short bool
	hung  atomic.Int32                                     // rules that have hung
	fresh func(ctx context.Context) (session.Store, error) // opens one more store; may be nil
}

func newKit() *kit {
	k := &kit{seed: rand.Uint64()}
	if seed, err := strconv.ParseUint(os.Getenv("SESSIONTEST_SEED"), 10, 64); err == nil {
		k.seed = seed
	}
	return k
}

// patience is less when a store has hung before: it is not to take the time of all the other rules.
func (k *kit) patience() time.Duration {
	if k.hung.Load() > 0 {
		return patience / 10
	}
	return patience
}

// newEnv returns what a pass of the check of a rule works with.
func (k *kit) newEnv(r rule, pass, passes int, handles []session.Store) *env {
	e := &env{kit: k, first: pass+1 < passes, fresh: k.fresh}
	for _, s := range handles {
		e.missing = e.missing || s == nil
	}
	e.store = newGuard(e, handles)
	h := fnv.New64a()
	fmt.Fprint(h, r.name, pass)
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], k.seed)
	binary.BigEndian.PutUint64(seed[8:], h.Sum64())
	e.random = rand.NewChaCha8(seed)
	return e
}

// runAt checks a rule at a place of its own, through one handle and, where there can be more, through all in turn.
func (k *kit) runAt(t *testing.T, r rule, stores Stores, second *process) (skipped string, err error) {
	place := stores.place(t)
	handles := []session.Store{stores.open(t, place)}
	passes := 1
	if !stores.Once && !r.alone {
		passes = 2
	}
	for pass := range passes {
		if pass > 0 {
			handles = append(handles, stores.open(t, place))
			if second != nil {
				s, err := second.stores.Open(t.Context(), place)
				if err != nil {
					return "", fmt.Errorf("sessiontest: Open in the second process: %w", err)
				}
				handles = append(handles, s)
				t.Cleanup(func() { s.Close() })
			}
		}
		e := k.newEnv(r, pass, passes, handles)
		e.fresh = func(ctx context.Context) (session.Store, error) {
			if stores.Once {
				return stores.Open(ctx, stores.place(t))
			}
			return stores.Open(ctx, place)
		}
		err = r.run(t.Context(), e)
		if cleanUp := e.cleanUp(t.Context()); cleanUp != nil {
			t.Log(cleanUp) // the rules about Delete say whether it is broken
		}
		if skipped = e.skipped; err != nil {
			break
		}
	}
	return skipped, err
}

var errNoHandle = errors.New("no further store can be opened")

// open opens one more store, for a rule to close.
func (e *env) open(ctx context.Context) (session.Store, error) {
	if e.fresh == nil {
		return nil, errNoHandle
	}
	return e.fresh(ctx)
}
