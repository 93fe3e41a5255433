package codec_test

import (
	"bytes"
	"reflect"
	"testing"

	"example.com/session/internal/codec"
)

// A payload opens with its secret, name and key alone, in its own record, behind its own header; former secrets are tried.
func TestCipher(t *testing.T) {
	sealed := codec.Envelope{Credential: codec.Credential{Key: codec.KeyHash{1}, Count: 2, Floor: 1}}
	body := codec.Body{User: []byte("ann, in clear text")}
	data := codec.EncodeSession(id, &sealed, [codec.WriteIDSize]byte{}, &body, &codec.Changes{}, cipher("old", 1, 2))
	if bytes.Contains(data, []byte("ann")) {
		t.Error("the user can be read")
	}
	e, err := codec.Open(id, data)
	if err != nil || !reflect.DeepEqual(e, sealed) {
		t.Fatalf("%+v is %+v once it is written, %v", sealed, e, err)
	}
	open := func(e codec.Envelope, id [32]byte, ciphers ...*codec.Cipher) error {
		var b codec.Body
		err := e.OpenBody(&b, id, func(i int) *codec.Cipher {
			if i >= len(ciphers) {
				return nil
			}
			return ciphers[i]
		})
		if err == nil && string(b.User) != string(body.User) {
			t.Errorf("the user is %q", b.User)
		}
		return err
	}
	if err := open(e, id, cipher("new", 1, 2), cipher("old", 1, 2)); err != nil {
		t.Errorf("with the secret before: %v", err)
	}
	for name, c := range map[string]*codec.Cipher{
		"secret": cipher("new", 1, 2), "name": cipher("old", 2, 2), "key": cipher("old", 1, 1), "purpose": codec.NewIndexCipher(secretOf("old")),
	} {
		if err := open(e, id, c); err != codec.ErrDamaged {
			t.Errorf("with another %s: %v", name, err)
		}
	}
	if err := open(e, [32]byte{7}, cipher("old", 1, 2)); err != codec.ErrDamaged {
		t.Errorf("under another ID: %v", err)
	}
	other := codec.Envelope{Credential: codec.Credential{Key: codec.KeyHash{9}, Count: 2, Floor: 1}}
	forged := codec.EncodeSession(id, &other, [codec.WriteIDSize]byte{}, &body, &codec.Changes{}, cipher("old", 1, 2))
	f, err := codec.Open(id, forged)
	if err != nil {
		t.Fatal(err)
	}
	f.Payload = e.Payload
	if err := open(f, id, cipher("old", 1, 2)); err != codec.ErrDamaged {
		t.Errorf("behind another credential: %v", err)
	}
}
