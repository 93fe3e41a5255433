// Package servertest runs real servers for tests: Redis, with and without TLS, with Sentinel, and as a Cluster; Valkey,
// Memcached, MySQL, MariaDB, PostgreSQL, and MongoDB, alone and as a replica set. They listen on the loopback interface at
// free ports, keep their files in a temporary directory, and end with the test binary, however that ends.
//
// [Redis], [RedisTLS], [RedisCluster], [RedisSentinel], [Valkey], [Memcached], [MySQL], [MariaDB], [PostgreSQL] and
// [MongoDB] return a server that all tests of the test binary share; tests keep apart by using keys, tables, databases
// or prefixes of their own. [Start] returns a server of the test's own, which can be paused, killed and restarted.
//
// Environment variables:
//
//   - SESSION_TEST_REDIS, SESSION_TEST_REDISS, SESSION_TEST_REDIS_CLUSTER, SESSION_TEST_REDIS_SENTINEL,
//     SESSION_TEST_VALKEY, SESSION_TEST_MEMCACHED, SESSION_TEST_MYSQL, SESSION_TEST_MARIADB, SESSION_TEST_POSTGRES
//     and SESSION_TEST_MONGODB each hold the URL of a server to share instead of one that this package would start.
//     The tests may write to it as they like. Start ignores them.
//   - SESSION_TEST_REQUIRE=1 makes a test fail, not skip, when its server is not installed; but for Valkey, which
//     Debian does not have in every release, and for a replica set of MongoDB, which no release has. With 0 no server is
//     started, and each test that needs one is skipped.
//   - TMPDIR and XDG_CACHE_HOME are where data directories and their templates go. Templates, up to a hundred
//     megabytes for each version of a server, are made once and stay.
//
// MySQL is a mysqld on PATH, or the one that install.sh fetched into the cache directory.
//
// MongoDB is a mongod if one is on PATH, and otherwise mongo-java-server, an implementation of its protocol in
// Java that keeps everything in memory. Tests cannot see where mongod differs from it.
package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"example.com/session/internal/scratch"
	"github.com/redis/go-redis/v9/logging"
)

// A Server is a running server, or a cluster of them, that answered when it was returned. Its fields are not to
// be changed. Its methods are for the goroutine that runs the test, and not for concurrent use.
type Server struct {
	// Name says what runs, with its version: "Redis 7.0.15", "mongo-java-server 1.47.0 (memory backend)".
	Name string
	// URL is what session.Open takes: redis://127.0.0.1:PORT/0.
	URL string
	// Addrs are the host:port pairs of its processes; one, but for a cluster, and for Sentinel, which comes after
	// the primary and the replica.
	Addrs []string

	tb    testing.TB
	group *group // nil for a server that this package did not start
}

// Apart returns s.URL with a random name that nobody else uses for one of its parameters: table, collection, prefix. If s
// is shared, the table or collection goes when tb ends, after what tb has to clean up since; what has a prefix stays
// until it expires.
func (s *Server) Apart(tb testing.TB, parameter string) string {
	tb.Helper()
	separator := "?"
	if strings.Contains(s.URL, "?") {
		separator = "&"
	}
	rawURL := s.URL + separator + parameter + "=t" + strings.ToLower(rand.Text()[:12])
	if strings.HasPrefix(rawURL, string(KindMemcached)+":") {
		rawURL += "&timeout=10s" // its client gives up after a second, which a busy machine can take
	}
	if s.tb == nil && parameter != "prefix" {
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
			defer cancel()
			if err := scratch.Drop(ctx, rawURL); err != nil {
				tb.Error(err)
			}
		})
	}
	return rawURL
}

// A Kind is a kind of server. Its text is a scheme that session.Open knows it by, but for a cluster's and Sentinel's.
type Kind string

// The kinds of servers.
const (
	KindRedis           Kind = "redis"
	KindRedisTLS        Kind = "rediss"         // by TLS only, with a certificate that is signed by itself
	KindRedisCluster    Kind = "redis-cluster"  // three masters, each with a replica
	KindRedisSentinel   Kind = "redis-sentinel" // a primary, its replica, and a Sentinel that watches them
	KindValkey          Kind = "valkey"
	KindMemcached       Kind = "memcached"
	KindMySQL           Kind = "mysql"
	KindMariaDB         Kind = "mariadb"
	KindPostgreSQL      Kind = "postgres"
	KindMongoDB         Kind = "mongodb"
	KindMongoReplicaSet Kind = "mongodb-replica-set" // three mongod; only Start knows it
)

// Redis returns the shared Redis server, which keeps nothing on disk.
// It skips the test if none is installed or SESSION_TEST_REQUIRE is 0, and fails it for a missing one if that is 1.
func Redis(tb testing.TB) *Server { tb.Helper(); return share(tb, KindRedis) }

// RedisTLS returns the shared Redis server that speaks TLS. Its URL says that its certificate is not to be verified:
// rediss://127.0.0.1:PORT/0?skip_verify=true. It skips or fails the test as Redis does.
func RedisTLS(tb testing.TB) *Server { tb.Helper(); return share(tb, KindRedisTLS) }

// RedisCluster returns the shared Redis Cluster of three masters, each with a replica. Its URL names the masters, which come
// first in Addrs, before their replicas: redis://HOST:PORT?addr=HOST:PORT&addr=HOST:PORT. It skips or fails the test as
// Redis does.
func RedisCluster(tb testing.TB) *Server { tb.Helper(); return share(tb, KindRedisCluster) }

// RedisSentinel returns the shared Sentinel, with the primary and the replica that it watches. Its URL names it and
// them: redis://HOST:PORT/0?master_name=main. It skips or fails the test as Redis does.
func RedisSentinel(tb testing.TB) *Server { tb.Helper(); return share(tb, KindRedisSentinel) }

// Valkey returns the shared Valkey server, which keeps nothing on disk. It skips the test if none is installed.
func Valkey(tb testing.TB) *Server { tb.Helper(); return share(tb, KindValkey) }

// Memcached returns the shared Memcached server. It skips or fails the test as Redis does.
func Memcached(tb testing.TB) *Server { tb.Helper(); return share(tb, KindMemcached) }

// MySQL returns the shared MySQL server, with the user root, who has no password, and the empty database test in
// utf8mb4. It skips or fails the test as Redis does.
func MySQL(tb testing.TB) *Server { tb.Helper(); return share(tb, KindMySQL) }

// MariaDB returns the shared MariaDB server, with the user root, who has no password, and the empty database
// test in utf8mb4. It skips or fails the test as Redis does.
func MariaDB(tb testing.TB) *Server { tb.Helper(); return share(tb, KindMariaDB) }

// PostgreSQL returns the shared PostgreSQL server, with the superuser postgres, who needs no password, and the
// empty database test in UTF-8. It skips or fails the test as Redis does.
func PostgreSQL(tb testing.TB) *Server { tb.Helper(); return share(tb, KindPostgreSQL) }

// MongoDB returns the shared MongoDB server, or mongo-java-server in its place; Server.Name tells which.
// It skips or fails the test as Redis does.
func MongoDB(tb testing.TB) *Server { tb.Helper(); return share(tb, KindMongoDB) }

// Start starts a server for tb alone and stops it when tb ends; if tb failed, the end of the server's log is in
// the test's output. args are appended to its command line (to that of each node of a cluster). It skips or
// fails the test as Redis does.
//
// A write that a client was told of survives Kill and Restart(false), except in Memcached and mongo-java-server,
// which have nothing on disk.
func Start(tb testing.TB, kind Kind, args ...string) *Server {
	tb.Helper()
	s, err := start(kind, true, args)
	if err != nil {
		giveUp(tb, err)
	}
	s.tb = tb
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s: the end of its log:\n%s", s.Name, s.group.logs())
		}
		if err := s.group.stop(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Main runs the tests, stops the shared servers and returns the exit code for os.Exit:
//
//	func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }
//
// Servers do not outlive a test binary without it, either; with it they are gone when the binary exits.
func Main(m *testing.M) int {
	logging.Disable() // go-redis writes about every connection that a test breaks, and buries what failed
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	var wg sync.WaitGroup
	errs := make(chan error, len(shared.servers))
	for _, once := range shared.servers {
		if s, err := once(); err == nil && s.group != nil {
			wg.Go(func() { errs <- s.group.stop() })
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	clear(shared.servers)
	return code
}

// shared are the servers of this test binary. They outlive every test, so no test can hold them.
var shared struct {
	sync.Mutex
	servers map[Kind]func() (*Server, error)
}

func share(tb testing.TB, kind Kind) *Server {
	tb.Helper()
	shared.Lock()
	once := shared.servers[kind]
	if once == nil {
		once = sync.OnceValues(func() (*Server, error) {
			if env := envName(kind); os.Getenv(env) != "" {
				return external(env, os.Getenv(env))
			}
			return start(kind, false, nil)
		})
		if shared.servers == nil {
			shared.servers = make(map[Kind]func() (*Server, error))
		}
		shared.servers[kind] = once
	}
	shared.Unlock()
	s, err := once() // not under the lock: another kind can start meanwhile
	if err != nil {
		giveUp(tb, err)
	}
	return s
}

// errMissing is wrapped by errors that say what to install.
var errMissing = errors.New("servertest: not installed")

// errOptional is an errMissing that SESSION_TEST_REQUIRE leaves alone.
var errOptional = fmt.Errorf("%w", errMissing)

// errUnwanted is for runs without servers, though they may be installed.
var errUnwanted = errors.New("servertest: SESSION_TEST_REQUIRE is 0: no server is started")

func giveUp(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, errUnwanted) || errors.Is(err, errOptional) || errors.Is(err, errMissing) && os.Getenv("SESSION_TEST_REQUIRE") != "1" {
		tb.Skip(err)
	}
	tb.Fatal(err)
}

// Program returns the path of a program that a test needs. It skips or fails the test as Redis does.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := look(name)
	if err != nil {
		giveUp(tb, err)
	}
	return path
}

func envName(kind Kind) string {
	return "SESSION_TEST_" + strings.ToUpper(strings.ReplaceAll(string(kind), "-", "_"))
}
