package codec

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
)

// A Cipher encrypts payloads with AES-256-GCM. The ID of the record and all that stays readable in front of the payload
// are authenticated along with it, so that neither can be exchanged. The nonces are random: a key sees far fewer writes
// than GCM can take (NIST SP 800-38D section 8.3).
type Cipher struct{ aead cipher.AEAD }

// Ciphers returns the ciphers that may fit, one after the other, and nil after the last.
type Ciphers func(i int) *Cipher

const overhead = 12 + 16 // nonce and tag

// NewSessionCipher returns the cipher for a session, from a secret and from what the client has in its cookie. Without
// the secret, a client that can write to the store could make a session of its choice (NIST SP 800-108 on purposes).
func NewSessionCipher(secret []byte, name, key *[16]byte) *Cipher {
	ikm := make([]byte, 0, 128)
	ikm = append(append(append(ikm, name[:]...), key[:]...), secret...)
	return newCipher(ikm, "session: a session at rest, AES-256-GCM")
}

// NewIndexCipher returns the cipher for the indexes.
func NewIndexCipher(secret []byte) *Cipher {
	return newCipher(secret, "session: an index at rest, AES-256-GCM")
}

// newCipher derives a key with HKDF-SHA256 (RFC 5869).
func newCipher(ikm []byte, purpose string) *Cipher {
	key, err := hkdf.Key(sha256.New, ikm, nil, purpose, 32)
	if err != nil {
		panic(err) // the sizes are constants
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &Cipher{aead}
}

// seal appends the encrypted payload to data, of which clear is authenticated.
func (c *Cipher) seal(data []byte, id [32]byte, clear, payload []byte) []byte {
	return c.aead.Seal(data, nil, payload, additional(id, clear))
}

// decrypt returns the payload, nil if none of the ciphers fits.
func (e *Envelope) decrypt(id [32]byte, ciphers Ciphers) []byte {
	if ciphers == nil || len(e.Payload) < overhead {
		return nil
	}
	ad := additional(id, e.clear)
	for i := 0; ; i++ {
		c := ciphers(i)
		if c == nil {
			return nil
		}
		if payload, err := c.aead.Open([]byte{}, nil, e.Payload, ad); err == nil {
			e.Secret = int32(i)
			return payload
		}
	}
}

// OpenIndex returns the payload of an index. An encrypted one needs the right one of the ciphers.
func (e *Envelope) OpenIndex(id [32]byte, ciphers Ciphers) ([]byte, error) {
	if !e.Encrypted {
		return e.Payload, nil
	}
	if payload := e.decrypt(id, ciphers); payload != nil {
		return payload, nil
	}
	return nil, ErrDamaged
}

func additional(id [32]byte, clear []byte) []byte {
	return append(append([]byte{}, id[:]...), clear...)
}
