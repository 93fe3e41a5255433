//go:build !encrypted

package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

func TestRedisStore(t *testing.T) {
	server := servertest.Redis(t)
	sessiontest.Run(t, storesIn(uniquePrefix(), func(prefix string) session.Store {
		return session.NewRedisStore(redisClient(t, server), &session.RedisOptions{Prefix: prefix})
	}))
}

func TestValkeyStore(t *testing.T) {
	sessiontest.Run(t, storesAt(servertest.Valkey(t).URL+"?prefix="+uniquePrefix()))
}

func TestRedisClusterStore(t *testing.T) {
	server := servertest.RedisCluster(t)
	sessiontest.Run(t, storesIn(uniquePrefix(), func(prefix string) session.Store {
		return session.NewRedisStore(redisCluster(t, server), &session.RedisOptions{Prefix: prefix})
	}))
}

func TestRedisOneRoundTrip(t *testing.T) {
	wire := newWire(t, servertest.Redis(t).Addrs[0])
	store := openStore(t, "redis://"+wire.addr+"?prefix="+uniquePrefix())
	ctx := t.Context()
	id, ids := session.ID{1}, make([]session.ID, 0, 10)
	for i := range byte(10) {
		ids = append(ids, session.ID{2, i})
	}
	steps := []struct {
		name string
		do   func(i int) error
	}{
		{"create", func(i int) error { return store.Save(ctx, ids[i], session.Record{Data: []byte("data")}) }},
		{"conflict", func(i int) error {
			return want(store.Save(ctx, ids[i], session.Record{Version: 2}), session.ErrConflict)
		}},
		{"create what is there", func(i int) error { // the script has to look whether it counts
			return want(store.Save(ctx, ids[i], session.Record{}), session.ErrConflict)
		}},
		{"load", func(i int) error { _, err := store.Load(ctx, ids[i]); return err }},
		{"load nothing", func(int) error { _, err := store.Load(ctx, id); return want(err, session.ErrNotFound) }},
		{"touch", func(i int) error {
			return session.Touch(ctx, store, ids[i], session.Record{Version: 1, Expires: time.Now().Add(time.Hour)})
		}},
		{"touch nothing", func(int) error {
			return want(session.Touch(ctx, store, id, session.Record{Version: 1}), session.ErrNotFound)
		}},
		{"save", func(i int) error { return store.Save(ctx, ids[i], session.Record{Version: 1}) }},
		{"delete", func(i int) error { return store.Delete(ctx, ids[i]) }},
	}
	for version := range uint64(2) { // the server gets to know the scripts
		if err := store.Save(ctx, id, session.Record{Version: version}); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.Touch(ctx, store, id, session.Record{Version: 2}); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		before := wire.trips.Load()
		for i := range ids {
			if err := step.do(i); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		trips := int64(len(ids))
		if step.name == "create what is there" {
			trips *= 2
		}
		if n := wire.trips.Load() - before; n != trips {
			t.Errorf("%s: %d round trips for %d operations, want %d", step.name, n, len(ids), trips)
		}
	}
}

func TestRedisForgetsScripts(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindRedis)
	cluster := servertest.RedisCluster(t)
	client, clusterClient := redisClient(t, server), redisCluster(t, cluster)
	flushAll := func() error {
		return clusterClient.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			return c.ScriptFlush(ctx).Err()
		})
	}
	tests := []struct {
		name   string
		store  session.Store
		forget func() error
	}{
		{"flush", session.NewRedisStore(client, nil), func() error { return client.ScriptFlush(ctx).Err() }},
		{"restart", session.NewRedisStore(client, nil), func() error { server.Restart(false); return nil }},
		{"cluster", session.NewRedisStore(clusterClient, &session.RedisOptions{Prefix: uniquePrefix()}), flushAll},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var ids []session.ID // enough to meet every node
			for i := range byte(20) {
				ids = append(ids, session.ID{byte(len(test.name)), i})
			}
			for version := range uint64(3) {
				if err := test.forget(); err != nil {
					t.Fatal(err)
				}
				for _, id := range ids {
					if err := test.store.Save(ctx, id, session.Record{Version: version}); err != nil {
						t.Fatalf("save: %v", err)
					}
				}
				if err := test.forget(); err != nil {
					t.Fatal(err)
				}
				for _, id := range ids {
					rec := session.Record{Version: version + 1, Expires: time.Now().Add(time.Hour)}
					if err := session.Touch(ctx, test.store, id, rec); err != nil {
						t.Fatalf("touch: %v", err)
					}
				}
			}
		})
	}
}

// Foreign data under a key of ours reads as absent, and does not stay in the way for ever.
func TestRedisForeignValue(t *testing.T) {
	ctx := t.Context()
	client := redisClient(t, servertest.Redis(t))
	prefix := uniquePrefix()
	store := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix})
	tests := []struct {
		name string
		put  func(key string) error
	}{
		{"empty", func(key string) error { return client.Set(ctx, key, "", 0).Err() }},
		{"short", func(key string) error { return client.Set(ctx, key, "S\x01", 0).Err() }},
		{"number", func(key string) error { return client.Set(ctx, key, 12345, 0).Err() }},
		{"text", func(key string) error { return client.Set(ctx, key, strings.Repeat("text ", 100), 0).Err() }},
		{"later format", func(key string) error { return client.Set(ctx, key, "S\x02"+strings.Repeat("x", 100), 0).Err() }},
		{"no version", func(key string) error { return client.Set(ctx, key, packed(0, 0, "data"), 0).Err() }},
		{"hash", func(key string) error { return client.HSet(ctx, key, "field", "value").Err() }},
		{"list", func(key string) error { return client.RPush(ctx, key, "a", "b").Err() }},
		{"stream", func(key string) error {
			return client.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"a", "b"}}).Err()
		}},
		// As on a server whose clock is behind: it is still there.
		{"expired", func(key string) error {
			return client.Set(ctx, key, packed(1, time.Now().UnixMilli(), "data"), 0).Err()
		}},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id := session.ID{9, byte(i)}
			if err := test.put(prefix + id.String()); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("Load: %v, want ErrNotFound", err)
			}
			if err := store.Touch(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("Touch: %v, want ErrNotFound", err)
			}
			if err := store.Save(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrConflict) {
				t.Errorf("Save of version 1: %v, want ErrConflict", err)
			}
			for entry, err := range store.List(ctx) {
				if err != nil || entry.ID == id {
					t.Errorf("List: %v, %v", entry.ID, err)
				}
			}
			if err := store.Save(ctx, id, session.Record{Data: []byte("ours")}); err != nil {
				t.Fatalf("Save of version 0: %v", err)
			}
			if rec, err := store.Load(ctx, id); err != nil || rec.Version != 1 || string(rec.Data) != "ours" {
				t.Errorf("Load: %+v, %v", rec, err)
			}
		})
	}
}

func TestRedisExpiry(t *testing.T) {
	ctx := t.Context()
	client := redisClient(t, servertest.Redis(t))
	prefix := uniquePrefix()
	store := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix})
	id := session.ID{1}
	now := time.Now()
	farAway := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name    string
		expires time.Time
		ttl     int64 // in milliseconds, less a minute; or as PTTL has it: -1 for never, -2 for no such key
	}{
		{"never", time.Time{}, -1},
		{"an hour", now.Add(time.Hour), 59 * 60_000},
		{"a hundred days", now.Add(100 * 24 * time.Hour), (100*24*60 - 1) * 60_000},
		{"the year 9999", farAway, farAway.UnixMilli() - now.UnixMilli() - 60_000},
		{"the past", now.Add(-time.Hour), -2},
		{"the distant past", time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), -2},
		{"1970", time.Unix(0, 0), -2},
	}
	for _, test := range tests {
		for _, op := range []string{"save", "replace", "replace what stays", "touch"} {
			t.Run(op+" "+test.name, func(t *testing.T) {
				var err error
				switch op {
				case "save":
					err = store.Save(ctx, id, session.Record{Expires: test.expires})
				case "replace", "replace what stays":
					before := session.Record{Expires: now.Add(time.Minute)}
					if op != "replace" {
						before.Expires = time.Time{}
					}
					if err = store.Save(ctx, id, before); err == nil {
						err = store.Save(ctx, id, session.Record{Version: 1, Expires: test.expires})
					}
				case "touch":
					if err = store.Save(ctx, id, session.Record{Expires: now.Add(time.Minute)}); err == nil {
						err = store.Touch(ctx, id, session.Record{Version: 1, Expires: test.expires})
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				ttl, err := client.Do(ctx, "PTTL", prefix+id.String()).Int64()
				if err != nil {
					t.Fatal(err)
				}
				if ttl < test.ttl || ttl > max(test.ttl, test.ttl+61_000*min(1, test.ttl)) {
					t.Errorf("the server removes it in %d ms, want %d or a little more", ttl, test.ttl)
				}
				rec, err := store.Load(ctx, id)
				switch {
				case test.ttl == -2 && !errors.Is(err, session.ErrNotFound):
					t.Errorf("Load: %v, want ErrNotFound", err)
				case test.ttl != -2 && (err != nil || !rec.Expires.Equal(test.expires.Truncate(time.Millisecond))):
					t.Errorf("Load: expires %v, %v; want %v", rec.Expires, err, test.expires)
				}
				if err := store.Delete(ctx, id); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Lua's numbers are exact up to 2^53 only.
func TestRedisLargeVersions(t *testing.T) {
	ctx := t.Context()
	client := redisClient(t, servertest.Redis(t))
	prefix := uniquePrefix()
	store := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix})
	for i, version := range []uint64{1<<53 + 1, 1<<60 + 1, 1<<63 + 1} {
		id := session.ID{byte(i)}
		if err := client.Set(ctx, prefix+id.String(), packed(version, 0, "data"), 0).Err(); err != nil {
			t.Fatal(err)
		}
		for _, other := range []uint64{version - 1, version + 1} {
			if err := store.Save(ctx, id, session.Record{Version: other}); !errors.Is(err, session.ErrConflict) {
				t.Errorf("Save of %d over %d: %v, want ErrConflict", other, version, err)
			}
		}
		if err := store.Save(ctx, id, session.Record{Version: version}); err != nil {
			t.Errorf("Save of %d: %v", version, err)
		}
		if rec, err := store.Load(ctx, id); err != nil || rec.Version != version+1 {
			t.Errorf("Load: version %d, %v; want %d", rec.Version, err, version+1)
		}
	}
}

// Whatever the server refuses is an error of its own, never a conflict or an absent record.
func TestRedisRefuses(t *testing.T) {
	server := servertest.Start(t, servertest.KindRedis)
	client := redisClient(t, server)
	store := session.NewRedisStore(client, nil)
	ctx := t.Context()
	do := func(args ...any) {
		t.Helper()
		if err := client.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	if err := store.Save(ctx, session.ID{1}, session.Record{}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		on, off []any
		text    string
	}{
		{"full", []any{"CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction"},
			[]any{"CONFIG", "SET", "maxmemory", "0"}, "OOM"},
		{"replica", []any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}, "READONLY"},
		{"too few replicas", []any{"CONFIG", "SET", "min-replicas-to-write", "1"},
			[]any{"CONFIG", "SET", "min-replicas-to-write", "0"}, "NOREPLICAS"},
		{"no permission", []any{"ACL", "SETUSER", "default", "-getrange", "-set"},
			[]any{"ACL", "SETUSER", "default", "+@all"}, "run th"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			do(test.on...)
			defer do(test.off...)
			for version := range uint64(2) {
				err := store.Save(ctx, session.ID{byte(version)}, session.Record{Version: version, Data: make([]byte, 1000)})
				checkFault(t, "Save", err, test.text)
			}
			if test.name != "full" { // see TestRedisFull
				rec := session.Record{Version: 1, Expires: time.Now().Add(time.Hour)}
				checkFault(t, "Touch", store.Touch(ctx, session.ID{1}, rec), test.text)
			}
		})
	}
	if rec, err := store.Load(ctx, session.ID{1}); err != nil || rec.Version != 1 {
		t.Errorf("Load: %+v, %v: something was changed", rec, err)
	}
}

// A server that is full takes what needs no more room than what is there: sessions can be ended, and prolonged.
func TestRedisFull(t *testing.T) {
	ctx := t.Context()
	for name, kind := range map[string]servertest.Kind{
		"Redis": servertest.KindRedis, "Valkey": servertest.KindValkey, "Cluster": servertest.KindRedisCluster,
	} {
		t.Run(name, func(t *testing.T) {
			server := servertest.Start(t, kind)
			store := openStore(t, server.URL)
			limit := func(memory string) {
				for _, addr := range server.Addrs {
					client := redis.NewClient(&redis.Options{Addr: addr})
					if err := client.ConfigSet(ctx, "maxmemory", memory).Err(); err != nil {
						t.Fatal(err)
					}
					client.Close()
				}
			}
			id, other, soon := session.ID{1}, session.ID{2}, time.Now().Add(time.Minute).Truncate(time.Millisecond)
			for _, id := range []session.ID{id, other} {
				if err := store.Save(ctx, id, session.Record{Data: make([]byte, 100)}); err != nil {
					t.Fatal(err)
				}
			}
			v := newVisitor(t, store, &session.Options{Logger: quiet})
			phone, laptop, desk := v.clone().login(), v.clone().login(), v.clone().login()
			locking := newVisitor(t, store, &session.Options{Logger: quiet, Locking: true})
			tablet := v.clone().login()
			tablet.m = locking.m
			limit("1")
			for version, size := range []int{100, 99, 99, 0} {
				rec := session.Record{Version: uint64(version + 1), Data: make([]byte, size)}
				if version > 1 {
					rec.Expires = soon
				}
				if err := store.Save(ctx, id, rec); err != nil {
					t.Errorf("Save of %d bytes: %v", size, err)
				}
				found, err := store.Load(ctx, id)
				if err != nil || found.Version != rec.Version+1 || len(found.Data) != size || !found.Expires.Equal(rec.Expires) {
					t.Errorf("Load: %+v, %v", found, err)
				}
			}
			if err := store.Save(ctx, id, session.Record{Version: 3}); !errors.Is(err, session.ErrConflict) {
				t.Errorf("Save of a former version: %v, want ErrConflict", err)
			}
			checkFault(t, "Save", store.Save(ctx, id, session.Record{Version: 5, Data: make([]byte, 1)}), "maxmemory")
			checkFault(t, "Save", store.Save(ctx, session.ID{3}, session.Record{}), "maxmemory")
			for _, expires := range []time.Time{soon, {}, soon} {
				if err := session.Touch(ctx, store, other, session.Record{Version: 1, Expires: expires}); err != nil {
					t.Errorf("Touch: %v", err)
				}
				if found, err := store.Load(ctx, other); err != nil || len(found.Data) != 100 || !found.Expires.Equal(expires) {
					t.Errorf("Load: %+v, %v", found, err)
				}
			}
			wantStatus(t, phone.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
			wantStatus(t, tablet.visit(func(s *session.Session) { s.Set("k", 1) }), http.StatusServiceUnavailable)
			wantStatus(t, tablet.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
			if n, err := v.m.EndSessions(ctx, session.OfUser("ann")); n != 2 || err != nil {
				t.Errorf("ended %d, %v", n, err)
			}
			wantStatus(t, v.clone().visit(func(s *session.Session) { s.Set("k", 1) }), http.StatusServiceUnavailable)
			limit("0")
			for _, v := range []*visitor{phone, tablet, laptop, desk} {
				if v.alive() {
					t.Error("a session that was ended lives")
				}
			}
		})
	}
}

func TestRedisPassword(t *testing.T) {
	server := servertest.Start(t, servertest.KindRedis)
	admin := redisClient(t, server)
	ctx := t.Context()
	if err := admin.Do(ctx, "ACL", "SETUSER", "alice", "on", ">pa ss@/1", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	if err := admin.ConfigSet(ctx, "requirepass", "hunter2").Err(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		userinfo string
		ok       bool
	}{
		{"hunter2@", true},
		{":hunter2@", true},
		{"default:hunter2@", true},
		{"alice:pa%20ss%40%2F1@", true},
		{"", false},
		{"wrong-secret@", false},
		{"alice:wrong-secret@", false},
		{"hunter2:wrong-secret@", false},
	}
	for _, test := range tests {
		for _, path := range []string{"", "/", "/3"} {
			store, err := session.Open(ctx, "redis://"+test.userinfo+server.Addrs[0]+path)
			switch {
			case test.ok && err != nil:
				t.Errorf("%q: %v", test.userinfo, err)
			case !test.ok && err == nil:
				t.Errorf("%q: no error", test.userinfo)
			case !test.ok && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hunter")):
				t.Errorf("%q: the error shows the password: %v", test.userinfo, err)
			case err == nil:
				store.Close()
			}
		}
	}
}

// The commands that the documentation of RedisStore lists are enough, and none of them is too many.
func TestRedisAccount(t *testing.T) {
	const records = "getex get set setrange getrange strlen del pexpire persist evalsha eval scan"
	tests := []struct {
		name     string
		server   func(*testing.T) *servertest.Server
		commands string
		open     func(t *testing.T, s *servertest.Server, userinfo, prefix string) (session.Store, error)
	}{
		{"Redis, opened", startKind(servertest.KindRedis), records + " ping select", openAs("/1")},
		{"Valkey, opened", startKind(servertest.KindValkey), records + " ping select", openAs("/1")},
		{"Cluster, opened", startKind(servertest.KindRedisCluster),
			strings.TrimPrefix(records, "getex ") + " ping cluster|slots", openAs("")},
		{"Sentinel, opened", startKind(servertest.KindRedisSentinel), records + " ping", openBySentinel},
		{"Redis, adopted", startKind(servertest.KindRedis), records, adoptAs},
		{"Valkey, adopted", startKind(servertest.KindValkey), records, adoptAs},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := test.server(t)
			userinfo, prefix := "app:not-told@", uniquePrefix()
			try := func(commands []string) error {
				rules := []any{"ACL", "SETUSER", "app", "reset", "on", ">not-told", "~" + prefix + "*"}
				for _, command := range commands {
					rules = append(rules, "+"+command)
				}
				nodes := server.Addrs
				if strings.HasPrefix(test.name, "Sentinel") {
					nodes = nodes[:1]
				}
				for _, addr := range nodes {
					askServer(t, addr, rules...)
				}
				store, err := test.open(t, server, userinfo, prefix)
				if err != nil {
					return err
				}
				return useAll(t, store, nodes)
			}
			commands := strings.Fields(test.commands)
			if err := try(commands); err != nil {
				t.Errorf("with %v: %v", commands, err)
			}
			for i, command := range commands {
				rest := slices.Delete(slices.Clone(commands), i, i+1)
				if err := try(rest); err == nil || !strings.Contains(err.Error(), "the account needs") {
					t.Errorf("without %s: %v", command, err)
				}
			}
		})
	}
}

func startKind(kind servertest.Kind) func(*testing.T) *servertest.Server {
	return func(t *testing.T) *servertest.Server { return servertest.Start(t, kind) }
}

func openAs(database string) func(*testing.T, *servertest.Server, string, string) (session.Store, error) {
	return func(t *testing.T, s *servertest.Server, userinfo, prefix string) (session.Store, error) {
		addrs := database + "?"
		if len(s.Addrs) > 1 {
			addrs += "addr=" + s.Addrs[1] + "&"
		}
		return openOnce(t, "redis://"+userinfo+s.Addrs[0]+addrs+"prefix="+prefix)
	}
}

// openBySentinel has an account of its own at the Sentinel.
func openBySentinel(t *testing.T, s *servertest.Server, userinfo, prefix string) (session.Store, error) {
	askServer(t, s.Addrs[2], "ACL", "SETUSER", "watcher", "reset", "on", ">not-told-either", "&*",
		"+sentinel|get-master-addr-by-name", "+sentinel|sentinels", "+subscribe", "+ping")
	user, password, _ := strings.Cut(strings.TrimSuffix(userinfo, "@"), ":")
	return openOnce(t, "redis://watcher:not-told-either@"+s.Addrs[2]+"/0?master_name=main&username="+user+
		"&password="+password+"&prefix="+prefix)
}

func openOnce(t *testing.T, url string) (session.Store, error) {
	store, err := session.Open(t.Context(), url)
	if err == nil {
		t.Cleanup(func() { store.Close() })
	}
	return store, err
}

func adoptAs(t *testing.T, s *servertest.Server, userinfo, prefix string) (session.Store, error) {
	opts, err := redis.ParseURL("redis://" + userinfo + s.Addrs[0])
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix}), nil
}

func askServer(t *testing.T, addr string, command ...any) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := client.Do(t.Context(), command...).Err(); err != nil {
		t.Fatalf("%v: %v", command, err)
	}
}

// useAll has a store do all that it can do, on a server that has forgotten the scripts and on one that is full.
func useAll(t *testing.T, store session.Store, nodes []string) error {
	ctx := t.Context()
	all := func(command ...any) error {
		for _, addr := range nodes {
			askServer(t, addr, command...)
		}
		return nil
	}
	id, soon := session.ID{1}, time.Now().Add(time.Minute)
	steps := []func() error{
		func() error { return all("SCRIPT", "FLUSH") },
		func() error { return store.Delete(ctx, id) },
		func() error { return store.Save(ctx, id, session.Record{}) },
		func() error { _, err := store.Load(ctx, id); return err },
		func() error { return store.Save(ctx, id, session.Record{Version: 1, Expires: soon}) },
		func() error { return session.Touch(ctx, store, id, session.Record{Version: 2, Expires: soon}) },
		func() error { return session.Touch(ctx, store, id, session.Record{Version: 2}) },
		func() error { return all("CONFIG", "SET", "maxmemory", "1") },
		func() error { return store.Save(ctx, id, session.Record{Version: 2}) },
		func() error { return all("CONFIG", "SET", "maxmemory", "0") },
		func() error {
			for _, err := range session.List(ctx, store) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return store.Delete(ctx, id) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			all("CONFIG", "SET", "maxmemory", "0")
			return err
		}
	}
	return nil
}

func TestRedisURL(t *testing.T) {
	server := servertest.Start(t, servertest.KindRedis)
	addr := server.Addrs[0]
	client := redisClient(t, server)
	ctx := t.Context()
	works := []struct {
		url    string
		db     int
		prefix string
	}{
		{"redis://" + addr, 0, "session:"},
		{"REDIS://" + addr + "/", 0, "session:"},
		{"valkey://" + addr + "/2", 2, "session:"},
		{"redis://" + addr + "/1?prefix=my%5Bapp%5D%2A:&pool_size=3&dial_timeout=2s", 1, "my[app]*:"},
		{"redis://" + addr + "?db=4&max_retries=-1", 4, "session:"},
	}
	for _, test := range works {
		t.Run(test.url, func(t *testing.T) {
			store := openStore(t, test.url)
			id := session.ID{7}
			if err := store.Save(ctx, id, session.Record{}); err != nil {
				t.Fatal(err)
			}
			if n, err := session.CountRecords(ctx, store); n != 1 || err != nil {
				t.Errorf("Count: %d, %v", n, err)
			}
			conn := client.Conn()
			defer conn.Close()
			if err := conn.Select(ctx, test.db).Err(); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Del(ctx, test.prefix+id.String()).Result(); n != 1 || err != nil {
				t.Errorf("it is not in database %d under %s: %v", test.db, test.prefix, err)
			}
		})
	}
	fails := []string{
		"redis:",
		"redis:secret@localhost",
		"redis://:se/cret@localhost",
		"redis://:se#cret@localhost",
		"redis://:se?cret@localhost",
		"redis://:12/secret@localhost",
		"redis://12/secret@localhost",
		"redis://12?secret@localhost",
		"redis://12?db=secret@localhost",
		"redis://12#secret@localhost",
		"redis://:%zzsecret@localhost",
		"redis://localhost/secret",
		"redis://localhost/1/2",
		"redis://localhost/-1",
		"redis://localhost?unknown=secret",
		"redis://localhost?pool_size=secret-",
		"redis://localhost?addr=user:secret@localhost:6379",
		"redis://localhost:secret",
		"redis://localhost/1?addr=localhost:6380",
		"redis://localhost?addr=localhost:6380&read_only=true",
		"redis://localhost?addr=localhost:6380&route_randomly=true",
		"redis://localhost?master_name=m&replica_only=true",
		"redis://localhost?master_name=m&route_by_latency=true",
	}
	for _, url := range fails {
		t.Run(url, func(t *testing.T) {
			store, err := session.Open(ctx, url)
			if err == nil {
				store.Close()
				t.Fatal("no error")
			}
			checkURLError(t, err, "pool_size")
		})
	}
}

func TestRedisOpensClusterAndCloses(t *testing.T) {
	ctx := t.Context()
	server := servertest.RedisCluster(t)
	store := openStore(t, server.URL+"&prefix="+uniquePrefix())
	for i := range byte(30) {
		if err := store.Save(ctx, session.ID{i}, session.Record{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := session.CountRecords(ctx, store); n != 30 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := store.Delete(ctx, session.ID{}); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("Delete after Close: %v, want redis.ErrClosed", err)
	}
	client := redisClient(t, servertest.Redis(t))
	if err := session.NewRedisStore(client, nil).Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := client.Ping(ctx).Err(); err != nil {
		t.Errorf("Close closed the application's client: %v", err)
	}
}

// Connections of TLS that were open before a restart are of no use, and the client does not notice; no call is to
// fail for that.
func TestRedisTLSRestart(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindRedisTLS)
	opts, err := redis.ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	opts.PoolSize, opts.MinIdleConns, opts.MaxRetries = 20, 20, -1
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	store := session.NewRedisStore(client, nil)
	id := session.ID{1}
	if err := store.Save(ctx, id, session.Record{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		call func() error
	}{
		{"Load", func() error { _, err := store.Load(ctx, id); return err }},
		{"Save", func() error { return store.Save(ctx, id, session.Record{Version: 1}) }},
		{"Touch", func() error { return session.Touch(ctx, store, id, session.Record{Version: 2}) }},
		{"Delete", func() error { return store.Delete(ctx, id) }},
	} {
		for client.PoolStats().IdleConns < 20 {
			client.Ping(ctx) // after which the client connects by itself, more often than it has to
		}
		server.Restart(false)
		if err := test.call(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A server that does not answer holds nobody longer than the context says, whatever the client's own time-outs.
func TestRedisPaused(t *testing.T) {
	server := servertest.Start(t, servertest.KindRedis)
	forever := &redis.Options{Addr: server.Addrs[0], ReadTimeout: -1, WriteTimeout: -1}
	client := redis.NewClient(forever)
	t.Cleanup(func() { client.Close() })
	url := "redis://" + server.Addrs[0] + "?read_timeout=-1&write_timeout=-1"
	stores := map[string]session.Store{
		"opened":             openStore(t, url),
		"opened, no retries": openStore(t, url+"&max_retries=-1"),
		"adopted":            session.NewRedisStore(client, nil),
	}
	for _, store := range stores {
		if _, err := store.Load(t.Context(), session.ID{}); !errors.Is(err, session.ErrNotFound) {
			t.Fatal(err)
		}
	}
	server.Pause()
	defer server.Resume()
	for name, store := range stores {
		t.Run(name, func(t *testing.T) { testPaused(t, store) })
	}
	_, err := session.Open(expiring(t), url)
	checkFault(t, "Open", err, "")
}

func TestRedisList(t *testing.T) {
	ctx := t.Context()
	for name, client := range map[string]redis.UniversalClient{
		"single":  redisClient(t, servertest.Redis(t)),
		"cluster": redisCluster(t, servertest.RedisCluster(t)),
		"ring": redis.NewRing(&redis.RingOptions{Addrs: map[string]string{
			"a": servertest.Redis(t).Addrs[0], "b": servertest.Start(t, servertest.KindRedis).Addrs[0],
		}}),
		// Each of the two goes through all keys.
		"twice the same": redis.NewRing(&redis.RingOptions{Addrs: map[string]string{
			"a": servertest.Redis(t).Addrs[0], "b": servertest.Redis(t).Addrs[0],
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { client.Close() })
			prefix := uniquePrefix() + "[*?]"
			store := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix})
			other := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix + "other:"})
			expected := make(map[session.ID]string)
			for i := range 1500 {
				var id session.ID
				binary.BigEndian.PutUint64(id[:], uint64(i))
				expected[id] = fmt.Sprint(i)
				if err := store.Save(ctx, id, session.Record{Data: []byte(expected[id])}); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []string{"foreign", strings.Repeat("F", 64), strings.Repeat("x", 64)} {
				if err := client.Set(ctx, prefix+key, "value", time.Minute).Err(); err != nil {
					t.Fatal(err)
				}
			}
			if err := other.Save(ctx, session.ID{1}, session.Record{}); err != nil {
				t.Fatal(err)
			}
			if n, err := store.Count(ctx, -1, 0); n != len(expected) || err != nil {
				t.Errorf("Count: %d, %v; want %d", n, err, len(expected))
			}
			for entry, err := range store.List(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				if expected[entry.ID] != string(entry.Record.Data) || entry.Record.Version != 1 {
					t.Errorf("%v is listed twice, or not as it was saved: %+v", entry.ID, entry.Record)
				}
				delete(expected, entry.ID)
			}
			if len(expected) > 0 {
				t.Errorf("%d records are not listed", len(expected))
			}
			for range store.List(ctx) {
				break
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			for entry, err := range store.List(cancelled) {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("List with a cancelled context: %v, %v", entry, err)
				}
			}
		})
	}
}

func TestRedisSentinelStore(t *testing.T) {
	sessiontest.Run(t, storesAt(servertest.RedisSentinel(t).URL+"&prefix="+uniquePrefix()))
}

// When the primary dies, its replica takes over: the store fails until then, and finds and changes what is there
// afterwards, without a restart.
func TestRedisSentinelFailover(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindRedisSentinel)
	store := openStore(t, server.URL)
	id := session.ID{1}
	if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour), Data: []byte("before")}); err != nil {
		t.Fatal(err)
	}
	primary := redis.NewClient(&redis.Options{Addr: server.Addrs[0], MaxRetries: -1, DialerRetries: 1})
	defer primary.Close()
	// No promise of the store's: that the replica has it is up to the server's settings.
	if n, err := primary.Wait(ctx, 1, 0).Result(); n != 1 || err != nil {
		t.Fatalf("WAIT: %d, %v", n, err)
	}
	primary.ShutdownNoSave(ctx)
	if err := primary.Ping(ctx).Err(); err == nil {
		t.Fatal("the primary is still there")
	}

	failed := 0
	rec, err := store.Load(ctx, id)
	for ; err != nil; rec, err = store.Load(ctx, id) {
		if errors.Is(err, session.ErrNotFound) {
			t.Fatalf("while nobody is primary: %v", err)
		}
		failed++
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if failed == 0 {
		t.Error("the store answered before another server could have become primary")
	}
	if rec.Version != 1 || string(rec.Data) != "before" {
		t.Errorf("found version %d, %q", rec.Version, rec.Data)
	}
	rec.Data = []byte("after")
	if err := store.Save(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	if err := want(store.Save(ctx, id, rec), session.ErrConflict); err != nil {
		t.Error(err)
	}
	replica := redis.NewClient(&redis.Options{Addr: server.Addrs[1]})
	defer replica.Close()
	if n, err := replica.DBSize(ctx).Result(); n != 1 || err != nil {
		t.Errorf("the new primary has %d keys, %v", n, err)
	}
}

func redisClient(t *testing.T, server *servertest.Server) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	opts.ContextTimeoutEnabled = true
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}

func redisCluster(t *testing.T, server *servertest.Server) *redis.ClusterClient {
	t.Helper()
	opts, err := redis.ParseClusterURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	opts.ContextTimeoutEnabled = true
	client := redis.NewClusterClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}
