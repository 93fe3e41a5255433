package codec_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/session/internal/codec"
)

// Whatever changes are made, the values are those of a map to which the same was done, and come in the order of their keys.
func TestValuesAgainstMap(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var values codec.Values
		want := map[string]string{}
		for range 1 + random.IntN(4) {
			changes := codec.Changes{Cleared: random.IntN(8) == 0}
			if changes.Cleared {
				clear(want)
			}
			for _, n := range random.Perm(40)[:random.IntN(40)] {
				key := fmt.Sprintf("%0*d", 1+n%3*70, n) // lengths of one and two bytes
				ch := codec.Change{Key: key, Remove: random.IntN(3) == 0, Data: make([]byte, random.IntN(300))}
				changes.List = append(changes.List, ch)
				if delete(want, key); !ch.Remove {
					want[key] = string(ch.Data)
				}
			}
			values = values.With(&changes)
		}
		var keys []string
		for key, data := range values.All() {
			keys = append(keys, string(key))
			if string(data) != want[string(key)] {
				t.Fatalf("seed %d: %q is %q, want %q", seed, key, data, want[string(key)])
			}
		}
		if !slices.Equal(keys, slices.Sorted(maps.Keys(want))) || values.Len() != len(want) || values.Empty() != (len(want) == 0) {
			t.Fatalf("seed %d: the keys are %q, want those of %v", seed, keys, want)
		}
		for n := range 40 { // more lookups than an index needs
			key := fmt.Sprintf("%0*d", 1+n%3*70, n)
			data, ok := values.Get(key)
			if wanted, there := want[key]; ok != there || string(data) != wanted {
				t.Fatalf("seed %d: Get(%q): %q, %v, want %q, %v", seed, key, data, ok, wanted, there)
			}
		}
	}
}

// Ten times as many changes cost ten times as much, or a little more for the order.
func BenchmarkChanges(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var changes codec.Changes
			for i := range n {
				changes.List = append(changes.List, codec.Change{Key: fmt.Sprint(i), Data: []byte{1}})
			}
			for b.Loop() {
				codec.Values{}.With(&changes)
			}
		})
	}
}

// Bytes that are no values are refused, wherever they are cut or turned round.
func TestDamagedBody(t *testing.T) {
	id, e := [32]byte{1}, codec.Envelope{Credential: codec.Credential{Count: 1, Floor: 1}}
	body := codec.Body{Created: 1, User: []byte("ann")}
	changes := codec.Changes{List: []codec.Change{{Key: "a", Data: []byte{1}}, {Key: "b", Data: []byte{2}}}}
	codec.EncodeSession(id, &e, [codec.WriteIDSize]byte{}, &body, &changes, nil)
	for name, payload := range map[string][]byte{
		"cut":             e.Payload[:len(e.Payload)-1],
		"keys turned":     append(bytes.Clone(e.Payload[:len(e.Payload)-8]), 1, 'b', 1, 2, 1, 'a', 1, 1),
		"a key twice":     append(bytes.Clone(e.Payload), 1, 'b', 1, 2),
		"an empty length": append(bytes.Clone(e.Payload), 0x80),
		"persistence":     append(append(bytes.Clone(e.Payload[:4]), 9), e.Payload[5:]...),
		"nothing":         nil,
	} {
		damaged := e
		damaged.Payload = payload
		if err := damaged.OpenBody(new(codec.Body), id, nil); err != codec.ErrDamaged {
			t.Errorf("%s: %v", name, err)
		}
	}
}
