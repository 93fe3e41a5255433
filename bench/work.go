package bench

import (
	"fmt"
	"strings"
)

// A work is what a request does with its session.
type work string

const (
	unused     work = "unused"     // nothing: the cookie is there all the same
	read       work = "read"       // reads one value
	write      work = "write"      // sets one value
	create     work = "new"        // begins a session and fills it
	regenerate work = "regenerate" // gives the session's cookie another key, as at login
	renew      work = "renew"      // reads one value when the session's cookie is due for renewal
	count      work = "count"      // adds one to a value
	total      work = "total"      // answers with that value
)

// allWorks are those that are measured one by one.
var allWorks = []work{unused, read, write, create, regenerate, renew}

// A payload is what a session holds.
type payload struct {
	name   string
	values map[string]any
}

// The keys that handlers read and write; a payload has the first two.
const (
	nameKey  = "name"
	seenKey  = "seen"
	countKey = "count"
)

// payloads are the three sizes: three short values, ten values of 2 KiB together, 64 KiB in 64 values.
var payloads = []payload{newPayload("small", 3, 12), newPayload("2 KiB", 10, 228), newPayload("64 KiB", 66, 1024)}

var small = payloads[0]

func newPayload(name string, keys, size int) payload {
	p := payload{name, map[string]any{nameKey: "Ann Example", seenKey: 0}}
	for i := len(p.values); i < keys; i++ {
		p.values[fmt.Sprintf("key %d", i)] = strings.Repeat(string(rune('a'+i%26)), size)
	}
	return p
}

// size is roughly how many bytes a session with the payload takes, whoever encodes it.
func (p payload) size() int {
	n := 0
	for key, v := range p.values {
		text, _ := v.(string)
		n += len(key) + len(text) + 4
	}
	return n
}
