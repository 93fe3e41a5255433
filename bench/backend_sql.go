package bench

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"example.com/session"
	"example.com/session/internal/servertest"
	"github.com/alexedwards/scs/mysqlstore"
	"github.com/alexedwards/scs/pgxstore"
	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
)

func mysqlBackend(tb testing.TB) backend {
	// Room for what a run keeps there; a server in use has it.
	server := servertest.Start(tb, servertest.KindMariaDB,
		"--innodb-buffer-pool-size=2G", "--innodb-log-file-size=512M", "--max-allowed-packet=64M")
	db := must(sql.Open("mysql", dataSource(server.URL)))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	tb.Cleanup(func() { db.Close() })
	// The second is what the README of scs asks for, but for LONGBLOB: BLOB ends below 64 KiB.
	for _, statement := range []string{
		"CREATE TABLE bare (id VARCHAR(64) CHARACTER SET ascii PRIMARY KEY, data LONGBLOB NOT NULL)",
		"CREATE TABLE sessions (token CHAR(43) PRIMARY KEY, data LONGBLOB NOT NULL, expiry TIMESTAMP(6) NOT NULL)",
		"CREATE INDEX sessions_expiry_idx ON sessions (expiry)",
	} {
		must(db.Exec(statement))
	}
	ctx := context.Background()
	store := func(table string) *session.MySQLStore {
		return must(session.NewMySQLStore(ctx, db, &session.MySQLOptions{Table: table}))
	}
	main, bareMySQL := store("ours"), newMySQLClient(db)
	tb.Cleanup(func() { check(main.Close()) })
	return backend{
		name: "mariadb", server: server.Name, remote: true,
		libraries: []library{
			ours(main), cached(main), floor(bareMySQL), bare(bareMySQL), newSCS(mysqlstore.NewWithCleanupInterval(db, 0)),
		},
		sweeps: 2,
		crowd: func(tb testing.TB, name string, n, expired int) session.Store {
			crowd := store(name)
			tb.Cleanup(func() { check(crowd.Close()) })
			must(db.Exec("INSERT INTO "+name+" SELECT UNHEX(SHA2(seq, 256)), 1, IF(seq <= ?, ?, ?), ? FROM "+
				fmt.Sprintf("seq_1_to_%d", n),
				expired, crowdExpiry(true).UnixMilli(), crowdExpiry(false).UnixMilli(), sampleData()))
			return crowd
		},
	}
}

// A mysqlClient has its statements prepared: without, each would take two round trips.
type mysqlClient struct{ load, insert, update *sql.Stmt }

func newMySQLClient(db *sql.DB) mysqlClient {
	return mysqlClient{
		load:   must(db.Prepare("SELECT data FROM bare WHERE id = ?")),
		insert: must(db.Prepare("INSERT INTO bare (id, data) VALUES (?, ?)")),
		update: must(db.Prepare("UPDATE bare SET data = ? WHERE id = ?")),
	}
}

func (c mysqlClient) get(ctx context.Context, key string) (data []byte, err error) {
	err = c.load.QueryRowContext(ctx, key).Scan(&data)
	return data, err
}

func (c mysqlClient) add(ctx context.Context, key string, data []byte) error {
	_, err := c.insert.ExecContext(ctx, key, data)
	return err
}

func (c mysqlClient) replace(ctx context.Context, key string, data []byte) error {
	_, err := c.update.ExecContext(ctx, data, key)
	return err
}

func postgresBackend(tb testing.TB) backend {
	server := servertest.Start(tb, servertest.KindPostgreSQL, "-c", "shared_buffers=1GB", "-c", "max_wal_size=4GB")
	ctx := context.Background()
	config := must(pgxpool.ParseConfig(server.URL))
	config.MaxConns = connections
	pool := must(pgxpool.NewWithConfig(ctx, config))
	tb.Cleanup(pool.Close)
	// The second is what the README of scs asks for.
	must(pool.Exec(ctx, `
CREATE TABLE bare (id text PRIMARY KEY, data bytea NOT NULL);
CREATE TABLE sessions (token text PRIMARY KEY, data bytea NOT NULL, expiry timestamptz NOT NULL);
CREATE INDEX sessions_expiry_idx ON sessions (expiry)`))
	store := func(table string) *session.PostgresStore {
		return must(session.NewPostgresStore(ctx, pool, &session.PostgresOptions{Table: table}))
	}
	main := store("ours")
	return backend{
		name: "postgresql", server: server.Name, remote: true,
		libraries: []library{
			ours(main), cached(main), floor(postgresClient{pool}), bare(postgresClient{pool}), newSCS(pgxstore.NewWithCleanupInterval(pool, 0)),
		},
		sweeps: 2,
		crowd: func(tb testing.TB, name string, n, expired int) session.Store {
			crowd := store(name)
			must(pool.Exec(ctx, "INSERT INTO "+name+" SELECT sha256(n::text::bytea), 1, "+
				"CASE WHEN n <= $1::bigint THEN $2::bigint ELSE $3::bigint END, $4::bytea FROM generate_series(1, $5::bigint) AS n",
				expired, crowdExpiry(true).UnixMilli(), crowdExpiry(false).UnixMilli(), sampleData(), n))
			must(pool.Exec(ctx, "VACUUM ANALYZE "+name))
			return crowd
		},
	}
}

type postgresClient struct{ *pgxpool.Pool }

func (c postgresClient) get(ctx context.Context, key string) (data []byte, err error) {
	err = c.QueryRow(ctx, "SELECT data FROM bare WHERE id = $1", key).Scan(&data)
	return data, err
}

func (c postgresClient) add(ctx context.Context, key string, data []byte) error {
	_, err := c.Exec(ctx, "INSERT INTO bare (id, data) VALUES ($1, $2)", key, data)
	return err
}

func (c postgresClient) replace(ctx context.Context, key string, data []byte) error {
	_, err := c.Exec(ctx, "UPDATE bare SET data = $2 WHERE id = $1", key, data)
	return err
}
