package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// A FileStore keeps records in one file, a bbolt database, that one process has open at a time. For several
// processes on one machine there is DirStore. NewFileStore makes one.
//
// Save, Touch and Delete return when the change is on the disk. Calls that arrive while another is being
// written are written together, so that many of them cost little more than one.
//
// What has returned outlives the end of the process, however it ends, and a loss of power as well, unless
// FileOptions.NoSync is set; what has not returned is there as a whole or not at all. A record whose bytes were
// damaged counts as absent.
//
// It implements Toucher, Sweeper, Lister and io.Closer. Removing expired records costs what is expired, however
// many are there. The file does not shrink; room that records leave is used again.
type FileStore struct {
	db        *bbolt.DB
	file      *os.File // of db
	path      string
	temporary bool        // Close removes it
	broken    atomic.Bool // whether db is locked for good

	mu     sync.Mutex
	queue  []*fileOp
	writer bool           // whether a goroutine works on the queue
	writes sync.WaitGroup // that goroutine
	closed bool

	written atomic.Int64 // how many changes were asked for and written, or found to be needless
}

// FileOptions are the options of NewFileStore.
type FileOptions struct {
	// NoSync, if false, means that each change reaches the disk before its call returns. If true, the operating
	// system writes it some time later. That is much faster, and still safe when only the process ends; but a
	// loss of power or a crash of the system can then leave a file that cannot be used any more.
	NoSync bool
}

// NewFileStore opens the file at path, and creates it with mode 0600 if it is missing or empty. A nil opts
// stands for the zero FileOptions. It is an error if the file is open already, in this process or another, or
// if it is not one of a FileStore; such a file is not changed. Close closes it.
func NewFileStore(path string, opts *FileOptions) (*FileStore, error) {
	if opts == nil {
		opts = new(FileOptions)
	}
	if path == "" {
		return nil, errors.New("session: a file store needs the path of its file")
	}
	s := &FileStore{path: path}
	if err := s.open(opts); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// openFile is the OpenFunc of "file:".
func openFile(ctx context.Context, rawURL string) (Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := urlPath(rawURL)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, errors.New("session: a file: URL needs a path, as in file:///path/to/file")
	}
	s, err := NewFileStore(path, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openTemporary is the OpenFunc of the empty URL. Nobody will look for the file after a loss of power, so
// nothing waits for the disk.
func openTemporary(ctx context.Context, _ string) (Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "session-*.db")
	if err != nil {
		return nil, fmt.Errorf("session: no temporary file: %w", err)
	}
	f.Close()
	s, err := NewFileStore(f.Name(), &FileOptions{NoSync: true})
	if err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	// Where a file can be removed while it is open, no end of the process leaves it behind.
	s.temporary = os.Remove(f.Name()) != nil
	return s, nil
}

// Load implements Store.
func (s *FileStore) Load(ctx context.Context, id ID) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	var rec Record
	err := s.view(func(tx *bbolt.Tx) error {
		found, expires, ok := decodeFileRecord(id, tx.Bucket(bucketRecords).Get(id[:]))
		if !ok || hasExpired(expires) {
			return ErrNotFound
		}
		found.Data = bytes.Clone(found.Data) // the file's memory is only valid within the transaction
		rec = found
		return nil
	})
	return rec, err
}

// Save implements Store.
func (s *FileStore) Save(ctx context.Context, id ID, rec Record) error {
	if len(rec.Data) > bbolt.MaxValueSize-fileHeaderSize {
		return fmt.Errorf("%w: %d bytes of data in a file store", ErrTooLarge, len(rec.Data))
	}
	return s.submit(ctx, &fileOp{apply: func(b *fileBuckets) error { return b.save(id, rec) }})
}

// Touch implements Toucher.
func (s *FileStore) Touch(ctx context.Context, id ID, rec Record) error {
	return s.submit(ctx, &fileOp{apply: func(b *fileBuckets) error { return b.touch(id, rec) }})
}

// Delete implements Store.
func (s *FileStore) Delete(ctx context.Context, id ID) error {
	return s.submit(ctx, &fileOp{apply: func(b *fileBuckets) error { return b.remove(id) }})
}

// DeleteExpired implements Sweeper. It removes a few records at a time. While others write it pauses in between,
// and keeps pace with them rather than hold them up; otherwise it makes larger steps.
func (s *FileStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	const few, many, most = 8, 64, 512
	now := time.Now().UnixMilli()
	total, step := 0, few
	written := s.written.Load()
	for total < limit {
		var removed, seen int
		want := min(step, limit-total)
		start := time.Now()
		err := s.submit(ctx, &fileOp{apply: func(b *fileBuckets) (err error) {
			removed, seen, err = b.sweep(now, want)
			return err
		}})
		if err != nil {
			return total, err
		}
		total += removed
		if seen < want {
			break
		}
		others := s.written.Load() - written - 1
		written += others + 1
		if others <= 0 {
			step = min(2*step, many)
			continue
		}
		step = int(min(max(others, few), most))
		select {
		case <-time.After(time.Since(start)):
		case <-ctx.Done():
			return total, ctx.Err()
		}
	}
	return total, nil
}

// List implements Lister. It reads some records at a time; between those it holds nothing open, so that the
// loop's body may use the store.
func (s *FileStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var last []byte
		for {
			entries, next, err := s.chunk(ctx, last, true)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range entries {
				if err := ctx.Err(); err != nil {
					yield(Entry{}, err)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
			if next == nil {
				return
			}
			last = next
		}
	}
}

// Count implements Lister. It reads the whole file.
func (s *FileStore) Count(ctx context.Context) (int, error) {
	total := 0
	var last []byte
	for {
		entries, next, err := s.chunk(ctx, last, false)
		if err != nil {
			return 0, err
		}
		total += len(entries)
		if next == nil {
			return total, nil
		}
		last = next
	}
}

// Close waits for the calls that are under way and closes the file; a temporary one is removed. Calls that
// come later return an error. A second Close does nothing.
func (s *FileStore) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.writes.Wait()
	if closed {
		return nil
	}
	var err error
	if s.broken.Load() {
		err = s.file.Close()
	} else {
		err = s.db.Close()
	}
	if s.temporary {
		err = errors.Join(err, os.Remove(s.path))
	}
	if err != nil {
		return s.wrap(err)
	}
	return nil
}

// chunk returns the live entries among the next few records behind the key last, with or without their data,
// and the key to go on from, nil at the end.
func (s *FileStore) chunk(ctx context.Context, last []byte, data bool) (entries []Entry, next []byte, err error) {
	const atOnce = 256
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	err = s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketRecords).Cursor()
		k, v := c.Seek(last)
		if last != nil && bytes.Equal(k, last) {
			k, v = c.Next()
		}
		for range atOnce {
			if k == nil {
				next = nil
				return nil
			}
			next = append(next[:0], k...)
			if len(k) == len(ID{}) {
				id := ID(k)
				rec, expires, ok := decodeFileRecord(id, v)
				if ok && !hasExpired(expires) {
					if data {
						rec.Data = bytes.Clone(rec.Data)
					} else {
						rec.Data = nil
					}
					entries = append(entries, Entry{ID: id, Record: rec})
				}
			}
			k, v = c.Next()
		}
		return nil
	})
	return entries, next, err
}

// view runs fn in a transaction that reads, which neither waits for writers nor makes them wait for long.
func (s *FileStore) view(fn func(*bbolt.Tx) error) error {
	err := s.transaction(false, fn)
	if err != nil && err != ErrNotFound {
		return s.wrap(err)
	}
	return err
}

// transaction is what bbolt's View and Update do, except that it ends a transaction that a damaged page has made
// panic without reading any page again. Theirs could panic again, and leave the database locked.
func (s *FileStore) transaction(writable bool, fn func(*bbolt.Tx) error) error {
	return guardMap(func() error {
		tx, err := s.begin(writable)
		if err != nil {
			return err
		}
		defer tx.Rollback() // does nothing after Commit
		if err := fn(tx); err != nil || !writable {
			return err
		}
		return tx.Commit()
	})
}

// begin remembers that it has panicked, since that does leave the database locked.
func (s *FileStore) begin(writable bool) (*bbolt.Tx, error) {
	if s.broken.Load() {
		return nil, errors.New("the file is damaged")
	}
	defer func() {
		if p := recover(); p != nil {
			s.broken.Store(true)
			panic(p)
		}
	}()
	return s.db.Begin(writable)
}

// A fileOp is one change that waits to be written.
type fileOp struct {
	apply func(*fileBuckets) error
	state atomic.Int32 // 0, and then once opTaken or opAbandoned
	err   error        // valid when done is closed
	done  chan struct{}
}

const (
	opTaken int32 = iota + 1
	opAbandoned
)

// submit has op written, together with those that wait as well, and returns its outcome.
func (s *FileStore) submit(ctx context.Context, op *fileOp) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	op.done = make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.wrap(fs.ErrClosed)
	}
	s.queue = append(s.queue, op)
	if !s.writer {
		s.writer = true
		s.writes.Go(s.write)
	}
	s.mu.Unlock()
	select {
	case <-op.done:
		return op.err
	case <-ctx.Done():
		op.state.CompareAndSwap(0, opAbandoned)
		return ctx.Err()
	}
}

// write works on the queue until it is empty. While it waits for the disk, the next batch gathers.
func (s *FileStore) write() {
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		if len(batch) == 0 {
			s.writer = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.commit(batch)
	}
}

// errUnchanged ends a transaction that has nothing to write.
var errUnchanged = errors.New("session: nothing to write")

// commit applies the batch in one transaction. If that fails, nothing was changed and every call learns why:
// a conflict with a change that was never made would be misleading.
func (s *FileStore) commit(batch []*fileOp) {
	err := s.transaction(true, func(tx *bbolt.Tx) error {
		b := &fileBuckets{records: tx.Bucket(bucketRecords), expiries: tx.Bucket(bucketExpiries)}
		for _, op := range batch {
			if !op.state.CompareAndSwap(0, opTaken) {
				continue
			}
			op.err = op.apply(b)
			if op.err != nil && op.err != ErrConflict && op.err != ErrNotFound {
				return op.err
			}
		}
		if !b.changed {
			return errUnchanged
		}
		return nil
	})
	for _, op := range batch {
		if err != nil && err != errUnchanged {
			op.err = s.wrap(err)
		}
	}
	s.written.Add(int64(len(batch)))
	for _, op := range batch {
		close(op.done)
	}
}

func (s *FileStore) wrap(err error) error {
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		err = fs.ErrClosed
	}
	if errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("session: the file store %q is closed: %w", s.path, err)
	}
	return fmt.Errorf("session: file store %q: %w", s.path, err)
}

// fileBuckets is the content of the file within a transaction that writes.
type fileBuckets struct {
	records  *bbolt.Bucket // ID: as encodeFileRecord has it
	expiries *bbolt.Bucket // expiryKey: nothing
	changed  bool
}

func (b *fileBuckets) save(id ID, rec Record) error {
	old, expires, ok := decodeFileRecord(id, b.records.Get(id[:]))
	var current uint64
	if ok && !hasExpired(expires) {
		current = old.Version
	}
	if current != rec.Version {
		return ErrConflict
	}
	rec.Version++
	if !ok {
		expires = never
	}
	return b.put(id, rec, expires)
}

func (b *fileBuckets) touch(id ID, rec Record) error {
	old, expires, ok := decodeFileRecord(id, b.records.Get(id[:]))
	switch {
	case !ok || hasExpired(expires):
		return ErrNotFound
	case old.Version != rec.Version:
		return ErrConflict
	}
	old.Expires = rec.Expires
	return b.put(id, old, expires)
}

// put stores rec in place of a record that expires at oldExpires.
func (b *fileBuckets) put(id ID, rec Record, oldExpires int64) error {
	b.changed = true
	expires := expiryMillis(rec.Expires)
	if oldExpires != never && oldExpires != expires {
		if err := b.expiries.Delete(expiryKey(id, oldExpires)); err != nil {
			return err
		}
	}
	if expires != never {
		if err := b.expiries.Put(expiryKey(id, expires), nil); err != nil {
			return err
		}
	}
	return b.records.Put(id[:], encodeFileRecord(id, rec.Version, expires, rec.Data))
}

func (b *fileBuckets) remove(id ID) error {
	value := b.records.Get(id[:])
	if value == nil {
		return nil
	}
	b.changed = true
	if _, expires, ok := decodeFileRecord(id, value); ok && expires != never {
		if err := b.expiries.Delete(expiryKey(id, expires)); err != nil {
			return err
		}
	}
	return b.records.Delete(id[:])
}

// sweep goes through the first entries of the index that have expired, limit at most, and returns how many
// those were and how many records it removed.
func (b *fileBuckets) sweep(now int64, limit int) (removed, seen int, err error) {
	var keys [][]byte // a cursor does not survive a removal
	c := b.expiries.Cursor()
	for k, _ := c.First(); k != nil && len(keys) < limit; k, _ = c.Next() {
		if _, expires, ok := splitExpiryKey(k); ok && expires > now {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		b.changed = true
		if err := b.expiries.Delete(k); err != nil {
			return 0, 0, err
		}
		id, expires, ok := splitExpiryKey(k)
		value := b.records.Get(id[:])
		if !ok || value == nil {
			continue
		}
		// The index entry of a damaged record outlives it. What counts is what the record itself says.
		if _, current, readable := decodeFileRecord(id, value); readable && current != expires {
			continue
		}
		if err := b.records.Delete(id[:]); err != nil {
			return 0, 0, err
		}
		removed++
	}
	return removed, len(keys), nil
}

// open opens the database, whatever is in it.
func (s *FileStore) open(opts *FileOptions) error {
	options := &bbolt.Options{
		Timeout:      1, // one attempt at the lock
		FreelistType: bbolt.FreelistMapType,
		NoSync:       opts.NoSync,
		NoStatistics: true,
	}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		createBolt(s.path, options)
	}
	options.OpenFile = func(name string, flag int, perm fs.FileMode) (_ *os.File, err error) {
		s.file, err = os.OpenFile(name, flag, perm)
		return s.file, err
	}
	err := guardMap(func() (err error) {
		s.db, err = bbolt.Open(s.path, 0o600, options)
		return err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("session: the file store %q is open elsewhere, and one process can use it at a time; "+
			"a dir: store (DirStore) is for several", s.path)
	}
	if s.file != nil {
		s.file.Close() // bbolt has done so, unless it panicked
	}
	if errors.Is(err, bbolterrors.ErrInvalid) || errors.Is(err, bbolterrors.ErrVersionMismatch) {
		return fmt.Errorf("session: %q is not the file of a file store: %w", s.path, err)
	}
	return s.wrap(err)
}

// createBolt makes an empty database and then gives it its name, so that a crash leaves no half of one. Where
// that fails, bbolt makes it in place or tells what is wrong.
func createBolt(path string, options *bbolt.Options) {
	f, err := os.CreateTemp(filepath.Dir(path), ".session-*.tmp")
	if err != nil {
		return
	}
	defer os.Remove(f.Name())
	f.Close()
	if db, err := bbolt.Open(f.Name(), 0o600, options); err == nil && db.Close() == nil {
		os.Link(f.Name(), path)
	}
}

// prepare checks that the database is a FileStore's, and makes it one if it is empty.
func (s *FileStore) prepare() error {
	fresh := false
	err := s.view(func(tx *bbolt.Tx) error {
		if k, _ := tx.Cursor().First(); k == nil {
			fresh = true
			return nil
		}
		marker := tx.Bucket(bucketFormat)
		if marker == nil {
			return errors.New("it is the bbolt file of another program")
		}
		if format := marker.Get(bucketFormat); string(format) != fileFormat {
			return fmt.Errorf("its format is %q, and this version of the package knows %q", format, fileFormat)
		}
		if tx.Bucket(bucketRecords) == nil || tx.Bucket(bucketExpiries) == nil {
			return errors.New("the file is damaged: a bucket is missing")
		}
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	err = s.transaction(true, func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketFormat, bucketRecords, bucketExpiries} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketFormat).Put(bucketFormat, []byte(fileFormat))
	})
	if err == nil && !s.db.NoSync {
		err = syncParent(s.path)
	}
	if err != nil {
		return s.wrap(err)
	}
	return nil
}

const (
	fileFormat     = "1"
	fileHeaderSize = 4 + 8 + 8 // checksum, version, expiry
)

var (
	bucketFormat   = []byte("session.format")
	bucketRecords  = []byte("session.records")
	bucketExpiries = []byte("session.expiries")
)

// encodeFileRecord returns a checksum of all that follows and the ID, version, expiry and data.
func encodeFileRecord(id ID, version uint64, expires int64, data []byte) []byte {
	b := make([]byte, 4, fileHeaderSize+len(data))
	b = binary.BigEndian.AppendUint64(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	b = append(b, data...)
	binary.BigEndian.PutUint32(b, recordSum(id, b[4:]))
	return b
}

// decodeFileRecord is the inverse. Data is a part of b. It returns false if b is missing, damaged or
// another record's.
func decodeFileRecord(id ID, b []byte) (rec Record, expires int64, ok bool) {
	if len(b) < fileHeaderSize || binary.BigEndian.Uint32(b) != recordSum(id, b[4:]) {
		return Record{}, 0, false
	}
	expires = int64(binary.BigEndian.Uint64(b[12:]))
	rec = Record{Version: binary.BigEndian.Uint64(b[4:]), Expires: expiryTime(expires), Data: b[fileHeaderSize:]}
	return rec, expires, true
}

// recordSum is a checksum of a stored record's bytes, bound to its ID.
func recordSum(id ID, b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(id[:], table), table, b)
}

// expiryKey sorts by time: the sign bit is flipped, so that times before 1970 come first.
func expiryKey(id ID, expires int64) []byte {
	b := make([]byte, 0, 8+len(id))
	b = binary.BigEndian.AppendUint64(b, uint64(expires)^1<<63)
	return append(b, id[:]...)
}

func splitExpiryKey(b []byte) (id ID, expires int64, ok bool) {
	if len(b) != 8+len(id) {
		return ID{}, 0, false
	}
	return ID(b[8:]), int64(binary.BigEndian.Uint64(b) ^ 1<<63), true
}

// guardMap turns the panics and faults that a damaged file causes in bbolt into an error.
func guardMap(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	return fn()
}

// syncParent makes the name of a file that was created outlive a loss of power.
func syncParent(path string) error {
	if runtime.GOOS == "windows" { // which cannot sync a directory, and needs not
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
