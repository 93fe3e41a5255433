//go:build !encrypted

package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

func TestCacheStore(t *testing.T) {
	stores := map[string]func(t *testing.T) session.Store{
		"memory": func(t *testing.T) session.Store { return session.NewMemoryStore() },
		"plain":  func(t *testing.T) session.Store { return double.Plain{Store: session.NewMemoryStore()} },
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
			store := open(t)
			sessiontest.Run(t, storesIn("", func(string) session.Store { return session.NewCacheStore(keptOpen{store}, nil) }))
		})
	}
}

// keptOpen is a store that several caches have, and none may close.
type keptOpen struct{ session.Store }

func (s keptOpen) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	if t, ok := s.Store.(session.Toucher); ok {
		return t.Touch(ctx, id, rec)
	}
	return errors.ErrUnsupported
}

func (s keptOpen) DeleteExpired(ctx context.Context, limit int) (int, error) {
	if sweeper, ok := s.Store.(session.Sweeper); ok {
		return sweeper.DeleteExpired(ctx, limit)
	}
	return 0, errors.ErrUnsupported
}

func (s keptOpen) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return session.List(ctx, s.Store)
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
			slow := newGate()
			close(slow.admit)
			cache := session.NewCacheStore(double.New(memory, passGate), &session.CacheOptions{MaxAge: maxAge})
			time.AfterFunc(delay, func() { close(slow.release) })
			if err := op(slow.context(ctx), cache, id); err != nil {
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
			store := double.New(session.NewMemoryStore())
			test.opts.MaxAge = time.Hour
			cache := session.NewCacheStore(store, &test.opts)
			hit := func(i int) bool {
				store.Calls()
				if _, err := cache.Load(ctx, numberedID(i)); err != nil {
					t.Fatal(err)
				}
				return store.Calls()[0] == 0
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
	others := func(version uint64) func(*session.MemoryStore, session.ID) error {
		return func(m *session.MemoryStore, id session.ID) error {
			return m.Save(context.Background(), id, session.Record{Version: version, Data: second})
		}
	}
	vanish := func(m *session.MemoryStore, id session.ID) error { return m.Delete(context.Background(), id) }
	tests := []cacheRace{
		{"load, save", load, save(1, second), nil, nil, false},
		{"load, touch", load, touch, nil, nil, false},
		{"load, delete", load, remove, nil, nil, false},
		{"load, conflict", load, save(7, second), others(1), session.ErrConflict, false},
		{"load, load", load, load, others(1), nil, false},
		{"load, load nothing", load, load, vanish, session.ErrNotFound, false},
		{"save, load", save(1, first), load, others(2), nil, false},
		{"save, save", save(1, first), save(2, second), nil, nil, false},
		{"save, delete", save(1, second), remove, nil, nil, false},
		{"touch, load", touch, load, others(1), nil, false},
		{"touch, save", touch, save(1, second), nil, nil, false},
		{"touch, delete", touch, remove, nil, nil, false},
		{"touch, touch", touch, touchUntil(hour.Add(time.Hour)), nil, nil, true},
		{"delete, create", remove, save(0, second), nil, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, test.run)
	}
}

// In a cacheRace the store does the slow call, then another process comes, then the fast call, and then the slow one's
// reply.
type cacheRace struct {
	name       string
	slow, fast cacheOp
	other      func(*session.MemoryStore, session.ID) error
	fails      error // of the fast one
	warm       bool  // the record is in the cache before
}

func (r cacheRace) run(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	memory := session.NewMemoryStore()
	if err := memory.Save(ctx, id, session.Record{Data: []byte("first")}); err != nil {
		t.Fatal(err)
	}
	slow := newGate()
	close(slow.admit)
	cache := session.NewCacheStore(double.New(memory, passGate), &session.CacheOptions{MaxAge: time.Hour})
	if r.warm {
		if _, err := cache.Load(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.slow(slow.context(ctx), cache, id); err != nil {
			t.Error(err)
		}
	})
	<-slow.done
	if r.other != nil {
		if err := r.other(memory, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.fast(ctx, cache, id); !errors.Is(err, r.fails) {
		t.Errorf("the fast call: %v, want %v", err, r.fails)
	}
	close(slow.release)
	wg.Wait()
	got, err := cache.Load(ctx, id)
	expected, expectedErr := memory.Load(ctx, id)
	if !errors.Is(err, expectedErr) || got.Version != expected.Version || string(got.Data) != string(expected.Data) ||
		!got.Expires.Truncate(time.Millisecond).Equal(expected.Expires) {
		t.Errorf("Load: %+v, %v; the store has %+v, %v", got, err, expected, expectedErr)
	}
}

// No Load returns an earlier version than another that returned before it began, whatever else is under way.
func TestCacheNeverGoesBack(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	memory := session.NewMemoryStore()
	cache := session.NewCacheStore(double.New(memory, passGate), &session.CacheOptions{MaxAge: time.Hour})
	save := func(version uint64) {
		if err := memory.Save(ctx, id, session.Record{Version: version}); err != nil {
			t.Fatal(err)
		}
	}
	load := func(ctx context.Context, low uint64) {
		if rec, err := cache.Load(ctx, id); err != nil || rec.Version < low {
			t.Errorf("Load: version %d, %v; want %d or later", rec.Version, err, low)
		}
	}
	// arrive has a call wait before the store; proceed and finish let it go on, to the reply and to its end.
	arrive := func(f func(context.Context)) (proceed, finish func()) {
		g, ended := newGate(), make(chan struct{})
		go func() {
			defer close(ended)
			f(g.context(ctx))
		}()
		<-g.arrived
		return func() { close(g.admit); <-g.done }, func() { close(g.release); <-ended }
	}
	save(0)
	proceedSave, finishSave := arrive(func(ctx context.Context) {
		if err := cache.Save(ctx, id, session.Record{Version: 1}); err != nil {
			t.Error(err)
		}
	})
	proceedLoad, finishLoad := arrive(func(ctx context.Context) { load(ctx, 3) })
	proceedSave()
	save(2)
	proceedLoad()
	finishSave() // from then on the cache has 2
	load(ctx, 2)
	finishLoad() // but this returned 3
	load(ctx, 3)

	conflict := func() {
		if err := cache.Save(ctx, id, session.Record{Version: 7}); !errors.Is(err, session.ErrConflict) {
			t.Fatal(err)
		}
	}
	conflict() // empties the cache
	proceedLoad, finishLoad = arrive(func(ctx context.Context) { load(ctx, 4) })
	conflict() // what that Load brings is not kept
	proceedOld, finishOld := arrive(func(ctx context.Context) { load(ctx, 3) })
	proceedOld()
	save(3)
	proceedLoad()
	finishLoad()
	finishOld()
	load(ctx, 4)

	// A record that another process deleted is created again, under a lower version.
	if err := memory.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := cache.Save(ctx, id, session.Record{}); err != nil {
		t.Fatal(err)
	}
	if rec, err := cache.Load(ctx, id); err != nil || rec.Version != 1 {
		t.Errorf("Load: version %d, %v; want 1", rec.Version, err)
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
			store := double.New(memory)
			cache := session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Hour})
			if err := cache.Save(ctx, id, session.Record{}); err != nil {
				t.Fatal(err)
			}
			store.Hook(double.Lose(errLost)) // it is done, but the reply does not come
			if err := write(cache); !errors.Is(err, errLost) {
				t.Fatalf("%v, want errLost", err)
			}
			store.Hook()
			rec, err := cache.Load(ctx, id)
			expected, expectedErr := memory.Load(ctx, id)
			if rec.Version != expected.Version || !errors.Is(err, expectedErr) || store.Calls()[0] != 1 {
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

// The cache refuses what the wrapped store cannot do.
func TestCacheHidesNothing(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	plain := double.Plain{Store: session.NewMemoryStore()}
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
	if _, err := session.CountRecords(ctx, cache); !errors.Is(err, errors.ErrUnsupported) {
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
	if err := session.NewCacheStore(double.New(plain, double.Fail(errLost, double.Close)), nil).Close(); !errors.Is(err, errLost) {
		t.Errorf("Close does not return what the store's returns: %v", err)
	}
	if err := cache.Close(); err != nil {
		t.Errorf("Close of a store that is no Closer: %v", err)
	}

	cache = session.NewCacheStore(session.NewMemoryStore(), nil)
	for i := range byte(5) {
		if err := cache.Save(ctx, session.ID{i}, session.Record{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := session.CountRecords(ctx, cache); n != 5 || err != nil {
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

// A record says whether it comes from a cache, to whoever loads it and to nobody else.
func TestCacheSaysSo(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	told := false
	store := double.New(session.NewMemoryStore(), double.Before(func(_ context.Context, c *double.Call) error {
		told = told || c.Record.Cached
		return nil
	}))
	inner := session.NewCacheStore(store, &session.CacheOptions{MaxAge: time.Hour})
	outer := session.NewCacheStore(inner, &session.CacheOptions{MaxAge: time.Hour})
	another := session.NewCacheStore(inner, &session.CacheOptions{MaxAge: time.Hour})
	var rec session.Record
	load := func(what string, cache *session.CacheStore, ctx context.Context, want bool) {
		t.Helper()
		var err error
		if rec, err = cache.Load(ctx, id); err != nil || rec.Cached != want {
			t.Errorf("%s: %+v, %v, want Cached: %t", what, rec, err, want)
		}
	}
	if !session.CacheAllowed(ctx) || session.CacheAllowed(context.WithoutCancel(session.WithoutCache(ctx))) {
		t.Error("CacheAllowed does not say what WithoutCache has")
	}
	if err := outer.Save(ctx, id, session.Record{Cached: true}); err != nil {
		t.Fatal(err)
	}
	load("after a save", outer, ctx, true)
	load("without cache", outer, session.WithoutCache(ctx), false)
	load("after that", outer, ctx, true)
	if err := outer.Touch(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	load("after a touch", outer, ctx, true)
	load("from the cache behind an empty one", another, ctx, true)
	load("without either", another, session.WithoutCache(ctx), false)
	if err := outer.Save(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	if err := inner.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	load("deleted by another", outer, ctx, true)
	if _, err := outer.Load(session.WithoutCache(ctx), id); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("deleted by another, without cache: %v", err)
	}
	if told {
		t.Error("the store was told")
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

var errLost = fmt.Errorf("test: the reply was lost")

// A gate is where a call waits, before the store does what is asked, and again before the reply.
type gate struct{ arrived, admit, done, release chan struct{} }

func newGate() *gate {
	return &gate{make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})}
}

func (g *gate) context(ctx context.Context) context.Context { return context.WithValue(ctx, gate{}, g) }

// passGate holds up the calls whose context has a gate.
func passGate(ctx context.Context, _ *double.Call, next func(context.Context) error) error {
	g, ok := ctx.Value(gate{}).(*gate)
	if !ok {
		return next(ctx)
	}
	close(g.arrived)
	<-g.admit
	defer func() {
		close(g.done)
		<-g.release
	}()
	return next(ctx)
}

// A cookie that is newer than what a cache has, and the store is down: nobody is logged out for that.
func TestCacheBehindAndTheStoreDown(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	opts := &session.Options{SweepInterval: session.Never, Logger: quiet}
	v := newVisitor(t, store, opts).login()
	other := v.clone()
	other.m = newManager(t, cached(store), opts)
	if !other.alive() { // and the cache has it
		t.Fatal("there is no session")
	}
	v.visit((*session.Session).Regenerate)
	other.cookie = v.cookie
	store.Hook(double.Fail(errDown))
	res := other.visit(func(s *session.Session) { s.Has("k") })
	wantStatus(t, res, http.StatusServiceUnavailable)
	if c := res.Cookies(); len(c) > 0 {
		t.Errorf("it sets %v", c)
	}
	store.Hook()
	if !other.alive() {
		t.Error("the session is gone")
	}
}
