package bench

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"example.com/session"
	"github.com/alexedwards/scs/sqlite3store"
	_ "github.com/mattn/go-sqlite3"
)

// sqliteBackend waits for the disk at each write, as does everybody there: each has a file of its own, with the same settings.
func sqliteBackend(tb testing.TB) backend {
	dir := tb.TempDir()
	open := func(name string) *sql.DB {
		timeout := "5000"
		if name != "bare.db" && name != "scs.db" { // ours waits by itself
			timeout = "0"
		}
		db := must(sql.Open("sqlite3", "file:"+filepath.Join(dir, name)+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout="+timeout))
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		tb.Cleanup(func() { check(db.Close()) })
		// The log is as long as it becomes: while it grows, a write takes twice as long, and whoever is first would pay for that.
		must(db.Exec("CREATE TABLE long (data BLOB); INSERT INTO long VALUES (zeroblob(8 << 20)); DROP TABLE long; PRAGMA wal_checkpoint"))
		return db
	}
	bareDB, scsDB := open("bare.db"), open("scs.db")
	must(bareDB.Exec("CREATE TABLE bare (id TEXT PRIMARY KEY, data BLOB NOT NULL)"))
	// As the README of scs asks for.
	must(scsDB.Exec("CREATE TABLE sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL);" +
		"CREATE INDEX sessions_expiry_idx ON sessions (expiry)"))
	store := func(db *sql.DB) *session.SQLiteStore {
		store := must(session.NewSQLiteStore(context.Background(), db, nil))
		tb.Cleanup(func() { check(store.Close()) })
		return store
	}
	version := ""
	check(bareDB.QueryRow("SELECT 'SQLite ' || sqlite_version()").Scan(&version))
	return backend{
		name: "sqlite", server: version, disk: true,
		libraries: []library{
			ours(store(open("ours.db"))), bare(newSQLiteClient(bareDB)), newSCS(sqlite3store.NewWithCleanupInterval(scsDB, 0)),
		},
		sweeps: 2,
		crowd: func(tb testing.TB, name string, n, expired int) session.Store {
			db := open(name + ".db")
			crowd := store(db)
			must(db.Exec("WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < ?1) INSERT INTO sessions "+
				"SELECT randomblob(32), 1, iif(n <= ?2, ?3, ?4), ?5 FROM seq ORDER BY 1",
				n, expired, crowdExpiry(true).UnixMilli(), crowdExpiry(false).UnixMilli(), sampleData()))
			return crowd
		},
	}
}

type sqliteClient struct{ load, insert, update *sql.Stmt }

func newSQLiteClient(db *sql.DB) sqliteClient {
	return sqliteClient{
		load:   must(db.Prepare("SELECT data FROM bare WHERE id = ?")),
		insert: must(db.Prepare("INSERT INTO bare (id, data) VALUES (?, ?)")),
		update: must(db.Prepare("UPDATE bare SET data = ? WHERE id = ?")),
	}
}

func (c sqliteClient) get(ctx context.Context, key string) (data []byte, err error) {
	err = c.load.QueryRowContext(ctx, key).Scan(&data)
	return data, err
}

func (c sqliteClient) add(ctx context.Context, key string, data []byte) error {
	_, err := c.insert.ExecContext(ctx, key, data)
	return err
}

func (c sqliteClient) replace(ctx context.Context, key string, data []byte) error {
	_, err := c.update.ExecContext(ctx, data, key)
	return err
}
