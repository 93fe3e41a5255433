package faults

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"github.com/jackc/pgx/v5"
)

// A router is a proxy that can send new connections to another server, and leaves those alone that are open, as a name
// does that is given another address, or a load balancer.
type router struct {
	addr   string
	target atomic.Pointer[string]
	dialed atomic.Int64 // connections since the last to
}

func newRouter(tb testing.TB, target string) *router {
	tb.Helper()
	r := new(router)
	r.to(target)
	r.addr = servertest.Proxy(tb, func(*net.TCPConn) (server string, request, reply func([]byte) bool) {
		r.dialed.Add(1)
		return *r.target.Load(), nil, nil
	})
	return r
}

func (r *router) to(target string) {
	r.target.Store(&target)
	r.dialed.Store(0)
}

// A failover is a kind of server whose primary can be turned read-only, while its connections live.
type failover struct {
	kind    servertest.Kind
	prepare func(testing.TB, *servertest.Server)
	url     func(s *servertest.Server, addr string) string
	// demote turns a server read-only, and promote turns it back, and removes all records.
	demote, promote func(testing.TB, *servertest.Server)
	// replicate copies all records, as replication has done by then.
	replicate func(tb testing.TB, from, to *servertest.Server)
}

var failovers = []failover{
	{
		kind: servertest.KindMariaDB, prepare: prepareMariaDB, url: appURL, replicate: replicateMariaDB,
		demote: func(tb testing.TB, s *servertest.Server) { mariaDo(tb, s, "SET GLOBAL read_only = 1") },
		promote: func(tb testing.TB, s *servertest.Server) {
			mariaDo(tb, s, "SET GLOBAL read_only = 0", "TRUNCATE test.sessions")
		},
	},
	{
		kind: servertest.KindMySQL, prepare: prepareMariaDB, url: appURL, replicate: replicateMariaDB,
		demote: func(tb testing.TB, s *servertest.Server) { mariaDo(tb, s, "SET GLOBAL super_read_only = 1") },
		promote: func(tb testing.TB, s *servertest.Server) {
			mariaDo(tb, s, "SET GLOBAL read_only = 0", "TRUNCATE test.sessions") // which ends super_read_only, too
		},
	},
	{
		kind: servertest.KindPostgreSQL, url: sameURL, replicate: replicatePostgres,
		prepare: func(tb testing.TB, s *servertest.Server) {
			schema, err := session.PostgresSchema("")
			if err != nil {
				tb.Fatal(err)
			}
			postgresDo(tb, s, schema)
		},
		demote: func(tb testing.TB, s *servertest.Server) { setPostgresReadOnly(tb, s, "on") },
		promote: func(tb testing.TB, s *servertest.Server) {
			setPostgresReadOnly(tb, s, "off")
			postgresDo(tb, s, "TRUNCATE sessions")
		},
	},
}

// TestFailover has the old primary turn read-only, while the connections to it live and new ones reach the new primary. No
// request fails, and none is served what is out of date, whatever comes first.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, f := range failovers {
		t.Run(string(f.kind), func(t *testing.T) {
			t.Parallel()
			old, next := servertest.Start(t, f.kind), servertest.Start(t, f.kind)
			f.prepare(t, old)
			f.prepare(t, next)
			for name, first := range map[string]func(a, elsewhere *app, alice, bob *client){
				"a write first": func(_, _ *app, alice, _ *client) { alice.want("/set/word/new", "set") },
				"a read first": func(_, elsewhere *app, alice, _ *client) {
					(&client{app: elsewhere, cookie: alice.cookie}).want("/set/word/new", "set")
					alice.want("/get/word", "new")
				},
				"a session that the old one never had first": func(a, elsewhere *app, _, _ *client) {
					carol := elsewhere.login("carol")
					(&client{app: a, cookie: carol.cookie}).want("/get/user", "carol")
				},
				"a session that has ended first": func(_, elsewhere *app, alice, bob *client) {
					(&client{app: elsewhere, cookie: bob.cookie}).want("/logout", "")
					bob.want("/get/user", "")
				},
				"a login first": func(a, _ *app, _, _ *client) { a.login("dave") },
				"a crowd first": func(_, _ *app, alice, bob *client) {
					all(crowd, func(i int) {
						alice.want("/set/word/new", "set")
						alice.want("/get/user", "alice")
					})
				},
			} {
				t.Run(name, func(t *testing.T) { f.test(t, old, next, first) })
			}
		})
	}
}

func (f *failover) test(t *testing.T, old, next *servertest.Server, first func(a, elsewhere *app, alice, bob *client)) {
	f.promote(t, old)
	f.promote(t, next)
	r := newRouter(t, old.Addrs[0])
	a := openApp(t, f.url(old, r.addr))
	alice, bob := a.login("alice"), a.login("bob")
	all(crowd, func(int) { alice.want("/get/user", "alice") }) // fills the pool

	f.demote(t, old)
	f.replicate(t, old, next)
	r.to(next.Addrs[0])
	first(a, openApp(t, f.url(next, next.Addrs[0])), alice, bob)
	all(crowd, func(int) { alice.want("/get/user", "alice") })
	alice.want("/hit", "1")

	// Where there is no other server, sessions are read from one that is read-only, and few connections are made for that.
	f.demote(t, next)
	r.to(next.Addrs[0])
	began := time.Now()
	for range 5 {
		all(crowd, func(int) { alice.want("/get/user", "alice") })
	}
	const conns, tries = 8, 3
	limit := conns * tries * (2 + int64(time.Since(began)/time.Second))
	if n := r.dialed.Load(); n > limit {
		t.Errorf("%d connections were made to a server that is read-only, want %d at most", n, limit)
	}
	alice.wantFailure("/set/user/eve", 2)
}

// Connections of the application's stay its own: the error tells why a save fails, and what there is to do.
func TestFailoverOfOnesOwn(t *testing.T) {
	t.Parallel()
	for _, f := range failovers {
		t.Run(string(f.kind), func(t *testing.T) {
			t.Parallel()
			server := servertest.Start(t, f.kind)
			f.prepare(t, server)
			var store session.Store
			var err error
			if f.kind == servertest.KindPostgreSQL {
				conn := connectPostgres(t, server)
				defer conn.Close(context.Background())
				store, err = session.NewPostgresStore(t.Context(), conn, nil)
			} else {
				db, err2 := sql.Open("mysql", "app@tcp("+server.Addrs[0]+")/test")
				if err2 != nil {
					t.Fatal(err2)
				}
				defer db.Close()
				store, err = session.NewMySQLStore(t.Context(), db, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			f.demote(t, server)
			err = store.Save(t.Context(), session.ID{}, session.Record{})
			const text = "the server is read-only; if another has taken its place, the application's connections"
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("error %v does not say %q", err, text)
			}
			if _, err := store.Load(t.Context(), session.ID{}); !errors.Is(err, session.ErrNotFound) {
				t.Error(err)
			}
		})
	}
}

func replicateMariaDB(tb testing.TB, from, to *servertest.Server) {
	copyRows(tb, openMariaDB(tb, from), openMariaDB(tb, to))
}

func replicatePostgres(tb testing.TB, from, to *servertest.Server) {
	src, dst := connectPostgres(tb, from), connectPostgres(tb, to)
	defer src.Close(context.Background())
	defer dst.Close(context.Background())
	rows, err := src.Query(tb.Context(), "SELECT id, version, expires, data FROM sessions")
	if err == nil {
		_, err = dst.CopyFrom(tb.Context(), pgx.Identifier{"sessions"}, []string{"id", "version", "expires", "data"}, rows)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func openMariaDB(tb testing.TB, s *servertest.Server) *sql.DB {
	tb.Helper()
	db, err := sql.Open("mysql", "root@tcp("+s.Addrs[0]+")/test")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

func copyRows(tb testing.TB, from, to *sql.DB) {
	tb.Helper()
	rows, err := from.QueryContext(tb.Context(), "SELECT id, version, expires, data FROM sessions")
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, data []byte
		var version, expires int64
		if err := rows.Scan(&id, &version, &expires, &data); err != nil {
			tb.Fatal(err)
		}
		if _, err := to.ExecContext(tb.Context(), "INSERT INTO sessions VALUES (?, ?, ?, ?)", id, version, expires, data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
}
