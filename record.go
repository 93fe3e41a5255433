package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A record's Data is
//
//	checksum  8 bytes: xxhash64 of the ID and all that follows
//	format    1 byte
//	kind      1 byte
//	header    of a sealed or moved record: nonce, successor's ID; of a retired one: why; of a moved or retired one: end
//	          of the grace period; of a retired one: recent writes
//	payload   of a live or sealed record: the content
//
// Integers are unsigned varints, times Unix milliseconds, strings and values come behind their length. The
// checksum covers the ID, so that no record is ever taken for another session's; it guards against accidents,
// not against who can write to the store (Options.EncryptAtRest does).
const (
	checksumSize = 8
	headSize     = checksumSize + 2

	formatPlain     = 1
	formatEncrypted = 2 // the payload is
)

// A recordKind tells what a record is for. It stays readable when everything else is encrypted.
type recordKind byte

const (
	kindLive    recordKind = 'L' // a session
	kindSealed  recordKind = 'S' // a session that was renewed: its final content, and where it went on
	kindRetired recordKind = 'R' // the mark of an ID that was destroyed or regenerated
	kindIndex   recordKind = 'I' // the sessions of a user
	kindLock    recordKind = 'K' // who works on a session exclusively
	kindMoved   recordKind = 'M' // the mark of a session of an old system: where it went on
)

// errDamaged means that the bytes under an ID are not a record that this package wrote there.
var errDamaged = errors.New("session: damaged or foreign record")

// recentWrites bounds how many writes a record remembers. A writer whose reply was lost finds its own among
// them, unless so many others wrote meanwhile that it has to say that it does not know.
const recentWrites = 16

// markSize is the size of a write's mark, a random number.
const markSize = 8

// sealSize is what a sealed record has beyond a live one with the same content.
const sealSize = markSize + len(ID{})

// content is what a session keeps in its record.
type content struct {
	created       int64 // Unix milliseconds, as all times here
	saved         int64 // last write; a Touch moves the record's expiry only
	issued        int64 // when the ID was issued, for renewal
	authenticated int64 // last SetUser; 0 for never
	idle          int64 // idle timeout in milliseconds: 0 for the manager's, negative for never
	persistent    byte  // a persistence
	lineage       lineage
	remoteAddr    []byte
	userAgent     []byte
	user          []byte
	binding       []byte // hash of what Options.Bind computed, empty for none
	writes        []byte // marks of the most recent writes, newest last, markSize bytes each
	values        values
}

// values are a session's values in ascending order of their keys. As long as they are few and nothing is to change, they
// are the bytes of the record: most requests read one or two, and a list would cost more than that
// (BenchmarkRequest/read).
type values struct {
	packed []byte // the record's, each key and value behind its length
	list   []value
	len    int
}

// maxPacked is how many values at most are looked up in the bytes of the record: with more, a list pays as soon as a
// request reads several.
const maxPacked = 16

// A value is a key with its CBOR encoding. Its bytes may be part of a Record's Data: they are never modified.
type value struct {
	key  []byte
	data []byte
}

// decoded is a record's Data taken apart.
type decoded struct {
	kind      recordKind
	content   content // of a live or sealed record; of a retired one, the writes alone
	nonce     []byte  // of a sealed or moved record: the mark of the write that made it so
	successor ID      // of a sealed or moved record
	payload   []byte  // of an index or lock record
	// of a retired record: until when it answers as gone, later as unknown; of a moved one: until when it leads on
	goneUntil   int64
	regenerated bool // of a retired record: its session lives on
}

// wrote reports whether the record bears the mark of the given write.
func (d *decoded) wrote(write []byte) bool {
	for mark := range slices.Chunk(d.content.writes, markSize) {
		if bytes.Equal(mark, write) {
			return true
		}
	}
	return false
}

// newData returns the beginning of a record's Data, with room for more.
func newData(kind recordKind, room int) []byte {
	b := make([]byte, headSize, headSize+room)
	b[checksumSize], b[checksumSize+1] = formatPlain, byte(kind)
	return b
}

// encodeLive returns the Data of a session's record.
func (m *Manager) encodeLive(l *link, c *content) []byte {
	return m.finishData(l, newData(kindLive, c.size()+encryptionOverhead), c)
}

// encodeSealed returns the Data of a renewed session's former record.
func (m *Manager) encodeSealed(l *link, c *content, nonce []byte, successor ID) []byte {
	b := newData(kindSealed, markSize+len(successor)+c.size()+encryptionOverhead)
	b = append(b, nonce...)
	b = append(b, successor[:]...)
	return m.finishData(l, b, c)
}

// finishData adds the payload to what stays readable, and the checksum.
func (m *Manager) finishData(l *link, b []byte, c *content) []byte {
	if m.encrypt {
		b[checksumSize] = formatEncrypted
		b = encryptPayload(b, l, c)
	} else {
		b = c.append(b)
	}
	return checksummed(l.id, b)
}

// encodeRetired returns the Data of an ended session's record; regenerated means that it lives on under an ID that
// this one does not lead to.
func encodeRetired(id ID, writes []byte, goneUntil time.Time, regenerated bool) []byte {
	b := newData(kindRetired, 1+binary.MaxVarintLen64+1+len(writes))
	b = append(b, 0)
	if regenerated {
		b[headSize] = 1
	}
	b = binary.AppendUvarint(b, uint64(max(0, goneUntil.UnixMilli())))
	return checksummed(id, appendWrites(b, writes))
}

// decode takes the Data of l's record apart. The result refers to data and never copies it. Without l's token,
// encrypted content stays empty.
func (m *Manager) decode(l *link, data []byte) (decoded, error) {
	var d decoded
	if err := m.decodeInto(&d, l, data); err != nil {
		return decoded{}, err
	}
	return d, nil
}

// decodeInto is decode into d, which is zero.
func (m *Manager) decodeInto(d *decoded, l *link, data []byte) error {
	if len(data) < headSize || binary.BigEndian.Uint64(data) != checksum(l.id, data[checksumSize:]) {
		return errDamaged
	}
	format := data[checksumSize]
	if format != formatPlain && format != formatEncrypted {
		return errDamaged
	}
	d.kind = recordKind(data[checksumSize+1])
	r := reader{rest: data[headSize:]}
	switch d.kind {
	case kindRetired:
		d.regenerated = r.take(1)[0] == 1
		d.goneUntil = r.time()
		d.content.writes = r.writes()
	case kindIndex, kindLock:
		d.content.writes = r.writes()
		if format == formatPlain && m.encrypt && d.kind == kindIndex {
			return errDamaged
		}
		d.payload, r.rest = r.rest, nil
	case kindMoved:
		d.nonce = r.take(markSize)
		copy(d.successor[:], r.take(len(d.successor)))
		d.goneUntil = r.time()
	case kindSealed:
		d.nonce = r.take(markSize)
		copy(d.successor[:], r.take(len(d.successor)))
		fallthrough
	case kindLive:
		switch {
		case format == formatPlain && m.encrypt:
			// Whoever can write to the store could have put it there.
			return errDamaged
		case format == formatEncrypted:
			clear := data[:len(data)-len(r.rest)]
			if r.rest = decryptPayload(clear, r.rest, l); r.rest == nil {
				if l.token != (token{}) {
					return errDamaged
				}
				return nil
			}
		}
		d.content.read(&r)
	default:
		return errDamaged
	}
	if r.bad || len(r.rest) != 0 || d.kind == kindSealed && len(d.content.writes) == 0 {
		return errDamaged
	}
	return nil
}

func checksummed(id ID, data []byte) []byte {
	binary.BigEndian.PutUint64(data, checksum(id, data[checksumSize:]))
	return data
}

func checksum(id ID, data []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.Write(id[:])
	d.Write(data)
	return d.Sum64()
}

// size returns at least the number of bytes that append adds.
func (c *content) size() int {
	const number = binary.MaxVarintLen64
	n := 10*number + 1 + len(c.lineage) + len(c.remoteAddr) + len(c.userAgent) + len(c.user) + len(c.binding) + 1 + len(c.writes) + number
	return n + c.values.size()
}

func (c *content) append(b []byte) []byte {
	b = appendNumbers(b, uint64(c.created), uint64(c.saved), uint64(c.issued), uint64(c.authenticated))
	b = binary.AppendVarint(b, c.idle)
	b = append(b, c.persistent)
	b = append(b, c.lineage[:]...)
	b = appendBytes(b, c.remoteAddr)
	b = appendBytes(b, c.userAgent)
	b = appendBytes(b, c.user)
	b = appendBytes(b, c.binding)
	b = appendWrites(b, c.writes)
	return c.values.append(b)
}

func (c *content) read(r *reader) {
	c.created, c.saved, c.issued, c.authenticated = r.time(), r.time(), r.time(), r.time()
	c.idle = r.varint()
	c.persistent = r.take(1)[0]
	copy(c.lineage[:], r.take(len(c.lineage)))
	c.remoteAddr, c.userAgent, c.user, c.binding = r.bytes(), r.bytes(), r.bytes(), r.bytes()
	c.writes = r.writes()
	r.bad = r.bad || c.persistent > byte(lastPersistence)
	c.values.read(r)
}

// remember adds a write to those that the record knows of. Older ones than keep need not stay: their writers
// have given up by then.
func (c *content) remember(write []byte, now int64, keep time.Duration) {
	earlier := c.writes
	if now-c.saved > keep.Milliseconds() {
		earlier = nil
	}
	if excess := len(earlier) - (recentWrites-1)*markSize; excess > 0 {
		earlier = earlier[excess:]
	}
	c.writes = slices.Concat(earlier, write)
}

// empty reports whether there is nothing in it that would be worth a record.
func (c *content) empty() bool { return c.values.len == 0 && len(c.user) == 0 }

// get returns the value under the key.
func (v *values) get(key string) ([]byte, bool) {
	if v.packed == nil {
		if i, ok := v.find(key); ok {
			return v.list[i].data, true
		}
		return nil, false
	}
	for r := (reader{rest: v.packed}); len(r.rest) > 0; {
		if k, data := r.bytes(), r.bytes(); string(k) == key {
			return data, true
		}
	}
	return nil, false
}

func (v *values) set(key string, data []byte) {
	v.unpack()
	i, ok := v.find(key)
	if ok {
		v.list[i].data = data
		return
	}
	v.list = slices.Insert(v.list, i, value{[]byte(key), data})
	v.len = len(v.list)
}

func (v *values) delete(key string) {
	v.unpack()
	if i, ok := v.find(key); ok {
		v.list = slices.Delete(v.list, i, i+1)
		v.len = len(v.list)
	}
}

func (v *values) keys() []string {
	v.unpack()
	keys := make([]string, len(v.list))
	for i := range v.list {
		keys[i] = string(v.list[i].key)
	}
	return keys
}

// find returns the position of the key in the list, or where it would be inserted.
func (v *values) find(key string) (int, bool) {
	lo, hi := 0, len(v.list)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if string(v.list[mid].key) < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(v.list) && string(v.list[lo].key) == key
}

// unpack makes the list.
func (v *values) unpack() {
	if v.packed == nil {
		return
	}
	v.list = make([]value, v.len)
	r := reader{rest: v.packed}
	for i := range v.list {
		v.list[i] = value{key: r.bytes(), data: r.bytes()}
	}
	v.packed = nil
}

// size returns at least the number of bytes that append adds, less the first of them, the count.
func (v *values) size() int {
	n := len(v.packed)
	for i := range v.list {
		n += 2*5 + len(v.list[i].key) + len(v.list[i].data) // a length below 2³² takes 5 bytes at most
	}
	return n
}

func (v *values) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(v.len))
	b = append(b, v.packed...)
	for i := range v.list {
		b = appendBytes(b, v.list[i].key)
		b = appendBytes(b, v.list[i].data)
	}
	return b
}

// read takes the rest of a record, and looks through it.
func (v *values) read(r *reader) {
	count := r.uvarint()
	if r.bad || count > uint64(len(r.rest)/2) { // each value takes two bytes or more
		r.bad = true
		return
	}
	if count == 0 {
		return
	}
	v.len = int(count)
	if v.len > maxPacked {
		v.list = make([]value, v.len)
	}
	all := r.rest
	var last []byte
	for i := range v.len {
		key, data := r.bytes(), r.bytes()
		if r.bad || i > 0 && bytes.Compare(last, key) >= 0 {
			r.bad = true
			return
		}
		last = key
		if v.list != nil {
			v.list[i] = value{key, data}
		}
	}
	if v.list == nil {
		v.packed = all[:len(all)-len(r.rest)]
	}
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendWrites(b, writes []byte) []byte {
	return append(append(b, byte(len(writes)/markSize)), writes...)
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// A reader takes data apart. Once something does not fit it is bad, and returns zeros.
type reader struct {
	rest []byte
	bad  bool
}

var zeros [32]byte

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return zeros[:min(n, len(zeros))]
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// time reads Unix milliseconds that fit a time.Time with room to calculate.
func (r *reader) time() int64 {
	v := r.uvarint()
	if v > 1<<53 {
		r.bad = true
		return 0
	}
	return int64(v)
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

func (r *reader) writes() []byte {
	n := int(r.take(1)[0])
	r.bad = r.bad || n > recentWrites
	if r.bad {
		return nil
	}
	return r.take(n * markSize)
}
