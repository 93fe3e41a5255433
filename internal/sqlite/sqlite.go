// Package sqlite tests session.SQLiteStore on each driver for SQLite, in a module of its own, as the library depends on none
// of them. Two of them have the same name in package sql, so that each is tested by a program of its own.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/sessiontest"
)

// A Driver is one of those that are tested.
type Driver struct {
	// Name is what package sql calls it.
	Name string
	// Pragma returns the parameter of a data source name that has a connection begin with a PRAGMA.
	Pragma func(name, value string) (parameter, text string)
	// Limit sets SQLITE_LIMIT_LENGTH of a connection.
	Limit func(conn *sql.Conn, bytes int) error
}

// Call is the parameter _pragma=name(value), which most drivers have.
func Call(name, value string) (parameter, text string) { return "_pragma", name + "(" + value + ")" }

// fast are the settings of a connection that waits for no disk, unless a power loss is at issue.
var fast = []string{"busy_timeout=0", "journal_mode=WAL", "synchronous=NORMAL"}

// Open returns a pool of connections to the file. Each of the settings is a PRAGMA, or a parameter that begins with a "?".
// Of several with one name, the last counts.
func (d Driver) Open(path string, settings ...string) (*sql.DB, error) {
	query := url.Values{}
	for i, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		if slices.ContainsFunc(settings[i+1:], func(later string) bool { return strings.HasPrefix(later, name+"=") }) {
			continue
		}
		if parameter, found := strings.CutPrefix(name, "?"); found {
			query.Add(parameter, value)
			continue
		}
		parameter, text := d.Pragma(name, value)
		query.Add(parameter, text)
	}
	db, err := sql.Open(d.Name, "file:"+filepath.ToSlash(path)+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	return db, nil
}

// OpenStore returns a store in a directory of its own, which it makes if it is missing. Close closes the connections as well.
func (d Driver) OpenStore(ctx context.Context, dir string, settings ...string) (session.StoreCloser, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db, err := d.Open(filepath.Join(dir, "sessions.db"), append([]string{"busy_timeout=0"}, settings...)...)
	if err != nil {
		return nil, err
	}
	store, err := session.NewSQLiteStore(ctx, db, nil)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return pooledStore{store, db}, nil
}

// A pooledStore is a store with a pool of its own.
type pooledStore struct {
	*session.SQLiteStore
	db *sql.DB
}

func (s pooledStore) Close() error { return errors.Join(s.SQLiteStore.Close(), s.db.Close()) }

// open is Open for as long as the test takes.
func (d Driver) open(t *testing.T, path string, settings ...string) *sql.DB {
	t.Helper()
	db, err := d.Open(path, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

// newStore returns a store in the file of a pool.
func newStore(t *testing.T, db *sql.DB, opts *session.SQLiteOptions) *session.SQLiteStore {
	t.Helper()
	store, err := session.NewSQLiteStore(t.Context(), db, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}

// newPath returns the path of a file that is not there yet.
func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "sessions.db") }

// stores returns what the conformance kit needs to know. The pool of each store has at most so many connections.
func (d Driver) stores(conns int, settings ...string) sessiontest.Stores {
	return sessiontest.Stores{
		Place:     newPath,
		Processes: true,
		Open: func(ctx context.Context, path string) (session.Store, error) {
			db, err := d.Open(path, slices.Concat(fast, settings)...)
			if err != nil {
				return nil, err
			}
			db.SetMaxOpenConns(conns)
			store, err := session.NewSQLiteStore(ctx, db, nil)
			if err != nil {
				return nil, errors.Join(err, db.Close())
			}
			return closesDB{store, db}, nil
		},
	}
}

// closesDB is a store with a pool of its own.
type closesDB struct {
	*session.SQLiteStore
	db *sql.DB
}

func (s closesDB) Close() error { return errors.Join(s.SQLiteStore.Close(), s.db.Close()) }

// Run tests the store on a driver.
func Run(t *testing.T, d Driver) {
	for name, settings := range map[string][]string{
		"WAL":          nil,
		"busy_timeout": {"busy_timeout=5000"},
		"DELETE":       {"journal_mode=DELETE"},
		"shared cache": {"?cache=shared"},
		"immediate":    {"?_txlock=immediate", "?_timefmt=sqlite", "?_loc=auto"},
	} {
		t.Run("Contract/"+name, func(t *testing.T) {
			stores := d.stores(4, settings...)
			stores.Short = name != "WAL" // the others run the same statements
			stores.Processes = name != "shared cache"
			sessiontest.Run(t, stores)
		})
	}
	t.Run("Contract/one connection", func(t *testing.T) {
		stores := d.stores(1)
		stores.Short = true
		sessiontest.Run(t, stores)
	})
	t.Run("Sessions", func(t *testing.T) {
		sessiontest.RunSessions(t, d.stores(4))
	})
	for name, test := range map[string]func(*testing.T, Driver){
		"Bytes": testBytes, "DamagedRows": testDamagedRows, "TooLarge": testTooLarge, "Pages": testPages, "Sweepers": testSweepers,
		"Tables": testTables, "OtherShapes": testOtherShapes, "NoCreate": testNoCreate, "TableDropped": testTableDropped,
		"OpenAtOnce": testOpenAtOnce, "Refused": testRefused, "ReadOnly": testReadOnly, "NoDatabase": testNoDatabase,
		"Locked": testLocked, "LockedForLong": testLockedForLong, "Unlocked": testUnlocked, "Vacuum": testVacuum, "Close": testClose,
		"FullDisk": testFullDisk, "LogoutOnFullDisk": testLogoutOnFullDisk, "PowerLoss": testPowerLoss,
	} {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}
