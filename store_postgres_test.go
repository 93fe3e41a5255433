//go:build !encrypted

package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

func TestPostgresStore(t *testing.T) {
	server := servertest.PostgreSQL(t)
	for name, params := range map[string]string{
		"Open":            "",
		"simple protocol": "&default_query_exec_mode=simple_protocol",
		"exec":            "&default_query_exec_mode=exec",
		"repeatable read": "&default_transaction_isolation=repeatable%20read",
		"serializable":    "&default_transaction_isolation=serializable",
	} {
		t.Run(name, func(t *testing.T) {
			sessiontest.Run(t, storesAt(server.Apart(t, "table")+params))
		})
	}
}

// A table that is partitioned by the ID is one like any other.
func TestPostgresPartitions(t *testing.T) {
	_, pool := newPostgresDatabase(t, servertest.PostgreSQL(t))
	mustExecPostgres(t, pool, "CREATE TABLE sessions (id bytea PRIMARY KEY, version bigint NOT NULL, expires bigint NOT NULL, data bytea NOT NULL) PARTITION BY HASH (id)")
	for i := range 4 {
		mustExecPostgres(t, pool, fmt.Sprintf("CREATE TABLE sessions_%d PARTITION OF sessions FOR VALUES WITH (MODULUS 4, REMAINDER %[1]d)", i))
	}
	sessiontest.Run(t, storesIn("", func(string) session.Store { return newPostgresStore(t, pool, nil) })) // which makes the index
}

func withParams(rawURL, params string) string {
	if strings.Contains(rawURL, "?") {
		return rawURL + "&" + params
	}
	return rawURL + "?" + params
}

// newPool returns a pool of connections as an application has one.
func newPool(t *testing.T, rawURL string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	// The usual check of a connection that was idle for a second would make round trips depend on the clock.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// newPostgresDatabase returns the URL of an empty database that ends with the test, and a pool for it.
func newPostgresDatabase(t *testing.T, server *servertest.Server) (rawURL string, pool *pgxpool.Pool) {
	t.Helper()
	name := randomName("db")
	admin := newPool(t, server.URL)
	mustExecPostgres(t, admin, "CREATE DATABASE "+name)
	t.Cleanup(func() { mustExecPostgres(t, admin, "DROP DATABASE "+name+" WITH (FORCE)") })
	rawURL = withDatabase(t, server.URL, name)
	return rawURL, newPool(t, rawURL)
}

func mustExecPostgres(t *testing.T, db session.PostgresDB, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func newPostgresStore(t *testing.T, db session.PostgresDB, opts *session.PostgresOptions) *session.PostgresStore {
	t.Helper()
	store, err := session.NewPostgresStore(t.Context(), db, opts)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestPostgresRoundTrips(t *testing.T) {
	server := servertest.PostgreSQL(t)
	w := newWire(t, server.Addrs[0])
	rawURL, _ := newPostgresDatabase(t, server)
	for _, mode := range []string{"cache_statement", "cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			through := withParams(strings.Replace(rawURL, server.Addrs[0], w.addr, 1), "default_query_exec_mode="+mode)
			wantOneTrip(t, w, newPostgresStore(t, newPool(t, through), nil))
		})
	}
}

// Settings that the documentation leaves to the application, as parameters of the URL.
func TestPostgresSettings(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	mustExecPostgres(t, pool, `CREATE SCHEMA other; CREATE TABLE other.unrelated (id int)`)
	newPostgresStore(t, pool, nil) // or the first case to run would say in which schema the table is
	for name, params := range map[string]string{
		"read uncommitted":  "default_transaction_isolation=read%20uncommitted",
		"repeatable read":   "default_transaction_isolation=repeatable%20read",
		"serializable":      "default_transaction_isolation=serializable&default_transaction_deferrable=on",
		"search path":       "search_path=other,public",
		"path without it":   "search_path=%22$user%22&table=public.sessions",
		"no path":           "search_path=pg_catalog&table=public.sessions",
		"strings":           "standard_conforming_strings=off&escape_string_warning=on&backslash_quote=off",
		"bytea":             "bytea_output=escape",
		"bytea, describe":   "bytea_output=escape&default_query_exec_mode=cache_describe",
		"describe and exec": "default_query_exec_mode=describe_exec",
		"encoding":          "client_encoding=LATIN1&datestyle=German",
		"replica":           "session_replication_role=replica&synchronous_commit=off",
		"plans":             "plan_cache_mode=force_generic_plan&enable_indexscan=off&enable_bitmapscan=off",
		"other plans":       "plan_cache_mode=force_custom_plan&enable_seqscan=off&jit=on&jit_above_cost=0",
		"nulls":             "transform_null_equals=on&quote_all_identifiers=on&row_security=off",
		"one connection":    "pool_max_conns=1",
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, withParams(rawURL, params))
			const n = 400
			mustExecPostgres(t, pool, "INSERT INTO sessions SELECT sha256(n::text::bytea), 1, 1, 'x' FROM generate_series(1, $1) AS n", n)
			wantSweep(t, store.(sqlStore), n)
			wantOperations(t, store.(sqlStore))
		})
	}
}

// Statements that the server has forgotten, or has under another shape, are not prepared.
func TestPostgresPreparedStatements(t *testing.T) {
	server := servertest.PostgreSQL(t)
	for name, change := range map[string]string{
		"forgotten":         "DEALLOCATE ALL",
		"discarded":         "DISCARD ALL",
		"table of a schema": "CREATE SCHEMA later; ALTER TABLE sessions SET SCHEMA later; SET search_path = later",
		"other type":        "ALTER TABLE sessions ALTER version TYPE numeric",
		"other column":      "ALTER TABLE sessions ADD more int; ALTER TABLE sessions DROP more",
		"other output":      "DEALLOCATE ALL; SET bytea_output = escape",
	} {
		t.Run(name, func(t *testing.T) {
			rawURL, _ := newPostgresDatabase(t, server)
			pool := newPool(t, withParams(rawURL, "pool_max_conns=1"))
			store := newPostgresStore(t, pool, nil)
			wantOperations(t, store)
			for range 2 {
				mustExecPostgres(t, pool, change, pgx.QueryExecModeSimpleProtocol)
				wantOperations(t, store)
				change = "SELECT 1"
			}
		})
	}
}

// Behind a pooler that lends a connection for a transaction, each statement may meet another connection of the server's.
func TestPostgresPooler(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, _ := newPostgresDatabase(t, server)
	pooler := newPostgresPooler(t, rawURL, 3)
	sessiontest.Run(t, storesAt(strings.Replace(rawURL, server.Addrs[0], pooler, 1)))
}

// newPostgresPooler returns the address of a pooler in transaction mode, with n connections to the server, which takes no
// notice of prepared statements.
func newPostgresPooler(t *testing.T, rawURL string, n int) string {
	t.Helper()
	idle := make(chan *pgconn.HijackedConn, n)
	for range n {
		conn, err := pgconn.Connect(t.Context(), rawURL)
		if err != nil {
			t.Fatal(err)
		}
		hijacked, err := conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hijacked.Conn.Close() })
		idle <- hijacked
	}
	return servertest.Listen(t, func(client *net.TCPConn) { pool(pgproto3.NewBackend(client, client), idle) })
}

// pool passes on each of a client's transactions to the server's connection that has been idle for the longest.
func pool(client *pgproto3.Backend, idle chan *pgconn.HijackedConn) {
	startup, err := client.ReceiveStartupMessage()
	if _, cancels := startup.(*pgproto3.CancelRequest); cancels || err != nil {
		return
	}
	client.Send(&pgproto3.AuthenticationOk{})
	client.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	client.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	client.Send(&pgproto3.BackendKeyData{SecretKey: make([]byte, 4)})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for client.Flush() == nil {
		var transaction []byte
		for done := false; !done; {
			message, err := client.Receive()
			if _, ends := message.(*pgproto3.Terminate); ends || err != nil { // the client waits until the connection is closed
				return
			}
			if transaction, err = message.Encode(transaction); err != nil {
				return
			}
			_, synced := message.(*pgproto3.Sync)
			_, query := message.(*pgproto3.Query)
			done = synced || query
		}
		server := <-idle
		if _, err := server.Conn.Write(transaction); err != nil {
			return
		}
		for ready := false; !ready; {
			reply, err := server.Frontend.Receive()
			if err != nil {
				return
			}
			client.Send(reply)
			_, ready = reply.(*pgproto3.ReadyForQuery)
		}
		idle <- server
	}
}

// Requests wait for room, whoever's limit it is.
func TestPostgresNoRoom(t *testing.T) {
	server := servertest.Start(t, servertest.KindPostgreSQL, "-c", "max_connections=12", "-c", "superuser_reserved_connections=3")
	admin := newPool(t, withParams(server.URL, "pool_max_conns=1"))
	mustExecPostgres(t, admin, "GRANT ALL ON SCHEMA public TO PUBLIC")
	for name, limits := range map[string]string{"server": "", "account": "CONNECTION LIMIT 3"} {
		t.Run(name, func(t *testing.T) {
			wantRoomForAll(t, newPostgresAccount(t, admin, server.URL, limits))
			mustExecPostgres(t, admin, "DROP TABLE sessions")
		})
	}
	t.Run("database", func(t *testing.T) {
		mustExecPostgres(t, admin, "CREATE DATABASE small CONNECTION LIMIT 2")
		small := withDatabase(t, server.URL, "small")
		pool := newPool(t, small) // a superuser, for whom the limit is none
		mustExecPostgres(t, pool, "GRANT ALL ON SCHEMA public TO PUBLIC")
		rawURL := newPostgresAccount(t, pool, small, "")
		wantRoomForAll(t, rawURL)
		mustExecPostgres(t, pool, "ALTER DATABASE small CONNECTION LIMIT 0")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := session.Open(ctx, rawURL)
		wantError(t, err, "p@ss", "takes no connection more", server.Addrs[0])
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the context", err)
		}
	})
}

// The reason survives a last try that the context ends before the server has answered.
func TestPostgresNoRoomAtTheEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := session.NewPostgresStore(ctx, &fullDB{}, nil)
	wantError(t, err, "p@ss", "takes no connection more", "no room in 127.0.0.1")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// A fullDB turns away its first caller, and has no answer for the next.
type fullDB struct {
	session.PostgresDB
	asked atomic.Bool
}

func (d *fullDB) Query(ctx context.Context, _ string, _ ...any) (pgx.Rows, error) {
	if !d.asked.Swap(true) {
		return nil, &pgconn.PgError{Code: "53300", Message: "no room in 127.0.0.1"}
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// Of several servers in the URL, the one that takes writes counts, whichever comes first.
func TestPostgresSeveralServers(t *testing.T) {
	server := servertest.PostgreSQL(t)
	readOnly := servertest.Start(t, servertest.KindPostgreSQL, "-c", "default_transaction_read_only=on")
	both := readOnly.Addrs[0] + "," + server.Addrs[0]
	store := openStore(t, strings.Replace(server.Apart(t, "table"), server.Addrs[0], both, 1))
	wantUsable(t, store)
}

func TestPostgresConstructorsAtOnce(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	open := func() (session.StoreCloser, error) { return session.Open(t.Context(), rawURL) }
	for range 5 {
		openAtOnce(t, open)
		mustExecPostgres(t, pool, "DELETE FROM sessions")
		mustExecPostgres(t, pool, "DROP INDEX sessions_expires_idx")
		openAtOnce(t, open)
		mustExecPostgres(t, pool, "DROP TABLE sessions")
	}
}

// newPostgresAccount makes an account with the privileges, and returns the URL for it.
func newPostgresAccount(t *testing.T, pool *pgxpool.Pool, rawURL, limits string, grants ...string) string {
	t.Helper()
	const password = "p@ss:/?#&%'"
	user := randomName("u")
	mustExecPostgres(t, pool, "CREATE ROLE "+user+" LOGIN PASSWORD '"+strings.ReplaceAll(password, "'", "''")+"' "+limits)
	t.Cleanup(func() {
		mustExecPostgres(t, pool, "DROP OWNED BY "+user)
		mustExecPostgres(t, pool, "DROP ROLE "+user)
	})
	for _, grant := range grants {
		mustExecPostgres(t, pool, "GRANT "+grant+" TO "+user)
	}
	return withUser(t, rawURL, user, password)
}

// The accounts here have exactly what the documentation lists.
func TestPostgresAccounts(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	database := strings.TrimPrefix(mustParse(t, rawURL).Path, "/")
	mustExecPostgres(t, pool, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
	mustExecPostgres(t, pool, "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC")
	grants := []string{"CONNECT ON DATABASE " + database, "USAGE ON SCHEMA public"}
	conforms := func(account string) {
		t.Helper()
		sessiontest.Run(t, storesAt(account))
	}
	user := newPostgresAccount(t, pool, rawURL, "", grants...)
	_, err := session.Open(t.Context(), user)
	wantError(t, err, "p@ss", `create the table "sessions"`, "denied", "session.PostgresSchema",
		"SELECT, INSERT, UPDATE and DELETE")

	creator := newPostgresAccount(t, pool, rawURL, "", append(grants, "CREATE ON SCHEMA public")...)
	conforms(creator)
	mustExecPostgres(t, pool, "DROP TABLE sessions")
	schema, err := session.PostgresSchema("")
	if err != nil {
		t.Fatal(err)
	}
	mustExecPostgres(t, pool, schema)
	mustExecPostgres(t, pool, schema) // does no harm
	_, err = session.Open(t.Context(), user)
	wantError(t, err, "p@ss", "may not SELECT, INSERT, UPDATE, DELETE", `on the table "sessions"`, "GRANT")
	const all = "SELECT, INSERT, UPDATE, DELETE ON sessions"
	conforms(newPostgresAccount(t, pool, rawURL, "", append(grants, all)...))
	for _, lacking := range []string{"INSERT", "UPDATE", "DELETE"} {
		rest := strings.Replace(all, ", "+lacking, "", 1)
		_, err := session.Open(t.Context(), newPostgresAccount(t, pool, rawURL, "", append(grants, rest)...))
		wantError(t, err, "p@ss", "may not "+lacking+" on")
	}

	user = newPostgresAccount(t, pool, rawURL, "", append(grants, all)...)
	store := openStore(t, user)
	mustExecPostgres(t, pool, "REVOKE ALL ON sessions FROM "+mustParse(t, user).User.Username())
	_, err = store.Load(t.Context(), session.ID{})
	wantError(t, err, "p@ss", "permission denied", `needs SELECT, INSERT, UPDATE and DELETE on the table "sessions"`)
	mustExecPostgres(t, pool, "DROP INDEX sessions_expires_idx")
	_, err = session.Open(t.Context(), newPostgresAccount(t, pool, rawURL, "", append(grants, all)...))
	wantError(t, err, "p@ss", `create an index of the table "sessions"`, "on the column expires")
	mustExecPostgres(t, pool, "DROP TABLE sessions")
	_, err = store.Load(t.Context(), session.ID{})
	wantError(t, err, "p@ss", `the table "sessions" is not there any more`, "session.PostgresSchema")
}

func TestPostgresTableShape(t *testing.T) {
	server := servertest.PostgreSQL(t)
	_, pool := newPostgresDatabase(t, server)
	for _, test := range []struct {
		name   string
		change string   // after the usual creation
		texts  []string // of the error; none: no error
	}{
		{"as it should be", "", nil},
		{"index missing", "DROP INDEX t_expires_idx", nil},
		{"longer index", "DROP INDEX t_expires_idx; CREATE INDEX longer ON t (expires, version)", nil},
		{"partial index", "DROP INDEX t_expires_idx; CREATE INDEX half ON t (expires) WHERE version > 1", nil},
		{"one more index", "CREATE INDEX more ON t (version)", nil},
		{"index on an expression", "CREATE INDEX more ON t ((version + 1))", nil},
		{"unlogged", "ALTER TABLE t SET UNLOGGED", nil},
		{"dropped column", "ALTER TABLE t ADD more int; ALTER TABLE t DROP more", nil},
		{"partitioned", "ALTER TABLE t RENAME TO u; DROP INDEX t_expires_idx; " +
			"CREATE TABLE t (LIKE u, PRIMARY KEY (id)) PARTITION BY HASH (id); " +
			"CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)", nil},
		{"no data", "ALTER TABLE t DROP data", []string{`lacks "data bytea not null" and has nothing`}},
		{"data as text", "ALTER TABLE t ALTER data TYPE text USING ''", []string{`has "data text not null"`}},
		{"NULL allowed", "ALTER TABLE t ALTER data DROP NOT NULL", []string{`has "data bytea"`}},
		{"short version", "ALTER TABLE t ALTER version TYPE int", []string{`has "version integer not null"`}},
		{"expires as a time", "ALTER TABLE t DROP expires; ALTER TABLE t ADD expires timestamptz NOT NULL",
			[]string{`has "expires timestamp with time zone not null"`}},
		{"one more column", "ALTER TABLE t ADD more int", []string{`lacks nothing and has "more integer"`}},
		{"no primary key", "ALTER TABLE t DROP CONSTRAINT t_pkey", []string{`lacks "primary key (id)"`}},
		{"other primary key", "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, version)",
			[]string{`has "primary key (id, version)"`}},
		{"unique index", "CREATE UNIQUE INDEX one ON t (expires)", []string{`has "unique index (expires)"`}},
		{"unique partial index", "CREATE UNIQUE INDEX one ON t (expires) WHERE version > 1",
			[]string{`has "unique index (expires)"`}},
		{"view", "ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT * FROM u", []string{`has "id bytea"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mustExecPostgres(t, pool, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
			newPostgresStore(t, pool, &session.PostgresOptions{Table: "t"})
			mustExecPostgres(t, pool, test.change)
			store, err := session.NewPostgresStore(t.Context(), pool, &session.PostgresOptions{Table: "t"})
			if len(test.texts) > 0 {
				wantError(t, err, "", append(test.texts, `the table "t" is of another shape`)...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantUsable(t, store)
			var indexed bool
			const query = "SELECT count(*) > 0 FROM pg_indexes WHERE indexname IN ('t_expires_idx', 'longer')"
			if err := pool.QueryRow(t.Context(), query).Scan(&indexed); err != nil || !indexed {
				t.Errorf("without an index of expires (%v)", err)
			}
		})
	}
}

func TestPostgresNoCreate(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	opts := &session.PostgresOptions{NoCreate: true}
	_, err := session.NewPostgresStore(t.Context(), pool, opts)
	wantError(t, err, "", `the table "sessions" is not there`)
	_, err = session.Open(t.Context(), rawURL+"&create=false")
	wantError(t, err, "", `the table "sessions" is not there`)

	newPostgresStore(t, pool, nil)
	wantUsable(t, newPostgresStore(t, pool, opts))
	mustExecPostgres(t, pool, "DROP INDEX sessions_expires_idx")
	_, err = session.NewPostgresStore(t.Context(), pool, opts)
	wantError(t, err, "", `lacks "index (expires)"`)
}

func TestPostgresTableNames(t *testing.T) {
	server := servertest.PostgreSQL(t)
	_, pool := newPostgresDatabase(t, server)
	for _, name := range badTableNames() {
		if _, err := session.NewPostgresStore(t.Context(), pool, &session.PostgresOptions{Table: name}); err == nil {
			t.Errorf("the table name %q is accepted", name)
		}
		if schema, err := session.PostgresSchema(name); err == nil {
			t.Errorf("PostgresSchema(%q) = %s", name, schema)
		}
	}
	mustExecPostgres(t, pool, `CREATE SCHEMA "Elsewhere"`)
	for _, name := range []string{"Mixed", "mixed", "_", "select", strings.Repeat("x", 50), "Elsewhere.mixed"} {
		store := newPostgresStore(t, pool, &session.PostgresOptions{Table: name})
		if n, err := store.Count(t.Context(), -1, 0); n != 0 || err != nil {
			t.Errorf("a table of its own has %d records (%v), want none", n, err)
		}
		wantUsable(t, store)
		wantUsable(t, newPostgresStore(t, pool, &session.PostgresOptions{Table: name, NoCreate: true}))
	}
	_, err := session.NewPostgresStore(t.Context(), nil, nil)
	wantError(t, err, "")
}

// A table that search_path finds in another schema than the one where it creates gets its index there.
func TestPostgresSearchPath(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	mustExecPostgres(t, pool, "CREATE SCHEMA first")
	newPostgresStore(t, pool, nil)
	mustExecPostgres(t, pool, "DROP INDEX sessions_expires_idx")
	newPostgresStore(t, newPool(t, withParams(rawURL, "search_path=first,public")), nil)
	newPostgresStore(t, pool, &session.PostgresOptions{NoCreate: true})
	opts := &session.PostgresOptions{NoCreate: true, Table: "first.sessions"}
	_, err := session.NewPostgresStore(t.Context(), pool, opts)
	wantError(t, err, "", "is not there")
}

func TestPostgresErrorsHidePassword(t *testing.T) {
	server := servertest.Start(t, servertest.KindPostgreSQL, passwordRules(t)...)
	const secret = "s3cret"
	address := server.Addrs[0]
	_, port, _ := strings.Cut(address, ":")
	for _, test := range []struct{ url, text string }{
		{"postgres://nobody:" + secret + "@" + address + "/test", "password authentication failed"},
		{"postgresql://nobody@" + address + "/test?password=" + secret, "password authentication failed"},
		{"postgres://postgres@" + address + "/no_such_database", "does not exist"},
		{"postgres://nobody:" + secret + "@127.0.0.1:1/test?sslmode=disable", "127.0.0.1:1"},
		{"postgres://nobody:" + secret + "@127.0.0.1:1/test?sslmode=disable", "cannot be reached (does it run,"},
		{"postgres://nobody:" + secret + "@" + address + "/test?sslmode=require", "TLS"},
		{"postgres://nobody:" + secret + "@" + address + "/test?sslmode=perhaps", "sslmode"},
		{"postgres://nobody:" + secret + "@" + address + "/test?pool_max_conns=some", "pool_max_conns"},
		{"postgres://nobody@" + address + "/test?pool_max_conns=some&password=" + secret, "pool_max_conns"},
		{"postgres://postgres@" + address + "/test?no_such_parameter=1", "no_such_parameter"},
		{"postgres://nobody:" + secret + "@" + address + "/test?table=a%20b", `"a b"`},
		{"postgres://nobody:" + secret + "@" + address + "/test?create=perhaps", `true or false, not "perhaps"`},
		{"postgres:nobody:" + secret, "percent-encoded"},
		{"postgres://nobody:" + secret + "/" + port + "@" + address + "/test", "percent-encoded"},
		{"postgres://nobody:" + port + "/" + secret + "@" + address + "/test", "percent-encoded"},
		{"postgres://nobody:" + secret + "@" + port + "@" + address + "/test", "percent-encoded"},
		{"postgres://nobody:" + port + "@" + secret + "@" + address + "/test", "percent-encoded"},
		{"postgres://nobody:" + secret + "%zz@" + address + "/test", "percent-encoded"},
	} {
		_, err := session.Open(t.Context(), test.url)
		t.Log(err)
		wantError(t, err, secret, test.text)
	}
}

func TestPostgresURL(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"} {
		t.Setenv(name, "")
	}
	for rawURL, want := range map[string]string{
		"postgres://u:p%40%3A%2F%3F%23%25@h/db":             "u:p@:/?#%@h:5432/db",
		"postgresql://u:p@h:33/d%20b":                       "u:p@h:33/d b",
		"POSTGRES://u:p@h:33/db":                            "u:p@h:33/db",
		"postgres://u:p?x@h/db":                             "u:p?x@h:5432/db",
		"postgres://u:p@[::1]:33/db":                        "u:p@::1:33/db",
		"postgres://u:p@h1:33,h2:44/db":                     "u:p@h1:33/db",
		"postgres:///db?user=u&host=/run&port=7&password=p": "u:p@/run:7/db",
		"postgres:///db?user=u%40x&password=p&host=h":       "u@x:p@h:5432/db",
	} {
		cfg, opts, err := session.ParsePostgresURL(rawURL)
		if err != nil {
			t.Errorf("%s: %v", rawURL, err)
			continue
		}
		c := cfg.ConnConfig
		got := fmt.Sprintf("%s:%s@%s:%d/%s", c.User, c.Password, c.Host, c.Port, c.Database)
		if got != want || opts.Table != "" {
			t.Errorf("%s is %s with table %q, want %s", rawURL, got, opts.Table, want)
		}
		if c.ConnectTimeout != 5*time.Second || cfg.MaxConns != 8 || cfg.MaxConnIdleTime >= 5*time.Second {
			t.Errorf("%s: connects for %v, %d times, and keeps that for %v", rawURL, c.ConnectTimeout, cfg.MaxConns,
				cfg.MaxConnIdleTime)
		}
	}
	const parameters = "table=a.b&sslmode=require&pool_max_conns=3&connect_timeout=7&search_path=x"
	cfg, opts, err := session.ParsePostgresURL("postgres://h/db?" + parameters)
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.ConnConfig; opts.Table != "a.b" || cfg.MaxConns != 3 || c.ConnectTimeout != 7*time.Second ||
		c.TLSConfig == nil || c.RuntimeParams["search_path"] != "x" || c.RuntimeParams["table"] != "" {
		t.Errorf("parameters are %+v, %+v", cfg, opts)
	}
}

// A row that no store has written reads as absent, with an error that says so, and is replaced by the next Save.
func TestPostgresDamagedRow(t *testing.T) {
	server := servertest.PostgreSQL(t)
	_, pool := newPostgresDatabase(t, server)
	store := newPostgresStore(t, pool, nil)
	for _, version := range []int{0, -1} {
		id := storetest.RandomID()
		mustExecPostgres(t, pool, "INSERT INTO sessions VALUES ($1, $2, 9223372036854775807, 'secret')", id[:], version)
		_, err := store.Load(t.Context(), id)
		wantError(t, err, "secret", "damaged", id.String())
		if !errors.Is(err, session.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		if err := store.Touch(t.Context(), id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Touch: %v, want ErrNotFound", err)
		}
		if err := store.Save(t.Context(), id, session.Record{Expires: time.Now().Add(-time.Hour)}); err != nil {
			t.Errorf("Save: %v", err)
		}
	}
	mustExecPostgres(t, pool, "INSERT INTO sessions VALUES ('short', 1, 9223372036854775807, 'secret')")
	for entry, err := range store.List(t.Context()) {
		t.Errorf("List has %v, %v", entry, err)
	}
}

// A recorder keeps the statements that pass through it.
type recorder struct {
	session.PostgresDB
	statements []string
}

func (r *recorder) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	r.statements = append(r.statements, sql)
	return r.PostgresDB.Exec(ctx, sql, args...)
}

// DeleteExpired finds what has expired by the index, and what it removes by the primary key.
func TestPostgresSweepUsesIndex(t *testing.T) {
	server := servertest.PostgreSQL(t)
	_, pool := newPostgresDatabase(t, server)
	db := &recorder{PostgresDB: pool}
	store := newPostgresStore(t, db, nil)
	hour := time.Now().Add(time.Hour).UnixMilli()
	mustExecPostgres(t, pool, "INSERT INTO sessions SELECT sha256(n::text::bytea), 1, "+
		"CASE WHEN n <= 250 THEN n ELSE $1::bigint + n END, 'data' FROM generate_series(1, 5000) AS n", hour)
	mustExecPostgres(t, pool, "ANALYZE sessions")
	for _, want := range []int{100, 100, 50, 0} {
		if n, err := store.DeleteExpired(t.Context(), 100); n != want || err != nil {
			t.Errorf("removed %d (%v), want %d", n, err, want)
		}
	}
	if n, err := store.DeleteExpired(t.Context(), 0); n != 0 || err != nil {
		t.Errorf("with the limit 0: %d, %v", n, err)
	}

	sweep := db.statements[len(db.statements)-1]
	rows, err := pool.Query(t.Context(), "EXPLAIN "+sweep, pgx.QueryExecModeSimpleProtocol, time.Now().UnixMilli(), 100)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	if strings.Contains(plan, "Seq Scan") || !strings.Contains(plan, "sessions_expires_idx") {
		t.Errorf("the plan is\n%s", plan)
	}
}

// Locks on live records, and on expired ones that somebody else is removing, do not hold DeleteExpired up: it
// wants none of them, and so holds nobody up who saves one.
func TestPostgresSweepLocksNothingLive(t *testing.T) {
	server := servertest.PostgreSQL(t)
	_, pool := newPostgresDatabase(t, server)
	store := newPostgresStore(t, pool, nil)
	live := storetest.Fill(t, store, 20, time.Now().Add(time.Hour))
	expired := storetest.Fill(t, store, 300, time.Now().Add(-time.Hour))
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	for _, id := range append(live, expired[:50]...) {
		if _, err := tx.Exec(t.Context(), "UPDATE sessions SET version = 2 WHERE id = $1", id[:]); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, want := range []int{100, 100, 50, 0} {
		if n, err := store.DeleteExpired(ctx, 100); n != want || err != nil {
			t.Fatalf("removed %d (%v), want %d", n, err, want)
		}
	}
}

func TestPostgresSweepersAtOnce(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	strict := newPool(t, withParams(rawURL, "default_transaction_isolation=serializable"))
	storetest.SweepersAgree(t, 50, newPostgresStore(t, pool, nil), newPostgresStore(t, pool, nil),
		newPostgresStore(t, strict, nil), newPostgresStore(t, strict, nil))
}

func TestPostgresListInPages(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, _ := newPostgresDatabase(t, server)
	storetest.Pages(t, newPostgresStore(t, newPool(t, withParams(rawURL, "pool_max_conns=1")), nil), 2*256-2) // with the first and the last ID two full pages
}

// A store closes what Open made, and leaves the application's connections alone.
func TestPostgresClose(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	store := newPostgresStore(t, pool, nil)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("the application's pool is closed: %v", err)
	}
	opened, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Error(err)
	}
	if _, err := opened.Load(t.Context(), session.ID{}); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load after Close: %v", err)
	}
}

// A store outlives its server.
func TestPostgresServerRestarts(t *testing.T) {
	server := servertest.Start(t, servertest.KindPostgreSQL)
	store := openStore(t, server.URL)
	wantOutlives(t, server, store)
}
