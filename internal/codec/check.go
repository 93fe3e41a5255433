package codec

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// A value that is set has to come back, or setting it has to fail: a loss would show in another request, and long after. For
// most types that is decided once, by the type. Values are looked at where it does not decide, and decoded again where they
// have a form of their own.

// maxDepth bounds how deep a value may be nested: a value that contains itself has no end, and would take the
// process with it. It is far below what overflows the stack, and below what decoding accepts.
const maxDepth = 10_000

var errDeep = fmt.Errorf("it is nested more than %d deep, or contains itself", maxDepth)

// A form is what a type says of its values.
type form struct {
	sure  bool  // all of them come back
	fault error // none does
	time  bool  // it is time.Time
	own   bool  // it encodes or decodes itself
}

var forms sync.Map // reflect.Type to *form

func formOf(t reflect.Type) *form {
	if known, ok := forms.Load(t); ok {
		return known.(*form)
	}
	f := &form{time: t == reflect.TypeFor[time.Time](), own: hasOwnForm(t), sure: comesBack(t, make(map[reflect.Type]bool))}
	if t.Kind() == reflect.Struct && !f.own {
		f.fault = checkStruct(t)
	}
	forms.Store(t, f)
	return f
}

// hasOwnForm reports whether the type encodes or decodes itself.
func hasOwnForm(t reflect.Type) bool {
	if t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer {
		return false
	}
	p := reflect.PointerTo(t)
	for _, method := range [...]reflect.Type{
		reflect.TypeFor[cbor.Marshaler](), reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.TextMarshaler](),
		reflect.TypeFor[cbor.Unmarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	} {
		if p.Implements(method) {
			return true
		}
	}
	return t == reflect.TypeFor[cbor.Tag]()
}

// comesBack reports whether every value of the type does, or the encoder refuses the type; above are the types that it is a
// part of.
func comesBack(t reflect.Type, above map[reflect.Type]bool) bool {
	switch {
	case t == reflect.TypeFor[big.Int]():
		return true
	case above[t], hasOwnForm(t): // it may contain itself, and have no end
		return false
	}
	above[t] = true
	defer delete(above, t)
	switch t.Kind() {
	case reflect.Interface:
		return false
	case reflect.Pointer:
		return !canBeNull(t.Elem()) && comesBack(t.Elem(), above)
	case reflect.Slice, reflect.Array:
		return comesBack(t.Elem(), above)
	case reflect.Map:
		return isPlainKey(t.Key()) && comesBack(t.Elem(), above)
	case reflect.Struct:
		if checkStruct(t) != nil {
			return false
		}
		for f := range t.Fields() {
			if encoded(f) && (f.Anonymous && f.Type.Kind() == reflect.Pointer || !comesBack(f.Type, above)) {
				return false
			}
		}
	}
	return true
}

// canBeNull reports whether a value of the type can look like a nil pointer to it.
func canBeNull(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return true
	}
	return false
}

// isPlainKey reports whether different keys of the type stay different, and can be keys of any map.
func isPlainKey(t reflect.Type) bool {
	return !hasOwnForm(t) && (t.Kind() <= reflect.Float64 || t.Kind() == reflect.String)
}

// encoded reports whether the field is part of its struct's encoding.
func encoded(f reflect.StructField) bool {
	return (f.IsExported() || isEmbedded(f)) && fieldTag(f) != "-"
}

func fieldTag(f reflect.StructField) string {
	if tag := f.Tag.Get("cbor"); tag != "" {
		return tag
	}
	return f.Tag.Get("json")
}

// isEmbedded reports whether the field's own fields can count as its struct's.
func isEmbedded(f reflect.StructField) bool { return f.Anonymous && structOf(f.Type) != nil }

// structOf returns the struct that is behind a type, nil if there is none.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// checkStruct says why no value of a struct comes back.
func checkStruct(t reflect.Type) error {
	names := fieldNames{names: make(map[string]bool), above: make(map[reflect.Type]bool)}
	names.add(t)
	switch {
	case t.NumField() == 0:
		return nil
	case names.embedded != nil:
		return fmt.Errorf("%v embeds %v, which is more than its fields: give it a name by a tag `cbor:\"name\"`", t, names.embedded)
	case names.twice != "":
		return fmt.Errorf("%v has two fields named %q: a tag `cbor:\"name\"` tells them apart, `cbor:\"-\"` leaves one out", t, names.twice)
	case !names.exported:
		return fmt.Errorf("%v has no exported field, and no method such as MarshalText", t)
	}
	return nil
}

// FieldNames are what a struct's fields are called in its encoding.
type fieldNames struct {
	names    map[string]bool
	above    map[reflect.Type]bool
	exported bool         // there are exported fields, with a name or without
	twice    string       // a name of two fields, of which one would be lost
	embedded reflect.Type // one that its fields do not stand for
}

func (n *fieldNames) add(t reflect.Type) {
	n.above[t] = true
	defer delete(n.above, t)
	for f := range t.Fields() {
		n.exported = n.exported || f.IsExported() && !isEmbedded(f)
		if !encoded(f) {
			continue
		}
		name, options, _ := strings.Cut(fieldTag(f), ",")
		inner := structOf(f.Type)
		switch {
		case name != "" || !isEmbedded(f):
			n.exported = true
		case hasOwnForm(inner), n.above[inner]:
			n.embedded = inner
			continue
		default:
			n.add(inner)
			continue
		}
		if name == "" {
			name = f.Name
		}
		if strings.Contains(options, "keyasint") {
			name = "number " + name
		}
		if n.names[name] {
			n.twice = name
		}
		n.names[name] = true
	}
}

// A checker looks whether a value comes back.
type checker struct {
	untyped bool // it will be decoded without its type, as what is in an interface
}

func (c checker) check(v reflect.Value, depth int) error {
	if !v.IsValid() {
		return nil
	}
	switch f := formOf(v.Type()); {
	case f.sure:
		return nil
	case depth == maxDepth:
		return errDeep
	case f.fault != nil:
		return f.fault
	case f.time:
		return checkTime(v.Interface().(time.Time))
	case f.own:
		return c.checkOwn(v)
	}
	depth++
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if !c.untyped && isNull(v.Elem()) {
			return fmt.Errorf("a pointer to what is nil or zero would come back as a nil %v", v.Type())
		}
		return c.check(v.Elem(), depth)
	case reflect.Interface:
		if !v.IsNil() && v.NumMethod() > 0 {
			return fmt.Errorf("there is no telling what to decode into a %v", v.Type())
		}
		return checker{untyped: true}.check(v.Elem(), depth)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := c.check(v.Index(i), depth); err != nil {
				return err
			}
		}
	case reflect.Map:
		return c.checkMap(v, depth)
	case reflect.Struct:
		return c.checkFields(v, depth)
	}
	return nil
}

func (c checker) checkMap(v reflect.Value, depth int) error {
	for entry := v.MapRange(); entry.Next(); {
		if err := errors.Join(c.check(entry.Key(), depth), c.check(entry.Value(), depth)); err != nil {
			return err
		}
	}
	switch key := v.Type().Key(); {
	case isPlainKey(key) || v.Len() == 0:
		return nil
	case key.Kind() == reflect.Pointer && !c.untyped:
		return fmt.Errorf("the keys of a %v would be other pointers", v.Type())
	}
	_, _, err := c.roundTrip(v)
	return err
}

func (c checker) checkFields(v reflect.Value, depth int) error {
	if depth == maxDepth {
		return errDeep
	}
	for i := range v.NumField() {
		f, field := v.Type().Field(i), v.Field(i)
		if !encoded(f) {
			continue
		}
		if isEmbedded(f) && field.Kind() == reflect.Pointer && !field.IsNil() {
			if !f.IsExported() {
				return fmt.Errorf("%v embeds a pointer to %v, which is not exported", v.Type(), f.Type.Elem())
			}
			field = field.Elem()
		}
		if err := c.checkField(&f, field, depth); err != nil {
			return err
		}
	}
	return nil
}

// checkField is check for a field. Of one that is embedded, the fields count as the struct's.
func (c checker) checkField(f *reflect.StructField, v reflect.Value, depth int) error {
	if name, _, _ := strings.Cut(fieldTag(*f), ","); name == "" && isEmbedded(*f) && v.Kind() == reflect.Struct {
		return c.checkFields(v, depth+1)
	}
	return c.check(v, depth)
}

// checkTime refuses what RFC 3339 cannot write down: other years, and time zones as they were before 1900 or so.
func checkTime(t time.Time) error {
	_, offset := t.Zone()
	switch {
	case t.Year() < 0 || t.Year() > 9999:
		return errors.New("it has a time outside of the years 0 to 9999")
	case offset%60 != 0 || offset <= -24*3600 || offset >= 24*3600:
		return errors.New("it has a time in a zone that is no whole minutes, or a day or more, away from UTC: use its UTC method")
	}
	return nil
}

// checkOwn is check for what encodes or decodes itself: it has to be the same after the way there and back.
func (c checker) checkOwn(v reflect.Value) error {
	data, back, err := c.roundTrip(v)
	if err != nil || reflect.DeepEqual(v.Interface(), back.Interface()) {
		return err
	}
	again, err := encMode().Marshal(back.Interface())
	if err != nil {
		return fmt.Errorf("a %v cannot be encoded again once it was decoded", v.Type())
	}
	if !bytes.Equal(data, again) && !sameValue(data, again) {
		return fmt.Errorf("a %v would come back as another one", v.Type())
	}
	return checkBeside(v, back)
}

// sameValue reports whether two encodings differ at most in the order of maps: not every type sorts them.
func sameValue(a, b []byte) bool {
	var x, y any
	return decMode().Unmarshal(a, &x) == nil && decMode().Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// checkBeside looks at the fields of a struct beside one that is embedded and lends it its methods: these do not know them.
func checkBeside(v, back reflect.Value) error {
	if v.Kind() != reflect.Struct {
		return nil
	}
	lent := false
	for f := range v.Type().Fields() {
		lent = lent || isEmbedded(f) && hasOwnForm(structOf(f.Type))
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !lent || !f.IsExported() || isEmbedded(f) || !encoded(f) {
			continue
		}
		one, err1 := encMode().Marshal(v.Field(i).Interface())
		other, err2 := encMode().Marshal(back.Field(i).Interface())
		if err1 != nil || err2 != nil || !bytes.Equal(one, other) {
			return fmt.Errorf("%v is encoded as what it embeds, without its field %s", v.Type(), f.Name)
		}
	}
	return nil
}

// roundTrip encodes the value and decodes it again.
func (c checker) roundTrip(v reflect.Value) (data []byte, back reflect.Value, err error) {
	if data, err = encMode().Marshal(v.Interface()); err != nil {
		return nil, back, err
	}
	dst := reflect.New(v.Type())
	// The decoder's own error may quote the value.
	if strictMode().Unmarshal(data, dst.Interface()) != nil {
		return nil, back, fmt.Errorf("a %v does not decode what it encodes", v.Type())
	}
	var untyped any
	if c.untyped && strictMode().Unmarshal(data, &untyped) != nil {
		return nil, back, fmt.Errorf("a %v cannot be decoded without its type: use a Key", v.Type())
	}
	return data, dst.Elem(), nil
}

// isNull reports whether the value is encoded as a nil pointer would be.
func isNull(v reflect.Value) bool {
	switch f := formOf(v.Type()); {
	case f.time:
		return v.Interface().(time.Time).IsZero()
	case f.own && !f.sure:
		data, err := encMode().Marshal(v.Interface())
		return err == nil && (bytes.Equal(data, []byte{0xf6}) || bytes.Equal(data, []byte{0xf7}))
	}
	return canBeNull(v.Type()) && v.IsNil()
}
