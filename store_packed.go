package session

import (
	"encoding/binary"
	"encoding/hex"
	"time"
)

// A store that keeps one string of bytes for a record, Redis or Memcached, has it like this:
//
//	"S" and the format's version, 1
//	version, 8 bytes, big-endian
//	expiry in Unix milliseconds, 8 bytes, big-endian; 0 for never
//	data
const (
	packedFormat   = "S\x01"
	packedHeadSize = len(packedFormat) + 8 + 8
	// maxPackedExpiry is far beyond all years that matter and within what Lua's numbers can tell apart.
	maxPackedExpiry = 1 << 52
)

func packRecord(version uint64, expires int64, data []byte) []byte {
	b := make([]byte, 0, packedHeadSize+len(data))
	b = append(b, packedFormat...)
	b = binary.BigEndian.AppendUint64(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	return append(b, data...)
}

// unpackRecord returns the record in b, whose Data is a part of b. ok is false for what packRecord did not make.
func unpackRecord(b []byte) (rec Record, ok bool) {
	if len(b) < packedHeadSize || string(b[:len(packedFormat)]) != packedFormat {
		return Record{}, false
	}
	rec.Version = binary.BigEndian.Uint64(b[len(packedFormat):])
	if expires := binary.BigEndian.Uint64(b[len(packedFormat)+8:]); expires != 0 {
		rec.Expires = time.UnixMilli(int64(min(expires, maxPackedExpiry)))
	}
	rec.Data = b[packedHeadSize:len(b):len(b)]
	return rec, rec.Version != 0
}

// packedExpiry returns t in Unix milliseconds, 0 for the zero time.
func packedExpiry(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(max(1, t.UnixMilli()), maxPackedExpiry)
}

// prefixed returns the key of a record.
func prefixed(prefix string, id ID) string {
	b := make([]byte, 0, 128) // on the stack, and enough for most
	return string(hex.AppendEncode(append(b, prefix...), id[:]))
}
