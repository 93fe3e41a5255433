package codec

import "reflect"

// Checksummed returns what begins with a checksum that fits.
func Checksummed(id [32]byte, rest []byte) []byte {
	return finish(id, append(make([]byte, checksumSize), rest...))
}

// EncodeTyped is EncodeAs for a value of a type that a test has made up.
func EncodeTyped(v reflect.Value) ([]byte, error) { return encode(v.Interface(), v, checker{}) }
