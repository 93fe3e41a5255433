package dbsc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/session/internal/dbsc"
)

// A device has a key of each kind.
type device struct {
	ec  *ecdsa.PrivateKey
	rsa *rsa.PrivateKey
}

var newDevice = sync.OnceValue(func() device {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	rsa, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return device{ec, rsa}
})

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jwkEC(k *ecdsa.PublicKey) string {
	point, err := k.Bytes()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, encode(point[1:33]), encode(point[33:]))
}

func jwkRSA(k *rsa.PublicKey) string {
	return fmt.Sprintf(`{"e":"%s","kty":"RSA","n":"%s"}`, encode(big.NewInt(int64(k.E)).Bytes()), encode(k.N.Bytes()))
}

// proof returns a JWT with the header and payload, signed by sign.
func proof(header, payload string, sign func(digest [32]byte) []byte) string {
	signed := encode([]byte(header)) + "." + encode([]byte(payload))
	return signed + "." + encode(sign(sha256.Sum256([]byte(signed))))
}

func (d device) signES256(digest [32]byte) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, d.ec, digest[:])
	if err != nil {
		panic(err)
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

func signRS256(k *rsa.PrivateKey) func([32]byte) []byte {
	return func(digest [32]byte) (sig []byte) {
		var err error
		fips140.WithoutEnforcement(func() { sig, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, digest[:]) }) // by a browser
		if err != nil {
			panic(err)
		}
		return sig
	}
}

func (d device) headerES256() string {
	return `{"alg":"ES256","jwk":` + jwkEC(&d.ec.PublicKey) + `,"typ":"dbsc+jwt"}`
}

func (d device) headerRS256() string {
	return `{"alg":"RS256","jwk":` + jwkRSA(&d.rsa.PublicKey) + `,"typ":"dbsc+jwt"}`
}

// Proofs of browsers are accepted, at registration and later, and the key comes back from its bytes.
func TestProofs(t *testing.T) {
	d := newDevice()
	for _, test := range []struct {
		name, header, later string
		sign                func([32]byte) []byte
	}{
		{"ES256", d.headerES256(), `{"alg":"ES256","typ":"dbsc+jwt"}`, d.signES256},
		{"RS256", d.headerRS256(), `{"alg":"RS256","typ":"dbsc+jwt"}`, signRS256(d.rsa)},
	} {
		for _, payload := range []string{`{"jti":"c"}`, ` { "aud" : "https://x.test/", "jti":"c", "authorization": [1, {"jti":"d"}] } `} {
			first, err := dbsc.Parse(proof(test.header, payload, test.sign))
			if err != nil || first.Key == nil || first.Challenge != "c" || !first.SignedBy(first.Key) {
				t.Fatalf("%s: %+v, %v", test.name, first, err)
			}
			key, err := dbsc.ParseKey(first.Key.Bytes())
			if err != nil || key.Thumbprint() != first.Key.Thumbprint() {
				t.Fatalf("%s: the key does not come back: %v", test.name, err)
			}
			next, err := dbsc.Parse(proof(test.later, payload, test.sign))
			if err != nil || next.Key != nil || !next.SignedBy(key) {
				t.Errorf("%s, later: %+v, %v", test.name, next, err)
			}
		}
	}
}

// Anything but a proof is refused, or signed by no key.
func TestRefusedProofs(t *testing.T) {
	d := newDevice()
	var small *rsa.PrivateKey
	var err error
	fips140.WithoutEnforcement(func() { small, err = rsa.GenerateKey(rand.Reader, 2040) })
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	offCurve := strings.Replace(jwkEC(&d.ec.PublicKey), `"x":"`, `"x":"AA`, 1)
	offCurve = offCurve[:strings.Index(offCurve, `","y"`)-2] + offCurve[strings.Index(offCurve, `","y"`):]
	good, payload := d.headerES256(), `{"jti":"c"}`
	with := func(alg, jwk string) string { return `{"alg":"` + alg + `","jwk":` + jwk + `,"typ":"dbsc+jwt"}` }
	es256, rs256 := d.signES256, signRS256(d.rsa)
	mac := func(digest [32]byte) []byte {
		point, err := d.ec.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		h := hmac.New(sha256.New, point)
		h.Write(digest[:])
		return h.Sum(nil)
	}
	token := proof(good, payload, es256)
	parts := strings.Split(token, ".")
	for name, text := range map[string]string{
		"nothing":                     "",
		"dots":                        "..",
		"two parts":                   parts[0] + "." + parts[1],
		"four parts":                  token + "." + parts[2],
		"none":                        encode([]byte(with("none", jwkEC(&d.ec.PublicKey)))) + "." + parts[1] + ".",
		"none, signed":                proof(with("none", jwkEC(&d.ec.PublicKey)), payload, es256),
		"no signature":                parts[0] + "." + parts[1] + ".",
		"HS256 under the public key":  proof(with("HS256", jwkEC(&d.ec.PublicKey)), payload, mac),
		"HS256 with a key of its own": proof(with("HS256", `{"kty":"oct","k":"AAAA"}`), payload, mac),
		"ES384":                       proof(with("ES384", jwkEC(&d.ec.PublicKey)), payload, es256),
		"PS256":                       proof(with("PS256", jwkRSA(&d.rsa.PublicKey)), payload, rs256),
		"es256":                       proof(with("es256", jwkEC(&d.ec.PublicKey)), payload, es256),
		"no algorithm":                proof(`{"jwk":`+jwkEC(&d.ec.PublicKey)+`,"typ":"dbsc+jwt"}`, payload, es256),
		"ES256 with an RSA key":       proof(with("ES256", jwkRSA(&d.rsa.PublicKey)), payload, rs256),
		"RS256 with an EC key":        proof(with("RS256", jwkEC(&d.ec.PublicKey)), payload, es256),
		"a small RSA key":             proof(with("RS256", jwkRSA(&small.PublicKey)), payload, signRS256(small)),
		"exponent 3":                  proof(with("RS256", strings.Replace(jwkRSA(&d.rsa.PublicKey), `"AQAB"`, `"Aw"`, 1)), payload, rs256),
		"exponent 65536":              proof(with("RS256", strings.Replace(jwkRSA(&d.rsa.PublicKey), `"AQAB"`, `"AQAA"`, 1)), payload, rs256),
		"exponent beyond an int":      proof(with("RS256", strings.Replace(jwkRSA(&d.rsa.PublicKey), `"AQAB"`, `"AQAAAAAAAAAAAQAB"`, 1)), payload, rs256),
		"an even modulus":             proof(with("RS256", jwkRSA(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537})), payload, rs256),
		"a modulus with zeros before": proof(with("RS256", strings.Replace(jwkRSA(&d.rsa.PublicKey), `"n":"`, `"n":"AAAA`, 1)), payload, rs256),
		"a huge modulus":              proof(with("RS256", jwkRSA(&rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 4104), big.NewInt(1)), E: 65537})), payload, rs256),
		"a point off its curve":       proof(with("ES256", offCurve), payload, es256),
		"the point at infinity":       proof(with("ES256", fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%[1]s"}`, encode(make([]byte, 32)))), payload, es256),
		"a short coordinate":          proof(with("ES256", fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%[1]s"}`, encode(make([]byte, 31)))), payload, es256),
		"P-384":                       proof(with("ES256", `{"crv":"P-384","kty":"EC","x":"AA","y":"AA"}`), payload, es256),
		"P-384 as P-256":              proof(with("ES256", fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, encode(p384.X.Bytes()), encode(p384.Y.Bytes()))), payload, es256),
		"a key that is null":          proof(with("ES256", `null`), payload, es256),
		"a key that is a list":        proof(with("ES256", `[]`), payload, es256),
		"another key's signature":     proof(with("ES256", jwkEC(&other.PublicKey)), payload, es256),
		"a signature in DER": proof(good, payload, func(digest [32]byte) []byte {
			sig, err := ecdsa.SignASN1(rand.Reader, d.ec, digest[:])
			if err != nil {
				panic(err)
			}
			return sig
		}),
		"a short signature":  proof(good, payload, func(digest [32]byte) []byte { return es256(digest)[:63] }),
		"a long signature":   proof(good, payload, func(digest [32]byte) []byte { return append(es256(digest), 0) }),
		"hardly a signature": proof(good, payload, func(digest [32]byte) []byte { return es256(digest)[:31] }),
		"the second number with a zero before": proof(good, payload, func(digest [32]byte) []byte {
			return slices.Insert(es256(digest), 32, 0)
		}),
		"zeros for signature": proof(good, payload, func([32]byte) []byte { return make([]byte, 64) }),
		"swapped numbers": proof(good, payload, func(digest [32]byte) []byte {
			sig := es256(digest)
			return append(sig[32:64:64], sig[:32]...)
		}),
		"another payload's signature":     parts[0] + "." + encode([]byte(`{"jti":"d"}`)) + "." + parts[2],
		"type JWT":                        proof(strings.Replace(good, "dbsc+jwt", "JWT", 1), payload, es256),
		"no type":                         proof(strings.Replace(good, `,"typ":"dbsc+jwt"`, "", 1), payload, es256),
		"an extension that must be known": proof(strings.Replace(good, `{"alg"`, `{"crit":["b64"],"b64":false,"alg"`, 1), payload, es256),
		"two algorithms":                  proof(strings.Replace(good, `{"alg"`, `{"alg":"none","alg"`, 1), payload, es256),
		"two types":                       proof(strings.Replace(good, `"typ"`, `"typ":"dbsc+jwt","typ"`, 1), payload, es256),
		"two challenges":                  proof(good, `{"jti":"d","jti":"c"}`, es256),
		"two spellings":                   proof(good, `{"jti":"d","\u006ati":"c"}`, es256),
		"two x":                           proof(strings.Replace(good, `"x":`, `"x":"AA","x":`, 1), payload, es256),
		"capitals":                        proof(good, `{"JTI":"c"}`, es256),
		"no challenge":                    proof(good, `{}`, es256),
		"an empty challenge":              proof(good, `{"jti":""}`, es256),
		"a challenge of null":             proof(good, `{"jti":null}`, es256),
		"a numeric challenge":             proof(good, `{"jti":7}`, es256),
		"a list":                          proof(good, `["jti","c"]`, es256),
		"more behind":                     proof(good, payload+`{"jti":"d"}`, es256),
		"half an object":                  proof(good, `{"jti":"c"`, es256),
		"padding":                         strings.Replace(token, ".", "=.", 1),
		"line ends":                       token[:20] + "\r\n" + token[20:],
		"another base64":                  parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+",
		"a megabyte":                      proof(good, `{"x":"`+strings.Repeat("x", 1<<20)+`","jti":"c"}`, es256),
		"a megabyte of depth":             proof(good, strings.Repeat("[", 1<<20), es256),
	} {
		p, err := dbsc.Parse(text)
		if err == nil && (p.Key == nil || p.SignedBy(p.Key)) {
			t.Errorf("%s is accepted: %+v", name, p)
		}
		if err != nil && err != dbsc.ErrMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever the text: nothing crashes, what has no signature of its key is no proof, and a key comes back from its bytes.
func FuzzJWT(f *testing.F) {
	d := newDevice()
	f.Add(d.headerES256(), `{"jti":"c"}`, []byte{})
	f.Add(d.headerRS256(), `{"jti":"c","aud":"x"}`, make([]byte, 256))
	f.Add(`{"alg":"ES256","typ":"dbsc+jwt"}`, `{"jti":"c","jti":"d"}`, make([]byte, 64))
	f.Add(`{"alg":"none","typ":"dbsc+jwt"}`, `[{}]`, []byte("x.y"))
	f.Fuzz(func(t *testing.T, header, payload string, signature []byte) {
		for _, text := range []string{
			encode([]byte(header)) + "." + encode([]byte(payload)) + "." + encode(signature),
			header + "." + payload + "." + string(signature),
		} {
			p, err := dbsc.Parse(text)
			if err != nil {
				continue
			}
			if p.Key == nil {
				for _, known := range []string{jwkEC(&d.ec.PublicKey), jwkRSA(&d.rsa.PublicKey)} {
					alg := "ES256"
					if strings.Contains(known, "RSA") {
						alg = "RS256"
					}
					first, err := dbsc.Parse(proof(`{"alg":"`+alg+`","jwk":`+known+`,"typ":"dbsc+jwt"}`, `{"jti":"c"}`, func([32]byte) []byte { return []byte{1} }))
					if err != nil {
						t.Fatal(err)
					}
					if p.SignedBy(first.Key) {
						t.Fatalf("%q is signed by a key that never signed it", text)
					}
				}
				continue
			}
			k, err := dbsc.ParseKey(p.Key.Bytes())
			if err != nil || k.Thumbprint() != p.Key.Thumbprint() {
				t.Fatalf("%q: the key does not come back: %v", text, err)
			}
			p.SignedBy(k)
		}
	})
}

func TestSkips(t *testing.T) {
	for lines, want := range map[string][]string{
		``:                                   {""},
		`unreachable`:                        {""},
		`unreachable;session_identifier="a"`: {"a"},
		`unreachable;session_identifier=a`:   {"a"},
		`unreachable; session_identifier="a`: {"a"},
		`x;session_identifier="a", y, z;session_identifier="b"|server_error;session_identifier="c"`: {"a", "", "b", "c"},
	} {
		header := http.Header{dbsc.Skipped: strings.Split(lines, "|")}
		if got := slices.Collect(dbsc.Skips(header)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", lines, got, want)
		}
		for range dbsc.Skips(header) {
			break
		}
	}
	if got := slices.Collect(dbsc.Skips(nil)); got != nil {
		t.Errorf("no header: %q", got)
	}
}
