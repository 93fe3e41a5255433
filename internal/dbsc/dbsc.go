// Package dbsc reads the proofs by which a browser shows that it has the private key of its device: JWTs (RFC 7519) in the
// one form that W3C's Device Bound Session Credentials give them. It knows nothing of sessions.
//
// A general library for JWTs is not used, since what makes those dangerous is all that they can do: this reads two
// algorithms, two kinds of keys, and one type of token.
package dbsc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
)

const (
	// MaxProof is the longest proof that is read: one with an RSA key of 4096 bits has 1,700 bytes.
	MaxProof = 4 << 10
	// tokenType is the type of all proofs.
	tokenType = "dbsc+jwt"
)

// ErrMalformed means that something is no proof.
var ErrMalformed = errors.New("session: no proof of possession of a device's key")

// A Proof is a JWT whose signature is still to be verified.
type Proof struct {
	// Challenge is the one that it answers.
	Challenge string
	// Key is the one that it introduces, nil if it introduces none.
	Key *Key

	alg       string
	signed    []byte
	signature []byte
}

// Parse takes a proof apart, and returns ErrMalformed for anything else.
func Parse(text string) (*Proof, error) {
	if len(text) > MaxProof {
		return nil, ErrMalformed
	}
	signed, last, ok := cutLast(text)
	first, middle, two := strings.Cut(signed, ".")
	if !ok || !two || strings.Contains(middle, ".") {
		return nil, ErrMalformed
	}
	header, err := members(decode(first))
	if err != nil {
		return nil, err
	}
	payload, err := members(decode(middle))
	if err != nil {
		return nil, err
	}
	p := &Proof{signed: []byte(signed), signature: decode(last), alg: header.text("alg"), Challenge: payload.text("jti")}
	if header.text("typ") != tokenType || header.has("crit") || p.Challenge == "" || len(p.signature) == 0 {
		return nil, ErrMalformed
	}
	if jwk, ok := header["jwk"]; ok {
		if p.Key, err = parseJWK(p.alg, jwk); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// cutLast cuts the text at its last dot.
func cutLast(text string) (before, after string, ok bool) {
	i := strings.LastIndexByte(text, '.')
	if i < 0 {
		return "", "", false
	}
	return text[:i], text[i+1:], true
}

// SignedBy reports whether the private part of the key has signed the proof.
func (p *Proof) SignedBy(k *Key) bool {
	digest := sha256.Sum256(p.signed)
	switch {
	case p.alg != k.alg:
	case p.alg == es256 && len(p.signature) == 2*coordinate: // both numbers (RFC 7518 section 3.4), not DER
		r, s := new(big.Int).SetBytes(p.signature[:coordinate]), new(big.Int).SetBytes(p.signature[coordinate:])
		return ecdsa.Verify(k.ec, digest[:], r, s)
	case p.alg == rs256:
		return rsa.VerifyPKCS1v15(k.rsa, crypto.SHA256, digest[:], p.signature) == nil
	}
	return false
}

// decode returns nil unless the text is base64url in its one canonical form.
func decode(text string) []byte {
	if strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil
	}
	return b
}

// An object is a JSON object, less what its members mean.
type object map[string]json.RawMessage

// members takes a JSON object apart. Readers differ in which of two members of one name counts, so that there is to be one
// (RFC 8725 section 2.4), and encoding/json takes the last one, in whatever case its name is.
func members(data []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, ErrMalformed
	}
	o := make(object)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, ErrMalformed
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil || o.has(name.(string)) {
			return nil, ErrMalformed
		}
		o[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, ErrMalformed
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, ErrMalformed
	}
	return o, nil
}

func (o object) has(name string) bool {
	_, ok := o[name]
	return ok
}

// text returns a member that is a string, else the empty one.
func (o object) text(name string) string {
	var s *string
	if json.Unmarshal(o[name], &s) != nil || s == nil {
		return ""
	}
	return *s
}
