package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

func TestPostgresStore(t *testing.T) {
	server := servertest.PostgreSQL(t)
	for name, params := range map[string]string{
		"Open":            "table=conformance",
		"simple protocol": "table=conformance_simple&default_query_exec_mode=simple_protocol",
		"exec":            "table=conformance_exec&default_query_exec_mode=exec",
		"repeatable read": "table=conformance_repeatable&default_transaction_isolation=repeatable%20read",
		"serializable":    "table=conformance_serializable&default_transaction_isolation=serializable",
	} {
		t.Run(name, func(t *testing.T) {
			store, err := session.Open(t.Context(), withParams(server.URL, params))
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close(store)
			sessiontest.Run(t, func(*testing.T) session.Store { return store })
		})
	}
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
	w := newSQLWire(t, server.Addrs[0])
	rawURL, _ := newPostgresDatabase(t, server)
	for _, mode := range []string{"cache_statement", "cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			through := withParams(strings.Replace(rawURL, server.Addrs[0], w.addr, 1), "default_query_exec_mode="+mode)
			wantOneTrip(t, w, newPostgresStore(t, newPool(t, through), nil))
		})
	}
}

func TestPostgresConstructorsAtOnce(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	open := func() (session.Store, error) { return session.Open(t.Context(), rawURL) }
	for range 5 {
		openAtOnce(t, open)
		mustExecPostgres(t, pool, "DELETE FROM sessions")
		mustExecPostgres(t, pool, "DROP INDEX sessions_expires_idx")
		openAtOnce(t, open)
		mustExecPostgres(t, pool, "DROP TABLE sessions")
	}
}

func TestPostgresAccountThatMayNotCreate(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, pool := newPostgresDatabase(t, server)
	const password = "p@ss:/?#&%'"
	user := randomName("u")
	mustExecPostgres(t, pool, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	mustExecPostgres(t, pool, "CREATE ROLE "+user+" LOGIN PASSWORD '"+strings.ReplaceAll(password, "'", "''")+"'")
	t.Cleanup(func() {
		mustExecPostgres(t, pool, "DROP OWNED BY "+user)
		mustExecPostgres(t, pool, "DROP ROLE "+user)
	})
	limited := withUser(t, rawURL, user, password)

	_, err := session.Open(t.Context(), limited)
	wantError(t, err, password, `create the table "sessions"`, "denied")

	schema, err := session.PostgresSchema("")
	if err != nil {
		t.Fatal(err)
	}
	mustExecPostgres(t, pool, schema)
	mustExecPostgres(t, pool, schema) // does no harm
	mustExecPostgres(t, pool, "GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO "+user)
	store, err := session.Open(t.Context(), limited)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	wantUsable(t, store)
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
	_, pool := newPostgresDatabase(t, server)
	opts := &session.PostgresOptions{NoCreate: true}
	_, err := session.NewPostgresStore(t.Context(), pool, opts)
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
		if n, err := store.Count(t.Context()); n != 0 || err != nil {
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
		{"postgres://nobody:" + secret + "@" + address + "/test?sslmode=require", "TLS"},
		{"postgres://nobody:" + secret + "@" + address + "/test?sslmode=perhaps", "sslmode"},
		{"postgres://nobody:" + secret + "@" + address + "/test?pool_max_conns=some", "pool_max_conns"},
		{"postgres://nobody@" + address + "/test?pool_max_conns=some&password=" + secret, "pool_max_conns"},
		{"postgres://postgres@" + address + "/test?no_such_parameter=1", "no_such_parameter"},
		{"postgres://nobody:" + secret + "@" + address + "/test?table=a%20b", `"a b"`},
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
		if c.ConnectTimeout != 5*time.Second || cfg.MaxConns < 8 {
			t.Errorf("%s: connects for %v and %d times", rawURL, c.ConnectTimeout, cfg.MaxConns)
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
		id := randomID()
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
	live := fill(t, store, 20, time.Now().Add(time.Hour))
	expired := fill(t, store, 300, time.Now().Add(-time.Hour))
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
	wantSweepersAgree(t, newPostgresStore(t, pool, nil), newPostgresStore(t, pool, nil),
		newPostgresStore(t, strict, nil), newPostgresStore(t, strict, nil))
}

func TestPostgresListInPages(t *testing.T) {
	server := servertest.PostgreSQL(t)
	rawURL, _ := newPostgresDatabase(t, server)
	wantPages(t, newPostgresStore(t, newPool(t, withParams(rawURL, "pool_max_conns=1")), nil))
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
	if err := session.Close(opened); err != nil {
		t.Error(err)
	}
	if _, err := opened.Load(t.Context(), session.ID{}); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load after Close: %v", err)
	}
}

// A store outlives its server.
func TestPostgresServerRestarts(t *testing.T) {
	server := servertest.Start(t, servertest.KindPostgreSQL)
	store, err := session.Open(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	wantOutlives(t, server, store)
}
