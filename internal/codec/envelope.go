// Package codec turns what a record holds into bytes and back: the envelope that anybody who has the store can read, the
// credential in it, and the payload, which can be encrypted. It knows neither stores nor requests.
//
// A record's Data is
//
//	checksum  8 bytes: xxhash64 of the ID and all that follows
//	format    1 byte: plain or encrypted
//	kind      1 byte
//	header    what the kind has to say, and the IDs of recent writes; never encrypted
//	payload   of a session or an index: encrypted if the format says so; of a lock: its holder
//
// Integers are unsigned varints, times Unix milliseconds, strings and values come behind their length. The checksum
// covers the ID, so that no record is ever taken for another session's. It guards against accidents, not against
// whoever can write to the store: encryption does.
package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// An Envelope is the Data of a record taken apart. Its slices are parts of that Data, which is never modified.
type Envelope struct {
	Kind       Kind
	Encrypted  bool
	Secret     int32      // which of the ciphers has opened the payload, if one did; here, it takes no room
	Credential Credential // of a Session
	End        End        // of a Tombstone
	Move       Move       // of a Moved
	Writes     []byte     // IDs of the most recent writes, newest last, WriteIDSize bytes each
	Payload    []byte

	clear []byte // what stands before the payload, less the checksum
}

// A Kind tells what a record is for.
type Kind byte

// The kinds of records.
const (
	Session   Kind = 'S' // a session that lives
	Tombstone Kind = 'T' // a session that has ended
	Index     Kind = 'I' // the sessions of a user
	Lock      Kind = 'L' // who works on a session exclusively
	Moved     Kind = 'M' // a session of an old system: where it went on
)

// An End says how a session ended.
type End struct {
	At        int64 // when
	GoneUntil int64 // until then its cookie is told from one that leads nowhere
	Elsewhere bool  // it was not its own client that ended it
}

// A Move says what became of an old system's session.
type Move struct {
	Nonce [NonceSize]byte // from which, with a secret, the cookie of the new session follows
	Until int64           // until then the old cookie leads there
}

const (
	// NonceSize is the size of a Move's nonce in bytes.
	NonceSize = 16
	// WriteIDSize is the size of the ID of a write in bytes.
	WriteIDSize = 8
	// RecentWrites bounds how many writes a record remembers. A writer whose reply was lost finds its own among them,
	// unless so many others wrote meanwhile that it has to say that it does not know.
	RecentWrites = 16

	// KindAt is the index of the Kind in a record's Data.
	KindAt = checksumSize + 1

	checksumSize = 8
	headSize     = checksumSize + 2

	formatPlain     = 1
	formatEncrypted = 2
)

// ErrDamaged means that the bytes under an ID are not a record that this package made for it.
var ErrDamaged = errors.New("session: damaged or foreign record")

// Open takes the Data of the record under id apart, without decrypting it. It returns ErrDamaged for anything else.
func Open(id [32]byte, data []byte) (Envelope, error) {
	var e Envelope
	if err := e.Open(id, data); err != nil {
		return Envelope{}, err
	}
	return e, nil
}

// Open is the function Open for an Envelope that is there.
func (e *Envelope) Open(id [32]byte, data []byte) error {
	*e = Envelope{}
	if len(data) < headSize || binary.BigEndian.Uint64(data) != checksum(id, data[checksumSize:]) {
		return ErrDamaged
	}
	format := data[checksumSize]
	e.Encrypted = format == formatEncrypted
	e.Kind = Kind(data[checksumSize+1])
	r := Reader{rest: data[headSize:]}
	switch e.Kind {
	case Session:
		e.Credential.read(&r)
	case Tombstone:
		e.End = End{Elsewhere: r.Take(1)[0] == 1, At: r.Time(), GoneUntil: r.Time()}
	case Moved:
		e.Move = Move{Nonce: [NonceSize]byte(r.Take(NonceSize)), Until: r.Time()}
	case Index, Lock:
	default:
		return ErrDamaged
	}
	e.Writes = r.writes()
	if r.bad || !e.Encrypted && format != formatPlain {
		return ErrDamaged
	}
	e.clear, e.Payload = data[checksumSize:len(data)-len(r.rest)], r.rest
	if hasPayload := e.Kind == Session || e.Kind == Index || e.Kind == Lock; !hasPayload && (len(e.Payload) > 0 || e.Encrypted) {
		return ErrDamaged
	}
	return nil
}

// begin returns the beginning of a record's Data, with room for more.
func begin(kind Kind, room int) []byte {
	b := make([]byte, headSize, headSize+room)
	b[checksumSize], b[checksumSize+1] = formatPlain, byte(kind)
	return b
}

// finish sets the checksum.
func finish(id [32]byte, data []byte) []byte {
	binary.BigEndian.PutUint64(data, checksum(id, data[checksumSize:]))
	return data
}

func checksum(id [32]byte, data []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.Write(id[:])
	d.Write(data)
	return d.Sum64()
}

// Writes are what a record remembers: this write, and recent ones before it.
type Writes struct {
	Before []byte
	This   [WriteIDSize]byte
}

const writesSize = 1 + RecentWrites*WriteIDSize

func (w *Writes) append(b []byte) []byte {
	before := w.Before[max(0, len(w.Before)-(RecentWrites-1)*WriteIDSize):]
	b = append(b, byte(len(before)/WriteIDSize+1))
	return append(append(b, before...), w.This[:]...)
}

// EncodeTombstone returns the Data of an ended session's record.
func EncodeTombstone(id [32]byte, end End, writes Writes) []byte {
	b := append(begin(Tombstone, 1+2*binary.MaxVarintLen64+writesSize), 0)
	if end.Elsewhere {
		b[headSize] = 1
	}
	b = appendTimes(b, end.At, end.GoneUntil)
	return finish(id, writes.append(b))
}

// EncodeMoved returns the Data of the record of an old system's session.
func EncodeMoved(id [32]byte, move Move, writes Writes) []byte {
	b := append(begin(Moved, NonceSize+binary.MaxVarintLen64+writesSize), move.Nonce[:]...)
	return finish(id, writes.append(appendTimes(b, move.Until)))
}

// EncodeLock returns the Data of a lock.
func EncodeLock(id [32]byte, payload []byte, writes Writes) []byte {
	b := writes.append(begin(Lock, writesSize+len(payload)))
	return finish(id, append(b, payload...))
}

// EncodeIndex returns the Data of an index, encrypted by c unless that is nil.
func EncodeIndex(id [32]byte, payload []byte, writes Writes, c *Cipher) []byte {
	b := writes.append(begin(Index, writesSize+len(payload)+overhead))
	if c == nil {
		return finish(id, append(b, payload...))
	}
	b[checksumSize] = formatEncrypted
	return finish(id, c.seal(b, id, b[checksumSize:], payload))
}

// HasWrite reports whether the record with this Data remembers the write.
func HasWrite(id [32]byte, data, write []byte) bool {
	e, err := Open(id, data)
	if err != nil {
		return false
	}
	for known := range slices.Chunk(e.Writes, WriteIDSize) {
		if bytes.Equal(known, write) {
			return true
		}
	}
	return false
}
