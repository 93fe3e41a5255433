package modernc_test

import (
	"database/sql"
	"testing"

	"example.com/session/internal/sqlite"

	modernc "modernc.org/sqlite"
)

func TestStore(t *testing.T) {
	const limitLength = 0
	sqlite.Run(t, sqlite.Driver{
		Name: "sqlite", Pragma: sqlite.Call,
		Limit: func(conn *sql.Conn, bytes int) error {
			_, err := modernc.Limit(conn, limitLength, bytes)
			return err
		},
	})
}
