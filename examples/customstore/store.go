package main

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite" // in Go alone, without cgo

	"example.com/session"
)

// A sqliteStore keeps sessions in an SQLite database, which the processes of one machine can share.
type sqliteStore struct{ db *sql.DB }

const schema = `CREATE TABLE IF NOT EXISTS sessions (id BLOB PRIMARY KEY, version INTEGER NOT NULL,
	expires INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
	CREATE INDEX IF NOT EXISTS sessions_expires ON sessions (expires)`

// openSQLite is the session.OpenFunc of URLs such as sqlite:/var/lib/app/sessions.db.
func openSQLite(ctx context.Context, rawURL string) (session.Store, error) {
	settings := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(wal)"}}
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(rawURL, "sqlite:")+"?"+settings.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer at a time: within the process, they line up here
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sqliteStore{db}, nil
}

func (s *sqliteStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	var rec session.Record
	var expires int64
	row := s.db.QueryRowContext(ctx, `SELECT version, expires, data FROM sessions WHERE id = ? AND expires > ?`,
		id[:], time.Now().UnixMilli())
	switch err := row.Scan(&rec.Version, &expires, &rec.Data); {
	case errors.Is(err, sql.ErrNoRows):
		return rec, session.ErrNotFound
	case err != nil:
		return rec, failure(ctx, err)
	case expires != never:
		rec.Expires = time.UnixMilli(expires)
	}
	return rec, nil
}

// Save is the rule that all else rests on, in one statement: whoever saw the present version may write the next one.
func (s *sqliteStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	statement := `UPDATE sessions SET version = version + 1, expires = ?2, data = ?3
		WHERE id = ?1 AND version = ?5 AND expires > ?4`
	if rec.Version == 0 { // there must be none, or one that has expired
		statement = `INSERT INTO sessions VALUES (?1, 1, ?2, ?3) ON CONFLICT (id)
			DO UPDATE SET version = 1, expires = ?2, data = ?3 WHERE expires <= ?4 AND ?5 = 0`
	}
	data := append([]byte{}, rec.Data...) // no Data are no NULL
	result, err := s.db.ExecContext(ctx, statement, id[:], milliseconds(rec.Expires), data,
		time.Now().UnixMilli(), int64(rec.Version))
	if err != nil {
		return failure(ctx, err)
	}
	if n, err := result.RowsAffected(); n == 0 || err != nil {
		return errors.Join(err, session.ErrConflict)
	}
	return nil
}

func (s *sqliteStore) Delete(ctx context.Context, id session.ID) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM sessions WHERE id = ?`, id[:])
	return failure(ctx, err)
}

// DeleteExpired makes it a session.Sweeper, for a server that does not remove expired records by itself.
func (s *sqliteStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	result, err := s.db.ExecContext(ctx, `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires <= ?
		LIMIT ?)`, time.Now().UnixMilli(), limit)
	if err != nil {
		return 0, failure(ctx, err)
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// Close is called by session.Close.
func (s *sqliteStore) Close() error { return s.db.Close() }

// never stands for the zero time.
const never = math.MaxInt64

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixMilli()
}

// failure returns err, or what ended the context: the driver says only that it was interrupted.
func failure(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
