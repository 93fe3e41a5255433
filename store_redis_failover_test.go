//go:build !encrypted

package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/session"
	"example.com/session/internal/servertest"
)

// After a failover, connections to the former primary may live on while new ones reach the new primary. The first call
// gets there, whatever the former primary answers, and nobody reads what only that one still has.
func TestRedisAfterFailover(t *testing.T) {
	ctx := t.Context()
	former := servertest.Start(t, servertest.KindRedis)
	replacement := servertest.Start(t, servertest.KindRedis)
	a, b := redisClient(t, former), redisClient(t, replacement)
	_, port, _ := net.SplitHostPort(replacement.Addrs[0])
	do := func(client *redis.Client, args ...any) {
		t.Helper()
		if err := client.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	// So that it takes a while to load what is there, and the server answers meanwhile.
	do(b, "CONFIG", "SET", "rdbcompression", "no", "repl-diskless-sync-delay", "0")
	for i := range 1000 {
		do(b, "SET", fmt.Sprint("filler", i), strings.Repeat("x", 4000))
	}
	states := []struct {
		name   string
		demote func()
		says   string // to a SET, and to a script
	}{
		{"replica", func() { do(a, "REPLICAOF", "127.0.0.1", "1") }, "READONLY"},
		{"replica of nobody", func() {
			do(a, "CONFIG", "SET", "replica-serve-stale-data", "no")
			do(a, "REPLICAOF", "127.0.0.1", "1")
		}, "READONLY MASTERDOWN"},
		{"loading", func() {
			do(a, "CONFIG", "SET", "key-load-delay", "50000", "loading-process-events-interval-bytes", "1024")
			do(a, "REPLICAOF", "127.0.0.1", port)
		}, "READONLY LOADING"},
	}
	rec := session.Record{Version: 1, Expires: time.Now().Add(time.Hour), Data: []byte("new")}
	calls := map[string]func(session.Store, session.ID) error{
		"Load": func(s session.Store, id session.ID) error {
			found, err := s.Load(ctx, id)
			if err == nil && string(found.Data) != "new" {
				err = fmt.Errorf("found %q", found.Data)
			}
			return err
		},
		"Create": func(s session.Store, id session.ID) error {
			id[31] = 1
			return s.Save(ctx, id, session.Record{Data: []byte("new")})
		},
		"Save":   func(s session.Store, id session.ID) error { return s.Save(ctx, id, rec) },
		"Touch":  func(s session.Store, id session.ID) error { return session.Touch(ctx, s, id, rec) },
		"Delete": func(s session.Store, id session.ID) error { return s.Delete(ctx, id) },
	}
	n := byte(0)
	for _, state := range states {
		for name, call := range calls {
			for _, way := range []string{"opened", "adopted"} {
				if way == "adopted" && state.name != "replica" {
					continue // its connections are the application's to drop
				}
				t.Run(state.name+"/"+name+"/"+way, func(t *testing.T) {
					wire := newWire(t, former.Addrs[0])
					var store session.Store = openStore(t, "redis://"+wire.addr)
					if way == "adopted" {
						client := redis.NewClient(&redis.Options{Addr: wire.addr})
						t.Cleanup(func() { client.Close() })
						store = session.NewRedisStore(client, nil)
					}
					n++
					id := session.ID{n}
					if err := store.Save(ctx, id, session.Record{Data: []byte("old")}); err != nil {
						t.Fatal(err)
					}
					fillPool(t, store)
					do(b, "SET", "session:"+id.String(), packed(1, 0, "new"))
					state.demote()
					defer func() {
						do(a, "CONFIG", "SET", "key-load-delay", "0", "replica-serve-stale-data", "yes")
						promote(t, a)
					}()
					waitForRefusal(t, a, state.says)
					wire.server.Store(replacement.Addrs[0])
					if err := call(store, id); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// fillPool has a store hold several connections.
func fillPool(t *testing.T, store session.Store) {
	t.Helper()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 5 {
				if _, err := store.Load(t.Context(), session.ID{}); !errors.Is(err, session.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// promote makes the server a primary, once it has loaded what it is about to load.
func promote(t *testing.T, client *redis.Client) {
	t.Helper()
	for err := client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil; {
		if !redis.IsLoadingError(err) {
			t.Fatal(err)
		}
		err = client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err()
	}
}

// waitForRefusal returns when the server refuses writes with all of the codes: that of SET, and that of a script.
func waitForRefusal(t *testing.T, client *redis.Client, codes string) {
	t.Helper()
	ctx := t.Context()
	for {
		set := client.Do(ctx, "SET", "refused", "").Err()
		script := client.Do(ctx, "EVAL", "return redis.call('SET', KEYS[1], '')", 1, "refused").Err()
		all := true
		for code := range strings.FieldsSeq(codes) {
			all = all && (redis.HasErrorPrefix(set, code) || redis.HasErrorPrefix(script, code))
		}
		if all {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it says %v, %v", set, script)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// When a replica takes the place of a master, the store follows as soon as the cluster itself has settled: long before
// the client would ask for the nodes again by itself.
func TestRedisClusterFailover(t *testing.T) {
	tests := []struct {
		name string
		lose func(t *testing.T, master, replica *redis.Client)
	}{
		{"killed", func(t *testing.T, master, _ *redis.Client) { master.Do(t.Context(), "SHUTDOWN", "NOSAVE", "NOW") }},
		{"standing still", func(t *testing.T, master, _ *redis.Client) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			master.Do(ctx, "DEBUG", "SLEEP", "3600")
		}},
		{"handed over", func(t *testing.T, _, replica *redis.Client) {
			if err := replica.Do(t.Context(), "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := servertest.Start(t, servertest.KindRedisCluster,
				"--cluster-node-timeout", "2000", "--enable-debug-command", "local")
			opts, err := redis.ParseClusterURL(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			opts.ClusterStateReloadInterval, opts.ContextTimeoutEnabled = 24*time.Hour, true
			client := redis.NewClusterClient(opts)
			t.Cleanup(func() { client.Close() })
			stores := map[string]session.Store{
				"opened": openStore(t, server.URL), "adopted": session.NewRedisStore(client, nil),
			}
			master := redis.NewClient(&redis.Options{Addr: server.Addrs[0], MaxRetries: -1, ContextTimeoutEnabled: true})
			defer master.Close()
			replica := redis.NewClient(&redis.Options{Addr: server.Addrs[3]})
			defer replica.Close()
			ids := saveOnEach(t, stores["opened"])
			if n, err := master.Wait(t.Context(), 1, 0).Result(); n != 1 || err != nil {
				t.Fatalf("WAIT: %d, %v", n, err)
			}
			for _, store := range stores {
				loadEach(t, store, ids)
			}
			test.lose(t, master, replica)
			waitForMaster(t, server)
			settled := time.Now()
			for name, store := range stores {
				failed := loadEach(t, store, ids)
				if took := time.Since(settled); took > 20*time.Second {
					t.Errorf("%s: the store follows %v after the cluster has settled", name, took)
				} else {
					t.Logf("%s: followed %v after the cluster had settled, %d calls failed", name, took, failed)
				}
				if err := store.Save(t.Context(), ids[0], session.Record{Version: 9}); !errors.Is(err, session.ErrConflict) {
					t.Errorf("%s: %v, want a conflict", name, err)
				}
			}
		})
	}
}

// saveOnEach returns the IDs of records that all masters have some of.
func saveOnEach(t *testing.T, store session.Store) []session.ID {
	t.Helper()
	var ids []session.ID
	for i := range byte(30) {
		ids = append(ids, session.ID{i})
		if err := store.Save(t.Context(), ids[i], session.Record{Data: []byte{i}}); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// loadEach loads all records, however often it takes, and returns how often it failed.
func loadEach(t *testing.T, store session.Store, ids []session.ID) (failed int) {
	t.Helper()
	for i, id := range ids {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			rec, err := store.Load(ctx, id)
			cancel()
			if err == nil && len(rec.Data) == 1 && rec.Data[0] == byte(i) {
				break
			}
			if err == nil || errors.Is(err, session.ErrNotFound) || t.Context().Err() != nil {
				t.Fatalf("%v: %+v, %v", id, rec, err)
			}
			failed++
		}
	}
	return failed
}

// waitForMaster returns when all nodes but the first agree that the fourth is a master and that the cluster works.
func waitForMaster(t *testing.T, server *servertest.Server) {
	t.Helper()
	ctx := t.Context()
	for _, addr := range server.Addrs[1:] {
		node := redis.NewClient(&redis.Options{Addr: addr})
		defer node.Close()
		for {
			info, _ := node.ClusterInfo(ctx).Result()
			nodes, err := node.ClusterNodes(ctx).Result()
			_, line, _ := strings.Cut(nodes, " "+server.Addrs[3])
			line, _, _ = strings.Cut(line, "\n")
			if strings.Contains(line, "master ") && strings.HasSuffix(line, " 0-5460") && strings.Contains(info, "cluster_state:ok") {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s has %s, %v", addr, nodes, err)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// A server that has as many connections as it takes has another one in a moment: nobody gets an error for that.
func TestRedisMaxClients(t *testing.T) {
	const processes, requests = 3, 40
	for name, kind := range map[string]servertest.Kind{"Redis": servertest.KindRedis, "Valkey": servertest.KindValkey} {
		t.Run(name, func(t *testing.T) {
			server := servertest.Start(t, kind)
			admin := redis.NewClient(&redis.Options{Addr: server.Addrs[0]})
			defer admin.Close()
			if err := admin.ConfigSet(t.Context(), "maxclients", "8").Err(); err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for i := range byte(processes) {
				store := openStore(t, server.URL+"?pool_size=6&max_idle_conns=1")
				for j := range byte(requests) {
					all.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						defer cancel()
						id := session.ID{i, j}
						for version := range uint64(5) {
							if err := store.Save(ctx, id, session.Record{Version: version}); err != nil {
								t.Errorf("Save: %v", err)
							}
							if _, err := store.Load(ctx, id); err != nil {
								t.Errorf("Load: %v", err)
							}
						}
					})
				}
			}
			all.Wait()
		})
	}
}

// Where no connection comes free in time, the error says so, to whoever opened the store and whoever brought a client.
func TestRedisMaxClientsForLong(t *testing.T) {
	server := servertest.Start(t, servertest.KindRedis)
	holder := redis.NewClient(&redis.Options{Addr: server.Addrs[0], MinIdleConns: 1}).Conn()
	defer holder.Close()
	if err := holder.Do(t.Context(), "CONFIG", "SET", "maxclients", "1").Err(); err != nil {
		t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, ctx := range []context.Context{limited, t.Context()} { // without a deadline there is an end, too
		_, err := session.Open(ctx, server.URL)
		checkFault(t, "Open", err, "maxclients")
		checkFault(t, "Open", err, server.Addrs[0])
	}
}

// Sessions can be read from a server that does not know GETEX yet, and from a primary that takes no writes.
func TestRedisLoadByGet(t *testing.T) {
	ctx := t.Context()
	for _, args := range [][]string{{"--rename-command", "GETEX", ""}, nil} {
		server := servertest.Start(t, servertest.KindRedis, args...)
		store := openStore(t, server.URL)
		if err := store.Save(ctx, session.ID{1}, session.Record{Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
		askServer(t, server.Addrs[0], "CONFIG", "SET", "min-replicas-to-write", "1")
		for range 2 {
			if rec, err := store.Load(ctx, session.ID{1}); err != nil || string(rec.Data) != "data" {
				t.Errorf("%v: %+v, %v", args, rec, err)
			}
			if _, err := store.Load(ctx, session.ID{2}); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}

// A process has no more connections to a server than its URL says, and few if that says nothing.
func TestRedisPoolSize(t *testing.T) {
	ctx := t.Context()
	for parameter, most := range map[string]int64{"": 20, "?pool_size=3": 3} {
		server := servertest.Start(t, servertest.KindRedis)
		store := openStore(t, server.URL+parameter)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				for range 5 {
					store.Load(ctx, session.ID{})
				}
				session.Count(ctx, store)
				for range session.List(ctx, store) {
				}
			})
		}
		all.Wait()
		admin := redisClient(t, server)
		list, err := admin.ClientList(ctx).Result()
		if n := int64(strings.Count(list, "\n") - 1); err != nil || n > most || n < 2 {
			t.Errorf("%q: %d connections, %v; want %d at most", parameter, n, err, most)
		}
	}
}

// An error says which server it is about.
func TestRedisErrorsNameTheServer(t *testing.T) {
	for url, addr := range map[string]string{
		"redis://127.0.0.1:1":                  "127.0.0.1:1",
		"rediss://127.0.0.1:1":                 "127.0.0.1:1",
		"redis://127.0.0.1:1?addr=127.0.0.1:1": "127.0.0.1:1",
		"redis://127.0.0.1:1?master_name=main": "127.0.0.1:1",
		"valkey://127.0.0.1:2/1":               "127.0.0.1:2",
	} {
		_, err := session.Open(t.Context(), url)
		checkFault(t, url, err, addr)
		checkFault(t, url, err, "connection refused")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	server := servertest.Start(t, servertest.KindRedis)
	server.Pause()
	defer server.Resume()
	_, err := session.Open(ctx, server.URL)
	checkFault(t, "Open", err, server.Addrs[0])
}
