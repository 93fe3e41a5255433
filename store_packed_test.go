//go:build !encrypted

package session_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"example.com/session"
	"example.com/session/internal/servertest"
)

// A record is the same bytes in Redis and Memcached, and those that every version of this package reads.
func TestPackedRecord(t *testing.T) {
	ctx, prefix := t.Context(), uniquePrefix()
	redisServer := redisClient(t, servertest.Redis(t))
	memcached := memcacheClient(t, servertest.Memcached(t).Addrs...)
	soon := time.Now().Add(time.Hour)
	for name, server := range map[string]struct {
		store session.Store
		get   func(key string) ([]byte, error)
		put   func(key string, value []byte) error
	}{
		"redis": {
			session.NewRedisStore(redisServer, &session.RedisOptions{Prefix: prefix}),
			func(key string) ([]byte, error) { return redisServer.Get(ctx, key).Bytes() },
			func(key string, value []byte) error { return redisServer.Set(ctx, key, value, time.Hour).Err() },
		},
		"memcached": {
			session.NewMemcacheStore(memcached, &session.MemcacheOptions{Prefix: prefix}),
			func(key string) ([]byte, error) {
				item, err := memcached.Get(key)
				if err != nil {
					return nil, err
				}
				return item.Value, nil
			},
			func(key string, value []byte) error {
				return memcached.Set(&memcache.Item{Key: key, Value: value})
			},
		},
	} {
		for i, test := range []struct {
			name    string
			rec     session.Record
			expires int64
		}{
			{"for ever", session.Record{Data: []byte("data")}, 0},
			{"for an hour", session.Record{Data: []byte("data"), Expires: soon}, soon.UnixMilli()},
			{"without data", session.Record{Expires: soon}, soon.UnixMilli()},
			{"in the year 200000", session.Record{Expires: time.Date(200_000, 1, 1, 0, 0, 0, 0, time.UTC)}, 1 << 52},
		} {
			t.Run(name+" "+test.name, func(t *testing.T) {
				id := session.ID{byte(i)}
				key := prefix + id.String()
				if err := server.store.Save(ctx, id, test.rec); err != nil {
					t.Fatal(err)
				}
				if got, err := server.get(key); err != nil || string(got) != string(packed(1, test.expires, string(test.rec.Data))) {
					t.Errorf("it is stored as %q, %v", got, err)
				}
				if err := server.put(key, packed(77, test.expires, "other")); err != nil {
					t.Fatal(err)
				}
				rec, err := server.store.Load(ctx, id)
				if err != nil || rec.Version != 77 || string(rec.Data) != "other" ||
					rec.Expires.IsZero() != (test.expires == 0) || !rec.Expires.IsZero() && rec.Expires.UnixMilli() != test.expires {
					t.Errorf("it reads as %v, %v", rec, err)
				}
			})
		}
	}
}

// packed returns a record as it is in Redis and Memcached.
func packed(version uint64, expires int64, data string) []byte {
	b := []byte("S\x01")
	b = binary.BigEndian.AppendUint64(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	return append(b, data...)
}
