package session

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A MySQLStore keeps records in a table of MySQL (5.7 or later) or MariaDB (10.5 or later). It implements
// Toucher, Sweeper, Lister and io.Closer, and is safe for concurrent use.
//
// Every operation but DeleteExpired is one statement, which the server prepares once for each connection and which
// takes one round trip from then on. None needs a transaction, whatever the isolation level. The server's clock
// plays no part.
//
// The table has the columns of [MySQLSchema] and no others: id, the 32 bytes of the ID; version; expires, in
// milliseconds since 1970 (9223372036854775807 for never); data. A row whose version is 0 reads as absent.
//
// A server that is set up to lose commits in a crash (innodb_flush_log_at_trx_commit), or a failover to a replica
// that lags behind, can bring back a session as it was some moments before.
type MySQLStore struct {
	db      *sql.DB
	opened  bool // db is ours to close
	table   string
	maxData int

	load, insert, update, touch, remove, expired, page, count *sql.Stmt
}

// MySQLOptions are the options of NewMySQLStore. The zero value, and nil, mean the defaults.
type MySQLOptions struct {
	// Table is the table's name, which a database's name and a dot may precede. Empty means "sessions". A name
	// is an ASCII letter or underscore and up to 49 more letters, digits and underscores. Stores with different
	// tables can share a database.
	Table string
	// NoCreate makes a missing table or index an error. False means that they are created. A table that is
	// there and complete is never altered; to use one, an account needs SELECT, INSERT, UPDATE and DELETE only.
	NoCreate bool
}

// NewMySQLStore returns a store that uses db, which is of the driver github.com/go-sql-driver/mysql and stays
// the caller's to close. It creates what is missing of the table. A table of another shape is an error, and so
// are connections that do not commit each statement by themselves (autocommit=0), or that would convert binary
// data (character_set_client and character_set_connection differ). ctx bounds the call only.
//
// The store prepares its eight statements and keeps them; Close frees them. With fewer idle connections
// (SetMaxIdleConns, 2 unless set) than are in use at a time, db opens and closes connections all the time, and
// each new one has to prepare the statements again. The parameters of db's data source name are as they please;
// interpolateParams and clientFoundRows make no difference. Set its readTimeout: where all connections are taken, db
// connects for those who wait without their contexts, and a server that accepts and then says nothing can hold up
// that, and so all of them, for as long.
//
// A record that does not fit the server's max_allowed_packet, as it was at the time of this call, is
// ErrTooLarge.
func NewMySQLStore(ctx context.Context, db *sql.DB, opts *MySQLOptions) (*MySQLStore, error) {
	if opts == nil {
		opts = &MySQLOptions{}
	}
	if db == nil {
		return nil, errors.New("session: mysql: NewMySQLStore needs a *sql.DB")
	}
	schema, table, err := splitTable("mysql", opts.Table)
	if err != nil {
		return nil, err
	}
	s := &MySQLStore{db: db, table: quoteMySQL(schema, table)}
	if schema, err = s.checkServer(ctx, schema); err != nil {
		return nil, err
	}
	if err := s.definition(schema, table, opts.Table).ensure(ctx, opts.NoCreate); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		s.closeStatements()
		return nil, err
	}
	return s, nil
}

// MySQLSchema returns the statement that creates the table of a MySQLStore, for a server where the store's
// account may not. table is as in MySQLOptions. It does nothing to a table that is there.
func MySQLSchema(table string) (string, error) {
	schema, name, err := splitTable("mysql", table)
	if err != nil {
		return "", err
	}
	return "CREATE TABLE IF NOT EXISTS " + quoteMySQL(schema, name) + ` (
	id BINARY(32) NOT NULL,
	version BIGINT UNSIGNED NOT NULL,
	expires BIGINT NOT NULL,
	data LONGBLOB NOT NULL,
	PRIMARY KEY (id),
	INDEX expires (expires),
	CHECK (version > 0)
) ENGINE=InnoDB`, nil
}

// prepare prepares the statements, and so fails early if the account lacks a privilege.
//
// How many rows a statement has affected depends on clientFoundRows. So insert and touch have the server report
// what they met as the "last insert ID", which LAST_INSERT_ID(x) sets to x, its value as well; a statement
// that does not call it reports 0. Assignments run from left to right, so the one of expires, on which the others
// depend, is the last. FORCE INDEX keeps the optimizer from weighing the index of expires at each execution.
func (s *MySQLStore) prepare(ctx context.Context) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.load, "SELECT CAST(version AS SIGNED), expires, data FROM %s WHERE id = ?"},
		{&s.insert, "INSERT INTO %s (id, version, expires, data) VALUES (?, 1, ?, ?) ON DUPLICATE KEY UPDATE " +
			"data = IF(expires <= ?, VALUES(data), data), " +
			"version = IF(expires <= ?, 1, LAST_INSERT_ID(version + 1) - 1), " +
			"expires = IF(expires <= ?, VALUES(expires), expires)"},
		{&s.update, "UPDATE %s FORCE INDEX (PRIMARY) SET version = version + 1, expires = ?, data = ? " +
			"WHERE id = ? AND version = ? AND expires > ?"},
		{&s.touch, "UPDATE %s FORCE INDEX (PRIMARY) SET expires = IF(LAST_INSERT_ID(version) = ?, ?, expires) " +
			"WHERE id = ? AND expires > ?"},
		{&s.remove, "DELETE FROM %s WHERE id = ?"},
		{&s.expired, "SELECT id FROM %s WHERE expires <= ? ORDER BY expires LIMIT ?"},
		{&s.page, "SELECT id, version, expires, data FROM %s FORCE INDEX (PRIMARY) " +
			"WHERE id >= ? AND expires > ? AND version > 0 ORDER BY id LIMIT ?"},
		{&s.count, "SELECT COUNT(*) FROM %s WHERE expires > ?"},
	} {
		var err error
		if *p.stmt, err = s.db.PrepareContext(ctx, fmt.Sprintf(p.text, s.table)); err != nil {
			return sqlError(ctx, "mysql", "prepare", err)
		}
	}
	return nil
}

// Load implements Store.
func (s *MySQLStore) Load(ctx context.Context, id ID) (Record, error) {
	var version, expires int64
	var data []byte
	err := retryMySQL(ctx, func() error {
		return s.load.QueryRowContext(ctx, id[:]).Scan(&version, &expires, &data)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Record{}, ErrNotFound
	case err != nil:
		return Record{}, sqlError(ctx, "mysql", "load", err)
	}
	return sqlRecord("mysql", id, version, expires, data)
}

// Save implements Store.
func (s *MySQLStore) Save(ctx context.Context, id ID, rec Record) error {
	if len(rec.Data) > s.maxData {
		return fmt.Errorf("session: mysql: save: %d bytes, max_allowed_packet leaves room for %d: %w",
			len(rec.Data), s.maxData, ErrTooLarge)
	}
	data := rec.Data
	if data == nil {
		data = []byte{} // nil would be NULL
	}
	now, expires := time.Now().UnixMilli(), expiryMillis(rec.Expires)
	if rec.Version == 0 {
		_, met, err := s.exec(ctx, "save", s.insert.ExecContext, id[:], expires, data, now, now, now)
		if err == nil && met != 0 {
			err = ErrConflict
		}
		return err
	}
	if rec.Version >= maxSQLVersion {
		return ErrConflict
	}
	affected, _, err := s.exec(ctx, "save", s.update.ExecContext, expires, data, id[:], int64(rec.Version), now)
	if err == nil && affected == 0 {
		err = ErrConflict
	}
	return err
}

// Delete implements Store.
func (s *MySQLStore) Delete(ctx context.Context, id ID) error {
	_, _, err := s.exec(ctx, "delete", s.remove.ExecContext, id[:])
	return err
}

// Touch implements Toucher.
func (s *MySQLStore) Touch(ctx context.Context, id ID, rec Record) error {
	_, met, err := s.exec(ctx, "touch", s.touch.ExecContext,
		rec.Version, expiryMillis(rec.Expires), id[:], time.Now().UnixMilli())
	switch {
	case err != nil:
		return err
	case met == 0:
		return ErrNotFound
	case uint64(met) != rec.Version:
		return ErrConflict
	}
	return nil
}

// DeleteExpired implements Sweeper. It takes one round trip to find what has expired, and one for each 16 records
// that it removes. Several processes may call it at the same time.
//
// A single DELETE with the expiry as its condition would not do: the server locks what it looks at, which is the
// next record to expire too, or all records where it holds a scan to be faster.
func (s *MySQLStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	// With 500 at once, it took half as long, and the slowest percent of other requests three times as long (removal
	// from MariaDB, in module bench).
	const atOnce = 16
	removed := 0
	for removed < limit {
		var ids []string
		now, wanted := time.Now().UnixMilli(), limit-removed
		err := retryMySQL(ctx, func() (err error) {
			ids, err = s.findExpired(ctx, now, wanted)
			return err
		})
		if err != nil {
			return removed, sqlError(ctx, "mysql", "sweep", err)
		}
		for chunk := range slices.Chunk(ids, atOnce) {
			// DELETE FROM takes no FORCE INDEX, this form does
			statement := fmt.Sprintf("DELETE %[1]s FROM %[1]s FORCE INDEX (PRIMARY) "+
				"WHERE expires <= %[2]d AND id IN (x'%[3]s')", s.table, now, strings.Join(chunk, "', x'"))
			n, _, err := s.exec(ctx, "sweep", func(ctx context.Context, _ ...any) (sql.Result, error) {
				return s.db.ExecContext(ctx, statement)
			})
			removed += int(n)
			if err != nil {
				return removed, err
			}
		}
		if len(ids) < wanted {
			break
		}
	}
	return removed, nil
}

// findExpired returns at most limit IDs in hexadecimal.
func (s *MySQLStore) findExpired(ctx context.Context, now int64, limit int) ([]string, error) {
	rows, err := s.expired.QueryContext(ctx, now, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id sql.RawBytes
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, hex.EncodeToString(id))
	}
	return ids, rows.Err()
}

// List implements Lister. It reads some hundred records at a time, in the order of their IDs, and holds no
// connection while the caller looks at them.
func (s *MySQLStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return listSQL(func(from ID) ([]Entry, error) {
		var entries []Entry
		err := retryMySQL(ctx, func() (err error) {
			entries, err = s.readPage(ctx, from)
			return err
		})
		if err != nil {
			return nil, sqlError(ctx, "mysql", "list", err)
		}
		return entries, nil
	})
}

func (s *MySQLStore) readPage(ctx context.Context, from ID) ([]Entry, error) {
	rows, err := s.page.QueryContext(ctx, from[:], time.Now().UnixMilli(), sqlPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var entries []Entry
	for rows.Next() {
		var e Entry
		var id sql.RawBytes
		var expires int64
		if err := rows.Scan(&id, &e.Record.Version, &expires, &e.Record.Data); err != nil {
			return nil, err
		}
		copy(e.ID[:], id)
		e.Record.Expires = expiryTime(expires)
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

// Count implements Lister.
func (s *MySQLStore) Count(ctx context.Context) (int, error) {
	var n int
	err := retryMySQL(ctx, func() error {
		return s.count.QueryRowContext(ctx, time.Now().UnixMilli()).Scan(&n)
	})
	if err != nil {
		return 0, sqlError(ctx, "mysql", "count", err)
	}
	return n, nil
}

// Drop removes the table and all that is in it, for tables that were made for a test. That there is none is no error.
// All stores that use the table fail from then on.
func (s *MySQLStore) Drop(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, "DROP TABLE IF EXISTS "+s.table); err != nil {
		return sqlError(ctx, "mysql", "drop the table", err)
	}
	return nil
}

// Close frees the prepared statements, and closes the connections if Open made them. The store is of no use
// afterwards.
func (s *MySQLStore) Close() error {
	s.closeStatements()
	if !s.opened {
		return nil
	}
	s.db.Close() // fails for connections that are broken, and then they need not be told of their end
	return nil
}

// closeStatements has no error to report: a statement ends with its connections at the latest.
func (s *MySQLStore) closeStatements() {
	for _, stmt := range []*sql.Stmt{s.load, s.insert, s.update, s.touch, s.remove, s.expired, s.page, s.count} {
		if stmt != nil {
			stmt.Close()
		}
	}
}

// exec runs a statement that changes something, and returns how many rows it affected and what it reports as
// the last insert ID.
func (s *MySQLStore) exec(
	ctx context.Context, doing string, run func(context.Context, ...any) (sql.Result, error), args ...any,
) (affected, met int64, err error) {
	err = retryMySQL(ctx, func() error {
		result, err := run(ctx, args...)
		if err == nil {
			affected, err = result.RowsAffected()
		}
		if err == nil {
			met, err = result.LastInsertId()
		}
		return err
	})
	switch {
	case err == nil:
		return affected, met, nil
	case errors.Is(err, mysql.ErrPktTooLarge), mysqlCode(err) == 1153:
		return 0, 0, fmt.Errorf("session: mysql: %s: %w: %v", doing, ErrTooLarge, err)
	}
	return 0, 0, sqlError(ctx, "mysql", doing, err)
}

// mysqlCode returns the server's number of an error, or 0 if it comes from elsewhere.
func mysqlCode(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// rolledBackByMySQL reports whether the server has undone the statement because of another one at the same
// time: a deadlock, a conflict between the nodes of a cluster, a row changed since it was read.
func rolledBackByMySQL(err error) bool {
	code := mysqlCode(err)
	return code == 1213 || code == 1020
}

// retryMySQL is retrySQL, with one more try after a connection could not be made. Package sql makes connections
// for callers that wait for one, one after the other, and gives the error to whoever waits by then: it may be that
// of a connection begun for an earlier caller, when the server was not there yet. The next one is not.
func retryMySQL(ctx context.Context, run func() error) error {
	dialed := false
	return retrySQL(ctx, rolledBackByMySQL, func(err error) bool {
		if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" && !dialed {
			dialed = true
			return true
		}
		return errors.Is(err, mysql.ErrInvalidConn)
	}, run)
}

// checkServer refuses connections on which the store could not keep its word. It returns the database that
// holds the table.
func (s *MySQLStore) checkServer(ctx context.Context, schema string) (string, error) {
	var database sql.NullString
	var packet int64
	var autocommit bool
	var client, connection string
	err := s.db.QueryRowContext(ctx, "SELECT DATABASE(), @@max_allowed_packet, @@autocommit, "+
		"@@character_set_client, @@character_set_connection").Scan(&database, &packet, &autocommit, &client, &connection)
	schema = cmp.Or(schema, database.String)
	switch {
	case err != nil:
		return "", sqlError(ctx, "mysql", "connect", err)
	case schema == "":
		return "", errors.New("session: mysql: neither the connections nor the table's name select a database")
	case !autocommit:
		return "", errors.New("session: mysql: the connections are set to autocommit=0, so that nothing would be saved")
	case client != connection:
		return "", fmt.Errorf("session: mysql: character_set_client is %q and character_set_connection is %q: "+
			"the server would convert binary data from one to the other", client, connection)
	}
	const aroundData = 512 // what a statement or a row needs beside
	s.maxData = int(packet - aroundData)
	return schema, nil
}

// definition says what the table has to be. The option is its name as the application gave it.
func (s *MySQLStore) definition(schema, table, option string) *sqlTable {
	return &sqlTable{
		server: "mysql",
		name:   s.table,
		lines: []string{
			"engine innodb",
			"id binary(32) not null", "version bigint unsigned not null",
			"expires bigint not null", "data longblob not null",
			"primary key (id)", "index (expires)",
		},
		inspect: func(ctx context.Context) ([]string, error) { return s.inspect(ctx, schema, table) },
		create: func(ctx context.Context, exists bool) error {
			statement, err := MySQLSchema(option)
			if exists {
				statement = "CREATE INDEX expires ON " + s.table + " (expires)"
			}
			if err == nil {
				_, err = s.db.ExecContext(ctx, statement)
			}
			return err
		},
		raced: func(err error) bool {
			code := mysqlCode(err) // table exists, index exists, deadlock
			return code == 1050 || code == 1061 || code == 1213
		},
	}
}

// inspect says what is true of the table, in lines as definition has them. None means that there is no table.
func (s *MySQLStore) inspect(ctx context.Context, schema, table string) ([]string, error) {
	var lines []string
	for _, query := range []string{
		"SELECT 'engine', COALESCE(ENGINE, TABLE_TYPE), '' FROM information_schema.TABLES " +
			"WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
		"SELECT COLUMN_NAME, COLUMN_TYPE, IF(IS_NULLABLE = 'YES', '', 'not null') FROM information_schema.COLUMNS " +
			"WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
		"SELECT IF(INDEX_NAME = 'PRIMARY', 'primary key', IF(NON_UNIQUE, 'index', 'unique index')), " +
			"CONCAT('(', COALESCE(GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX SEPARATOR ', '), '?'), ')'), '' " +
			"FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? " +
			"GROUP BY INDEX_NAME, NON_UNIQUE",
	} {
		rows, err := s.db.QueryContext(ctx, query, schema, table)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var subject, kind, null string
			if err := rows.Scan(&subject, &kind, &null); err != nil {
				return nil, err
			}
			line := strings.ToLower(strings.TrimSpace(subject + " " + kind + " " + null))
			lines = append(lines, strings.Replace(line, "bigint(20)", "bigint", 1)) // a width, on older servers
		}
		if err := rows.Err(); err != nil || len(lines) == 0 { // so a table made since the first query is missing
			return nil, err
		}
	}
	return lines, nil
}

func quoteMySQL(schema, table string) string {
	if schema != "" {
		return "`" + schema + "`.`" + table + "`"
	}
	return "`" + table + "`"
}

// openMySQL is the OpenFunc of mysql: and mariadb: URLs.
func openMySQL(ctx context.Context, rawURL string) (Store, error) {
	cfg, opts, err := parseMySQLURL(rawURL)
	if err != nil {
		return nil, err
	}
	connector, err := newMySQLConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("session: the mysql: URL: %w", err)
	}
	db := sql.OpenDB(connector)
	conns := sqlConns()
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxLifetime(5 * time.Minute) // before a proxy or the server ends them
	s, err := NewMySQLStore(ctx, db, opts)
	if err != nil {
		db.Close()
		return nil, err
	}
	s.opened = true
	return s, nil
}

// A mysqlConnector has the timeout for connecting include the handshake. Package sql makes the connections for
// which callers wait one after the other, and not with their contexts: one that gets no answer would keep all
// others waiting for the driver's ReadTimeout.
type mysqlConnector struct {
	driver.Connector
	cfg *mysql.Config
}

func newMySQLConnector(cfg *mysql.Config) (driver.Connector, error) {
	connector, err := mysql.NewConnector(cfg)
	return mysqlConnector{connector, cfg}, err
}

func (c mysqlConnector) Connect(ctx context.Context) (driver.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	conn, err := c.Connector.Connect(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		// Not context.DeadlineExceeded: that would be of whoever gets it.
		err = &net.OpError{Op: "dial", Net: c.cfg.Net, Err: os.ErrDeadlineExceeded}
	}
	return conn, err
}

// parseMySQLURL translates mysql://user:password@host:port/database?parameters. The parameters are the
// driver's, but for table, and socket, which is the path of a Unix socket to use instead of host and port.
func parseMySQLURL(rawURL string) (*mysql.Config, *MySQLOptions, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, nil, err
	}
	database := strings.TrimPrefix(u.Path, "/")
	if u.Opaque != "" || u.Fragment != "" || database == "" || strings.ContainsAny(database, "/@") {
		return nil, nil, fmt.Errorf("session: a %[1]s: URL is %[1]s://user:password@host:port/database "+
			"(reserved characters in a name or password are percent-encoded)", u.Scheme)
	}
	table, query := cutParam(u.RawQuery, "table")
	socket, query := cutParam(query, "socket")
	if u.Query().Has("strict") { // the driver panics
		return nil, nil, fmt.Errorf("session: the %s: URL: the driver has no parameter strict any more", u.Scheme)
	}
	address := net.JoinHostPort(cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "3306"))
	cfg, err := mysql.ParseDSN("tcp(" + address + ")/?" + strings.ReplaceAll(query, "/", "%2F"))
	if err != nil {
		return nil, nil, fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.DBName = database
	if socket != "" {
		cfg.Net, cfg.Addr = "unix", socket
	}
	cfg.Timeout = cmp.Or(max(0, cfg.Timeout), 5*time.Second)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, 30*time.Second) // for calls without a deadline
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 30*time.Second)
	cfg.Logger = &mysql.NopLogger{}
	return cfg, &MySQLOptions{Table: table}, nil
}
