//go:build !encrypted

package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

func TestMemcacheStore(t *testing.T) {
	server := servertest.Memcached(t)
	sessiontest.Run(t, storesIn(uniquePrefix(), func(prefix string) session.Store {
		return session.NewMemcacheStore(memcacheClient(t, server.Addrs...), &session.MemcacheOptions{Prefix: prefix})
	}))
}

func TestMemcacheRoundTrips(t *testing.T) {
	ctx := t.Context()
	wire := newWire(t, servertest.Memcached(t).Addrs[0])
	store := session.NewMemcacheStore(memcacheClient(t, wire.addr), &session.MemcacheOptions{Prefix: uniquePrefix()})
	id, absent := session.ID{1}, session.ID{2}
	hour := time.Now().Add(time.Hour)
	var rec session.Record
	load := func() (err error) { rec, err = store.Load(ctx, id); return err }
	save := func() error {
		rec.Expires = hour
		return store.Save(ctx, id, rec)
	}
	touch := func() error {
		rec.Expires = rec.Expires.Add(time.Minute)
		return store.Touch(ctx, id, rec)
	}
	steps := []struct {
		name  string
		do    func() error
		trips int64
	}{
		{"load nothing", func() error { _, err := store.Load(ctx, absent); return want(err, session.ErrNotFound) }, 1},
		{"create", save, 1},
		{"create again", func() error { return want(save(), session.ErrConflict) }, 2},
		{"load", load, 1},
		{"save", save, 1},
		{"save what was saved since", func() error { return want(save(), session.ErrConflict) }, 2},
		{"load", load, 1},
		{"touch", touch, 1},
		{"save what was touched since", save, 3},
		{"save what was not loaded", func() error { return store.Save(ctx, id, session.Record{Version: 3, Expires: hour}) }, 2},
		{"touch what was not loaded", func() error { return store.Touch(ctx, id, session.Record{Version: 4, Expires: hour}) }, 2},
		{"load", load, 1},
		{"delete", func() error { return store.Delete(ctx, id) }, 1},
		{"save what was deleted since", func() error { return want(save(), session.ErrConflict) }, 1},
		{"touch what was deleted since", func() error { return want(touch(), session.ErrNotFound) }, 1},
		{"delete nothing", func() error { return store.Delete(ctx, id) }, 1},
	}
	for _, step := range steps {
		before := wire.trips.Load()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := wire.trips.Load() - before; n != step.trips {
			t.Errorf("%s: %d round trips, want %d", step.name, n, step.trips)
		}
	}
}

func TestMemcacheExpiry(t *testing.T) {
	ctx := t.Context()
	server := servertest.Memcached(t).Addrs[0]
	prefix := uniquePrefix()
	store := session.NewMemcacheStore(memcacheClient(t, server), &session.MemcacheOptions{Prefix: prefix})
	const day = 24 * time.Hour
	const forever, gone = -1, 0
	now := time.Now()
	tests := []struct {
		name    string
		expires time.Time
		left    time.Duration
	}{
		{"never", time.Time{}, forever},
		{"a blink", now.Add(time.Millisecond), gone},
		{"an hour", now.Add(time.Hour), time.Hour},
		{"29 days", now.Add(29 * day), 29 * day},
		{"30 days", now.Add(30 * day), 30 * day},
		{"31 days", now.Add(31 * day), 31 * day},
		{"400 days", now.Add(400 * day), 400 * day},
		{"beyond 2038", time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), forever},
		{"beyond 2106", time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), forever},
		{"the past", now.Add(-time.Second), gone},
		{"the distant past", time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), gone},
	}
	for i, test := range tests {
		for _, op := range []string{"save", "touch", "touch loaded"} {
			t.Run(op+" "+test.name, func(t *testing.T) {
				id := session.ID{byte(i), byte(len(op))}
				rec := session.Record{Expires: test.expires, Data: []byte("data")}
				if op != "save" {
					rec.Expires = now.Add(time.Minute)
				}
				err := store.Save(ctx, id, rec)
				if op == "touch loaded" && err == nil {
					rec, err = store.Load(ctx, id)
				} else {
					rec.Version++
				}
				if rec.Expires = test.expires; op != "save" && err == nil {
					err = store.Touch(ctx, id, rec)
				}
				if err != nil {
					t.Fatal(err)
				}
				if test.left == gone {
					return // now or in a moment
				}
				left := memcacheTTL(t, server, prefix+id.String())
				if test.left == forever && left != -1 {
					t.Errorf("the server removes it in %d s, want never", left)
				} else if test.left > 0 {
					wantMemcacheTTL(t, left, test.left)
				}
				rec, err = store.Load(ctx, id)
				if err != nil || !rec.Expires.Equal(test.expires.Truncate(time.Millisecond)) || string(rec.Data) != "data" {
					t.Errorf("Load: %+v, %v", rec, err)
				}
			})
		}
	}
	for i, test := range tests {
		for _, op := range []string{"save", "touch", "touch loaded"} {
			_, err := store.Load(ctx, session.ID{byte(i), byte(len(op))})
			if errors.Is(err, session.ErrNotFound) != (test.left == gone) {
				t.Errorf("%s %s: Load: %v", op, test.name, err)
			}
		}
	}
}

// The server is told never less than what is left, rounded up, and one more.
func TestMemcacheExpiration(t *testing.T) {
	const (
		now    = 1_800_000_000_000
		second = 1000
		month  = 30 * 24 * 60 * 60 * second
	)
	for expires, want := range map[int64]int32{
		0:                      0,
		1:                      -1,
		now - 1:                -1,
		now:                    -1,
		now + 1:                2,
		now + second:           2,
		now + second + 1:       3,
		now + month - second:   month / second,
		now + month - 999:      1_802_592_001,
		now + month:            1_802_592_001,
		now + month + 1:        1_802_592_002,
		(1<<31 - 2) * second:   1<<31 - 1,
		(1<<31-2)*second + 1:   0,
		math.MaxInt64 - second: 0,
	} {
		if got := session.MemcacheExpiration(expires, now); got != want {
			t.Errorf("of a record that expires in %d ms: %d, want %d", expires-now, got, want)
		}
	}
}

// The server removes a record some seconds after its expiry, and would swap it until then.
func TestMemcacheSwapsNothingExpired(t *testing.T) {
	ctx := t.Context()
	server := servertest.Memcached(t).Addrs[0]
	prefix := uniquePrefix()
	store := session.NewMemcacheStore(memcacheClient(t, server), &session.MemcacheOptions{Prefix: prefix})
	for i := range byte(10) {
		id := session.ID{i}
		expires := time.Now().Add(50 * time.Millisecond)
		if err := store.Save(ctx, id, session.Record{Expires: expires}); err != nil {
			t.Fatal(err)
		}
		rec, err := store.Load(ctx, id)
		time.Sleep(time.Until(expires))
		there := memcacheTTL(t, server, prefix+id.String()) != -2
		if err != nil || !there {
			continue // this machine is too slow: try again
		}
		rec.Expires = time.Now().Add(time.Hour)
		if err := store.Save(ctx, id, rec); !errors.Is(err, session.ErrConflict) {
			t.Errorf("Save: %v, want ErrConflict", err)
		}
		if err := store.Touch(ctx, id, rec); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Touch: %v, want ErrNotFound", err)
		}
		if err := store.Save(ctx, id, session.Record{}); err != nil {
			t.Errorf("Save of version 0: %v", err)
		}
		return
	}
	t.Error("no record was loaded before it expired and was still on the server then")
}

func TestMemcacheTooLarge(t *testing.T) {
	ctx := t.Context()
	client := memcacheClient(t, servertest.Memcached(t).Addrs...)
	store := session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: uniquePrefix()})
	id := session.ID{1}
	small := bytes.Repeat([]byte("0123456789"), 50_000)
	if err := store.Save(ctx, id, session.Record{Data: small}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 3 << 20, 40 << 20} {
		large := make([]byte, size)
		if err := store.Save(ctx, session.ID{2}, session.Record{Data: large}); !errors.Is(err, session.ErrTooLarge) {
			t.Errorf("create with %d bytes: %v, want ErrTooLarge", size, err)
		}
		rec, err := store.Load(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // loaded, and not
			rec.Data = large
			if err := store.Save(ctx, id, rec); !errors.Is(err, session.ErrTooLarge) {
				t.Errorf("save %d bytes: %v, want ErrTooLarge", size, err)
			}
			rec = session.Record{Version: 1}
		}
		if rec, err := store.Load(ctx, id); err != nil || !bytes.Equal(rec.Data, small) {
			t.Errorf("the record has changed: %d bytes, %v", len(rec.Data), err)
		}
	}
}

// A session that is within Options.MaxSize can still be too large for the server: the client is told, and what was
// saved before stays.
func TestMemcacheSessionTooLarge(t *testing.T) {
	client := memcacheClient(t, servertest.Memcached(t).Addrs...)
	store := session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: uniquePrefix()})
	m := newManager(t, store, &session.Options{Logger: quiet, MaxSize: 4 << 20})
	value, _ := begin(t, m)
	for name, cookies := range map[string][]string{"a new session": nil, "one that is there": {"session_id=" + value}} {
		var failed error
		res := serve(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			s.Set("large", make([]byte, 2<<20))
			failed = s.Save(r.Context())
		})), cookies...)
		wantStatus(t, res, http.StatusInternalServerError)
		if !errors.Is(failed, session.ErrTooLarge) || res.Header["Set-Cookie"] != nil {
			t.Errorf("%s: %v, cookie %q", name, failed, res.Header["Set-Cookie"])
		}
	}
	serve(handle(m, func(s *session.Session) {
		if !s.Has("k") || s.Has("large") {
			t.Errorf("the session is now %v", s)
		}
	}), "session_id="+value)
}

// Sessions of more than the 30 days that Memcached takes for a duration are kept for as long.
func TestMemcacheRemembersSessions(t *testing.T) {
	server := servertest.Memcached(t).Addrs[0]
	prefix := uniquePrefix()
	store := session.NewMemcacheStore(memcacheClient(t, server), &session.MemcacheOptions{Prefix: prefix})
	const day = 24 * time.Hour
	m := newManager(t, store, &session.Options{AbsoluteTimeout: 365 * day})
	for _, stays := range []time.Duration{29 * day, 30 * day, 31 * day, 300 * day} {
		var s *session.Session
		res := serve(handle(m, func(its *session.Session) {
			s = its
			s.Remember(stays)
			s.Set("k", 1)
		}))
		line := setCookie(t, res.Header, "session_id")
		wantMemcacheTTL(t, memcacheTTL(t, server, prefix+s.ID().String()), stays)
		serve(handle(m, func(s *session.Session) {
			if !s.Has("k") {
				t.Errorf("the session of %v is %v", stays, s)
			}
		}), "session_id="+cookieValue(line))
	}
}

func TestMemcacheForeignValue(t *testing.T) {
	ctx := t.Context()
	client := memcacheClient(t, servertest.Memcached(t).Addrs...)
	prefix := uniquePrefix()
	store := session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: prefix})
	tests := map[string][]byte{
		"empty":        nil,
		"short":        []byte("S\x01"),
		"number":       []byte("12345"),
		"text":         []byte(strings.Repeat("text ", 100)),
		"later format": []byte("S\x02" + strings.Repeat("x", 100)),
		"no version":   packed(0, 0, "data"),
		"expired":      packed(1, time.Now().UnixMilli(), "data"), // as between its expiry and the server's tick
	}
	for name, value := range tests {
		t.Run(name, func(t *testing.T) {
			id := session.ID{byte(len(name)), name[0]}
			if err := client.Set(&memcache.Item{Key: prefix + id.String(), Value: value}); err != nil {
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
			if err := store.Save(ctx, id, session.Record{Data: []byte("ours")}); err != nil {
				t.Fatalf("Save of version 0: %v", err)
			}
			if rec, err := store.Load(ctx, id); err != nil || rec.Version != 1 || string(rec.Data) != "ours" {
				t.Errorf("Load: %+v, %v", rec, err)
			}
		})
	}
}

// Connections that were open before a restart are broken; no call is to fail for that.
func TestMemcacheRestart(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindMemcached)
	client := memcache.New(server.Addrs...)
	client.MaxIdleConns = 20
	t.Cleanup(func() { client.Close() })
	store := session.NewMemcacheStore(client, nil)
	fill := func() {
		errs := make(chan error)
		for i := range byte(20) {
			go func() { errs <- store.Delete(ctx, session.ID{i}) }()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	server.Restart(true)
	if err := store.Save(ctx, session.ID{1}, session.Record{}); err != nil {
		t.Errorf("Save: %v", err)
	}
	fill()
	server.Restart(true)
	if _, err := store.Load(ctx, session.ID{1}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load: %v, want ErrNotFound", err)
	}
	fill()
	server.Kill()
	_, err := store.Load(ctx, session.ID{1})
	checkFault(t, "Load", err, "refused")
}

// A call that its context has ended tries no more connections.
func TestMemcacheEndedCallDoesNotConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var servers []net.Conn
		client := memcache.New("127.0.0.1:1")
		client.Timeout = time.Hour
		client.DialContext = func(context.Context, string, string) (net.Conn, error) {
			conn, server := net.Pipe()
			servers = append(servers, server)
			go io.Copy(io.Discard, server)
			return conn, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := session.NewMemcacheStore(client, nil).Load(ctx, session.ID{})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Load: %v, want context.DeadlineExceeded", err)
		}
		synctest.Wait() // the goroutine of the call has made its connection
		servers[0].Close()
		synctest.Wait()
		if len(servers) != 1 {
			t.Errorf("%d connections were made, want 1", len(servers))
		}
		for _, server := range servers {
			server.Close()
		}
	})
}

// The connection of a call that ends after Close is closed too.
func TestMemcacheClose(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked, answer, closed := make(chan struct{}), make(chan struct{}), make(chan error)
	accept := func() (net.Conn, *bufio.Scanner) {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			conn, _ = net.Pipe()
			conn.Close()
		}
		return conn, bufio.NewScanner(conn)
	}
	go func() {
		conn, lines := accept() // Open's
		lines.Scan()
		fmt.Fprint(conn, "END\r\n")
		for lines.Scan() {
		}
		conn.Close()
		conn, lines = accept()
		defer conn.Close()
		lines.Scan()
		asked <- struct{}{}
		<-answer
		fmt.Fprint(conn, "END\r\n")
		for lines.Scan() {
		}
		closed <- lines.Err()
	}()
	store := openStore(t, "memcached://"+listener.Addr().String()+"?timeout=24h")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := store.Load(ctx, session.ID{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v, want context.Canceled", err)
	}
	if err := store.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	close(answer)
	if err := <-closed; err != nil {
		t.Errorf("the server read %v, want the end", err)
	}
}

// A server that does not answer holds nobody longer than the context says, whatever the client's own time-out.
func TestMemcachePaused(t *testing.T) {
	server := servertest.Start(t, servertest.KindMemcached)
	client := memcacheClient(t, server.Addrs...)
	client.Timeout = 24 * time.Hour
	stores := map[string]session.Store{
		"opened":  openStore(t, server.URL+"?timeout=24h"),
		"adopted": session.NewMemcacheStore(client, nil),
	}
	server.Pause()
	defer server.Resume()
	for name, store := range stores {
		t.Run(name, func(t *testing.T) { testPaused(t, store) })
	}
	_, err := session.Open(expiring(t), server.URL+"?timeout=24h")
	checkFault(t, "Open", err, "deadline")
}

// A server that was told to do without compare-and-swap would save everything.
func TestMemcacheWithoutCAS(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindMemcached, "-C")
	store := session.NewMemcacheStore(memcacheClient(t, server.Addrs...), nil)
	if err := store.Save(ctx, session.ID{1}, session.Record{}); err != nil {
		t.Fatal(err)
	}
	_, err := store.Load(ctx, session.ID{1})
	checkFault(t, "Load", err, "compare and swap")
	checkFault(t, "Save", store.Save(ctx, session.ID{1}, session.Record{Version: 1}), "compare and swap")
}

func TestMemcacheURL(t *testing.T) {
	ctx := t.Context()
	a, b := servertest.Memcached(t).Addrs[0], servertest.Start(t, servertest.KindMemcached).Addrs[0]
	prefix := uniquePrefix()
	store := openStore(t, "memcached://"+a+","+b+"?prefix="+prefix+"&timeout=2s")
	client := memcacheClient(t, a, b)
	shards := make(map[string]int)
	for i := range byte(50) {
		id := session.ID{i}
		if err := store.Save(ctx, id, session.Record{Data: []byte{i}}); err != nil {
			t.Fatal(err)
		}
		if rec, err := store.Load(ctx, id); err != nil || rec.Data[0] != i {
			t.Errorf("Load: %+v, %v", rec, err)
		}
		if _, err := client.Get(prefix + id.String()); err != nil {
			t.Errorf("the client of the same servers does not find %v: %v", id, err)
		}
		for _, addr := range []string{a, b} {
			if memcacheTTL(t, addr, prefix+id.String()) == -1 {
				shards[addr]++
			}
		}
	}
	if shards[a] == 0 || shards[b] == 0 || shards[a]+shards[b] != 50 {
		t.Errorf("records a server: %v", shards)
	}
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}

	_, port, err := net.SplitHostPort(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"memcached://:" + port, "memcached://:" + port + "/", "MEMCACHED://localhost:" + port, "memcached://" + a + "?",
	} {
		if store, err := session.Open(ctx, url); err != nil {
			t.Errorf("%s: %v", url, err)
		} else {
			store.Close()
		}
	}
	for _, url := range []string{
		"memcached:",
		"memcached:localhost",
		"memcached://user:secret@" + a,
		"memcached://" + a + "/1",
		"memcached://" + a + "?password=secret",
		"memcached://" + a + "?secret=1",
		"memcached://" + a + "?timeout=0",
		"memcached://" + a + "?timeout=5",
		"memcached://" + a + "?prefix=a%20b",
		"memcached://" + a + "?prefix=" + strings.Repeat("x", 200),
		"memcached://" + a + "?prefix=%zzsecret",
		"memcached://" + a + "#secret",
		"memcached://" + a + ",[::1",
		"memcached://a:b:c",
		"memcached://" + a + "?pool_max_conns=0",
		"memcached://" + a + "?pool_max_conns=many",
		"memcached://127.0.0.1:1,localhost:1", // nobody there
		"memcached:///nonexistent/socket",
	} {
		if store, err := session.Open(ctx, url); err == nil {
			store.Close()
			t.Errorf("%s: no error", url)
		} else {
			checkURLError(t, err, "")
		}
	}
}

func TestMemcacheSocket(t *testing.T) {
	server := servertest.Memcached(t).Addrs[0]
	dir, err := os.MkdirTemp("", "") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer listener.Close()
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer client.Close()
				conn, err := net.Dial("tcp", server)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				all.Go(func() {
					defer conn.Close()
					io.Copy(conn, client)
				})
				io.Copy(client, conn)
			})
		}
	})
	prefix := uniquePrefix()
	store, err := session.Open(t.Context(), "memcached://"+filepath.Join(dir, "s")+"?timeout=1m&prefix="+prefix)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Save(t.Context(), session.ID{1}, session.Record{Data: []byte("data")}); err != nil {
		t.Fatal(err)
	}
	if _, err := memcacheClient(t, server).Get(prefix + session.ID{1}.String()); err != nil {
		t.Errorf("the server does not have the record: %v", err)
	}
}

func memcacheClient(t *testing.T, addrs ...string) *memcache.Client {
	t.Helper()
	client := memcache.New(addrs...)
	client.Timeout = 10 * time.Second // for slow machines
	t.Cleanup(func() { client.Close() })
	return client
}

// wantMemcacheTTL allows a minute more or less than wanted: a server knows the time to some seconds only, for it takes
// the day's time when it starts, counts whole seconds from an earlier or later moment, and notices them late.
// TestMemcacheExpiration has the exact numbers.
func wantMemcacheTTL(t *testing.T, seconds int, want time.Duration) {
	t.Helper()
	if left := time.Duration(seconds) * time.Second; (left - want).Abs() > time.Minute {
		t.Errorf("the server removes it in %v, want %v", left, want)
	}
}

// memcacheTTL asks the server for how many seconds it will keep a key: -1 for ever, -2 if it does not have it.
func memcacheTTL(t *testing.T, addr, key string) int {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "mg %s t\r\n", key)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(line), "HD t")
	if !ok {
		return -2
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

// One server of several is enough to start with. Calls for records on the others fail, and say where.
func TestMemcacheDeadServer(t *testing.T) {
	a, b := servertest.Memcached(t).Addrs[0], servertest.Start(t, servertest.KindMemcached).Addrs[0]
	for _, test := range []struct{ hosts, dead string }{
		{a + ",127.0.0.1:1", "127.0.0.1:1"}, {"127.0.0.1:1," + a, "127.0.0.1:1"}, {"127.0.0.1:1," + a + ",127.0.0.1:2," + b, "127.0.0.1:"},
		{a + ",nowhere.invalid", "nowhere.invalid"},
	} {
		store := openStore(t, "memcached://"+test.hosts+"?timeout=1m&prefix="+uniquePrefix())
		var works, fails int
		for range 100 {
			id := storetest.RandomID()
			switch err := store.Save(t.Context(), id, session.Record{Expires: time.Now().Add(time.Hour)}); err {
			case nil:
				works++
				if _, err := store.Load(t.Context(), id); err != nil {
					t.Errorf("%s: Load: %v", test.hosts, err)
				}
			default:
				fails++
				checkFault(t, test.hosts, err, test.dead)
			}
		}
		if works == 0 || fails == 0 {
			t.Errorf("%s: %d saves work and %d fail", test.hosts, works, fails)
		}
	}
	_, err := session.Open(t.Context(), "memcached://127.0.0.1:1,127.0.0.1:2")
	wantError(t, err, "", "127.0.0.1:1", "127.0.0.1:2", "refused")
}

// The application's client stays open: its connection is used again.
func TestMemcacheLeavesClientOpen(t *testing.T) {
	client := memcacheClient(t, servertest.Memcached(t).Addrs...)
	var dials atomic.Int64
	client.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	store := session.NewMemcacheStore(client, nil)
	for range 2 {
		if _, err := store.Load(t.Context(), storetest.RandomID()); !errors.Is(err, session.ErrNotFound) {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Get("nothing"); err != memcache.ErrCacheMiss || dials.Load() != 1 {
		t.Errorf("after Close: %v, %d connections", err, dials.Load())
	}
}

// A server that was replaced keeps its connections, and new ones lead to the new one: what the old one refuses is done at the
// new one at once, and if it does not refuse, it is not in use for long.
func TestMemcacheReplaced(t *testing.T) {
	ctx := t.Context()
	a, b := servertest.Memcached(t).Addrs[0], servertest.Start(t, servertest.KindMemcached).Addrs[0]
	for _, text := range []string{"SERVER_ERROR no backend", "SERVER_ERROR Connection refused", "SERVER_ERROR shutting down"} {
		proxy := newSwitch(t, a)
		store := openStore(t, "memcached://"+proxy.addr+"?timeout=1m&prefix="+uniquePrefix())
		hold(t, store)
		proxy.lead(b, text)
		hold(t, store)
		client := memcache.New(proxy.addr)
		client.Timeout = time.Minute
		defer client.Close()
		theirs := session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: uniquePrefix()})
		hold(t, theirs)
		proxy.lead(a, text)
		_, err := theirs.Load(ctx, storetest.RandomID())
		checkFault(t, "Load with the application's client", err, text)
	}

	prefix := uniquePrefix()
	proxy := newSwitch(t, a)
	store := openStore(t, "memcached://"+proxy.addr+"?timeout=1m&prefix="+prefix)
	store.(*session.MemcacheStore).SetConnAge(50 * time.Millisecond)
	hold(t, store)
	proxy.lead(b, "")
	id := storetest.RandomID()
	there := session.NewMemcacheStore(memcacheClient(t, b), &session.MemcacheOptions{Prefix: prefix})
	if err := there.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := store.Load(ctx, id)
		if err == nil {
			break
		}
		if !errors.Is(err, session.ErrNotFound) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// A server that has no connections left for a moment holds up calls, and fails none.
func TestMemcacheNoRoom(t *testing.T) {
	for _, rest := range []string{"?timeout=1m", "?timeout=1m&pool_max_conns=3"} {
		server := servertest.Start(t, servertest.KindMemcached, "-c", "50")
		var others []net.Conn
		occupy := func() bool { // reports whether there was room
			conn, err := net.Dial("tcp", server.Addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, conn)
			fmt.Fprint(conn, "version\r\n")
			line, err := bufio.NewReader(conn).ReadString('\n')
			return err == nil && strings.HasPrefix(line, "VERSION")
		}
		proxy := newSwitch(t, server.Addrs[0])
		store := openStore(t, "memcached://"+proxy.addr+rest)
		for occupy() {
		}
		begun := proxy.all.Load()
		done := make(chan bool)
		go func() {
			hold(t, store)
			close(done)
		}()
		for refused := false; !refused; { // some have been sent away
			select {
			case <-done:
				t.Error("there was room all the time")
				refused = true
			default:
				refused = proxy.all.Load() > begun+5
				runtime.Gosched()
			}
		}
		for _, conn := range others {
			conn.Close()
		}
		<-done
	}
}

// A store has no more connections than it may.
func TestMemcachePool(t *testing.T) {
	for parameter, most := range map[string]int64{"?timeout=1m": 20, "?timeout=1m&pool_max_conns=1": 1, "?timeout=1m&pool_max_conns=3": 3} {
		proxy := newSwitch(t, servertest.Memcached(t).Addrs[0])
		hold(t, openStore(t, "memcached://"+proxy.addr+parameter))
		if n := proxy.most.Load(); n > most+1 || n < most/2 { // and the one that Open had
			t.Errorf("with %q there were %d connections at a time", parameter, n)
		}
	}
}

// hold has a store do many things at a time.
func hold(t *testing.T, store session.Store) {
	t.Helper()
	var calls sync.WaitGroup
	for range 60 {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			id := storetest.RandomID()
			err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour), Data: []byte("data")})
			if err == nil {
				_, err = store.Load(ctx, id)
			}
			if err == nil {
				err = store.Delete(ctx, id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

// A tcpSwitch leads connections to a server, and from some moment on new ones to another. Those that are there stay where
// they are, or get the same answer to everything.
type tcpSwitch struct {
	addr       string
	mu         sync.Mutex
	age        int
	to, answer string
	all        atomic.Int64 // connections that came
	now, most  atomic.Int64 // those at a time
}

func (s *tcpSwitch) lead(to, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age++
	s.to, s.answer = to, answer
}

func (s *tcpSwitch) state() (age int, to, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.age, s.to, s.answer
}

func newSwitch(t *testing.T, to string) *tcpSwitch {
	t.Helper()
	s := &tcpSwitch{to: to}
	s.addr = servertest.Listen(t, func(client *net.TCPConn) { s.serve(client) })
	return s
}

func (s *tcpSwitch) serve(client net.Conn) {
	s.all.Add(1)
	now := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	age, to, _ := s.state()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(client, server)
		client.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		target, data := server, buf[:n]
		if present, _, answer := s.state(); present != age && answer != "" {
			target, data = client, []byte(answer+"\r\n")
		}
		if _, err := target.Write(data); err != nil {
			return
		}
	}
}

// The version says what a record is saved over, also of one that was loaded and given another version since.
func TestMemcacheVersionDecides(t *testing.T) {
	store := session.NewMemcacheStore(memcacheClient(t, servertest.Memcached(t).Addrs...), &session.MemcacheOptions{Prefix: uniquePrefix()})
	id := storetest.RandomID()
	for version := range uint64(2) {
		if err := store.Save(t.Context(), id, session.Record{Version: version, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []uint64{0, 1, 3, 1 << 40} {
		rec, err := store.Load(t.Context(), id)
		if err != nil || rec.Version != 2 {
			t.Fatalf("%+v, %v", rec, err)
		}
		rec.Version = version
		if err := store.Save(t.Context(), id, rec); !errors.Is(err, session.ErrConflict) {
			t.Errorf("over version %d: %v", version, err)
		}
		if err := store.Touch(t.Context(), id, rec); !errors.Is(err, session.ErrConflict) {
			t.Errorf("Touch of version %d: %v", version, err)
		}
	}
}
