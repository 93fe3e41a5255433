package session

import (
	"math"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Values are CBOR in its deterministic form (RFC 8949 section 4.2.1), so that setting what is there already can
// be told from a change.

var encoding = sync.OnceValue(func() cbor.EncMode {
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

var decoding = sync.OnceValue(func() cbor.DecMode {
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

func encodeValue(v any) ([]byte, error) { return encoding().Marshal(v) }

func decodeValue(data []byte, dst any) error {
	if err := decoding().Unmarshal(data, dst); err != nil {
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
			v[key] = withStringKeys(elem)
			if name, ok := key.(string); ok {
				named[name] = v[key]
			}
		}
		if len(named) == len(v) {
			return named
		}
	}
	return v
}
