package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
)

// Options.EncryptAtRest: the payload of a session's record is AES-256-GCM under a key that HKDF-SHA256 (RFC 5869)
// derives from the client's token, which is in its cookie and nowhere else. The record's ID and all that stays
// readable in front of the payload are authenticated along with it, so that records cannot be exchanged for one
// another. The nonces are random: a token lives for minutes, and sees far fewer writes than GCM can take under
// one key (NIST SP 800-38D section 8.3).

const (
	nonceSize          = 12
	tagSize            = 16
	encryptionOverhead = nonceSize + tagSize
)

// encryptPayload appends the encrypted content to b, which begins with the record's head.
func encryptPayload(b []byte, l *link, c *content) []byte {
	payload := c.append(make([]byte, 0, c.size()))
	return payloadCipher(l.token[:]).Seal(b, nil, payload, additionalData(l.id, b))
}

// decryptPayload returns the content that follows the clear part of a record, nil if it was not encrypted for
// l's token and ID.
func decryptPayload(clear, encrypted []byte, l *link) []byte {
	if l.token == (token{}) || len(encrypted) < encryptionOverhead {
		return nil
	}
	payload, err := payloadCipher(l.token[:]).Open(nil, nil, encrypted, additionalData(l.id, clear))
	if err != nil {
		return nil
	}
	return payload
}

// additionalData is what is authenticated beside the payload: the ID, and the clear part less its checksum.
func additionalData(id ID, clear []byte) []byte {
	return append(id[:], clear[checksumSize:]...)
}

// payloadCipher returns the AEAD for a key derived from a token or a secret. It takes its nonces from the
// random generator and keeps them in front of the ciphertext.
func payloadCipher(ikm []byte) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, ikm, nil, "session: record at rest, AES-256-GCM", 32)
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
	return aead
}
