package sessiontest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"example.com/session"
)

func checkData(ctx context.Context, e *env) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, c := range []struct {
		what string
		data []byte
	}{
		{"no bytes (nil)", nil},
		{"no bytes (not nil)", []byte{}},
		{"one byte 0x00", []byte{0}},
		{"one blank", []byte(" ")},
		{"blanks at both ends", []byte("  x  ")},
		{"all 256 byte values", every},
		{"lines that look like a protocol", []byte("\r\nEND\r\n$-1\r\n'; --\\\"\x00\n")},
		{"UTF-8", []byte("Überraschung, 驚き, 🙂")},
		{"64 KiB", noise(64 << 10)},
	} {
		id := e.newID()
		rec := session.Record{Data: c.data, Expires: hour()}
		e.create(ctx, id, rec)
		rec.Version = 1
		e.holds(ctx, id, rec, "after Save of "+c.what)
	}

	id := e.newID()
	rec := session.Record{Expires: hour()}
	for _, size := range []int{1 << 10, 64 << 10, 10, 0, 100} {
		rec.Data = noise(size)
		e.save(ctx, id, rec, nil, fmt.Sprintf("with %d bytes", size))
		rec.Version++
		e.holds(ctx, id, rec, fmt.Sprintf("after Save of %d bytes over data of another size", size))
	}
}

func checkDataLarge(ctx context.Context, e *env) {
	for _, size := range e.largeSizes() {
		if e.failed() {
			return
		}
		id := e.newID()
		rec := session.Record{Data: noise(size), Expires: hour()}
		switch err := e.store.Save(ctx, id, rec); {
		case err == nil:
			rec.Version = 1
			e.holds(ctx, id, rec, fmt.Sprintf("after Save of %d KiB", size>>10))
			e.delete(ctx, id, "of a large record")
		case matches(err, session.ErrTooLarge):
			e.absent(ctx, id, fmt.Sprintf("after Save of %d KiB, which returned ErrTooLarge", size>>10))
		default:
			e.failOf(id, hint(err), "Save of %d KiB: want success or session.ErrTooLarge, got %s", size>>10, outcome(err))
		}
	}
}

// largeSizes returns sizes just beyond what servers and their clients have as limits: half of Memcached's 1 MiB, that, 4 MiB of
// many RPCs, 8 MiB, MongoDB's 16 MiB and a MEDIUMBLOB's.
func (e *env) largeSizes() []int {
	sizes := []int{512 << 10, 2 << 20, 4<<20 + 1, 9 << 20, 17 << 20}
	if e.kit.short {
		return sizes[:2]
	}
	return sizes
}

// checkRefusedKeeps has large records refused, and looks whether what was there is there still.
func checkRefusedKeeps(ctx context.Context, e *env) {
	id := e.newID()
	want := session.Record{Data: []byte("small"), Expires: hour()}
	e.create(ctx, id, want)
	want.Version = 1
	for _, size := range e.largeSizes() {
		large := session.Record{Version: want.Version, Data: noise(size), Expires: hour().Add(time.Minute)}
		switch err := e.store.Save(ctx, id, large); {
		case err == nil:
			large.Version++
			want.Version++
			e.save(ctx, id, large, nil, "over the live record of that version")
			want.Version++
			e.save(ctx, id, want, nil, "over the live record of that version")
			want.Version++
		case matches(err, session.ErrTooLarge):
			e.holds(ctx, id, want, fmt.Sprintf("after Save of %d KiB, which returned ErrTooLarge", size>>10))
			e.save(ctx, id, want, nil, "after a Save of the same version that was too large")
			want.Version++
		default:
			e.failOf(id, hint(err), "Save of %d KiB: want success or session.ErrTooLarge, got %s", size>>10, outcome(err))
		}
		if e.failed() {
			return
		}
	}
	e.holds(ctx, id, want, "after saves of small and large data")
}

func checkDataSaved(ctx context.Context, e *env) {
	// The bytes between length and capacity are the caller's too: an append in place would write there.
	whole := noise(100)
	before := bytes.Clone(whole)
	data := whole[:60]
	intact := func(when string) {
		if i := mismatch(whole, before); i >= len(data) {
			e.fail("%s: byte %d after the end of the Data that was saved (its capacity) has changed", when, i-len(data))
		} else if i >= 0 {
			e.fail("%s: byte %d of the Data that was saved has changed", when, i)
		}
	}

	id := e.newID()
	e.create(ctx, id, session.Record{Data: data, Expires: hour()})
	intact("after Save")
	e.load(ctx, id, "after one save")
	intact("after Load")
	other := session.Record{Version: 1, Data: noise(60), Expires: hour()}
	e.save(ctx, id, other, nil, "over the live record of that version")
	intact("after another Save under the same ID")
	other.Version, other.Data = 2, data
	e.save(ctx, id, other, nil, "over the live record of that version")
	if e.touches(ctx) {
		e.touch(ctx, id, session.Record{Version: 3, Data: data}, hour(), nil, "of the live record of that version")
		intact("after Touch")
	}
	e.delete(ctx, id, "of a live record")
	intact("after Delete")

	if e.failed() {
		return
	}
	ids := []session.ID{e.newID(), e.newID(), e.newID(), e.newID()}
	expires := hour()
	together(len(ids), func(i int) {
		e.create(ctx, ids[i], session.Record{Data: data, Expires: expires})
		e.holds(ctx, ids[i], session.Record{Version: 1, Data: before[:60], Expires: expires},
			"of Data saved under several IDs at once")
	})
	intact("after Save under several IDs at once")
}

func checkDataLoaded(ctx context.Context, e *env) {
	id := e.newID()
	rec := session.Record{Data: noise(100), Expires: hour()}
	want := bytes.Clone(rec.Data)
	e.create(ctx, id, rec)
	first, second := e.load(ctx, id, "after one save"), e.load(ctx, id, "after one save")
	intact := func(when string) {
		for _, loaded := range []session.Record{first, second} {
			if i := mismatch(loaded.Data, want); i >= 0 {
				e.fail("%s: byte %d of the Data that Load had returned before has changed", when, i)
			}
		}
	}
	intact("after a second Load")
	for version, size := range []int{100, 20, 100} {
		rec := session.Record{Version: uint64(version) + 1, Data: bytes.Repeat([]byte{0xEE}, size), Expires: hour()}
		e.save(ctx, id, rec, nil, "over the live record of that version")
		intact("after a later Save")
	}
	if last := e.load(ctx, id, "after a few saves"); e.touches(ctx) {
		e.touch(ctx, id, last, hour(), nil, "of the live record of that version")
		intact("after Touch")
	}
	e.delete(ctx, id, "of a live record")
	e.create(ctx, id, session.Record{Data: bytes.Repeat([]byte{0xDD}, 100), Expires: hour()})
	e.load(ctx, id, "after Delete and Save")
	intact("after Delete and another Save")
}

func checkCached(ctx context.Context, e *env) {
	direct := session.WithoutCache(ctx)
	id := e.newID()
	want := session.Record{Data: []byte("data"), Expires: hour(), Cached: true}
	look := func(when string) {
		e.load(ctx, id, when) // from here on, a cache has it
		want.Version++
		e.holds(direct, id, want, when+", without cache")
		if e.load(direct, id, when+", without cache").Cached {
			e.fail("Load %s, without cache: want Cached unset, got it set", when)
		}
	}
	e.create(ctx, id, want)
	look("after a Save of version 0 with Cached set")
	e.save(ctx, id, want, nil, "with Cached set")
	look("after a Save of version 1 with Cached set")
	if e.touches(ctx) {
		loaded := e.load(ctx, id, "after two saves")
		loaded.Cached = true
		want.Expires = hour().Add(time.Minute)
		e.touch(ctx, id, loaded, want.Expires, nil, "with Cached set")
		want.Version--
		look("after a Touch with Cached set")
	}
}

func checkIDBits(ctx context.Context, e *env) {
	id := e.newID()
	want := session.Record{Data: []byte("under the ID"), Expires: hour()}
	e.create(ctx, id, want)
	want.Version = 1
	many(8*len(id), func(bit int) {
		when := fmt.Sprintf("of an ID that differs from that of the only record in bit %d of byte %d", bit%8, bit/8)
		e.absent(ctx, flipped(id, bit), when)
	})
	for i := range len(id) {
		if i%4 != 0 && i != len(id)-1 {
			continue
		}
		other := flipped(id, 8*i+i/4%8)
		e.track(other)
		e.delete(ctx, other, "of an ID that was never used")
		e.create(ctx, other, session.Record{Data: []byte("under another ID"), Expires: hour()})
		e.holds(ctx, id, want, fmt.Sprintf("after Delete and Save under an ID that differs in a bit of byte %d", i))
	}
}

func checkIDBytes(ctx context.Context, e *env) {
	// Each ID is 24 random letters and digits, before or after one of these bytes, 8 times.
	const ends, begins = "\x00\x01\x80\xc3\xff \t\r\n'\"`:;,./\\{}[]()*?%_$#&=+-0AaZz", "\x00 \t0\"{/"
	expires := hour()
	random := e.newID().String()[:24]
	type special struct {
		id   session.ID
		text string
	}
	var all []special
	// An ID that begins with one such byte is another matter than one with eight.
	for _, c := range []byte{0, 0xff, ' '} {
		id := e.newID()
		id[0], id[1] = c, id[1]|1
		e.track(id)
		all = append(all, special{id, string(id[:])})
	}
	for i, c := range []byte(ends + begins) {
		side := strings.Repeat(string([]byte{c}), 8)
		s := special{text: random + side}
		if i >= len(ends) {
			s.text = side + random
		}
		copy(s.id[:], s.text)
		all = append(all, s)
		e.track(s.id)
	}
	many(len(all), func(i int) {
		e.create(ctx, all[i].id, session.Record{Data: []byte(all[i].text), Expires: expires})
	})
	hold := func(some []special, when string) {
		many(len(some), func(i int) {
			want := session.Record{Version: 1, Data: []byte(some[i].text), Expires: expires}
			e.holds(ctx, some[i].id, want, fmt.Sprintf("of the ID %q %s", some[i].text, when))
		})
	}
	hold(all, "with others like it")
	half := len(all) / 2
	many(half, func(i int) {
		e.delete(ctx, all[i].id, fmt.Sprintf("of the ID %q", all[i].text))
		e.absent(ctx, all[i].id, fmt.Sprintf("of the ID %q after Delete", all[i].text))
	})
	hold(all[half:], "after Delete of others like it")
}

func checkErrorsQuiet(ctx context.Context, e *env) {
	random := e.newID()
	secret := []byte("secret-" + random.String()[:24])
	quiet := func(what string, err error) {
		if err == nil {
			return
		}
		for _, form := range []string{"%s", "%q", "%v", "%x", "%X", "%#v"} {
			if strings.Contains(err.Error(), fmt.Sprintf(form, secret)) {
				e.fail("%s: the error's text shows the Data", what)
			}
		}
		if strings.Contains(err.Error(), base64.RawStdEncoding.EncodeToString(secret)) {
			e.fail("%s: the error's text shows the Data, in base64", what)
		}
	}

	id := e.newID()
	rec := session.Record{Data: secret, Expires: hour()}
	e.create(ctx, id, rec)
	quiet("Save of version 0 over a live record", e.store.Save(ctx, id, rec))
	rec.Version = 2
	quiet("Save of version 2 over version 1", e.store.Save(ctx, id, rec))
	quiet("Save of version 2 under an unused ID", e.store.Save(ctx, e.newID(), rec))
	done, cancel := context.WithCancel(ctx)
	cancel()
	quiet("Save with a cancelled context", e.store.Save(done, e.newID(), rec))
	quiet("Touch of version 2 over version 1", e.store.Touch(ctx, id, rec))
	quiet("Touch under an unused ID", e.store.Touch(ctx, e.newID(), rec))
	rec = session.Record{Data: bytes.Repeat(secret, (2<<20)/len(secret)), Expires: hour()}
	quiet("Save of 2 MiB", e.store.Save(ctx, e.newID(), rec))
}

// sealed returns data that says which ID and version it belongs to, with a checksum. The filler differs from
// version to version.
func sealed(id session.ID, version uint64, size int) []byte {
	data := binary.BigEndian.AppendUint64(bytes.Clone(id[:]), version)
	data = append(data, bytes.Repeat([]byte{byte(version) + id[0]}, size)...)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// unsealed says what is wrong with a record under id whose data sealed has made, or is empty.
func unsealed(id session.ID, rec session.Record) string {
	body := len(rec.Data) - sha256.Size
	if body < len(id)+8 {
		return fmt.Sprintf("%d bytes of Data, fewer than were ever saved", len(rec.Data))
	}
	sum := sha256.Sum256(rec.Data[:body])
	switch version := binary.BigEndian.Uint64(rec.Data[len(id):]); {
	case !bytes.Equal(sum[:], rec.Data[body:]):
		return "Data that was never saved like this (its checksum is wrong)"
	case !bytes.Equal(id[:], rec.Data[:len(id)]):
		return "Data that was saved under another ID"
	case version != rec.Version:
		return fmt.Sprintf("version %d with the Data of version %d", rec.Version, version)
	}
	return ""
}

// noise returns bytes that do not repeat, and cannot be compressed.
func noise(size int) []byte {
	b := make([]byte, size)
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(size))
	rand.NewChaCha8(seed).Read(b)
	return b
}

// mismatch returns the first place where a and b differ, or -1.
func mismatch(a, b []byte) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

func flipped(id session.ID, bit int) session.ID {
	id[bit/8] ^= 1 << (bit % 8)
	return id
}
