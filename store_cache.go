package session

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// A CacheStore keeps the records of another store that were last in use in this process's memory, where Load
// finds them without asking that store. It is safe for concurrent use.
//
// Load may return a record that is out of date, by CacheOptions.MaxAge at most: for that long, a process may still serve
// a session that another one has changed or ended. Nothing is lost by it, because Save goes to the store, whose
// compare-and-swap refuses what builds on an old version; the record is then dropped from the cache, and Load asks
// the store again. Within one process there is no delay: no Load returns what is older than a Save, Touch or Delete,
// or than what another Load returned, if that was over when it began. The cache never remembers that a record is not there.
//
// In a record from the cache, Cached is set. A Load with a context from WithoutCache goes past the cache, as locks,
// Session.Reload and the sessions of a user do.
//
// Touch, DeleteExpired, List, Count and Close are those of the wrapped store: they return an error that wraps
// errors.ErrUnsupported where it has none, but Count then counts what List yields, and Close does nothing.
type CacheStore struct {
	store      Store
	maxAge     time.Duration
	maxEntries int
	maxBytes   int

	mu      sync.Mutex
	entries map[ID]*list.Element // of cacheEntry
	recent  *list.List           // the last used first
	bytes   int
	busy    map[ID]*cacheBusy
}

// CacheOptions are the options of NewCacheStore. The zero value, and nil, mean the defaults.
type CacheOptions struct {
	// MaxAge is for how long Load does without the store. Zero means one second.
	MaxAge time.Duration
	// MaxEntries is how many records are kept at most. Zero means 10,000.
	MaxEntries int
	// MaxBytes bounds the memory that the kept records take, in bytes: their data and 256 for each. Zero means
	// 32 MiB. A record that exceeds it alone is not kept.
	MaxBytes int
}

// cacheOverhead is about what a record takes beside its data.
const cacheOverhead = 256

// A cacheEntry is a record in the cache. It is replaced, never changed.
type cacheEntry struct {
	id   ID
	rec  Record    // as it is in the store, but for Cached
	seen time.Time // the store had it then, or later
}

// cacheBusy tells of the calls to the store for one ID that are under way. Such a call's record is kept only if
// nothing has changed since it began: else it may be older than what some Load has returned before.
type cacheBusy struct {
	calls   int
	changes uint64 // writes that have returned, and entries that were dropped
}

// NewCacheStore returns a cache in front of store. Negative options mean the same as zero.
func NewCacheStore(store Store, opts *CacheOptions) *CacheStore {
	if opts == nil {
		opts = &CacheOptions{}
	}
	c := &CacheStore{
		store:      store,
		maxAge:     time.Second,
		maxEntries: 10_000,
		maxBytes:   32 << 20,
		entries:    make(map[ID]*list.Element),
		recent:     list.New(),
		busy:       make(map[ID]*cacheBusy),
	}
	if opts.MaxAge > 0 {
		c.maxAge = opts.MaxAge
	}
	if opts.MaxEntries > 0 {
		c.maxEntries = opts.MaxEntries
	}
	if opts.MaxBytes > 0 {
		c.maxBytes = opts.MaxBytes
	}
	return c
}

// Load implements Store. A record in the cache costs no allocation.
func (c *CacheStore) Load(ctx context.Context, id ID) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	rec, call, ok := c.lookup(id, CacheAllowed(ctx))
	if ok {
		return rec, nil
	}
	rec, err := c.store.Load(ctx, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	unchanged := c.end(id, call)
	switch {
	case errors.Is(err, ErrNotFound):
		c.changed(id)
		c.drop(id)
	case err != nil:
	case unchanged:
		c.keep(cacheEntry{id, rec, call.start})
	default:
		// It is returned, so nothing older may stay, or be kept by others.
		c.changed(id)
		if entry := c.peek(id); entry != nil && entry.rec.Version < rec.Version {
			c.drop(id)
		}
	}
	return rec, err
}

// Save implements Store.
func (c *CacheStore) Save(ctx context.Context, id ID, rec Record) error {
	call := c.begin(id)
	rec.Cached = false
	err := c.store.Save(ctx, id, rec)
	c.mu.Lock()
	defer c.mu.Unlock()
	unchanged := c.end(id, call)
	c.changed(id)
	rec.Version++
	rec.cas = 0
	// A Load may have seen a later version meanwhile. After an error the cache is out of date, or nobody knows.
	if entry := c.peek(id); err != nil || !unchanged || (entry != nil && entry.rec.Version > rec.Version) {
		c.drop(id)
	} else {
		c.keep(cacheEntry{id, rec, call.start})
	}
	return err
}

// Touch implements Toucher, if the wrapped store is one.
func (c *CacheStore) Touch(ctx context.Context, id ID, rec Record) error {
	t, ok := c.store.(Toucher)
	if !ok {
		return fmt.Errorf("session: %T moves no expiry alone: %w", c.store, errors.ErrUnsupported)
	}
	call := c.begin(id)
	rec.Cached = false
	err := t.Touch(ctx, id, rec)
	c.mu.Lock()
	defer c.mu.Unlock()
	unchanged := c.end(id, call)
	c.changed(id)
	if entry := c.peek(id); err != nil || !unchanged || entry == nil || entry.rec.Version != rec.Version {
		c.drop(id)
	} else {
		touched := Record{Version: rec.Version, Expires: rec.Expires, Data: entry.rec.Data}
		c.keep(cacheEntry{id, touched, call.start})
	}
	return err
}

// Delete implements Store.
func (c *CacheStore) Delete(ctx context.Context, id ID) error {
	call := c.begin(id)
	err := c.store.Delete(ctx, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(id, call)
	c.changed(id)
	c.drop(id)
	return err
}

// DeleteExpired implements Sweeper, if the wrapped store is one.
func (c *CacheStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	if s, ok := c.store.(Sweeper); ok {
		return s.DeleteExpired(ctx, limit)
	}
	return 0, fmt.Errorf("session: %T removes nothing by hand: %w", c.store, errors.ErrUnsupported)
}

// List implements Lister, if the wrapped store is one.
func (c *CacheStore) List(ctx context.Context) iter.Seq2[Entry, error] { return List(ctx, c.store) }

// Count implements Counter. Where the wrapped store is none, it counts what List yields.
func (c *CacheStore) Count(ctx context.Context, at int, b byte) (int, error) {
	return countRecords(ctx, c.store, at, b)
}

// Close closes the wrapped store if it is an io.Closer.
func (c *CacheStore) Close() error {
	if closer, ok := c.store.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// A cacheCall is a call to the store that is under way.
type cacheCall struct {
	start   time.Time
	changes uint64
}

// lookup returns the record from the cache or, if ok is false, begins a call. If it is not allowed, it drops what is there.
func (c *CacheStore) lookup(id ID, allowed bool) (rec Record, call cacheCall, ok bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.entries[id]; element != nil {
		entry := element.Value.(*cacheEntry)
		if allowed && now.Sub(entry.seen) < c.maxAge && entry.rec.Live(now) {
			c.recent.MoveToFront(element)
			rec = entry.rec
			rec.Cached = true
			return rec, cacheCall{}, true
		}
		c.drop(id)
	}
	return Record{}, c.beginLocked(id, now), false
}

func (c *CacheStore) begin(id ID) cacheCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beginLocked(id, time.Now())
}

func (c *CacheStore) beginLocked(id ID, now time.Time) cacheCall {
	b := c.busy[id]
	if b == nil {
		b = new(cacheBusy)
		c.busy[id] = b
	}
	b.calls++
	return cacheCall{now, b.changes}
}

// end ends a call, and reports whether nothing has changed since it began.
func (c *CacheStore) end(id ID, call cacheCall) (unchanged bool) {
	b := c.busy[id]
	if b.calls--; b.calls == 0 {
		delete(c.busy, id)
	}
	return b.changes == call.changes
}

// changed tells the calls that are under way that what they bring may be old.
func (c *CacheStore) changed(id ID) {
	if b := c.busy[id]; b != nil {
		b.changes++
	}
}

func (c *CacheStore) peek(id ID) *cacheEntry {
	if element := c.entries[id]; element != nil {
		return element.Value.(*cacheEntry)
	}
	return nil
}

// keep puts an entry into the cache, unless a later version is there, and others out until all fit.
func (c *CacheStore) keep(entry cacheEntry) {
	if there := c.peek(entry.id); there != nil && there.rec.Version > entry.rec.Version {
		return
	}
	if entry.size() > c.maxBytes || !entry.rec.Live(time.Now()) {
		c.changed(entry.id)
		c.drop(entry.id)
		return
	}
	if element := c.entries[entry.id]; element != nil {
		c.bytes -= c.peek(entry.id).size()
		element.Value = &entry
		c.recent.MoveToFront(element)
	} else {
		c.entries[entry.id] = c.recent.PushFront(&entry)
	}
	c.bytes += entry.size()
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.drop(c.recent.Back().Value.(*cacheEntry).id)
	}
}

func (c *CacheStore) drop(id ID) {
	if element := c.entries[id]; element != nil {
		c.bytes -= c.recent.Remove(element).(*cacheEntry).size()
		delete(c.entries, id)
		c.changed(id)
	}
}

func (e *cacheEntry) size() int { return cacheOverhead + len(e.rec.Data) }
