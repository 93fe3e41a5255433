package codec_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"example.com/session/internal/codec"
)

// Types that encode themselves, or fail to.
type (
	textual   struct{ N int }    // and back
	textOnly  struct{ N int }    // and not back
	bytesOnly struct{ N int }    // likewise
	forgetful struct{ N int }    // decodes nothing
	sameText  int                // whatever it is
	strict    string             // decodes from what starts with an x
	deref     struct{ N *int }   // panics on nil
	panics    struct{ N int }    // on decoding
	quotes    struct{ S string } // panics with its value
	nullable  struct{ OK bool }  // is encoded as null
	malformed struct{ N int }    // is encoded as no CBOR
	unsorted  struct {           // encodes a map as it comes
		m       [64]int
		decoded bool // which is no part of its value
	}
	jsonOnly struct{ n int } // has a form that is not asked for
)

func (x *textual) MarshalText() ([]byte, error)  { return fmt.Append(nil, x.N), nil }
func (x *textual) UnmarshalText(b []byte) error  { _, err := fmt.Sscan(string(b), &x.N); return err }
func (textOnly) MarshalText() ([]byte, error)    { return []byte("x"), nil }
func (bytesOnly) MarshalBinary() ([]byte, error) { return []byte("x"), nil }
func (x forgetful) MarshalText() ([]byte, error) { return fmt.Append(nil, x.N), nil }
func (*forgetful) UnmarshalText([]byte) error    { return nil }
func (sameText) MarshalText() ([]byte, error)    { return []byte("same"), nil }
func (*sameText) UnmarshalText([]byte) error     { return nil }
func (x deref) MarshalText() ([]byte, error)     { return fmt.Append(nil, *x.N), nil }
func (x *deref) UnmarshalText(b []byte) error {
	x.N = new(int)
	_, err := fmt.Sscan(string(b), x.N)
	return err
}
func (panics) MarshalBinary() ([]byte, error)    { return []byte("x"), nil }
func (x *panics) UnmarshalBinary(b []byte) error { x.N = int(b[len(b)]); return nil }
func (x quotes) MarshalText() ([]byte, error)    { panic(x.S) }
func (nullable) MarshalCBOR() ([]byte, error)    { return []byte{0xf6}, nil }
func (x *nullable) UnmarshalCBOR([]byte) error   { return nil }
func (malformed) MarshalCBOR() ([]byte, error)   { return []byte{0xff}, nil }
func (*malformed) UnmarshalCBOR([]byte) error    { return nil }
func (jsonOnly) MarshalJSON() ([]byte, error)    { return []byte("1"), nil }
func (x unsorted) MarshalCBOR() ([]byte, error) {
	m := make(map[int]int)
	for i, n := range x.m {
		m[i] = n
	}
	return cbor.Marshal(m)
}

func (x *unsorted) UnmarshalCBOR(b []byte) error {
	var m map[int]int
	err := cbor.Unmarshal(b, &m)
	x.decoded = true
	for i := range x.m {
		x.m[i] = m[i]
	}
	return err
}

func (x *strict) UnmarshalText(b []byte) error {
	if *x = strict(b); !strings.HasPrefix(string(b), "x") {
		return errors.New("it does not start with an x")
	}
	return nil
}

// Types that are no more than their fields.
type (
	inner    struct{ X int }
	Exported struct{ X int }
	byValue  struct {
		inner
		Y int
	}
	byPointer struct {
		*inner
		Y int
	}
	byExported struct {
		*Exported
		Y int
	}
	Ring struct {
		*Ring
		Y int
	}
	hidden struct {
		Exported
		X int
	}
	oneName struct {
		A int `cbor:"x"`
		B int `json:"x"`
	}
	named struct {
		Exported `json:"inner"`
		X        int
	}
	numbered struct {
		A int `cbor:"1,keyasint"`
		B int `cbor:"1"`
		C int `cbor:"-"`
	}
	list struct {
		_ struct{} `cbor:",toarray"`
		A int
	}
	lends struct {
		time.Time
		Note string
	}
	lendsAlone struct{ time.Time }
	lendsNot   struct {
		time.Time
		netip.Addr
		Note string
	}
	guarded struct {
		sync.Mutex
		A int
	}
	mixed struct {
		A int
		b int
	}
	node struct {
		Next *node
		N    int
	}
	interfaces struct {
		Err error
		Any any
	}
)

func keptAs[T any](v T) func() ([]byte, any, error) {
	return func() ([]byte, any, error) {
		data, err := codec.EncodeAs(v)
		if err != nil {
			return nil, nil, err
		}
		var back T
		err = codec.DecodeValue(data, &back)
		return data, back, err
	}
}

// A key of a type gives back each value that it takes, and refuses others at once.
func TestValuesComeBackAsTheirType(t *testing.T) {
	n, zero, one := 1, time.Time{}, new(big.Float)
	one.SetPrec(300).SetString("1.23456789012345678901234567890123456789")
	var none []int
	var noPointer *int
	at := func(year int, zone *time.Location) time.Time { return time.Date(year, 2, 3, 4, 5, 6, 7, zone) }
	minutes, seconds := time.FixedZone("", 5*3600+1800), time.FixedZone("", 1172)
	for name, test := range map[string]struct {
		there func() ([]byte, any, error)
		want  any // nil: it is refused
		why   string
	}{
		"the last year":                 {there: keptAs(at(9999, minutes)), want: at(9999, minutes)},
		"the year 0":                    {there: keptAs(at(0, time.UTC)), want: at(0, time.UTC)},
		"the year 10000":                {there: keptAs(at(10000, time.UTC)), why: "years"},
		"the year -1":                   {there: keptAs(at(-1, time.UTC)), why: "years"},
		"a zone of seconds":             {there: keptAs(at(1890, seconds)), why: "zone"},
		"a zone of days":                {there: keptAs(at(2000, time.FixedZone("", 24*3600))), why: "zone"},
		"a negative zone of days":       {there: keptAs(at(2000, time.FixedZone("", -24*3600))), why: "zone"},
		"the widest zone":               {there: keptAs(at(2000, time.FixedZone("", 60-24*3600))), want: at(2000, time.FixedZone("", 60-24*3600))},
		"a time in a list":              {there: keptAs([]time.Time{at(10000, time.UTC)}), why: "years"},
		"a time as a key":               {there: keptAs(map[time.Time]int{at(10000, time.UTC): 1}), why: "years"},
		"no time":                       {there: keptAs(zero), want: zero},
		"a pointer to no time":          {there: keptAs(&zero), why: "nil *time.Time"},
		"a pointer to nil":              {there: keptAs(&none), why: "nil *[]int"},
		"a pointer to a nil pointer":    {there: keptAs(&noPointer), why: "nil **int"},
		"a pointer to null":             {there: keptAs(&nullable{}), why: "nil *codec_test.nullable"},
		"a pointer":                     {there: keptAs(&n), want: &n},
		"nil pointers":                  {there: keptAs([]*textual{nil, {N: 1}}), want: []*textual{nil, {N: 1}}},
		"errors.New":                    {there: keptAs(errors.New("x")), why: "error"},
		"a nil error":                   {there: keptAs(error(nil)), want: error(nil)},
		"an error in a struct":          {there: keptAs(interfaces{Err: errors.New("x")}), why: "error"},
		"a struct with a nil error":     {there: keptAs(interfaces{Any: "x"}), want: interfaces{Any: "x"}},
		"a fmt.Stringer":                {there: keptAs[fmt.Stringer](time.Second), why: "fmt.Stringer"},
		"atomic.Int64":                  {there: keptAs(&atomic.Int64{}), why: "atomic.Int64 has no exported field"},
		"an atomic.Int64 in a struct":   {there: keptAs(&struct{ N atomic.Int64 }{}), why: "atomic.Int64 has no exported field"},
		"a *time.Location":              {there: keptAs(map[string]*time.Location{"x": time.UTC}), why: "time.Location has no exported field"},
		"no atomic.Int64":               {there: keptAs([]*atomic.Int64{}), want: []*atomic.Int64{}},
		"JSON only":                     {there: keptAs(jsonOnly{1}), why: "no exported field"},
		"struct{}":                      {there: keptAs(map[string]struct{}{"a": {}}), want: map[string]struct{}{"a": {}}},
		"unexported beside exported":    {there: keptAs(mixed{A: 1, b: 2}), want: mixed{A: 1}},
		"a mutex beside":                {there: keptAs(&guarded{A: 1}), want: &guarded{A: 1}},
		"a text and back":               {there: keptAs(textual{3}), want: textual{3}},
		"a text and not back":           {there: keptAs(textOnly{}), why: "textOnly does not decode"},
		"bytes and not back":            {there: keptAs([]bytesOnly{{}}), why: "bytesOnly does not decode"},
		"a text that is forgotten":      {there: keptAs(forgetful{3}), why: "forgetful would come back as another"},
		"one text of two keys":          {there: keptAs(map[sameText]int{1: 1, 2: 2}), why: "map"},
		"a text that is not accepted":   {there: keptAs(strict("y")), why: "strict does not decode"},
		"a text that is accepted":       {there: keptAs(map[strict]strict{"x": "xy"}), want: map[strict]strict{"x": "xy"}},
		"a big.Float":                   {there: keptAs(one), why: "big.Float would come back as another"},
		"a big.Rat":                     {there: keptAs(big.NewRat(1, 3)), want: big.NewRat(1, 3)},
		"a big.Int":                     {there: keptAs([]*big.Int{big.NewInt(-5)}), want: []*big.Int{big.NewInt(-5)}},
		"a net.IP":                      {there: keptAs(net.IPv4(1, 2, 3, 4)), want: net.IPv4(1, 2, 3, 4)},
		"a map of addresses":            {there: keptAs(map[netip.Addr]int{netip.IPv6Loopback(): 1}), want: map[netip.Addr]int{netip.IPv6Loopback(): 1}},
		"a URL":                         {there: keptAs(&url.URL{Scheme: "http", Host: "h"}), want: &url.URL{Scheme: "http", Host: "h"}},
		"a map in any order":            {there: keptAs(unsorted{m: [64]int{1, 2, 3}}), want: unsorted{[64]int{1, 2, 3}, true}},
		"a panic on nil":                {there: keptAs(deref{}), why: "panics: runtime error: invalid memory address"},
		"a panic on nil, in a map":      {there: keptAs(map[string]deref{"x": {}}), why: "panics: runtime error"},
		"nil where nil would panic":     {there: keptAs((*deref)(nil)), want: (*deref)(nil)},
		"a panic on decoding":           {there: keptAs(panics{1}), why: "panics: runtime error: index out of range"},
		"a panic with a value":          {there: keptAs(quotes{"secret"}), why: "panics with a string"},
		"no CBOR":                       {there: keptAs(malformed{1}), why: "MarshalCBOR"},
		"a channel":                     {there: keptAs(make(chan int)), why: "unsupported type"},
		"a nil func":                    {there: keptAs(struct{ F func() }{}), why: "unsupported type"},
		"a complex number":              {there: keptAs(1i), why: "unsupported type"},
		"an embedded struct":            {there: keptAs(byValue{inner{1}, 2}), want: byValue{inner{1}, 2}},
		"an embedded pointer":           {there: keptAs(byExported{&Exported{1}, 2}), want: byExported{&Exported{1}, 2}},
		"an embedded unexported one":    {there: keptAs(byPointer{&inner{1}, 2}), why: "not exported"},
		"an embedded nil pointer":       {there: keptAs(byPointer{nil, 2}), want: byPointer{nil, 2}},
		"a field that is hidden":        {there: keptAs(hidden{Exported{1}, 2}), why: `two fields named "X"`},
		"two fields of a name":          {there: keptAs(oneName{1, 2}), why: `two fields named "x"`},
		"an embedded one with a name":   {there: keptAs(named{Exported{1}, 2}), want: named{Exported{1}, 2}},
		"numbers and names":             {there: keptAs(numbered{A: 1, B: 2}), want: numbered{A: 1, B: 2}},
		"a struct as a list":            {there: keptAs(list{A: 1}), want: list{A: 1}},
		"methods that are lent":         {there: keptAs(lends{at(2000, time.UTC), "x"}), why: "without its field Note"},
		"methods that are lent alone":   {there: keptAs(lendsAlone{at(2000, time.UTC)}), want: lendsAlone{at(2000, time.UTC)}},
		"methods of two":                {there: keptAs(lendsNot{Note: "x"}), why: "embeds netip.Addr, which is more than its fields"},
		"one that embeds itself":        {there: keptAs(Ring{&Ring{nil, 1}, 2}), why: "embeds codec_test.Ring"},
		"a list in itself":              {there: keptAs(node{&node{nil, 1}, 2}), want: node{&node{nil, 1}, 2}},
		"keys that are lists":           {there: keptAs(map[[2]int]string{{1, 2}: "a"}), want: map[[2]int]string{{1, 2}: "a"}},
		"keys that are structs":         {there: keptAs(map[inner]string{{1}: "a"}), want: map[inner]string{{1}: "a"}},
		"keys that are pointers":        {there: keptAs(map[*int]int{&n: 1}), why: "other pointers"},
		"keys that are one":             {there: keptAs(map[any]int{1: 1, int64(1): 2}), why: "map"},
		"keys that become one":          {there: keptAs(map[any]int{1.5: 1, float32(1.5): 2}), why: "map"},
		"a pointer to a float32 in any": {there: keptAs[any](1.5), want: 1.5},
		"NaN":                           {there: keptAs([]float64{math.Inf(-1), math.Copysign(0, -1)}), want: []float64{math.Inf(-1), math.Copysign(0, -1)}},
		"the largest uint64":            {there: keptAs(uint64(math.MaxUint64)), want: uint64(math.MaxUint64)},
		"an empty map":                  {there: keptAs(map[string]int{}), want: map[string]int{}},
		"a nil map":                     {there: keptAs(map[string]int(nil)), want: map[string]int(nil)},
		"invalid UTF-8":                 {there: keptAs(map[string]string{"\xff": "a\xff"}), want: map[string]string{"\xff": "a\xff"}},
		"an array":                      {there: keptAs([2][3]byte{{1}, {2}}), want: [2][3]byte{{1}, {2}}},
		"raw CBOR":                      {there: keptAs(cbor.RawMessage{0x01}), want: cbor.RawMessage{0x01}},
		"raw bytes that are no CBOR":    {there: keptAs(cbor.RawMessage{0x01, 0x02}), why: "MarshalCBOR"},
	} {
		data, got, err := test.there()
		switch {
		case test.why != "" && (data != nil || err == nil || !strings.Contains(err.Error(), test.why) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s is %x, %v, want an error with %q", name, data, err, test.why)
		case test.why == "" && (err != nil || !alike(got, test.want)):
			t.Errorf("%s: %#v comes back as %#v, %v", name, test.want, got, err)
		}
	}
}

func alike(a, b any) bool {
	if x, ok := a.(time.Time); ok {
		y := b.(time.Time)
		_, one := x.Zone()
		_, other := y.Zone()
		return x.Equal(y) && one == other
	}
	return reflect.DeepEqual(a, b)
}

// A value that is set without a type comes back without one, or is refused.
func TestValuesComeBackWithoutType(t *testing.T) {
	n, none := 1, []int(nil)
	cycle := &node{N: 1}
	cycle.Next = cycle
	for name, test := range map[string]struct {
		v, want any
		why     string
	}{
		"a pointer":            {v: &n, want: int64(1)},
		"a pointer to nil":     {v: &none, want: nil},
		"a nil pointer in any": {v: map[string]any{"a": (*int)(nil)}, want: map[string]any{"a": nil}},
		"a list of all":        {v: []any{1, "a", nil, float32(0.5), []byte{1}}, want: []any{int64(1), "a", nil, 0.5, []byte{1}}},
		"a late year within":   {v: map[string]any{"a": []any{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}}, why: "years"},
		"an error":             {v: errors.New("x"), why: "errors.errorString has no exported field"},
		"an error within":      {v: []any{fmt.Errorf("%w", errors.New("x"))}, why: "fmt.wrapError has no exported field"},
		"keys that are lists":  {v: map[[2]int]string{{1, 2}: "a"}, why: "without its type: use a Key"},
		"such keys within":     {v: map[string]any{"a": map[inner]int{{1}: 1}}, why: "without its type: use a Key"},
		"keys that are bytes":  {v: map[[2]byte]int{{1, 2}: 3}, want: map[any]any{cbor.ByteString("\x01\x02"): int64(3)}},
		"keys that are one":    {v: map[any]any{1: 1, int8(1): 2}, why: "map"},
		"a text":               {v: &textual{3}, want: "3"},
		"a ring":               {v: cycle, why: "contains itself"},
		"a key to nil":         {v: map[*int]int{nil: 1}, want: map[any]any{nil: int64(1)}},
		"nothing":              {v: nil, want: nil},
	} {
		data, err := codec.EncodeValue(test.v)
		if test.why != "" {
			if err == nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("%s is %x, %v, want an error with %q", name, data, err, test.why)
			}
			continue
		}
		var got any
		if err == nil {
			err = codec.DecodeValue(data, &got)
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s comes back as %#v, %v, want %#v", name, got, err, test.want)
		}
	}
}

// Decoding into what panics is an error: an older version of the program may have stored it.
func TestPanicInDecode(t *testing.T) {
	data, err := codec.EncodeAs([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	var p panics
	if err := codec.DecodeValue(data, &p); err == nil || !strings.Contains(err.Error(), "panics") {
		t.Errorf("decoding returns %v", err)
	}
}

// Whatever the type: what is encoded without an error comes back.
func TestRandomTypesComeBack(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	kept := 0
	for range 1000 {
		v := randomValue(random, randomType(random, 4))
		data, err := codec.EncodeTyped(v)
		if err != nil {
			continue
		}
		kept++
		back := reflect.New(v.Type())
		if err := codec.DecodeValue(data, back.Interface()); err != nil || !reflect.DeepEqual(v.Interface(), back.Elem().Interface()) {
			t.Fatalf("seed %d: %#v comes back as %#v, %v", seed, v, back.Elem(), err)
		}
		var untyped any
		if data, err = codec.EncodeValue(v.Interface()); err != nil {
			continue
		}
		if err := codec.DecodeValue(data, &untyped); err != nil {
			t.Fatalf("seed %d: %#v does not come back without its type: %v", seed, v, err)
		}
	}
	if kept < 300 {
		t.Errorf("seed %d: of 1000 values %d are encoded", seed, kept)
	}
}

func randomType(random *rand.Rand, depth int) reflect.Type {
	leaves := []reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[int8](), reflect.TypeFor[uint64](), reflect.TypeFor[float32](), reflect.TypeFor[string](),
		reflect.TypeFor[[]byte](), reflect.TypeFor[time.Time](), reflect.TypeFor[any](), reflect.TypeFor[error](), reflect.TypeFor[textual](),
		reflect.TypeFor[big.Int](), reflect.TypeFor[atomic.Int64](), reflect.TypeFor[Exported](),
	}
	if depth == 0 {
		return leaves[random.IntN(len(leaves))]
	}
	switch random.IntN(8) {
	case 0:
		return reflect.PointerTo(randomType(random, depth-1))
	case 1:
		return reflect.SliceOf(randomType(random, depth-1))
	case 2:
		return reflect.ArrayOf(random.IntN(3), randomType(random, depth-1))
	case 3:
		if key := randomType(random, min(depth-1, 1)); key.Comparable() {
			return reflect.MapOf(key, randomType(random, depth-1))
		}
	case 4:
		var fields []reflect.StructField
		for i := range random.IntN(4) {
			f := reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: randomType(random, depth-1)}
			if random.IntN(4) == 0 {
				f.Tag = reflect.StructTag(fmt.Sprintf(`json:"f%d"`, random.IntN(4)))
			}
			fields = append(fields, f)
		}
		return reflect.StructOf(fields)
	}
	return leaves[random.IntN(len(leaves))]
}

func randomValue(random *rand.Rand, t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	small := random.IntN(5) - 2
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(small > 0)
	case reflect.Int, reflect.Int8:
		v.SetInt(int64(small))
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(small))
	case reflect.Float32:
		v.SetFloat(float64(small) / 2)
	case reflect.String:
		v.SetString(strings.Repeat("x\xff", max(0, small)))
	case reflect.Pointer:
		if small != 0 {
			v.Set(reflect.New(t.Elem()))
			v.Elem().Set(randomValue(random, t.Elem()))
		}
	case reflect.Slice:
		if small != 0 {
			v.Set(reflect.MakeSlice(t, max(0, small), 2))
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).Set(randomValue(random, t.Elem()))
		}
	case reflect.Map:
		if small != 0 {
			v.Set(reflect.MakeMap(t))
		}
		for range max(0, small) {
			if key := randomValue(random, t.Key()); key.Comparable() {
				v.SetMapIndex(key, randomValue(random, t.Elem()))
			}
		}
	case reflect.Interface:
		if values := []any{nil, int64(small), "x", []any{true}}; t.NumMethod() == 0 {
			if x := values[random.IntN(len(values))]; x != nil {
				v.Set(reflect.ValueOf(x))
			}
		} else if small > 0 {
			v.Set(reflect.ValueOf(errors.New("x")))
		}
	case reflect.Struct:
		switch x := v.Addr().Interface().(type) {
		case *time.Time:
			*x = time.Date([]int{1, 2000, 9999, 10000}[random.IntN(4)], 1, 1, 0, 0, 0, small+2, time.UTC)
		case *big.Int:
			x.SetInt64(int64(small) << 40)
		case *atomic.Int64:
			x.Store(int64(small))
		default:
			for i := range v.NumField() {
				v.Field(i).Set(randomValue(random, t.Field(i).Type))
			}
		}
	}
	return v
}

// Where the type decides whether values come back, and for times, looking at them costs next to nothing.
func BenchmarkEncode(b *testing.B) {
	for _, bm := range []struct {
		name string
		v    any
	}{
		{"string", "Ann Example"},
		{"int", 42},
		{"struct", struct {
			Name string
			Tags []string
		}{"Ann", []string{"x", "y"}}},
		{"time", time.Now()},
		{"map", map[string]any{"a": 1, "b": "x", "c": []any{true, 1.5}}},
		{"address", netip.IPv6Loopback()},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := codec.EncodeValue(bm.v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
