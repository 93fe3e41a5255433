package session_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
)

// A store works with its account's password, and shows it in no error: neither when the server refuses another one,
// nor when the server is gone.
func TestStoresHidePasswords(t *testing.T) {
	const password, wrong = "right@:/?#&%'", "wrong@:/?#&%'"
	quoted := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	mysql := func(t *testing.T, server *servertest.Server) {
		db := openDB(t, server.URL, "")
		mustExec(t, db, "CREATE USER alice@'%' IDENTIFIED BY "+quoted)
		mustExec(t, db, "GRANT ALL ON test.* TO alice@'%'")
	}
	for _, test := range []struct {
		kind    servertest.Kind
		args    func(*testing.T) []string
		account func(*testing.T, *servertest.Server) // makes alice's
		refusal string
	}{
		{servertest.KindRedis, nil, func(t *testing.T, server *servertest.Server) {
			rules := []any{"ACL", "SETUSER", "alice", "on", ">" + password, "~*", "&*", "+@all"}
			if err := redisClient(t, server).Do(t.Context(), rules...).Err(); err != nil {
				t.Fatal(err)
			}
		}, "WRONGPASS"},
		{servertest.KindMySQL, nil, mysql, "Access denied"},
		{servertest.KindMariaDB, nil, mysql, "Access denied"},
		{servertest.KindPostgreSQL, passwordRules, func(t *testing.T, server *servertest.Server) {
			pool := newPool(t, server.URL)
			mustExecPostgres(t, pool, "CREATE ROLE alice LOGIN PASSWORD "+quoted)
			mustExecPostgres(t, pool, "GRANT CREATE ON SCHEMA public TO alice")
		}, "password authentication failed"},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			var args []string
			if test.args != nil {
				args = test.args(t)
			}
			server := servertest.Start(t, test.kind, args...)
			test.account(t, server)

			_, err := session.Open(t.Context(), withUser(t, server.URL, "alice", wrong))
			wantError(t, err, wrong, test.refusal)

			store := openStore(t, withUser(t, server.URL, "alice", password))
			id := fill(t, store, 1, time.Time{})[0]
			server.Kill()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, loadErr := store.Load(ctx, id)
			for op, err := range map[string]error{
				"load":   loadErr,
				"save":   store.Save(ctx, id, session.Record{Version: 1}),
				"create": store.Save(ctx, randomID(), session.Record{}),
				"touch":  session.Touch(ctx, store, id, session.Record{Version: 1}),
				"delete": store.Delete(ctx, id),
			} {
				wantError(t, err, password)
				for _, known := range []error{session.ErrNotFound, session.ErrConflict, ctx.Err()} {
					if known != nil && errors.Is(err, known) {
						t.Errorf("%s without a server: %v", op, err)
					}
				}
				for _, escaped := range []string{url.QueryEscape(password), url.PathEscape(password)} {
					if err != nil && strings.Contains(err.Error(), escaped) {
						t.Errorf("%s: the error shows the password: %v", op, err)
					}
				}
			}
		})
	}
}

// passwordRules returns arguments that make PostgreSQL ask everybody but postgres for a password.
func passwordRules(t *testing.T) []string {
	t.Helper()
	hba := filepath.Join(t.TempDir(), "hba")
	if err := os.Chmod(filepath.Dir(filepath.Dir(hba)), 0o755); err != nil { // for the account that it runs as
		t.Fatal(err)
	}
	const rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(hba, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"-c", "hba_file=" + hba}
}
