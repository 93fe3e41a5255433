package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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
// A change that has returned outlives the end of the process, however it ends, and a loss of power as well, unless
// FileOptions.NoSync is set; one that has not returned is there as a whole or not at all. A record whose bytes were
// damaged counts as absent.
//
// On a full disk, what takes the place of a record that is as large works all the same, the end of a session above all: 32
// pages and a hundredth of the file are kept in reserve for it. This needs a file system that writes in place, and an
// operating system that lets the file grow by pages: not Btrfs or ZFS, and not Windows.
//
// It implements Toucher, Sweeper, Lister, Counter and StoreCloser. Removing expired records costs what is expired, however
// many are there. The file does not shrink; room that records leave is used again.
type FileStore struct {
	db        *bbolt.DB
	file      *os.File // of db
	pageSize  int64
	path      string
	temporary bool        // Close removes it
	broken    atomic.Bool // whether db is locked for good

	mu     sync.Mutex
	queue  []*fileOp
	writer bool           // whether a goroutine works on the queue
	writes sync.WaitGroup // that goroutine
	closed bool

	readers  sync.RWMutex // held by whoever reads; whoever has it alone can use again all pages that are free
	reserved int64        // up to where the disk has room for the file; of the writer
}

// FileOptions are the options of NewFileStore.
type FileOptions struct {
	// NoSync, if false, means that each change reaches the disk before its call returns. If true, the operating
	// system writes it some time later, which is much faster, and still safe when only the process ends; but a
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
	s.reserve(nil, true)
	return s, nil
}

// openFile is the OpenFunc of "file:".
func openFile(ctx context.Context, rawURL string) (StoreCloser, error) {
	path, err := urlPath(rawURL)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
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
func openTemporary(ctx context.Context, _ string) (StoreCloser, error) {
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
		found, expires, ok := decodeFileRecord(id, fileValue(tx.Bucket(bucketRecords), id))
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
	pages := changePages + len(rec.Data)/filePart
	return s.submit(ctx, &fileOp{pages: pages, apply: func(b *fileBuckets) error { return b.save(id, rec) }})
}

// Touch implements Toucher.
func (s *FileStore) Touch(ctx context.Context, id ID, rec Record) error {
	return s.submit(ctx, &fileOp{pages: changePages, apply: func(b *fileBuckets) error { return b.touch(id, rec) }})
}

// Delete implements Store.
func (s *FileStore) Delete(ctx context.Context, id ID) error {
	return s.submit(ctx, &fileOp{pages: changePages, apply: func(b *fileBuckets) error { return b.remove(id) }})
}

// DeleteExpired implements Sweeper.
func (s *FileStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	const step = 25 // at once; all that wait for the disk meanwhile wait longer for more
	now := time.Now().UnixMilli()
	total := 0
	for total < limit {
		var removed, seen int
		want := min(step, limit-total)
		err := s.submit(ctx, &fileOp{pages: want * changePages, apply: func(b *fileBuckets) (err error) {
			if b.full { // one at a time needs the least room
				want = 1
			}
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
	}
	return total, nil
}

// List implements Lister. It reads some records at a time; between those it holds nothing open, so that the
// loop's body may use the store.
func (s *FileStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var last []byte
		for {
			var entries []Entry
			next, err := s.chunk(ctx, last, func(id ID, rec Record) {
				rec.Data = bytes.Clone(rec.Data)
				entries = append(entries, Entry{ID: id, Record: rec})
			})
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

// Count implements Counter. It reads the whole file.
func (s *FileStore) Count(ctx context.Context, at int, b byte) (int, error) {
	total := 0
	var last []byte
	for {
		next, err := s.chunk(ctx, last, func(_ ID, rec Record) {
			if hasByte(rec.Data, at, b) {
				total++
			}
		})
		if err != nil {
			return 0, err
		}
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

// chunk calls fn with the live ones among the next few records behind the key last, whose data are only valid until it
// returns. It returns the key to go on from, nil at the end.
func (s *FileStore) chunk(ctx context.Context, last []byte, fn func(ID, Record)) (next []byte, err error) {
	const atOnce = 256
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = s.view(func(tx *bbolt.Tx) error {
		records := tx.Bucket(bucketRecords)
		c := records.Cursor()
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
				rec, expires, ok := decodeFileRecord(id, joinParts(records, id, v))
				if ok && !hasExpired(expires) {
					fn(id, rec)
				}
			}
			k, v = c.Next()
		}
		return nil
	})
	return next, err
}

// view runs fn in a transaction that reads, which neither waits for writers nor makes them wait for long.
func (s *FileStore) view(fn func(*bbolt.Tx) error) error {
	s.readers.RLock()
	defer s.readers.RUnlock()
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
	pages int          // that it may need before it frees those that it replaces
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

// commit applies the batch. If that fails, nothing was changed and every call learns why:
// a conflict with a change that was never made would be misleading.
func (s *FileStore) commit(batch []*fileOp) {
	taken := slices.DeleteFunc(slices.Clone(batch), func(op *fileOp) bool { return !op.state.CompareAndSwap(0, opTaken) })
	if len(taken) > 0 && (!s.reserve(taken, false) || noRoom(s.apply(taken, false))) {
		for _, op := range taken { // one may have come that grows, for which the others need not fail
			s.applyAlone(op)
		}
	}
	for _, op := range batch {
		close(op.done)
	}
}

// applyAlone applies a change where room is short: nobody reads, so that all free pages can be used again.
func (s *FileStore) applyAlone(op *fileOp) {
	s.readers.Lock()
	defer s.readers.Unlock()
	ops := []*fileOp{op}
	s.apply(ops, !s.reserve(ops, true))
}

// apply applies the changes in one transaction. If the file is full, no record may become larger.
func (s *FileStore) apply(ops []*fileOp, full bool) error {
	if runtime.GOOS != "windows" { // where bbolt makes the file as large as what it maps of it
		s.db.MaxSize = int(s.reserved)
	}
	err := s.transaction(true, func(tx *bbolt.Tx) error {
		b := &fileBuckets{records: tx.Bucket(bucketRecords), expiries: tx.Bucket(bucketExpiries), full: full}
		for _, op := range ops {
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
	if errors.Is(err, bbolterrors.ErrMaxSizeReached) {
		err = errFileFull
	}
	for _, op := range ops {
		if err != nil && err != errUnchanged {
			op.err = s.wrap(err)
		}
	}
	return err
}

// errFileFull refuses what needs more room than there is beside the reserve.
var errFileFull = fmt.Errorf("what is left is kept for the end of sessions: %w", syscall.ENOSPC)

// A change writes pages before it frees those that it replaces. One that makes no record larger needs less than
// reservePages, and leaves no fewer free than it found, since no record has more than a part of a page to itself. bbolt
// also writes a list of the free pages, in one piece: listShare of the file is more than it can need several times.
const (
	changePages  = 8
	reservePages = 32
	listShare    = 128
)

// reserve reports whether there is room for the changes beside the reserve, and has the disk make some behind what the file
// has in use. Nobody else writes there. If alone is set, nobody reads.
func (s *FileStore) reserve(ops []*fileOp, alone bool) bool {
	pages := 0
	for _, op := range ops {
		pages += op.pages
	}
	var used int64
	if err := s.transaction(false, func(tx *bbolt.Tx) error { used = tx.Size(); return nil }); err != nil {
		return true // and apply says what is wrong
	}
	stats := s.db.Stats()
	free := stats.FreePageN
	if alone {
		free += stats.PendingPageN
	}
	keep := reservePages + int(used/s.pageSize/listShare)
	s.reserved = max(s.reserved, used)
	behind := int((s.reserved - used) / s.pageSize)
	if behind >= keep && free+behind >= keep+pages {
		return true
	}
	more := max(keep-behind, keep+pages-free-behind)
	more = max(more, min(int(used/s.pageSize/16), 256)) // not with every change
	n, _ := s.file.WriteAt(make([]byte, int64(more)*s.pageSize), s.reserved)
	s.reserved += int64(n) / s.pageSize * s.pageSize
	behind = int((s.reserved - used) / s.pageSize)
	return free+behind >= keep+pages
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
	full     bool // no record may become larger
}

func (b *fileBuckets) save(id ID, rec Record) error {
	old, expires, ok := decodeFileRecord(id, fileValue(b.records, id))
	var current uint64
	if ok && !hasExpired(expires) {
		current = old.Version
	}
	if current != rec.Version {
		return ErrConflict
	}
	if b.full && (current == 0 || len(rec.Data) > len(old.Data)+recordSlack) {
		return errFileFull
	}
	rec.Version++
	if !ok {
		expires = never
	}
	return b.put(id, rec, expires)
}

func (b *fileBuckets) touch(id ID, rec Record) error {
	old, expires, ok := decodeFileRecord(id, fileValue(b.records, id))
	switch {
	case !ok || hasExpired(expires):
		return ErrNotFound
	case old.Version != rec.Version:
		return ErrConflict
	}
	old.Expires = rec.Expires
	return b.put(id, old, expires)
}

// put stores rec in place of a record that expires at oldExpires. If the file is full, the entry of that in the index
// stays where it is, and sweep puts it right: another place could need another page.
func (b *fileBuckets) put(id ID, rec Record, oldExpires int64) error {
	b.changed = true
	expires := expiryMillis(rec.Expires)
	if oldExpires == never || !b.full {
		if err := b.reindex(id, oldExpires, expires); err != nil {
			return err
		}
	}
	value, i := encodeFileRecord(id, rec.Version, expires, rec.Data), uint32(0)
	if len(value) > filePart {
		b.records.FillPercent = 1 // the parts come in order
	}
	for part := range slices.Chunk(value, filePart) {
		if err := b.records.Put(partKey(id, i), part); err != nil {
			return err
		}
		i++
	}
	return b.removeParts(id, i)
}

// reindex moves a record's entry in the index.
func (b *fileBuckets) reindex(id ID, from, to int64) error {
	if from != never && from != to {
		if err := b.expiries.Delete(expiryKey(id, from)); err != nil {
			return err
		}
	}
	if to == never {
		return nil
	}
	return b.expiries.Put(expiryKey(id, to), nil)
}

// removeParts removes a record's parts from that one on.
func (b *fileBuckets) removeParts(id ID, from uint32) error {
	for i := from; ; i++ {
		key := partKey(id, i)
		if b.records.Get(key) == nil {
			return nil
		}
		if err := b.records.Delete(key); err != nil {
			return err
		}
	}
}

func (b *fileBuckets) remove(id ID) error {
	value := fileValue(b.records, id)
	if value == nil {
		return nil
	}
	b.changed = true
	if _, expires, ok := decodeFileRecord(id, value); ok {
		if err := b.reindex(id, expires, never); err != nil {
			return err
		}
	}
	return b.removeParts(id, 0)
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
		id, _, ok := splitExpiryKey(k)
		value := fileValue(b.records, id)
		if !ok || value == nil {
			continue
		}
		// The entry may be that of a damaged record before, or have stayed behind. The record itself decides.
		if _, current, readable := decodeFileRecord(id, value); readable && current > now {
			if err := b.reindex(id, never, current); err != nil {
				return 0, 0, err
			}
			continue
		}
		if err := b.removeParts(id, 0); err != nil {
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
	}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		createBolt(s.path, options)
	}
	options.OpenFile = func(name string, flag int, perm fs.FileMode) (_ *os.File, err error) {
		s.file, err = os.OpenFile(name, flag, perm)
		return s.file, err
	}
	err := guardMap(func() (err error) {
		if s.db, err = bbolt.Open(s.path, 0o600, options); err == nil {
			s.pageSize = int64(s.db.Info().PageSize)
			s.db.AllocSize = 0 // the file grows as reserve has it
		}
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
	// filePart is how many bytes of a record are under one key. bbolt keeps at least two keys on a page, and up to four
	// whatever their size. A longer part would take several pages in a row, and a full file may have no two together.
	filePart = 960
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

// partKey returns the key of a part of a record, of the first one its ID.
func partKey(id ID, i uint32) []byte {
	if i == 0 {
		return id[:]
	}
	return binary.BigEndian.AppendUint32(id[:len(id):len(id)], i)
}

// fileValue returns a record's parts in one, nil if there is none.
func fileValue(records *bbolt.Bucket, id ID) []byte {
	return joinParts(records, id, records.Get(id[:]))
}

// joinParts is fileValue for whoever has the first part.
func joinParts(records *bbolt.Bucket, id ID, value []byte) []byte {
	if len(value) != filePart {
		return value
	}
	value = bytes.Clone(value)
	for i := uint32(1); ; i++ {
		part := records.Get(partKey(id, i))
		value = append(value, part...)
		if len(part) < filePart {
			return value
		}
	}
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
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return syncNames(dir)
}
