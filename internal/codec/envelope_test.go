package codec_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"example.com/session/internal/codec"
)

var id = [32]byte{1, 2, 3}

// records are one of each kind, and what is in them.
func records() map[string]struct {
	data []byte
	want codec.Envelope
} {
	writes := codec.Writes{Before: bytes.Repeat([]byte{1}, 3*codec.WriteIDSize), This: [codec.WriteIDSize]byte{2}}
	remembered := append(bytes.Clone(writes.Before), writes.This[:]...)
	cred := codec.Credential{
		Key: codec.KeyHash{1}, Before: codec.KeyHash{2}, Count: 300, Floor: 299, Until: 5, Keyed: 6, Issued: 7, Login: codec.Login{3},
	}
	fresh := codec.Credential{Key: codec.KeyHash{1}, Count: 1, Floor: 1, Keyed: 6, Issued: 7}
	bound := cred
	bound.Device, bound.Bound = codec.Device{5}, 9
	end := codec.End{At: 1 << 40, GoneUntil: 1<<40 + 30_000, Elsewhere: true}
	move := codec.Move{Nonce: [codec.NonceSize]byte{4}, Until: 8}
	encode := func(cred codec.Credential, writes codec.Writes, c *codec.Cipher) []byte {
		e := codec.Envelope{Credential: cred, Writes: writes.Before}
		return codec.EncodeSession(id, &e, writes.This, &codec.Body{Created: 1}, &codec.Changes{}, c)
	}
	return map[string]struct {
		data []byte
		want codec.Envelope
	}{
		"session": {encode(cred, writes, nil),
			codec.Envelope{Kind: codec.Session, Credential: cred, Writes: remembered}},
		"bound session": {encode(bound, writes, nil),
			codec.Envelope{Kind: codec.Session, Credential: bound, Writes: remembered}},
		"new session": {encode(fresh, codec.Writes{This: writes.This}, nil),
			codec.Envelope{Kind: codec.Session, Credential: fresh, Writes: writes.This[:]}},
		"encrypted session": {encode(cred, writes, cipher("secret", 1, 2)),
			codec.Envelope{Kind: codec.Session, Encrypted: true, Credential: cred, Writes: remembered}},
		"tombstone": {codec.EncodeTombstone(id, end, writes), codec.Envelope{Kind: codec.Tombstone, End: end, Writes: remembered}},
		"moved":     {codec.EncodeMoved(id, move, writes), codec.Envelope{Kind: codec.Moved, Move: move, Writes: remembered}},
		"lock":      {codec.EncodeLock(id, []byte("x"), writes), codec.Envelope{Kind: codec.Lock, Writes: remembered}},
		"index":     {codec.EncodeIndex(id, []byte("x"), writes, nil), codec.Envelope{Kind: codec.Index, Writes: remembered}},
		"encrypted index": {codec.EncodeIndex(id, nil, writes, codec.NewIndexCipher(secretOf("s"))),
			codec.Envelope{Kind: codec.Index, Encrypted: true, Writes: remembered}},
	}
}

func cipher(secret string, name, key byte) *codec.Cipher {
	return codec.NewSessionCipher(secretOf(secret), &[16]byte{name}, &[16]byte{key})
}

// The contents of an envelope come out of it, and out of no other one's.
func TestEnvelope(t *testing.T) {
	for name, r := range records() {
		got, err := codec.Open(id, r.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		public := codec.Envelope{
			Kind: got.Kind, Encrypted: got.Encrypted, Credential: got.Credential, End: got.End, Move: got.Move, Writes: got.Writes,
		}
		if !reflect.DeepEqual(public, r.want) {
			t.Errorf("%s: %+v, want %+v", name, public, r.want)
		}
		if _, err := codec.Open([32]byte{9}, r.data); err != codec.ErrDamaged {
			t.Errorf("%s under another ID: %v", name, err)
		}
		if !codec.HasWrite(id, r.data, r.want.Writes[:codec.WriteIDSize]) || codec.HasWrite(id, r.data, make([]byte, codec.WriteIDSize)) {
			t.Errorf("%s remembers other writes", name)
		}
	}
}

// A record remembers the last of its writes.
func TestRecentWrites(t *testing.T) {
	before := bytes.Repeat([]byte{1}, codec.RecentWrites*codec.WriteIDSize)
	data := codec.EncodeTombstone(id, codec.End{}, codec.Writes{Before: before, This: [codec.WriteIDSize]byte{2}})
	e, err := codec.Open(id, data)
	if err != nil || len(e.Writes) != len(before) || e.Writes[len(e.Writes)-codec.WriteIDSize] != 2 {
		t.Errorf("it remembers %x, %v", e.Writes, err)
	}
}

// Any change of a bit is damage.
func TestFlippedBits(t *testing.T) {
	for name, r := range records() {
		for range 200 {
			damaged := bytes.Clone(r.data)
			damaged[rand.IntN(len(damaged))] ^= 1 << rand.IntN(8)
			if _, err := codec.Open(id, damaged); err != codec.ErrDamaged {
				t.Errorf("%s: %x is accepted: %v", name, damaged, err)
			}
		}
	}
}

// Whatever the bytes, with a checksum that fits: nothing crashes, and what is accepted reads the same once it is written
// again.
func FuzzOpen(f *testing.F) {
	for _, r := range records() {
		f.Add(r.data[8:])
	}
	f.Fuzz(func(t *testing.T, rest []byte) {
		data := codec.Checksummed(id, rest)
		e, err := codec.Open(id, data)
		if err != nil {
			return
		}
		var b, b2 codec.Body
		err = e.OpenBody(&b, id, func(i int) *codec.Cipher {
			if i > 0 {
				return nil
			}
			return cipher("secret", 1, 2)
		})
		if err != nil || e.Kind != codec.Session {
			return
		}
		for key, value := range b.Values.All() {
			if got, ok := b.Values.Get(string(key)); !ok || !bytes.Equal(got, value) {
				t.Fatalf("%q is %x, and %x by its key", key, value, got)
			}
		}
		again := codec.EncodeSession(id, &e, [codec.WriteIDSize]byte{1}, &b, &codec.Changes{}, nil)
		e2, err := codec.Open(id, again)
		if err != nil || !reflect.DeepEqual(e, e2) {
			t.Fatalf("%+v is %+v once it is written, %v", e, e2, err)
		}
		if err := e2.OpenBody(&b2, id, nil); err != nil || b2.Values.Len() != b.Values.Len() {
			t.Fatalf("written again: %v", err)
		}
	})
}

// secretOf returns a secret of the least length, by its name.
func secretOf(name string) []byte { return []byte(name + strings.Repeat("s", 32-len(name))) }
