// Package txstore is a store of sessions in a database that has transactions, with all optional methods: a small one to
// copy. It is bbolt here, an ordered map in a file; a table and SQL transactions are the same.
package txstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"time"

	"go.etcd.io/bbolt"

	"example.com/session"
)

var bucket = []byte("sessions")

// A Store keeps records in a file. One process at a time can have it open.
type Store struct{ db *bbolt.DB }

// Open opens a file, or makes one.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &Store{db}, nil
}

// Close closes the file. bbolt takes a second Close for none, and fails calls that come later.
func (s *Store) Close() error { return s.db.Close() }

// view and update run a transaction. They look at ctx before, and then finish: a transaction waits for no network.
func (s *Store) view(ctx context.Context, f func(records *bbolt.Bucket) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error { return f(tx.Bucket(bucket)) })
}

func (s *Store) update(ctx context.Context, f func(records *bbolt.Bucket) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket(bucket)) })
}

// live returns the record under an ID, or one of version 0 if there is none, or it has expired. All methods but the sweep ask
// it, so that an expired record is in nobody's way.
func live(records *bbolt.Bucket, id session.ID) session.Record {
	if rec := decode(records.Get(id[:])); rec.Live(time.Now()) {
		return rec
	}
	return session.Record{}
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, id session.ID) (rec session.Record, err error) {
	err = s.view(ctx, func(records *bbolt.Bucket) error {
		if rec = live(records, id); rec.Version == 0 {
			return session.ErrNotFound
		}
		return nil
	})
	return rec, err
}

// Save implements session.Store. Comparing and writing are one transaction, and of those that write there is one at a time.
func (s *Store) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return s.update(ctx, func(records *bbolt.Bucket) error {
		if live(records, id).Version != rec.Version {
			return session.ErrConflict
		}
		rec.Version++
		return records.Put(id[:], encode(rec))
	})
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	return s.update(ctx, func(records *bbolt.Bucket) error { return records.Delete(id[:]) })
}

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	return s.update(ctx, func(records *bbolt.Bucket) error {
		there := live(records, id)
		switch there.Version {
		case 0:
			return session.ErrNotFound
		case rec.Version:
			there.Expires = rec.Expires
			return records.Put(id[:], encode(there))
		}
		return session.ErrConflict
	})
}

// DeleteExpired implements session.Sweeper. It looks at each record: a store for many has an index of expiries.
func (s *Store) DeleteExpired(ctx context.Context, limit int) (n int, err error) {
	err = s.update(ctx, func(records *bbolt.Bucket) error {
		now := time.Now()
		var expired [][]byte // a cursor loses its place when records are deleted
		cursor := records.Cursor()
		for key, value := cursor.First(); key != nil && len(expired) < limit; key, value = cursor.Next() {
			if !decode(value).Live(now) {
				expired = append(expired, bytes.Clone(key))
			}
		}
		for _, key := range expired {
			if err := records.Delete(key); err != nil {
				return err
			}
		}
		n = len(expired)
		return nil
	})
	return n, err
}

// List implements session.Lister. It reads a page, lets the transaction go, and yields then: what the caller does meanwhile may
// take long, and may use the store. The next page begins after the last ID, which shifts with nothing.
func (s *Store) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	const page = 100
	return func(yield func(session.Entry, error) bool) {
		var next []byte
		for more := true; more; {
			var entries []session.Entry
			err := s.view(ctx, func(records *bbolt.Bucket) error {
				cursor, n := records.Cursor(), 0
				key, value := cursor.Seek(next)
				for ; key != nil && n < page; key, value = cursor.Next() {
					if rec := decode(value); rec.Live(time.Now()) {
						entries = append(entries, session.Entry{ID: session.ID(key), Record: rec})
					}
					n++
				}
				next, more = bytes.Clone(key), key != nil
				return nil
			})
			if err != nil {
				yield(session.Entry{}, err)
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
		}
	}
}

// encode returns version, expiry in milliseconds since 1970 and data. Never is 0, so that the epoch itself needs another number.
func encode(rec session.Record) []byte {
	expires := int64(0)
	if !rec.Expires.IsZero() {
		if expires = rec.Expires.UnixMilli(); expires == 0 {
			expires = -1 // which has passed as well
		}
	}
	b := binary.BigEndian.AppendUint64(nil, rec.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	return append(b, rec.Data...)
}

// decode is the inverse of encode. It copies: bbolt takes its bytes back when the transaction ends.
func decode(b []byte) session.Record {
	if len(b) < 16 {
		return session.Record{}
	}
	rec := session.Record{Version: binary.BigEndian.Uint64(b), Data: bytes.Clone(b[16:])}
	if expires := int64(binary.BigEndian.Uint64(b[8:])); expires != 0 {
		rec.Expires = time.UnixMilli(expires)
	}
	return rec
}
