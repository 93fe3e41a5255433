package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"example.com/session"
)

// A victim is a session whose record a test replaces by whatever it likes.
type victim struct {
	m       *session.Manager
	store   *counting
	value   string // of the cookie
	id      session.ID
	genuine session.Record
	damaged int // how often the observer was told
}

func newVictim(t testing.TB, opts session.Options) *victim {
	t.Helper()
	v := &victim{store: newCounting()}
	opts.Logger, opts.SweepInterval = quiet, session.Never
	opts.IdleTimeout, opts.AbsoluteTimeout, opts.RenewInterval = session.Never, session.Never, session.Never // fuzzing takes its time
	opts.Observer = func(_ context.Context, e session.Event) {
		if e.Kind == session.EventDamaged {
			v.damaged++
		}
	}
	m, err := session.New(v.store, secretOf('s'), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	v.m = m
	var s *session.Session
	res := serve(handle(m, func(its *session.Session) {
		s = its
		s.Set("k", "a value")
		if err := s.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}))
	for _, c := range res.Cookies() {
		v.value = c.Value
	}
	v.id = s.ID()
	if v.genuine, err = v.store.Load(t.Context(), v.id); err != nil {
		t.Fatal(err)
	}
	return v
}

// put stores data under the session's ID.
func (v *victim) put(t testing.TB, data []byte) {
	t.Helper()
	rec := session.Record{Expires: v.genuine.Expires, Data: data}
	if err := v.store.MemoryStore.Delete(t.Context(), v.id); err != nil {
		t.Fatal(err)
	}
	if err := v.store.MemoryStore.Save(t.Context(), v.id, rec); err != nil {
		t.Fatal(err)
	}
}

// wantAbsent checks that data under the session's ID reads as no session, and that somebody is told.
func (v *victim) wantAbsent(t testing.TB, data []byte) {
	t.Helper()
	v.put(t, data)
	v.damaged = 0
	res := serve(handle(v.m, func(s *session.Session) {
		if !s.IsNew() || !s.WasUnknown() || s.Len() != 0 || s.User() != "" || s.Err() != nil {
			t.Errorf("%x reads as the session %v", data, s)
		}
	}), "session_id="+v.value)
	if res.StatusCode != http.StatusOK || res.Header["Set-Cookie"] != nil || v.damaged != 1 {
		t.Errorf("%x: %s, cookie %q, reported %d times", data, res.Status, res.Header["Set-Cookie"], v.damaged)
	}
}

// What is not the record that was written there reads as no session at all.
func TestDamagedRecords(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted %v", encrypted), func(t *testing.T) {
			v := newVictim(t, session.Options{EncryptAtRest: encrypted})
			good := v.genuine.Data
			for n := range good {
				v.wantAbsent(t, good[:n])
				v.wantAbsent(t, good[n+1:])
				v.wantAbsent(t, append(slices.Clone(good[:n]), good[n+1:]...))
			}
			for i := range good {
				for bit := range 8 {
					flipped := slices.Clone(good)
					flipped[i] ^= 1 << bit
					v.wantAbsent(t, flipped)
				}
			}
			v.wantAbsent(t, nil)
			v.wantAbsent(t, append(slices.Clone(good), 0))
			v.wantAbsent(t, append([]byte{0}, good...))
			v.wantAbsent(t, append(slices.Clone(good), good...))
			random := rand.New(rand.NewPCG(1, 2))
			for n := range 1000 {
				junk := make([]byte, n)
				for i := range junk {
					junk[i] = byte(random.Uint32())
				}
				v.wantAbsent(t, junk)
			}
			v.put(t, good)
			serve(handle(v.m, func(s *session.Session) {
				if !s.Has("k") {
					t.Error("the genuine record reads as absent, too")
				}
			}), "session_id="+v.value)
		})
	}
}

// A record under another session's ID is nobody's: neither as it is nor, encrypted, with a checksum that fits.
func TestSwappedRecords(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		v := newVictim(t, session.Options{EncryptAtRest: encrypted})
		var other session.ID
		serve(handle(v.m, func(s *session.Session) {
			s.Set("secret", "of another")
			if err := s.Save(t.Context()); err != nil {
				t.Fatal(err)
			}
			other = s.ID()
		}))
		rec, err := v.store.Load(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		v.wantAbsent(t, rec.Data)
		if encrypted {
			v.wantAbsent(t, forge(v.id, rec.Data))
		}
	}
}

// A record of the plain form is not accepted where records are to be encrypted.
func TestPlainRecordWhereEncrypted(t *testing.T) {
	v := newVictim(t, session.Options{EncryptAtRest: true})
	plain, err := session.New(v.store, secretOf('s'), &session.Options{SweepInterval: session.Never})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	value, id := begin(t, plain)
	rec, _ := v.store.Load(t.Context(), id)
	v.value, v.id = value, id
	v.wantAbsent(t, rec.Data)
}

// A damaged record is neither repaired nor overwritten: its client gets a new session.
func TestDamagedRecordIsLeftAlone(t *testing.T) {
	v := newVictim(t, session.Options{})
	junk := []byte("junk")
	v.put(t, junk)
	res := serve(handle(v.m, func(s *session.Session) { s.Set("k", 2) }), "session_id="+v.value)
	wantStatus(t, res, http.StatusOK)
	if next := cookieValue(setCookie(t, res.Header, "session_id")); next == "" || next == v.value {
		t.Errorf("the new session's cookie is %q", next)
	}
	if rec, err := v.store.Load(t.Context(), v.id); err != nil || !bytes.Equal(rec.Data, junk) {
		t.Errorf("the damaged record is now %q, %v", rec.Data, err)
	}
}

// forge gives data the checksum that it needs to be taken for the record under id.
func forge(id session.ID, data []byte) []byte {
	if len(data) < 8 {
		return data
	}
	forged := slices.Clone(data)
	binary.BigEndian.PutUint64(forged, xxhash.Sum64(append(id[:], data[8:]...)))
	return forged
}

// Whatever the bytes in the store: nothing crashes, and only the genuine ones are a session. With a checksum that
// fits, which takes somebody who can write to the store, the data may be anything that does not crash.
func FuzzRecord(f *testing.F) {
	v := newVictim(f, session.Options{})
	genuine := v.genuine.Data
	for _, seed := range [][]byte{nil, genuine, genuine[:9], []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x01S"), []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x01R\x00\x05\x00")} {
		f.Add(seed, 0, byte(0), false)
		f.Add(seed, 12, byte(1), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, at int, xor byte, fits bool) {
		for _, data := range [][]byte{data, mutate(genuine, at, xor, data)} {
			switch {
			case fits:
				v.store.MemoryStore = session.NewMemoryStore() // or new sessions pile up
				v.put(t, forge(v.id, data))
				serve(handle(v.m, func(s *session.Session) {
					for range s.All() {
					}
					_ = fmt.Sprint(s, s.Created(), s.LastUsed(), s.Expires(), s.RemoteAddr(), s.UserAgent(), s.User())
					session.Key[map[string][]int]("k").Get(s)
					s.Set("k", 1)
				}), "session_id="+v.value)
			case bytes.Equal(data, genuine):
				v.put(t, data)
				serve(handle(v.m, func(s *session.Session) {
					if got, _ := s.Get("k"); got != "a value" {
						t.Errorf("the value of the genuine record is %v", got)
					}
				}), "session_id="+v.value)
			default:
				v.wantAbsent(t, data)
			}
		}
	})
}

// mutate returns the data with one byte changed and some inserted behind it.
func mutate(data []byte, at int, xor byte, insert []byte) []byte {
	at = int(uint(at) % uint(len(data)))
	mutated := slices.Insert(slices.Clone(data), at+1, insert...)
	mutated[at] ^= xor
	return mutated
}

// Whatever the client sends: nothing reaches the store but the value that this manager signed.
func FuzzCookie(f *testing.F) {
	v := newVictim(f, session.Options{})
	for _, seed := range []string{
		"", "session_id", "session_id=", "session_id=GENUINE", "a=b; session_id=GENUINE; c=d", `session_id="GENUINE"`,
		"session_id=GENUINE=", "session_id=x;session_id=x\nsession_id=GENUINE", " \t;;=;session_id==", "session_id=GENUINEGENUINE",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(strings.ReplaceAll(text, "GENUINE", v.value), "\n")
		var parts []string // as RFC 6265bis section 5.8.3 has a client put them together
		for _, line := range lines {
			for part := range strings.SplitSeq(line, ";") {
				if name, value, ok := strings.Cut(strings.Trim(part, " \t"), "="); ok && name == "session_id" {
					parts = append(parts, value)
				}
			}
		}
		parts = parts[:min(len(parts), 200)]
		want := slices.Contains(parts, v.value) || slices.Contains(parts, `"`+v.value+`"`)
		v.store.calls()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = lines
		v.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := v.m.HasCookie(r); got != want {
				t.Errorf("HasCookie is %v for %q", got, lines)
			}
			if got := session.FromContext(r.Context()).Has("k"); got != want {
				t.Errorf("the session is found: %v for %q", got, lines)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
		calls := 0
		if want {
			calls = 1
		}
		if got := v.store.calls(); got != [4]int{calls, 0, 0, 0} {
			t.Errorf("loads, saves, touches, deletes are %v for %q", got, lines)
		}
	})
}
