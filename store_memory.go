package session

import (
	"context"
	"errors"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// A MemoryStore keeps records in the memory of this process; they end with it. The zero value is an empty
// store, ready to use. It must not be copied.
//
// It implements Toucher, Sweeper, Lister and Counter. Removing expired records costs what is expired, however many are
// there. Beyond its data a session takes less than 200 bytes. Nobody but DeleteExpired frees that: without a
// sweep, expired records are unreadable but take up room.
type MemoryStore struct {
	shards [256]memoryShard
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return new(MemoryStore) }

// openMemory is the OpenFunc of "memory:".
func openMemory(ctx context.Context, rawURL string) (StoreCloser, error) {
	if _, rest, _ := strings.Cut(rawURL, ":"); rest != "" {
		return nil, errors.New("session: nothing follows the colon of a memory: URL")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return NewMemoryStore(), nil
}

// Load implements Store. It does not allocate.
func (s *MemoryStore) Load(ctx context.Context, id ID) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	shard := s.shard(id)
	shard.mu.RLock()
	r := shard.records.get(id)
	if r == nil {
		shard.mu.RUnlock()
		return Record{}, ErrNotFound
	}
	version, expires, data := r.version, r.expires, r.data
	shard.mu.RUnlock()
	if hasExpired(expires) {
		return Record{}, ErrNotFound
	}
	return Record{Version: version, Expires: expiryTime(expires), Data: data}, nil
}

// Save implements Store.
func (s *MemoryStore) Save(ctx context.Context, id ID, rec Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	shard := s.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	r := shard.records.get(id)
	var current uint64
	if r != nil && !hasExpired(r.expires) {
		current = r.version
	}
	if current != rec.Version {
		return ErrConflict
	}
	if r == nil {
		r = &memoryRecord{id: id, expires: never, place: nowhere}
		shard.records.insert(r)
	}
	r.version, r.data = rec.Version+1, rec.Data
	shard.expiry.set(r, expiryMillis(rec.Expires))
	return nil
}

// Touch implements Toucher.
func (s *MemoryStore) Touch(ctx context.Context, id ID, rec Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	shard := s.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	r := shard.records.get(id)
	switch {
	case r == nil || hasExpired(r.expires):
		return ErrNotFound
	case r.version != rec.Version:
		return ErrConflict
	}
	shard.expiry.set(r, expiryMillis(rec.Expires))
	return nil
}

// Delete implements Store.
func (s *MemoryStore) Delete(ctx context.Context, id ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	shard := s.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if r := shard.records.get(id); r != nil {
		shard.remove(r)
	}
	return nil
}

// DeleteExpired implements Sweeper. It locks one part of the store at a time, for a few microseconds.
func (s *MemoryStore) DeleteExpired(ctx context.Context, limit int) (int, error) {
	const atOnce = 16 // while a shard is locked
	now := time.Now().UnixMilli()
	total := 0
	for i := range s.shards {
		for total < limit {
			if err := ctx.Err(); err != nil {
				return total, err
			}
			want := min(atOnce, limit-total)
			n := s.shards[i].deleteExpired(now, want)
			total += n
			if n < want {
				break
			}
		}
	}
	return total, nil
}

// List implements Lister. It locks one 256th of the store at a time, for as long as it takes to copy the list.
func (s *MemoryStore) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var entries []Entry
		for i := range s.shards {
			entries = s.shards[i].appendLive(entries[:0])
			for _, e := range entries {
				if err := ctx.Err(); err != nil {
					yield(Entry{}, err)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// Count implements Counter. To count all costs what is expired and not yet removed, anything else a look at each record.
func (s *MemoryStore) Count(ctx context.Context, at int, b byte) (int, error) {
	now := time.Now().UnixMilli()
	total := 0
	for i := range s.shards {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		total += s.shards[i].count(now, at, b)
	}
	return total, nil
}

// Close does nothing. It makes a MemoryStore a StoreCloser, as all that Open returns; the records stay.
func (s *MemoryStore) Close() error { return nil }

func (s *MemoryStore) shard(id ID) *memoryShard { return &s.shards[id[0]] }

// A memoryShard holds the records whose ID starts with one certain byte.
type memoryShard struct {
	mu      sync.RWMutex
	records memoryTable
	expiry  expiryHeap
}

type memoryRecord struct {
	id      ID
	data    []byte
	version uint64
	expires int64
	place   int // in the expiryHeap, or nowhere
}

func (m *memoryShard) remove(r *memoryRecord) {
	m.expiry.set(r, never)
	m.records.remove(r)
	if len(m.expiry) < cap(m.expiry)/8 {
		m.expiry = slices.Clone(m.expiry)
	}
}

func (m *memoryShard) deleteExpired(now int64, limit int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for ; n < limit && len(m.expiry) > 0 && m.expiry[0].expires <= now; n++ {
		m.remove(m.expiry[0].record)
	}
	return n
}

func (m *memoryShard) count(now int64, at int, b byte) (n int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if at < 0 {
		return m.records.len - m.expiry.countExpired(0, now)
	}
	for _, slot := range m.records.slots {
		if r := slot.record; r != nil && now < r.expires && hasByte(r.data, at, b) {
			n++
		}
	}
	return n
}

func (m *memoryShard) appendLive(entries []Entry) []Entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	now := time.Now().UnixMilli()
	for _, slot := range m.records.slots {
		if r := slot.record; r != nil && now < r.expires {
			rec := Record{Version: r.version, Expires: expiryTime(r.expires), Data: r.data}
			entries = append(entries, Entry{ID: r.id, Record: rec})
		}
	}
	return entries
}

// A memoryTable finds records by ID: a hash table with linear probing. A built-in map takes 90 bytes an entry
// just after it has grown, does not shrink, and reads twice as many cache lines for a record, which is what a
// Load among a million of them costs.
type memoryTable struct {
	slots []memorySlot // a power of two, at most three quarters in use
	len   int
	seed  maphash.Seed // valid if there are slots
}

type memorySlot struct {
	hash   uint64
	record *memoryRecord // nil if the slot is free
}

const minSlots = 8

func (t *memoryTable) get(id ID) *memoryRecord {
	if len(t.slots) == 0 {
		return nil
	}
	hash := maphash.Bytes(t.seed, id[:])
	for i := t.home(hash); t.slots[i].record != nil; i = t.next(i) {
		if t.slots[i].hash == hash && t.slots[i].record.id == id {
			return t.slots[i].record
		}
	}
	return nil
}

// insert adds r, whose ID is not there.
func (t *memoryTable) insert(r *memoryRecord) {
	if len(t.slots) == 0 {
		t.seed = maphash.MakeSeed()
	}
	if t.len >= len(t.slots)/4*3 {
		t.resize(max(minSlots, 2*len(t.slots)))
	}
	t.put(memorySlot{maphash.Bytes(t.seed, r.id[:]), r})
	t.len++
}

// remove removes r, which is there, and moves what follows to where a search would look for it.
func (t *memoryTable) remove(r *memoryRecord) {
	hole := t.home(maphash.Bytes(t.seed, r.id[:]))
	for t.slots[hole].record != r {
		hole = t.next(hole)
	}
	mask := len(t.slots) - 1
	for i := t.next(hole); t.slots[i].record != nil; i = t.next(i) {
		if (i-t.home(t.slots[i].hash))&mask >= (i-hole)&mask {
			t.slots[hole] = t.slots[i]
			hole = i
		}
	}
	t.slots[hole] = memorySlot{}
	t.len--
	if len(t.slots) > minSlots && t.len < len(t.slots)/8 {
		t.resize(len(t.slots) / 2)
	}
}

func (t *memoryTable) resize(size int) {
	old := t.slots
	t.slots = make([]memorySlot, size)
	for _, slot := range old {
		if slot.record != nil {
			t.put(slot)
		}
	}
}

func (t *memoryTable) put(slot memorySlot) {
	i := t.home(slot.hash)
	for t.slots[i].record != nil {
		i = t.next(i)
	}
	t.slots[i] = slot
}

func (t *memoryTable) home(hash uint64) int { return int(hash & uint64(len(t.slots)-1)) }
func (t *memoryTable) next(i int) int       { return (i + 1) & (len(t.slots) - 1) }

// An expiryHeap holds the records that expire, the earliest first. It is four-ary: half as deep as a binary
// heap, and the children that are compared lie side by side in memory.
type expiryHeap []expiring

type expiring struct {
	expires int64
	record  *memoryRecord
}

const (
	heapArity = 4
	nowhere   = -1
)

// set changes when r expires, and with it the place of r: one that never expires has none.
func (h *expiryHeap) set(r *memoryRecord, expires int64) {
	r.expires = expires
	switch {
	case expires != never && r.place == nowhere:
		*h = append(*h, expiring{})
		h.move(len(*h)-1, expiring{expires, r})
	case expires != never:
		h.move(r.place, expiring{expires, r})
	case r.place != nowhere:
		hole, last := r.place, len(*h)-1
		moved := (*h)[last]
		(*h)[last] = expiring{}
		*h = (*h)[:last]
		if hole < last {
			h.move(hole, moved)
		}
		r.place = nowhere
	}
}

// move puts e where it belongs, starting at the free place i.
func (h *expiryHeap) move(i int, e expiring) {
	heap := *h
	for i > 0 {
		parent := (i - 1) / heapArity
		if heap[parent].expires <= e.expires {
			break
		}
		heap.put(i, heap[parent])
		i = parent
	}
	for {
		first := heapArity*i + 1
		if first >= len(heap) {
			break
		}
		least := first
		for child := first + 1; child < min(first+heapArity, len(heap)); child++ {
			if heap[child].expires < heap[least].expires {
				least = child
			}
		}
		if e.expires <= heap[least].expires {
			break
		}
		heap.put(i, heap[least])
		i = least
	}
	heap.put(i, e)
}

func (h expiryHeap) put(i int, e expiring) {
	h[i] = e
	e.record.place = i
}

// countExpired counts in the part of the heap below and including i.
func (h expiryHeap) countExpired(i int, now int64) int {
	if i >= len(h) || h[i].expires > now {
		return 0
	}
	n := 1
	for child := heapArity*i + 1; child <= heapArity*i+heapArity; child++ {
		n += h.countExpired(child, now)
	}
	return n
}
