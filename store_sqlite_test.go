//go:build !encrypted

package session_test

import (
	"strings"
	"testing"

	"example.com/session"
)

var _ sqlStore = (*session.SQLiteStore)(nil)

// SQLiteStore is tested in internal/sqlite, which has drivers. These tests need none.
func TestSQLiteNames(t *testing.T) {
	for _, name := range append(badTableNames(), "main.sessions") {
		if schema, err := session.SQLiteSchema(name); err == nil {
			t.Errorf("%q: %s", name, schema)
		}
	}
	for name, want := range map[string]string{"": `"sessions"`, "My_sessions_2": `"My_sessions_2"`} {
		if schema, err := session.SQLiteSchema(name); err != nil || strings.Count(schema, want) != 2 {
			t.Errorf("%q: %s, %v", name, schema, err)
		}
	}
	_, err := session.NewSQLiteStore(t.Context(), nil, nil)
	wantError(t, err, "", "*sql.DB")
}
