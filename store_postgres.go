package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A PostgresStore keeps records in a table of PostgreSQL (12 or later). It implements Toucher, Sweeper, Lister,
// Counter and StoreCloser, and is safe for concurrent use.
//
// Every operation is one statement, which takes one round trip, but for its first use on a connection, when pgx
// prepares it. None needs a transaction, whatever the isolation level. The server's clock plays no part. Where a pooler
// between them loses what was prepared (PgBouncer in transaction mode), or the table was altered, statements are not
// prepared for a minute: a read then takes about twice as long.
//
// The table has the columns of [PostgresSchema] and no others: id, the 32 bytes of the ID; version; expires, in
// milliseconds since 1970 (9223372036854775807 for never); data. A row whose version is not positive counts as
// absent. An administrator may alter what makes no difference to that: the table can be UNLOGGED or partitioned by
// id, and have more indexes.
//
// The account needs CONNECT on the database, USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on the table;
// CREATE on the schema to make the table where it is missing. Where only the index is missing, the account has to own the
// table. All settings of a connection are free, but that bytea_output has to be hex, its default, where pgx's mode is exec
// or simple_protocol.
//
// A server that is set up to lose commits in a crash (synchronous_commit, UNLOGGED), or a failover to a replica
// that lags behind, can bring back a session as it was some moments before.
//
// A failover can leave connections that work, to a server that has become read-only. A store that Open made notices at
// the first statement, one that only reads included, leaves all connections, and runs it again on a new one. While new
// ones lead to a server that is read-only, too, it reads from that, a second at a time, and saves fail. Where the server
// has no connection left (max_connections), or is starting, a call waits for one until its context ends, or for 5
// seconds.
//
// The URL for Open, whose scheme is postgres or postgresql:
//
//	postgres://user[:password]@host[:port]/database[?parameters]
//
// The parameter table is that of PostgresOptions, and create=false is its NoCreate. All else is as pgx, and libpq, has it,
// defaults and environment variables included, but for these: pool_max_conns, how many connections there are at most, is 8
// unless given; pool_max_conn_idle_time 3 seconds, pool_max_conn_lifetime 5 minutes; connect_timeout 5 seconds; and where
// the URL names several servers, target_session_attrs is read-write.
type PostgresStore struct {
	db    PostgresDB
	pool  *pgxpool.Pool // what Open made and Close closes, or nil
	calls sqlCaller
	table string

	load, insert, update, touch, remove, sweep, page, count string
}

// PostgresDB is what a PostgresStore needs of pgx. *pgxpool.Pool has it. *pgx.Conn has it too, but the store is
// as safe for concurrent use as that is: not at all. A pgx.Tx is of no use: each operation has to commit.
type PostgresDB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// PostgresOptions are the options of NewPostgresStore. The zero value, and nil, mean the defaults.
type PostgresOptions struct {
	// Table is the table's name, which a schema's name and a dot may precede. Empty means "sessions". A name is
	// an ASCII letter or underscore and up to 49 more letters, digits and underscores, and is not folded to
	// lower case. Stores with different tables can share a database.
	Table string
	// NoCreate makes a missing table or index an error. False means that they are created. A table that is
	// there and complete is never altered.
	NoCreate bool
}

// NewPostgresStore returns a store that uses db, which stays the caller's to close. It creates what is missing
// of the table; an index that is missing from a table in use keeps writers waiting while it is built. A table of
// another shape is an error. ctx bounds the call only.
//
// Any query execution mode of pgx will do. Behind a pooler that keeps no prepared statements, the store does without them,
// once it has noticed; default_query_exec_mode=cache_describe spares it that.
//
// After a failover that leaves db's connections working, to a server that has become read-only, saves fail with an error
// that says so, and reads show what is out of date, until db closes the connections: by Reset of a pool, when its
// MaxConnLifetime is over (an hour, unless set), or, at the first save that fails, by a function in
// ConnConfig.OnPgError that returns false for the code 25006.
func NewPostgresStore(ctx context.Context, db PostgresDB, opts *PostgresOptions) (*PostgresStore, error) {
	s := &PostgresStore{db: db, calls: sqlCaller{conns: sqlConns}}
	if err := s.open(ctx, opts); err != nil {
		return nil, err
	}
	return s, nil
}

// open gets a store ready that has a db, and calls as far as they depend on it.
func (s *PostgresStore) open(ctx context.Context, opts *PostgresOptions) error {
	if opts == nil {
		opts = &PostgresOptions{}
	}
	if s.db == nil {
		return errors.New("session: postgres: NewPostgresStore needs a *pgxpool.Pool")
	}
	schema, table, err := splitTable("postgres", opts.Table)
	if err != nil {
		return err
	}
	s.table = quotePostgres(schema, table)
	s.calls.server, s.calls.table = "postgres", s.table
	s.calls.schema, s.calls.fault = "session.PostgresSchema", postgresFault
	s.compose()
	if err := s.definition(schema, table, opts.Table).ensure(ctx, opts.NoCreate); err != nil {
		return err
	}
	return s.checkPrivileges(ctx)
}

// PostgresSchema returns the statements that create the table of a PostgresStore and its index, for a server
// where the store's account may not; grant that SELECT, INSERT, UPDATE and DELETE on the table then. table is as in
// PostgresOptions. The statements do nothing to what is there.
func PostgresSchema(table string) (string, error) {
	schema, name, err := splitTable("postgres", table)
	if err != nil {
		return "", err
	}
	// no CHECK: the server prepares it anew for each statement, which made a save take a sixth longer
	return `CREATE TABLE IF NOT EXISTS ` + quotePostgres(schema, name) + ` (
	id bytea PRIMARY KEY,
	version bigint NOT NULL,
	expires bigint NOT NULL,
	data bytea NOT NULL
);
` + postgresIndex(schema, name) + ";\n", nil
}

func postgresIndex(schema, table string) string {
	return `CREATE INDEX IF NOT EXISTS "` + table + `_expires_idx" ON ` + quotePostgres(schema, table) + ` (expires)`
}

// compose writes the statements. Arguments have a type, so that pgx never has to guess one, and never has to
// quote Data in an error about it. Statements that read also tell whether the server takes writes; load does so where
// there is no record, too.
func (s *PostgresStore) compose() {
	const readOnly = "current_setting('transaction_read_only')::bool"
	t := s.table
	s.load = "SELECT " + readOnly + ", coalesce(version, 0), coalesce(expires, 0), data " +
		"FROM (SELECT 1) AS one LEFT JOIN " + t + " ON id = $1::bytea"
	s.insert = "INSERT INTO " + t + " AS t (id, version, expires, data) " +
		"VALUES ($1::bytea, 1, $2::bigint, $3::bytea) ON CONFLICT (id) DO UPDATE " +
		"SET version = 1, expires = excluded.expires, data = excluded.data " +
		"WHERE t.expires <= $4::bigint OR t.version < 1"
	s.update = "UPDATE " + t + " SET version = version + 1, expires = $2::bigint, data = $3::bytea " +
		"WHERE id = $1::bytea AND expires > $4::bigint AND version = $5::bigint"
	s.touch = "UPDATE " + t + " SET expires = CASE version WHEN $3::bigint THEN $2::bigint ELSE expires END " +
		"WHERE id = $1::bytea AND expires > $4::bigint RETURNING version"
	s.remove = "DELETE FROM " + t + " WHERE id = $1::bytea"
	// ARRAY makes the planner run the inner query once, whatever it thinks of the table.
	s.sweep = "DELETE FROM " + t + " WHERE id = ANY (ARRAY(SELECT id FROM " + t +
		" WHERE expires <= $1::bigint ORDER BY expires LIMIT $2::bigint FOR UPDATE SKIP LOCKED))"
	s.page = "SELECT " + readOnly + ", id, version, expires, data FROM " + t + " WHERE id >= $1::bytea AND expires > $2::bigint " +
		"AND version > 0 AND octet_length(id) = 32 ORDER BY id LIMIT $3::bigint"
	s.count = "SELECT " + readOnly + ", count(*) FROM " + t + " WHERE expires > $1::bigint"
}

// Load implements Store.
func (s *PostgresStore) Load(ctx context.Context, id ID) (Record, error) {
	var version, expires int64
	var data []byte
	if err := s.read(ctx, s.load, []any{id[:]}, &version, &expires, &data); err != nil {
		return Record{}, s.calls.error(ctx, "load", err)
	}
	return sqlRecord("postgres", id, version, expires, data)
}

// Save implements Store.
func (s *PostgresStore) Save(ctx context.Context, id ID, rec Record) error {
	// what the server allocates in one piece, for a message, a value or a row, is less than 1 GiB
	const maxData = 1<<30 - 1<<12
	if len(rec.Data) > maxData {
		return fmt.Errorf("session: postgres: save: %d bytes: %w", len(rec.Data), ErrTooLarge)
	}
	data := rec.Data
	if data == nil {
		data = []byte{} // nil would be NULL
	}
	if rec.Version >= maxSQLVersion {
		return ErrConflict
	}
	args := []any{id[:], expiryMillis(rec.Expires), data, time.Now().UnixMilli()}
	statement := s.insert
	if rec.Version > 0 {
		statement, args = s.update, append(args, int64(rec.Version))
	}
	affected, err := s.exec(ctx, "save", statement, args...)
	if err == nil && affected == 0 {
		err = ErrConflict
	}
	return err
}

// Delete implements Store.
func (s *PostgresStore) Delete(ctx context.Context, id ID) error {
	_, err := s.exec(ctx, "delete", s.remove, id[:])
	return err
}

// Touch implements Toucher.
func (s *PostgresStore) Touch(ctx context.Context, id ID, rec Record) error {
	var found int64
	version := int64(min(rec.Version, maxSQLVersion))
	args := []any{id[:], expiryMillis(rec.Expires), version, time.Now().UnixMilli()}
	err := s.scan(ctx, s.touch, args, &found)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && found < 1:
		return ErrNotFound
	case err != nil:
		return s.calls.error(ctx, "touch", err)
	case found != version:
		return ErrConflict
	}
	return nil
}

// DeleteExpired implements Sweeper. It reads and locks no more rows than it removes, and passes over those that
// somebody else is removing or replacing. Several processes may call it at the same time; one of them can then
// return less than limit before none is left.
func (s *PostgresStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	affected, err := s.exec(ctx, "sweep", s.sweep, time.Now().UnixMilli(), int64(limit))
	return int(affected), err
}

// List implements Lister. It reads some hundred records at a time, in the order of their IDs, and holds no
// connection while the caller looks at them.
func (s *PostgresStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return listSQL(func(from ID) ([]Entry, error) {
		var entries []Entry
		err := s.calls.call(ctx, func(prepared bool) error {
			args := postgresArgs(prepared, from[:], time.Now().UnixMilli(), int64(sqlPage))
			rows, err := s.db.Query(ctx, s.page, args...)
			if err != nil {
				return err
			}
			readOnly := false
			entries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Entry, error) {
				return scanPostgresEntry(row, &readOnly)
			})
			if err == nil && readOnly {
				err = errSQLReadOnly
			}
			return err
		})
		if err = exceptReadOnly(err); err != nil {
			return nil, s.calls.error(ctx, "list", err)
		}
		return entries, nil
	})
}

func scanPostgresEntry(row pgx.CollectableRow, readOnly *bool) (Entry, error) {
	var e Entry
	var id []byte
	var version, expires int64
	if err := row.Scan(readOnly, &id, &version, &expires, &e.Record.Data); err != nil {
		return Entry{}, err
	}
	copy(e.ID[:], id)
	e.Record.Version, e.Record.Expires = uint64(version), expiryTime(expires)
	return e, nil
}

// Count implements Counter. To count all goes through an index, anything else through the table.
func (s *PostgresStore) Count(ctx context.Context, at int, b byte) (int, error) {
	statement, args := s.count, []any{time.Now().UnixMilli()}
	if at >= 0 {
		statement, args = s.count+" AND substring(data FROM $2 FOR 1) = $3", append(args, at+1, []byte{b})
	}
	var n int
	if err := s.read(ctx, statement, args, &n); err != nil {
		return 0, s.calls.error(ctx, "count", err)
	}
	return n, nil
}

// Close closes the connections if Open made them, after the calls in progress, and otherwise does nothing.
func (s *PostgresStore) Close() error {
	if s.pool != nil {
		s.pool.Close()
	}
	return nil
}

// exec runs a statement that changes something, and returns how many rows it affected.
func (s *PostgresStore) exec(ctx context.Context, doing, statement string, args ...any) (int64, error) {
	var tag pgconn.CommandTag
	err := s.calls.call(ctx, func(prepared bool) (err error) {
		tag, err = s.db.Exec(ctx, statement, postgresArgs(prepared, args...)...)
		return err
	})
	switch {
	case err == nil:
		return tag.RowsAffected(), nil
	case postgresCode(err) == "54000": // program_limit_exceeded
		return 0, fmt.Errorf("session: postgres: %s: %w: %v", doing, ErrTooLarge, err)
	}
	return 0, s.calls.error(ctx, doing, err)
}

// scan runs a statement that returns at most one row, or pgx.ErrNoRows.
func (s *PostgresStore) scan(ctx context.Context, statement string, args []any, dest ...any) error {
	return s.calls.call(ctx, func(prepared bool) error {
		return s.db.QueryRow(ctx, statement, postgresArgs(prepared, args...)...).Scan(dest...)
	})
}

// read runs a query that returns one row, whose first column tells whether the server is read-only.
func (s *PostgresStore) read(ctx context.Context, statement string, args []any, dest ...any) error {
	var readOnly bool
	dest = append([]any{&readOnly}, dest...)
	return exceptReadOnly(s.calls.call(ctx, func(prepared bool) error {
		err := s.db.QueryRow(ctx, statement, postgresArgs(prepared, args...)...).Scan(dest...)
		if err == nil && readOnly {
			err = errSQLReadOnly
		}
		return err
	}))
}

// postgresArgs returns arguments, with the one before them that makes pgx run a statement without a name of its own on the
// server. It learns the types of the results when it first runs it on a connection; the mode that does without would have
// them depend on bytea_output.
func postgresArgs(prepared bool, args ...any) []any {
	if prepared {
		return args
	}
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// postgresCode returns the SQLSTATE of an error, or "" if it does not come from the server.
func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// postgresFault says what an error means.
func postgresFault(err error) sqlFault {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return postgresAnswer(err, e)
	}
	if err == errSQLReadOnly {
		return sqlReadOnly
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		if _, ok := errors.AsType[net.Error](e); ok { // else it has answered, and does without TLS, say
			return sqlUnreached
		}
		return sqlLasting
	}
	if _, ok := errors.AsType[*net.OpError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return sqlBroken
	}
	return sqlLasting
}

// postgresAnswer says what it means that the server, or somebody on the way to it, has answered with an error.
func postgresAnswer(err error, e *pgconn.PgError) sqlFault {
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	switch e.Code {
	case "40001", "40P01": // a conflict that the isolation level does not allow, or with a standby; deadlock
		return sqlCollided
	case "53300", "57P03": // too many, of the server, the database or the account; starting, or shutting down
		return sqlFull
	case "08P01":
		if strings.HasPrefix(e.Message, "no more connections allowed") { // PgBouncer
			return sqlFull
		}
	case "25006":
		return sqlReadOnly
	case "26000", "42P05", // no such statement, or one already: a pooler has changed the connection behind
		"0A000": // the table has changed
		return sqlUnprepared
	case "42501":
		return sqlForbidden
	case "42P01":
		return sqlMissing
	}
	if e.SeverityUnlocalized == "FATAL" && !connecting {
		return sqlBroken
	}
	return sqlLasting
}

// checkPrivileges fails early if the account lacks a privilege.
func (s *PostgresStore) checkPrivileges(ctx context.Context) error {
	var missing, account string
	err := s.scan(ctx, `SELECT current_user, coalesce(string_agg(privilege, ', '), '')
FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
WHERE NOT has_table_privilege($1::text, privilege)
AND (privilege = 'DELETE' OR NOT has_any_column_privilege($1::text, privilege))`,
		[]any{s.table}, &account, &missing)
	if err != nil {
		return s.calls.error(ctx, "look at the privileges of the table "+s.table, err)
	}
	if missing != "" {
		return fmt.Errorf("session: postgres: the account %q may not %s on the table %s; its owner can GRANT that", account,
			missing, s.table)
	}
	return nil
}

// definition says what the table has to be. The option is its name as the application gave it.
func (s *PostgresStore) definition(schema, table, option string) *sqlTable {
	return &sqlTable{
		calls: &s.calls,
		name:  s.table,
		lines: []string{
			"id bytea not null", "version bigint not null", "expires bigint not null", "data bytea not null",
			"primary key (id)", "index (expires)",
		},
		inspect: s.inspect,
		create: func(ctx context.Context, exists bool) error {
			statements, err := PostgresSchema(option)
			if exists {
				// not the table's too: it would be created a second time if search_path finds it in another
				// schema than the one where it creates
				statements = postgresIndex(schema, table)
			}
			if err != nil {
				return err
			}
			return s.calls.call(ctx, func(bool) error {
				_, err := s.db.Exec(ctx, statements)
				return err
			})
		},
	}
}

// inspect says what is true of the table, in lines as definition has them. None means that there is no table.
func (s *PostgresStore) inspect(ctx context.Context) ([]string, error) {
	const query = `
SELECT attname::text || ' ' || replace(format_type(atttypid, atttypmod), '"', '') || CASE WHEN attnotnull THEN ' not null' ELSE '' END
FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT CASE WHEN indisprimary THEN 'primary key (' WHEN indisunique THEN 'unique index (' ELSE 'index (' END ||
	(SELECT string_agg(coalesce(attname::text, '?'), ', ' ORDER BY place)
	FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
	LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number) || ')'
FROM pg_index WHERE indrelid = to_regclass($1::text) AND (indisunique OR indisvalid AND indpred IS NULL)`
	var lines []string
	err := s.calls.call(ctx, func(prepared bool) error {
		rows, err := s.db.Query(ctx, query, postgresArgs(prepared, s.table)...)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return lines, err
}

func quotePostgres(schema, table string) string {
	if schema != "" {
		return `"` + schema + `"."` + table + `"`
	}
	return `"` + table + `"`
}

// openPostgres is the OpenFunc of postgres: and postgresql: URLs.
func openPostgres(ctx context.Context, rawURL string) (StoreCloser, error) {
	cfg, opts, err := parsePostgresURL(rawURL)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("session: postgres: %w", err)
	}
	s := &PostgresStore{db: pool, pool: pool, calls: sqlCaller{conns: int(cfg.MaxConns), renew: pool.Reset}}
	if err := s.open(ctx, opts); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

// parsePostgresURL translates a URL as PostgresStore describes it.
func parsePostgresURL(rawURL string) (*pgxpool.Config, *PostgresOptions, error) {
	opts := &PostgresOptions{}
	_, rest, _ := strings.Cut(rawURL, ":")
	rest, ok := strings.CutPrefix(rest, "//")
	at := strings.LastIndexByte(rest, '@') + 1
	user := strings.TrimSuffix(rest[:at], "@") // with a password, that may have a "?"
	base, query, _ := strings.Cut(rest[at:], "?")
	hosts, database, _ := strings.Cut(base, "/")
	opts.Table, query = cutParam(query, "table")
	// An "@" after the one that ends the password is most likely part of the password, and so is what comes
	// before it: neither pgx's error nor one about the wrong host must show that.
	_, userErr := url.PathUnescape(user)
	_, nameErr := url.PathUnescape(database)
	params, queryErr := url.ParseQuery(query)
	if !ok || cmp.Or(userErr, nameErr, queryErr) != nil || strings.ContainsAny(user, "/@#") || strings.Contains(rest, " ") ||
		!validAddresses(hosts) || params.Has("") {
		return nil, nil, errors.New("session: a postgres: URL is postgres://user:password@host:port/database?parameters " +
			"(reserved characters in a name or password are percent-encoded)")
	}
	noCreate, query, err := cutCreate("postgres", query)
	if err != nil {
		return nil, nil, err
	}
	opts.NoCreate = noCreate
	cfg, err := pgxpool.ParseConfig("postgres://" + rest[:at] + base + "?" + query)
	if err != nil {
		_, reason, _ := cutLast(err.Error(), "`: ") // after the URL, of which pgx hides the password as far as it finds it
		return nil, nil, fmt.Errorf("session: the postgres: URL: %s", reason)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	unset := func(parameter string) bool { return !strings.Contains(query, parameter+"=") }
	if unset("pool_max_conns") {
		cfg.MaxConns = sqlConns
	}
	if unset("pool_max_conn_idle_time") {
		cfg.MaxConnIdleTime, cfg.HealthCheckPeriod = sqlIdleTime, sqlIdleTime/3
	}
	if unset("pool_max_conn_lifetime") {
		cfg.MaxConnLifetime = sqlLifetime
	}
	conn := cfg.ConnConfig
	several := slices.ContainsFunc(conn.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return f.Host != conn.Host || f.Port != conn.Port // else it is the same without TLS
	})
	if several && unset("target_session_attrs") && os.Getenv("PGTARGETSESSIONATTRS") == "" {
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // the first may be a standby by now
	}
	return cfg, opts, nil
}
