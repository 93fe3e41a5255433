package codec

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
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

var decMode = sync.OnceValue(func() cbor.DecMode { return newDecMode(cbor.DupMapKeyQuiet) })

// strictMode is decMode, but for maps in which two keys have become one.
var strictMode = sync.OnceValue(func() cbor.DecMode { return newDecMode(cbor.DupMapKeyEnforcedAPF) })

func newDecMode(twice cbor.DupMapKeyMode) cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:       twice,
		IntDec:          cbor.IntDecConvertSignedOrBigInt,
		BigIntDec:       cbor.BigIntDecodePointer,
		UTF8:            cbor.UTF8DecodeInvalid, // a Go string holds any bytes
		DefaultMapType:  reflect.TypeFor[map[any]any](),
		TextUnmarshaler: cbor.TextUnmarshalerTextString,
		// Every encoded value must decode, so the library's limits are out of the way; the size of a record is
		// limited instead.
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
		MaxNestedLevels:  65535,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}

// EncodeValue encodes what will be asked for without its type. It fails if that would not bring it back.
func EncodeValue(v any) ([]byte, error) {
	return encode(v, reflect.ValueOf(v), checker{untyped: true})
}

// EncodeAs is EncodeValue for what will be asked for as a T.
func EncodeAs[T any](v T) ([]byte, error) {
	if reflect.TypeFor[T]().Kind() == reflect.Interface {
		held := v // lest every v escape
		return encode(v, reflect.ValueOf(&held).Elem(), checker{})
	}
	boxed := any(v)
	return encode(boxed, reflect.ValueOf(boxed), checker{})
}

// encode encodes v, which r is about. A panic of its methods is an error like another.
func encode(v any, r reflect.Value, c checker) (data []byte, err error) {
	defer recovered(&err)
	if err := c.check(r, 0); err != nil {
		return nil, err
	}
	return encMode().Marshal(v)
}

// recovered makes an error of a panic in a method of a value.
func recovered(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = fmt.Errorf("one of its methods panics: %w", p)
	default: // it may quote the value
		*err = fmt.Errorf("one of its methods panics with a %T", p)
	}
}

// DecodeValue decodes into what dst points to.
func DecodeValue(data []byte, dst any) (err error) {
	defer recovered(&err)
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
