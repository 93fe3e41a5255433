//go:build !encrypted

package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

func TestMongoStore(t *testing.T) {
	coll := mongoCollection(t)
	sessiontest.Run(t, storesIn("", func(string) session.Store { return mongoStore(t, coll) }))
}

func TestMongoOneRoundTrip(t *testing.T) {
	ctx := t.Context()
	var commands atomic.Int64
	monitor := &event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) { commands.Add(1) }}
	store := mongoStore(t, mongoCollection(t, options.Client().SetMonitor(monitor)))
	id, absent := session.ID{1}, session.ID{2}
	hour := time.Now().Add(time.Hour)
	steps := []struct {
		name string
		do   func() error
		want int64
	}{
		{"create", func() error { return store.Save(ctx, id, session.Record{Expires: hour}) }, 1},
		{"create again", func() error { return want(store.Save(ctx, id, session.Record{}), session.ErrConflict) }, 2},
		{"load", func() error { _, err := store.Load(ctx, id); return err }, 1},
		{"load nothing", func() error { _, err := store.Load(ctx, absent); return want(err, session.ErrNotFound) }, 1},
		{"save", func() error { return store.Save(ctx, id, session.Record{Version: 1}) }, 1},
		{"conflict", func() error { return want(store.Save(ctx, id, session.Record{Version: 1}), session.ErrConflict) }, 1},
		{"touch", func() error { return store.Touch(ctx, id, session.Record{Version: 2, Expires: hour}) }, 1},
		{"touch nothing", func() error {
			return want(store.Touch(ctx, absent, session.Record{Version: 2}), session.ErrNotFound)
		}, 2},
		{"delete", func() error { return store.Delete(ctx, id) }, 1},
	}
	for _, step := range steps {
		before := commands.Load()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := commands.Load() - before; n != step.want {
			t.Errorf("%s: %d commands, want %d", step.name, n, step.want)
		}
	}
}

// Foreign documents under an ID read as absent, and do not stay in the way for ever.
func TestMongoForeignDocument(t *testing.T) {
	ctx := t.Context()
	coll := mongoCollection(t)
	store := mongoStore(t, coll)
	data := bson.Binary{Data: []byte("data")}
	future, past := bson.NewDateTimeFromTime(time.Now().Add(time.Hour)), bson.NewDateTimeFromTime(time.Now())
	tests := map[string]bson.D{
		"empty":         {},
		"no version":    {{Key: "d", Value: data}},
		"no data":       {{Key: "v", Value: int64(1)}},
		"version 0":     {{Key: "v", Value: int64(0)}, {Key: "d", Value: data}},
		"negative":      {{Key: "v", Value: int64(-1)}, {Key: "d", Value: data}},
		"text version":  {{Key: "v", Value: "1"}, {Key: "d", Value: data}},
		"text data":     {{Key: "v", Value: int64(1)}, {Key: "d", Value: "data"}},
		"text expiry":   {{Key: "v", Value: int64(1)}, {Key: "d", Value: data}, {Key: "e", Value: "never"}},
		"null expiry":   {{Key: "v", Value: int64(1)}, {Key: "d", Value: data}, {Key: "e", Value: nil}},
		"expired":       {{Key: "v", Value: int64(1)}, {Key: "d", Value: data}, {Key: "e", Value: past}},
		"list of dates": {{Key: "v", Value: int64(1)}, {Key: "d", Value: data}, {Key: "e", Value: bson.A{past, past}}},
		"another's":     {{Key: "user", Value: "alice"}, {Key: "e", Value: future}},
	}
	// Whoever has seen the record in the version that these have may save it.
	current := map[string]bool{"no data": true, "text data": true, "text expiry": true, "null expiry": true}
	for name, doc := range tests {
		t.Run(name, func(t *testing.T) {
			id := session.ID{byte(len(name)), name[0], name[1]}
			key := bson.Binary{Data: id[:]}
			if _, err := coll.InsertOne(ctx, append(bson.D{{Key: "_id", Value: key}}, doc...)); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("Load: %v, want ErrNotFound", err)
			}
			if !current[name] {
				if err := store.Save(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrConflict) {
					t.Errorf("Save of version 1: %v, want ErrConflict", err)
				}
				if err := store.Touch(ctx, id, session.Record{Version: 1}); !errors.Is(err, session.ErrNotFound) {
					t.Errorf("Touch: %v, want ErrNotFound", err)
				}
			}
			for entry, err := range store.List(ctx) {
				if err != nil || entry.ID == id {
					t.Errorf("List: %v, %v", entry.ID, err)
				}
			}
			version := uint64(0)
			if current[name] {
				version = 1
			}
			if err := store.Save(ctx, id, session.Record{Version: version, Data: []byte("ours")}); err != nil {
				t.Fatalf("Save of version %d: %v", version, err)
			}
			if rec, err := store.Load(ctx, id); err != nil || rec.Version != version+1 || string(rec.Data) != "ours" {
				t.Errorf("Load: %+v, %v", rec, err)
			}
			if _, err := coll.ReplaceOne(ctx, bson.D{{Key: "_id", Value: key}}, doc); err != nil {
				t.Fatal(err)
			}
			if err := store.Save(ctx, id, session.Record{Data: []byte("anew")}); err != nil {
				t.Fatalf("Save of version 0: %v", err)
			}
			if rec, err := store.Load(ctx, id); err != nil || rec.Version != 1 || string(rec.Data) != "anew" {
				t.Errorf("Load: %+v, %v", rec, err)
			}
		})
	}
}

func TestMongoIndex(t *testing.T) {
	ctx := t.Context()
	coll := mongoCollection(t)
	if _, err := session.NewMongoStore(ctx, coll, &session.MongoOptions{NoCreate: true}); err != nil {
		t.Fatal(err)
	}
	if names := mongoIndexes(t, coll); len(names) != 0 {
		t.Errorf("NoCreate made %v", names)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := session.NewMongoStore(ctx, coll, nil); err != nil {
				t.Errorf("at a time with others: %v", err)
			}
		})
	}
	wg.Wait()
	if names := mongoIndexes(t, coll); len(names) != 1 || names["e_1"] != 60 {
		t.Errorf("indexes with their seconds: %v", names)
	}
}

func TestMongoTooLarge(t *testing.T) {
	ctx := t.Context()
	store := mongoStore(t, mongoCollection(t))
	const most = 16<<20 - 1<<10
	if err := store.Save(ctx, session.ID{1}, session.Record{Data: make([]byte, most)}); err != nil {
		t.Errorf("Save of %d bytes: %v", most, err)
	}
	for version := range uint64(2) {
		rec := session.Record{Version: version, Data: make([]byte, most+1)}
		if err := store.Save(ctx, session.ID{byte(version)}, rec); !errors.Is(err, session.ErrTooLarge) {
			t.Errorf("Save of %d bytes: %v, want ErrTooLarge", most+1, err)
		}
	}
	if rec, err := store.Load(ctx, session.ID{1}); err != nil || rec.Version != 1 || len(rec.Data) != most {
		t.Errorf("Load: %d bytes, %v", len(rec.Data), err)
	}
	if err := store.Save(ctx, session.ID{2}, session.Record{Version: 1 << 63}); !errors.Is(err, session.ErrConflict) {
		t.Errorf("Save of version 2^63: %v, want ErrConflict", err)
	}
}

// Without an answer, a store could not tell who was first.
func TestMongoUnacknowledged(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	for name, call := range map[string]func(*session.MongoStore) error{
		"create": func(s *session.MongoStore) error { return s.Save(ctx, id, session.Record{}) },
		"save":   func(s *session.MongoStore) error { return s.Save(ctx, id, session.Record{Version: 1}) },
		"touch":  func(s *session.MongoStore) error { return s.Touch(ctx, id, session.Record{Version: 1}) },
		"delete": func(s *session.MongoStore) error { return s.Delete(ctx, id) },
	} {
		coll := mongoCollection(t).Clone(options.Collection().SetWriteConcern(writeconcern.Unacknowledged()))
		store, err := session.NewMongoStore(ctx, coll, &session.MongoOptions{NoCreate: true})
		if err != nil {
			t.Fatal(err)
		}
		checkFault(t, name, call(store), "unacknowledged")
	}
}

func TestMongoPaused(t *testing.T) {
	server := servertest.Start(t, servertest.KindMongoDB)
	store := openStore(t, server.URL)
	if _, err := store.Load(t.Context(), session.ID{}); !errors.Is(err, session.ErrNotFound) {
		t.Fatal(err)
	}
	server.Pause()
	defer server.Resume()
	testPaused(t, store)
	if _, err := store.Load(expiring(t), session.ID{}); err == nil || strings.Contains(err.Error(), "not the primary any more") {
		t.Errorf("Load from a server that stands still: %v", err)
	}
	_, err := session.Open(expiring(t), server.URL)
	checkFault(t, "Open", err, "deadline")
}

func TestMongoURL(t *testing.T) {
	ctx := t.Context()
	server := servertest.MongoDB(t)
	addr := server.Addrs[0]
	admin := mongoCollection(t).Database().Client()
	name := strings.Trim(uniquePrefix(), ":")
	works := []struct{ url, database, collection string }{
		{"mongodb://" + addr + "?collection=" + name, "session", name},
		{"MongoDB://" + addr + "/?collection=" + name + "&appName=test", "session", name},
		{"mongodb://" + addr + "/" + name, name, "sessions"},
		{"mongodb://" + addr + "/" + name + "?collection=a%26b&create=false&w=1", name, "a&b"},
	}
	for _, test := range works {
		t.Run(test.url, func(t *testing.T) {
			coll := admin.Database(test.database).Collection(test.collection)
			t.Cleanup(func() { coll.Drop(context.WithoutCancel(ctx)) })
			store := openStore(t, test.url)
			if err := store.Save(ctx, session.ID{1}, session.Record{}); err != nil {
				t.Fatal(err)
			}
			if n, err := coll.DeleteOne(ctx, bson.D{}); err != nil || n.DeletedCount != 1 {
				t.Errorf("it is not in %s, %s: %v", test.database, test.collection, err)
			}
			indexes := mongoIndexes(t, coll)
			if _, ok := indexes["e_1"]; ok == strings.Contains(test.url, "create=false") {
				t.Errorf("indexes: %v", indexes)
			}
			for range 2 {
				if err := store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			if _, err := store.Load(ctx, session.ID{1}); !errors.Is(err, mongo.ErrClientDisconnected) {
				t.Errorf("Load after Close: %v", err)
			}
		})
	}
	fails := []string{
		"mongodb:",
		"mongodb:secret",
		"mongodb://user:se/cret@localhost",
		"mongodb://user:se?cret@localhost",
		"mongodb://user:se#cret@localhost",
		"mongodb://user:se:cret@localhost",
		"mongodb://user:se@cret@localhost",
		"mongodb://user:12/secret@localhost",
		"mongodb://user:12?secret@localhost",
		"mongodb://user:%zzsecret@localhost",
		"mongodb://user:secret@localhost:port",
		"mongodb://user:secret@localhost/a/b",
		"mongodb://user:secret@localhost/?authMechanism=none",
		"mongodb://user:secret@localhost/?maxPoolSize=many",
		"mongodb://user:secret@localhost/?create=maybe",
		"mongodb://user:secret@localhost/?appName=%zz",
		"mongodb://user:secret@localhost/?serverSelectionTimeoutMS=1&directConnection=true&replicaSet=" + name,
		"mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=1",
		"mongodb+srv://user:secret@localhost:1/",
	}
	for _, url := range fails {
		t.Run(url, func(t *testing.T) {
			store, err := session.Open(ctx, url)
			if err == nil {
				store.Close()
				t.Fatal("no error")
			}
			checkURLError(t, err, "")
		})
	}
}

func TestMongoList(t *testing.T) {
	ctx := t.Context()
	coll := mongoCollection(t)
	store := mongoStore(t, coll)
	expected := make(map[session.ID]string)
	for i := range 1200 { // several batches
		var id session.ID
		binary.BigEndian.PutUint64(id[:], uint64(i))
		rec := session.Record{Data: fmt.Append(nil, i)}
		switch i % 3 {
		case 1:
			rec.Expires = time.Now().Add(time.Hour)
		case 2:
			rec.Expires = time.Now()
		}
		if err := store.Save(ctx, id, rec); err != nil {
			t.Fatal(err)
		}
		if i%3 != 2 {
			expected[id] = string(rec.Data)
		}
	}
	for _, id := range []any{"text", 1, bson.Binary{Data: []byte("short")}} {
		doc := bson.D{{Key: "_id", Value: id}, {Key: "v", Value: int64(1)}, {Key: "d", Value: bson.Binary{}}}
		if _, err := coll.InsertOne(ctx, doc); err != nil {
			t.Fatal(err)
		}
		defer coll.DeleteOne(ctx, bson.D{{Key: "_id", Value: id}})
	}
	listed := make(map[session.ID]string)
	for entry, err := range store.List(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if _, again := listed[entry.ID]; again || entry.Record.Version != 1 {
			t.Errorf("%v is listed twice, or not as it was saved: %+v", entry.ID, entry.Record)
		}
		listed[entry.ID] = string(entry.Record.Data)
	}
	if !maps.Equal(listed, expected) {
		t.Errorf("%d records listed, want %d", len(listed), len(expected))
	}
	if n, err := store.Count(ctx, -1, 0); n != len(expected)+3 || err != nil { // it does not look at the three foreign ones
		t.Errorf("Count: %d, %v; want %d", n, err, len(expected)+3)
	}
	for range store.List(ctx) {
		break
	}
}

// mongoCollection returns a collection that no other test uses, nor another run of this one.
func mongoCollection(t *testing.T, opts ...*options.ClientOptions) *mongo.Collection {
	t.Helper()
	server := servertest.MongoDB(t)
	client, err := mongo.Connect(append([]*options.ClientOptions{options.Client().ApplyURI(server.URL)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	coll := client.Database("test").Collection(strings.Trim(uniquePrefix(), ":"))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		coll.Drop(ctx)
		client.Disconnect(ctx)
	})
	return coll
}

func mongoStore(t *testing.T, coll *mongo.Collection) *session.MongoStore {
	t.Helper()
	store, err := session.NewMongoStore(t.Context(), coll, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// mongoIndexes returns the collection's indexes but that of _id, with what they have as expireAfterSeconds.
func mongoIndexes(t *testing.T, coll *mongo.Collection) map[string]int32 {
	t.Helper()
	specs, err := coll.Indexes().ListSpecifications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	indexes := make(map[string]int32)
	for _, spec := range specs {
		if spec.Name != "_id_" {
			indexes[spec.Name] = -1
			if spec.ExpireAfterSeconds != nil {
				indexes[spec.Name] = *spec.ExpireAfterSeconds
			}
		}
	}
	return indexes
}

func TestMongoReplicaSetStore(t *testing.T) {
	server := servertest.Start(t, servertest.KindMongoReplicaSet)
	sessiontest.Run(t, storesAt(server.Apart(t, "collection")))
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

// A server that is not the primary any more, and keeps its connections, while new ones lead to the one that is: what Open
// opened drops the old ones, and no call fails. With a client of the application, the error says what it is.
func TestMongoDemoted(t *testing.T) {
	ctx := t.Context()
	for code, name := range map[int32]string{
		10107: "NotWritablePrimary", 13435: "NotPrimaryNoSecondaryOk", 189: "PrimarySteppedDown",
	} {
		t.Run(name, func(t *testing.T) {
			proxy := newMongoProxy(t, servertest.MongoDB(t).Addrs[0])
			rawURL := "mongodb://" + proxy.addr + "/test?directConnection=true&collection=" + strings.Trim(uniquePrefix(), ":")
			store := openStore(t, rawURL)
			client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + proxy.addr + "/?directConnection=true"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Disconnect(context.WithoutCancel(ctx))
			theirs := mongoStore(t, client.Database("test").Collection(strings.Trim(uniquePrefix(), ":")))
			use := func(store session.Store, id session.ID) error {
				limited, cancel := context.WithTimeout(ctx, 30*time.Second)
				defer cancel()
				rec := session.Record{Expires: time.Now().Add(time.Hour), Data: []byte("data")}
				if err := store.Save(limited, id, rec); err != nil {
					return err
				}
				rec, err := store.Load(limited, id)
				if err == nil {
					err = session.Touch(limited, store, id, rec)
				}
				if err == nil {
					err = store.Save(limited, id, rec)
				}
				if err == nil {
					err = store.Delete(limited, id)
				}
				return err
			}
			many := func() {
				t.Helper()
				var calls sync.WaitGroup
				for range 10 {
					calls.Go(func() {
						if err := use(store, storetest.RandomID()); err != nil {
							t.Error(err)
						}
					})
				}
				calls.Wait()
			}
			many()
			if err := use(theirs, storetest.RandomID()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				proxy.demote(code, name)
				many()
				for _, err := range session.List(ctx, store) {
					if err != nil {
						t.Errorf("List: %v", err)
					}
				}
			}
			checkFault(t, "Save with the application's client", use(theirs, storetest.RandomID()), "not the primary any more")
		})
	}
}

// A mongoProxy passes on what goes between clients and a server, until the server is demoted: then it answers commands on
// the connections that are there with an error, and none on those that come later.
type mongoProxy struct {
	addr string
	mu   sync.Mutex
	age  int // how often the server was demoted
	code int32
	name string
}

func (p *mongoProxy) demote(code int32, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age++
	p.code, p.name = code, name
}

func newMongoProxy(t *testing.T, target string) *mongoProxy {
	t.Helper()
	p := new(mongoProxy)
	p.addr = servertest.Listen(t, func(client *net.TCPConn) { p.serve(client, target) })
	return p
}

func (p *mongoProxy) serve(client net.Conn, target string) {
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(client, server)
		client.Close()
	}()
	p.mu.Lock()
	age := p.age
	p.mu.Unlock()
	for {
		head := make([]byte, 16) // length, ID, the ID that it answers, kind
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		body := make([]byte, binary.LittleEndian.Uint32(head)-16)
		if _, err := io.ReadFull(client, body); err != nil {
			return
		}
		p.mu.Lock()
		demoted, answer := p.age != age, bson.D{{Key: "ok", Value: 0}, {Key: "code", Value: p.code}, {Key: "codeName", Value: p.name}, {Key: "errmsg", Value: "no"}}
		p.mu.Unlock()
		const message = 2013
		command, err := bson.Raw(body[min(5, len(body)):]).IndexErr(0)
		if demoted && binary.LittleEndian.Uint32(head[12:]) == message && err == nil &&
			slices.Contains([]string{"insert", "update", "delete", "find"}, command.Key()) {
			doc, err := bson.Marshal(answer)
			if err != nil {
				return
			}
			reply := binary.LittleEndian.AppendUint32(nil, uint32(16+5+len(doc)))
			reply = append(append(reply, 0, 0, 0, 0), head[4:8]...)
			reply = append(append(reply, head[12:]...), 0, 0, 0, 0, 0)
			if _, err := client.Write(append(reply, doc...)); err != nil {
				return
			}
			continue
		}
		if _, err := server.Write(append(head, body...)); err != nil {
			return
		}
	}
}
