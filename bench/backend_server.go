package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/mongodbstore"
	"github.com/boj/redistore"
	"github.com/bradfitz/gomemcache/memcache"
	ginmemcached "github.com/gin-contrib/sessions/memcached"
	goredis "github.com/gomodule/redigo/redis"
	"github.com/redis/go-redis/v9"
	bsonv1 "go.mongodb.org/mongo-driver/bson"
	mongov1 "go.mongodb.org/mongo-driver/mongo"
	mongov1options "go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// connections is how many connections each client may have open, more than there are requests at a time.
const connections = 32

func redisBackend(tb testing.TB) backend {
	server := servertest.Start(tb, servertest.KindRedis, "--appendonly", "no")
	client := redis.NewClient(&redis.Options{
		Addr: server.Addrs[0], PoolSize: connections, ContextTimeoutEnabled: true,
	})
	pool := &goredis.Pool{MaxIdle: connections, Dial: func() (goredis.Conn, error) {
		return goredis.Dial("tcp", server.Addrs[0])
	}}
	gorilla := must(redistore.NewRediStoreWithPool(pool, secret))
	gorilla.SetMaxLength(0)
	tb.Cleanup(func() { client.Close(); pool.Close() })
	main := session.NewRedisStore(client, nil)
	return backend{
		name: "redis", server: server.Name, remote: true,
		libraries: []library{
			ours(main), cached(main), floor(redisClient{client}), bare(redisClient{client}),
			newSCS(goredisstore.New(client)), newGorilla("gorilla with redistore", gorilla),
		},
		crowd: func(tb testing.TB, name string, n, _ int) session.Store {
			prefix := name + ":"
			store := session.NewRedisStore(client, &session.RedisOptions{Prefix: prefix})
			ctx := context.Background()
			check(store.Save(ctx, crowdID(0), session.Record{Expires: crowdExpiry(false), Data: sampleData()}))
			value := must(client.Get(ctx, prefix+crowdID(0).String()).Bytes())
			for from := 1; from < n; from += 1000 {
				must(client.Pipelined(ctx, func(p redis.Pipeliner) error {
					for i := from; i < min(from+1000, n); i++ {
						p.Set(ctx, prefix+crowdID(i).String(), value, time.Hour)
					}
					return nil
				}))
			}
			return store
		},
	}
}

type redisClient struct{ *redis.Client }

func (c redisClient) get(ctx context.Context, key string) ([]byte, error) {
	return c.Get(ctx, key).Bytes()
}

func (c redisClient) add(ctx context.Context, key string, data []byte) error {
	return c.replace(ctx, key, data)
}

func (c redisClient) replace(ctx context.Context, key string, data []byte) error {
	return c.Set(ctx, key, data, 15*time.Minute).Err()
}

func memcachedBackend(tb testing.TB) backend {
	server := servertest.Start(tb, servertest.KindMemcached, "-m", "2048")
	client := memcache.New(server.Addrs[0])
	client.MaxIdleConns = connections
	client.Timeout = time.Second
	tb.Cleanup(func() { client.Close() })
	gin := ginmemcached.NewStore(client, "gin:", secret)
	gin.(interface{ MaxLength(int) }).MaxLength(0)
	return backend{
		name: "memcached", server: server.Name, remote: true,
		libraries: []library{
			ours(session.NewMemcacheStore(client, nil)), floor(memcachedClient{client}), bare(memcachedClient{client}), newGin("gin memcached", gin),
		},
		crowd: func(tb testing.TB, name string, n, _ int) session.Store {
			prefix := name + ":"
			store := session.NewMemcacheStore(client, &session.MemcacheOptions{Prefix: prefix})
			ctx := context.Background()
			check(store.Save(ctx, crowdID(0), session.Record{Expires: crowdExpiry(false), Data: sampleData()}))
			value := must(client.Get(prefix + crowdID(0).String())).Value
			// The client has no pipeline, and a million round trips take a minute.
			conn := must(net.Dial("tcp", server.Addrs[0]))
			defer conn.Close()
			w := bufio.NewWriterSize(conn, 1<<20)
			for i := 1; i < n; i++ {
				fmt.Fprintf(w, "set %s 0 3600 %d noreply\r\n%s\r\n", prefix+crowdID(i).String(), len(value), value)
			}
			fmt.Fprint(w, "version\r\n")
			check(w.Flush())
			must(bufio.NewReader(conn).ReadString('\n')) // all before it is done
			return store
		},
	}
}

type memcachedClient struct{ *memcache.Client }

func (c memcachedClient) get(_ context.Context, key string) ([]byte, error) {
	item, err := c.Get(key)
	if err != nil {
		return nil, err
	}
	return item.Value, nil
}

func (c memcachedClient) add(ctx context.Context, key string, data []byte) error {
	return c.replace(ctx, key, data)
}

func (c memcachedClient) replace(_ context.Context, key string, data []byte) error {
	return c.Set(&memcache.Item{Key: key, Value: data, Expiration: 900})
}

func mongoBackend(tb testing.TB) backend {
	if t, ok := tb.(*testing.T); ok {
		t.Setenv("_JAVA_OPTIONS", "-Xmx8g") // the stand-in has all in memory
	}
	server := servertest.Start(tb, servertest.KindMongoDB)
	ctx := context.Background()
	client := must(mongo.Connect(options.Client().ApplyURI(server.URL).SetMaxPoolSize(connections)))
	old := must(mongov1.Connect(ctx, mongov1options.Client().ApplyURI(server.URL).SetMaxPoolSize(connections)))
	tb.Cleanup(func() { client.Disconnect(context.Background()); old.Disconnect(context.Background()) })
	// Without an index, each of its requests would go through all sessions.
	must(old.Database("scs").Collection("sessions").Indexes().CreateOne(ctx, mongov1.IndexModel{
		Keys: bsonv1.D{{Key: "token", Value: 1}}, Options: mongov1options.Index().SetUnique(true),
	}))
	db := client.Database("test")
	b := backend{
		name: "mongodb", server: server.Name, remote: true,
		libraries: []library{
			ours(must(session.NewMongoStore(ctx, db.Collection("sessions"), nil))),
			floor(mongoClient{db.Collection("bare")}), bare(mongoClient{db.Collection("bare")}),
			newSCS(mongodbstore.NewWithCleanupInterval(old.Database("scs"), 0)),
		},
		crowd: func(tb testing.TB, name string, n, _ int) session.Store {
			coll := db.Collection(name)
			store := must(session.NewMongoStore(ctx, coll, nil))
			check(store.Save(ctx, crowdID(0), session.Record{Expires: crowdExpiry(false), Data: sampleData()}))
			var doc bson.M
			check(coll.FindOne(ctx, bson.D{}).Decode(&doc))
			for from := 1; from < n; from += 10_000 {
				var docs []any
				for i := from; i < min(from+10_000, n); i++ {
					id := crowdID(i)
					docs = append(docs, bson.D{{Key: "_id", Value: bson.Binary{Data: id[:]}},
						{Key: "v", Value: doc["v"]}, {Key: "e", Value: doc["e"]}, {Key: "d", Value: doc["d"]}})
				}
				must(coll.InsertMany(ctx, docs))
			}
			return store
		},
	}
	if strings.Contains(server.Name, "java") {
		b.standIn, b.crowd = true, nil // it goes through all documents for each save
	}
	return b
}

type mongoClient struct{ *mongo.Collection }

func (c mongoClient) get(ctx context.Context, key string) ([]byte, error) {
	doc, err := c.FindOne(ctx, bson.D{{Key: "_id", Value: key}}).Raw()
	if err != nil {
		return nil, err
	}
	_, data, _ := doc.Lookup("d").BinaryOK()
	return data, nil
}

func (c mongoClient) add(ctx context.Context, key string, data []byte) error {
	_, err := c.InsertOne(ctx, bson.D{{Key: "_id", Value: key}, {Key: "d", Value: bson.Binary{Data: data}}})
	return err
}

func (c mongoClient) replace(ctx context.Context, key string, data []byte) error {
	_, err := c.ReplaceOne(ctx, bson.D{{Key: "_id", Value: key}}, bson.D{{Key: "d", Value: bson.Binary{Data: data}}})
	return err
}

// dataSource returns what the driver for MySQL takes for a URL.
func dataSource(url string) string {
	rest := strings.TrimPrefix(url, "mysql://")
	user, rest, _ := strings.Cut(rest, "@")
	addr, database, _ := strings.Cut(rest, "/")
	return user + "@tcp(" + addr + ")/" + database
}
