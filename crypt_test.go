package session_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// With EncryptAtRest, a store holds no value and no key name, and no record can take another's place.
func TestEncryptAtRest(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := &recording{Store: newStore(t)}
		m := newManager(t, store, &session.Options{EncryptAtRest: true, Logger: slog.New(slog.DiscardHandler)})
		ann := &visitor{t: t, m: m}
		eve := ann.clone()
		var annID, eveID session.ID
		ann.visit(func(s *session.Session) { s.Set("topsecretkey", "topsecretvalue"); s.SetUser("topsecretuser") })
		ann.visit(func(s *session.Session) { annID = s.ID(); s.Set("more", "topsecretvalue") })
		annIndex := store.last(annID)
		eve.visit(func(s *session.Session) { s.Set("who", "eve"); s.SetUser("eve") })
		eve.visit(func(s *session.Session) { eveID = s.ID() })
		eveIndex := store.last(annID, eveID, annIndex)
		if len(store.written) < 5 {
			t.Fatalf("%d records were written", len(store.written))
		}
		for _, e := range store.written {
			for _, secret := range []string{"topsecret", "more", "192.0.2.1"} {
				if bytes.Contains(e.Record.Data, []byte(secret)) {
					t.Errorf("a record holds %q", secret)
				}
			}
		}
		if list, err := m.UserSessions(t.Context(), "topsecretuser"); err != nil || len(list) != 1 || list[0].RemoteAddr != "192.0.2.1" {
			t.Errorf("the user's sessions: %v, %v", list, err)
		}

		// Eve can write to the store: she puts her records in place of Ann's, and Ann's in place of hers.
		swap(t, store, annIndex, eveIndex)
		for _, user := range []string{"topsecretuser", "eve"} {
			if list, err := m.UserSessions(t.Context(), user); err == nil {
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

// What EncryptAtRest promises, computed anew: the key is HKDF-SHA256 of the token in the cookie, and the ID and the head
// of the record are authenticated with the payload.
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
	token := raw[:32]
	if sha256.Sum256(token) != id {
		t.Fatal("the ID is not the token's hash")
	}
	const head = 10 // checksum, format, kind
	open := func(ikm, additional []byte) ([]byte, error) {
		key, err := hkdf.Key(sha256.New, ikm, nil, "session: record at rest, AES-256-GCM", 32)
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
	if payload, err := open(token, additional); err != nil || !bytes.Contains(payload, []byte("topsecretvalue")) {
		t.Errorf("with the token: %q, %v", payload, err)
	}
	for name, ikm := range map[string][]byte{"the ID": id[:], "the secret": bytes.Repeat([]byte("s"), 32), "the cookie": raw} {
		if _, err := open(ikm, additional); err == nil {
			t.Errorf("with %s: decrypted", name)
		}
	}
}

// Where records are to be encrypted, an index that is not is not believed.
func TestPlainIndexWhereEncrypted(t *testing.T) {
	store := session.NewMemoryStore()
	newPlain(t, store, nil).login()
	m := newManager(t, store, &session.Options{EncryptAtRest: true, Logger: slog.New(slog.DiscardHandler)})
	if list, err := m.UserSessions(t.Context(), "ann"); err == nil {
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
type recording struct {
	session.Store
	written []session.Entry
}

func (r *recording) Save(ctx context.Context, id session.ID, rec session.Record) error {
	r.written = append(r.written, session.Entry{ID: id, Record: rec})
	return r.Store.Save(ctx, id, rec)
}

// last returns the ID that was last written to, but for some.
func (r *recording) last(except ...session.ID) session.ID {
	for _, e := range slices.Backward(r.written) {
		if !slices.Contains(except, e.ID) {
			return e.ID
		}
	}
	return session.ID{}
}

// What make test skips in its second run, with EncryptAtRest, has no session in it that could be encrypted.
func TestSecondRunSkipsNoSessions(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^NOT_ENCRYPTED += (.*)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile skips nothing")
	}
	skipped := regexp.MustCompile(string(line[1]))
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range regexp.MustCompile(`(?ms)^func (Test\w+)\(t .*?^}$`).FindAllSubmatch(text, -1) {
			if !skipped.Match(f[1]) {
				continue
			}
			n++
			if regexp.MustCompile(`\bnew(Manager|Visitor)\(`).Match(f[0]) {
				t.Errorf("%s is skipped, and has sessions", f[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("%d tests are skipped", n)
	}
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
		v.visit(func(s *session.Session) { s.Has("k") }) // renewed, so signed by the current one
		if v.cookie.Value == signedByOld {
			t.Error("the cookie was not replaced")
		}
		v.m = manager(current)
		if list := userSessions(t, v.m); len(list) != 1 || !v.alive() {
			t.Errorf("without the old secret: %v, alive %v", list, v.alive())
		}
	})
}

// A NullStore switches sessions off.
func TestNullStore(t *testing.T) {
	for _, store := range []session.Store{session.NullStore{}, new(session.NullStore)} {
		testNullStore(t, store)
	}
}

func testNullStore(t *testing.T, store session.Store) {
	v := newVisitor(t, store, nil)
	res := v.visit(func(s *session.Session) {
		s.Set("k", 1)
		if !s.Has("k") {
			t.Error("a value does not last for the request")
		}
		s.SetUser("ann")
		s.Regenerate()
		s.Destroy()
		s.Set("k", 1)
	})
	wantStatus(t, res, 200)
	if len(res.Cookies()) != 0 {
		t.Errorf("cookies: %v", res.Cookies())
	}
	if list := userSessions(t, v.m); len(list) != 0 {
		t.Errorf("sessions: %v", list)
	}
}
