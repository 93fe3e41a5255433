package bench

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"github.com/bradfitz/gomemcache/memcache"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// A sizing is what sessions take of one kind of server.
type sizing struct {
	Backend string `json:"backend"`
	Server  string `json:"server,omitempty"`
	Place   string `json:"place"` // memory or disk
	// Bytes are what one takes: a session of three short values, one of ten values of 2 KiB together, and the list of a user
	// with one session. Saved says that for the first after each was saved once more.
	Bytes map[string]float64 `json:"bytes"`
	// Micros are the microseconds of processor time that the server takes for an operation on the first. Zero: there is no
	// server.
	Micros map[string]float64 `json:"cpu_µs,omitempty"`
}

// A medium is a store whose size can be told.
type medium struct {
	place  string
	server *servertest.Server              // nil: there is none
	open   func(name string) session.Store // one that is empty
	size   func(name string) float64       // of all that is in it
}

// The records that are measured.
const (
	smallRecord = "small"
	largeRecord = "2 KiB"
	listRecord  = "list"
	savedRecord = "small, saved once more"

	longerRecord = "list of two"
	endedRecord  = "ended"
)

// records returns what a store holds for a user who is logged in once, and for a session that has ended, by name. The values
// are text that nobody can compress.
func records() map[string][]byte {
	found := map[string][]byte{}
	for _, p := range payloads[:2] {
		store := session.NewMemoryStore()
		m := must(session.New(store, secret, &session.Options{SweepInterval: session.Never}))
		ctx := session.WithClient(context.Background(), netip.MustParseAddr("192.0.2.1"), newRequest("").UserAgent())
		login := func(ctx context.Context) error {
			s := session.FromContext(ctx)
			for key, v := range p.values {
				if text, ok := v.(string); ok {
					v = noise(len(text))
				}
				s.Set(key, v)
			}
			s.SetUser("user-1234567")
			return nil
		}
		token := must(m.Do(ctx, "", login))
		find := func(names map[session.RecordKind]string) {
			for info, err := range m.Records(context.Background()) {
				check(err)
				if name := names[info.Kind]; name != "" {
					found[name] = must(store.Load(context.Background(), info.ID)).Data
				}
			}
		}
		find(map[session.RecordKind]string{session.RecordSession: p.name, session.RecordIndex: listRecord})
		must(m.Do(ctx, "", login)) // another device
		find(map[session.RecordKind]string{session.RecordIndex: longerRecord})
		must(m.Do(ctx, token, func(ctx context.Context) error {
			session.FromContext(ctx).Destroy()
			return nil
		}))
		find(map[session.RecordKind]string{session.RecordTombstone: endedRecord})
		m.Close()
	}
	return found
}

func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[rand.IntN(64)]
	}
	return string(b)
}

// measure fills the stores of a medium with n records of each kind.
func (md *medium) measure(name string, n int) sizing {
	z := sizing{Backend: name, Place: md.place, Bytes: map[string]float64{}}
	if md.server != nil {
		z.Server, z.Micros = md.server.Name, map[string]float64{}
	}
	for _, kind := range []string{listRecord, largeRecord, smallRecord} {
		data := records()[kind]
		table := "sizes_" + strings.ToLower(strings.ReplaceAll(kind, " ", "_"))
		store := md.open(table)
		before := md.size(table)
		each := func(op string, f func(id session.ID) error) {
			began := md.cpu()
			inParallel(n, 16, func(i int) { check(f(crowdID(i))) })
			if md.server != nil && kind == smallRecord {
				z.Micros[op] = float64(md.cpu()-began) / float64(time.Microsecond) / float64(n)
			}
		}
		save := func(version uint64) func(session.ID) error {
			return func(id session.ID) error {
				rec := session.Record{Version: version, Expires: crowdExpiry(false), Data: slices.Clone(data)} // which a store may keep
				return store.Save(context.Background(), id, rec)
			}
		}
		each("create", save(0))
		z.Bytes[kind] = (md.size(table) - before) / float64(n)
		if kind != smallRecord {
			runtime.KeepAlive(store)
			continue
		}
		each("load", func(id session.ID) error {
			_, err := store.Load(context.Background(), id)
			return err
		})
		if md.server != nil && name != "memcached" { // whose touch needs what a Load has seen
			each("touch", func(id session.ID) error {
				return session.Touch(context.Background(), store, id, session.Record{Version: 1, Expires: crowdExpiry(false), Data: data})
			})
		}
		if name != "memcached" {
			each("save", save(1))
			z.Bytes[savedRecord] = (md.size(table) - before) / float64(n)
		}
		runtime.KeepAlive(store)
	}
	return z
}

func (md *medium) cpu() time.Duration {
	if md.server == nil {
		return 0
	}
	return md.server.CPU()
}

// media are the stores that can be measured.
var media = []struct {
	name string
	open func(testing.TB) *medium
}{
	{"memory", memoryMedium}, {"file", fileMedium}, {"dir", dirMedium}, {"sqlite", sqliteMedium}, {"redis", redisMedium},
	{"memcached", memcachedMedium}, {"mariadb", mysqlMedium}, {"postgresql", postgresMedium},
}

func memoryMedium(testing.TB) *medium {
	return &medium{
		place: "memory",
		open:  func(string) session.Store { return session.NewMemoryStore() },
		size:  func(string) float64 { return heapInUse() },
	}
}

func fileMedium(tb testing.TB) *medium {
	dir := tb.TempDir()
	return &medium{
		place: "disk",
		open: func(name string) session.Store {
			store := must(session.NewFileStore(filepath.Join(dir, name), &session.FileOptions{NoSync: true}))
			tb.Cleanup(func() { check(store.Close()) })
			return store
		},
		size: func(name string) float64 { return onDisk(filepath.Join(dir, name)) },
	}
}

func dirMedium(tb testing.TB) *medium {
	dir := tb.TempDir()
	return &medium{
		place: "disk",
		open: func(name string) session.Store {
			store := must(session.NewDirStore(filepath.Join(dir, name), &session.DirOptions{NoSync: true}))
			tb.Cleanup(func() { check(store.Close()) })
			return store
		},
		size: func(name string) float64 { return onDisk(filepath.Join(dir, name)) },
	}
}

func sqliteMedium(tb testing.TB) *medium {
	dir := tb.TempDir()
	dbs := map[string]*sql.DB{}
	return &medium{
		place: "disk",
		open: func(name string) session.Store {
			db := must(sql.Open("sqlite3", "file:"+filepath.Join(dir, name)+"?_journal_mode=WAL&_synchronous=OFF&_busy_timeout=0"))
			store := must(session.NewSQLiteStore(context.Background(), db, nil))
			tb.Cleanup(func() { check(store.Close()); check(db.Close()) })
			dbs[name] = db
			return store
		},
		size: func(name string) float64 {
			must(dbs[name].Exec("PRAGMA wal_checkpoint(TRUNCATE)"))
			return onDisk(filepath.Join(dir, name))
		},
	}
}

// onDisk returns the bytes of the blocks that a file or directory takes.
func onDisk(path string) (bytes float64) {
	check(filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info := must(os.Lstat(path))
		bytes += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
		return nil
	}))
	return bytes
}

func redisMedium(tb testing.TB) *medium {
	server := servertest.Start(tb, servertest.KindRedis, "--appendonly", "no")
	client := redis.NewClient(&redis.Options{Addr: server.Addrs[0], PoolSize: connections, ContextTimeoutEnabled: true})
	tb.Cleanup(func() { client.Close() })
	return &medium{
		place: "memory", server: server,
		open: func(name string) session.Store {
			check(client.FlushAll(context.Background()).Err())
			return session.NewRedisStore(client, nil)
		},
		size: func(string) float64 {
			info := must(client.Info(context.Background(), "memory").Result())
			_, rest, _ := strings.Cut(info, "used_memory:")
			text, _, _ := strings.Cut(rest, "\r")
			return must(strconv.ParseFloat(text, 64))
		},
	}
}

func memcachedMedium(tb testing.TB) *medium {
	server := servertest.Start(tb, servertest.KindMemcached, "-m", "2048")
	client := memcache.New(server.Addrs[0])
	client.MaxIdleConns, client.Timeout = connections, 10*time.Second
	tb.Cleanup(func() { client.Close() })
	return &medium{
		place: "memory", server: server,
		open: func(name string) session.Store {
			return session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: strings.TrimPrefix(name, "sizes_") + ":"})
		},
		// what its pages take, in chunks of fixed sizes
		size: func(string) float64 {
			conn := must(net.Dial("tcp", server.Addrs[0]))
			defer conn.Close()
			fmt.Fprint(conn, "stats slabs\r\n")
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if text, ok := strings.CutPrefix(lines.Text(), "STAT total_malloced "); ok {
					return must(strconv.ParseFloat(text, 64))
				}
			}
			panic("bench: Memcached does not tell its size")
		},
	}
}

func mysqlMedium(tb testing.TB) *medium {
	server := servertest.Start(tb, servertest.KindMariaDB, "--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M")
	db := must(sql.Open("mysql", dataSource(server.URL)))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	tb.Cleanup(func() { db.Close() })
	return &medium{
		place: "disk", server: server,
		open: func(name string) session.Store {
			store := must(session.NewMySQLStore(context.Background(), db, &session.MySQLOptions{Table: name}))
			tb.Cleanup(func() { check(store.Close()) })
			return store
		},
		size: func(name string) (bytes float64) {
			check(db.QueryRow("SELECT file_size FROM information_schema.innodb_sys_tablespaces WHERE name = ?", "test/"+name).Scan(&bytes))
			return bytes
		},
	}
}

func postgresMedium(tb testing.TB) *medium {
	server := servertest.Start(tb, servertest.KindPostgreSQL, "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "autovacuum=off")
	ctx := context.Background()
	config := must(pgxpool.ParseConfig(server.URL))
	config.MaxConns = connections
	pool := must(pgxpool.NewWithConfig(ctx, config))
	tb.Cleanup(pool.Close)
	return &medium{
		place: "disk", server: server,
		open: func(name string) session.Store {
			return must(session.NewPostgresStore(ctx, pool, &session.PostgresOptions{Table: name}))
		},
		size: func(name string) (bytes float64) {
			check(pool.QueryRow(ctx, "SELECT pg_total_relation_size($1::text::regclass)::float8", name).Scan(&bytes))
			return bytes
		},
	}
}
