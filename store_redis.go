package session

import (
	"cmp"
	"context"
	"crypto/tls"
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
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// A RedisStore keeps records in Redis (5 or later) or Valkey: a single server, one that Sentinel watches, a
// Cluster or a Ring. Each record is one string, which the server removes when it expires. It implements Toucher
// and Lister, and is safe for concurrent use.
//
// Every operation takes one round trip and touches one key; but a Save with version 0 takes another where something is
// under the key already. Save and Touch are scripts that the server knows by their hash; a server that does not (it was
// restarted, another took its place) is sent the text once. The commands in use are EVALSHA, EVAL, GET, GETRANGE, SET,
// SETRANGE, DEL, PEXPIRE, PERSIST and, for List and Count, SCAN.
//
// A server with a memory limit should not evict (maxmemory-policy noeviction, which makes Save fail when it is
// full): what it evicts is a session lost. What a crash of the server or a failover to a replica loses is up to
// how the server is set up; a session can then read as it was some moments before.
//
// Something else under a record's key, of whatever type, reads as absent, and the next Save replaces it.
type RedisStore struct {
	client redis.UniversalClient
	prefix string
	save   *redis.Script
	touch  *redis.Script
	prompt bool // the client keeps to the deadline of a context
	opened bool // the client is ours to close
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
func NewRedisStore(client redis.UniversalClient, opts *RedisOptions) *RedisStore {
	if opts == nil {
		opts = &RedisOptions{}
	}
	s := &RedisStore{
		client: client,
		prefix: cmp.Or(opts.Prefix, "session:"),
		save:   redis.NewScript(redisLook + redisSave),
		touch:  redis.NewScript(redisLook + redisTouch),
	}
	switch c := client.(type) {
	case *redis.Client:
		s.prompt = c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		s.prompt = c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		s.prompt = c.Options().ContextTimeoutEnabled
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
	redisSave = `
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
	redis.call('SET', KEYS[1], ARGV[4])
elseif ARGV[3] == '0' then
	redis.call('DEL', KEYS[1])
else
	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
end
return 1
`
	redisTouch = `
if version == none then return -1 end
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
	redis.call('DEL', KEYS[1])
	return 1
end
redis.call('SETRANGE', KEYS[1], 10, ARGV[4])
if ARGV[3] == '' then
	redis.call('PERSIST', KEYS[1])
else
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
`
)

// redisMaxData is what fits into a string of Redis, by default and beside our head.
const redisMaxData = 512<<20 - 1<<10

// Load implements Store.
func (s *RedisStore) Load(ctx context.Context, id ID) (Record, error) {
	value, err := redisCall(ctx, s, func() ([]byte, error) { return s.client.Get(ctx, s.key(id)).Bytes() })
	switch {
	case err == nil:
	case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"):
		return Record{}, ErrNotFound
	default:
		return Record{}, redisError(ctx, "load", err)
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
			return redisError(ctx, "save", err)
		case created:
			return nil
		}
		// What is there may count as absent.
	}
	code, err := s.run(ctx, s.save, id, rec.Version, expires, value)
	switch {
	case err != nil:
		return redisError(ctx, "save", err)
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
		return redisError(ctx, "touch", err)
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
		return redisError(ctx, "delete", err)
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
			yield(Entry{}, redisError(ctx, "list", err))
		}
	}
}

// Count implements Lister. It counts keys, as List goes through them, without looking into what is there.
func (s *RedisStore) Count(ctx context.Context) (int, error) {
	total := 0
	err := s.scan(ctx, func(ids []ID) (bool, error) {
		total += len(ids)
		return true, nil
	})
	if err != nil {
		return 0, redisError(ctx, "count", err)
	}
	return total, nil
}

// Close closes what Open opened. It does nothing to a store that NewRedisStore returned.
func (s *RedisStore) Close() error {
	if !s.opened {
		return nil
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("session: redis: close: %w", err)
	}
	return nil
}

// openRedis is the OpenFunc of "redis:", "rediss:", "valkey:" and "valkeys:".
//
//	redis://[[user]:password@][host][:port][/database][?parameters]
//
// A user without a password is taken for a password. Host and port default to 127.0.0.1 and 6379, rediss is TLS.
// With one or more parameters addr=host:port it is a Cluster, of which these and the URL's own host are nodes;
// with master_name=name these are Sentinels, and so is the URL's user, while the parameters username and
// password are the server's. The parameter prefix is that of RedisOptions. All others are those of go-redis
// (ParseURL, ParseClusterURL, ParseFailoverURL), such as pool_size.
func openRedis(ctx context.Context, rawURL string) (Store, error) {
	client, prefix, err := dialRedis(rawURL)
	if err != nil {
		return nil, err
	}
	s := NewRedisStore(client, &RedisOptions{Prefix: prefix})
	s.opened = true
	_, err = redisCall(ctx, s, func() (string, error) { return client.Ping(ctx).Result() })
	if err != nil {
		client.Close()
		return nil, redisError(ctx, "open", err)
	}
	return s, nil
}

// dialRedis returns a client for the URL, which has not connected yet, and the prefix.
//
// A command is repeated once if its reply was lost, where go-redis by default repeats it three times: once is
// what a connection needs that broke while it was idle. To repeat a save is safe, see NewRedisStore.
func dialRedis(rawURL string) (client redis.UniversalClient, prefix string, err error) {
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
		o.Dialer = redisDialer(o.TLSConfig, o.DialTimeout)
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
		o.Dialer = redisDialer(o.TLSConfig, o.DialTimeout)
		return redis.NewClusterClient(o), prefix, nil
	}
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, "", fmt.Errorf("session: the %s: URL: %w", u.Scheme, err)
	}
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.DialerRetries = cmp.Or(o.MaxRetries, 1), cmp.Or(o.DialerRetries, 1)
	o.Dialer = redisDialer(o.TLSConfig, o.DialTimeout)
	return redis.NewClient(o), prefix, nil
}

// redisDialer returns a dialer that hands out a useless connection where another would return an error. After as
// many such errors as its pool is large, go-redis makes no connection for a second or more, even where the
// server is back at once.
func redisDialer(config *tls.Config, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	dial := redis.NewDialer(&redis.Options{TLSConfig: config, DialTimeout: cmp.Or(timeout, 5*time.Second)})
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return failedConn{err}, nil
		}
		return conn, nil
	}
}

// A failedConn is a connection that could not be made. If it gets into the pool, because nobody waits for it any
// more, the pool's check of idle connections finds it out by SyscallConn.
type failedConn struct{ err error }

func (c failedConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }

func (c failedConn) Read([]byte) (int, error)         { return 0, c.err }
func (c failedConn) Write([]byte) (int, error)        { return 0, c.err }
func (c failedConn) Close() error                     { return nil }
func (c failedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c failedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c failedConn) SetDeadline(time.Time) error      { return nil }
func (c failedConn) SetReadDeadline(time.Time) error  { return nil }
func (c failedConn) SetWriteDeadline(time.Time) error { return nil }

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

// redisCall calls f, again where a connection broke, and returns when ctx is done, if f would not.
//
// The client finds out by itself which idle connections have ended, unless they are of TLS: any number of them
// may be of no use then, and each call uses up at least one.
func redisCall[T any](ctx context.Context, s *RedisStore, f func() (T, error)) (T, error) {
	again := func() (T, error) {
		value, err := f()
		if brokenConn(err) {
			for left := s.idle(); left >= 0 && brokenConn(err) && ctx.Err() == nil; left-- {
				value, err = f()
			}
		}
		return value, err
	}
	if _, ok := ctx.Deadline(); (ok && s.prompt) || ctx.Done() == nil {
		return again()
	}
	return untilDone(ctx, again)
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

func redisError(ctx context.Context, op string, err error) error {
	return fmt.Errorf("session: redis: %s: %w", op, overdue(ctx, err))
}
