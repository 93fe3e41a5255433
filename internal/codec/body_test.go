package codec_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"example.com/session/internal/codec"
)

// Whatever a credential and a body say, they say it once they are read again, and can be written anew.
func TestSessionsComeBack(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	bit := func() bool { return random.IntN(2) == 0 }
	some := func(n int) []byte { // of any length up to n
		b := make([]byte, random.IntN(n+1))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	at := func() int64 { return random.Int64N(1 << random.IntN(50)) }
	for range 1000 {
		cred := codec.Credential{Key: codec.KeyHash{1}, Count: random.Uint32(), Until: at(), Keyed: at(), Issued: at()}
		cred.Floor = cred.Count - min(cred.Count, uint32(random.IntN(3)))
		if bit() {
			cred.Before = codec.KeyHash{2}
		}
		if bit() {
			cred.Login = codec.Login{3}
		}
		body := codec.Body{
			Created: at(), Saved: at(), Authenticated: at(), Idle: at() - 1<<40, Persistence: codec.Persistence(random.IntN(3)),
			RemoteAddr: some(40), UserAgent: some(300), User: some(20), Binding: some(32),
		}
		body.Written = body.Saved + at()
		want := body
		var changes codec.Changes
		values := map[string]string{}
		for i := range random.IntN(5) {
			key, data := fmt.Sprint(i), some(200)
			changes.List = append(changes.List, codec.Change{Key: key, Data: data})
			values[key] = string(data)
		}
		var c *codec.Cipher
		if bit() {
			c = cipher("secret", 1, 2)
		}
		data := codec.EncodeSession(id, &codec.Envelope{Credential: cred}, [codec.WriteIDSize]byte{4}, &body, &changes, c)
		e, err := codec.Open(id, data)
		if err != nil || e.Credential != cred || e.Encrypted != (c != nil) || e.Kind != codec.Session {
			t.Fatalf("seed %d: %+v comes back as %+v, %v", seed, cred, e, err)
		}
		var got codec.Body
		if err := e.OpenBody(&got, id, func(i int) *codec.Cipher {
			if i > 0 {
				return nil
			}
			return c
		}); err != nil {
			t.Fatalf("seed %d: %+v: %v", seed, want, err)
		}
		read := map[string]string{}
		for key, data := range got.Values.All() {
			read[string(key)] = string(data)
		}
		if !maps.Equal(read, values) {
			t.Fatalf("seed %d: the values %q come back as %q", seed, values, read)
		}
		got.Values, want.Values = codec.Values{}, codec.Values{}
		if !alikeBodies(got, want) {
			t.Fatalf("seed %d: %+v comes back as %+v", seed, want, got)
		}
	}
}

func alikeBodies(a, b codec.Body) bool {
	for _, pair := range [...][2]*[]byte{{&a.RemoteAddr, &b.RemoteAddr}, {&a.UserAgent, &b.UserAgent}, {&a.User, &b.User}, {&a.Labels, &b.Labels}, {&a.Binding, &b.Binding}} {
		if !slices.Equal(*pair[0], *pair[1]) {
			return false
		}
		*pair[0], *pair[1] = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// Missing parts of a credential take no room: most sessions have one key, and many nobody who is logged in.
func TestRoomOfCredentials(t *testing.T) {
	size := func(cred codec.Credential) int {
		cred.Key = codec.KeyHash{1}
		return len(codec.EncodeSession(id, &codec.Envelope{Credential: cred}, [codec.WriteIDSize]byte{}, &codec.Body{}, &codec.Changes{}, nil))
	}
	least := size(codec.Credential{})
	for name, test := range map[string]struct {
		cred codec.Credential
		want int
	}{
		"a key before": {codec.Credential{Before: codec.KeyHash{1}}, 16},
		"a login":      {codec.Credential{Login: codec.Login{1}}, 16},
		"a device":     {codec.Credential{Device: codec.Device{1}, Bound: 1}, 17},
	} {
		if n := size(test.cred) - least; n != test.want {
			t.Errorf("%s takes %d bytes, want %d", name, n, test.want)
		}
	}
}

// A record that is cut is damaged, wherever that is.
func TestCutRecords(t *testing.T) {
	for _, name := range []string{"tombstone", "moved"} {
		rest := records()[name].data[8:]
		for n := range rest {
			if _, err := codec.Open(id, codec.Checksummed(id, rest[:n])); err != codec.ErrDamaged {
				t.Errorf("the first %d bytes of a %s: %v", n, name, err)
			}
		}
	}
}
