package session

import (
	"cmp"
	"context"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A RedisStore keeps records in Redis (5 or later) or Valkey: a single server, one that Sentinel watches, a
// Cluster or a Ring. Each record is one string, which the server removes when it expires. It implements Toucher,
// Lister, Counter and StoreCloser, and is safe for concurrent use.
//
// Every operation takes one round trip and touches one key; but a Save with version 0 takes another where something is
// under the key already. Save and Touch are scripts that the server knows by their hash; a server that does not (it was
// restarted, another took its place) is sent the text once.
//
// A server with a memory limit should not evict (maxmemory-policy noeviction, which makes Save fail when it is
// full): what it evicts is a session lost. A Save that takes no more room than what it replaces succeeds on a full server,
// and so do Touch and Delete: sessions can be ended. How much a crash of the server or a failover to a replica loses is up
// to how the server is set up; a session can then read as it was some moments before.
//
// After a failover, connections to the former primary may live on: behind a name or a proxy that leads to the new one.
// Load is refused there like Save, because it asks by GETEX (before Redis 6.2, which lacks that, by GET: it shows what may
// be out of date). A store that Open returned then drops all connections and repeats the call once. One with the
// application's client repeats it on the client's other connections, as long as they answer READONLY. On a Cluster, a call
// that gets no answer has the client ask which nodes are masters now, which it would do every minute otherwise.
//
// An account needs these commands, for the keys that begin with the prefix:
//
//	GETEX GET SET SETRANGE GETRANGE STRLEN DEL PEXPIRE PERSIST EVALSHA EVAL   always; but on a Cluster no GETEX
//	SCAN                                                                      for List and Count
//	PING                                                                      for Open
//	SELECT                                                                    for a database other than 0
//	CLUSTER SLOTS                                                             on a Cluster
//
// With Sentinel, an account there needs SENTINEL GET-MASTER-ADDR-BY-NAME and, to hear of failovers and other Sentinels,
// SENTINEL SENTINELS, PING, and SUBSCRIBE to all channels. HELLO, AUTH and what the client sends of CLIENT need no
// permission: it does without.
//
// Something else under a record's key, of whatever type, reads as absent, and the next Save replaces it.
//
// The URL for Open, whose scheme is redis, rediss, valkey or valkeys:
//
//	redis://[[user]:password@][host][:port][/database][?parameters]
//
// A user without a password is taken for a password. Host and port default to 127.0.0.1 and 6379, rediss is TLS.
// With one or more parameters addr=host:port it is a Cluster, of which these and the URL's own host are nodes;
// with master_name=name these are Sentinels, and so is the URL's user, while the parameters username and
// password are the server's. The parameter prefix is that of RedisOptions. All others are those of go-redis
// (ParseURL, ParseClusterURL, ParseFailoverURL), such as pool_size: how many connections a process has to each server, 20
// unless it says otherwise. When the server takes no more connections, a call waits for one until its context ends, or for
// 5 seconds.
type RedisStore struct {
	client redis.UniversalClient
	prefix string
	save   *redis.Script
	touch  *redis.Script
	prompt bool        // the client keeps to the deadline of a context
	fresh  bool        // Load is to be refused by a server that has become a replica
	conns  *redisConns // of a client that is ours to close; nil: it is the application's
	old    atomic.Bool // the server does not know GETEX
}

// RedisOptions are the options of NewRedisStore. The zero value, and nil, mean the defaults.
type RedisOptions struct {
	// Prefix is what the key of each record starts with; the ID in hexadecimal follows. Empty means
	// "session:". Stores with different prefixes can share a database.
	Prefix string
}

// NewRedisStore returns a store that uses client, which stays the caller's to close. It does not connect.
//
// A client should have ContextTimeoutEnabled: without it, and for contexts that have no deadline, each call
// costs a goroutine, because it could not return in time otherwise. A call whose context has a deadline and is
// cancelled earlier may return as late as that deadline.
//
// The client repeats a command whose reply was lost (MaxRetries), and so does the store where the connection has
// ended. A Save that had taken effect all the same then returns ErrConflict. A client that reads from replicas or
// caches replies can delay what Load sees.
//
// For a failover to be over soon, set MaxRetries to 1 or more, and on a Cluster ClusterStateReloadInterval to a second:
// a master that does not answer costs the first calls their whole time otherwise. Where an answer of LOADING or MASTERDOWN
// goes on while new connections would lead to another server, only the application can drop those that the client has:
// ConnMaxLifetime of a minute does. PoolSize times the number of processes has to stay below the server's maxclients.
func NewRedisStore(client redis.UniversalClient, opts *RedisOptions) *RedisStore {
	if opts == nil {
		opts = &RedisOptions{}
	}
	s := &RedisStore{
		client: client,
		prefix: cmp.Or(opts.Prefix, "session:"),
	}
	// The server knows a script by its SHA-1, which protects nothing: GODEBUG=fips140=only would panic all the same.
	fips140.WithoutEnforcement(func() {
		s.save, s.touch = redis.NewScript(redisLook+redisSave), redis.NewScript(redisLook+redisTouch)
	})
	switch c := client.(type) {
	case *redis.Client:
		s.prompt, s.fresh = c.Options().ContextTimeoutEnabled, true
	case *redis.ClusterClient: // whose replicas say by themselves that they are not the ones to ask
		s.prompt = c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		s.prompt, s.fresh = c.Options().ContextTimeoutEnabled, true
	}
	return s
}

// Both scripts take the version that the record has to have (8 bytes, zero for none), the caller's time in Unix
// milliseconds, for how many milliseconds the record is to live ("" for ever, "0" if it has expired), and the
// value, or for redisTouch the expiry that goes into it. Versions are compared as bytes, because numbers in Lua
// are exact up to 2^53 only. The server counts the time to live itself, so that its clock need not be right.
const (
	// redisLook sets version to that of the live record: zero if there is none.
	redisLook = `
local none = '\0\0\0\0\0\0\0\0'
local version = none
local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if type(head) ~= 'string' then
	if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
elseif #head == 18 and string.sub(head, 1, 2) == 'S\1' then
	local high, low = struct.unpack('>I4I4', head, 11)
	local expires = high * 4294967296 + low
	if expires == 0 or expires > tonumber(ARGV[2]) then version = string.sub(head, 3, 10) end
end
`
	// redisSave succeeds on a server that is full where it takes no more room than what is there: a server checks whether
	// it has room before the first write of a script only.
	redisSave = `
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
	redis.call('DEL', KEYS[1])
	return 1
end
local set = {'SET', KEYS[1], ARGV[4]}
if ARGV[3] ~= '' then set[4], set[5] = 'PX', ARGV[3] end
local reply = redis.pcall(unpack(set))
if reply.err and version ~= none and string.find(reply.err, 'OOM', 1, true)
	and redis.call('STRLEN', KEYS[1]) >= #ARGV[4] then
	redis.call('DEL', KEYS[1])
	reply = redis.call(unpack(set))
end
if reply.err then return reply end
return 1
`
	// redisTouch writes the value last, for the same reason.
	redisTouch = `
if version == none then return -1 end
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
	redis.call('DEL', KEYS[1])
	return 1
end
if ARGV[3] == '' then
	redis.call('PERSIST', KEYS[1])
else
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
redis.call('SETRANGE', KEYS[1], 10, ARGV[4])
return 1
`
)

// redisMaxData is what fits into a string of Redis, by default and beside our head.
const redisMaxData = 512<<20 - 1<<10

// Load implements Store.
func (s *RedisStore) Load(ctx context.Context, id ID) (Record, error) {
	value, err := redisCall(ctx, s, func() ([]byte, error) { return s.get(ctx, id) })
	switch {
	case err == nil:
	case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"):
		return Record{}, ErrNotFound
	default:
		return Record{}, s.fault(ctx, "load", err)
	}
	rec, ok := unpackRecord(value)
	if !ok || !rec.Live(time.Now()) {
		return Record{}, ErrNotFound
	}
	return rec, nil
}

// Save implements Store. It returns an error that wraps ErrTooLarge for one that exceeds 512 MB.
func (s *RedisStore) Save(ctx context.Context, id ID, rec Record) error {
	if len(rec.Data) > redisMaxData {
		return fmt.Errorf("session: redis: save: a record of %d bytes: %w", len(rec.Data), ErrTooLarge)
	}
	expires := packedExpiry(rec.Expires)
	value := packRecord(rec.Version+1, expires, rec.Data)
	if rec.Version == 0 {
		created, err := s.create(ctx, id, rec.Expires, value)
		switch {
		case err != nil:
			return s.fault(ctx, "save", err)
		case created:
			return nil
		}
		// The value that is there may count as absent.
	}
	code, err := s.run(ctx, s.save, id, rec.Version, expires, value)
	switch {
	case err != nil:
		return s.fault(ctx, "save", err)
	case code == 0:
		return ErrConflict
	}
	return nil
}

// Touch implements Toucher.
func (s *RedisStore) Touch(ctx context.Context, id ID, rec Record) error {
	expires := packedExpiry(rec.Expires)
	code, err := s.run(ctx, s.touch, id, rec.Version, expires, binary.BigEndian.AppendUint64(nil, uint64(expires)))
	switch {
	case err != nil:
		return s.fault(ctx, "touch", err)
	case code < 0:
		return ErrNotFound
	case code == 0:
		return ErrConflict
	}
	return nil
}

// Delete implements Store.
func (s *RedisStore) Delete(ctx context.Context, id ID) error {
	_, err := redisCall(ctx, s, func() (int64, error) { return s.client.Del(ctx, s.key(id)).Result() })
	if err != nil {
		return s.fault(ctx, "delete", err)
	}
	return nil
}

// List implements Lister. It goes through all keys of the database, other applications' too, a few hundred at a
// time, and keeps the IDs that it has seen in memory: about 50 bytes each, because a server may name a key twice.
// On a Cluster, a record that moves to another node meanwhile may be missed.
func (s *RedisStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := s.scan(ctx, func(ids []ID) (bool, error) {
			records, err := s.loadAll(ctx, ids)
			if err != nil {
				return false, err
			}
			for i, rec := range records {
				if rec.Version != 0 && !yield(Entry{ids[i], rec}, nil) {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			yield(Entry{}, s.fault(ctx, "list", err))
		}
	}
}

// Count implements Counter. It goes through the keys as List does; to count all does not look into what is there, anything
// else asks for one byte of each.
func (s *RedisStore) Count(ctx context.Context, at int, b byte) (int, error) {
	total := 0
	err := s.scan(ctx, func(ids []ID) (bool, error) {
		n := len(ids)
		var err error
		if at >= 0 {
			n, err = s.countByte(ctx, ids, int64(packedHeadSize+at), b)
		}
		total += n
		return true, err
	})
	if err != nil {
		return 0, s.fault(ctx, "count", err)
	}
	return total, nil
}

// countByte counts the values that have a byte at an index, in one round trip to each node.
func (s *RedisStore) countByte(ctx context.Context, ids []ID, at int64, b byte) (n int, err error) {
	cmds, err := redisCall(ctx, s, func() ([]redis.Cmder, error) {
		return s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, id := range ids {
				p.GetRange(ctx, s.key(id), at, at)
			}
			return nil
		})
	})
	if cmds == nil {
		return 0, err
	}
	for _, cmd := range cmds {
		value, err := cmd.(*redis.StringCmd).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return 0, err
		}
		if hasByte(value, 0, b) {
			n++
		}
	}
	return n, nil
}

// Close closes what Open opened. It does nothing to a store that NewRedisStore returned.
func (s *RedisStore) Close() error {
	if s.conns == nil {
		return nil
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("session: redis: close: %w", err)
	}
	return nil
}

// openRedis is the OpenFunc of "redis:", "rediss:", "valkey:" and "valkeys:".
func openRedis(ctx context.Context, rawURL string) (StoreCloser, error) {
	conns := &redisConns{}
	client, prefix, err := dialRedis(rawURL, conns)
	if err != nil {
		return nil, err
	}
	s := NewRedisStore(client, &RedisOptions{Prefix: prefix})
	s.conns = conns
	_, err = redisCall(ctx, s, func() (string, error) { return client.Ping(ctx).Result() })
	if err != nil {
		client.Close()
		return nil, s.fault(ctx, "open", err)
	}
	return s, nil
}

// redisPoolSize is how many connections a store has to each server that Open returned, unless its URL says otherwise.
// A server has 10,000 by default, and an operation takes less than a millisecond of one.
const redisPoolSize = 20

// dialRedis returns a client for the URL, which has not connected yet and makes its connections by way of conns, and
// the prefix.
//
// A command is repeated once if its reply was lost, where go-redis by default repeats it three times: once is
// what a connection needs that broke while it was idle. To repeat a save is safe, see NewRedisStore.
func dialRedis(rawURL string, conns *redisConns) (client redis.UniversalClient, prefix string, err error) {
	u, params, err := parseRedisURL(rawURL)
	if err != nil {
		return nil, "", err
	}
	prefix = params.Get("prefix")
	params.Del("prefix")
	u.RawQuery = params.Encode()
	switch {
	case params.Has("master_name"):
		o, err := redis.ParseFailoverURL(u.String())
		if err != nil {
			return nil, "", fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
		}
		if o.RouteByLatency || o.RouteRandomly || o.ReplicaOnly {
			return nil, "", fmt.Errorf("session: a %s: URL cannot ask for replicas: what they hold is out of date", u.Scheme)
		}
		o.ContextTimeoutEnabled = true
		o.MaxRetries, o.DialerRetries = cmp.Or(o.MaxRetries, 1), cmp.Or(o.DialerRetries, 1)
		o.PoolSize, o.PipelinePoolSize = cmp.Or(o.PoolSize, redisPoolSize), -1
		o.Dialer = conns.dialer(o.TLSConfig, o.DialTimeout)
		return redis.NewFailoverClient(o), prefix, nil
	case params.Has("addr"):
		o, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, "", fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
		}
		if o.RouteByLatency || o.RouteRandomly || o.ReadOnly {
			return nil, "", fmt.Errorf("session: a %s: URL cannot ask for replicas: what they hold is out of date", u.Scheme)
		}
		o.ContextTimeoutEnabled = true
		o.DialerRetries = cmp.Or(o.DialerRetries, 1) // retries are the Cluster's MaxRedirects
		o.PoolSize, o.PipelinePoolSize = cmp.Or(o.PoolSize, redisPoolSize), -1
		o.ClusterStateReloadInterval = time.Second // a master that is out of reach says nothing of who took its place
		o.Dialer = conns.dialer(o.TLSConfig, o.DialTimeout)
		return redis.NewClusterClient(o), prefix, nil
	}
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, "", fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
	}
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.DialerRetries = cmp.Or(o.MaxRetries, 1), cmp.Or(o.DialerRetries, 1)
	o.PoolSize, o.PipelinePoolSize = cmp.Or(o.PoolSize, redisPoolSize), -1
	o.Dialer = conns.dialer(o.TLSConfig, o.DialTimeout)
	return redis.NewClient(o), prefix, nil
}

// parseRedisURL returns the URL as go-redis takes it, and its parameters. It checks all that go-redis would
// repeat in an error and that could be part of a password with characters that are not percent-encoded.
func parseRedisURL(rawURL string) (*url.URL, url.Values, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, nil, err
	}
	scheme := u.Scheme
	u.Scheme = strings.Replace(scheme, "valkey", "redis", 1)
	params, err := url.ParseQuery(u.RawQuery)
	malformed := err != nil || !strings.HasPrefix(rawURL[len(scheme):], "://") || u.Fragment != "" ||
		strings.ContainsRune(u.Path+u.RawQuery, '@')
	for name := range params {
		malformed = malformed || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzI_") != "" // identitySuffix
	}
	for i, addr := range params["addr"] {
		params["addr"][i], err = withPort(addr, "6379")
		malformed = malformed || err != nil
	}
	if malformed {
		return nil, nil, fmt.Errorf("session: the %[1]s: URL of the store is malformed: it is "+
			"%[1]s://user:password@host:port/database?parameters, with reserved characters percent-encoded", scheme)
	}
	db := strings.Trim(u.Path, "/")
	if _, err := strconv.ParseUint(db, 10, 16); db != "" && err != nil {
		return nil, nil, fmt.Errorf("session: the path of a %s: URL is the number of a database", scheme)
	}
	if db != "" && db != "0" && params.Has("addr") && !params.Has("master_name") {
		return nil, nil, fmt.Errorf("session: a %s: URL with addr is a Cluster, which has the database 0 only", scheme)
	}
	u.Host = net.JoinHostPort(cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "6379"))
	if u.User != nil {
		if _, ok := u.User.Password(); !ok {
			u.User = url.UserPassword("", u.User.Username())
		}
	}
	return u, params, nil
}

func (s *RedisStore) key(id ID) string { return prefixed(s.prefix, id) }

// get returns the value under a key.
//
// GETEX without options is GET, but counts as a write. So a server that has become a replica refuses it, where GET
// would show what is out of date.
func (s *RedisStore) get(ctx context.Context, id ID) ([]byte, error) {
	if s.fresh && !s.old.Load() {
		cmd := redis.NewStringCmd(ctx, "getex", s.key(id))
		s.client.Process(ctx, cmd)
		switch err := cmd.Err(); {
		case err == nil:
			return cmd.Bytes()
		case redis.HasErrorPrefix(err, "unknown command"): // before Redis 6.2
			s.old.Store(true)
		case redis.HasErrorPrefix(err, "NOREPLICAS"), redis.HasErrorPrefix(err, "MISCONF"):
			// A primary that takes no writes, but may be read.
		default:
			return nil, err
		}
	}
	return s.client.Get(ctx, s.key(id)).Bytes()
}

// create stores a value under a key that does not exist. It takes the server half the time of the script (new sessions
// on Redis, in module bench).
func (s *RedisStore) create(ctx context.Context, id ID, expires time.Time, value []byte) (bool, error) {
	ttl := time.Duration(0) // for ever
	if !expires.IsZero() {
		if ttl = time.Until(expires); ttl < time.Millisecond || ttl == math.MaxInt64 { // no time to live, or 292 years
			return false, nil
		}
	}
	return redisCall(ctx, s, func() (bool, error) { return s.client.SetNX(ctx, s.key(id), value, ttl).Result() })
}

// run runs a script. Run sends its text where the server does not have it, node by node on a Cluster.
func (s *RedisStore) run(
	ctx context.Context, script *redis.Script, id ID, version uint64, expires int64, arg []byte,
) (int, error) {
	now := time.Now()
	ttl := ""
	if expires != 0 {
		ttl = strconv.FormatInt(max(0, expires-now.UnixMilli()), 10)
	}
	return redisCall(ctx, s, func() (int, error) {
		return script.Run(ctx, s.client, []string{s.key(id)},
			binary.BigEndian.AppendUint64(nil, version), now.UnixMilli(), ttl, arg).Int()
	})
}

// loadAll returns the live records under ids, in one round trip to each node; a record that is not there has
// the version 0.
func (s *RedisStore) loadAll(ctx context.Context, ids []ID) ([]Record, error) {
	cmds, err := redisCall(ctx, s, func() ([]redis.Cmder, error) {
		return s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, id := range ids {
				p.Get(ctx, s.key(id))
			}
			return nil
		})
	})
	if cmds == nil {
		return nil, err
	}
	records := make([]Record, len(ids))
	now := time.Now()
	for i, cmd := range cmds {
		value, err := cmd.(*redis.StringCmd).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil, err
		}
		if rec, ok := unpackRecord(value); ok && rec.Live(now) {
			records[i] = rec
		}
	}
	return records, nil
}

// scan calls f with the IDs of all records, each once, until f returns false or an error.
func (s *RedisStore) scan(ctx context.Context, f func([]ID) (bool, error)) error {
	const batch = 500 // few enough for a server to go through between two requests
	type page struct {
		keys []string
		next uint64
	}
	nodes, err := redisCall(ctx, s, func() ([]redis.Cmdable, error) { return s.nodes(ctx) })
	if err != nil {
		return err
	}
	match := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s.prefix) + "*"
	seen := make(map[ID]struct{})
	for _, node := range nodes {
		for cursor := uint64(0); ; {
			found, err := redisCall(ctx, s, func() (p page, err error) {
				p.keys, p.next, err = node.Scan(ctx, cursor, match, batch).Result()
				return p, err
			})
			if err != nil {
				return err
			}
			ids := make([]ID, 0, len(found.keys))
			for _, key := range found.keys {
				id, err := ParseID(strings.TrimPrefix(key, s.prefix))
				if _, again := seen[id]; err != nil || again || key != s.key(id) {
					continue
				}
				seen[id] = struct{}{}
				ids = append(ids, id)
			}
			if more, err := f(ids); err != nil || !more {
				return err
			}
			if cursor = found.next; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// nodes returns what has to be scanned to see every key.
func (s *RedisStore) nodes(ctx context.Context) ([]redis.Cmdable, error) {
	var (
		mu    sync.Mutex
		nodes []redis.Cmdable
	)
	add := func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, node)
		return nil
	}
	switch c := s.client.(type) {
	case interface {
		ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
	}:
		err := c.ForEachMaster(ctx, add)
		return nodes, err
	case interface {
		ForEachShard(context.Context, func(context.Context, *redis.Client) error) error
	}:
		err := c.ForEachShard(ctx, add)
		return nodes, err
	}
	return []redis.Cmdable{s.client}, nil
}

// idle returns how many idle connections to one server the client has, at most.
func (s *RedisStore) idle() int {
	switch c := s.client.(type) {
	case *redis.Client:
		return int(c.PoolStats().IdleConns)
	case *redis.ClusterClient:
		return c.Options().PoolSize // PoolStats may ask the Cluster for its nodes, and wait
	case *redis.Ring:
		return int(c.PoolStats().IdleConns)
	}
	return 0
}
