package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// A MemcacheStore keeps records in one or several Memcached servers (1.4 or later), which remove them when they
// expire. It implements Toucher; Memcached cannot list what it holds. It is safe for concurrent use.
//
// Load and Delete take one round trip, Save and Touch too where they get the Record that Load returned. Save and
// Touch look first, and take two or three, if the Record comes from elsewhere (an earlier Save, say), if it is
// about to expire, or if a Touch came between.
//
// Memcached forgets: at a restart, and when its memory (-m) is full, where it drops what was unused for longest.
// What it drops is a session lost. With several servers, each record is on one of them, found by its key as
// memcache.ServerList does; a change in their number moves most records out of sight.
//
// Something else under a record's key reads as absent, and the next Save replaces it.
type MemcacheStore struct {
	client *memcache.Client
	prefix string
	dialed *memcacheDialer // what makes the connections if the client is ours to close, or nil
	closed atomic.Bool
}

// MemcacheOptions are the options of NewMemcacheStore. The zero value, and nil, mean the defaults.
type MemcacheOptions struct {
	// Prefix is what the key of each record starts with; the ID in hexadecimal follows. Empty means
	// "session:". Stores with different prefixes can share a server. A prefix of more than 186 bytes, or with
	// a space or a control character, makes every call fail.
	Prefix string
}

// NewMemcacheStore returns a store that uses client, which stays the caller's to close. It does not connect.
//
// The client knows no contexts: it gives up by its own Timeout (half a second, if that is zero), which counts
// for each step of a call, connecting, asking and reading. A call returns when its context is done all the same:
// if that can be before the client gives up, or if the context has no deadline, it costs a goroutine, which ends
// with the client's time-out. A call whose context is cancelled before a later deadline may take until the
// client's time-out. Set the client's MaxIdleConns to the number of calls at a time: beyond it, each connects.
func NewMemcacheStore(client *memcache.Client, opts *MemcacheOptions) *MemcacheStore {
	if opts == nil {
		opts = &MemcacheOptions{}
	}
	return &MemcacheStore{client: client, prefix: cmp.Or(opts.Prefix, "session:")}
}

// Load implements Store.
func (s *MemcacheStore) Load(ctx context.Context, id ID) (Record, error) {
	rec, unique, err := s.look(ctx, id)
	switch {
	case err != nil:
		return Record{}, memcacheError(ctx, "load", err)
	case rec.Version == 0:
		return Record{}, ErrNotFound
	}
	rec.cas = packUnique(unique, rec.Expires)
	return rec, nil
}

// Save implements Store. It returns an error that wraps ErrTooLarge for a record that exceeds the server's item
// size (-I, 1 MiB by default, less some bytes of overhead).
func (s *MemcacheStore) Save(ctx context.Context, id ID, rec Record) error {
	var err error
	if rec.Version == 0 {
		err = s.create(ctx, id, rec)
	} else {
		err = s.replace(ctx, id, rec, rec.Version+1)
	}
	switch err {
	case nil:
		return nil
	case ErrNotFound, ErrConflict:
		return ErrConflict
	}
	return memcacheError(ctx, "save", err)
}

// Touch implements Toucher.
func (s *MemcacheStore) Touch(ctx context.Context, id ID, rec Record) error {
	switch err := s.replace(ctx, id, rec, rec.Version); err {
	case nil, ErrNotFound, ErrConflict:
		return err
	default:
		return memcacheError(ctx, "touch", err)
	}
}

// Delete implements Store.
func (s *MemcacheStore) Delete(ctx context.Context, id ID) error {
	_, err := s.call(ctx, func() (*memcache.Item, error) { return nil, s.client.Delete(s.key(id)) })
	if err != nil && err != memcache.ErrCacheMiss {
		return memcacheError(ctx, "delete", err)
	}
	return nil
}

// Close closes what Open opened. It does nothing to a store that NewMemcacheStore returned.
func (s *MemcacheStore) Close() error {
	if s.dialed == nil {
		return nil
	}
	s.closed.Store(true)
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("session: memcached: close: %w", err)
	}
	return nil
}

// memcacheTries bounds how often a write is tried. Each further try means that somebody else wrote in the blink
// since the last look at the record.
const memcacheTries = 10

// create stores rec as version 1, if no live record is there, else it returns ErrConflict.
func (s *MemcacheStore) create(ctx context.Context, id ID, rec Record) error {
	item := s.item(id, 1, rec.Expires, rec.Data)
	for range memcacheTries {
		err := s.write(ctx, s.client.Add, item)
		if err != memcache.ErrNotStored {
			return err
		}
		there, unique, err := s.look(ctx, id)
		switch {
		case err != nil:
			return err
		case there.Version != 0:
			return ErrConflict
		case unique == 0:
			continue // it has gone meanwhile
		}
		// It has expired by this process's clock, or is nothing of ours.
		swap := *item
		swap.CasID = unique
		err = s.write(ctx, s.client.CompareAndSwap, &swap)
		if err != memcache.ErrCASConflict && err != memcache.ErrCacheMiss {
			return err
		}
	}
	return ErrConflict
}

// replace stores rec under a new version in the place of the live record of rec.Version. It returns ErrNotFound
// if no live record is there, and ErrConflict if it has another version.
func (s *MemcacheStore) replace(ctx context.Context, id ID, rec Record, version uint64) error {
	unique := unpackUnique(rec.cas, time.Now())
	for range memcacheTries {
		if unique == 0 {
			var there Record
			var err error
			there, unique, err = s.look(ctx, id)
			switch {
			case err != nil:
				return err
			case there.Version == 0:
				return ErrNotFound
			case there.Version != rec.Version:
				return ErrConflict
			case version == rec.Version:
				rec.Data = there.Data
			}
		}
		item := s.item(id, version, rec.Expires, rec.Data)
		item.CasID = unique
		switch err := s.write(ctx, s.client.CompareAndSwap, item); err {
		case memcache.ErrCacheMiss:
			return ErrNotFound
		case memcache.ErrCASConflict:
			unique = 0 // a Touch perhaps, which keeps the version
		default:
			return err
		}
	}
	return ErrConflict
}

// look returns the live record under id, with the version 0 if there is none, and the unique value of whatever
// is there, 0 if it is nothing.
func (s *MemcacheStore) look(ctx context.Context, id ID) (rec Record, unique uint64, err error) {
	item, err := s.call(ctx, func() (*memcache.Item, error) { return s.client.Get(s.key(id)) })
	switch {
	case err == memcache.ErrCacheMiss:
		return Record{}, 0, nil
	case err != nil:
		return Record{}, 0, err
	case item.CasID == 0:
		return Record{}, 0, errors.New("the server does not compare and swap (was it started with -C?)")
	}
	rec, ok := unpackRecord(item.Value)
	if !ok || !rec.Live(time.Now()) {
		rec = Record{}
	}
	return rec, item.CasID, nil
}

// item returns what to store under id.
func (s *MemcacheStore) item(id ID, version uint64, expires time.Time, data []byte) *memcache.Item {
	packed := packedExpiry(expires)
	return &memcache.Item{
		Key:        s.key(id),
		Value:      packRecord(version, packed, data),
		Expiration: memcacheExpiration(packed, time.Now().UnixMilli()),
	}
}

// memcacheExpiration returns when the server is to remove a record, in its terms: seconds from now up to 30 days,
// a Unix time beyond, 0 for never and negative for at once. It is never too early, for the record's exact expiry
// is in its value: a second is added because the server's clock ticks in seconds.
func memcacheExpiration(expires, now int64) int32 {
	const maxRelative = 30 * 24 * 60 * 60
	if expires == 0 {
		return 0
	}
	left := expires - now
	if left <= 0 {
		return -1
	}
	if seconds := (left+999)/1000 + 1; seconds <= maxRelative {
		return int32(seconds)
	}
	if unix := (expires+999)/1000 + 1; unix <= math.MaxInt32 {
		return int32(unix)
	}
	return 0 // beyond what the protocol's clients can say
}

func (s *MemcacheStore) key(id ID) string { return prefixed(s.prefix, id) }

func (s *MemcacheStore) write(ctx context.Context, f func(*memcache.Item) error, item *memcache.Item) error {
	_, err := s.call(ctx, func() (*memcache.Item, error) { return nil, f(item) })
	return err
}

// call calls f, again where a connection broke, and returns when ctx is done, if f would not. The client does
// not notice that a server has closed idle connections, after a restart for example: as many may be of no use as
// it holds. To repeat a write that had taken effect makes it a conflict.
func (s *MemcacheStore) call(ctx context.Context, f func() (*memcache.Item, error)) (*memcache.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	again := func() (*memcache.Item, error) {
		item, err := f()
		if brokenConn(err) {
			for left := s.connections(); left >= 0 && brokenConn(err) && ctx.Err() == nil; left-- {
				item, err = f()
			}
		}
		if s.closed.Load() {
			s.client.Close() // it takes connections back after Close
		}
		return item, err
	}
	// Connecting, sending, and two reads are timed each by itself.
	longest := 4 * cmp.Or(s.client.Timeout, memcache.DefaultTimeout)
	if deadline, ok := ctx.Deadline(); (ok && time.Until(deadline) > longest) || ctx.Done() == nil {
		return again()
	}
	return untilDone(ctx, again)
}

// connections returns how many connections the client can hold that are of no use any more.
func (s *MemcacheStore) connections() int {
	if s.dialed != nil {
		return int(s.dialed.open.Load())
	}
	return max(s.client.MaxIdleConns, memcache.DefaultMaxIdleConns)
}

// A memcacheDialer counts the connections that it made and that are not closed.
type memcacheDialer struct {
	net.Dialer
	open atomic.Int64
}

func (d *memcacheDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &memcacheConn{Conn: conn, closed: sync.OnceFunc(func() { d.open.Add(-1) })}, nil
}

type memcacheConn struct {
	net.Conn
	closed func()
}

func (c *memcacheConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func memcacheError(ctx context.Context, op string, err error) error {
	if strings.Contains(err.Error(), "object too large for cache") {
		return fmt.Errorf("session: memcached: %s: more than the server's item size: %w", op, ErrTooLarge)
	}
	return fmt.Errorf("session: memcached: %s: %w", op, overdue(ctx, err))
}

// openMemcache is the OpenFunc of "memcached:".
//
//	memcached://[host][:port][,host[:port]…][?prefix=…&timeout=…]
//	memcached:///path/to/socket
//
// Host and port default to 127.0.0.1 and 11211. The parameter prefix is that of MemcacheOptions; timeout, such as
// 200ms, is the Timeout of memcache.Client, by default one second. Host names are resolved whenever a connection is
// made. All servers have to answer.
func openMemcache(ctx context.Context, rawURL string) (Store, error) {
	servers, params, err := parseMemcacheURL(rawURL)
	if err != nil {
		return nil, err
	}
	client := memcache.NewFromSelector(servers)
	client.MaxIdleConns = 100
	// The client's own default is too short for a busy machine, and more would cost each call a goroutine: four times as
	// much has to be less than Options.StoreTimeout.
	client.Timeout = time.Second
	if text := params.Get("timeout"); text != "" {
		if client.Timeout, err = time.ParseDuration(text); err != nil || client.Timeout <= 0 {
			return nil, fmt.Errorf("session: the timeout in the memcached: URL is a duration such as 200ms, not %q", text)
		}
	}
	s := NewMemcacheStore(client, &MemcacheOptions{Prefix: params.Get("prefix")})
	s.dialed = new(memcacheDialer)
	client.DialContext = s.dialed.dial
	// Looking for a record checks the prefix as well.
	_, err = s.call(ctx, func() (*memcache.Item, error) { return nil, client.Ping() })
	if err == nil {
		_, _, err = s.look(ctx, ID{})
	}
	if err != nil {
		client.Close()
		return nil, memcacheError(ctx, "open", err)
	}
	return s, nil
}

// parseMemcacheURL does not use package url for the servers, because it knows one host only.
func parseMemcacheURL(rawURL string) (memcacheServers, url.Values, error) {
	_, rest, _ := strings.Cut(rawURL, ":")
	rest, query, _ := strings.Cut(rest, "?")
	rest, ok := strings.CutPrefix(rest, "//")
	hosts, path, _ := strings.Cut(rest, "/")
	params, err := url.ParseQuery(query)
	if !ok || err != nil || strings.ContainsAny(rest, "@#") || (hosts != "" && path != "") {
		return nil, nil, errors.New("session: the memcached: URL of the store is malformed: it is " +
			"memcached://host:port,host:port?parameters, without user and password")
	}
	for name := range params {
		if name != "prefix" && name != "timeout" {
			return nil, nil, errors.New("session: a memcached: URL has the parameters prefix and timeout, no others")
		}
	}
	if path != "" {
		return memcacheServers{{"unix", "/" + path}}, params, nil
	}
	var servers memcacheServers
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, "11211")
		if err != nil {
			return nil, nil, fmt.Errorf("session: the memcached: URL: %w", err)
		}
		servers = append(servers, memcacheServer{"tcp", addr})
	}
	return servers, params, nil
}

// memcacheServers is a memcache.ServerSelector that finds the same server for a key as memcache.ServerList, but
// leaves it to each dial to resolve a name.
type memcacheServers []memcacheServer

type memcacheServer struct{ network, address string }

func (m memcacheServer) Network() string { return m.network }
func (m memcacheServer) String() string  { return m.address }

// PickServer implements memcache.ServerSelector.
func (m memcacheServers) PickServer(key string) (net.Addr, error) {
	if len(m) == 1 {
		return m[0], nil
	}
	return m[crc32.ChecksumIEEE([]byte(key))%uint32(len(m))], nil
}

// Each implements memcache.ServerSelector.
func (m memcacheServers) Each(f func(net.Addr) error) error {
	for _, server := range m {
		if err := f(server); err != nil {
			return err
		}
	}
	return nil
}

// What a Record carries from Load to Save and Touch is the server's unique value, in the lower bits, and until
// when a swap by it needs no look, in the upper: a swap after the record's expiry would succeed, for a server
// removes a record somewhat later. A unique value that is too large for its bits is left out.
const (
	uniqueBits    = 36
	uniqueForever = 1<<(64-uniqueBits) - 1
	uniqueEpoch   = 1735689600 // 2025, in Unix seconds
	uniqueUnit    = 4          // seconds
)

func packUnique(unique uint64, expires time.Time) uint64 {
	until := int64(uniqueForever)
	if !expires.IsZero() {
		until = min((expires.Unix()-uniqueEpoch)/uniqueUnit, uniqueForever-1)
	}
	if until <= 0 || unique >= 1<<uniqueBits {
		return 0
	}
	return uint64(until)<<uniqueBits | unique
}

// unpackUnique returns the unique value, or 0 if the record has to be looked at.
func unpackUnique(packed uint64, now time.Time) uint64 {
	until := int64(packed >> uniqueBits)
	if until != uniqueForever && now.Unix() >= uniqueEpoch+until*uniqueUnit {
		return 0
	}
	return packed & (1<<uniqueBits - 1)
}
