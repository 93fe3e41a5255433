package dbsc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
)

const (
	es256, rs256 = "ES256", "RS256"
	// coordinate is the size of a coordinate of P-256 in bytes.
	coordinate = 32
	// minModulus and maxModulus bound an RSA key in bytes (RFC 7518 section 3.3).
	minModulus, maxModulus = 2048 / 8, 4096 / 8
	// exponent is the one that RSA keys in hardware have.
	exponent = 65537
	// MaxKey is the size of the longest key in bytes.
	MaxKey = 1 + maxModulus

	kindEC, kindRSA = 1, 2
)

// Algorithms are those that a browser may choose from, the best one first, as a structured field's inner list.
const Algorithms = "(" + es256 + " " + rs256 + ")"

// A Key is the public part of a device's key.
type Key struct {
	alg string
	ec  *ecdsa.PublicKey
	rsa *rsa.PublicKey
}

// parseJWK reads a public key (RFC 7517) for the algorithm.
func parseJWK(alg string, jwk []byte) (*Key, error) {
	o, err := members(jwk)
	if err != nil {
		return nil, err
	}
	switch kty := o.text("kty"); {
	case alg == es256 && kty == "EC" && o.text("crv") == "P-256":
		x, y := decode(o.text("x")), decode(o.text("y"))
		if len(x) != coordinate || len(y) != coordinate {
			return nil, ErrMalformed
		}
		return ParseKey(append(append([]byte{kindEC}, x...), y...))
	case alg == rs256 && kty == "RSA" && new(big.Int).SetBytes(decode(o.text("e"))).Cmp(big.NewInt(exponent)) == 0:
		return ParseKey(append([]byte{kindRSA}, decode(o.text("n"))...))
	}
	return nil, ErrMalformed
}

// ParseKey is the inverse of Bytes. It returns ErrMalformed for all that is no key, or none that is good enough.
func ParseKey(b []byte) (*Key, error) {
	switch {
	case len(b) == 1+2*coordinate && b[0] == kindEC:
		const uncompressed = 4 // SEC 1 section 2.3.3
		point := append([]byte{uncompressed}, b[1:]...)
		if k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point); err == nil {
			return &Key{alg: es256, ec: k}, nil
		}
	case len(b) > minModulus && len(b) <= MaxKey && b[0] == kindRSA && b[1] != 0:
		if n := new(big.Int).SetBytes(b[1:]); n.BitLen() >= 8*minModulus && n.Bit(0) == 1 {
			return &Key{alg: rs256, rsa: &rsa.PublicKey{N: n, E: exponent}}, nil
		}
	}
	return nil, ErrMalformed
}

// Bytes returns the key in a form that ParseKey reads.
func (k *Key) Bytes() []byte {
	if k.alg == rs256 {
		return append([]byte{kindRSA}, k.rsa.N.Bytes()...)
	}
	point, err := k.ec.Bytes()
	if err != nil {
		panic(err) // ParseKey has checked it
	}
	point[0] = kindEC
	return point
}

// Thumbprint returns 128 bits of the key's SHA-256.
func (k *Key) Thumbprint() [16]byte {
	sum := sha256.Sum256(append([]byte("session device:"), k.Bytes()...))
	return [16]byte(sum[:])
}
