package session

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Values are CBOR in its deterministic form (RFC 8949 section 4.2.1), so that setting what is there already can
// be told from a change.

var encMode = sync.OnceValue(func() cbor.EncMode {
	opts := cbor.CoreDetEncOptions()
	opts.ShortestFloat = cbor.ShortestFloatNone // keeps NaN payloads, and is not worth the time
	opts.Time = cbor.TimeRFC3339Nano
	opts.TimeTag = cbor.EncTagRequired
	opts.TextMarshaler = cbor.TextMarshalerTextString
	mode, err := opts.EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

var decMode = sync.OnceValue(func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		IntDec:          cbor.IntDecConvertSignedOrBigInt,
		BigIntDec:       cbor.BigIntDecodePointer,
		UTF8:            cbor.UTF8DecodeInvalid, // a Go string holds any bytes
		DefaultMapType:  reflect.TypeFor[map[any]any](),
		TextUnmarshaler: cbor.TextUnmarshalerTextString,
		// What was encoded must decode, so the library's limits are out of the way; the size of a record is
		// limited instead.
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
		MaxNestedLevels:  65535,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
})

// maxDepth bounds how deep a value may be nested: a value that contains itself has no end, and would take the
// process with it. It is far below what overflows the stack, and below what decoding accepts.
const maxDepth = 10_000

func encodeValue(v any) ([]byte, error) {
	if v != nil && unbounded(reflect.TypeOf(v)) && deeper(reflect.ValueOf(v), maxDepth) {
		return nil, fmt.Errorf("it is nested more than %d deep, or contains itself", maxDepth)
	}
	return encMode().Marshal(v)
}

var unboundedTypes sync.Map // reflect.Type to bool

// unbounded reports whether the type says nothing about the depth of its values: it contains itself or an
// interface.
func unbounded(t reflect.Type) bool {
	if t.Kind() <= reflect.Complex128 || t.Kind() == reflect.String {
		return false
	}
	if known, ok := unboundedTypes.Load(t); ok {
		return known.(bool)
	}
	found := findUnbounded(t, make(map[reflect.Type]bool))
	unboundedTypes.Store(t, found)
	return found
}

// findUnbounded is unbounded for a type within those in above.
func findUnbounded(t reflect.Type, above map[reflect.Type]bool) bool {
	if above[t] || t.Kind() == reflect.Interface {
		return true
	}
	if encodesItself(t) {
		return false
	}
	above[t] = true
	defer delete(above, t)
	switch t.Kind() {
	case reflect.Map:
		return findUnbounded(t.Key(), above) || findUnbounded(t.Elem(), above)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return findUnbounded(t.Elem(), above)
	case reflect.Struct:
		for f := range t.Fields() {
			if encoded(f) && findUnbounded(f.Type, above) {
				return true
			}
		}
	}
	return false
}

// deeper reports whether the value is nested more than limit deep. Of a value that contains itself it sees one
// path only.
func deeper(v reflect.Value, limit int) bool {
	if !v.IsValid() || !unbounded(v.Type()) || encodesItself(v.Type()) {
		return false
	}
	if limit == 0 {
		return true
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return deeper(v.Elem(), limit-1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if deeper(v.Index(i), limit-1) {
				return true
			}
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			if deeper(entry.Key(), limit-1) || deeper(entry.Value(), limit-1) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if encoded(v.Type().Field(i)) && deeper(v.Field(i), limit-1) {
				return true
			}
		}
	}
	return false
}

// encoded reports whether the field is part of its struct's encoding.
func encoded(f reflect.StructField) bool {
	tag, ok := f.Tag.Lookup("cbor")
	if !ok {
		tag = f.Tag.Get("json")
	}
	return (f.IsExported() || f.Anonymous) && tag != "-"
}

// encodesItself reports whether the type has a method of its own for that.
func encodesItself(t reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return false
	}
	p := reflect.PointerTo(t)
	for _, method := range [...]reflect.Type{
		reflect.TypeFor[cbor.Marshaler](), reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.TextMarshaler](),
	} {
		if t.Implements(method) || p.Implements(method) {
			return true
		}
	}
	return false
}

func decodeValue(data []byte, dst any) error {
	if err := decMode().Unmarshal(data, dst); err != nil {
		return err
	}
	if v, ok := dst.(*any); ok {
		*v = withStringKeys(*v)
	}
	return nil
}

// withStringKeys turns maps that were decoded without a type into map[string]any where all keys are strings.
func withStringKeys(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withStringKeys(v[i])
		}
	case map[any]any:
		named := make(map[string]any, len(v))
		for key, elem := range v {
			name, ok := key.(string)
			if !ok {
				return withOtherKeys(v)
			}
			named[name] = withStringKeys(elem)
		}
		return named
	}
	return v
}

// withOtherKeys is withStringKeys for a map with other keys in it. It does not change the map, in which a NaN could
// not be found.
func withOtherKeys(m map[any]any) map[any]any {
	converted := make(map[any]any, len(m))
	for key, elem := range m {
		converted[key] = withStringKeys(elem)
	}
	return converted
}
