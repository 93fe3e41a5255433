package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A PostgresStore keeps records in a table of PostgreSQL (12 or later). It implements Toucher, Sweeper, Lister
// and io.Closer, and is safe for concurrent use.
//
// Every operation is one statement, which takes one round trip, but for its first use on a connection, when pgx
// prepares it. None needs a transaction, whatever the isolation level. The server's clock plays no part.
//
// The table has the columns of [PostgresSchema] and no others: id, the 32 bytes of the ID; version; expires, in
// milliseconds since 1970 (9223372036854775807 for never); data. A row whose version is not positive counts as
// absent. An administrator may alter what makes no difference to that: the table can be UNLOGGED or partitioned by
// id, and have more indexes.
//
// A server that is set up to lose commits in a crash (synchronous_commit, UNLOGGED), or a failover to a replica
// that lags behind, can bring back a session as it was some moments before.
type PostgresStore struct {
	db    PostgresDB
	pool  *pgxpool.Pool // what Open made and Close closes, or nil
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
	// there and complete is never altered; to use one, an account needs SELECT, INSERT, UPDATE and DELETE only.
	NoCreate bool
}

// NewPostgresStore returns a store that uses db, which stays the caller's to close. It creates what is missing
// of the table; an index that is missing from a table in use keeps writers waiting while it is built. A table of
// another shape is an error. ctx bounds the call only.
//
// Any query execution mode of pgx will do. Behind a connection pooler that keeps no prepared statements, use
// one that needs none (default_query_exec_mode=exec), at the price of more work for the server.
func NewPostgresStore(ctx context.Context, db PostgresDB, opts *PostgresOptions) (*PostgresStore, error) {
	if opts == nil {
		opts = &PostgresOptions{}
	}
	if db == nil {
		return nil, errors.New("session: postgres: NewPostgresStore needs a *pgxpool.Pool")
	}
	schema, table, err := splitTable("postgres", opts.Table)
	if err != nil {
		return nil, err
	}
	s := &PostgresStore{db: db, table: quotePostgres(schema, table)}
	s.compose()
	if err := s.definition(schema, table, opts.Table).ensure(ctx, opts.NoCreate); err != nil {
		return nil, err
	}
	return s, nil
}

// PostgresSchema returns the statements that create the table of a PostgresStore and its index, for a server
// where the store's account may not. table is as in PostgresOptions. They do nothing to what is there.
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
// quote Data in an error about it.
func (s *PostgresStore) compose() {
	t := s.table
	s.load = "SELECT version, expires, data FROM " + t + " WHERE id = $1::bytea"
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
	s.page = "SELECT id, version, expires, data FROM " + t + " WHERE id >= $1::bytea AND expires > $2::bigint " +
		"AND version > 0 AND octet_length(id) = 32 ORDER BY id LIMIT $3::bigint"
	s.count = "SELECT count(*) FROM " + t + " WHERE expires > $1::bigint"
}

// Load implements Store.
func (s *PostgresStore) Load(ctx context.Context, id ID) (Record, error) {
	var version, expires int64
	var data []byte
	err := s.scan(ctx, s.load, []any{id[:]}, &version, &expires, &data)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Record{}, ErrNotFound
	case err != nil:
		return Record{}, sqlError(ctx, "postgres", "load", err)
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
		return sqlError(ctx, "postgres", "touch", err)
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
		err := retrySQL(ctx, rolledBackByPostgres, brokenPostgres, func() error {
			rows, err := s.db.Query(ctx, s.page, from[:], time.Now().UnixMilli(), int64(sqlPage))
			if err != nil {
				return err
			}
			entries, err = pgx.CollectRows(rows, scanPostgresEntry)
			return err
		})
		if err != nil {
			return nil, sqlError(ctx, "postgres", "list", err)
		}
		return entries, nil
	})
}

func scanPostgresEntry(row pgx.CollectableRow) (Entry, error) {
	var e Entry
	var id []byte
	var version, expires int64
	if err := row.Scan(&id, &version, &expires, &e.Record.Data); err != nil {
		return Entry{}, err
	}
	copy(e.ID[:], id)
	e.Record.Version, e.Record.Expires = uint64(version), expiryTime(expires)
	return e, nil
}

// Count implements Lister.
func (s *PostgresStore) Count(ctx context.Context) (int, error) {
	var n int
	if err := s.scan(ctx, s.count, []any{time.Now().UnixMilli()}, &n); err != nil {
		return 0, sqlError(ctx, "postgres", "count", err)
	}
	return n, nil
}

// Drop removes the table and all that is in it, for tables that were made for a test. That there is none is no error.
// All stores that use the table fail from then on.
func (s *PostgresStore) Drop(ctx context.Context) error {
	_, err := s.exec(ctx, "drop the table", "DROP TABLE IF EXISTS "+s.table)
	return err
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
	err := retrySQL(ctx, rolledBackByPostgres, brokenPostgres, func() (err error) {
		tag, err = s.db.Exec(ctx, statement, args...)
		return err
	})
	switch {
	case err == nil:
		return tag.RowsAffected(), nil
	case postgresCode(err) == "54000": // program_limit_exceeded
		return 0, fmt.Errorf("session: postgres: %s: %w: %v", doing, ErrTooLarge, err)
	}
	return 0, sqlError(ctx, "postgres", doing, err)
}

// scan runs a statement that returns at most one row, or pgx.ErrNoRows.
func (s *PostgresStore) scan(ctx context.Context, statement string, args []any, dest ...any) error {
	return retrySQL(ctx, rolledBackByPostgres, brokenPostgres, func() error {
		return s.db.QueryRow(ctx, statement, args...).Scan(dest...)
	})
}

// postgresCode returns the SQLSTATE of an error, or "" if it does not come from the server.
func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// rolledBackByPostgres reports whether the server has undone the statement because of another one at the same
// time: a deadlock, or a conflict that the isolation levels above READ COMMITTED do not allow.
func rolledBackByPostgres(err error) bool {
	code := postgresCode(err)
	return code == "40001" || code == "40P01"
}

// brokenPostgres reports whether the connection was of no use any more: the server, or somebody on the way to it,
// has ended it.
func brokenPostgres(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.SeverityUnlocalized == "FATAL"
	}
	_, ok := errors.AsType[*net.OpError](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// definition says what the table has to be. The option is its name as the application gave it.
func (s *PostgresStore) definition(schema, table, option string) *sqlTable {
	return &sqlTable{
		server: "postgres",
		name:   s.table,
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
			if err == nil {
				_, err = s.db.Exec(ctx, statements)
			}
			return err
		},
		raced: func(err error) bool {
			switch postgresCode(err) {
			case "42P07", "42710", "23505", "40P01": // IF NOT EXISTS looks before it locks
				return true
			}
			return false
		},
	}
}

// inspect says what is true of the table, in lines as definition has them. None means that there is no table.
func (s *PostgresStore) inspect(ctx context.Context) ([]string, error) {
	rows, err := s.db.Query(ctx, `
SELECT attname::text || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END
FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT CASE WHEN indisprimary THEN 'primary key (' WHEN indisunique THEN 'unique index (' ELSE 'index (' END ||
	(SELECT string_agg(coalesce(attname::text, '?'), ', ' ORDER BY place)
	FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
	LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number) || ')'
FROM pg_index WHERE indrelid = to_regclass($1::text) AND (indisunique OR indisvalid AND indpred IS NULL)`, s.table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func quotePostgres(schema, table string) string {
	if schema != "" {
		return `"` + schema + `"."` + table + `"`
	}
	return `"` + table + `"`
}

// openPostgres is the OpenFunc of postgres: and postgresql: URLs.
func openPostgres(ctx context.Context, rawURL string) (Store, error) {
	cfg, opts, err := parsePostgresURL(rawURL)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("session: postgres: %w", err)
	}
	s, err := NewPostgresStore(ctx, pool, opts)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s.pool = pool
	return s, nil
}

// parsePostgresURL translates postgres://user:password@host:port/database?parameters. All is as pgx, and libpq,
// has it, defaults and environment variables included, but for the parameter table.
func parsePostgresURL(rawURL string) (*pgxpool.Config, *PostgresOptions, error) {
	opts := &PostgresOptions{}
	_, rest, _ := strings.Cut(rawURL, ":")
	base, query, _ := cutLast(rest, "?") // a password may have one too
	opts.Table, query = cutParam(query, "table")
	cfg, err := pgxpool.ParseConfig("postgres:" + base + "?" + query)
	// An "@" after the one that ends the password is most likely part of the password, and so is what comes
	// before it: neither pgx's error nor one about the wrong host must show that.
	authority, ok := strings.CutPrefix(base, "//")
	user, after, found := strings.Cut(authority, "@")
	if !ok || found && strings.Contains(user, "/") || strings.Contains(after, "@") {
		return nil, nil, errors.New("session: a postgres: URL is postgres://user:password@host:port/database?parameters " +
			"(reserved characters in a name or password are percent-encoded)")
	}
	if err != nil {
		_, reason, _ := cutLast(err.Error(), "`: ") // after the URL, of which pgx hides the password as far as it finds it
		return nil, nil, fmt.Errorf("session: the postgres: URL: %s", reason)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if !strings.Contains(query, "pool_max_conns=") {
		cfg.MaxConns = int32(sqlConns())
	}
	return cfg, opts, nil
}
