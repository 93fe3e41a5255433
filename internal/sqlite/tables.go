package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/storetest"
)

// wantError checks that err says all of the texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, text := range append(texts, "session: sqlite: ") {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// wantUsable checks that a store works.
func wantUsable(t *testing.T, store session.Store) {
	t.Helper()
	id := storetest.Fill(t, store, 1, time.Time{})[0]
	if rec, err := store.Load(t.Context(), id); err != nil || string(rec.Data) != "data" || rec.Version != 1 {
		t.Errorf("Load: %+v, %v", rec, err)
	}
}

// Stores with different tables do not see each other. A table that is complete is taken as it is.
func testTables(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	one, other := newStore(t, db, nil), newStore(t, db, &session.SQLiteOptions{Table: "Other_2"})
	id := storetest.Fill(t, one, 1, time.Time{})[0]
	if _, err := other.Load(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("in the other table: %v", err)
	}
	again := newStore(t, db, &session.SQLiteOptions{Table: "sessions", NoCreate: true})
	if _, err := again.Load(t.Context(), id); err != nil {
		t.Error(err)
	}
	for name, statements := range map[string]string{
		"WITHOUT ROWID": "CREATE TABLE x (id BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, expires INTEGER NOT NULL, data BLOB NOT NULL) " +
			"WITHOUT ROWID; CREATE INDEX x_e ON x (expires)",
		"STRICT, and more indexes": "CREATE TABLE x (data BLOB NOT NULL, ID blob NOT NULL, version INTEGER NOT NULL, expires INTEGER NOT NULL, " +
			"PRIMARY KEY (id)) STRICT, WITHOUT ROWID; CREATE INDEX x_e ON x (expires, version); CREATE INDEX x_v ON x (version)",
		"no index yet": "CREATE TABLE x (id BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, expires INTEGER NOT NULL, data BLOB NOT NULL);" +
			"CREATE INDEX x_e ON x (expires) WHERE version > 1",
	} {
		t.Run(name, func(t *testing.T) {
			db := d.open(t, newPath(t), fast...)
			if _, err := db.Exec(statements); err != nil {
				t.Fatal(err)
			}
			wantUsable(t, newStore(t, db, &session.SQLiteOptions{Table: "x"}))
			newStore(t, db, &session.SQLiteOptions{Table: "x", NoCreate: true})
		})
	}
}

// A table of another shape is refused, and not changed.
func testOtherShapes(t *testing.T, d Driver) {
	const whole = "CREATE TABLE sessions (id BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, expires INTEGER NOT NULL, data BLOB NOT NULL)"
	for what, statement := range map[string]string{
		"of scs":          "CREATE TABLE sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL)",
		"a type":          strings.Replace(whole, "expires INTEGER", "expires TIMESTAMP", 1),
		"NULL":            strings.Replace(whole, "data BLOB NOT NULL", "data BLOB", 1),
		"no key":          strings.Replace(whole, " PRIMARY KEY", "", 1),
		"another key":     strings.Replace(strings.Replace(whole, " PRIMARY KEY", "", 1), ")", ", PRIMARY KEY (id, version))", 1),
		"one column more": strings.Replace(whole, ")", ", note TEXT)", 1),
		"a unique index":  whole + "; CREATE UNIQUE INDEX u ON sessions (expires)",
		"a view":          "CREATE VIEW sessions AS SELECT x'00' AS id, 1 AS version, 2 AS expires, x'' AS data",
	} {
		t.Run(what, func(t *testing.T) {
			db := d.open(t, newPath(t), fast...)
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
			_, err := session.NewSQLiteStore(t.Context(), db, nil)
			wantError(t, err, `the table "sessions" is of another shape`)
		})
	}
}

// Where nothing is to be created, the error says what would do so, and that does.
func testNoCreate(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	opts := &session.SQLiteOptions{Table: "mine", NoCreate: true}
	_, err := session.NewSQLiteStore(t.Context(), db, opts)
	wantError(t, err, `"mine"`, "session.SQLiteSchema")
	schema, err := session.SQLiteSchema("mine")
	if err != nil {
		t.Fatal(err)
	}
	table, index, _ := strings.Cut(schema, ";")
	if _, err := db.Exec(table); err != nil {
		t.Fatal(err)
	}
	_, err = session.NewSQLiteStore(t.Context(), db, opts)
	wantError(t, err, `lacks "index (expires)"`, "session.SQLiteSchema")
	if _, err := db.Exec(index); err != nil {
		t.Fatal(err)
	}
	wantUsable(t, newStore(t, db, opts))
	for range 2 { // it does nothing to what is there
		if _, err := db.Exec(schema); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever drops the table under a store is told what makes it.
func testTableDropped(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	store := newStore(t, db, nil)
	id := storetest.Fill(t, store, 1, time.Time{})[0]
	if _, err := db.Exec("DROP TABLE sessions"); err != nil {
		t.Fatal(err)
	}
	_, loadErr := store.Load(t.Context(), id)
	for _, err := range []error{loadErr, store.Save(t.Context(), id, session.Record{}), store.Delete(t.Context(), id)} {
		wantError(t, err, "not there any more", "session.SQLiteSchema")
	}
	newStore(t, db, nil)
	wantUsable(t, store)
}

// Eight that open a new file at once all get a store.
func testOpenAtOnce(t *testing.T, d Driver) {
	path := newPath(t)
	var all sync.WaitGroup
	for range 8 {
		db := d.open(t, path, "busy_timeout=0", "synchronous=NORMAL") // the mode is set by one of them
		all.Go(func() {
			store, err := session.NewSQLiteStore(t.Context(), db, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer store.Close()
			id := storetest.RandomID()
			if err := store.Save(t.Context(), id, session.Record{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A database that could not keep a session is refused, with advice.
func testRefused(t *testing.T, d Driver) {
	for _, test := range []struct {
		path     string
		settings []string
		says     string
	}{
		{":memory:", nil, "NewMemoryStore"},
		{"shared", []string{"?mode=memory", "?cache=shared"}, "NewMemoryStore"},
		{"", nil, "NewMemoryStore"},
		{newPath(t), []string{"journal_mode=OFF"}, "journal_mode=off"},
		{newPath(t), []string{"journal_mode=MEMORY"}, "journal_mode=memory"},
	} {
		db := d.open(t, test.path, test.settings...)
		_, err := session.NewSQLiteStore(t.Context(), db, nil)
		wantError(t, err, test.says)
	}
	db := d.open(t, newPath(t), fast...)
	for _, name := range []string{"a b", "main.sessions", `a"b`, "1a", strings.Repeat("x", 51), "sqlite_sessions"} {
		_, err := session.NewSQLiteStore(t.Context(), db, &session.SQLiteOptions{Table: name})
		wantError(t, err)
	}
}

// A database that cannot be written can be read, and writers are told what to do.
func testReadOnly(t *testing.T, d Driver) {
	path := newPath(t)
	db := d.open(t, path, fast...)
	id := storetest.Fill(t, newStore(t, db, nil), 1, time.Time{})[0]
	for _, setting := range []string{"?mode=ro", "query_only=1"} {
		db := d.open(t, path, "busy_timeout=0", setting)
		store := newStore(t, db, &session.SQLiteOptions{NoCreate: true})
		rec, err := store.Load(t.Context(), id)
		if err != nil {
			t.Errorf("%s: %v", setting, err)
		}
		if n, err := session.CountRecords(t.Context(), store); n != 1 || err != nil {
			t.Errorf("%s: CountRecords: %d, %v", setting, n, err)
		}
		_, sweepErr := store.DeleteExpired(t.Context(), 1)
		for _, err := range []error{store.Save(t.Context(), id, rec), store.Save(t.Context(), storetest.RandomID(), session.Record{}),
			store.Touch(t.Context(), id, rec), store.Delete(t.Context(), id), sweepErr} {
			wantError(t, err, "write to the file", "mode=ro", "query_only")
		}
		_, err = session.NewSQLiteStore(t.Context(), db, &session.SQLiteOptions{Table: "another"})
		wantError(t, err, "create the table", "write to the file")
	}
}

// The error for a file that is no database, or cannot be opened, says what to do.
func testNoDatabase(t *testing.T, d Driver) {
	path := newPath(t)
	if err := os.WriteFile(path, []byte(strings.Repeat("text, or what is encrypted. ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, says string }{
		{path, "encrypted"}, {filepath.Dir(path), "cannot be opened"}, {filepath.Join(path+".d", "sessions.db"), "directory"},
	} {
		db := d.open(t, test.path, "busy_timeout=0")
		_, err := session.NewSQLiteStore(t.Context(), db, nil)
		wantError(t, err, test.says)
	}
}

// While somebody else keeps the file locked, a call waits until its context ends, whatever the connection's busy_timeout.
func testLocked(t *testing.T, d Driver) {
	for _, settings := range [][]string{
		fast,
		{"busy_timeout=3600000", "journal_mode=WAL"},
		{"busy_timeout=3600000", "journal_mode=DELETE"},
		{"busy_timeout=0", "journal_mode=DELETE"},
	} {
		t.Run(strings.Join(settings, " "), func(t *testing.T) {
			path := newPath(t)
			store := newStore(t, d.open(t, path, settings...), nil)
			id := storetest.Fill(t, store, 1, time.Time{})[0]
			unlock := d.lock(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, sweepErr := store.DeleteExpired(ctx, 1)
			for _, err := range []error{store.Save(ctx, id, session.Record{Version: 1}), store.Delete(ctx, id),
				store.Touch(ctx, id, session.Record{Version: 1}), sweepErr} {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, want that the deadline is exceeded", err)
				}
			}
			if slices.Contains(settings, "journal_mode=WAL") {
				if _, err := store.Load(t.Context(), id); err != nil {
					t.Errorf("Load: %v", err)
				}
			} else if _, err := store.Load(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Load: %v, want that the deadline is exceeded", err)
			}
			unlock()
			if rec, err := store.Load(t.Context(), id); err != nil || rec.Version > 2 {
				t.Errorf("Load: %+v, %v", rec, err)
			}
			wantUsable(t, store)
		})
	}
}

// lock keeps the file locked, by a connection of its own, until unlock is called.
func (d Driver) lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	conn, err := d.open(t, path, "busy_timeout=0").Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.ExecContext(context.Background(), statement); err != nil {
			t.Error(err)
		}
	}
	exec("BEGIN EXCLUSIVE")
	unlock = sync.OnceFunc(func() { exec("ROLLBACK"); conn.Close() })
	t.Cleanup(unlock)
	return unlock
}

// Without a deadline, a call gives up after a while, and says who may be in the way.
func testLockedForLong(t *testing.T, d Driver) {
	path := newPath(t)
	newStore(t, d.open(t, path, fast...), nil)
	d.lock(t, path)
	synctest.Test(t, func(t *testing.T) {
		db, err := d.Open(path, "busy_timeout=0")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		store, err := session.NewSQLiteStore(context.Background(), db, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		began := time.Now()
		err = store.Save(context.Background(), storetest.RandomID(), session.Record{})
		wantError(t, err, "save", "does a transaction stay open?")
		if waited := time.Since(began); waited < 5*time.Second || waited > 6*time.Second {
			t.Errorf("it has waited for %v", waited)
		}
	})
}

// A waiting call goes on when the lock is gone.
func testUnlocked(t *testing.T, d Driver) {
	for _, timeout := range []string{"0", "60000"} {
		path := newPath(t)
		db := d.open(t, path, "busy_timeout="+timeout, "journal_mode=WAL", "synchronous=NORMAL")
		store := newStore(t, db, nil)
		unlock := d.lock(t, path)
		var waiting sync.WaitGroup
		for range 8 {
			waiting.Go(func() {
				if err := store.Save(t.Context(), storetest.RandomID(), session.Record{}); err != nil {
					t.Error(err)
				}
			})
		}
		for db.Stats().InUse == 0 { // until one of them has met the lock, or is about to
		}
		unlock()
		waiting.Wait()
		if n, err := session.CountRecords(t.Context(), store); n != 8 || err != nil {
			t.Errorf("CountRecords: %d, %v", n, err)
		}
	}
}

// The application's own work on the file keeps calls waiting, and nothing else.
func testVacuum(t *testing.T, d Driver) {
	path := newPath(t)
	store := newStore(t, d.open(t, path, fast...), nil)
	other := d.open(t, path, "busy_timeout=60000")
	ids := storetest.Fill(t, store, 50, time.Time{})
	stop := make(chan bool)
	var working sync.WaitGroup
	working.Go(func() {
		for n := uint64(1); ; n++ {
			for _, id := range ids {
				if err := store.Save(t.Context(), id, session.Record{Version: n, Data: make([]byte, 1000)}); err != nil {
					t.Error(err)
					return
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 10 {
		for _, statement := range []string{"VACUUM", "ANALYZE", "REINDEX", "PRAGMA wal_checkpoint(TRUNCATE)", "CREATE TABLE t (a)", "DROP TABLE t"} {
			if _, err := other.ExecContext(t.Context(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
	}
	close(stop)
	working.Wait()
}

// Close leaves the application's connections alone.
func testClose(t *testing.T, d Driver) {
	db := d.open(t, newPath(t), fast...)
	store := newStore(t, db, nil)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("the application's pool is closed: %v", err)
	}
	if _, err := store.Load(t.Context(), storetest.RandomID()); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load after Close: %v", err)
	}
}
