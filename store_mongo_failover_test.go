package session_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func TestMongoReplicaSetStore(t *testing.T) {
	server := servertest.Start(t, servertest.KindMongoReplicaSet)
	sessiontest.Run(t, func(t *testing.T) session.Store { return openStore(t, server.Apart("collection")) })
}

// When the primary is killed, another takes over: what was saved is there, each version was given to one writer, and the
// store goes on without a restart.
func TestMongoFailover(t *testing.T) {
	ctx := t.Context()
	server := servertest.Start(t, servertest.KindMongoReplicaSet)
	store := openStore(t, server.URL)
	id := session.ID{1}
	if err := store.Save(ctx, id, session.Record{Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}

	// Each writer appends its letter to the record, as often as it can.
	var mu sync.Mutex
	saved := map[uint64]byte{} // by version
	progress := make(chan int) // how many versions are saved
	stop := make(chan bool)
	var writers sync.WaitGroup
	for _, letter := range []byte("abcd") {
		writers.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				rec, err := store.Load(ctx, id)
				if errors.Is(err, session.ErrNotFound) {
					t.Error("the record is lost")
				}
				if err == nil {
					rec.Data = append(append([]byte(nil), rec.Data...), letter)
					err = store.Save(ctx, id, rec)
				}
				cancel()
				mu.Lock()
				if err == nil {
					if _, ok := saved[rec.Version+1]; ok {
						t.Errorf("two writers were told that they saved version %d", rec.Version+1)
					}
					saved[rec.Version+1] = letter
				}
				n := len(saved)
				mu.Unlock()
				select {
				case <-stop:
					return
				case progress <- n:
				}
			}
		})
	}
	waitFor := func(n int) {
		for {
			select {
			case have := <-progress:
				if have >= n {
					return
				}
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
		}
	}
	for round := range 2 {
		mu.Lock()
		n := len(saved)
		mu.Unlock()
		waitFor(n + 200)
		if round == 0 {
			killPrimary(t, server)
		}
	}
	close(stop)
	writers.Wait()

	rec, err := store.Load(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	// A save whose answer was lost may have been done: then its letter is there, and nobody has counted it.
	if uint64(len(rec.Data)) != rec.Version-1 {
		t.Fatalf("%d letters in version %d", len(rec.Data), rec.Version)
	}
	for version, letter := range saved {
		if version > rec.Version {
			t.Fatalf("version %d is lost: the last is %d", version, rec.Version)
		}
		if got := rec.Data[version-2]; got != letter {
			t.Errorf("version %d was saved with %q and has %q", version, letter, got)
		}
	}
}

// killPrimary ends the primary of a replica set as SIGKILL does.
func killPrimary(t *testing.T, server *servertest.Server) {
	t.Helper()
	for _, addr := range server.Addrs {
		client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + addr + "/?directConnection=true"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Disconnect(context.WithoutCancel(t.Context()))
		var status struct {
			PID  int64
			Repl struct{ IsWritablePrimary bool }
		}
		ask := bson.D{{Key: "serverStatus", Value: 1}}
		if err := client.Database("admin").RunCommand(t.Context(), ask).Decode(&status); err != nil {
			t.Fatal(err)
		}
		if !status.Repl.IsWritablePrimary {
			continue
		}
		process, err := os.FindProcess(int(status.PID))
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no primary")
}
