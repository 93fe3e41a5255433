package session_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"

	"example.com/session"
	"example.com/session/internal/double"
)

// A victim is a session whose record a test replaces by whatever it likes.
type victim struct {
	m       *session.Manager
	store   *double.Store
	value   string // of the cookie
	id      session.ID
	genuine session.Record
	damaged int // how often the observer was told
}

func newVictim(t testing.TB, opts session.Options) *victim {
	t.Helper()
	v := &victim{store: double.New(session.NewMemoryStore())}
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
	if err := v.store.Store.Delete(t.Context(), v.id); err != nil {
		t.Fatal(err)
	}
	if err := v.store.Store.Save(t.Context(), v.id, rec); err != nil {
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

// Bytes that are not the record written there read as no session at all.
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
		if encrypted { // and with the client's own credential in front of it
			const head = 10 + 1 + 16 + 3 + 2*6 + 1 + 8 // see TestEncryptAtRestKey
			v.wantAbsent(t, forge(v.id, append(v.genuine.Data[:head:head], rec.Data[head:]...)))
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
				v.store.Store = session.NewMemoryStore() // or new sessions pile up
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

// With EncryptAtRest, a store holds no value and no key name, and no record can take another's place.
func TestEncryptAtRest(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := double.New(newStore(t))
		var written recording
		store.Hook(written.hook())
		m := newManager(t, store, &session.Options{EncryptAtRest: true, Logger: slog.New(slog.DiscardHandler)})
		ann := &visitor{t: t, m: m}
		eve := ann.clone()
		var annID, eveID session.ID
		ann.visit(func(s *session.Session) { s.Set("topsecretkey", "topsecretvalue"); s.SetUser("topsecretuser") })
		ann.visit(func(s *session.Session) { annID = s.ID(); s.Set("more", "topsecretvalue") })
		annIndex := written.last(annID)
		eve.visit(func(s *session.Session) { s.Set("who", "eve"); s.SetUser("eve") })
		eve.visit(func(s *session.Session) { eveID = s.ID() })
		eveIndex := written.last(annID, eveID, annIndex)
		if len(written) < 5 {
			t.Fatalf("%d records were written", len(written))
		}
		for _, e := range written {
			for _, secret := range []string{"topsecret", "more", "192.0.2.1"} {
				if bytes.Contains(e.Record.Data, []byte(secret)) {
					t.Errorf("a record holds %q", secret)
				}
			}
		}
		if list, err := m.Sessions(t.Context(), session.OfUser("topsecretuser")); err != nil || len(list) != 1 || list[0].RemoteAddr != "192.0.2.1" {
			t.Errorf("the user's sessions: %v, %v", list, err)
		}

		// Eve can write to the store: she puts her records in place of Ann's, and Ann's in place of hers.
		swap(t, store, annIndex, eveIndex)
		for _, user := range []string{"topsecretuser", "eve"} {
			if list, err := m.Sessions(t.Context(), session.OfUser(user)); err == nil {
				t.Errorf("%s's sessions are %v", user, list)
			}
		}
		swap(t, store, annID, eveID)
		for name, c := range map[string]*visitor{"ann": ann, "eve": eve} {
			c.clone().visit(func(s *session.Session) {
				if s.Len() != 0 || s.User() != "" {
					t.Errorf("%s gets %v", name, s)
				}
			})
		}
	})
}

// The promise of EncryptAtRest, computed anew: the key is HKDF-SHA256 of name and key in the cookie and the secret, and the ID
// and the clear header of the record are authenticated with the payload.
func TestEncryptAtRestKey(t *testing.T) {
	store := session.NewMemoryStore()
	v := newVisitor(t, store, &session.Options{EncryptAtRest: true})
	v.visit(func(s *session.Session) { s.Set("k", "topsecretvalue") })
	id := v.id()
	rec, err := store.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(v.cookie.Value)
	if err != nil {
		t.Fatal(err)
	}
	token, secret := raw[:32:32], bytes.Repeat([]byte("s"), 32)
	// Checksum, format and kind; flags, hash of the key, count, the same less floor, until, two times; one write.
	const head = 10 + 1 + 16 + 3 + 2*6 + 1 + 8
	open := func(ikm, additional []byte) ([]byte, error) {
		key, err := hkdf.Key(sha256.New, ikm, nil, "session: a session at rest, AES-256-GCM", 32)
		if err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			t.Fatal(err)
		}
		return aead.Open(nil, nil, rec.Data[head:], additional)
	}
	additional := append(id[:], rec.Data[8:head]...)
	if payload, err := open(append(token, secret...), additional); err != nil || !bytes.Contains(payload, []byte("topsecretvalue")) {
		t.Errorf("with cookie and secret: %q, %v", payload, err)
	}
	for name, ikm := range map[string][]byte{"the ID": id[:], "the secret": secret, "the cookie": raw, "its secret part": token} {
		if _, err := open(ikm, additional); err == nil {
			t.Errorf("with %s: decrypted", name)
		}
	}
	if _, err := open(append(token, secret...), additional[:len(id)+2]); err == nil {
		t.Error("the credential is not authenticated")
	}
}

// Where records are to be encrypted, an index that is not is not believed.
func TestPlainIndexWhereEncrypted(t *testing.T) {
	store := session.NewMemoryStore()
	newPlain(t, store, nil).login()
	m := newManager(t, store, &session.Options{EncryptAtRest: true, Logger: slog.New(slog.DiscardHandler)})
	if list, err := m.Sessions(t.Context(), session.OfUser("ann")); err == nil {
		t.Errorf("the sessions are %v", list)
	}
}

// swap has two records change places, with the checksums that they need there.
func swap(t *testing.T, store session.Store, a, b session.ID) {
	t.Helper()
	recA, err1 := store.Load(t.Context(), a)
	recB, err2 := store.Load(t.Context(), b)
	recA.Data, recB.Data = forge(a, recB.Data), forge(b, recA.Data)
	if err := errors.Join(err1, err2, store.Save(t.Context(), a, recA), store.Save(t.Context(), b, recB)); err != nil {
		t.Fatal(err)
	}
}

// recording keeps each record that was written.
type recording []session.Entry

func (r *recording) hook() double.Hook {
	return double.Before(func(_ context.Context, c *double.Call) error {
		*r = append(*r, session.Entry{ID: c.ID, Record: c.Record})
		return nil
	}, double.Save)
}

// last returns the ID that was last written to, but for some.
func (r recording) last(except ...session.ID) session.ID {
	for _, e := range slices.Backward(r) {
		if !slices.Contains(except, e.ID) {
			return e.ID
		}
	}
	return session.ID{}
}

// Switching encryption on trusts nothing that is not encrypted; switching it off loses nothing.
func TestSwitchEncryption(t *testing.T) {
	store := session.NewMemoryStore()
	quiet := slog.New(slog.DiscardHandler)
	plain, err := session.New(store, bytes.Repeat([]byte("s"), 32), &session.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	encrypted := newManager(t, store, &session.Options{EncryptAtRest: true, Logger: quiet})
	before := &visitor{t: t, m: plain}
	before.visit(func(s *session.Session) { s.Set("k", 1) })
	before.m = encrypted
	if before.alive() {
		t.Error("a record that is not encrypted was trusted")
	}
	after := &visitor{t: t, m: encrypted}
	after.visit(func(s *session.Session) { s.Set("k", 1) })
	after.m = plain
	if !after.alive() {
		t.Error("an encrypted record was not read")
	}
}

// The index of a user's sessions survives a change of the secret.
func TestEncryptedIndexAndSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		old, current := bytes.Repeat([]byte("o"), 32), bytes.Repeat([]byte("c"), 32)
		manager := func(secret []byte, previous ...[]byte) *session.Manager {
			m, err := session.New(store, secret, &session.Options{PreviousSecrets: previous, EncryptAtRest: true, SweepInterval: session.Never})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		v := (&visitor{t: t, m: manager(old)}).login()
		v.m = manager(current, old)
		if list := userSessions(t, v.m); len(list) != 1 {
			t.Errorf("after the change there are %v", list)
		}
		signedByOld := v.cookie.Value
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Has("k") }) // renewed, so signed by the current one, as is the index
		if v.cookie.Value == signedByOld {
			t.Error("the cookie was not replaced")
		}
		v.m = manager(current)
		if list := userSessions(t, v.m); len(list) != 1 || !v.alive() {
			t.Errorf("without the old secret: %v, alive %v", list, v.alive())
		}
	})
}
