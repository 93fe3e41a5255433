package codec

import (
	"encoding/binary"
	"iter"
	"slices"
	"strings"
)

// Values are a session's values as its record holds them: each key and each encoded value behind its length, in
// ascending order of the keys. Most requests read one or two of a few, so that a list would cost more than to look
// through the bytes (BenchmarkRequest/read). They are never modified in place.
type Values struct {
	packed []byte
	passed int      // by lookups, on their way
	index  []uint32 // where each begins, once many were passed
}

// manyPassed is from how many passed values on an index pays.
const manyPassed = 100

// Get returns the value under the key. Many calls build an index, so Get must not be called concurrently.
func (v *Values) Get(key string) ([]byte, bool) {
	if v.passed > manyPassed {
		return v.search(key)
	}
	for rest := v.packed; len(rest) > 0; v.passed++ {
		var k, data []byte
		k, rest = cut(rest)
		data, rest = cut(rest)
		if string(k) == key {
			return data, true
		}
		if string(k) > key {
			break
		}
	}
	return nil, false
}

// cut takes the next string off what read has checked.
func cut(p []byte) (s, rest []byte) {
	from, to := span(p, 0)
	return p[from:to:to], p[to:]
}

// search is Get by the index.
func (v *Values) search(key string) ([]byte, bool) {
	if v.index == nil {
		for rest := v.packed; len(rest) > 0; {
			v.index = append(v.index, uint32(len(v.packed)-len(rest)))
			_, rest = cut(rest)
			_, rest = cut(rest)
		}
	}
	i, ok := slices.BinarySearchFunc(v.index, key, func(at uint32, key string) int {
		k, _ := cut(v.packed[at:])
		return strings.Compare(string(k), key)
	})
	if !ok {
		return nil, false
	}
	_, rest := cut(v.packed[v.index[i]:])
	data, _ := cut(rest)
	return data, true
}

// Len returns the number of values, at the price of a look through all.
func (v Values) Len() int {
	n := 0
	for range v.All() {
		n++
	}
	return n
}

// All goes through the values in ascending order of the keys.
func (v Values) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, data []byte) bool) {
		for rest := v.packed; len(rest) > 0; {
			var key, data []byte
			key, rest = cut(rest)
			data, rest = cut(rest)
			if !yield(key, data) {
				return
			}
		}
	}
}

// read takes what is left of a payload, and reports whether it is what append makes.
func (v *Values) read(packed []byte) bool {
	var last []byte
	for at, first := 0, true; at < len(packed); first = false {
		from, to := span(packed, at)
		_, end := span(packed, to)
		if end < 0 {
			return false
		}
		key := packed[from:to]
		if !first && string(key) <= string(last) {
			return false
		}
		last, at = key, end
	}
	*v = Values{packed: packed}
	return true
}

// span returns where the string begins and ends whose length is at that place, or an end of -1 if nothing of the kind is.
func span(p []byte, at int) (from, to int) {
	if uint(at) >= uint(len(p)) {
		return 0, -1
	}
	n, size := uint64(p[at]), 1
	if n >= 0x80 { // few have so long a one
		n, size = binary.Uvarint(p[at:])
	}
	if from = at + size; size <= 0 || n > uint64(len(p)-from) {
		return 0, -1
	}
	return from, from + int(n)
}

// Changes are what is to be made of some Values. The zero value leaves them as they are.
type Changes struct {
	Cleared bool     // all are removed first
	List    []Change // in any order, at most one for a key
}

// A Change sets or removes the value under one key.
type Change struct {
	Key    string
	Data   []byte
	Remove bool
}

func (c *Changes) size() int {
	n := 0
	for i := range c.List {
		n += 2*5 + len(c.List[i].Key) + len(c.List[i].Data) // a length below 2³² takes 5 bytes at most
	}
	return n
}

// appendChanged appends the values with the changes made to them. It sorts the changes.
func (v Values) appendChanged(b []byte, changes *Changes) []byte {
	list := changes.List
	if len(list) > 1 {
		slices.SortFunc(list, func(x, y Change) int { return strings.Compare(x.Key, y.Key) })
	}
	kept := v.packed
	if changes.Cleared {
		kept = nil
	}
	for i := range list {
		ch := &list[i]
		kept, b = copyBelow(b, kept, ch.Key)
		if !ch.Remove {
			b = binary.AppendUvarint(b, uint64(len(ch.Key)))
			b = append(b, ch.Key...)
			b = AppendBytes(b, ch.Data)
		}
	}
	return append(b, kept...)
}

// copyBelow appends the values whose keys come before the given one, and returns those that come after it.
func copyBelow(b, packed []byte, key string) (after, _ []byte) {
	for rest := packed; len(rest) > 0; {
		after = rest
		var k []byte
		k, rest = cut(rest)
		_, rest = cut(rest)
		if string(k) >= key {
			below := packed[:len(packed)-len(after)]
			if string(k) == key {
				after = rest
			}
			return after, append(b, below...)
		}
	}
	return nil, append(b, packed...)
}

// With returns the values with the changes made to them.
func (v Values) With(changes *Changes) Values {
	return Values{packed: v.appendChanged(make([]byte, 0, len(v.packed)+changes.size()), changes)}
}

// Empty reports whether there are none.
func (v Values) Empty() bool { return len(v.packed) == 0 }
