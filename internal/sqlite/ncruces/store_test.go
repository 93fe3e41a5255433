package ncruces_test

import (
	"database/sql"
	"testing"

	"example.com/session/internal/sqlite"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
)

func TestStore(t *testing.T) {
	sqlite.Run(t, sqlite.Driver{
		Name: "sqlite3", Pragma: sqlite.Call,
		Limit: func(conn *sql.Conn, bytes int) error {
			return conn.Raw(func(conn any) error {
				conn.(driver.Conn).Raw().Limit(sqlite3.LIMIT_LENGTH, bytes)
				return nil
			})
		},
	})
}
