package bench

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

const floorName = "hand-written handler"

// floor is what a session costs whoever writes the handler by hand, on the bare client: the cookie is signed, the record
// is under the hash of what it says, one value is decoded, and the response tells caches what it depends on. It compares
// and guards nothing, and encodes no more than one value.
func floor(client bareClient) library {
	return library{floorName, func(w work, p payload) http.Handler {
		if w == count || w == total {
			return nil
		}
		return floorHandler(client, w, p)
	}}
}

func floorHandler(client bareClient, kind work, p payload) http.HandlerFunc {
	value := must(cbor.Marshal(p.values[nameKey]))
	blank := append(value[:len(value):len(value)], make([]byte, p.size()+64-len(value))...)
	return func(w http.ResponseWriter, r *http.Request) {
		if kind == unused {
			answer(w, true)
			return
		}
		ctx := r.Context()
		w.Header()["Vary"] = []string{"Cookie"}
		if kind == create {
			var raw [tokenSize]byte
			rand.Read(raw[:])
			err := client.add(ctx, hashed(raw[:]), blank)
			setKey(w, signed(raw[:]))
			answer(w, err == nil)
			return
		}
		cookie, err := r.Cookie(cookieName)
		if err != nil {
			answer(w, false)
			return
		}
		raw, ok := verified(cookie.Value)
		if !ok {
			answer(w, false)
			return
		}
		key := hashed(raw)
		data, err := client.get(ctx, key)
		var name string
		if err == nil {
			_, err = cbor.UnmarshalFirst(data, &name)
		}
		if err != nil {
			answer(w, false)
			return
		}
		if kind != read {
			data[len(data)-1]++
			err = client.replace(ctx, key, data)
		}
		if kind == regenerate || kind == renew {
			setKey(w, signed(raw))
		}
		answer(w, err == nil)
	}
}

// tokenSize is how many bytes of a cookie are signed, as of ours.
const tokenSize = 36

var macs = sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}

func signature(raw []byte) []byte {
	h := macs.Get().(hash.Hash)
	defer macs.Put(h)
	h.Reset()
	h.Write(raw)
	return h.Sum(nil)
}

func signed(raw []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(bytes.Clone(raw), signature(raw)...))
}

func verified(value string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) != tokenSize+sha256.Size {
		return nil, false
	}
	return b[:tokenSize], hmac.Equal(signature(b[:tokenSize]), b[tokenSize:])
}

func hashed(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
