package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
)

// A DirStore keeps each record in a file of its own, <ID>.session with mode 0600, in a directory that any number
// of processes and DirStores on one machine share. NewDirStore makes one.
//
// A file is written beside the old one, and then takes its name: it is there as a whole or not at all, and a
// call that returned an error leaves the old one. A Save or Delete that has returned outlives the end of the
// process, however it ends, and a loss of power as well, unless DirOptions.NoSync is set. After a loss of power
// a record may have the expiry that it had before its last Touch.
//
// The file's modification time is the record's expiry, cut to what the file system can store, and at most the
// year 2242. A file that was damaged or put there by somebody else counts as absent, and so does anything else
// under a record's name; a symbolic link is replaced and removed, and never followed. A directory with something in it
// stays, and makes Save and Delete of that record fail.
//
// Writers of a record exclude each other with one of 256 lock files, in the subdirectory .locks. The operating
// system releases the lock of a process that ends. Where it has no working file locks, as in some network file
// systems, several processes must not share a directory. Nothing else, such as a program that removes old files, may
// remove or replace the lock files, or the directory, while it is in use.
//
// On a full disk, what takes the place of a record that is as large works all the same, the end of a session above all: 64 KiB
// are kept in reserve for it, in .locks.
//
// It implements Toucher, Sweeper, Lister, Counter and StoreCloser. Removing expired records and counting all open no
// file, but go through the whole directory.
type DirStore struct {
	root      *os.Root
	dir       *os.File // the directory itself, to sync it
	path      string   // absolute
	sync      bool
	temporary bool
	closed    atomic.Bool
	stripes   [256]chan struct{} // full while a goroutine of this DirStore holds or awaits the lock file

	sweeping chan struct{} // full while a goroutine uses sweep
	sweep    *os.File      // the directory as far as DeleteExpired has read it, nil between two rounds
}

// DirOptions are the options of NewDirStore.
type DirOptions struct {
	// NoSync, if false, means that each Save and Delete reaches the disk before it returns. If true, the operating
	// system writes it some time later, which is much faster, and still safe when only the process ends; a loss of
	// power or a crash of the system can then undo changes and make single records count as absent.
	NoSync bool
}

// NewDirStore opens the directory at path, and creates it with mode 0700 if it is missing, with its parents. A
// nil opts stands for the zero DirOptions. A directory that its group or others may write to is refused; those above it
// are the caller's to look after. Close closes it.
func NewDirStore(path string, opts *DirOptions) (*DirStore, error) {
	if opts == nil {
		opts = new(DirOptions)
	}
	if path == "" {
		return nil, errors.New("session: a directory store needs the path of its directory")
	}
	s := &DirStore{sync: !opts.NoSync, sweeping: make(chan struct{}, 1)}
	for i := range s.stripes {
		s.stripes[i] = make(chan struct{}, 1)
	}
	if err := s.open(path); err != nil {
		s.Close()
		return nil, fmt.Errorf("session: directory store %q: %w", path, err)
	}
	return s, nil
}

// openDir is the OpenFunc of "dir:". Nobody will look for a temporary directory after a loss of power, so
// nothing waits for the disk then.
func openDir(ctx context.Context, rawURL string) (StoreCloser, error) {
	path, err := urlPath(rawURL)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	temporary := path == ""
	if temporary {
		if path, err = os.MkdirTemp("", "session-"); err != nil {
			return nil, fmt.Errorf("session: no temporary directory: %w", err)
		}
	}
	s, err := NewDirStore(path, &DirOptions{NoSync: temporary})
	if err != nil {
		if temporary {
			os.RemoveAll(path)
		}
		return nil, err
	}
	s.temporary = temporary
	return s, nil
}

// Load implements Store. It waits for no lock.
func (s *DirStore) Load(ctx context.Context, id ID) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	rec, err := s.read(id, true)
	if err != nil {
		return Record{}, s.wrap(err)
	}
	return rec, nil
}

// Save implements Store.
func (s *DirStore) Save(ctx context.Context, id ID, rec Record) error {
	return s.wrap(s.locked(ctx, id, func() error {
		current, err := s.read(id, true)
		if err != nil && err != ErrNotFound {
			return err
		}
		if current.Version != rec.Version {
			return ErrConflict
		}
		err = s.replace(id, rec)
		if noRoom(err) && current.Version != 0 && len(rec.Data) <= len(current.Data)+recordSlack {
			err = s.replaceWithSpare(ctx, id, rec, err)
		}
		return err
	}))
}

// Touch implements Toucher. It reads no more than the head of the file.
func (s *DirStore) Touch(ctx context.Context, id ID, rec Record) error {
	return s.wrap(s.locked(ctx, id, func() error {
		current, err := s.read(id, false)
		if err != nil {
			return err
		}
		if current.Version != rec.Version {
			return ErrConflict
		}
		return s.root.Chtimes(fileName(id), time.Time{}, modTime(rec.Expires))
	}))
}

// Delete implements Store.
func (s *DirStore) Delete(ctx context.Context, id ID) error {
	return s.wrap(s.locked(ctx, id, func() error {
		err := s.root.Remove(fileName(id))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.syncDir()
	}))
}

// DeleteExpired implements Sweeper. It goes through the directory from where the last call stopped. It also
// removes what an interrupted Save left behind, an hour later.
func (s *DirStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	select {
	case s.sweeping <- struct{}{}:
		defer func() { <-s.sweeping }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	total := 0
	if info, err := s.root.Lstat(spareFile); err != nil || info.Size() < spareSize {
		s.keepSpare(ctx)
	}
	for whole := s.sweep == nil; total < limit; {
		n, done, err := s.deleteSome(ctx, limit-total)
		total += n
		switch {
		case err != nil:
			return total, s.wrap(err)
		case done && whole:
			return total, nil
		case done:
			whole = true // what lies before the start of this call may have expired since
		}
	}
	return total, nil
}

// List implements Lister. It has a small part of the directory in memory at a time.
func (s *DirStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := s.each(ctx, func(id ID) (bool, error) {
			rec, err := s.read(id, true)
			if err == ErrNotFound {
				return true, nil
			}
			if err != nil {
				return false, err
			}
			return yield(Entry{ID: id, Record: rec}, nil), nil
		})
		if err != nil {
			yield(Entry{}, s.wrap(err))
		}
	}
}

// Count implements Counter. To count all opens no file, so that it counts damaged ones as well until they expire; anything
// else reads them.
func (s *DirStore) Count(ctx context.Context, at int, b byte) (int, error) {
	total := 0
	err := s.each(ctx, func(id ID) (bool, error) {
		var rec Record
		var err error
		if at < 0 {
			_, err = s.stat(id)
		} else {
			rec, err = s.read(id, true)
		}
		switch {
		case err == ErrNotFound:
		case err != nil:
			return false, err
		case hasByte(rec.Data, at, b):
			total++
		}
		return true, nil
	})
	if err != nil {
		return 0, s.wrap(err)
	}
	return total, nil
}

// Close waits for changes that are under way and closes the directory; a temporary one is removed. Calls that
// come later return an error. A second Close does nothing.
func (s *DirStore) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.sweeping <- struct{}{}
	for _, stripe := range s.stripes {
		stripe <- struct{}{}
	}
	var errs []error
	for _, f := range []*os.File{s.sweep, s.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	if s.temporary {
		errs = append(errs, os.RemoveAll(s.path))
	}
	<-s.sweeping
	for _, stripe := range s.stripes {
		<-stripe
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("session: directory store %q: %w", s.path, err)
	}
	return nil
}

const (
	locksDir  = ".locks"
	spareFile = locksDir + "/spare" // room that is kept in reserve
	spareLock = locksDir + "/spare-lock"
	spareNext = locksDir + "/spare-next"
	spareSize = 64 << 10
)

func (s *DirStore) open(path string) (err error) {
	if s.path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err = os.MkdirAll(s.path, 0o700); err != nil {
		return err
	}
	// The lock files are opened by path, and have to be those of the directory that is opened here.
	if s.path, err = filepath.EvalSymlinks(s.path); err != nil {
		return err
	}
	if s.root, err = os.OpenRoot(s.path); err != nil {
		return err
	}
	if s.dir, err = s.root.Open("."); err != nil {
		return err
	}
	info, err := s.dir.Stat()
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("others may write to it (mode %04o); it needs the mode 0700", perm)
	}
	if err = s.root.Mkdir(locksDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err = s.root.Lstat(locksDir); err == nil && !info.IsDir() {
		err = fmt.Errorf("%q in it is no directory", locksDir)
	}
	if err == nil {
		s.keepSpare(context.Background())
	}
	return err
}

// keepSpare makes the reserve what it has to be, if there is room.
func (s *DirStore) keepSpare(ctx context.Context) {
	lock, err := s.lock(ctx, spareLock)
	if err != nil {
		return // the disk is full, or read-only
	}
	defer lock.Unlock()
	s.fillSpare()
}

func (s *DirStore) fillSpare() {
	f, err := s.root.OpenFile(spareFile, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < spareSize {
		f.WriteAt(make([]byte, spareSize-info.Size()), info.Size()) // less is better than nothing
	}
}

// replaceWithSpare is replace on a full disk: it writes into the reserve, which then takes the place of the file, and the
// file that of the reserve. So no room is free for others in between. It returns full if the reserve is too small.
func (s *DirStore) replaceWithSpare(ctx context.Context, id ID, rec Record, full error) error {
	lock, err := s.lock(ctx, spareLock)
	if err != nil {
		return full
	}
	defer lock.Unlock()
	f, err := s.root.OpenFile(spareFile, os.O_WRONLY, 0)
	if err != nil {
		return full
	}
	defer f.Close()
	const block = 4096
	b := encodeDirRecord(id, rec.Version+1, rec.Data)
	if info, err := f.Stat(); err != nil || (info.Size()+block-1)/block < (int64(len(b))+block-1)/block {
		return full
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil {
		err = s.root.Chtimes(spareFile, time.Time{}, modTime(rec.Expires))
	}
	if err == nil && s.sync {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	s.root.Remove(spareNext)
	s.root.Link(fileName(id), spareNext) // without it the reserve has to be made anew
	if err := s.rename(spareFile, fileName(id)); err != nil {
		return err
	}
	s.root.Rename(spareNext, spareFile)
	s.fillSpare()
	return s.syncDir()
}

// locked runs fn while no other writer, in this process or another, works on id.
func (s *DirStore) locked(ctx context.Context, id ID, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stripe := s.stripes[id[0]]
	select { // a file lock alone would make the goroutines of a process poll
	case stripe <- struct{}{}:
		defer func() { <-stripe }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.closed.Load() {
		return fs.ErrClosed
	}
	lock, err := s.lock(ctx, filepath.Join(locksDir, fmt.Sprintf("%02x", id[0])))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return fn()
}

// lock locks a file of the directory.
func (s *DirStore) lock(ctx context.Context, name string) (*flock.Flock, error) {
	const tries = 10
	for range tries {
		lock := flock.New(filepath.Join(s.path, name))
		if _, err := lock.TryLockContext(ctx, time.Millisecond); err != nil {
			return nil, err
		}
		// Somebody may have removed it meanwhile, or put another directory in the place of this one.
		held, err1 := lock.Stat()
		there, err2 := s.root.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			return lock, nil
		}
		lock.Unlock()
	}
	return nil, fmt.Errorf("%q is not the one in the directory that was opened", filepath.Join(s.path, name))
}

// wrap says in which store err happened, except where a caller expects err as it is.
func (s *DirStore) wrap(err error) error {
	switch {
	case err == nil, err == ErrNotFound, err == ErrConflict, err == context.Canceled, err == context.DeadlineExceeded:
		return err
	case errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("session: the directory store %q is closed: %w", s.path, fs.ErrClosed)
	}
	return fmt.Errorf("session: directory store %q: %w", s.path, err)
}

// stat returns what the directory says about the live record under id, or ErrNotFound.
func (s *DirStore) stat(id ID) (fs.FileInfo, error) {
	info, err := s.root.Lstat(fileName(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotFound
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() < int64(dirHeaderSize) || hasExpired(fileExpiry(info)):
		return nil, ErrNotFound
	}
	return info, nil
}

// read returns the live record under id, with or without its data, or ErrNotFound.
func (s *DirStore) read(id ID, data bool) (Record, error) {
	const tries = 100 // each fails only if a writer came between two system calls
	unreadable := 0
	for range tries {
		seen, err := s.stat(id)
		if err != nil {
			return Record{}, err
		}
		rec, info, err := s.readFile(id, seen, data)
		// A file that is replaced may become the reserve, be written to, and take its own place again: what was read
		// counts if it was there all the time, and is damaged if it stays so.
		if now, statErr := s.root.Lstat(fileName(id)); err == nil || err == ErrNotFound {
			unchanged := statErr == nil && os.SameFile(info, now) && info.Size() == now.Size() && info.ModTime().Equal(now.ModTime())
			if err == ErrNotFound {
				unreadable++
				unchanged = unchanged && unreadable == 3
			}
			if !unchanged {
				continue
			}
		}
		if err != errReplaced {
			return rec, err
		}
	}
	return Record{}, errReplaced
}

// errReplaced means that a file is not the one any more that was seen in the directory.
var errReplaced = errors.New("a file was replaced while it was read")

// readFile returns the record, and what the file was when it was opened.
func (s *DirStore) readFile(id ID, seen fs.FileInfo, data bool) (rec Record, info fs.FileInfo, err error) {
	f, err := s.root.Open(fileName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, nil, errReplaced
	}
	if err != nil {
		return rec, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return rec, nil, err
	}
	if !os.SameFile(seen, info) { // perhaps what a link points to
		return rec, nil, errReplaced
	}
	head := make([]byte, dirHeaderSize)
	if _, err := io.ReadFull(f, head); err != nil {
		return Record{}, info, absentIfShort(err)
	}
	version, sum, ok := decodeDirHeader(id, head, info.Size())
	if !ok {
		return Record{}, info, ErrNotFound
	}
	rec = Record{Version: version, Expires: expiryTime(fileExpiry(info))}
	if data {
		rec.Data = make([]byte, info.Size()-int64(dirHeaderSize))
		if _, err := io.ReadFull(f, rec.Data); err != nil {
			return Record{}, info, absentIfShort(err)
		}
		if recordSum(id, rec.Data) != sum {
			return Record{}, info, ErrNotFound
		}
	}
	return rec, info, nil
}

// replace writes rec as its next version, under the lock.
func (s *DirStore) replace(id ID, rec Record) error {
	temp := tempName(time.Now())
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(encodeDirRecord(id, rec.Version+1, rec.Data))
	if err == nil {
		err = s.root.Chtimes(temp, time.Time{}, modTime(rec.Expires))
	}
	if err == nil && s.sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.rename(temp, fileName(id))
	}
	if err != nil {
		s.root.Remove(temp)
		return err
	}
	return s.syncDir()
}

// rename also replaces an empty directory, which the system call does not.
func (s *DirStore) rename(temp, name string) error {
	err := s.root.Rename(temp, name)
	if err == nil {
		return nil
	}
	if info, lerr := s.root.Lstat(name); lerr != nil || !info.IsDir() || s.root.Remove(name) != nil {
		return err
	}
	return s.root.Rename(temp, name)
}

func (s *DirStore) syncDir() error {
	if !s.sync {
		return nil
	}
	return syncNames(s.dir)
}

// readChunk is how many names of a directory are in memory at a time.
const readChunk = 512

// each calls fn with the ID of every file that has a record's name, until fn returns false or an error.
func (s *DirStore) each(ctx context.Context, fn func(ID) (bool, error)) error {
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(readChunk)
		if err == io.EOF {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			id, ok := parseFileName(name)
			if !ok {
				continue
			}
			if more, err := fn(id); err != nil || !more {
				return err
			}
		}
	}
}

// deleteSome goes on with the round through the directory, until it has removed limit records or is done.
func (s *DirStore) deleteSome(ctx context.Context, limit int) (n int, done bool, err error) {
	if s.closed.Load() {
		return 0, false, fs.ErrClosed
	}
	if s.sweep == nil {
		if s.sweep, err = s.root.Open("."); err != nil {
			return 0, false, err
		}
	}
	for n < limit {
		names, err := s.sweep.Readdirnames(min(readChunk, limit-n)) // no name may be left over
		if err != nil {
			s.sweep.Close()
			s.sweep = nil
			if err == io.EOF {
				err = nil
			}
			return n, true, err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return n, false, err
			}
			removed, err := s.deleteIfExpired(ctx, name)
			if err != nil {
				return n, false, err
			}
			if removed {
				n++
			}
		}
	}
	return n, false, nil
}

// deleteIfExpired reports whether it removed a record. It looks again under the lock, since the record may have
// been saved or touched meanwhile.
func (s *DirStore) deleteIfExpired(ctx context.Context, name string) (removed bool, err error) {
	id, ok := parseFileName(name)
	if !ok {
		if isStaleTemp(name) {
			s.root.Remove(name)
		}
		return false, nil
	}
	if !s.expiredFile(name) {
		return false, nil
	}
	err = s.locked(ctx, id, func() error {
		if !s.expiredFile(name) {
			return nil
		}
		err := s.root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		removed = err == nil
		return err
	})
	return removed, err
}

func (s *DirStore) expiredFile(name string) bool {
	info, err := s.root.Lstat(name)
	return err == nil && info.Mode().IsRegular() && hasExpired(fileExpiry(info))
}

// fileName returns the name of the file for id.
func fileName(id ID) string { return id.String() + fileSuffix }

func parseFileName(name string) (ID, bool) {
	digits, ok := strings.CutSuffix(name, fileSuffix)
	if !ok {
		return ID{}, false
	}
	id, err := ParseID(digits)
	return id, err == nil && id.String() == digits // no second name in upper case
}

const (
	fileSuffix = ".session"
	tempPrefix = ".saving-"
)

// tempName holds the time, since the file's own is the record's expiry.
func tempName(now time.Time) string {
	return fmt.Sprintf("%s%x-%s", tempPrefix, now.Unix(), rand.Text())
}

// isStaleTemp reports whether name is that of a file whose Save cannot be under way any more.
func isStaleTemp(name string) bool {
	rest, ok := strings.CutPrefix(name, tempPrefix)
	digits, _, _ := strings.Cut(rest, "-")
	seconds, err := strconv.ParseInt(digits, 16, 64)
	return ok && err == nil && time.Since(time.Unix(seconds, 0)) > time.Hour
}

// A file's modification time that means never lies in the past, where no expiry can be missed, and is not one
// that tools set by default: a stray file must not live forever. An expiry has to fit into 64 bits of
// nanoseconds, as the os package has it.
const (
	modTimeNever = int64(1<<30) * 1000 // in 2004
	modTimeMax   = int64(1<<33) * 1000 // in 2242
)

// modTime returns the modification time for a Record's Expires.
func modTime(expires time.Time) time.Time {
	millis := expiryMillis(expires)
	switch millis {
	case never:
		return time.UnixMilli(modTimeNever)
	case modTimeNever:
		millis++
	}
	return time.UnixMilli(min(max(millis, 1), modTimeMax))
}

// fileExpiry is the inverse of modTime, in milliseconds.
func fileExpiry(info fs.FileInfo) int64 {
	millis := info.ModTime().UnixMilli()
	if millis == modTimeNever {
		return never
	}
	return millis
}

// A file starts with eight bytes that name the format, the version and length of the record and the checksum of
// its data, and a checksum of all that. Both are bound to the ID. The data follow.
const (
	dirMagic      = "session\x01"
	dirHeaderSize = len(dirMagic) + 8 + 8 + 4 + 4
)

func encodeDirRecord(id ID, version uint64, data []byte) []byte {
	b := make([]byte, 0, dirHeaderSize+len(data))
	b = append(b, dirMagic...)
	b = binary.BigEndian.AppendUint64(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(len(data)))
	b = binary.BigEndian.AppendUint32(b, recordSum(id, data))
	b = binary.BigEndian.AppendUint32(b, recordSum(id, b))
	return append(b, data...)
}

// decodeDirHeader returns the version and the checksum of the data in a file of that size.
func decodeDirHeader(id ID, head []byte, size int64) (version uint64, sum uint32, ok bool) {
	fields, check := head[:dirHeaderSize-4], head[dirHeaderSize-4:]
	if string(head[:len(dirMagic)]) != dirMagic || binary.BigEndian.Uint32(check) != recordSum(id, fields) {
		return 0, 0, false
	}
	version = binary.BigEndian.Uint64(head[8:])
	length := binary.BigEndian.Uint64(head[16:])
	return version, binary.BigEndian.Uint32(head[24:]), length == uint64(size)-uint64(dirHeaderSize)
}

// absentIfShort maps the end of a file that was cut while it was read.
func absentIfShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrNotFound
	}
	return err
}
