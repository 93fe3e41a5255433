package faults

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

// A backend is a kind of server, with what only that kind has.
type backend struct {
	kind   servertest.Kind
	shared func(testing.TB) *servertest.Server
	// durable servers have their data after a restart.
	durable bool
	// encrypted: a proxy cannot tell what passes through it.
	encrypted bool
	// prepare gets an empty server ready for openApp; nil: there is nothing to do.
	prepare func(testing.TB, *servertest.Server)
	// url returns what session.Open takes to reach a server, prepared, at another address.
	url func(s *servertest.Server, addr string) string
	// disconnect makes the server close all connections; nil: it cannot.
	disconnect func(testing.TB, *servertest.Server)
	// refusals are the states in which the server answers, and saves nothing.
	refusals []refusal
}

// A refusal is a state in which a server answers, and saves nothing.
type refusal struct {
	name       string
	args       []string // of a server that can get into it; nil: any
	begin, end func(testing.TB, *servertest.Server)
	unreadable bool // nor does it show sessions
	ends       bool // but it does for the end of one
}

var backends = []backend{
	{
		kind: servertest.KindRedis, shared: servertest.Redis, durable: true,
		url: sameURL, disconnect: disconnectRedis, refusals: redisRefusals,
	},
	{
		kind: servertest.KindRedisTLS, shared: servertest.RedisTLS, durable: true, encrypted: true,
		url: sameURL, disconnect: disconnectRedis, refusals: redisRefusals,
	},
	{
		kind: servertest.KindMemcached, shared: servertest.Memcached,
		// By default the client gives up after two seconds, which a busy machine can take to answer.
		url: func(s *servertest.Server, addr string) string { return sameURL(s, addr) + "?timeout=10s" },
		refusals: []refusal{{
			name:  "out of memory",
			args:  []string{"-M", "-m", "2", "-f", "2"}, // one page of 1 MiB for each of few sizes
			begin: fillMemcached,
			end:   drainMemcached,
		}},
	},
	{
		kind: servertest.KindMariaDB, shared: servertest.MariaDB, durable: true,
		prepare: prepareMariaDB, url: appURL,
		disconnect: func(tb testing.TB, s *servertest.Server) { mariaDo(tb, s, "KILL CONNECTION USER app") },
		refusals: []refusal{{
			name:  "read-only",
			begin: func(tb testing.TB, s *servertest.Server) { mariaDo(tb, s, "SET GLOBAL read_only = 1") },
			end:   func(tb testing.TB, s *servertest.Server) { mariaDo(tb, s, "SET GLOBAL read_only = 0") },
		}},
	},
	{
		kind: servertest.KindPostgreSQL, shared: servertest.PostgreSQL, durable: true,
		prepare: func(tb testing.TB, s *servertest.Server) {
			schema, err := session.PostgresSchema("")
			if err != nil {
				tb.Fatal(err)
			}
			postgresDo(tb, s, schema)
		},
		url: sameURL,
		disconnect: func(tb testing.TB, s *servertest.Server) {
			postgresDo(tb, s, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "+
				"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
		},
		refusals: []refusal{{
			name:  "read-only",
			begin: func(tb testing.TB, s *servertest.Server) { setPostgresReadOnly(tb, s, "on") },
			end:   func(tb testing.TB, s *servertest.Server) { setPostgresReadOnly(tb, s, "off") },
		}},
	},
	{
		// mongo-java-server has no state in which it takes no writes, and cannot close connections.
		kind: servertest.KindMongoDB, shared: servertest.MongoDB,
		url: sameURL,
	},
}

// prepareMariaDB prepares MariaDB or MySQL. The account is not root's, who may write to a server that is read-only.
func prepareMariaDB(tb testing.TB, s *servertest.Server) {
	tb.Helper()
	schema, err := session.MySQLSchema("test.sessions")
	if err != nil {
		tb.Fatal(err)
	}
	mariaDo(tb, s, "DROP USER IF EXISTS app", "CREATE USER app", "GRANT ALL ON test.* TO app", schema)
}

func appURL(s *servertest.Server, addr string) string {
	return strings.Replace(sameURL(s, addr), "root@", "app@", 1)
}

var redisRefusals = []refusal{{
	name:  "out of memory",
	begin: func(tb testing.TB, s *servertest.Server) { redisDo(tb, s, "CONFIG", "SET", "maxmemory", "1") },
	end:   func(tb testing.TB, s *servertest.Server) { redisDo(tb, s, "CONFIG", "SET", "maxmemory", "0") },
	ends:  true,
}, {
	name:  "read-only replica",
	begin: func(tb testing.TB, s *servertest.Server) { redisDo(tb, s, "REPLICAOF", "127.0.0.1", "1") },
	end:   func(tb testing.TB, s *servertest.Server) { redisDo(tb, s, "REPLICAOF", "NO", "ONE") },
	// What it shows may be out of date.
	unreadable: true,
}}

func disconnectRedis(tb testing.TB, s *servertest.Server) {
	redisDo(tb, s, "CLIENT", "KILL", "TYPE", "normal")
}

// forEach runs f as a subtest for each backend.
func forEach(t *testing.T, f func(*testing.T, backend)) {
	for _, b := range backends {
		t.Run(string(b.kind), func(t *testing.T) { f(t, b) })
	}
}

// start starts a server and prepares it.
func (b *backend) start(tb testing.TB, args ...string) *servertest.Server {
	tb.Helper()
	s := servertest.Start(tb, b.kind, args...)
	b.ready(tb, s)
	return s
}

func (b *backend) ready(tb testing.TB, s *servertest.Server) {
	tb.Helper()
	if b.prepare != nil {
		b.prepare(tb, s)
	}
}

func (b *backend) skipEncrypted(tb testing.TB) {
	tb.Helper()
	if b.encrypted {
		tb.Skip("the proxy cannot tell which requests to lose")
	}
}

func sameURL(s *servertest.Server, addr string) string {
	return strings.Replace(s.URL, s.Addrs[0], addr, 1)
}

func dial(tb testing.TB, s *servertest.Server) net.Conn {
	tb.Helper()
	conn, err := net.Dial("tcp", s.Addrs[0])
	if err != nil {
		tb.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if strings.HasPrefix(s.URL, "rediss:") {
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	return conn
}

// redisDo runs a command whose reply is one line.
func redisDo(tb testing.TB, s *servertest.Server, command ...string) {
	tb.Helper()
	conn := dial(tb, s)
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\n", strings.Join(command, " "))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line[0] == '-' {
		tb.Fatalf("%q: %q, %v", command, line, err)
	}
}

func mariaDo(tb testing.TB, s *servertest.Server, statements ...string) {
	tb.Helper()
	db, err := sql.Open("mysql", "root@tcp("+s.Addrs[0]+")/")
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(tb.Context(), statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
}

func postgresDo(tb testing.TB, s *servertest.Server, statement string) {
	tb.Helper()
	conn := connectPostgres(tb, s)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(tb.Context(), statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}

func connectPostgres(tb testing.TB, s *servertest.Server) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), s.URL)
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// setPostgresReadOnly returns when connections that are open know of the setting.
func setPostgresReadOnly(tb testing.TB, s *servertest.Server, value string) {
	tb.Helper()
	conn := connectPostgres(tb, s)
	defer conn.Close(context.Background())
	for _, statement := range []string{
		"ALTER SYSTEM SET default_transaction_read_only = " + value,
		"SELECT pg_reload_conf()",
	} {
		if _, err := conn.Exec(tb.Context(), statement); err != nil {
			tb.Fatal(err)
		}
	}
	for now := ""; now != value; {
		if err := conn.QueryRow(tb.Context(), "SHOW default_transaction_read_only").Scan(&now); err != nil {
			tb.Fatal(err)
		}
	}
}

// fillMemcached leaves no room for another item of the sizes that a session can have, and drainMemcached makes
// room again. The records before stay.
func fillMemcached(tb testing.TB, s *servertest.Server) {
	memcachedFillers(tb, s, func(conn net.Conn, r *bufio.Reader, size int) {
		const atOnce = 100
		value := strings.Repeat("x", size)
		for full, n := false, 0; !full; {
			var b strings.Builder
			for range atOnce {
				fmt.Fprintf(&b, "add filler-%d-%d 0 0 %d\r\n%s\r\n", size, n, size, value)
				n++
			}
			fmt.Fprint(conn, b.String())
			for range atOnce {
				line, err := r.ReadString('\n')
				if err != nil {
					tb.Fatal(err)
				}
				full = full || line == "SERVER_ERROR out of memory storing object\r\n"
			}
		}
	})
}

func drainMemcached(tb testing.TB, s *servertest.Server) {
	memcachedFillers(tb, s, func(conn net.Conn, r *bufio.Reader, size int) {
		for found, n := true, 0; found; n++ {
			fmt.Fprintf(conn, "delete filler-%d-%d\r\n", size, n)
			line, err := r.ReadString('\n')
			if err != nil {
				tb.Fatal(err)
			}
			found = line == "DELETED\r\n"
		}
	})
}

// memcachedFillers calls f with one size of a value for each size of memory that the server has for items.
func memcachedFillers(tb testing.TB, s *servertest.Server, f func(conn net.Conn, r *bufio.Reader, size int)) {
	tb.Helper()
	conn := dial(tb, s)
	defer conn.Close()
	r := bufio.NewReader(conn)
	for size := 100; size < 4000; size *= 2 {
		f(conn, r, size)
	}
}
