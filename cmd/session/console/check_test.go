package console

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/session"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// A check of each backend finds nothing, and leaves nothing.
func TestCheck(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		t.Parallel()
		rawURL := b.newURL(t)
		result := decode[checked](t, runOK(t, "check", "--json", "--store", rawURL))
		if !result.OK || result.Broken == nil || len(result.Broken) > 0 {
			t.Errorf("%+v", result)
		}
		wantNoScratch(t, rawURL)
	})
}

// In place, what is there stays.
func TestCheckInPlace(t *testing.T) {
	rawURL := redisBackend.newURL(t)
	p := populate(t, openTest(t, rawURL), session.Options{})
	if text := runOK(t, "check", "--in-place", "--store", rawURL); !strings.HasPrefix(text, "redis://127.0.0.1") {
		t.Errorf("it prints %q", text)
	}
	if got := decode[statistics](t, runOK(t, "stats", "--json", "--store", rawURL)); got.Records[session.RecordSession] != 4 || !alive(t, p.m, p.ann) {
		t.Errorf("afterwards: %+v", got)
	}
}

// A broken store is told by the rules that it breaks, and an interrupted check cleans up as well.
func TestCheckFails(t *testing.T) {
	t.Run("a server in trouble", func(t *testing.T) {
		server := startRedis(t)
		client := redis.NewClient(&redis.Options{Addr: server.Addrs[0]})
		defer client.Close()
		if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
			t.Fatal(err)
		}
		r := run(t, "check", "--json", "--store", server.URL)
		result := decode[checked](t, r.stdout)
		if r.code != exitFailed || result.OK || len(result.Broken) < 10 || !strings.Contains(r.stderr, "rule versions") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		for _, b := range []backend{dirBackend, postgresBackend} {
			rawURL := b.newURL(t)
			cmd := newCommand(t, "check", "--store", rawURL)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for !hasScratch(t, rawURL) && t.Context().Err() == nil {
				time.Sleep(time.Millisecond) // between two looks at what another process does
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitFailed {
				t.Errorf("%s: it ended with %v", b.name, err)
			}
			wantNoScratch(t, rawURL)
		}
	})
}

func hasScratch(t *testing.T, rawURL string) bool { return len(scratches(t, rawURL)) > 0 }

func wantNoScratch(t *testing.T, rawURL string) {
	t.Helper()
	if left := scratches(t, rawURL); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// scratches returns the places of checks that there are.
func scratches(t *testing.T, rawURL string) (found []string) {
	t.Helper()
	ctx := t.Context()
	note := func(names []string, err error) {
		t.Helper()
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.Contains(name, "session_check_") {
				found = append(found, name)
			}
		}
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	switch u.Scheme {
	case "file", "dir":
		note(filepath.Glob(filepath.Join(filepath.Dir(u.Path), "*")))
	case "redis":
		client := redis.NewClient(&redis.Options{Addr: u.Host})
		defer client.Close()
		note(client.Keys(ctx, "*").Result())
	case "mysql":
		c := mysql.NewConfig()
		c.User, c.Net, c.Addr, c.DBName = "root", "tcp", u.Host, strings.Trim(u.Path, "/")
		connector, err := mysql.NewConnector(c)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		note(names(db.QueryContext(ctx, "SHOW TABLES")))
	case "postgres":
		plain, _, _ := strings.Cut(rawURL, "?")
		conn, err := pgx.Connect(ctx, plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		rows, err := conn.Query(ctx, "SELECT tablename::text FROM pg_tables")
		if err != nil {
			t.Fatal(err)
		}
		note(pgx.CollectRows(rows, pgx.RowTo[string]))
	case "mongodb":
		client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + u.Host))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Disconnect(context.WithoutCancel(ctx))
		note(client.Database(strings.Trim(u.Path, "/")).ListCollectionNames(ctx, bson.D{}))
	}
	return found
}

func names(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, rows.Err()
}
