// Package storetest is for tests that run on every kind of store, at a real server where one is needed, and for those
// that need a store that misbehaves.
package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

// A Kind is a kind of store.
type Kind struct {
	Name   string
	Shared Sharing
	place  func(t *testing.T) string
	open   func(ctx context.Context, place string) (session.StoreCloser, error)

	// Scheme is what the URLs begin with of a store that is in files of this machine. session.Open waits for the disk at each
	// save there; Open does not.
	Scheme string
}

// NewKind returns a kind of store, in files of this machine, that is not in the table. Open is given a path at which nothing is.
func NewKind(name, scheme string, shared Sharing, open func(ctx context.Context, path string) (session.StoreCloser, error)) Kind {
	return Kind{name, shared, newPath, open, scheme}
}

// Use puts other kinds in the place of those in the table. TestMain may call it before the tests.
func Use(others ...Kind) { kinds = others }

// Sharing says who can open a store at one place.
type Sharing int

const (
	Private    Sharing = iota // nobody: each that is opened is another one
	OneProcess                // one process after the other
	Processes                 // any number of processes
)

var kinds = []Kind{
	{"memory", Private, nowhere, func(context.Context, string) (session.StoreCloser, error) {
		return session.NewMemoryStore(), nil
	}, ""},
	// Without a sync each save takes microseconds; what a sync is for is shown by the crash tests.
	{"file", OneProcess, newPath, func(_ context.Context, path string) (session.StoreCloser, error) {
		return opened(session.NewFileStore(path, &session.FileOptions{NoSync: true}))
	}, "file"},
	{"dir", Processes, newPath, func(_ context.Context, path string) (session.StoreCloser, error) {
		return opened(session.NewDirStore(path, &session.DirOptions{NoSync: true}))
	}, "dir"},
	{"redis", Processes, at(servertest.Redis, "prefix"), session.Open, ""},
	{"redis cluster", Processes, at(servertest.RedisCluster, "prefix"), session.Open, ""},
	{"memcached", Processes, at(servertest.Memcached, "prefix"), session.Open, ""},
	{"mysql", Processes, at(servertest.MySQL, "table"), session.Open, ""},
	{"mariadb", Processes, at(servertest.MariaDB, "table"), session.Open, ""},
	{"postgres", Processes, at(servertest.PostgreSQL, "table"), session.Open, ""},
	{"mongodb", Processes, at(servertest.MongoDB, "collection"), session.Open, ""},
	{"cache of memory", Private, nowhere, func(context.Context, string) (session.StoreCloser, error) {
		return session.NewCacheStore(session.NewMemoryStore(), nil), nil
	}, ""},
	{"cache of redis", Processes, at(servertest.Redis, "prefix"), func(ctx context.Context, url string) (session.StoreCloser, error) {
		store, err := session.Open(ctx, url)
		if err != nil {
			return nil, err
		}
		return session.NewCacheStore(store, nil), nil
	}, ""},
}

func nowhere(*testing.T) string { return "" }

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "sessions") }

// at returns a function that returns the URL of a server, with a name of its own for table, collection or prefix.
func at(server func(testing.TB) *servertest.Server, parameter string) func(*testing.T) string {
	return func(t *testing.T) string { return server(t).Apart(t, parameter) }
}

// opened hides what kind of store a constructor returned.
func opened[S session.StoreCloser](store S, err error) (session.StoreCloser, error) {
	return store, err
}

// Each runs a test on every kind of store. newStore returns one that nobody else uses.
func Each(t *testing.T, fn func(t *testing.T, newStore func(*testing.T) session.Store)) {
	t.Helper()
	EachShared(t, Private, func(t *testing.T, kind Kind) { fn(t, kind.New) })
}

// EachShared runs a test on every kind of store at which several processes can meet, or one after the other.
func EachShared(t *testing.T, least Sharing, fn func(t *testing.T, kind Kind)) {
	t.Helper()
	for _, kind := range kinds {
		if kind.Shared >= least {
			t.Run(kind.Name, func(t *testing.T) { fn(t, kind) })
		}
	}
}

// EachLocal is EachShared for the kinds that are in files of this machine.
func EachLocal(t *testing.T, least Sharing, fn func(t *testing.T, kind Kind)) {
	t.Helper()
	for _, kind := range kinds {
		if kind.Scheme != "" && kind.Shared >= least {
			t.Run(kind.Name, func(t *testing.T) { fn(t, kind) })
		}
	}
}

// Named returns the kind of that name.
func Named(name string) (kind Kind, ok bool) {
	for _, kind := range kinds {
		if kind.Name == name {
			return kind, true
		}
	}
	return Kind{}, false
}

// Place returns where nobody else has a store.
func (k Kind) Place(t *testing.T) string {
	t.Helper()
	return k.place(t)
}

// Open opens a store at a place. The caller closes it.
func (k Kind) Open(ctx context.Context, place string) (session.StoreCloser, error) {
	return k.open(ctx, place)
}

// Stores returns what the conformance kit needs to know.
func (k Kind) Stores() sessiontest.Stores {
	return sessiontest.Stores{
		Place:     k.place,
		Open:      func(ctx context.Context, place string) (session.Store, error) { return k.open(ctx, place) },
		Once:      k.Shared < Processes,
		Processes: k.Shared == Processes,
	}
}

// New returns a store that nobody else uses.
func (k Kind) New(t *testing.T) session.Store {
	t.Helper()
	return k.OpenAt(t, k.Place(t))
}

// OpenAt returns a store at a place that others may use, too.
func (k Kind) OpenAt(t *testing.T, place string) session.Store {
	t.Helper()
	return Closed(t)(k.open(t.Context(), place))
}

// Closed returns a function that fails the test if a store could not be opened, and closes it at the test's end.
func Closed(t *testing.T) func(session.StoreCloser, error) session.Store {
	return func(store session.StoreCloser, err error) session.Store {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return store
	}
}

// Increment adds one to the number that a record holds, by compare-and-swap.
func Increment(ctx context.Context, store session.Store, id session.ID) error {
	for {
		rec, err := store.Load(ctx, id)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(rec.Data))
		rec.Data = strconv.AppendInt(nil, int64(n+1), 10)
		if err := store.Save(ctx, id, rec); !errors.Is(err, session.ErrConflict) {
			return err
		}
	}
}

// Rounds returns how many random rounds a test plays, and the seed of the first: 100, or as many as the environment variable
// SESSION_TEST_ROUNDS says, and any, or the one that SESSION_TEST_SEED says.
func Rounds() (n int, first uint64) {
	n, first = 100, rand.Uint64()
	if env := os.Getenv("SESSION_TEST_ROUNDS"); env != "" {
		n, _ = strconv.Atoi(env)
	}
	if env := os.Getenv("SESSION_TEST_SEED"); env != "" {
		first, _ = strconv.ParseUint(env, 10, 64)
	}
	return n, first
}
