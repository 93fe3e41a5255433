package session_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

// stores are the kinds of stores, at a real server where one is needed.
var stores = []storeKind{
	{"memory", private, nowhere, func(context.Context, string) (session.Store, error) {
		return session.NewMemoryStore(), nil
	}},
	// Without a sync each save takes microseconds; what a sync is for is shown by the crash tests.
	{"file", oneProcess, newPath, func(_ context.Context, path string) (session.Store, error) {
		return open(session.NewFileStore(path, &session.FileOptions{NoSync: true}))
	}},
	{"dir", processes, newPath, func(_ context.Context, path string) (session.Store, error) {
		return open(session.NewDirStore(path, &session.DirOptions{NoSync: true}))
	}},
	{"redis", processes, at(servertest.Redis, "prefix"), session.Open},
	{"redis cluster", processes, at(servertest.RedisCluster, "prefix"), session.Open},
	{"memcached", processes, at(servertest.Memcached, "prefix"), session.Open},
	{"mysql", processes, at(servertest.MySQL, "table"), session.Open},
	{"mariadb", processes, at(servertest.MariaDB, "table"), session.Open},
	{"postgres", processes, at(servertest.PostgreSQL, "table"), session.Open},
	{"mongodb", processes, at(servertest.MongoDB, "collection"), session.Open},
	{"cache of memory", private, nowhere, func(context.Context, string) (session.Store, error) {
		return session.NewCacheStore(session.NewMemoryStore(), nil), nil
	}},
	{"cache of redis", processes, at(servertest.Redis, "prefix"), func(ctx context.Context, url string) (session.Store, error) {
		store, err := session.Open(ctx, url)
		if err != nil {
			return nil, err
		}
		return session.NewCacheStore(store, nil), nil
	}},
}

// A storeKind is a kind of store.
type storeKind struct {
	name   string
	shared sharing
	place  func(t *testing.T) string // returns where nobody else has a store
	open   func(ctx context.Context, place string) (session.Store, error)
}

// sharing says who can open a store at one place.
type sharing int

const (
	private    sharing = iota // nobody: each that is opened is another one
	oneProcess                // one process after the other
	processes                 // any number of processes
)

func nowhere(*testing.T) string { return "" }

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "sessions") }

// at returns a function that returns the URL of a server, with a name of its own for table, collection or prefix.
func at(server func(testing.TB) *servertest.Server, parameter string) func(*testing.T) string {
	return func(t *testing.T) string { return server(t).Apart(parameter) }
}

// eachStore runs a test on every backend.
func eachStore(t *testing.T, fn func(t *testing.T, newStore func(*testing.T) session.Store)) {
	t.Helper()
	eachShared(t, private, func(t *testing.T, kind storeKind) { fn(t, kind.newStore) })
}

// eachShared runs a test on every backend at which several processes can meet, or one after the other.
func eachShared(t *testing.T, least sharing, fn func(t *testing.T, kind storeKind)) {
	t.Helper()
	for _, kind := range stores {
		if kind.shared >= least {
			t.Run(kind.name, func(t *testing.T) { fn(t, kind) })
		}
	}
}

// newStore returns a store that nobody else uses.
func (k storeKind) newStore(t *testing.T) session.Store {
	t.Helper()
	return k.openAt(t, k.place(t))
}

// openAt returns a store at a place that others may use, too.
func (k storeKind) openAt(t *testing.T, place string) session.Store {
	t.Helper()
	return closed(t)(k.open(t.Context(), place))
}

// openServer opens a store on a server by its URL, with a name of its own for table, collection or prefix.
func openServer(t *testing.T, server *servertest.Server, parameter string) session.Store {
	t.Helper()
	return closed(t)(session.Open(t.Context(), server.Apart(parameter)))
}

// closed returns a function that fails the test if a store could not be opened, and closes it at its end.
func closed(t *testing.T) func(session.Store, error) session.Store {
	return func(store session.Store, err error) session.Store {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := session.Close(store); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return store
	}
}

// open hides what kind of store a constructor returned.
func open[S session.Store](store S, err error) (session.Store, error) { return store, err }

// Every store keeps the contract.
func TestStores(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) { sessiontest.Run(t, newStore) })
}

// Whole sessions keep their promises on every store.
func TestSessions(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		t.Parallel() // much of the time it waits for a server
		sessiontest.RunSessions(t, newStore)
	})
}

// Drop leaves nothing behind, and does nothing where nothing is.
func TestDrop(t *testing.T) {
	for name, server := range map[string]struct {
		url       func(testing.TB) *servertest.Server
		parameter string
	}{
		"mysql":    {servertest.MySQL, "table"},
		"mariadb":  {servertest.MariaDB, "table"},
		"postgres": {servertest.PostgreSQL, "table"},
		"mongodb":  {servertest.MongoDB, "collection"},
	} {
		t.Run(name, func(t *testing.T) {
			store := openServer(t, server.url(t), server.parameter)
			if err := store.Save(t.Context(), session.ID{1}, session.Record{Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			dropper := store.(interface{ Drop(context.Context) error })
			for range 2 {
				if err := dropper.Drop(t.Context()); err != nil {
					t.Errorf("Drop: %v", err)
				}
			}
			if _, err := store.Load(t.Context(), session.ID{1}); err == nil {
				t.Error("the record is still there")
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := dropper.Drop(ctx); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "session: ") {
				t.Errorf("with an ended context: %v", err)
			}
		})
	}
}

// What a server refuses is an error that says so, and shows no password.
func TestStoresRefuse(t *testing.T) {
	const secret = "s3cret"
	for _, test := range []struct {
		name string
		url  func(*testing.T) string
		text string
	}{
		{"redis, account", func(t *testing.T) string { return withUser(t, servertest.Redis(t).URL, "nobody", secret) }, "WRONGPASS"},
		{"redis, database", func(t *testing.T) string { return "redis://" + servertest.Redis(t).Addrs[0] + "/99" }, "out of range"},
		{"redis cluster, account", func(t *testing.T) string { return withUser(t, servertest.RedisCluster(t).URL, "nobody", secret) }, "WRONGPASS"},
		{"redis cluster, database", func(t *testing.T) string {
			return strings.Replace(servertest.RedisCluster(t).URL, "?", "/3?", 1)
		}, "database 0 only"},
		{"mongodb, account", func(t *testing.T) string { return withUser(t, servertest.MongoDB(t).URL, "nobody", secret) }, "auth"},
		{"memcached, account", func(t *testing.T) string { return withUser(t, servertest.Memcached(t).URL, "nobody", secret) }, "without user and password"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, err := session.Open(t.Context(), test.url(t))
			if err == nil {
				session.Close(store)
			}
			wantError(t, err, secret, test.text)
		})
	}
}

// Bytes under a session's ID that are not its own, on whatever store, are nobody's session: the client gets another
// one, and somebody is told. They stay, and do no harm to anybody else's.
func TestForeignRecords(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		damaged := 0
		m := newManager(t, store, &session.Options{
			Logger: quiet, SweepInterval: session.Never,
			Observer: func(_ context.Context, e session.Event) {
				if e.Kind == session.EventDamaged {
					damaged++
				}
			},
		})
		others, otherID := begin(t, m)
		another, err := store.Load(t.Context(), otherID)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{
			"nothing":   {},
			"text":      []byte("not a session"),
			"binary":    bytes.Repeat([]byte{0, 0xff}, 50_000),
			"another's": another.Data,
		} {
			value, id := begin(t, m)
			rec, err := store.Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			rec.Data = data
			if err := store.Save(t.Context(), id, rec); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			damaged = 0
			res := serve(handle(m, func(s *session.Session) {
				if !s.IsNew() || s.Len() != 0 || s.Err() != nil {
					t.Errorf("%s reads as %v", name, s)
				}
				s.Set("k", 2)
			}), "session_id="+value)
			wantStatus(t, res, http.StatusOK)
			if next := cookieValue(setCookie(t, res.Header, "session_id")); next == "" || next == value || damaged != 1 {
				t.Errorf("%s: the cookie is %q, and somebody was told %d times", name, next, damaged)
			}
			if rec, err := store.Load(t.Context(), id); err != nil || !bytes.Equal(rec.Data, data) {
				t.Errorf("%s: the record is now %d bytes, %v", name, len(rec.Data), err)
			}
		}
		serve(handle(m, func(s *session.Session) {
			if !s.Has("k") {
				t.Errorf("another session is %v", s)
			}
		}), "session_id="+others)
	})
}
