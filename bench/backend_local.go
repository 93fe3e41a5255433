package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/session"
	"github.com/alexedwards/scs/boltstore"
	scsmem "github.com/alexedwards/scs/v2/memstore"
	ginmem "github.com/gin-contrib/sessions/memstore"
	"github.com/gorilla/sessions"
	"go.etcd.io/bbolt"
)

const cookieStore = "gorilla CookieStore"

func memoryBackend(testing.TB) backend {
	return backend{
		name: "memory",
		libraries: []library{
			ours(session.NewMemoryStore()),
			bareHandler(),
			newSCS(scsmem.NewWithCleanupInterval(0)),
			newSCSWithIdle(scsWithoutIdle, scsmem.NewWithCleanupInterval(0), 0),
			newGorilla(cookieStore, sessions.NewCookieStore(secret)),
			newGin("gin memstore", ginmem.NewStore(secret)),
		},
		sweeps: 2,
		crowd: func(tb testing.TB, name string, n, expired int) session.Store {
			store := session.NewMemoryStore()
			fillStore(store, n, expired, 2)
			return store
		},
	}
}

// fileBackend waits for the disk at each write, as does everybody there.
func fileBackend(tb testing.TB) backend {
	dir := tb.TempDir()
	store := must(session.NewFileStore(filepath.Join(dir, "sessions.db"), nil))
	bare1 := must(bbolt.Open(filepath.Join(dir, "bare.db"), 0o600, nil))
	scs1 := must(bbolt.Open(filepath.Join(dir, "scs.db"), 0o600, nil))
	check(bare1.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bareBucket)
		return err
	}))
	tb.Cleanup(func() {
		check(errors.Join(store.Close(), bare1.Close(), scs1.Close()))
	})
	return backend{
		name: "file", disk: true,
		libraries: []library{
			ours(store), bare(boltClient{bare1}), newSCS(boltstore.NewWithCleanupInterval(scs1, 0)),
		},
		sweeps: 2,
		crowd: func(tb testing.TB, name string, n, expired int) session.Store {
			path := filepath.Join(tb.TempDir(), name)
			filling := must(session.NewFileStore(path, &session.FileOptions{NoSync: true}))
			fillStore(filling, n, expired, 256) // what waits is written together
			check(filling.Close())
			store := must(session.NewFileStore(path, nil))
			tb.Cleanup(func() { check(store.Close()) })
			return store
		},
	}
}

// dirBackend leaves it to the system when to write, as gorilla's store does.
func dirBackend(tb testing.TB) backend {
	store := must(session.NewDirStore(filepath.Join(tb.TempDir(), "sessions"), &session.DirOptions{NoSync: true}))
	tb.Cleanup(func() { check(store.Close()) })
	files := sessions.NewFilesystemStore(tb.TempDir(), secret)
	files.MaxLength(0)
	return backend{
		name: "dir", disk: true,
		libraries: []library{
			ours(store), bare(dirClient(tb.TempDir())), newGorilla("gorilla FilesystemStore", files),
		},
		sweeps: 20,
		crowd:  crowdedDir,
	}
}

// fillStore saves n sessions, of which the given number has expired, by so many goroutines.
func fillStore(store session.Store, n, expired, atOnce int) {
	data := sampleData()
	inParallel(n, atOnce, func(i int) {
		rec := session.Record{Expires: crowdExpiry(i < expired), Data: append([]byte(nil), data...)}
		check(store.Save(context.Background(), crowdID(i), rec))
	})
}

// crowdedDir copies one file under many names: to save each takes several times as long.
func crowdedDir(tb testing.TB, name string, n, expired int) session.Store {
	dir := filepath.Join(tb.TempDir(), name)
	store := must(session.NewDirStore(dir, &session.DirOptions{NoSync: true}))
	tb.Cleanup(func() { check(store.Close()) })
	check(store.Save(context.Background(), crowdID(0), session.Record{Expires: crowdExpiry(false), Data: sampleData()}))
	file := func(i int) string { return filepath.Join(dir, crowdID(i).String()+".session") }
	content := must(os.ReadFile(file(0)))
	inParallel(n, 4, func(i int) {
		check(os.WriteFile(file(i), content, 0o600))
		check(os.Chtimes(file(i), time.Time{}, crowdExpiry(i < expired)))
	})
	return store
}

// crowdID returns the ID of the i-th session of a crowd. They are spread as hashes are.
func crowdID(i int) session.ID {
	var id session.ID
	for k := range 4 {
		binary.LittleEndian.PutUint64(id[8*k:], mix(uint64(i)<<2|uint64(k)))
	}
	return id
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// crowdExpiry returns when a session of a crowd expires. A second ago, it is gone for whoever asks.
func crowdExpiry(expired bool) time.Time {
	if expired {
		return time.Now().Add(-time.Second)
	}
	return time.Now().Add(time.Hour)
}

// sampleData returns the data of a session with the small payload.
func sampleData() []byte {
	store := session.NewMemoryStore()
	seed(ours(store), small, 1)
	for e, err := range session.List(context.Background(), store) {
		check(err)
		return e.Record.Data
	}
	panic("bench: the session was not saved")
}

var bareBucket = []byte("bare")

type boltClient struct{ db *bbolt.DB }

func (c boltClient) get(_ context.Context, key string) (data []byte, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		data = append(data, tx.Bucket(bareBucket).Get([]byte(key))...)
		return nil
	})
	return data, err
}

func (c boltClient) add(ctx context.Context, key string, data []byte) error {
	return c.replace(ctx, key, data)
}

func (c boltClient) replace(_ context.Context, key string, data []byte) error {
	return c.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bareBucket).Put([]byte(key), data) })
}

// A dirClient is the path of a directory.
type dirClient string

func (c dirClient) get(_ context.Context, key string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(c), key))
}

func (c dirClient) add(ctx context.Context, key string, data []byte) error {
	return c.replace(ctx, key, data)
}

func (c dirClient) replace(_ context.Context, key string, data []byte) error {
	return os.WriteFile(filepath.Join(string(c), key), data, 0o600)
}
