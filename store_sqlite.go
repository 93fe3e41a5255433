package session

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"
)

// A SQLiteStore keeps records in a table of an SQLite database (3.35 or later), a file that any number of processes on one
// machine share. It implements Toucher, Sweeper, Lister, Counter and StoreCloser, and is safe for concurrent use.
//
// The application brings the driver: modernc.org/sqlite, github.com/mattn/go-sqlite3 and github.com/ncruces/go-sqlite3
// are tested. In one process, only one driver may have a file open: the locks of two do not see each other.
//
// Every operation but DeleteExpired is one statement, which commits by itself: no transaction is begun, so that _txlock and the
// like make no difference. SQLite has one writer at a time. Within a store, writers queue up. Where another process or
// another part of the program keeps the database locked (SQLITE_BUSY, SQLITE_LOCKED), a call waits until its context ends,
// whatever busy_timeout is; without a deadline, for 5 seconds or that timeout.
//
// In the journal mode WAL, readers and writers do not wait for each other, and a save waits for the disk once. The mode is kept in
// the file: PRAGMA journal_mode=WAL, once, is enough. The modes DELETE, TRUNCATE and PERSIST do as well, at several times
// the cost. OFF and MEMORY are refused: with those, a process that is killed can leave a file that is of no use.
//
// A call that has returned outlives the end of the process, however it ends. It outlives a loss of power as well in WAL with
// synchronous=FULL, which is SQLite's default, and in the other modes with EXTRA. With less, a loss of power can bring back
// sessions as they were some moments before, and with OFF it can damage the file.
//
// On a full disk nothing is added, and sessions can end: 4 MiB are kept in reserve for that, in a file beside the database whose
// name ends in "-spare". It is made by the first session that begins. It can be used up by what the application itself
// writes to the database, and by what others take of the disk in the moment when a session ends.
//
// With cache=shared, all connections of a process read what the first of them began to read, and may miss what another process
// saved since: use it where one process has the file, or not at all.
//
// On a machine's own disks only: SQLite's locks do not work in most network file systems, and WAL in none.
//
// The table has the columns of [SQLiteSchema] and no others: id, the 32 bytes of the ID; version; expires, in
// milliseconds since 1970 (9223372036854775807 for never); data. A row with a version that is no positive integer reads as
// absent. More indexes and STRICT make no difference; WITHOUT ROWID makes writes slower in a large table, since the records of
// today's sessions then lie anywhere in it. VACUUM and backups are the application's, and keep calls waiting while they hold the
// database. A reader that stays in one transaction for long keeps the WAL from being used again, so that it grows; no call of the
// store does that.
type SQLiteStore struct {
	db      *sql.DB
	calls   sqlCaller
	table   string
	blocks  bool          // SQLite waits for locks by itself, and heeds no context meanwhile
	writing chan struct{} // full while a call changes something
	spare   string        // the file that keeps room in reserve

	load, insert, update, touch *sql.Stmt

	shrink, remove, sweep, page, count string
}

// SQLiteOptions are the options of NewSQLiteStore. The zero value, and nil, mean the defaults.
type SQLiteOptions struct {
	// Table is the table's name, in the database main. Empty means "sessions". A name is an ASCII letter or underscore and up
	// to 49 more letters, digits and underscores. Stores with different tables can share a file.
	Table string
	// NoCreate makes a missing table or index an error. False means that they are created. A table that is
	// there and complete is never altered.
	NoCreate bool
}

// NewSQLiteStore returns a store that uses db, which is of any driver for SQLite and stays the caller's to close. It
// creates what is missing of the table. A table of another shape is an error. So is a database without a file: in
// ":memory:", each connection has a database of its own, and NewMemoryStore does what is wanted. ctx bounds the call
// only.
//
// The store prepares four statements and keeps them; Close frees them. Set db's SetMaxIdleConns to SetMaxOpenConns, a few
// for each processor: else db opens and closes files all the time. All connections have to be of the same settings, as those of a
// data source name are. With a busy_timeout, which some drivers set, each call takes a goroutine more, to return when its context
// ends; the store needs none. A database of which nothing can be written, a read-only copy say, can be read.
//
// A handler that keeps a transaction open, or the only connection of db, while its session is saved waits for itself, until
// Options.StoreTimeout: give sessions a db of their own, and a file of their own where the application writes a lot.
func NewSQLiteStore(ctx context.Context, db *sql.DB, opts *SQLiteOptions) (*SQLiteStore, error) {
	if opts == nil {
		opts = &SQLiteOptions{}
	}
	if db == nil {
		return nil, errors.New("session: sqlite: NewSQLiteStore needs a *sql.DB")
	}
	table, err := sqliteTable(opts.Table)
	if err != nil {
		return nil, err
	}
	s := &SQLiteStore{db: db, table: `"` + table + `"`, writing: make(chan struct{}, 1)}
	s.calls = sqlCaller{server: "sqlite", table: s.table, schema: "session.SQLiteSchema", fault: sqliteFault, advice: sqliteAdvice}
	if err := s.checkDatabase(ctx); err != nil {
		return nil, err
	}
	if err := s.definition(table).ensure(ctx, opts.NoCreate); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// SQLiteSchema returns the statements that create the table of a SQLiteStore and its index, for a database that the
// application sets up itself. table is as in SQLiteOptions. The statements do nothing to what is there.
func SQLiteSchema(table string) (string, error) {
	name, err := sqliteTable(table)
	if err != nil {
		return "", err
	}
	return `CREATE TABLE IF NOT EXISTS "` + name + `" (
	id BLOB NOT NULL PRIMARY KEY,
	version INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	data BLOB NOT NULL
);
` + sqliteIndex(name), nil
}

func sqliteIndex(table string) string {
	return `CREATE INDEX IF NOT EXISTS "` + table + `_expires" ON "` + table + `" (expires)`
}

// sqliteTable returns the name of the table. Databases are attached to single connections, so that there is none to name.
func sqliteTable(name string) (string, error) {
	schema, table, err := splitTable("sqlite", name)
	if err == nil && schema != "" {
		err = fmt.Errorf("session: sqlite: the table is in the database main, and its name has no dot; it cannot be %q", name)
	}
	return table, err
}

// checkDatabase refuses a database with which the store could not keep its word.
func (s *SQLiteStore) checkDatabase(ctx context.Context) error {
	type settings struct {
		version, file, journal string
		timeout                int
	}
	found, err := sqliteCall(ctx, s, false, func() (found settings, err error) {
		err = s.db.QueryRowContext(ctx, `SELECT sqlite_version(),
			(SELECT coalesce(max(file), '') FROM pragma_database_list WHERE name = 'main'),
			(SELECT journal_mode FROM pragma_journal_mode), (SELECT timeout FROM pragma_busy_timeout)`,
		).Scan(&found.version, &found.file, &found.journal, &found.timeout)
		return found, err
	})
	var major, minor int
	fmt.Sscanf(found.version, "%d.%d", &major, &minor)
	switch {
	case err != nil:
		return s.calls.error(ctx, "open", err)
	case major < 3 || major == 3 && minor < 35:
		return fmt.Errorf("session: sqlite: this is SQLite %q, and has to be 3.35 or later", found.version)
	case found.file == "":
		return errors.New("session: sqlite: the database has no file, so that each connection would have one of its own: give it a " +
			"file, or take NewMemoryStore")
	case found.journal == "off" || found.journal == "memory":
		return fmt.Errorf("session: sqlite: with journal_mode=%s, a process that is killed while it writes damages the file; set it "+
			"to WAL", found.journal)
	}
	s.blocks = found.timeout > 0
	s.spare = found.file + "-spare"
	return nil
}

// prepare writes the statements, and prepares those that requests run all the time.
func (s *SQLiteStore) prepare(ctx context.Context) error {
	const integers = "typeof(version) = 'integer' AND typeof(expires) = 'integer'" // a text would be greater than any number
	const live = " WHERE id = ?1 AND expires > ?4 AND " + integers
	t := s.table
	update := "UPDATE " + t + " SET version = version + 1, expires = ?2, data = coalesce(?3, x'')" + live + " AND version = ?5"
	s.shrink = update + fmt.Sprintf(" AND length(data) + %d >= length(?3)", recordSlack)
	s.remove = "DELETE FROM " + t + " WHERE id = ?1"
	s.sweep = "DELETE FROM " + t + " WHERE id IN (SELECT id FROM " + t + " WHERE expires <= ?1 ORDER BY expires LIMIT ?2)"
	// The plus keeps it from the index of expires, for which it would have to sort.
	s.page = "SELECT id, version, expires, data FROM " + t + " WHERE id >= ?1 AND +expires > ?2 AND version > 0 AND length(id) = 32 AND " +
		integers + " ORDER BY id LIMIT ?3"
	s.count = "SELECT count(*) FROM " + t + " WHERE expires > ?1"
	for statement, text := range map[**sql.Stmt]string{
		&s.load: "SELECT iif(" + integers + ", version, 0), CAST(expires AS INTEGER), data FROM " + t + " WHERE id = ?1",
		// Some drivers take no bytes for NULL.
		&s.insert: "INSERT INTO " + t + " (id, version, expires, data) VALUES (?1, 1, ?2, coalesce(?3, x'')) ON CONFLICT (id) " +
			"DO UPDATE SET version = 1, expires = excluded.expires, data = excluded.data WHERE expires <= ?4",
		&s.update: update,
		&s.touch:  "UPDATE " + t + " SET expires = iif(version = ?3, ?2, expires)" + live + " RETURNING version",
	} {
		err := s.calls.call(ctx, func(bool) (err error) {
			*statement, err = s.db.PrepareContext(ctx, text)
			return err
		})
		if err != nil {
			return s.calls.error(ctx, "prepare", err)
		}
	}
	return nil
}

// sqliteCall calls run until the database is not locked, or ctx is done.
func sqliteCall[T any](ctx context.Context, s *SQLiteStore, writes bool, run func() (T, error)) (T, error) {
	again := func() (value T, err error) {
		if writes {
			select { // SQLite would have the writers of a process poll
			case s.writing <- struct{}{}:
				defer func() { <-s.writing }()
			case <-ctx.Done():
				return value, ctx.Err()
			}
		}
		err = s.calls.call(ctx, func(bool) (err error) {
			value, err = run()
			return err
		})
		return value, err
	}
	if s.blocks {
		return untilDone(ctx, again)
	}
	return again()
}

// change runs what changes something, and returns how many rows it affected. On a full disk it runs small, if there is one, in
// the room that is kept in reserve.
func (s *SQLiteStore) change(ctx context.Context, doing string, run, small func() (int64, error)) (int64, error) {
	n, err := sqliteCall(ctx, s, true, func() (int64, error) {
		n, err := run()
		if small == nil || !sqliteSays(err, errSQLiteFull.Error()) && !sqliteSays(err, sqliteDisk) {
			return n, err
		}
		os.Truncate(s.spare, 0)
		defer s.keepSpare()
		// The log's pages go to their places in the file, which may have to grow for that. The log can then begin anew.
		s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
		if n, again := small(); again == nil {
			return n, nil
		}
		return n, err
	})
	switch {
	case err == nil:
		return n, nil
	case sqliteSays(err, "string or blob too big"):
		return 0, fmt.Errorf("session: sqlite: %s: %w: %v", doing, ErrTooLarge, err)
	}
	return 0, s.calls.error(ctx, doing, err)
}

// affected returns a function that runs a statement and returns how many rows it affected.
func affected(run func() (sql.Result, error)) func() (int64, error) {
	return func() (int64, error) {
		result, err := run()
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	}
}

// sqliteSpare is how much room is kept in reserve: for what SQLite moves from the log to the file at once, 1,000 pages unless
// the application has changed that.
const sqliteSpare = 4 << 20

// keepSpare makes the reserve what it has to be, and reports false if there is no room for it.
func (s *SQLiteStore) keepSpare() bool {
	if info, err := os.Stat(s.spare); err == nil && info.Size() >= sqliteSpare {
		return true
	}
	f, err := os.OpenFile(s.spare, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return !noRoom(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < sqliteSpare {
		_, err = f.WriteAt(make([]byte, sqliteSpare-info.Size()), info.Size())
		return !noRoom(err)
	}
	return true
}

// Load implements Store.
func (s *SQLiteStore) Load(ctx context.Context, id ID) (Record, error) {
	type row struct {
		version, expires int64
		data             []byte
	}
	found, err := sqliteCall(ctx, s, false, func() (r row, err error) {
		return r, s.load.QueryRowContext(ctx, id[:]).Scan(&r.version, &r.expires, &r.data)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Record{}, ErrNotFound
	case err != nil:
		return Record{}, s.calls.error(ctx, "load", err)
	}
	return sqlRecord("sqlite", id, found.version, found.expires, found.data)
}

// Save implements Store. It returns an error that wraps ErrTooLarge for a record beyond the connection's limit of a row's
// size, SQLITE_LIMIT_LENGTH, by default 1,000,000,000 bytes.
func (s *SQLiteStore) Save(ctx context.Context, id ID, rec Record) error {
	if rec.Version >= maxSQLVersion {
		return ErrConflict
	}
	data := rec.Data
	if data == nil {
		data = []byte{} // nil would be NULL
	}
	args := []any{id[:], expiryMillis(rec.Expires), data, time.Now().UnixMilli()}
	run := affected(func() (sql.Result, error) { return s.insert.ExecContext(ctx, args...) })
	var small func() (int64, error)
	if rec.Version == 0 {
		if !s.keepSpare() {
			return fmt.Errorf("session: sqlite: save: %w", errSQLiteFull)
		}
	} else {
		args = append(args, int64(rec.Version))
		run = affected(func() (sql.Result, error) { return s.update.ExecContext(ctx, args...) })
		small = func() (int64, error) {
			n, err := affected(func() (sql.Result, error) { return s.db.ExecContext(ctx, s.shrink, args...) })()
			if err == nil && n == 0 { // it is larger than what is there, or there is another one
				err = errSQLiteFull
			}
			return n, err
		}
	}
	n, err := s.change(ctx, "save", run, small)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}

// errSQLiteFull says what SQLite would, as soon as the reserve would be used up.
var errSQLiteFull = errors.New("database or disk is full")

// Delete implements Store.
func (s *SQLiteStore) Delete(ctx context.Context, id ID) error {
	run := affected(func() (sql.Result, error) { return s.db.ExecContext(ctx, s.remove, id[:]) })
	_, err := s.change(ctx, "delete", run, run)
	return err
}

// Touch implements Toucher.
func (s *SQLiteStore) Touch(ctx context.Context, id ID, rec Record) error {
	version := int64(min(rec.Version, maxSQLVersion))
	run := func() (found int64, err error) {
		rows, err := s.touch.QueryContext(ctx, id[:], expiryMillis(rec.Expires), version, time.Now().UnixMilli())
		if err != nil {
			return 0, err
		}
		defer rows.Close()
		for rows.Next() && err == nil { // to the end, which is when it commits
			err = rows.Scan(&found)
		}
		return found, errors.Join(err, rows.Err())
	}
	found, err := s.change(ctx, "touch", run, run)
	switch {
	case err != nil:
		return err
	case found < 1:
		return ErrNotFound
	case found != version:
		return ErrConflict
	}
	return nil
}

// DeleteExpired implements Sweeper. It removes some at a time, and lets other writers in between. Several processes may call it
// at the same time.
func (s *SQLiteStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	const atOnce = 64
	for removed := 0; ; {
		step := min(atOnce, limit-removed)
		if step <= 0 {
			return removed, nil
		}
		run := affected(func() (sql.Result, error) { return s.db.ExecContext(ctx, s.sweep, time.Now().UnixMilli(), step) })
		n, err := s.change(ctx, "sweep", run, run)
		removed += int(n)
		if err != nil || int(n) < step {
			return removed, err
		}
	}
}

// List implements Lister. It reads some hundred records at a time, in the order of their IDs, and holds no
// connection while the caller looks at them.
func (s *SQLiteStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return listSQL(func(from ID) ([]Entry, error) {
		entries, err := sqliteCall(ctx, s, false, func() ([]Entry, error) {
			rows, err := s.db.QueryContext(ctx, s.page, from[:], time.Now().UnixMilli(), sqlPage)
			if err != nil {
				return nil, err
			}
			return scanEntries(rows)
		})
		if err != nil {
			return nil, s.calls.error(ctx, "list", err)
		}
		return entries, nil
	})
}

// Count implements Counter. To count all goes through an index, anything else through the table.
func (s *SQLiteStore) Count(ctx context.Context, at int, b byte) (int, error) {
	statement, args := s.count, []any{time.Now().UnixMilli()}
	if at >= 0 {
		statement, args = s.count+" AND substr(data, ?2, 1) = ?3", append(args, at+1, []byte{b})
	}
	n, err := sqliteCall(ctx, s, false, func() (n int, err error) {
		return n, s.db.QueryRowContext(ctx, statement, args...).Scan(&n)
	})
	if err != nil {
		return 0, s.calls.error(ctx, "count", err)
	}
	return n, nil
}

// Close frees the prepared statements. The store is of no use afterwards.
func (s *SQLiteStore) Close() error {
	for _, statement := range []*sql.Stmt{s.load, s.insert, s.update, s.touch} {
		if statement != nil {
			statement.Close() // nothing is lost with it
		}
	}
	return nil
}

// definition says what the table has to be.
func (s *SQLiteStore) definition(table string) *sqlTable {
	return &sqlTable{
		calls: &s.calls,
		name:  s.table,
		lines: []string{
			"id blob not null", "version integer not null", "expires integer not null", "data blob not null",
			"primary key (id)", "index (expires)",
		},
		inspect: func(ctx context.Context) ([]string, error) { return s.inspect(ctx, table) },
		create: func(ctx context.Context, exists bool) error {
			statements, err := SQLiteSchema(table)
			if exists {
				statements = sqliteIndex(table)
			}
			if err != nil {
				return err
			}
			_, err = sqliteCall(ctx, s, true, func() (sql.Result, error) { return s.db.ExecContext(ctx, statements) })
			return err
		},
	}
}

// inspect says what is true of the table, in lines as definition has them. None means that there is no table.
func (s *SQLiteStore) inspect(ctx context.Context, table string) ([]string, error) {
	const query = `
SELECT lower(name || ' ' || type || iif("notnull", ' not null', '')) FROM pragma_table_info(?1)
UNION ALL
SELECT 'primary key (' || columns || ')' FROM (SELECT group_concat(lower(name), ', ') AS columns
	FROM (SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk)) WHERE columns IS NOT NULL
UNION ALL
SELECT iif("unique", 'unique index (', 'index (') || (SELECT group_concat(coalesce(lower(name), '?'), ', ')
	FROM (SELECT name FROM pragma_index_info(list.name) ORDER BY seqno)) || ')'
FROM pragma_index_list(?1) AS list WHERE origin <> 'pk' AND ("unique" OR NOT partial)`
	return sqliteCall(ctx, s, false, func() (lines []string, err error) {
		rows, err := s.db.QueryContext(ctx, query, table)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
		return lines, rows.Err()
	})
}

// A sqliteMessage is what SQLite says of an error. Drivers have types of their own for its codes, and all pass on the texts.
type sqliteMessage struct {
	text   string
	fault  sqlFault
	advice string
}

const sqliteLocked = "another connection keeps the database locked (does a transaction stay open?)"

// sqliteDisk is what some drivers have SQLite say of a full disk, too.
const sqliteDisk = "disk I/O error"

var sqliteMessages = []sqliteMessage{
	{"database is locked", sqlBusy, sqliteLocked},       // SQLITE_BUSY
	{"database table is locked", sqlBusy, sqliteLocked}, // SQLITE_LOCKED: with a shared cache
	{"database schema is locked", sqlBusy, sqliteLocked},
	{"locking protocol", sqlBusy, sqliteLocked}, // SQLITE_PROTOCOL
	{"database schema has changed", sqlCollided, ""},
	{"attempt to write a readonly database", sqlReadOnly, "nothing can be written: the process has to be able to write to the file " +
		"and to its directory, and the connections must not have mode=ro, immutable or query_only"},
	{"unable to open database file", sqlUnreached, "the file cannot be opened (is the directory there, and may the process write to " +
		"it and to the file?)"},
	{"no such table", sqlMissing, "the table is not there any more (session.SQLiteSchema has what makes it)"},
	{sqliteDisk, sqlLasting, "the disk may be full, or damaged"},
	{"file is not a database", sqlLasting, "the file is something else, or encrypted with a key that the connections do not have"},
}

// sqliteMessageOf returns what SQLite says in an error.
func sqliteMessageOf(err error) sqliteMessage {
	for _, m := range sqliteMessages {
		if strings.Contains(err.Error(), m.text) {
			return m
		}
	}
	return sqliteMessage{}
}

// sqliteSays reports whether SQLite says the text.
func sqliteSays(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

func sqliteFault(err error) sqlFault { return sqliteMessageOf(err).fault }

func sqliteAdvice(err error) string { return sqliteMessageOf(err).advice }
