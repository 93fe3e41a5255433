package session

import "example.com/session/internal/codec"

// A Key is the name of a session value together with its type; declare it as a constant:
//
//	const userID session.Key[int64] = "user_id"
//
// Values are encoded as CBOR (RFC 8949) when they are set. T can be whatever encoding/json could handle, and
// more: byte slices, times and maps with other keys than strings keep their type. Only exported fields of a
// struct are kept; a `cbor:"name"` or `json:"name"` tag renames them. A type with a form of its own has it from
// encoding.BinaryMarshaler or encoding.TextMarshaler, and the way back; MarshalJSON is not called.
//
// A value that would not come back is refused where it is set, see Session.Err: a time outside of the years 0 to 9999 or
// in a zone that is no whole minutes away from UTC; a struct without exported fields, such as an atomic.Int64 or the
// error of errors.New; what is in an interface other than any; a type whose methods fail, panic, or bring another value
// back; maps in which two keys have become one; what is nested more than 10,000 deep, or contains itself.
//
// A stored value that does not decode as T (an older version of the program may have set it) reads as absent,
// is reported to the logger, and stays in the store until something else is set.
type Key[T any] string

// Get returns a copy of the value, or the zero value and false if there is none. Changes of a map or a slice are lost
// without a Set; Update does both.
func (k Key[T]) Get(s *Session) (T, bool) {
	var v T
	ok := s.Decode(string(k), &v)
	if !ok {
		v = *new(T) // decoding may have got half way
	}
	return v, ok
}

// GetOr returns the value, or fallback if there is none.
func (k Key[T]) GetOr(s *Session, fallback T) T {
	if v, ok := k.Get(s); ok {
		return v
	}
	return fallback
}

// Has reports whether there is a value, of whatever type.
func (k Key[T]) Has(s *Session) bool { return s.Has(string(k)) }

// Set stores a copy of the value.
func (k Key[T]) Set(s *Session, v T) {
	data, err := codec.EncodeAs(v)
	s.put(string(k), data, err)
}

// SetDefault stores the value if there is none, and returns the one that is there then.
func (k Key[T]) SetDefault(s *Session, v T) T {
	var result T
	first := true                  // later calls come when the session is saved, perhaps by another goroutine
	data, err := codec.EncodeAs(v) // what v refers to may be another one then
	s.update(string(k), func(old []byte, ok bool) ([]byte, error) {
		var there T // decoding into v would change what v refers to
		found := ok && s.decode(s.core.slot.id, string(k), old, &there)
		if first {
			if result = v; found {
				result = there
			}
			first = false
		}
		if found {
			return old, nil
		}
		return data, err
	})
	return result
}

// Update replaces the value by fn of it, or of the zero value if there is none, and returns the result. It is
// atomic: if another request, in whatever process, changed the value meanwhile, fn is applied once more, to the
// changed one. So fn may be called several times, the last time when the response begins, and possibly on
// another goroutine. It must not use the session.
//
// Each call decodes and encodes the whole value: what adds many elements to a list collects them, and calls it once.
func (k Key[T]) Update(s *Session, fn func(T) T) T {
	var result T
	first := true // later calls come when the session is saved, perhaps by another goroutine
	s.update(string(k), func(old []byte, ok bool) ([]byte, error) {
		var v T
		if ok && !s.decode(s.core.slot.id, string(k), old, &v) {
			v = *new(T)
		}
		v = fn(v)
		if first {
			result, first = v, false
		}
		return codec.EncodeAs(v)
	})
	return result
}

// Pop removes the value and returns it, or the zero value and false if there is none: for messages that are
// shown once.
func (k Key[T]) Pop(s *Session) (T, bool) {
	v, ok := k.Get(s)
	if ok {
		s.Delete(string(k))
	}
	return v, ok
}

// Delete removes the value. A missing one is no error.
func (k Key[T]) Delete(s *Session) { s.Delete(string(k)) }
