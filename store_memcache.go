package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
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
// Each record that it drops is a session lost. With several servers, each record is on one of them, found by its key as
// memcache.ServerList does; a change in their number moves most records out of sight.
//
// Something else under a record's key reads as absent, and the next Save replaces it.
//
// The URL for Open:
//
//	memcached://[host][:port][,host[:port]…][?prefix=…&timeout=…&pool_max_conns=…]
//	memcached:///path/to/socket
//
// Host and port default to 127.0.0.1 and 11211. The parameter prefix is that of MemcacheOptions; timeout, such as
// 200ms, is the Timeout of memcache.Client, by default one second; pool_max_conns is how many connections to each server
// there are at most, by default 20, and calls wait for one. Host names are resolved whenever a connection is
// made. Open needs one of the servers to answer; while another does not, calls for the records that are on it fail.
//
// Memcached has no replicas and tells nobody that it was replaced. Behind a name or a proxy that leads elsewhere from some
// moment on, connections that were made before still find the old server. A store that Open returned uses each for ten
// seconds, and drops all when a server or a proxy refuses a command (SERVER_ERROR). With a client of the application, give
// it a DialContext whose connections end after a while.
type MemcacheStore struct {
	client *memcache.Client
	prefix string
	opened *memcacheServers // nil if the client is not ours to close
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
		return Record{}, s.failed(ctx, "load", id, err)
	case rec.Version == 0:
		return Record{}, ErrNotFound
	}
	rec.cas = packUnique(unique, rec)
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
	return s.failed(ctx, "save", id, err)
}

// Touch implements Toucher.
func (s *MemcacheStore) Touch(ctx context.Context, id ID, rec Record) error {
	switch err := s.replace(ctx, id, rec, rec.Version); err {
	case nil, ErrNotFound, ErrConflict:
		return err
	default:
		return s.failed(ctx, "touch", id, err)
	}
}

// Delete implements Store.
func (s *MemcacheStore) Delete(ctx context.Context, id ID) error {
	key := s.key(id)
	_, err := s.call(ctx, key, func() (*memcache.Item, error) { return nil, s.client.Delete(key) })
	if err != nil && err != memcache.ErrCacheMiss {
		return s.failed(ctx, "delete", id, err)
	}
	return nil
}

// Close closes what Open opened. It does nothing to a store that NewMemcacheStore returned.
func (s *MemcacheStore) Close() error {
	if s.opened == nil {
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
const memcacheTries = 100

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
	unique := unpackUnique(rec, time.Now())
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
	key := s.key(id)
	item, err := s.call(ctx, key, func() (*memcache.Item, error) { return s.client.Get(key) })
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
	_, err := s.call(ctx, item.Key, func() (*memcache.Item, error) { return nil, f(item) })
	return err
}

// call calls f for a key, again where a connection broke, and returns when ctx is done, if f would not. The client does
// not notice that a server has closed idle connections, after a restart for example: as many may be of no use as
// it holds. To repeat a write that had taken effect makes it a conflict.
func (s *MemcacheStore) call(ctx context.Context, key string, f func() (*memcache.Item, error)) (*memcache.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	timeout := cmp.Or(s.client.Timeout, memcache.DefaultTimeout)
	again := func() (*memcache.Item, error) {
		if s.opened == nil {
			return s.untilRoom(ctx, timeout, f)
		}
		release, err := s.opened.acquire(ctx, key)
		if err != nil {
			return nil, err
		}
		defer release()
		began := time.Now()
		item, err := s.untilRoom(ctx, timeout, f)
		if memcacheRefused(err) {
			s.opened.dialer.drop(began)
			item, err = s.untilRoom(ctx, timeout, f)
		}
		if s.closed.Load() {
			s.client.Close() // it takes connections back after Close
		}
		return item, err
	}
	// Connecting, sending, and two reads are timed each by itself.
	longest := 4 * timeout
	if deadline, ok := ctx.Deadline(); (ok && time.Until(deadline) > longest) || ctx.Done() == nil {
		return again()
	}
	return untilDone(ctx, again)
}

// untilRoom calls f until the server has room for one more connection, for a while. It tells so, or ends the connection
// before it has told.
func (s *MemcacheStore) untilRoom(ctx context.Context, patience time.Duration, f func() (*memcache.Item, error)) (*memcache.Item, error) {
	useless := func() int { return max(s.client.MaxIdleConns, memcache.DefaultMaxIdleConns) } // as many connections, at most
	began := time.Now()
	for try := time.Duration(1); ; try++ {
		item, err := callAgain(ctx, useless, f)
		wait := patience
		switch {
		case err != nil && strings.Contains(err.Error(), "Too many open connections"):
		case brokenConn(err): // or it was the reply that got lost, for whatever reason
			wait = min(patience, time.Second)
		default:
			return item, err
		}
		if s.closed.Load() || time.Since(began) > wait {
			return item, err
		}
		if !sleep(ctx, rand.N(min(try, 20)*2*time.Millisecond)) { // at random, so that those who wait do not come together again
			return nil, err
		}
	}
}

// memcacheRefused reports whether a server, or a proxy in front of it, says that it cannot do its work: perhaps it is one
// that was replaced.
func memcacheRefused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "SERVER_ERROR") &&
		!strings.Contains(err.Error(), "object too large") && !strings.Contains(err.Error(), "out of memory")
}

// failed says what was done for a record when err came, and at which server.
func (s *MemcacheStore) failed(ctx context.Context, op string, id ID, err error) error {
	if s.opened != nil && ctx.Err() == nil {
		if addr := s.opened.pick(s.key(id)).address; !strings.Contains(err.Error(), addr) {
			err = fmt.Errorf("%s: %w", addr, err)
		}
	}
	return memcacheError(ctx, op, err)
}

func memcacheError(ctx context.Context, op string, err error) error {
	if strings.Contains(err.Error(), "object too large for cache") {
		return fmt.Errorf("session: memcached: %s: more than the server's item size: %w", op, ErrTooLarge)
	}
	return fmt.Errorf("session: memcached: %s: %w", op, overdue(ctx, err))
}

// openMemcache is the OpenFunc of "memcached:".
func openMemcache(ctx context.Context, rawURL string) (StoreCloser, error) {
	servers, params, err := parseMemcacheURL(rawURL)
	if err != nil {
		return nil, err
	}
	client := memcache.NewFromSelector(servers)
	client.MaxIdleConns = servers.conns
	// The client's own default is too short for a busy machine, and more would cost each call a goroutine: four times as
	// much has to be less than Options.StoreTimeout.
	client.Timeout = time.Second
	if text := params.Get("timeout"); text != "" {
		if client.Timeout, err = time.ParseDuration(text); err != nil || client.Timeout <= 0 {
			return nil, fmt.Errorf("session: the timeout in the memcached: URL is a duration such as 200ms, not %q", text)
		}
	}
	client.DialContext = servers.dialer.DialContext
	s := NewMemcacheStore(client, &MemcacheOptions{Prefix: params.Get("prefix")})
	s.opened = servers
	if err := s.ping(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
}

// ping returns nil if one of the servers answers, and does what a MemcacheStore needs.
func (s *MemcacheStore) ping(ctx context.Context) error {
	var errs []error
	for i := range s.opened.list {
		alone := &memcacheServers{list: s.opened.list[i : i+1], dialer: s.opened.dialer}
		one := &MemcacheStore{client: memcache.NewFromSelector(alone), prefix: s.prefix, opened: alone}
		one.client.Timeout, one.client.DialContext = s.client.Timeout, s.client.DialContext
		_, _, err := one.look(ctx, ID{}) // this checks the prefix as well
		one.client.Close()
		if err == nil {
			return nil
		}
		errs = append(errs, one.failed(ctx, "open", ID{}, err))
	}
	return errors.Join(errs...)
}

// parseMemcacheURL does not use package url for the servers, because it knows one host only.
func parseMemcacheURL(rawURL string) (*memcacheServers, url.Values, error) {
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
		if name != "prefix" && name != "timeout" && name != "pool_max_conns" {
			return nil, nil, errors.New("session: a memcached: URL has the parameters prefix, timeout and pool_max_conns, no others")
		}
	}
	servers := &memcacheServers{conns: memcacheConns, dialer: &connDialer{age: memcacheConnAge}}
	if text := params.Get("pool_max_conns"); text != "" {
		if servers.conns, err = strconv.Atoi(text); err != nil || servers.conns < 1 {
			return nil, nil, errors.New("session: pool_max_conns in the memcached: URL is a number from 1 on")
		}
	}
	if path != "" {
		servers.add("unix", "/"+path)
		return servers, params, nil
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, "11211")
		if err != nil {
			return nil, nil, fmt.Errorf("session: the memcached: URL: %w", err)
		}
		servers.add("tcp", addr)
	}
	return servers, params, nil
}

const (
	// memcacheConns is few enough for some dozens of processes to share a server as it comes (-c 1024).
	memcacheConns = 20
	// memcacheConnAge is for how long a connection is used: so long may a server be in use that was replaced.
	memcacheConnAge = 10 * time.Second
)

// memcacheServers are those of a URL. It is a memcache.ServerSelector that finds the same server for a key as
// memcache.ServerList, but leaves it to each dial to resolve a name.
type memcacheServers struct {
	list   []memcacheServer
	conns  int // to each, at most
	dialer *connDialer
}

type memcacheServer struct {
	network, address string
	room             chan struct{} // has one for each call that is under way
}

func (m memcacheServer) Network() string { return m.network }
func (m memcacheServer) String() string  { return m.address }

func (m *memcacheServers) add(network, address string) {
	m.list = append(m.list, memcacheServer{network, address, make(chan struct{}, m.conns)})
}

func (m *memcacheServers) pick(key string) memcacheServer {
	if len(m.list) == 1 {
		return m.list[0]
	}
	return m.list[crc32.ChecksumIEEE([]byte(key))%uint32(len(m.list))]
}

// acquire waits until a call for a key may have a connection, which the client has or makes. release ends that.
func (m *memcacheServers) acquire(ctx context.Context, key string) (release func(), err error) {
	room := m.pick(key).room
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// PickServer implements memcache.ServerSelector.
func (m *memcacheServers) PickServer(key string) (net.Addr, error) { return m.pick(key), nil }

// Each implements memcache.ServerSelector.
func (m *memcacheServers) Each(f func(net.Addr) error) error {
	for _, server := range m.list {
		if err := f(server); err != nil {
			return err
		}
	}
	return nil
}

// A Record carries from Load to Save and Touch the server's unique value, in the lower bits, and until
// when a swap by it needs no look, in the upper: a swap after the record's expiry would succeed, for a server
// removes a record somewhat later. A unique value that is too large for its bits is left out.
const (
	uniqueBits    = 36
	uniqueForever = 1<<(64-uniqueBits) - 1
	uniqueEpoch   = 1735689600 // 2025, in Unix seconds
	uniqueUnit    = 4          // seconds
)

func packUnique(unique uint64, rec Record) uint64 {
	until := int64(uniqueForever)
	if !rec.Expires.IsZero() {
		until = min((rec.Expires.Unix()-uniqueEpoch)/uniqueUnit, uniqueForever-1)
	}
	if until <= 0 || unique >= 1<<uniqueBits {
		return 0
	}
	return uint64(until)<<uniqueBits | unique ^ uniqueMask(rec.Version)
}

// uniqueMask hides the unique value from whoever gives the record another version: that is to be compared, not this.
func uniqueMask(version uint64) uint64 { return version * 0x9e3779b97f4a7c15 >> (64 - uniqueBits) }

// unpackUnique returns the unique value, or 0 if the record has to be looked at.
func unpackUnique(rec Record, now time.Time) uint64 {
	until := int64(rec.cas >> uniqueBits)
	if until != uniqueForever && now.Unix() >= uniqueEpoch+until*uniqueUnit {
		return 0
	}
	return rec.cas&(1<<uniqueBits-1) ^ uniqueMask(rec.Version)
}
