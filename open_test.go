package session_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"example.com/session"
)

func TestOpenMemory(t *testing.T) {
	for _, rawURL := range []string{"memory:", "MEMORY:"} {
		store, err := session.Open(t.Context(), rawURL)
		if err != nil {
			t.Fatalf("%q: %v", rawURL, err)
		}
		if _, ok := store.(*session.MemoryStore); !ok {
			t.Errorf("%q is a %T", rawURL, store)
		}
		if err := session.Close(store); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := session.Open(t.Context(), "memory:x"); err == nil {
		t.Error("what follows memory: is ignored")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := session.Open(ctx, "memory:"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context, the error is %v", err)
	}
}

// A URL that leads nowhere is an error that tells what would, and never shows what may be a password.
func TestOpenFaults(t *testing.T) {
	for _, rawURL := range []string{
		":", ":memory:", "://host", "/var/lib/sessions", "sessions.db", "no-such-scheme:", "no-such-scheme://host/path",
		"no-such-scheme://user:hunter2@host", "no-such-scheme://user:hunter2@%zz", "no-such-scheme://hunter2@[::1",
		"hunter2@localhost", "hunter2@localhost:6379", "user:hunter2@localhost", "hunter2%zz", "%zz:hunter2", "hunter2 x://y",
		"1memory:", "mem ory:", " memory:", "\x00:", "é:", "memory:hunter2", "memory://user:hunter2@host", "memory://hunter2@%zz",
	} {
		store, err := session.Open(t.Context(), rawURL)
		if err == nil {
			t.Errorf("%q opened a %T", rawURL, store)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "session: ") || strings.Contains(text, "hunter2") {
			t.Errorf("%q: the error is %q", rawURL, text)
		}
	}
	_, err := session.Open(t.Context(), "no-such-scheme://host")
	for _, want := range []string{`"no-such-scheme"`, "memory:", "file:", "dir:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

func TestRegisterScheme(t *testing.T) {
	scheme := fmt.Sprintf("open-test+x.%x", rand.Uint64()) // a scheme stays registered
	var seen string
	open := func(_ context.Context, rawURL string) (session.Store, error) {
		seen = rawURL
		return session.NewMemoryStore(), nil
	}
	if _, err := session.Open(t.Context(), scheme+"://host"); err == nil {
		t.Fatal("the scheme is known before it was registered")
	}
	if err := session.RegisterScheme(scheme, open); err != nil {
		t.Fatal(err)
	}
	rawURL := strings.Replace(scheme, "open", "OPEN", 1) + "://user:%zz@host"
	if _, err := session.Open(t.Context(), rawURL); err != nil || seen != rawURL {
		t.Errorf("Open passed on %q, %v", seen, err)
	}
	if err := session.RegisterScheme(scheme, open); err == nil || !strings.Contains(err.Error(), scheme) {
		t.Errorf("registered twice, the error is %v", err)
	}
	if _, err := session.Open(t.Context(), "no-such-scheme:"); !strings.Contains(err.Error(), scheme+":") {
		t.Errorf("the known schemes do not show it: %v", err)
	}
	for _, bad := range []string{"", "Upper", "1x", "-x", "a_b", "a b", "a:", "é"} {
		if err := session.RegisterScheme(bad, open); err == nil {
			t.Errorf("the scheme %q was registered", bad)
		}
	}
	if err := session.RegisterScheme("open-test-nil", nil); err == nil {
		t.Error("a scheme without a function was registered")
	}
}

// A minimal store has the three methods that a store needs.
type minimal struct{ store *session.MemoryStore }

func (m minimal) Load(ctx context.Context, id session.ID) (session.Record, error) {
	return m.store.Load(ctx, id)
}
func (m minimal) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return m.store.Save(ctx, id, rec)
}
func (m minimal) Delete(ctx context.Context, id session.ID) error { return m.store.Delete(ctx, id) }

// A shell is a decorator around something that can do no more than a minimal store.
type shell struct {
	minimal
	closed error
}

func (shell) Touch(context.Context, session.ID, session.Record) error {
	return fmt.Errorf("shell: %w", errors.ErrUnsupported)
}
func (shell) DeleteExpired(context.Context, int) (int, error) { return 0, errors.ErrUnsupported }
func (shell) List(context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) { yield(session.Entry{}, errors.ErrUnsupported) }
}
func (shell) Count(context.Context) (int, error) { return 0, errors.ErrUnsupported }
func (s shell) Close() error                     { return s.closed }

// What a store cannot do is done another way, or refused with an error that says so.
func TestOptionalMethods(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	for name, store := range map[string]session.Store{
		"minimal": minimal{session.NewMemoryStore()},
		"shell":   shell{minimal{session.NewMemoryStore()}, errDown},
	} {
		t.Run(name, func(t *testing.T) {
			if err := store.Save(ctx, id, session.Record{Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			rec, _ := store.Load(ctx, id)
			rec.Expires = rec.Expires.AddDate(3000, 0, 0)
			if err := session.Touch(ctx, store, id, rec); err != nil {
				t.Errorf("Touch: %v", err)
			}
			after, err := store.Load(ctx, id)
			if err != nil || !after.Expires.Equal(rec.Expires) || string(after.Data) != "x" || after.Version != rec.Version+1 {
				t.Errorf("Touch led to %v, %v", after, err)
			}
			if err := session.Touch(ctx, store, id, rec); !errors.Is(err, session.ErrConflict) {
				t.Errorf("Touch of an old version: %v", err)
			}
			if err := session.Touch(ctx, store, session.ID{2}, rec); !errors.Is(err, session.ErrConflict) {
				t.Errorf("Touch of nothing: %v", err)
			}
			if n, err := session.DeleteExpired(ctx, store); n != 0 || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("DeleteExpired: %d, %v", n, err)
			}
			if n, err := session.Count(ctx, store); n != 0 || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Count: %d, %v", n, err)
			}
			entries := 0
			for entry, err := range session.List(ctx, store) {
				entries++
				if entry.ID != (session.ID{}) || !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("List: %v, %v", entry, err)
				}
			}
			if entries != 1 {
				t.Errorf("List yields %d entries", entries)
			}
			want := map[string]error{"minimal": nil, "shell": errDown}[name]
			if err := session.Close(store); !errors.Is(err, want) {
				t.Errorf("Close: %v", err)
			}

			m := newManager(t, store, nil)
			value, _ := begin(t, m)
			serve(handle(m, func(s *session.Session) {
				if !s.Has("k") {
					t.Error("a manager cannot work with it")
				}
			}), "session_id="+value)
			if _, err := m.DeleteExpired(ctx); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Manager.DeleteExpired: %v", err)
			}
		})
	}
}

// DeleteExpired goes on in batches until none is left, and stops at an error or when its context ends.
func TestDeleteExpiredInBatches(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, test := range []struct {
		name  string
		left  int
		fail  error
		end   func()
		want  int
		error error
	}{
		{"none", 0, nil, nil, 0, nil},
		{"one batch", 10, nil, nil, 10, nil},
		{"many", 12345, nil, nil, 12345, nil},
		{"an error", 0, errDown, nil, 0, errDown},
		{"end", 12345, nil, cancel, 1000, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := session.DeleteExpired(ctx, &sweeping{left: test.left, fail: test.fail, end: test.end})
			if n != test.want || !errors.Is(err, test.error) {
				t.Errorf("DeleteExpired: %d, %v, want %d, %v", n, err, test.want, test.error)
			}
		})
	}
}

type sweeping struct {
	session.NullStore
	left int
	fail error
	end  func()
}

func (s *sweeping) DeleteExpired(_ context.Context, limit int) (int, error) {
	if s.end != nil {
		s.end()
	}
	n := min(limit, s.left)
	s.left -= n
	return n, s.fail
}

func TestIDText(t *testing.T) {
	var id session.ID
	for i := range id {
		id[i] = byte(i * 9)
	}
	text := id.String()
	if len(text) != 64 || text != strings.ToLower(text) {
		t.Errorf("String is %q", text)
	}
	if got, err := session.ParseID(text); got != id || err != nil {
		t.Errorf("ParseID: %v, %v", got, err)
	}
	if got, err := session.ParseID(strings.ToUpper(text)); got != id || err != nil {
		t.Errorf("ParseID of capitals: %v, %v", got, err)
	}
	if b, err := id.MarshalText(); string(b) != text || err != nil {
		t.Errorf("MarshalText: %q, %v", b, err)
	}
	if got := fmt.Sprint(id); got != text {
		t.Errorf("it prints as %q", got)
	}
	for _, bad := range []string{"", "0", text[:63], text + "0", text[:62] + "0g", text[:62] + " 0", "0x" + text[:62], text[:63] + "\n"} {
		got, err := session.ParseID(bad)
		if err == nil || got != (session.ID{}) || !strings.HasPrefix(err.Error(), "session: ") {
			t.Errorf("ParseID(%q): %v, %v", bad, got, err)
		}
		kept := id
		if kept.UnmarshalText([]byte(bad)) == nil || kept != id {
			t.Errorf("UnmarshalText(%q) changed the ID to %v", bad, kept)
		}
	}
}
