package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // in Go alone, without cgo

	"example.com/session"
)

const sqliteNote = "                          parameter table; with create=true what is missing is made"

// openSQLite is the session.OpenFunc of sqlite: URLs. The library leaves the driver, and with it the URL, to the application.
func openSQLite(ctx context.Context, rawURL string) (session.StoreCloser, error) {
	u, err := url.Parse(rawURL)
	path := ""
	if err == nil {
		path, err = url.PathUnescape(cmp.Or(u.Opaque, u.EscapedPath()))
	}
	if err != nil || u.User != nil || u.Host != "" && u.Host != "localhost" || u.Fragment != "" || path == "" {
		return nil, errors.New("the sqlite: URL is sqlite:///path, or sqlite:path for a relative one, and what is not a letter or " +
			"digit of the path may have to be percent-encoded")
	}
	mode, opts := "rw", &session.SQLiteOptions{NoCreate: true}
	for name, values := range u.Query() {
		switch {
		case name == "table":
			opts.Table = values[0]
		case name == "create" && values[0] == "true":
			mode, opts.NoCreate = "rwc", false
		case name != "create" || values[0] != "false":
			return nil, fmt.Errorf("the sqlite: URL has the parameters table and create, which is true or false, and not %q", name)
		}
	}
	source := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=" + mode}
	db, err := sql.Open("sqlite", source.String())
	if err != nil {
		return nil, err
	}
	const conns = 4
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	store, err := session.NewSQLiteStore(ctx, db, opts)
	if err != nil {
		db.Close()
		return nil, err
	}
	return sqliteStore{store, db}, nil
}

// A sqliteStore is a store with connections of its own.
type sqliteStore struct {
	*session.SQLiteStore
	db *sql.DB
}

func (s sqliteStore) Close() error { return errors.Join(s.SQLiteStore.Close(), s.db.Close()) }
