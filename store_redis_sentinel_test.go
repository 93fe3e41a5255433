package session_test

import (
	"errors"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"

	"github.com/redis/go-redis/v9"
)

func TestRedisSentinelStore(t *testing.T) {
	sessiontest.Run(t, func(t *testing.T) session.Store {
		return openStore(t, servertest.RedisSentinel(t).URL+"&prefix="+uniquePrefix())
	})
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
