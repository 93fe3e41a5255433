package faults

import (
	"net"
	"strings"
	"testing"
	"time"

	"example.com/session/internal/servertest"
	"github.com/redis/go-redis/v9"
)

// TestRedisFailover has a replica take the primary's place while both live: behind an address whose connections stay
// where they are while new ones lead to the new primary, and where Sentinel says which one that is. The first requests
// find the new primary, with all that the former one had.
func TestRedisFailover(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) (rawURL string, failOver func()){
		"alone": startRedisPair, "sentinel": startRedisSentinel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rawURL, failOver := start(t)
			a := openApp(t, rawURL)
			alice, bob, carol := a.login("alice"), a.login("bob"), a.login("carol")
			all(crowd, func(int) { alice.want("/get/user", "alice") }) // fills the pool
			failOver()
			bob.want("/set/word/yes", "set")
			all(crowd, func(int) { alice.want("/get/user", "alice") })
			all(crowd, func(int) { alice.want("/set/word/yes", "set") })
			bob.want("/get/word", "yes")
			carol.want("/logout", "")
			carol.want("/get/user", unknown)
			dave := a.login("dave")
			dave.want("/get/user", "dave")
			a.close()
		})
	}
}

// startRedisPair returns the URL of a proxy before a primary that has a replica.
func startRedisPair(t *testing.T) (string, func()) {
	primary, replica := servertest.Start(t, servertest.KindRedis), servertest.Start(t, servertest.KindRedis)
	redisDo(t, primary, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	redisDo(t, replica, "REPLICAOF", host(t, primary), port(t, primary))
	r := newRouter(t, primary.Addrs[0])
	return sameURL(primary, r.addr), func() {
		awaitReplica(t, primary.Addrs[0])
		redisDo(t, replica, "REPLICAOF", "NO", "ONE")
		redisDo(t, primary, "REPLICAOF", host(t, replica), port(t, replica))
		r.to(replica.Addrs[0])
	}
}

// startRedisSentinel returns the URL of a Sentinel.
func startRedisSentinel(t *testing.T) (string, func()) {
	server := servertest.Start(t, servertest.KindRedisSentinel)
	return server.URL, func() {
		ctx := t.Context()
		awaitReplica(t, server.Addrs[0])
		sentinel := redis.NewSentinelClient(&redis.Options{Addr: server.Addrs[2]})
		defer sentinel.Close()
		err := sentinel.Failover(ctx, "main").Err()
		for ; redis.HasErrorPrefix(err, "NOGOODSLAVE"); err = sentinel.Failover(ctx, "main").Err() {
			time.Sleep(10 * time.Millisecond) // it asks after the replica once in a while
		}
		if err != nil {
			t.Fatal(err)
		}
		// Until the former primary knows that it is one no more, it takes writes, which are lost. Nobody can tell.
		former := redis.NewClient(&redis.Options{Addr: server.Addrs[0]})
		defer former.Close()
		for {
			addr, err := sentinel.GetMasterAddrByName(ctx, "main").Result()
			if err != nil {
				t.Fatal(err)
			}
			role, err := former.Info(ctx, "replication").Result() // its connections are closed at one point
			if net.JoinHostPort(addr[0], addr[1]) == server.Addrs[1] && err == nil && strings.Contains(role, "role:slave") {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// awaitReplica returns when the primary's replica has all that the primary has. No promise of the store's: how much a
// failover loses is up to the servers' settings.
func awaitReplica(t *testing.T, addr string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: -1})
	defer client.Close()
	conn := client.Conn() // WAIT is about the writes of its connection
	defer conn.Close()
	if err := conn.Set(t.Context(), "awaited", "", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Wait(t.Context(), 1, 0).Result(); n != 1 || err != nil {
		t.Fatalf("WAIT: %d, %v", n, err)
	}
}

func host(t *testing.T, s *servertest.Server) string { h, _ := hostPort(t, s); return h }
func port(t *testing.T, s *servertest.Server) string { _, p := hostPort(t, s); return p }

func hostPort(t *testing.T, s *servertest.Server) (string, string) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
