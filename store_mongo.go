package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

// A MongoStore keeps records in a collection of MongoDB (5 or later), one document each:
//
//	_id  binary, 32 bytes: the ID
//	v    long: the version
//	e    date: the expiry; absent for never
//	d    binary: the data
//
// A TTL index on e has the server remove what expired more than a minute ago; until then it reads as absent. The
// store implements Toucher, Lister, Counter and StoreCloser, and is safe for concurrent use. Every operation takes one
// round trip, but two are taken by a Touch that fails, and by a Save with version 0 where something is under the ID
// already. A sharded collection has to be sharded by _id, hashed for example.
//
// Reads go to the primary, whatever the collection was set up for, because what a secondary holds is out of date.
// A write concern below majority can lose a Save, such as that of a logout, when the primary fails; an
// unacknowledged one is refused.
//
// A document that is not as above reads as absent, and the next Save replaces it.
//
// After a failover, the driver finds the new primary by itself if it knows the replica set: its name in replicaSet, or several
// of its hosts. It does not behind one name or one proxy that leads to the primary (directConnection): it keeps its
// connections to the server that was. A store that Open returned drops these as soon as that server refuses, and repeats
// the call. With a client of the application, calls fail until those connections have ended; let it know the set, or keep
// MaxConnIdleTime short.
//
// The URL for Open, whose scheme is mongodb or mongodb+srv:
//
//	mongodb://[user:password@][host][:port][,host[:port]…][/database][?parameters]
//
// The host defaults to 127.0.0.1, the port to 27017, the database to "session". The parameter collection names
// the collection, by default "sessions", and create=false is MongoOptions.NoCreate; all others are those of
// MongoDB's connection strings, such as replicaSet and tls. There are at most 20 connections to each server unless
// maxPoolSize says otherwise; calls wait for one. The write concern is majority unless w or journal
// says otherwise. As everywhere with MongoDB, the user is one of the database in the URL, or of "admin" if there
// is none, unless authSource says otherwise.
type MongoStore struct {
	coll   *mongo.Collection
	client *mongo.Client // ours to disconnect; nil if it is the application's
	dialer *connDialer   // of client
}

// MongoOptions are the options of NewMongoStore. The zero value, and nil, mean the defaults.
type MongoOptions struct {
	// NoCreate false means that NewMongoStore makes the index if it is missing. True is for an account that may
	// not; the index is then made by
	//
	//	db.sessions.createIndex({e: 1}, {expireAfterSeconds: 60})
	NoCreate bool
}

// mongoTTL is for how many seconds the server keeps what has expired: as much as its clock may be ahead.
const mongoTTL = 60

// mongoMaxData leaves room for the rest of a document, which has at most 16 MiB.
const mongoMaxData = 16<<20 - 1<<10

// NewMongoStore returns a store that uses coll, whose client stays the caller's to disconnect. Unless
// opts.NoCreate is set, it makes the collection and its index where they are missing; several processes may do so
// at a time.
func NewMongoStore(ctx context.Context, coll *mongo.Collection, opts *MongoOptions) (*MongoStore, error) {
	s := &MongoStore{coll: coll.Clone(options.Collection().SetReadPreference(readpref.Primary()))}
	if opts != nil && opts.NoCreate {
		return s, nil
	}
	_, err := s.coll.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys:    bson.D{{Key: "e", Value: 1}},
		Options: options.Index().SetExpireAfterSeconds(mongoTTL),
	})
	if err != nil {
		return nil, mongoError(ctx, "create the index", err)
	}
	return s, nil
}

// Load implements Store.
func (s *MongoStore) Load(ctx context.Context, id ID) (Record, error) {
	doc, err := mongoCall(ctx, s, func() (bson.Raw, error) { return s.coll.FindOne(ctx, bson.D{mongoID(id)}).Raw() })
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		return Record{}, ErrNotFound
	case err != nil:
		return Record{}, mongoError(ctx, "load", err)
	}
	rec, ok := mongoRecord(doc)
	if !ok || !rec.Live(time.Now()) {
		return Record{}, ErrNotFound
	}
	return rec, nil
}

// Save implements Store. It returns an error that wraps ErrTooLarge if the record's document would exceed 16 MiB.
func (s *MongoStore) Save(ctx context.Context, id ID, rec Record) error {
	switch {
	case len(rec.Data) > mongoMaxData:
		return fmt.Errorf("session: mongodb: save: a record of %d bytes: %w", len(rec.Data), ErrTooLarge)
	case rec.Version >= math.MaxInt64:
		return ErrConflict // no document has such a version
	}
	next := bson.D{{Key: "v", Value: int64(rec.Version + 1)}}
	if !rec.Expires.IsZero() {
		next = append(next, bson.E{Key: "e", Value: bson.NewDateTimeFromTime(rec.Expires)})
	}
	next = append(next, bson.E{Key: "d", Value: bson.Binary{Data: rec.Data}})

	if rec.Version > 0 {
		res, err := mongoCall(ctx, s, func() (*mongo.UpdateResult, error) {
			return s.coll.ReplaceOne(ctx, mongoCurrent(id, int64(rec.Version)), next)
		})
		return mongoSaved(ctx, res, err)
	}
	// Nearly always there is nothing under a new ID, and to insert takes the server half as long as to look first.
	res, err := mongoCall(ctx, s, func() (*mongo.InsertOneResult, error) {
		return s.coll.InsertOne(ctx, append(bson.D{mongoID(id)}, next...))
	})
	switch {
	case mongo.IsDuplicateKeyError(err):
		return s.replaceDead(ctx, id, next)
	case err != nil:
		return mongoError(ctx, "save", err)
	case !res.Acknowledged:
		return errMongoUnacknowledged
	}
	return nil
}

// replaceDead saves next in place of what is no live record.
func (s *MongoStore) replaceDead(ctx context.Context, id ID, next bson.D) error {
	// A live record does not match, and so an insert is tried, which its _id makes fail.
	filter := bson.D{mongoID(id), {Key: "$nor", Value: bson.A{mongoLive()}}}
	res, err := mongoCall(ctx, s, func() (*mongo.UpdateResult, error) {
		return s.coll.ReplaceOne(ctx, filter, next, options.Replace().SetUpsert(true))
	})
	if mongo.IsDuplicateKeyError(err) {
		return ErrConflict
	}
	return mongoSaved(ctx, res, err)
}

func mongoSaved(ctx context.Context, res *mongo.UpdateResult, err error) error {
	switch {
	case err != nil:
		return mongoError(ctx, "save", err)
	case !res.Acknowledged:
		return errMongoUnacknowledged
	case res.MatchedCount+res.UpsertedCount == 0:
		return ErrConflict
	}
	return nil
}

// Touch implements Toucher.
func (s *MongoStore) Touch(ctx context.Context, id ID, rec Record) error {
	version := int64(min(rec.Version, math.MaxInt64))
	expiry := bson.D{{Key: "$unset", Value: bson.D{{Key: "e", Value: ""}}}}
	if !rec.Expires.IsZero() {
		date := bson.NewDateTimeFromTime(rec.Expires)
		expiry = bson.D{{Key: "$set", Value: bson.D{{Key: "e", Value: date}}}}
	}
	res, err := mongoCall(ctx, s, func() (*mongo.UpdateResult, error) {
		return s.coll.UpdateOne(ctx, mongoCurrent(id, version), expiry)
	})
	switch {
	case err != nil:
		return mongoError(ctx, "touch", err)
	case !res.Acknowledged:
		return errMongoUnacknowledged
	case res.MatchedCount != 0:
		return nil
	}
	if _, err := s.Load(ctx, id); err != nil {
		return err
	}
	return ErrConflict
}

// Delete implements Store.
func (s *MongoStore) Delete(ctx context.Context, id ID) error {
	res, err := mongoCall(ctx, s, func() (*mongo.DeleteResult, error) { return s.coll.DeleteOne(ctx, bson.D{mongoID(id)}) })
	switch {
	case err != nil:
		return mongoError(ctx, "delete", err)
	case !res.Acknowledged:
		return errMongoUnacknowledged
	}
	return nil
}

// List implements Lister. It fetches a few hundred records at a time.
func (s *MongoStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		cursor, err := mongoCall(ctx, s, func() (*mongo.Cursor, error) {
			return s.coll.Find(ctx, mongoLive(), options.Find().SetBatchSize(500))
		})
		if err != nil {
			yield(Entry{}, mongoError(ctx, "list", err))
			return
		}
		defer cursor.Close(context.WithoutCancel(ctx))
		for cursor.Next(ctx) {
			var entry Entry
			rec, ok := mongoRecord(slices.Clone(cursor.Current)) // the cursor uses its buffer again
			_, id, isBinary := cursor.Current.Lookup("_id").BinaryOK()
			if !ok || !isBinary || copy(entry.ID[:], id) != len(id) || len(id) != len(entry.ID) {
				continue
			}
			entry.Record = rec
			if rec.Live(time.Now()) && !yield(entry, nil) {
				return
			}
		}
		if err := cursor.Err(); err != nil {
			yield(Entry{}, mongoError(ctx, "list", err))
		}
	}
}

// Count implements Counter. To count all goes through the collection; anything else fetches the data, as no version of the
// server can look into them.
func (s *MongoStore) Count(ctx context.Context, at int, b byte) (int, error) {
	if at >= 0 {
		total := 0
		for e, err := range s.List(ctx) {
			if err != nil {
				return 0, err
			}
			if hasByte(e.Record.Data, at, b) {
				total++
			}
		}
		return total, nil
	}
	n, err := mongoCall(ctx, s, func() (int64, error) { return s.coll.CountDocuments(ctx, mongoLive()) })
	if err != nil {
		return 0, mongoError(ctx, "count", err)
	}
	return int(n), nil
}

// Close disconnects what Open connected. It does nothing to a store that NewMongoStore returned.
func (s *MongoStore) Close() error {
	if s.client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // for operations still under way
	defer cancel()
	if err := s.client.Disconnect(ctx); err != nil && !errors.Is(err, mongo.ErrClientDisconnected) {
		return mongoError(ctx, "close", err)
	}
	return nil
}

// openMongo is the OpenFunc of "mongodb:" and "mongodb+srv:".
func openMongo(ctx context.Context, rawURL string) (StoreCloser, error) {
	m, err := parseMongoURL(rawURL)
	if err != nil {
		return nil, err
	}
	// It looks up DNS records for mongodb+srv, and has no context.
	opts, err := untilDone(ctx, func() (*options.ClientOptions, error) {
		opts := options.Client().ApplyURI(m.uri)
		return opts, opts.Validate()
	})
	if err != nil {
		return nil, fmt.Errorf("session: the %s: URL: %w", m.scheme, err)
	}
	if opts.WriteConcern == nil {
		opts.SetWriteConcern(writeconcern.Majority())
	}
	if opts.MaxPoolSize == nil {
		opts.SetMaxPoolSize(mongoPoolSize)
	}
	dialer := new(connDialer)
	client, err := mongo.Connect(opts.SetDialer(dialer))
	if err != nil {
		return nil, mongoError(ctx, "open", err)
	}
	if err = client.Ping(ctx, readpref.Primary()); err != nil {
		err = mongoError(ctx, "open", err)
	}
	var s *MongoStore
	if err == nil {
		coll := client.Database(m.database).Collection(m.collection)
		s, err = NewMongoStore(ctx, coll, &MongoOptions{NoCreate: m.noCreate})
	}
	if err != nil {
		client.Disconnect(context.WithoutCancel(ctx))
		return nil, err
	}
	s.client, s.dialer = client, dialer
	return s, nil
}

// mongoPoolSize is how many connections to each server a store has that Open returned, unless its URL says otherwise: a
// fifth of the driver's default, so that a fleet of processes leaves the server room.
const mongoPoolSize = 20

// mongoCall calls f. Where the server says that it is not the primary, the connections may lead to a server that was: the
// driver keeps them, and behind a name or a proxy nothing else would show where the primary is now. So a store that has
// made them drops all, and calls f again. Calls under way on those are repeated, too; to repeat a save that had taken
// effect makes it a conflict.
func mongoCall[T any](ctx context.Context, s *MongoStore, f func() (T, error)) (T, error) {
	const tries = 10 // one finds out, and several may get connections that were dropped
	for try := 1; ; try++ {
		began := time.Now()
		value, err := f()
		demoted := mongoDemoted(err)
		pool, ok := errors.AsType[interface { // the pool was cleared because of another call
			error
			Retryable() bool
		}](err)
		again := demoted || mongo.IsNetworkError(err) || ok && pool.Retryable()
		if s.dialer == nil || try == tries || ctx.Err() != nil || !again {
			return value, err
		}
		if demoted {
			s.dialer.drop(began)
		}
	}
}

// mongoDemoted reports whether err says that the server is not the primary, or is about to be none.
func mongoDemoted(err error) bool {
	server, ok := errors.AsType[mongo.ServerError](err)
	return ok && slices.ContainsFunc([]int{
		10107, 13435, 13436, // NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
		189, 11602, // PrimarySteppedDown, InterruptedDueToReplStateChange
		91, 11600, // ShutdownInProgress, InterruptedAtShutdown
	}, server.HasErrorCode)
}

// mongoURL is a URL taken apart, and uri what is left of it for the driver.
type mongoURL struct {
	scheme, uri, database, collection string
	noCreate                          bool
}

// parseMongoURL does not use package url, which knows one host only. It lets no user name or password with
// characters that are not percent-encoded get to the driver, whose errors would repeat parts of it.
func parseMongoURL(rawURL string) (mongoURL, error) {
	scheme, rest, _ := strings.Cut(rawURL, ":")
	m := mongoURL{scheme: strings.ToLower(scheme)}
	rest, ok := strings.CutPrefix(rest, "//")
	at := strings.LastIndexByte(rest, '@') + 1
	userinfo, rest := rest[:at], rest[at:]
	rest, query, _ := strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest, "/")

	params, err := url.ParseQuery(query)
	_, userErr := url.PathUnescape(userinfo)
	name, nameErr := url.PathUnescape(database)
	if !ok || cmp.Or(err, userErr, nameErr) != nil || !validAddresses(hosts) || strings.Count(userinfo, ":") > 1 ||
		strings.ContainsAny(strings.TrimSuffix(userinfo, "@"), "@/?#[]") || strings.ContainsAny(database+query, "/#") {
		return mongoURL{}, fmt.Errorf("session: the %[1]s: URL of the store is malformed: it is "+
			"%[1]s://user:password@host:port/database?parameters, with reserved characters percent-encoded", m.scheme)
	}
	if hosts == "" || strings.HasPrefix(hosts, ":") {
		hosts = "127.0.0.1" + hosts
	}
	m.database = cmp.Or(name, "session")
	m.collection = cmp.Or(params.Get("collection"), "sessions")
	switch create := params.Get("create"); create {
	case "", "true":
	case "false":
		m.noCreate = true
	default:
		return mongoURL{}, fmt.Errorf("session: create in the %s: URL is true or false, not %q", m.scheme, create)
	}
	params.Del("collection")
	params.Del("create")
	m.uri = m.scheme + "://" + userinfo + hosts + "/" + database
	if len(params) > 0 {
		m.uri += "?" + params.Encode()
	}
	return m, nil
}

// errMongoUnacknowledged: a store that does not hear what became of a save cannot say who was first.
var errMongoUnacknowledged = errors.New("session: mongodb: the collection's write concern is unacknowledged (w=0)")

// mongoCurrent matches the document with that ID and version unless it has expired. It does not make sure that this is
// a record, which costs the server a quarter more: whoever has the version has seen the record.
func mongoCurrent(id ID, version int64) bson.D {
	now := bson.NewDateTimeFromTime(time.Now())
	return bson.D{
		mongoID(id),
		{Key: "v", Value: version},
		{Key: "e", Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$lte", Value: now}}}}},
	}
}

// mongoLive matches documents that are live records.
func mongoLive() bson.D {
	now := bson.NewDateTimeFromTime(time.Now())
	return bson.D{
		{Key: "v", Value: bson.D{{Key: "$type", Value: "long"}, {Key: "$gt", Value: int64(0)}}},
		{Key: "d", Value: bson.D{{Key: "$type", Value: "binData"}}},
		{Key: "$or", Value: bson.A{
			bson.D{{Key: "e", Value: bson.D{{Key: "$gt", Value: now}}}},
			bson.D{{Key: "e", Value: bson.D{{Key: "$exists", Value: false}}}},
		}},
	}
}

func mongoID(id ID) bson.E { return bson.E{Key: "_id", Value: bson.Binary{Data: id[:]}} }

// mongoRecord returns the record in doc, whose Data is a part of doc. ok is false for what Save did not make.
func mongoRecord(doc bson.Raw) (rec Record, ok bool) {
	version, isLong := doc.Lookup("v").Int64OK()
	_, data, isBinary := doc.Lookup("d").BinaryOK()
	rec = Record{Version: uint64(version), Data: data}
	e := doc.Lookup("e")
	date, isDate := e.DateTimeOK()
	if isDate {
		rec.Expires = time.UnixMilli(date)
	}
	return rec, isLong && version > 0 && isBinary && (isDate || e.IsZero())
}

func mongoError(ctx context.Context, op string, err error) error {
	if err, ok := errors.AsType[mongo.ServerError](err); ok {
		// BSONObjectTooLarge, and what an update answers that makes a document too large.
		if err.HasErrorCode(10334) || err.HasErrorCode(17419) || err.HasErrorCode(17420) {
			return fmt.Errorf("session: mongodb: %s: %w: %w", op, ErrTooLarge, err)
		}
	}
	if mongoDemoted(err) {
		err = fmt.Errorf("the connections lead to a server that is not the primary any more (see MongoStore on failovers): %w", err)
	}
	return fmt.Errorf("session: mongodb: %s: %w", op, overdue(ctx, err))
}
