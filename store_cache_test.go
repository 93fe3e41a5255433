package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

func TestCacheStore(t *testing.T) {
	stores := map[string]func(t *testing.T) session.Store{
		"memory": func(t *testing.T) session.Store { return session.NewMemoryStore() },
		"plain":  func(t *testing.T) session.Store { return plainStore{session.NewMemoryStore()} },
		"redis": func(t *testing.T) session.Store {
			return session.NewRedisStore(redisClient(t, servertest.Redis(t)), &session.RedisOptions{Prefix: uniquePrefix()})
		},
		"memcached": func(t *testing.T) session.Store {
			client := memcacheClient(t, servertest.Memcached(t).Addrs...)
			return session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: uniquePrefix()})
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			sessiontest.Run(t, func(t *testing.T) session.Store { return session.NewCacheStore(open(t), nil) })
		})
	}
}

// For MaxAge, and not a moment longer, a cache may not notice what others did to a record.
func TestCacheMaxAge(t *testing.T) {
	for _, maxAge := range []time.Duration{0, -1, 10 * time.Millisecond, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			memory := session.NewMemoryStore()
			cache := session.NewCacheStore(memory, &session.CacheOptions{MaxAge: maxAge})
			if maxAge <= 0 {
				maxAge = time.Second
			}
			id := session.ID{1}
			save := func(store session.Store, version uint64, data string) {
				t.Helper()
				if err := store.Save(ctx, id, session.Record{Version: version, Data: []byte(data)}); err != nil {
					t.Fatal(err)
				}
			}
			check := func(data string) {
				t.Helper()
				rec, err := cache.Load(ctx, id)
				if got := string(rec.Data); got != data || (err != nil) != (data == "") {
					t.Errorf("Load: %q, %v; want %q", got, err, data)
				}
			}
			save(memory, 0, "one")
			check("one")
			save(memory, 1, "two")
			time.Sleep(maxAge - 1)
			check("one") // this does not prolong it
			time.Sleep(time.Nanosecond)
			check("two")
			save(memory, 2, "three")
			check("two")
			time.Sleep(maxAge)
			save(cache, 3, "four")
			check("four")
			save(memory, 4, "five")
			time.Sleep(maxAge - 1)
			check("four")
			time.Sleep(time.Nanosecond)
			check("five")
			if err := memory.Delete(ctx, id); err != nil {
				t.Fatal(err)
			}
			save(memory, 0, "again") // with a lower version
			time.Sleep(maxAge)
			check("again")
			if err := memory.Delete(ctx, id); err != nil {
				t.Fatal(err)
			}
			time.Sleep(maxAge)
			check("")
			save(memory, 0, "back") // that it was not there is not remembered
			check("back")
		})
	}
}

// A reply that was long under way is as old as the call, not as its arrival.
func TestCacheMaxAgeCountsFromTheCall(t *testing.T) {
	const maxAge, delay = time.Minute, 20 * time.Second
	id := session.ID{1}
	for name, op := range map[string]cacheOp{
		"load": func(ctx context.Context, c *session.CacheStore, id session.ID) error {
			_, err := c.Load(ctx, id)
			return err
		},
		"save": func(ctx context.Context, c *session.CacheStore, id session.ID) error {
			return c.Save(ctx, id, session.Record{Version: 1})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			memory := session.NewMemoryStore()
			if err := memory.Save(ctx, id, session.Record{}); err != nil {
				t.Fatal(err)
			}
			store := &slowStore{MemoryStore: memory, done: make(chan struct{}), release: make(chan struct{})}
			cache := session.NewCacheStore(store, &session.CacheOptions{MaxAge: maxAge})
			time.AfterFunc(delay, func() { close(store.release) })
			if err := op(context.WithValue(ctx, slowKey{}, true), cache, id); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := memory.Delete(ctx, id); err != nil {
				t.Fatal(err)
			}
			time.Sleep(maxAge - delay)
			if _, err := cache.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%s: Load after MaxAge: %v, want ErrNotFound", name, err)
			}
		})
	}
}

func TestCacheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		cache := session.NewCacheStore(session.NewMemoryStore(), &session.CacheOptions{MaxAge: time.Hour})
		id := session.ID{1}
		rec := session.Record{Expires: time.Now().Add(time.Minute), Data: []byte("data")}
		if err := cache.Save(ctx, id, rec); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		// A touch need not repeat the data.
		if err := cache.Touch(ctx, id, session.Record{Version: 1, Expires: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Millisecond)
		if rec, err := cache.Load(ctx, id); err != nil || string(rec.Data) != "data" || time.Until(rec.Expires) != time.Millisecond {
			t.Errorf("Load: %+v, %v", rec, err)
		}
		time.Sleep(time.Millisecond)
		if _, err := cache.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Load after its expiry: %v, want ErrNotFound", err)
		}
		if err := cache.Save(ctx, id, session.Record{Expires: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Load of what had expired when it was saved: %v, want ErrNotFound", err)
		}
	})
}

func TestCacheBounds(t *testing.T) {
	ctx := t.Context()
	const overhead = 256
	tests := []struct {
		name string
		opts session.CacheOptions
		size int
		kept int
	}{
		{"entries", session.CacheOptions{MaxEntries: 3}, 10, 3},
		{"bytes", session.CacheOptions{MaxBytes: 4 * (overhead + 1000)}, 1000, 4},
		{"almost four", session.CacheOptions{MaxBytes: 4*(overhead+1000) - 1}, 1000, 3},
		{"both", session.CacheOptions{MaxEntries: 2, MaxBytes: 4 * (overhead + 1000)}, 1000, 2},
		{"too large", session.CacheOptions{MaxBytes: 1000}, 1000, 0},
		{"default entries", session.CacheOptions{}, 1, 10_000},
		{"default bytes", session.CacheOptions{}, 8<<20 - overhead, 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := &countingStore{Store: session.NewMemoryStore()}
			test.opts.MaxAge = time.Hour
			cache := session.NewCacheStore(store, &test.opts)
			hit := func(i int) bool {
				before := store.loads.Load()
				if _, err := cache.Load(ctx, numberedID(i)); err != nil {
					t.Fatal(err)
				}
				return store.loads.Load() == before
			}
			data := make([]byte, test.size)
			for i := range test.kept + 2 {
				if err := cache.Save(ctx, numberedID(i), session.Record{Data: data}); err != nil {
					t.Fatal(err)
				}
				if test.kept > 1 && !hit(0) { // the first is used all the time
					t.Fatalf("the record used last was dropped at %d", i)
				}
			}
			// Misses bring in what was dropped, and put something else out: ask for the newest first.
			if test.kept > 1 && !hit(0) {
				t.Error("the record used last was dropped")
			}
			hits := min(1, test.kept)
			for i := test.kept + 1; i > 0 && hit(i); i-- {
				hits++
			}
			if test.kept == 0 {
				hits = 0
				for range 2 {
					if hit(0) {
						hits++
					}
				}
			}
			if hits != test.kept {
				t.Errorf("%d records kept, want %d", hits, test.kept)
			}
		})
	}
}

// Whatever returned last within a process is what later calls see, in whatever order the store answered.
func TestCacheRaces(t *testing.T) {
	first, second := []byte("first"), []byte("second")
	hour := time.Now().Add(time.Hour)
	load := func(ctx context.Context, c *session.CacheStore, id session.ID) error {
		_, err := c.Load(ctx, id)
		return err
	}
	save := func(version uint64, data []byte) cacheOp {
		return func(ctx context.Context, c *session.CacheStore, id session.ID) error {
			return c.Save(ctx, id, session.Record{Version: version, Data: data})
		}
	}
	touchUntil := func(expires time.Time) cacheOp {
		return func(ctx context.Context, c *session.CacheStore, id session.ID) error {
			return c.Touch(ctx, id, session.Record{Version: 1, Data: first, Expires: expires})
		}
	}
	touch := touchUntil(hour)
	remove := func(ctx context.Context, c *session.CacheStore, id session.ID) error { return c.Delete(ctx, id) }
	tests := []struct {
		name string
		slow cacheOp // the store does it, then a fast one, and then its reply comes
		fast cacheOp
	}{
		{"load, save", load, save(1, second)},
		{"load, touch", load, touch},
		{"load, delete", load, remove},
		{"load, conflict", load, save(7, second)},
		{"save, save", save(1, first), save(2, second)},
		{"save, delete", save(1, second), remove},
		{"touch, save", touch, save(1, second)},
		{"touch, delete", touch, remove},
		{"touch, touch", touch, touchUntil(hour.Add(time.Hour))},
		{"delete, create", remove, save(0, second)},
		{"load, load", load, load},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, id := t.Context(), session.ID{1}
			memory := session.NewMemoryStore()
			if err := memory.Save(ctx, id, session.Record{Data: first}); err != nil {
				t.Fatal(err)
			}
			store := &slowStore{MemoryStore: memory, done: make(chan struct{}), release: make(chan struct{})}
			cache := session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Hour})
			if !strings.HasPrefix(test.name, "load") {
				if _, err := cache.Load(ctx, id); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := test.slow(context.WithValue(ctx, slowKey{}, true), cache, id); err != nil {
					t.Error(err)
				}
			})
			<-store.done
			if test.name == "load, conflict" || test.name == "load, load" { // another process was there
				if err := memory.Save(ctx, id, session.Record{Version: 1, Data: second}); err != nil {
					t.Fatal(err)
				}
			}
			if err := test.fast(ctx, cache, id); err != nil && test.name != "load, conflict" {
				t.Error(err)
			}
			close(store.release)
			wg.Wait()
			got, err := cache.Load(ctx, id)
			expected, expectedErr := memory.Load(ctx, id)
			if !errors.Is(err, expectedErr) || got.Version != expected.Version || string(got.Data) != string(expected.Data) ||
				!got.Expires.Truncate(time.Millisecond).Equal(expected.Expires) {
				t.Errorf("Load: %+v, %v; the store has %+v, %v", got, err, expected, expectedErr)
			}
		})
	}
}

// After any error the cache has nothing more to say, so that a retry sees the store.
func TestCacheDropsAfterError(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	for name, write := range map[string]func(*session.CacheStore) error{
		"save":   func(c *session.CacheStore) error { return c.Save(ctx, id, session.Record{Version: 1}) },
		"touch":  func(c *session.CacheStore) error { return c.Touch(ctx, id, session.Record{Version: 1}) },
		"delete": func(c *session.CacheStore) error { return c.Delete(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			memory := session.NewMemoryStore()
			store := &countingStore{Store: memory}
			cache := session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Hour})
			if err := cache.Save(ctx, id, session.Record{}); err != nil {
				t.Fatal(err)
			}
			store.lost.Store(true) // it is done, but the reply does not come
			if err := write(cache); !errors.Is(err, errLost) {
				t.Fatalf("%v, want errLost", err)
			}
			store.lost.Store(false)
			rec, err := cache.Load(ctx, id)
			expected, expectedErr := memory.Load(ctx, id)
			if rec.Version != expected.Version || !errors.Is(err, expectedErr) || store.loads.Load() != 1 {
				t.Errorf("Load: %+v, %v; the store has %+v, %v", rec, err, expected, expectedErr)
			}
		})
	}
}

// Several caches in front of one store, each out of date all the time: nothing is lost.
func TestCacheLosesNoUpdate(t *testing.T) {
	const caches, writers, rounds = 2, 4, 100
	ctx, id := t.Context(), session.ID{1}
	memory := session.NewMemoryStore()
	if err := memory.Save(ctx, id, session.Record{Data: make([]byte, 8)}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range caches {
		cache := session.NewCacheStore(memory, &session.CacheOptions{MaxAge: time.Hour})
		for range writers {
			wg.Go(func() {
				for range rounds {
					for err := session.ErrConflict; errors.Is(err, session.ErrConflict); {
						var rec session.Record
						if rec, err = cache.Load(ctx, id); err == nil {
							rec.Data = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(rec.Data)+1)
							err = cache.Save(ctx, id, rec)
						}
						if err != nil && !errors.Is(err, session.ErrConflict) {
							t.Error(err)
						}
					}
				}
			})
		}
	}
	wg.Wait()
	rec, err := memory.Load(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	const total = caches * writers * rounds
	if n := binary.BigEndian.Uint64(rec.Data); n != total || rec.Version != total+1 {
		t.Errorf("%d updates and version %d after %d updates", n, rec.Version, total)
	}
}

// What the wrapped store cannot do, the cache says that it cannot.
func TestCacheHidesNothing(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	plain := &closingStore{Store: plainStore{session.NewMemoryStore()}}
	cache := session.NewCacheStore(plain, nil)
	if err := cache.Save(ctx, id, session.Record{}); err != nil {
		t.Fatal(err)
	}
	if err := cache.Touch(ctx, id, session.Record{Version: 1}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Touch: %v", err)
	}
	if _, err := session.DeleteExpired(ctx, cache); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("DeleteExpired: %v", err)
	}
	if _, err := session.Count(ctx, cache); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Count: %v", err)
	}
	for _, err := range session.List(ctx, cache) {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("List: %v", err)
		}
	}
	// The helper that falls back on Save still works, and the cache keeps up with it.
	if err := session.Touch(ctx, cache, id, session.Record{Version: 1, Data: []byte("data")}); err != nil {
		t.Errorf("Touch by Save: %v", err)
	}
	if rec, err := cache.Load(ctx, id); err != nil || rec.Version != 2 || string(rec.Data) != "data" {
		t.Errorf("Load: %+v, %v", rec, err)
	}
	if err := session.Close(cache); !errors.Is(err, errLost) {
		t.Errorf("Close does not return what the store's returns: %v", err)
	}
	if err := session.Close(session.NewCacheStore(plainStore{plain}, nil)); err != nil {
		t.Errorf("Close of a store that is no Closer: %v", err)
	}

	cache = session.NewCacheStore(session.NewMemoryStore(), nil)
	for i := range byte(5) {
		if err := cache.Save(ctx, session.ID{i}, session.Record{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := session.Count(ctx, cache); n != 5 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if n, err := session.DeleteExpired(ctx, cache); n != 0 || err != nil {
		t.Errorf("DeleteExpired: %d, %v", n, err)
	}
	for entry, err := range session.List(ctx, cache) {
		if entry.Record.Version != 1 || err != nil {
			t.Errorf("List: %+v, %v", entry, err)
		}
	}
}

// Behind a cache, Memcached still gets to see the unique value that came with a record.
func TestCacheInFrontOfMemcached(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	wire := newWire(t, servertest.Memcached(t).Addrs[0])
	opts := &session.MemcacheOptions{Prefix: uniquePrefix()}
	store := session.NewMemcacheStore(memcacheClient(t, wire.addr), opts)
	if err := store.Save(ctx, id, session.Record{}); err != nil {
		t.Fatal(err)
	}
	cache := session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Hour})
	if _, err := cache.Load(ctx, id); err != nil {
		t.Fatal(err)
	}
	before := wire.trips.Load()
	rec, err := cache.Load(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Save(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	if n := wire.trips.Load() - before; n != 1 {
		t.Errorf("a read from the cache and a write: %d round trips, want 1", n)
	}
	if rec, err = cache.Load(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := cache.Save(ctx, id, rec); err != nil || rec.Version != 2 {
		t.Errorf("Save of version %d from the cache: %v", rec.Version, err)
	}
}

func TestCacheLoadDoesNotAllocate(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	cache := session.NewCacheStore(session.NewMemoryStore(), &session.CacheOptions{MaxAge: time.Hour})
	if err := cache.Save(ctx, id, session.Record{}); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { cache.Load(ctx, id) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func numberedID(i int) (id session.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

type cacheOp func(context.Context, *session.CacheStore, session.ID) error

// plainStore hides all but the methods of Store.
type plainStore struct{ session.Store }

var errLost = fmt.Errorf("test: the reply was lost")

type closingStore struct{ session.Store }

func (closingStore) Close() error { return errLost }

// countingStore counts the calls to Load, and can lose replies.
type countingStore struct {
	session.Store
	loads atomic.Int64
	lost  atomic.Bool
}

func (s *countingStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	s.loads.Add(1)
	return s.Store.Load(ctx, id)
}

func (s *countingStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return s.reply(s.Store.Save(ctx, id, rec))
}

func (s *countingStore) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	return s.reply(session.Touch(ctx, s.Store, id, rec))
}

func (s *countingStore) Delete(ctx context.Context, id session.ID) error {
	return s.reply(s.Store.Delete(ctx, id))
}

func (s *countingStore) reply(err error) error {
	if s.lost.Load() {
		return errLost
	}
	return err
}

// slowStore holds back the reply to calls whose context has a slowKey.
type slowStore struct {
	*session.MemoryStore
	done    chan struct{}
	release chan struct{}
}

type slowKey struct{}

func (s *slowStore) hold(ctx context.Context) {
	if ctx.Value(slowKey{}) != nil {
		close(s.done)
		<-s.release
	}
}

func (s *slowStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	defer s.hold(ctx)
	return s.MemoryStore.Load(ctx, id)
}

func (s *slowStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	defer s.hold(ctx)
	return s.MemoryStore.Save(ctx, id, rec)
}

func (s *slowStore) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	defer s.hold(ctx)
	return s.MemoryStore.Touch(ctx, id, rec)
}

func (s *slowStore) Delete(ctx context.Context, id session.ID) error {
	defer s.hold(ctx)
	return s.MemoryStore.Delete(ctx, id)
}
