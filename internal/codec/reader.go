package codec

import (
	"encoding/binary"
	"math/bits"
)

// A Reader takes bytes apart. Once something does not fit it is bad, and returns zeros.
type Reader struct {
	rest []byte
	bad  bool
}

var zeros [32]byte

// maxTime is far beyond all times that matter, and leaves room to calculate with a time.Time.
const maxTime = 1 << 53

func (r *Reader) Take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return zeros[:min(n, len(zeros))]
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *Reader) Uvarint() uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 { // most lengths
		v := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(v)
	}
	return r.longUvarint()
}

func (r *Reader) longUvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *Reader) Varint() int64 {
	v := r.Uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// time reads Unix milliseconds.
func (r *Reader) Time() int64 {
	v := r.Uvarint()
	if v > maxTime {
		r.bad = true
		return 0
	}
	return int64(v)
}

func (r *Reader) uint32() uint32 {
	v := r.Uvarint()
	if v != uint64(uint32(v)) {
		r.bad = true
		return 0
	}
	return uint32(v)
}

func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *Reader) writes() []byte {
	n := int(r.Take(1)[0])
	if r.bad || n > RecentWrites {
		r.bad = true
		return nil
	}
	return r.Take(n * WriteIDSize)
}

// appendTimes writes Unix milliseconds. Times before 1970 count as that.
func appendTimes(b []byte, times ...int64) []byte {
	for _, t := range times {
		b = binary.AppendUvarint(b, uint64(min(max(0, t), maxTime)))
	}
	return b
}

// uvarintSize returns how many bytes a varint takes.
func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func AppendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Joined returns the parts one behind the other, each behind its length, so that no two lists look alike.
func Joined(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += len(p) + 2
	}
	b := make([]byte, 0, n)
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return b
}

// NewReader returns a reader of b.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// More reports whether there is more to read.
func (r *Reader) More() bool { return !r.bad && len(r.rest) > 0 }

// Good reports whether everything fitted.
func (r *Reader) Good() bool { return !r.bad }
