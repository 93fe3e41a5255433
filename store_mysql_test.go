//go:build !encrypted

package session_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
	"github.com/go-sql-driver/mysql"
)

// onMySQL runs a test on MySQL and on MariaDB.
func onMySQL(t *testing.T, test func(*testing.T, *servertest.Server)) {
	t.Helper()
	t.Run("mysql", func(t *testing.T) { test(t, servertest.MySQL(t)) })
	t.Run("mariadb", func(t *testing.T) { test(t, servertest.MariaDB(t)) })
}

func TestMySQLStore(t *testing.T) { onMySQL(t, testMySQLStore) }

func testMySQLStore(t *testing.T, server *servertest.Server) {
	for name, params := range map[string]string{
		"Open":              "",
		"clientFoundRows":   "&clientFoundRows=true",
		"interpolateParams": "&interpolateParams=true",
		"gbk":               "&charset=gbk",
	} {
		t.Run(name, func(t *testing.T) {
			sessiontest.Run(t, storesAt(server.Apart(t, "table")+params))
		})
	}
}

// A table that is partitioned by the ID is one like any other.
func TestMySQLPartitions(t *testing.T) { onMySQL(t, testMySQLPartitions) }

func testMySQLPartitions(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	schema, err := session.MySQLSchema("sessions")
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, schema)
	mustExec(t, db, "ALTER TABLE sessions PARTITION BY KEY (id) PARTITIONS 4")
	sessiontest.Run(t, storesIn("", func(string) session.Store { return newMySQLStore(t, db, nil) }))
}

// mysqlConfig returns the driver's configuration for a URL.
func mysqlConfig(t *testing.T, rawURL string) *mysql.Config {
	t.Helper()
	cfg, _, _, err := session.ParseMySQLURL(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// openDB returns a pool of connections as an application has one, with the driver's parameters.
func openDB(t *testing.T, rawURL, params string) *sql.DB {
	t.Helper()
	cfg := mysqlConfig(t, rawURL)
	db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s%s", cfg.User, cfg.Passwd, cfg.Addr, cfg.DBName, params))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// newMySQLDatabase returns the URL of an empty database that ends with the test, and a pool for it.
func newMySQLDatabase(t *testing.T, server *servertest.Server) (rawURL string, db *sql.DB) {
	t.Helper()
	name := randomName("db")
	admin := openDB(t, server.URL, "")
	mustExec(t, admin, "CREATE DATABASE "+name)
	t.Cleanup(func() { mustExec(t, admin, "DROP DATABASE "+name) })
	rawURL = withDatabase(t, server.URL, name)
	return rawURL, openDB(t, rawURL, "")
}

func mustExec(t *testing.T, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func newMySQLStore(t *testing.T, db *sql.DB, opts *session.MySQLOptions) *session.MySQLStore {
	t.Helper()
	store, err := session.NewMySQLStore(t.Context(), db, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func TestMySQLRoundTrips(t *testing.T) { onMySQL(t, testMySQLRoundTrips) }

func testMySQLRoundTrips(t *testing.T, server *servertest.Server) {
	w := newWire(t, server.Addrs[0])
	rawURL, _ := newMySQLDatabase(t, server)
	for _, params := range []string{"", "?clientFoundRows=true", "?interpolateParams=true"} {
		t.Run(params, func(t *testing.T) {
			db := openDB(t, strings.Replace(rawURL, server.Addrs[0], w.addr, 1), params)
			wantOneTrip(t, w, newMySQLStore(t, db, nil))
		})
	}
}

// Settings that the documentation leaves to the application, in the driver's parameters.
var mySQLSettings = map[string]string{
	"safe updates":        "sql_safe_updates=1",
	"safe-updates client": "sql_safe_updates=1&sql_select_limit=1000&max_join_size=1000000",
	"select limit":        "sql_select_limit=1",
	"no mode":             "sql_mode=''",
	"ANSI":                "sql_mode='ANSI'",
	"ANSI_QUOTES":         "sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
	"TRADITIONAL":         "sql_mode='TRADITIONAL,ONLY_FULL_GROUP_BY,PAD_CHAR_TO_FULL_LENGTH'",
	"other modes":         "sql_mode='PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE,IGNORE_SPACE,NO_UNSIGNED_SUBTRACTION'",
	"short lengths":       "group_concat_max_len=4&max_sort_length=64",
	"no checks":           "unique_checks=0&foreign_key_checks=0&sql_auto_is_null=1",
	"completion":          "completion_type=2",
	"engine":              "default_storage_engine='MyISAM'",
	"latin1":              "charset=latin1",
	"gbk":                 "charset=gbk",
	"sjis":                "charset=sjis",
	"interpolated":        "interpolateParams=true&clientFoundRows=true",
	"compressed":          "compress=true&collation=utf8mb4_bin",
}

// Those of MySQL alone, and of MariaDB alone.
var (
	mySQLOnlySettings = map[string]string{
		"read uncommitted": "transaction_isolation='READ-UNCOMMITTED'",
		"read committed":   "transaction_isolation='READ-COMMITTED'",
		"serializable":     "transaction_isolation='SERIALIZABLE'",
		"primary key":      "sql_require_primary_key=1",
	}
	mariaDBOnlySettings = map[string]string{
		"read uncommitted": "tx_isolation='READ-UNCOMMITTED'",
		"read committed":   "tx_isolation='READ-COMMITTED'",
		"serializable":     "tx_isolation='SERIALIZABLE'",
	}
	mariaDBModes = map[string]string{
		"assignment":    "sql_mode='SIMULTANEOUS_ASSIGNMENT'",
		"ORACLE":        "sql_mode='ORACLE'",
		"empty is null": "sql_mode='EMPTY_STRING_IS_NULL'",
	}
)

func TestMySQLSettings(t *testing.T) {
	t.Run("mysql", func(t *testing.T) { testMySQLSettings(t, servertest.MySQL(t), mySQLSettings, mySQLOnlySettings) })
	t.Run("mariadb", func(t *testing.T) {
		testMySQLSettings(t, servertest.MariaDB(t), mySQLSettings, mariaDBOnlySettings, mariaDBModes)
	})
}

// A server that prepares nothing and logs statements, so that each is sent as a text, and has to be the same everywhere.
func TestMySQLSettingsUnprepared(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.KindMySQL, servertest.KindMariaDB} {
		t.Run(string(kind), func(t *testing.T) {
			server := servertest.Start(t, kind, "--max-prepared-stmt-count=0", "--log-bin=bin", "--binlog-format=STATEMENT",
				"--server-id=1")
			testMySQLSettings(t, server, mySQLSettings)
			if kind == servertest.KindMariaDB {
				testMySQLSettings(t, server, mariaDBModes)
			}
		})
	}
}

func testMySQLSettings(t *testing.T, server *servertest.Server, settings ...map[string]string) {
	for _, some := range settings {
		for name, params := range some {
			t.Run(name, func(t *testing.T) {
				rawURL, db := newMySQLDatabase(t, server)
				store := newMySQLStore(t, openDB(t, rawURL, "?"+params), nil)
				const n = 400 // more than what a server scans rather than look up
				values := strings.Repeat(", (RANDOM_BYTES(32), 1, 1, 'x')", n)[2:]
				mustExec(t, db, "INSERT INTO sessions VALUES "+values)
				wantSweep(t, store, n)
				wantOperations(t, store)
				newMySQLStore(t, openDB(t, rawURL, "?"+params), &session.MySQLOptions{NoCreate: true})
			})
		}
	}
}

// A server has a limit of prepared statements, and may want one to be prepared again.
func TestMySQLPreparedStatements(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.KindMySQL, servertest.KindMariaDB} {
		for _, quota := range []string{"20", "3", "0"} {
			t.Run(string(kind)+" "+quota, func(t *testing.T) {
				server := servertest.Start(t, kind, "--max-prepared-stmt-count="+quota)
				wantRoomForAll(t, server.URL)
			})
		}
	}
}

func TestMySQLTableAltered(t *testing.T) { onMySQL(t, testMySQLTableAltered) }

func testMySQLTableAltered(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	store := openStore(t, rawURL)
	id := storetest.Fill(t, store, 1, time.Time{})[0]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 {
			for _, change := range []string{"ADD INDEX more (version)", "DROP INDEX more", "FORCE", "COMMENT 'more'"} {
				if _, err := db.ExecContext(t.Context(), "ALTER TABLE sessions "+change); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	version, altering := uint64(1), true
	for altering {
		select {
		case <-done:
			altering = false
		default:
		}
		if err := store.Save(t.Context(), id, session.Record{Version: version}); err != nil {
			t.Fatal(err)
		}
		version++
		if rec, err := store.Load(t.Context(), id); err != nil || rec.Version != version {
			t.Fatalf("%+v, %v, want version %d", rec, err, version)
		}
	}
}

// Requests wait for room, whoever's limit it is.
func TestMySQLNoRoom(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.KindMySQL, servertest.KindMariaDB} {
		t.Run(string(kind), func(t *testing.T) {
			server := servertest.Start(t, kind, "--max-connections=12", "--max-user-connections=11")
			admin := openDB(t, server.URL, "")
			wantRoom := func(t *testing.T, rawURL string) {
				t.Helper()
				before := mySQLConnections(t, admin)
				wantRoomForAll(t, rawURL)
				for mySQLConnections(t, admin) > before { // a server counts one that was closed until it has seen that
					time.Sleep(time.Millisecond)
				}
			}
			t.Run("server", func(t *testing.T) { // root has one more than others, and no limit of its own
				mustExec(t, admin, "SET GLOBAL max_user_connections = 0")
				wantRoom(t, newMySQLAccount(t, server, server.URL, "", "ALL ON test.*"))
			})
			t.Run("account", func(t *testing.T) {
				wantRoom(t, newMySQLAccount(t, server, server.URL, "WITH MAX_USER_CONNECTIONS 3", "ALL ON test.*"))
			})
			t.Run("all accounts", func(t *testing.T) {
				rawURL := newMySQLAccount(t, server, server.URL, "", "ALL ON test.*")
				mustExec(t, admin, "SET GLOBAL max_user_connections = 2")
				wantRoom(t, rawURL)
				held := openDB(t, rawURL, "")
				for range 2 {
					conn, err := held.Conn(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				_, err := session.Open(ctx, rawURL)
				wantError(t, err, "p@ss", "takes no connection more", server.Addrs[0])
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want that of the context", err)
				}
			})
		})
	}
}

// mySQLConnections returns how many connections the server counts.
func mySQLConnections(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	var name string
	if err := db.QueryRowContext(t.Context(), "SHOW GLOBAL STATUS LIKE 'Threads_connected'").Scan(&name, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMySQLConstructorsAtOnce(t *testing.T) { onMySQL(t, testMySQLConstructorsAtOnce) }

func testMySQLConstructorsAtOnce(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	open := func() (session.StoreCloser, error) { return session.Open(t.Context(), rawURL) }
	for range 3 {
		openAtOnce(t, open)
		mustExec(t, db, "DELETE FROM sessions")
		mustExec(t, db, "DROP INDEX expires ON sessions")
		openAtOnce(t, open)
		mustExec(t, db, "DROP TABLE sessions")
	}
}

// newMySQLAccount makes an account with the privileges, and returns the URL for it.
func newMySQLAccount(t *testing.T, server *servertest.Server, rawURL, limits string, grants ...string) string {
	t.Helper()
	const password = "p@ss:/?#&%'"
	user, admin := randomName("u"), openDB(t, rawURL, "")
	mustExec(t, admin, "CREATE USER "+user+"@'%' IDENTIFIED BY '"+strings.ReplaceAll(password, "'", "''")+"' "+limits)
	t.Cleanup(func() { mustExec(t, openDB(t, server.URL, ""), "DROP USER "+user+"@'%'") })
	for _, grant := range grants {
		mustExec(t, admin, "GRANT "+grant+" TO "+user+"@'%'")
	}
	return withUser(t, rawURL, user, password)
}

func TestMySQLAccounts(t *testing.T) { onMySQL(t, testMySQLAccounts) }

// The accounts here have exactly what the documentation lists.
func testMySQLAccounts(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	table := strings.TrimPrefix(mustParse(t, rawURL).Path, "/") + ".sessions"
	_, err := session.Open(t.Context(), newMySQLAccount(t, server, rawURL, "",
		"SELECT, INSERT, UPDATE, DELETE ON "+strings.Replace(table, "sessions", "*", 1)))
	wantError(t, err, "p@ss", "create the table `sessions`", "denied", "session.MySQLSchema", "SELECT, INSERT, UPDATE and DELETE")

	creator := newMySQLAccount(t, server, rawURL, "", "SELECT, INSERT, UPDATE, DELETE, CREATE ON "+table)
	conforms := func(account string) {
		t.Helper()
		sessiontest.Run(t, storesAt(account))
	}
	conforms(creator)
	user := newMySQLAccount(t, server, rawURL, "", "SELECT, INSERT, UPDATE, DELETE ON "+table) // which has to be there
	conforms(user)
	schema, err := session.MySQLSchema("")
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "DROP TABLE sessions")
	mustExec(t, db, schema)
	mustExec(t, db, schema) // does no harm
	mustExec(t, db, "DROP INDEX expires ON sessions")
	_, err = session.Open(t.Context(), user)
	wantError(t, err, "p@ss", "create an index of the table `sessions`", "denied", "on the column expires")
	indexer := newMySQLAccount(t, server, rawURL, "", "SELECT, INSERT, UPDATE, DELETE, INDEX ON "+table)
	if store, err := session.Open(t.Context(), indexer); err != nil {
		t.Error(err)
	} else {
		store.Close()
	}

	for _, lacking := range []string{"INSERT", "UPDATE", "DELETE"} {
		rest := strings.Replace("SELECT, INSERT, UPDATE, DELETE", ", "+lacking, "", 1)
		_, err := session.Open(t.Context(), newMySQLAccount(t, server, rawURL, "", rest+" ON "+table))
		wantError(t, err, "p@ss", lacking+" command denied", "needs SELECT, INSERT, UPDATE and DELETE on the table `sessions`")
	}
	store := openStore(t, user)
	mustExec(t, db, "DROP TABLE sessions")
	_, err = store.Load(t.Context(), session.ID{})
	wantError(t, err, "p@ss", "the table `sessions` is not there any more", "session.MySQLSchema")
}

func mustParse(t *testing.T, rawURL string) *url.URL {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestMySQLTableShape(t *testing.T) { onMySQL(t, testMySQLTableShape) }

func testMySQLTableShape(t *testing.T, server *servertest.Server) {
	for _, test := range []struct {
		name   string
		change []string // after the usual creation
		texts  []string // of the error; none: no error
	}{
		{"as it should be", nil, nil},
		{"index missing", []string{"DROP INDEX expires ON t"}, nil},
		{"longer index", []string{"DROP INDEX expires ON t", "CREATE INDEX longer ON t (expires, version)"}, nil},
		{"one more index", []string{"CREATE INDEX more ON t (version)"}, nil},
		{"short data", []string{"ALTER TABLE t MODIFY data BLOB NOT NULL"},
			[]string{`lacks "data longblob not null"`, `has "data blob not null"`}},
		{"no data", []string{"ALTER TABLE t DROP data"}, []string{`lacks "data longblob not null" and has nothing`}},
		{"data as text", []string{"ALTER TABLE t MODIFY data LONGTEXT NOT NULL"}, []string{`"data longtext not null"`}},
		{"NULL allowed", []string{"ALTER TABLE t MODIFY data LONGBLOB NULL"}, []string{`has "data longblob"`}},
		{"short ID", []string{"ALTER TABLE t MODIFY id BINARY(16) NOT NULL"}, []string{`has "id binary(16) not null"`}},
		{"signed version", []string{"ALTER TABLE t MODIFY version BIGINT NOT NULL"},
			[]string{`lacks "version bigint unsigned not null"`, `has "version bigint not null"`}},
		{"one more column", []string{"ALTER TABLE t ADD more INT"}, []string{`lacks nothing and has "more int`}},
		{"no primary key", []string{"ALTER TABLE t DROP PRIMARY KEY"}, []string{`lacks "primary key (id)"`}},
		{"other primary key", []string{"ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, version)"},
			[]string{`has "primary key (id, version)"`}},
		{"unique index", []string{"CREATE UNIQUE INDEX one ON t (expires)"}, []string{`has "unique index (expires)"`}},
		{"engine", []string{"ALTER TABLE t ENGINE=MyISAM"}, []string{`lacks "engine innodb" and has "engine myisam"`}},
		{"view", []string{"RENAME TABLE t TO u", "CREATE VIEW t AS SELECT * FROM u"}, []string{`has "engine view"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, db := newMySQLDatabase(t, server)
			newMySQLStore(t, db, &session.MySQLOptions{Table: "t"}).Close()
			for _, statement := range test.change {
				mustExec(t, db, statement)
			}
			store, err := session.NewMySQLStore(t.Context(), db, &session.MySQLOptions{Table: "t"})
			if len(test.texts) > 0 {
				wantError(t, err, "", append(test.texts, "the table `t` is of another shape")...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantUsable(t, store)
			store.Close()
		})
	}
}

func TestMySQLNoCreate(t *testing.T) { onMySQL(t, testMySQLNoCreate) }

func testMySQLNoCreate(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	opts := &session.MySQLOptions{NoCreate: true}
	_, err := session.NewMySQLStore(t.Context(), db, opts)
	wantError(t, err, "", "the table `sessions` is not there")
	_, err = session.Open(t.Context(), rawURL+"?create=false")
	wantError(t, err, "", "the table `sessions` is not there")

	newMySQLStore(t, db, nil)
	wantUsable(t, newMySQLStore(t, db, opts))
	mustExec(t, db, "DROP INDEX expires ON sessions")
	_, err = session.NewMySQLStore(t.Context(), db, opts)
	wantError(t, err, "", `lacks "index (expires)"`)
}

func TestMySQLTableNames(t *testing.T) { onMySQL(t, testMySQLTableNames) }

func testMySQLTableNames(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	database := strings.TrimPrefix(mustParse(t, rawURL).Path, "/")
	for _, name := range badTableNames() {
		if _, err := session.NewMySQLStore(t.Context(), db, &session.MySQLOptions{Table: name}); err == nil {
			t.Errorf("the table name %q is accepted", name)
		}
		if schema, err := session.MySQLSchema(name); err == nil {
			t.Errorf("MySQLSchema(%q) = %s", name, schema)
		}
	}
	const odd = "odd-name.`1`"
	mustExec(t, db, "CREATE DATABASE `odd-name.``1```")
	t.Cleanup(func() { mustExec(t, openDB(t, server.URL, ""), "DROP DATABASE `odd-name.``1```") })
	store := openStore(t, withDatabase(t, server.URL, odd))
	wantUsable(t, store)
	elsewhere := openDB(t, server.URL, "")
	for _, name := range []string{database + ".first", database + ".select"} {
		wantUsable(t, newMySQLStore(t, elsewhere, &session.MySQLOptions{Table: name}))
	}
	for _, name := range []string{"Mixed_1", "_", "select", strings.Repeat("x", 50), database + ".qualified"} {
		store := newMySQLStore(t, db, &session.MySQLOptions{Table: name})
		wantUsable(t, store)
	}
	if n, err := newMySQLStore(t, db, &session.MySQLOptions{Table: "other"}).Count(t.Context(), -1, 0); n != 0 || err != nil {
		t.Errorf("a table of its own has %d records (%v), want none", n, err)
	}
}

func TestMySQLRefusesConnections(t *testing.T) { onMySQL(t, testMySQLRefusesConnections) }

func testMySQLRefusesConnections(t *testing.T, server *servertest.Server) {
	rawURL, _ := newMySQLDatabase(t, server)
	for params, text := range map[string]string{
		"?autocommit=0": "autocommit=0",
		"?collation_connection=latin1_swedish_ci": `character_set_connection is "latin1"`,
	} {
		_, err := session.NewMySQLStore(t.Context(), openDB(t, rawURL, params), nil)
		wantError(t, err, "", text)
	}
	db := openDB(t, rawURL, "")
	db.SetMaxOpenConns(1)
	mustExec(t, db, "CREATE DATABASE passing")
	mustExec(t, db, "USE passing")
	mustExec(t, db, "DROP DATABASE passing")
	_, err := session.NewMySQLStore(t.Context(), db, nil)
	wantError(t, err, "", "select a database")
	_, err = session.NewMySQLStore(t.Context(), nil, nil)
	wantError(t, err, "")
}

func TestMySQLErrorsHidePassword(t *testing.T) { onMySQL(t, testMySQLErrorsHidePassword) }

func testMySQLErrorsHidePassword(t *testing.T, server *servertest.Server) {
	const secret = "s3cret"
	address := server.Addrs[0]
	_, port, _ := strings.Cut(address, ":")
	for _, test := range []struct{ url, text string }{
		{"mysql://nobody:" + secret + "@" + address + "/test", "Access denied"},
		{"mysql://root@" + address + "/no_such_database?timeout=7s", "Unknown database"},
		{"mysql://root:" + secret + "@127.0.0.1:1/test", "cannot be reached (does it run, and are host and port right?): 127.0.0.1:1"},
		{"mysql://root:" + secret + "@" + address + "/test?pool_max_conns=0", "from 1 on"},
		{"mysql://root:" + secret + "@" + address + "/test?pool_max_conns=some", "pool_max_conns"},
		{"mysql://root:" + secret + "@" + address + "/test?tls=true", "TLS"},
		{"mysql://root:" + secret + "@" + address + "/test?tls=no_such_config", "no_such_config"},
		{"mysql://root:" + secret + "@" + address + "/test?parseTime=perhaps", "perhaps"},
		{"mysql://root:" + secret + "@" + address + "/test?strict=true", "strict"},
		{"mysql://root@" + address + "/test?no_such_variable=1", "no_such_variable"},
		{"mysql://root:" + secret + "@" + address + "/test?table=a%20b", `"a b"`},
		{"mysql://root:" + secret + "@" + address + "/test?create=perhaps", `true or false, not "perhaps"`},
		{"mysql://root:" + secret + "@" + address, "percent-encoded"},
		{"mysql:root:" + secret, "percent-encoded"},
		{"mysql://root:" + secret + "/" + port + "@" + address + "/test", "percent-encoded"},
		{"mysql://root:" + port + "/" + secret + "@" + address + "/test", "percent-encoded"},
		{"mysql://root:" + port + "#" + secret + "@" + address + "/test", "percent-encoded"},
		{"mysql://root:" + port + "?" + secret + "@" + address + "/test", "percent-encoded"},
		{"mysql://root:" + secret + "%zz@" + address + "/test", "percent-encoded"},
		{"mysql://root@" + address + "/test#" + secret, "percent-encoded"},
	} {
		_, err := session.Open(t.Context(), test.url)
		t.Log(err)
		wantError(t, err, secret, test.text)
	}
}

func TestMySQLURL(t *testing.T) {
	for rawURL, want := range map[string]string{
		"mysql:///db":                             "@tcp(127.0.0.1:3306)/db",
		"mysql://u@/db":                           "u@tcp(127.0.0.1:3306)/db",
		"mysql://u:p%40%3A%2F%3F%23%25@h/db":      "u:p@:/?#%@tcp(h:3306)/db",
		"mariadb://u:p@h:33/d%20b":                "u:p@tcp(h:33)/d b",
		"mysql://u:p@[::1]:33/db":                 "u:p@tcp([::1]:33)/db",
		"mysql://u:p@[::1]/db":                    "u:p@tcp([::1]:3306)/db",
		"mysql://u:pw/db":                         "u:pw@tcp(127.0.0.1:3306)/db",
		"mysql://u:1234/db":                       "u:1234@tcp(127.0.0.1:3306)/db",
		"mariadb://u:99999/db?loc=UTC":            "u:99999@tcp(127.0.0.1:3306)/db",
		"mysql://u:p%40%2F/db":                    "u:p@/@tcp(127.0.0.1:3306)/db",
		"mysql://u:/db":                           "u@tcp(127.0.0.1:3306)/db",
		"mysql://db.example.com:3306/db":          "db.example.com:3306@tcp(127.0.0.1:3306)/db",
		"mysql://@h:33/db":                        "@tcp(h:33)/db",
		"mysql://h/db":                            "@tcp(h:3306)/db",
		"mysql://localhost:33/db":                 "@tcp(localhost:33)/db",
		"mysql://127.0.0.1:33/db":                 "@tcp(127.0.0.1:33)/db",
		"mysql://[::1]:33/db":                     "@tcp([::1]:33)/db",
		"mysql://u:p@h/db?socket=/run/my%20.sock": "u:p@unix(/run/my .sock)/db",
	} {
		cfg, opts, conns, err := session.ParseMySQLURL(rawURL)
		if err != nil {
			t.Errorf("%s: %v", rawURL, err)
			continue
		}
		if conns != 8 {
			t.Errorf("%s: %d connections, want 8", rawURL, conns)
		}
		got := cfg.User
		if cfg.Passwd != "" {
			got += ":" + cfg.Passwd
		}
		got += "@" + cfg.Net + "(" + cfg.Addr + ")/" + cfg.DBName
		if got != want || opts.Table != "" {
			t.Errorf("%s is %s with table %q, want %s", rawURL, got, opts.Table, want)
		}
	}

	const parameters = "loc=Europe/Paris&table=a.b&tls=true&timeout=7s&pool_max_conns=30&sql_mode=%27ANSI%27"
	cfg, opts, conns, err := session.ParseMySQLURL("mysql://h/db?" + parameters)
	if err != nil {
		t.Fatal(err)
	}
	if opts.Table != "a.b" || conns != 30 || cfg.Loc.String() != "Europe/Paris" || cfg.TLS == nil || cfg.TLS.ServerName != "h" ||
		cfg.Timeout != 7*time.Second || cfg.Params["sql_mode"] != "'ANSI'" || len(cfg.Params) != 1 {
		t.Errorf("parameters are %+v, %+v", cfg, opts)
	}
	if cfg.ReadTimeout == 0 || cfg.WriteTimeout == 0 {
		t.Error("without a timeout for reading or writing")
	}
	for params, insecure := range map[string]bool{"tls=skip-verify": true, "tls=preferred": true} {
		cfg, _, _, err := session.ParseMySQLURL("mysql://h/db?" + params)
		if err != nil || cfg.TLS == nil || cfg.TLS.InsecureSkipVerify != insecure {
			t.Errorf("%s: %v, %+v", params, err, cfg.TLS)
		}
	}
}

// The short form of the URL, without a server, works with a password that is a number, too, and shows it in no error. The
// server is found by its socket here, since it does not have the port that is meant.
func TestMySQLShortURL(t *testing.T) { onMySQL(t, testMySQLShortURL) }

func testMySQLShortURL(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	var directory, socket, database string
	if err := db.QueryRowContext(t.Context(), "SELECT @@datadir, @@socket, DATABASE()").Scan(&directory, &socket, &database); err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	if err := os.Symlink(filepath.Join(directory, socket), filepath.Join(short, "s")); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(short, "s")
	for i, password := range []string{"1234", "65536", "pw", "p%40ss"} {
		user := fmt.Sprintf("short%d%x", i, time.Now().UnixNano())
		plain, _ := url.PathUnescape(password)
		mustExec(t, db, "CREATE USER '"+user+"'@'localhost' IDENTIFIED BY '"+plain+"'")
		mustExec(t, db, "GRANT ALL ON `"+database+"`.* TO '"+user+"'@'localhost'")
		parameters := "/" + database + "?socket=" + url.QueryEscape(socket)
		wantUsable(t, openStore(t, "mysql://"+user+":"+password+parameters))
		_, err := session.Open(t.Context(), "mysql://"+user+":9"+password+parameters)
		wantError(t, err, plain, "Access denied", `no "@"`)
	}
}

// A row that no store has written reads as absent, with an error that says so.
func TestMySQLDamagedRow(t *testing.T) { onMySQL(t, testMySQLDamagedRow) }

func testMySQLDamagedRow(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	schema, err := session.MySQLSchema("")
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, strings.Replace(schema, "CHECK (version > 0)", "CHECK (version >= 0)", 1))
	store := newMySQLStore(t, db, nil)
	id := storetest.RandomID()
	mustExec(t, db, "INSERT INTO sessions VALUES (?, 0, 9223372036854775807, 'secret')", id[:])
	_, err = store.Load(t.Context(), id)
	wantError(t, err, "secret", "damaged", id.String())
	if !errors.Is(err, session.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	if err := store.Touch(t.Context(), id, session.Record{}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Touch: %v, want ErrNotFound", err)
	}
	if err := store.Save(t.Context(), id, session.Record{}); !errors.Is(err, session.ErrConflict) {
		t.Errorf("Save: %v, want ErrConflict", err)
	}
	for entry, err := range store.List(t.Context()) {
		t.Errorf("List has %v, %v", entry, err)
	}
}

func TestMySQLTooLarge(t *testing.T) { onMySQL(t, testMySQLTooLarge) }

func testMySQLTooLarge(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	var packet int
	if err := db.QueryRowContext(t.Context(), "SELECT @@max_allowed_packet").Scan(&packet); err != nil {
		t.Fatal(err)
	}
	if packet > 32<<20 {
		t.Skipf("max_allowed_packet is %d", packet)
	}
	store := newMySQLStore(t, db, nil)
	id := storetest.RandomID()
	for _, test := range []struct {
		size int
		want error
	}{
		{packet - 512, nil},
		{packet - 511, session.ErrTooLarge},
		{packet + 1, session.ErrTooLarge},
		{3 * packet, session.ErrTooLarge},
	} {
		err := store.Save(t.Context(), id, session.Record{Data: make([]byte, test.size)})
		if !errors.Is(err, test.want) {
			t.Errorf("%d bytes: error %v, want %v", test.size, err, test.want)
		}
	}
	rec, err := store.Load(t.Context(), id)
	if err != nil || len(rec.Data) != packet-512 {
		t.Errorf("Load: %d bytes, %v", len(rec.Data), err)
	}
}

// DeleteExpired finds what has expired by the index, and what it removes by the primary key.
func TestMySQLSweepUsesIndex(t *testing.T) { onMySQL(t, testMySQLSweepUsesIndex) }

func testMySQLSweepUsesIndex(t *testing.T, server *servertest.Server) {
	rawURL, _ := newMySQLDatabase(t, server)
	db := openDB(t, rawURL, "")
	db.SetMaxOpenConns(1) // the counters below are a connection's own
	store := newMySQLStore(t, db, nil)
	storetest.Fill(t, store, 300, time.Now().Add(time.Hour))
	storetest.Fill(t, store, 50, time.Time{})
	storetest.Fill(t, store, 250, time.Now().Add(-time.Hour))
	for _, want := range []int{100, 100, 50, 0} {
		mustExec(t, db, "FLUSH STATUS")
		n, err := store.DeleteExpired(t.Context(), 100)
		read, scanned := handlerReads(t, db)
		if n != want || err != nil {
			t.Errorf("removed %d (%v), want %d", n, err, want)
		}
		if scanned > 0 || read > 2*want+10 { // each row is found twice
			t.Errorf("%d rows read, %d of them in a scan, to remove %d", read, scanned, want)
		}
	}
	if n, err := store.DeleteExpired(t.Context(), 0); n != 0 || err != nil {
		t.Errorf("with the limit 0: %d, %v", n, err)
	}
	if n, err := store.Count(t.Context(), -1, 0); n != 350 || err != nil {
		t.Errorf("%d records are left (%v), want 350", n, err)
	}
}

// handlerReads returns how many rows, or entries of an index, the connection has read since FLUSH STATUS, and
// how many of them in a scan of a whole table.
func handlerReads(t *testing.T, db *sql.DB) (read, scanned int) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SHOW SESSION STATUS LIKE 'Handler_read%'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int
		if err := rows.Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		read += n
		if name == "Handler_read_rnd_next" {
			scanned = n
		}
	}
	return read, scanned
}

// Locks on all live records do not hold DeleteExpired up: it wants none, and so holds nobody up who saves one.
// That is so even where nearly all records have expired, so that a scan of the table would be faster.
func TestMySQLSweepLocksNothingLive(t *testing.T) { onMySQL(t, testMySQLSweepLocksNothingLive) }

func testMySQLSweepLocksNothingLive(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	store := newMySQLStore(t, db, nil)
	live := storetest.Fill(t, store, 20, time.Now().Add(time.Hour))
	storetest.Fill(t, store, 300, time.Now().Add(-time.Hour))
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for _, id := range live {
		_, err := tx.ExecContext(t.Context(), "UPDATE sessions SET expires = expires + 1 WHERE id = ?", id[:])
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, want := range []int{100, 100, 100, 0} {
		if n, err := store.DeleteExpired(ctx, 100); n != want || err != nil {
			t.Fatalf("removed %d (%v), want %d", n, err, want)
		}
	}
}

// A sweep that the server rolls back to break a deadlock is done again.
func TestMySQLDeadlock(t *testing.T) { onMySQL(t, testMySQLDeadlock) }

func testMySQLDeadlock(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	store := newMySQLStore(t, db, nil)
	first, last := session.ID{0}, session.ID{255}
	for _, id := range []session.ID{first, last} {
		if err := store.Save(t.Context(), id, session.Record{Expires: time.Now().Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	heavy := storetest.Fill(t, store, 100, time.Time{})

	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := tx.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range heavy { // the server ends the transaction that has changed less
		exec("UPDATE sessions SET version = 2 WHERE id = ?", id[:])
	}
	exec("SELECT 1 FROM sessions WHERE id = ? FOR UPDATE", last[:])
	swept := make(chan string)
	go func() {
		n, err := store.DeleteExpired(t.Context(), 10)
		swept <- fmt.Sprint(n, err)
	}()
	for waiting := 0; waiting == 0; { // until the sweep, which has the first row, waits for the last
		var name string
		const query = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
		if err := db.QueryRowContext(t.Context(), query).Scan(&name, &waiting); err != nil {
			t.Fatal(err)
		}
	}
	exec("DELETE FROM sessions WHERE id = ?", first[:]) // which closes the circle
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := <-swept; got != "1 <nil>" {
		t.Errorf("DeleteExpired: %s, want 1 <nil>", got)
	}
}

func TestMySQLSweepersAtOnce(t *testing.T) { onMySQL(t, testMySQLSweepersAtOnce) }

func testMySQLSweepersAtOnce(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	db.SetMaxIdleConns(4)
	store := newMySQLStore(t, db, nil)
	storetest.SweepersAgree(t, 50, store, store, newMySQLStore(t, db, nil), newMySQLStore(t, db, nil))
}

func TestMySQLListInPages(t *testing.T) { onMySQL(t, testMySQLListInPages) }

func testMySQLListInPages(t *testing.T, server *servertest.Server) {
	_, db := newMySQLDatabase(t, server)
	db.SetMaxOpenConns(1)
	storetest.Pages(t, newMySQLStore(t, db, nil), 2*256-2) // with the first and the last ID two full pages
}

// A store closes what Open made, and leaves the application's connections alone.
func TestMySQLClose(t *testing.T) { onMySQL(t, testMySQLClose) }

func testMySQLClose(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	store := newMySQLStore(t, db, nil)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := db.PingContext(t.Context()); err != nil {
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
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for others := 1; others > 0; { // the server needs a moment to notice
		const query = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
		if err := db.QueryRowContext(ctx, query).Scan(&others); err != nil {
			t.Fatalf("connections are left open: %v", err)
		}
	}
}

// Prepared statements end with the server; a store outlives it.
func TestMySQLServerRestarts(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.KindMySQL, servertest.KindMariaDB} {
		t.Run(string(kind), func(t *testing.T) {
			server := servertest.Start(t, kind)
			store := openStore(t, server.URL)
			wantOutlives(t, server, store)
		})
	}
}

// An error that package sql passes on from a connection that it began to make for somebody else, before the server
// was there, fails nobody.
func TestMySQLOthersConnection(t *testing.T) {
	rawURL, _ := newMySQLDatabase(t, servertest.MariaDB(t))
	cfg := mysqlConfig(t, rawURL)
	var fails atomic.Bool
	dialing, refused := make(chan struct{}), make(chan struct{})
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if fails.Swap(false) {
			dialing <- struct{}{}
			<-refused
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	connector, err := session.NewMySQLConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	store := newMySQLStore(t, db, nil)
	load := func(ctx context.Context) <-chan error {
		done, before := make(chan error, 1), db.Stats().WaitCount
		go func() {
			_, err := store.Load(ctx, session.ID{})
			done <- err
		}()
		for db.Stats().WaitCount == before {
			runtime.Gosched()
		}
		return done
	}

	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, cancel := context.WithCancel(t.Context())
	firstDone := load(first)
	fails.Store(true)
	conn.Raw(func(any) error { return driver.ErrBadConn }) // ends it, so that another is made for who waits
	<-dialing
	cancel()
	if err := <-firstDone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first Load: %v, want context.Canceled", err)
	}
	secondDone := load(t.Context())
	close(refused)
	if err := <-secondDone; !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the second Load: %v, want ErrNotFound", err)
	}
}

// Callers that wait for one of few connections get those that others give back. These may have become out of date on the way,
// several in a row.
func TestMySQLConnectionsRenewed(t *testing.T) { onMySQL(t, testMySQLConnectionsRenewed) }

func testMySQLConnectionsRenewed(t *testing.T, server *servertest.Server) {
	rawURL, _ := newMySQLDatabase(t, server)
	cfg := mysqlConfig(t, rawURL)
	connector, err := session.NewAgingConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(2)
	store := newMySQLStore(t, db, nil)
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for range 40 {
				if _, err := store.Load(t.Context(), storetest.RandomID()); !errors.Is(err, session.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
}

// A call is made again where the server ends its connection, and on another connection where this one takes no writes.
func TestMySQLConnectionsLeft(t *testing.T) { onMySQL(t, testMySQLConnectionsLeft) }

func testMySQLConnectionsLeft(t *testing.T, server *servertest.Server) {
	rawURL, db := newMySQLDatabase(t, server)
	store := openStore(t, rawURL)
	for _, c := range []struct {
		refused string // which insertions
		codes   []int
	}{
		{"@once IS NULL", []int{1053, 1927, 4031}}, // whoever ends the connection says one of these before
		{"CONNECTION_ID() <= %d", []int{1036, 1047, 1290, 1792, 1836, 1874}},
	} {
		for _, code := range c.codes {
			storetest.Fill(t, store, 1, time.Time{})
			var newest int
			if err := db.QueryRowContext(t.Context(), "SELECT MAX(id) FROM information_schema.processlist").Scan(&newest); err != nil {
				t.Fatal(err)
			}
			refused := strings.Replace(c.refused, "%d", strconv.Itoa(newest), 1)
			mustExec(t, db, fmt.Sprintf("CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW BEGIN "+
				"IF %s THEN SET @once = 1; SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = %d; END IF; SET @once = NULL; END", refused, code))
			if err := store.Save(t.Context(), storetest.RandomID(), session.Record{Data: []byte("data")}); err != nil {
				t.Errorf("error %d: %v", code, err)
			}
			mustExec(t, db, "DROP TRIGGER refuse")
		}
	}
}

// A server that accepts connections and then says nothing keeps nobody waiting beyond the timeout for connecting.
func TestMySQLSilentHandshake(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	rawURL := "mysql://root@" + listener.Addr().String() + "/test?timeout=100ms&readTimeout=24h"
	cfg := mysqlConfig(t, rawURL)
	connector, err := session.NewMySQLConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = connector.Connect(t.Context())
	if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "dial" || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Connect: %v, want that the dial took too long", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = connector.Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect: %v, want context.Canceled", err)
	}
}
