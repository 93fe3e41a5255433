package servertest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

var kinds = []Kind{
	KindRedis, KindRedisTLS, KindRedisCluster, KindRedisSentinel, KindValkey, KindMemcached, KindMySQL, KindMariaDB,
	KindPostgreSQL, KindMongoDB,
}

func TestShared(t *testing.T) {
	shared := map[Kind]func(testing.TB) *Server{
		KindRedis: Redis, KindRedisTLS: RedisTLS, KindRedisCluster: RedisCluster, KindRedisSentinel: RedisSentinel,
		KindValkey: Valkey, KindMemcached: Memcached, KindMySQL: MySQL, KindMariaDB: MariaDB, KindPostgreSQL: PostgreSQL,
		KindMongoDB: MongoDB,
	}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			began := time.Now()
			s := shared[kind](t)
			t.Logf("%s at %s after %v", s.Name, s.URL, time.Since(began).Round(time.Millisecond))
			if again := shared[kind](t); again != s {
				t.Errorf("the second call returned another server, %s", again.URL)
			}
			if s.group == nil {
				t.Skip("not started here")
			}
			if err := put(kind, s.Addrs, "shared"); err != nil {
				t.Fatal(err)
			}
			if found, err := get(kind, s.Addrs, "shared"); err != nil || !found {
				t.Fatalf("found %t, error %v", found, err)
			}
			defer func() {
				if recover() == nil {
					t.Error("Kill of a shared server did not panic")
				}
			}()
			s.Kill()
		})
	}
}

func TestStart(t *testing.T) {
	forgetful := map[Kind]bool{KindMemcached: true}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			lap := func(what string) {
				t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
				began = time.Now()
			}
			s := Start(t, kind)
			lap("start of " + s.Name)
			addrs := strings.Join(s.Addrs, " ")
			expect := func(want bool) {
				t.Helper()
				if found, err := get(kind, s.Addrs, "key"); err != nil || found != want {
					t.Fatalf("found %t, want %t, error %v", found, want, err)
				}
			}
			if err := put(kind, s.Addrs, "key"); err != nil {
				t.Fatal(err)
			}
			silent := dial(t, s.Addrs[0]) // and accepted before what expect dials
			expect(true)

			began = time.Now()
			s.Pause()
			lap("pause")
			// An answer could only come because something still runs.
			for _, conn := range []net.Conn{silent, dial(t, s.Addrs[0])} {
				conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
				if err := s.group.ping(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("a paused server answered: %v", err)
				}
			}
			began = time.Now()
			s.Resume()
			lap("resume")
			expect(true)
			s.Resume()

			s.Pause()
			s.Kill()
			lap("pause and kill")
			for _, addr := range s.Addrs {
				if _, err := net.Dial("tcp", addr); err == nil {
					t.Fatalf("%s accepts connections after Kill", addr)
				}
			}
			s.Kill()

			began = time.Now()
			s.Restart(false)
			lap("restart")
			expect(!forgetful[kind] && !strings.HasPrefix(s.Name, "mongo-java-server"))
			if err := put(kind, s.Addrs, "key"); err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			s.Restart(true)
			lap("restart without data")
			expect(false)
			if now := strings.Join(s.group.addrs(), " "); now != addrs {
				t.Errorf("the server moved from %s to %s", addrs, now)
			}
		})
	}
}

// One process of a server dies and comes back, while the others go on.
func TestNodes(t *testing.T) {
	s := Start(t, KindRedisCluster)
	ping := func(i int) error {
		_, err := askRedis(s.Addrs[i], "PING")
		return err
	}
	s.KillNode(1)
	if err := ping(1); err == nil {
		t.Error("a node answers that was killed")
	}
	if err := ping(0); err != nil {
		t.Error(err)
	}
	s.RestartNode(1)
	if err := ping(1); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil && s.CPU() <= 0 {
		t.Error("it took no processor time")
	}
}

func TestStartArgs(t *testing.T) {
	s := Start(t, KindRedis, "--maxmemory", "12345678", "--requirepass", "")
	text, err := askRedis(s.Addrs[0], "INFO", "memory")
	if err != nil || !strings.Contains(text, "maxmemory:12345678\r") {
		t.Errorf("the arguments have no effect: %v, %s", err, text)
	}
}

func TestStartFails(t *testing.T) {
	need(t, KindRedis)
	_, err := start(KindRedis, true, []string{"--no-such-option", "1"})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("the server's log is not in the error: %v", err)
	}
	if _, err := start("etcd", true, nil); err == nil || errors.Is(err, errMissing) {
		t.Errorf("unknown kind of server: %v", err)
	}
}

// A server that comes back waits for its port, should another program have it by then.
func TestRestartPortTaken(t *testing.T) {
	s := Start(t, KindRedis)
	n := s.group.nodes[0]
	s.Kill()
	taken, err := net.Listen("tcp", s.Addrs[0])
	if err != nil {
		t.Skip(err)
	}
	defer taken.Close()
	failed := s.group.logSize(n)
	done := make(chan error)
	go func() { done <- s.group.run() }()
	for strings.Count(s.group.log(n, failed), "Address already in use") < 2 {
		select {
		case err := <-done:
			t.Fatalf("run returned %v while the port was taken", err)
		default:
			pause(t.Context())
		}
	}
	taken.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.Restart(true)
}

// An answer of another program must not count for a server that has not come up.
func TestListens(t *testing.T) {
	s := Start(t, KindRedis)
	n := s.group.nodes[0]
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, known := listeners(n.port); !known {
		t.Skip("this system cannot tell")
	}
	if !n.process.listens(n.port) || n.process.listens(other.Addr().(*net.TCPAddr).Port) {
		t.Errorf("own port: %t, another's: %t", n.process.listens(n.port),
			n.process.listens(other.Addr().(*net.TCPAddr).Port))
	}
}

func TestGiveUp(t *testing.T) {
	missing, broken := fmt.Errorf("%w: redis-server", errMissing), errors.New("broken")
	for _, test := range []struct {
		require string
		err     error
		want    string
	}{
		{"", missing, "skip"},
		{"0", missing, "skip"},
		{"0", errUnwanted, "skip"},
		{"0", broken, "fatal"},
		{"1", missing, "fatal"},
		{"", broken, "fatal"},
		{"1", broken, "fatal"},
	} {
		t.Setenv("SESSION_TEST_REQUIRE", test.require)
		tb := &recorder{TB: t}
		giveUp(tb, test.err)
		if want := test.want + ": " + test.err.Error(); tb.first != want {
			t.Errorf("with SESSION_TEST_REQUIRE=%q: %q, want %q", test.require, tb.first, want)
		}
	}
}

// need skips or fails the test, as those of a server do, if one of them is not there.
func need(t *testing.T, kinds ...Kind) {
	t.Helper()
	for _, kind := range kinds {
		if _, err := find(kind, true); err != nil {
			giveUp(t, err)
		}
	}
}

func TestNoServers(t *testing.T) {
	t.Setenv("SESSION_TEST_REQUIRE", "0")
	var wanted bool
	t.Run("skipped", func(t *testing.T) {
		Start(t, KindRedis)
		wanted = true
	})
	if wanted {
		t.Error("a server was started")
	}
}

type recorder struct {
	testing.TB
	first string
}

func (r *recorder) Skip(args ...any)  { r.record("skip: ", args) }
func (r *recorder) Fatal(args ...any) { r.record("fatal: ", args) }

func (r *recorder) record(what string, args []any) {
	if r.first == "" {
		r.first = what + fmt.Sprint(args...)
	}
}

func TestExternal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	for rawURL, want := range map[string]string{
		"redis://" + addr + "/0":                                addr,
		"redis://:secret@" + addr + "?addr=" + addr:             addr + " " + addr,
		"memcached://" + addr + "," + addr:                      addr + " " + addr,
		"mysql://root:a@b@" + addr + "/test?x=y":                addr,
		"postgres://postgres@" + addr + "/test?sslmode=disable": addr,
	} {
		s, err := external("SESSION_TEST_REDIS", rawURL)
		if err != nil {
			t.Errorf("%s: %v", rawURL, err)
			continue
		}
		if got := strings.Join(s.Addrs, " "); got != want || s.URL != rawURL || s.Name == "" {
			t.Errorf("%s: %+v", rawURL, *s)
		}
	}
	l.Close()
	for _, rawURL := range []string{"redis://:secret@" + addr, "secret"} {
		_, err := external("SESSION_TEST_REDIS", rawURL)
		if err == nil || strings.Contains(err.Error(), "secret") || errors.Is(err, errMissing) {
			t.Errorf("%s: %v", rawURL, err)
		}
	}
	for addr, want := range map[string]string{
		"": "localhost:6379", "h": "h:6379", "h:1": "h:1", "[::1]": "[::1]:6379", "[::1]:2": "[::1]:2",
	} {
		if got := withPort("redis", addr); got != want {
			t.Errorf("withPort(%q) = %q, want %q", addr, got, want)
		}
	}
}

func TestExternalIsShared(t *testing.T) {
	own := Start(t, KindRedis)
	const kind = Kind("redis-external") // SESSION_TEST_REDIS_EXTERNAL
	t.Setenv(envName(kind), own.URL)
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		delete(shared.servers, kind)
	})
	if s := share(t, kind); s.URL != own.URL || s.group != nil {
		t.Errorf("%+v", *s)
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// put stores key in a server of that kind.
func put(kind Kind, addrs []string, key string) error {
	_, err := do(addrs, func(conn net.Conn) (bool, error) {
		var err error
		switch kind {
		case KindRedisTLS:
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			fallthrough
		case KindRedis, KindRedisCluster, KindRedisSentinel, KindValkey:
			_, err = redisDo(conn, "SET", key, "1")
		case KindMemcached:
			_, err = memcachedDo(conn, "set "+key+" 0 0 1\r\n1")
		case KindMySQL, KindMariaDB:
			_, err = mariaDo(conn, "CREATE TABLE IF NOT EXISTS t AS SELECT '"+key+"😀' AS k")
		case KindPostgreSQL:
			_, err = postgresDo(conn, "CREATE TABLE IF NOT EXISTS t AS SELECT '"+key+"😀' AS k")
		case KindMongoDB:
			doc := "\x030\x00" + mongoDoc(mongoString("_id", key))
			_, err = mongoDo(conn, "test", mongoString("insert", "t")+"\x04documents\x00"+mongoDoc(doc))
		}
		return true, err
	})
	return err
}

// get reports whether the server has key.
func get(kind Kind, addrs []string, key string) (bool, error) {
	return do(addrs, func(conn net.Conn) (bool, error) {
		var text string
		var err error
		switch kind {
		case KindRedisTLS:
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			fallthrough
		case KindRedis, KindRedisCluster, KindRedisSentinel, KindValkey:
			text, err = redisDo(conn, "GET", key)
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return text == "1", err
		case KindMemcached:
			text, err = memcachedDo(conn, "get "+key)
			return strings.HasPrefix(text, "VALUE"), err
		case KindMySQL, KindMariaDB:
			return hasRow(key+"😀", mariaDo, conn)
		case KindPostgreSQL:
			return hasRow(key+"😀", postgresDo, conn)
		}
		text, err = mongoDo(conn, "test", mongoString("find", "t"))
		return strings.Contains(text, key), err
	})
}

// do calls f with a connection to the server, or to the node of a cluster that has the key.
func do(addrs []string, f func(net.Conn) (bool, error)) (ok bool, err error) {
	for _, addr := range addrs {
		var conn net.Conn
		if conn, err = net.Dial("tcp", addr); err != nil {
			return false, err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if ok, err = f(conn); err == nil || !strings.Contains(err.Error(), "MOVED") {
			break
		}
	}
	return ok, err
}

func hasRow(value string, do func(io.ReadWriter, string) ([]string, error), conn net.Conn) (bool, error) {
	rows, err := do(conn, "SELECT k FROM t")
	if err != nil && strings.Contains(err.Error(), "exist") {
		return false, nil // there is no table
	}
	return len(rows) == 1 && rows[0] == value, err
}

func memcachedDo(conn net.Conn, command string) (string, error) {
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && strings.Contains(line, "ERROR") {
		err = errors.New(line)
	}
	return line, err
}
