package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
	"example.com/session/sessiontest"
)

// eachStore runs a test on every backend.
func eachStore(t *testing.T, fn func(t *testing.T, newStore func(*testing.T) session.Store)) {
	t.Helper()
	storetest.Each(t, fn)
}

// A store without the optional methods is helped another way, or refuses with an error that says so.
func TestOptionalMethods(t *testing.T) {
	ctx, id := t.Context(), session.ID{1}
	for name, store := range map[string]session.Store{
		"minimal": double.Plain{Store: session.NewMemoryStore()},
		"shell":   double.New(double.Plain{Store: session.NewMemoryStore()}),
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
			if n, err := session.CountRecords(ctx, store); n != 0 || !errors.Is(err, errors.ErrUnsupported) {
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

// Count asks the store, and otherwise goes through the list.
func TestCount(t *testing.T) {
	full := session.NewMemoryStore()
	lister := struct{ session.Lister }{full}
	for i := range byte(3) {
		if err := full.Save(t.Context(), session.ID{i}, session.Record{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		store session.Store
		want  int
		error error
	}{
		{"by itself", double.New(full, double.After(func(_ context.Context, c *double.Call, err error) error {
			c.N = 7
			return err
		}, double.Count)), 7, nil},
		{"by itself, in vain", double.New(full, double.Fail(errDown, double.Count)), 0, errDown},
		{"by a list", lister, 3, nil},
		{"by the list of a decorator", double.New(lister), 3, nil},
		{"by a list, in vain", double.New(lister, double.Lose(errDown, double.List)), 0, errDown},
	} {
		if n, err := session.CountRecords(t.Context(), test.store); n != test.want || !errors.Is(err, test.error) {
			t.Errorf("%s: %d, %v, want %d, %v", test.name, n, err, test.want, test.error)
		}
	}
}

// DeleteExpired goes on in batches until none is left, rests in between, and stops at an error or when its context ends.
func TestDeleteExpiredInBatches(t *testing.T) {
	for _, test := range []struct {
		name  string
		left  int
		fail  error
		end   bool
		want  int
		took  time.Duration // at a millisecond a batch
		error error
	}{
		{"none", 0, nil, false, 0, time.Millisecond, nil},
		{"one batch", 10, nil, false, 10, time.Millisecond, nil},
		{"many", 12345, nil, false, 12345, (123*3 + 1) * time.Millisecond, nil},
		{"an error", 0, errDown, false, 0, time.Millisecond, errDown},
		{"end", 12345, nil, true, 100, time.Millisecond, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				left := test.left
				store := double.New(session.NewMemoryStore(), func(_ context.Context, c *double.Call, _ func(context.Context) error) error {
					time.Sleep(time.Millisecond)
					if test.end {
						cancel()
					}
					c.N = min(c.N, left)
					left -= c.N
					return test.fail
				})
				start := time.Now()
				n, err := session.DeleteExpired(ctx, store)
				if took := time.Since(start); n != test.want || !errors.Is(err, test.error) || took != test.took {
					t.Errorf("DeleteExpired: %d, %v in %v, want %d, %v in %v", n, err, took, test.want, test.error, test.took)
				}
			})
		})
	}
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

var prefixes atomic.Int64

// uniquePrefix returns a prefix that no other test uses, nor another run of this one.
func uniquePrefix() string {
	return fmt.Sprintf("t%x-%d:", time.Now().UnixNano(), prefixes.Add(1))
}

// storesAt returns what the kit needs to know of the stores at a URL. TestStores checks all kinds as a whole; the tests of their
// files check other ways to the same code.
func storesAt(url string) sessiontest.Stores { return storesOf(func(*testing.T) string { return url }) }

// storesOf returns what the kit needs to know of the stores at the URLs that place returns.
func storesOf(place func(t *testing.T) string) sessiontest.Stores {
	return sessiontest.Stores{Short: true, Place: place, Open: func(ctx context.Context, url string) (session.Store, error) { return session.Open(ctx, url) }}
}

// storesIn returns what the kit needs to know of stores that open opens in a place of that name.
func storesIn(place string, open func(place string) session.Store) sessiontest.Stores {
	return sessiontest.Stores{
		Short: true,
		Place: func(*testing.T) string { return place },
		Open:  func(_ context.Context, place string) (session.Store, error) { return open(place), nil },
	}
}

func openStore(t *testing.T, url string) session.StoreCloser {
	t.Helper()
	store, err := session.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// want returns nil if err is the one that is wanted.
func want(err, wanted error) error {
	if errors.Is(err, wanted) {
		return nil
	}
	return fmt.Errorf("got %v, want %v", err, wanted)
}

// checkFault checks an error that says that the store could not do its work.
func checkFault(t *testing.T, op string, err error, text string) {
	t.Helper()
	if err == nil || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) ||
		!strings.HasPrefix(err.Error(), "session: ") || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want a fault that says %q", op, err, text)
	}
}

// checkURLError checks an error about a URL that has "secret" where a password might be.
func checkURLError(t *testing.T, err error, except string) {
	t.Helper()
	if !strings.HasPrefix(err.Error(), "session: ") {
		t.Errorf("%q does not start with the package's name", err)
	}
	if strings.Contains(err.Error(), "secret") && (except == "" || !strings.Contains(err.Error(), except)) {
		t.Errorf("%q shows what may be a password", err)
	}
}

// expiring returns a context that is done before a server has answered that does not.
func expiring(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// testPaused checks that calls to a store whose server does not answer end with their context.
func testPaused(t *testing.T, store session.Store) {
	for name, call := range map[string]func(context.Context) error{
		"Load": func(ctx context.Context) error { _, err := store.Load(ctx, session.ID{1}); return err },
		"Save": func(ctx context.Context) error { return store.Save(ctx, session.ID{1}, session.Record{}) },
		"Touch": func(ctx context.Context) error {
			return session.Touch(ctx, store, session.ID{1}, session.Record{Version: 1})
		},
		"Delete": func(ctx context.Context) error { return store.Delete(ctx, session.ID{1}) },
		"Count": func(ctx context.Context) error {
			_, err := session.CountRecords(ctx, store)
			if errors.Is(err, errors.ErrUnsupported) {
				return context.DeadlineExceeded
			}
			return err
		},
	} {
		if err := call(expiring(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want context.DeadlineExceeded", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if err := call(ctx); !errors.Is(err, context.Canceled) && name != "Count" {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
}
