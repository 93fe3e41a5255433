package codec

import "encoding/binary"

// A Body is the payload of a session's record.
type Body struct {
	Created       int64 // Unix milliseconds, as all times here
	Saved         int64 // last write by a request; a Touch moves the record's expiry only
	Written       int64 // last write by whomever; not before Saved
	Authenticated int64 // when the user logged in; 0 for nobody
	Idle          int64 // idle timeout in milliseconds: 0 for the manager's, negative for never
	Persistence   Persistence
	RemoteAddr    []byte
	UserAgent     []byte
	User          []byte
	Labels        []byte // of the user's login: pairs of strings, see AppendBytes
	Binding       []byte // hash of what the session is bound to, empty for nothing
	Values        Values
}

// A Persistence is a session's choice between a cookie that ends with the browser and one that does not.
type Persistence byte

// The choices.
const (
	PersistenceDefault Persistence = iota // as the manager's cookie has it
	Persistent
	NotPersistent
)

// Empty reports whether there is nothing in it that would be worth a record.
func (b *Body) Empty() bool { return len(b.Values.packed) == 0 && len(b.User) == 0 }

// EncodeSession returns the Data of a session's record with the credential and the writes of e, and one more write. The
// body's values are those of b with the changes made to them; c encrypts it, unless it is nil. Then e is what Open would
// make of the Data, and b has the values.
func EncodeSession(id [32]byte, e *Envelope, write [WriteIDSize]byte, b *Body, changes *Changes, c *Cipher) []byte {
	var room [credentialSize + writesSize]byte
	clear := e.Credential.append(room[:0])
	at := headSize + len(clear) + 1 // of the writes
	writes := Writes{Before: e.Writes, This: write}
	clear = writes.append(clear)
	size := b.size() + changes.size()
	if c != nil {
		size += overhead
	}
	data := append(begin(Session, len(clear)+size), clear...) // a store in memory keeps all the room that there is
	header := len(data)
	if c == nil {
		data = b.appendChanged(data, changes)
	} else {
		data[checksumSize] = formatEncrypted
		data = c.seal(data, id, data[checksumSize:], b.appendChanged(make([]byte, 0, size), changes))
	}
	e.Kind, e.Encrypted = Session, c != nil
	e.Writes, e.clear, e.Payload = data[at:header:header], data[checksumSize:header], data[header:]
	return finish(id, data)
}

// Growth returns by how many bytes the record of a session has grown, for reasons that are not its values, since it
// was new.
func (e *Envelope) Growth() int {
	const fresh = 1 + len(KeyHash{}) + 3 + 2*6 // flags, key, count 1, the same floor, no end of it, two times
	return len(e.Credential.append(make([]byte, 0, credentialSize))) - fresh + len(e.Writes) - WriteIDSize
}

// OpenBody makes b the body of a session's record. An encrypted one needs the right one of the ciphers.
func (e *Envelope) OpenBody(b *Body, id [32]byte, ciphers Ciphers) error {
	payload := e.Payload
	if e.Encrypted {
		if payload = e.decrypt(id, ciphers); payload == nil {
			return ErrDamaged
		}
	}
	r := Reader{rest: payload}
	b.Created, b.Saved, b.Authenticated = r.Time(), r.Time(), r.Time()
	b.Idle = r.Varint()
	b.Persistence = Persistence(r.Take(1)[0])
	b.RemoteAddr, b.UserAgent, b.User, b.Binding = r.Bytes(), r.Bytes(), r.Bytes(), r.Bytes()
	b.Labels = r.Bytes()
	b.Written = b.Saved + r.Time()
	if r.bad || b.Persistence > NotPersistent || !b.Values.read(r.rest) {
		return ErrDamaged
	}
	return nil
}

// size returns about the number of bytes that appendChanged adds, but for the changes.
func (b *Body) size() int {
	n := 1 + len(b.Values.packed)
	for _, v := range [...]int64{b.Created, b.Saved, b.Authenticated, 2 * b.Idle, max(0, b.Written-b.Saved)} {
		n += uvarintSize(uint64(v))
	}
	for _, s := range [...][]byte{b.RemoteAddr, b.UserAgent, b.User, b.Binding, b.Labels} {
		n += uvarintSize(uint64(len(s))) + len(s)
	}
	return n
}

func (b *Body) appendChanged(p []byte, changes *Changes) []byte {
	p = appendTimes(p, b.Created, b.Saved, b.Authenticated)
	p = binary.AppendVarint(p, b.Idle)
	p = append(p, byte(b.Persistence))
	p = AppendBytes(p, b.RemoteAddr)
	p = AppendBytes(p, b.UserAgent)
	p = AppendBytes(p, b.User)
	p = AppendBytes(AppendBytes(p, b.Binding), b.Labels)
	p = appendTimes(p, max(0, b.Written-b.Saved))
	start := len(p)
	p = b.Values.appendChanged(p, changes)
	b.Values = Values{packed: p[start:len(p):len(p)]}
	return p
}
