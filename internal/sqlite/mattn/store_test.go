package mattn_test

import (
	"database/sql"
	"testing"

	"example.com/session/internal/sqlite"

	"github.com/mattn/go-sqlite3"
)

func TestStore(t *testing.T) {
	sqlite.Run(t, sqlite.Driver{
		Name:   "sqlite3",
		Pragma: func(name, value string) (parameter, text string) { return "_" + name, value },
		Limit: func(conn *sql.Conn, bytes int) error {
			return conn.Raw(func(conn any) error {
				conn.(*sqlite3.SQLiteConn).SetLimit(sqlite3.SQLITE_LIMIT_LENGTH, bytes)
				return nil
			})
		},
	})
}
