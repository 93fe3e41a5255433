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
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A MySQLStore keeps records in a table of MySQL (5.7 or later) or MariaDB (10.5 or later). It implements
// Toucher, Sweeper, Lister, Counter and StoreCloser, and is safe for concurrent use.
//
// Every operation but DeleteExpired is one statement, which takes one round trip. None needs a transaction, whatever the
// isolation level. The server's clock plays no part. The four statements that requests run all the time are prepared,
// once for each connection. Where the server prepares no more of them (max_prepared_stmt_count) or has lost one, they go
// as texts for a minute: a read then takes about a tenth longer, and a record can be half as large.
//
// The table has the columns of [MySQLSchema] and no others: id, the 32 bytes of the ID; version; expires, in
// milliseconds since 1970 (9223372036854775807 for never); data. A row whose version is 0 reads as absent.
//
// The account needs SELECT, INSERT, UPDATE and DELETE on the table, and CREATE to make it where it is missing; INDEX where
// only its index is missing. All settings of a connection are free, sql_mode, isolation level and sql_safe_updates among
// them, but for those that NewMySQLStore names.
//
// A server that is set up to lose commits in a crash (innodb_flush_log_at_trx_commit), or a failover to a replica
// that lags behind, can bring back a session as it was some moments before.
//
// A failover can leave connections that work, to a server that has become read-only. A store that Open made notices at
// the first statement, one that only reads included, leaves all connections, and runs it again on a new one. While new
// ones lead to a server that is read-only, too, it reads from that, a second at a time, and saves fail. Where the server
// has no connection left (max_connections), a call waits for one until its context ends, or for 5 seconds.
//
// The URL for Open, whose scheme is mysql or mariadb:
//
//	mysql://user[:password]@[host][:port]/database[?parameters]
//	mysql://user:password/database[?parameters]
//
// Host and port default to 127.0.0.1 and 3306. Without an "@", a name, a colon and anything are a user and a password,
// numbers too, unless the name is an IP address or localhost; an account without a name has a URL like
// mysql://@host:port/database. The parameter table is that of MySQLOptions, and create=false is its NoCreate; socket is the
// path of a Unix socket to use instead of host and port; pool_max_conns is how many connections there are at most, 8 unless
// given. One that was not used for 3 seconds is closed. All other parameters are the driver's.
type MySQLStore struct {
	db      *sql.DB
	opened  bool // db is ours to close
	calls   sqlCaller
	table   string
	maxData int

	load, insert, update, touch, remove, expired, page, count mysqlStatement
}

// A mysqlStatement is one that takes arguments.
type mysqlStatement struct {
	text     string
	prepared *sql.Stmt // nil: it is not
}

// MySQLOptions are the options of NewMySQLStore. The zero value, and nil, mean the defaults.
type MySQLOptions struct {
	// Table is the table's name, which a database's name and a dot may precede. Empty means "sessions". A name
	// is an ASCII letter or underscore and up to 49 more letters, digits and underscores. Stores with different
	// tables can share a database.
	Table string
	// NoCreate makes a missing table or index an error. False means that they are created. A table that is
	// there and complete is never altered.
	NoCreate bool
}

// NewMySQLStore returns a store that uses db, which is of the driver github.com/go-sql-driver/mysql and stays
// the caller's to close. It creates what is missing of the table. A table of another shape is an error, and so
// are connections that do not commit each statement by themselves (autocommit=0), or that would convert binary
// data (character_set_client and character_set_connection differ). ctx bounds the call only.
//
// The store prepares four statements and keeps them; Close frees them. With fewer idle connections
// (SetMaxIdleConns, 2 unless set) than are in use at a time, db opens and closes connections all the time, and
// each new one has to prepare the statements again. Without SetMaxOpenConns, db can ask for more connections than the
// server has. The parameters of db's data source name are as they please; interpolateParams and clientFoundRows make no
// difference. Set its readTimeout: where all connections are taken, db connects for those who wait without their contexts,
// and a server that accepts and then says nothing can hold up that, and so all of them, for as long.
//
// After a failover that leaves db's connections working, to a server that has become read-only, saves fail with an error
// that says so, and reads show what is out of date, until db closes the connections. SetConnMaxLifetime bounds that, and
// with the parameter rejectReadOnly=true the first save that meets such a connection closes it.
//
// A record that does not fit the server's max_allowed_packet, as it was at the time of this call, is
// ErrTooLarge.
func NewMySQLStore(ctx context.Context, db *sql.DB, opts *MySQLOptions) (*MySQLStore, error) {
	s := &MySQLStore{db: db, calls: sqlCaller{conns: sqlConns}}
	if err := s.open(ctx, opts); err != nil {
		return nil, err
	}
	return s, nil
}

// open gets a store ready that has a db, and calls as far as they depend on it.
func (s *MySQLStore) open(ctx context.Context, opts *MySQLOptions) error {
	if opts == nil {
		opts = &MySQLOptions{}
	}
	if s.db == nil {
		return errors.New("session: mysql: NewMySQLStore needs a *sql.DB")
	}
	schema, table, err := splitTable("mysql", opts.Table)
	if err != nil {
		return err
	}
	s.table = quoteMySQL(schema, table)
	s.calls.server, s.calls.table, s.calls.schema, s.calls.fault = "mysql", s.table, "session.MySQLSchema", mysqlFault
	s.compose()
	if schema, err = s.checkServer(ctx, schema); err != nil {
		return err
	}
	if err := s.definition(schema, table, opts.Table).ensure(ctx, opts.NoCreate); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		s.closeStatements()
		return err
	}
	return nil
}

// MySQLSchema returns the statement that creates the table of a MySQLStore, for a server where the store's
// account may not; grant that SELECT, INSERT, UPDATE and DELETE on the table then. table is as in MySQLOptions. The
// statement does nothing to a table that is there.
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

// compose writes the statements.
//
// How many rows a statement has affected depends on clientFoundRows. So insert and touch have the server report
// what they met as the "last insert ID", which LAST_INSERT_ID(x) sets to x, its value as well; a statement
// that does not call it reports 0. Assignments run from left to right, so the one of expires, on which the others
// depend, is the last. FORCE INDEX keeps the optimizer from weighing the index of expires at each execution.
//
// Statements that read also tell whether the server takes writes; load does so where there is no record, too, by MAX,
// which makes a row of none.
func (s *MySQLStore) compose() {
	const readOnly = "CONCAT(@@global.read_only) NOT IN ('0', 'OFF') OR @@global.innodb_read_only"
	const data = "COALESCE(?, REPEAT('-', 0))" // no bytes arrive as NULL with sql_mode EMPTY_STRING_IS_NULL
	t := s.table
	s.load.text = "SELECT " + readOnly + ", CAST(COALESCE(MAX(version), 0) AS SIGNED), COALESCE(MAX(expires), 0), " +
		"MAX(data) FROM " + t + " WHERE id = ?"
	s.insert.text = "INSERT INTO " + t + " (id, version, expires, data) VALUES (?, 1, ?, " + data + ") ON DUPLICATE KEY UPDATE " +
		"data = IF(expires <= ?, VALUES(data), data), " +
		"version = IF(expires <= ?, 1, LAST_INSERT_ID(version + 1) - 1), " +
		"expires = IF(expires <= ?, VALUES(expires), expires)"
	s.update.text = "UPDATE " + t + " FORCE INDEX (PRIMARY) SET version = version + 1, expires = ?, data = " + data +
		" WHERE id = ? AND version = ? AND expires > ?"
	s.touch.text = "UPDATE " + t + " FORCE INDEX (PRIMARY) SET expires = IF(LAST_INSERT_ID(version) = ?, ?, expires) " +
		"WHERE id = ? AND expires > ?"
	s.remove.text = "DELETE FROM " + t + " WHERE id = ?"
	s.expired.text = "SELECT id FROM " + t + " WHERE expires <= ? ORDER BY expires LIMIT ?"
	s.page.text = "SELECT " + readOnly + ", id, version, expires, data FROM " + t + " FORCE INDEX (PRIMARY) " +
		"WHERE id >= ? AND expires > ? AND version > 0 ORDER BY id LIMIT ?"
	s.count.text = "SELECT " + readOnly + ", COUNT(*) FROM " + t + " WHERE expires > ?"
}

// prepare prepares the statements that requests run all the time, as far as the server lets it, and so fails early
// if the account lacks a privilege. A server has a limit of prepared statements, over all connections.
func (s *MySQLStore) prepare(ctx context.Context) error {
	for _, st := range []*mysqlStatement{&s.load, &s.insert, &s.update, &s.touch, &s.remove} {
		err := s.calls.call(ctx, func(prepared bool) error {
			if !prepared {
				return nil
			}
			stmt, err := s.db.PrepareContext(ctx, st.text)
			st.prepared = stmt
			return err
		})
		if err != nil {
			return s.calls.error(ctx, "prepare", err)
		}
	}
	if s.remove.prepared != nil {
		s.remove.prepared.Close()
		s.remove.prepared = nil
	}
	return nil
}

func (s *MySQLStore) query(ctx context.Context, prepared bool, st *mysqlStatement, args ...any) (*sql.Rows, error) {
	if prepared && st.prepared != nil {
		return st.prepared.QueryContext(ctx, args...)
	}
	return s.db.QueryContext(ctx, mysqlLiterals(st.text, args))
}

func (s *MySQLStore) execute(ctx context.Context, prepared bool, st *mysqlStatement, args ...any) (sql.Result, error) {
	if prepared && st.prepared != nil {
		return st.prepared.ExecContext(ctx, args...)
	}
	return s.db.ExecContext(ctx, mysqlLiterals(st.text, args))
}

// mysqlLiterals returns a statement with its arguments, bytes and integers, in the place of its question marks. Bytes
// become hexadecimal digits, which mean the same in every character set and sql_mode. The driver's own way
// (interpolateParams) escapes them, which is not safe in character sets with a backslash within a character.
func mysqlLiterals(text string, args []any) string {
	var b []byte
	for _, arg := range args {
		before, after, _ := strings.Cut(text, "?")
		b = append(b, before...)
		if data, ok := arg.([]byte); ok {
			b = fmt.Appendf(slices.Grow(b, 2*len(data)+3), "x'%x'", data)
		} else {
			b = fmt.Append(b, arg)
		}
		text = after
	}
	return string(append(b, text...))
}

// Load implements Store.
func (s *MySQLStore) Load(ctx context.Context, id ID) (Record, error) {
	var version, expires int64
	var data []byte
	if err := s.read(ctx, &s.load, []any{id[:]}, &version, &expires, &data); err != nil {
		return Record{}, s.calls.error(ctx, "load", err)
	}
	return sqlRecord("mysql", id, version, expires, data)
}

// read runs a query that returns one row, whose first column tells whether the server is read-only.
func (s *MySQLStore) read(ctx context.Context, st *mysqlStatement, args []any, dest ...any) error {
	var readOnly bool
	dest = append([]any{&readOnly}, dest...)
	err := s.calls.call(ctx, func(prepared bool) error {
		rows, err := s.query(ctx, prepared, st, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		if rows.Next() {
			err = rows.Scan(dest...)
		}
		if err = cmp.Or(rows.Err(), err); err == nil && readOnly {
			err = errSQLReadOnly
		}
		return err
	})
	return exceptReadOnly(err)
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
		_, met, err := s.exec(ctx, "save", &s.insert, id[:], expires, data, now, now, now)
		if err == nil && met != 0 {
			err = ErrConflict
		}
		return err
	}
	if rec.Version >= maxSQLVersion {
		return ErrConflict
	}
	affected, _, err := s.exec(ctx, "save", &s.update, expires, data, id[:], int64(rec.Version), now)
	if err == nil && affected == 0 {
		err = ErrConflict
	}
	return err
}

// Delete implements Store.
func (s *MySQLStore) Delete(ctx context.Context, id ID) error {
	_, _, err := s.exec(ctx, "delete", &s.remove, id[:])
	return err
}

// Touch implements Toucher.
func (s *MySQLStore) Touch(ctx context.Context, id ID, rec Record) error {
	_, met, err := s.exec(ctx, "touch", &s.touch,
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
		err := s.calls.call(ctx, func(bool) (err error) {
			ids, err = s.findExpired(ctx, now, wanted)
			return err
		})
		if err != nil {
			return removed, s.calls.error(ctx, "sweep", err)
		}
		for chunk := range slices.Chunk(ids, atOnce) {
			n, _, err := s.exec(ctx, "sweep", s.removal(now, chunk))
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

// removal returns the statement that removes those of the IDs, in hexadecimal, that have expired.
//
// FORCE INDEX, which DELETE FROM does not take, has the server lock these rows alone. It reads them in a way that
// sql_safe_updates may hold to be none by a key, so that is off for the statement, in the words of MariaDB and of MySQL.
func (s *MySQLStore) removal(now int64, ids []string) *mysqlStatement {
	return &mysqlStatement{text: fmt.Sprintf("/*M! SET STATEMENT sql_safe_updates = 0 FOR */ "+
		"DELETE /*+ SET_VAR(sql_safe_updates = 0) */ %[1]s FROM %[1]s FORCE INDEX (PRIMARY) "+
		"WHERE expires <= %[2]d AND id IN (x'%[3]s')", s.table, now, strings.Join(ids, "', x'"))}
}

// findExpired returns at most limit IDs in hexadecimal.
func (s *MySQLStore) findExpired(ctx context.Context, now int64, limit int) ([]string, error) {
	rows, err := s.query(ctx, false, &s.expired, now, limit)
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
		err := s.calls.call(ctx, func(bool) (err error) {
			entries, err = s.readPage(ctx, from)
			return err
		})
		if err = exceptReadOnly(err); err != nil {
			return nil, s.calls.error(ctx, "list", err)
		}
		return entries, nil
	})
}

func (s *MySQLStore) readPage(ctx context.Context, from ID) ([]Entry, error) {
	rows, err := s.query(ctx, false, &s.page, from[:], time.Now().UnixMilli(), sqlPage)
	if err != nil {
		return nil, err
	}
	readOnly := false
	entries, err := scanEntries(rows, &readOnly)
	if err != nil || !readOnly {
		return entries, err
	}
	return entries, errSQLReadOnly
}

// Count implements Counter. To count all goes through an index, anything else through the table.
func (s *MySQLStore) Count(ctx context.Context, at int, b byte) (int, error) {
	var n int
	statement := &s.count
	if at >= 0 {
		statement = &mysqlStatement{text: fmt.Sprintf("%s AND SUBSTRING(data, %d, 1) = x'%02x'", s.count.text, at+1, b)}
	}
	if err := s.read(ctx, statement, []any{time.Now().UnixMilli()}, &n); err != nil {
		return 0, s.calls.error(ctx, "count", err)
	}
	return n, nil
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
	for _, st := range []*mysqlStatement{&s.load, &s.insert, &s.update, &s.touch, &s.remove} {
		if st.prepared != nil {
			st.prepared.Close()
		}
	}
}

// exec runs a statement that changes something, and returns how many rows it affected and what it reports as
// the last insert ID.
func (s *MySQLStore) exec(
	ctx context.Context, doing string, st *mysqlStatement, args ...any,
) (affected, met int64, err error) {
	err = s.calls.call(ctx, func(prepared bool) error {
		result, err := s.execute(ctx, prepared, st, args...)
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
	return 0, 0, s.calls.error(ctx, doing, err)
}

// mysqlCode returns the server's number of an error, or 0 if it comes from elsewhere.
func mysqlCode(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// mysqlFault says what an error means.
func mysqlFault(err error) sqlFault {
	switch mysqlCode(err) {
	case 0:
	case 1213, 1020: // deadlock, or a conflict between the nodes of a cluster; a row changed since it was read
		return sqlCollided
	case 1053, 1927, 4031: // shutdown; killed; idle for too long
		return sqlBroken
	case 1040, 1203:
		return sqlFull
	case 1226: // one of several limits of an account, most of which are an hour's
		if strings.Contains(err.Error(), "'max_user_connections'") {
			return sqlFull
		}
		return sqlLasting
	case 1290, 1792, 1836, 1874, 1036, // an option, a transaction, a server, InnoDB and a table that are read-only
		1047: // a node outside its cluster
		return sqlReadOnly
	case 1461, 1615, 1243, 1295: // too many; to be prepared again; unknown; not for this statement
		return sqlUnprepared
	case 1044, 1142, 1143, 1227:
		return sqlForbidden
	case 1146:
		return sqlMissing
	default:
		return sqlLasting
	}
	if err == errSQLReadOnly {
		return sqlReadOnly
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return sqlUnreached
	}
	// Package sql gives up after three connections that had ended. Callers that wait get those that others give back, and a
	// failover can end several in a row.
	if errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) {
		return sqlBroken
	}
	return sqlLasting
}

// checkServer refuses connections on which the store could not keep its word. It returns the database that
// holds the table.
func (s *MySQLStore) checkServer(ctx context.Context, schema string) (string, error) {
	var database sql.NullString
	var packet int64
	var autocommit bool
	var client, connection string
	err := s.calls.call(ctx, func(bool) error {
		return s.db.QueryRowContext(ctx, "SELECT DATABASE(), @@max_allowed_packet, @@autocommit, @@character_set_client, "+
			"@@character_set_connection").Scan(&database, &packet, &autocommit, &client, &connection)
	})
	schema = cmp.Or(schema, database.String)
	switch {
	case err != nil:
		return "", s.calls.error(ctx, "connect", err)
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
		calls: &s.calls,
		name:  s.table,
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
			if err != nil {
				return err
			}
			return s.calls.call(ctx, func(bool) error {
				_, err := s.db.ExecContext(ctx, statement)
				return err
			})
		},
	}
}

// inspect says what is true of the table, in lines as definition has them. None means that there is no table.
//
// Without LIMIT, sql_select_limit would cut the answers short, as group_concat_max_len would what a server puts together;
// and an empty text can be NULL (EMPTY_STRING_IS_NULL).
func (s *MySQLStore) inspect(ctx context.Context, schema, table string) ([]string, error) {
	const where = " WHERE TABLE_SCHEMA = _utf8mb4 ? AND TABLE_NAME = _utf8mb4 ?"
	var answers [3][][3]string
	for i, query := range []string{
		"SELECT 'engine', COALESCE(ENGINE, TABLE_TYPE), ' ' FROM information_schema.TABLES" + where + " LIMIT 1",
		"SELECT COLUMN_NAME, COLUMN_TYPE, IF(IS_NULLABLE = 'YES', ' ', 'not null') FROM information_schema.COLUMNS" +
			where + " LIMIT 5000",
		"SELECT IF(INDEX_NAME = 'PRIMARY', 'primary key', IF(NON_UNIQUE, 'index', 'unique index')), " +
			"COALESCE(COLUMN_NAME, 'expression'), SEQ_IN_INDEX FROM information_schema.STATISTICS" + where +
			" ORDER BY INDEX_NAME, SEQ_IN_INDEX LIMIT 5000",
	} {
		err := s.calls.call(ctx, func(bool) (err error) {
			answers[i], err = s.texts(ctx, &mysqlStatement{text: query}, []byte(schema), []byte(table))
			return err
		})
		if err != nil || len(answers[0]) == 0 { // so a table made since the first query is missing
			return nil, err
		}
	}
	var lines []string
	for _, row := range append(answers[0], answers[1]...) {
		line := strings.ToLower(strings.TrimSpace(row[0] + " " + row[1] + " " + row[2]))
		lines = append(lines, strings.Replace(line, "bigint(20)", "bigint", 1)) // a width, on older servers
	}
	for _, row := range answers[2] {
		column := strings.ToLower(row[1]) + ")"
		if last := len(lines) - 1; row[2] == "1" {
			lines = append(lines, row[0]+" ("+column)
		} else {
			lines[last] = strings.TrimSuffix(lines[last], ")") + ", " + column
		}
	}
	return lines, nil
}

// texts returns the rows of a query that returns three texts.
func (s *MySQLStore) texts(ctx context.Context, st *mysqlStatement, args ...any) (texts [][3]string, err error) {
	rows, err := s.query(ctx, false, st, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t [3]string
		if err := rows.Scan(&t[0], &t[1], &t[2]); err != nil {
			return nil, err
		}
		texts = append(texts, t)
	}
	return texts, rows.Err()
}

func quoteMySQL(schema, table string) string {
	if schema != "" {
		return "`" + schema + "`.`" + table + "`"
	}
	return "`" + table + "`"
}

// openMySQL is the OpenFunc of mysql: and mariadb: URLs.
func openMySQL(ctx context.Context, rawURL string) (StoreCloser, error) {
	cfg, opts, conns, err := parseMySQLURL(rawURL)
	if err != nil {
		return nil, err
	}
	connector, err := newMySQLConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("session: the mysql: URL: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(sqlIdleTime)
	db.SetConnMaxLifetime(sqlLifetime)
	s := &MySQLStore{db: db, opened: true, calls: sqlCaller{conns: conns, renew: connector.renew}}
	if err := s.open(ctx, opts); err != nil {
		db.Close()
		if _, short := fullMySQLURL(rawURL); short {
			err = fmt.Errorf("%w (the URL has no \"@\": all before the database is taken for user and password, and the server is %s)", err, cfg.Addr)
		}
		return nil, err
	}
	return s, nil
}

// fullMySQLURL returns a URL with the "@" that the short form lacks, and whether it is of that form. Nothing of what
// stands before the database may be taken for a port then: it can be a password.
func fullMySQLURL(rawURL string) (full string, short bool) {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	end := strings.IndexAny(rest+"/", "/?#")
	name, _, account := strings.Cut(rest[:end], ":")
	_, err := netip.ParseAddr(name)
	if !account || strings.ContainsAny(rest[:end], "@[") || err == nil || strings.EqualFold(name, "localhost") {
		return rawURL, false
	}
	return scheme + "://" + rest[:end] + "@" + rest[end:], true
}

// A mysqlConnector has the timeout for connecting include the handshake. Package sql makes the connections for
// which callers wait one after the other, and not with their contexts: one that gets no answer would keep all
// others waiting for the driver's ReadTimeout.
type mysqlConnector struct {
	driver.Connector
	cfg        *mysql.Config
	generation atomic.Uint64
}

func newMySQLConnector(cfg *mysql.Config) (*mysqlConnector, error) {
	connector, err := mysql.NewConnector(cfg)
	return &mysqlConnector{Connector: connector, cfg: cfg}, err
}

// renew makes the connections that were made so far end before they are used again.
func (c *mysqlConnector) renew() { c.generation.Add(1) }

func (c *mysqlConnector) Connect(ctx context.Context) (driver.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	generation := c.generation.Load()
	conn, err := c.Connector.Connect(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		// Not context.DeadlineExceeded: that would be of whoever gets it.
		err = &net.OpError{Op: "dial", Net: c.cfg.Net, Err: os.ErrDeadlineExceeded}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.cfg.Addr, err)
	}
	return mysqlConn{conn.(mysqlDriverConn), c, generation}, nil
}

// mysqlDriverConn is what the store uses of the driver's connections.
type mysqlDriverConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.SessionResetter
	driver.Validator
}

// A mysqlConn is a connection of some generation of its connector's.
type mysqlConn struct {
	mysqlDriverConn
	connector  *mysqlConnector
	generation uint64
}

// ResetSession is called before a connection is used again.
func (c mysqlConn) ResetSession(ctx context.Context) error {
	if !c.IsValid() {
		return driver.ErrBadConn
	}
	return c.mysqlDriverConn.ResetSession(ctx)
}

// IsValid is called before a connection goes back to the others.
func (c mysqlConn) IsValid() bool {
	return c.generation == c.connector.generation.Load() && c.mysqlDriverConn.IsValid()
}

// parseMySQLURL translates a URL as MySQLStore describes it.
func parseMySQLURL(rawURL string) (cfg *mysql.Config, opts *MySQLOptions, conns int, err error) {
	rawURL, _ = fullMySQLURL(rawURL)
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, nil, 0, err
	}
	database := strings.TrimPrefix(u.Path, "/")
	if u.Opaque != "" || u.Fragment != "" || database == "" || strings.ContainsAny(database, "/@") || strings.Contains(u.RawQuery, "@") {
		return nil, nil, 0, fmt.Errorf("session: a %[1]s: URL is %[1]s://user:password@host:port/database, or without host and port %[1]s://user:password/database "+
			"(reserved characters in a name or password are percent-encoded)", u.Scheme)
	}
	table, query := cutParam(u.RawQuery, "table")
	socket, query := cutParam(query, "socket")
	noCreate, query, err := cutCreate(u.Scheme, query)
	if err != nil {
		return nil, nil, 0, err
	}
	pool, query := cutParam(query, "pool_max_conns")
	if conns, err = strconv.Atoi(cmp.Or(pool, strconv.Itoa(sqlConns))); err != nil || conns < 1 {
		return nil, nil, 0, fmt.Errorf("session: the %s: URL: pool_max_conns is a number from 1 on, not %q", u.Scheme, pool)
	}
	if u.Query().Has("strict") { // the driver panics
		return nil, nil, 0, fmt.Errorf("session: the %s: URL: the driver has no parameter strict any more", u.Scheme)
	}
	address := net.JoinHostPort(cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "3306"))
	cfg, err = mysql.ParseDSN("tcp(" + address + ")/?" + strings.ReplaceAll(query, "/", "%2F"))
	if err != nil {
		return nil, nil, 0, fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
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
	return cfg, &MySQLOptions{Table: table, NoCreate: noCreate}, conns, nil
}
