package scratch_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/internal/scratch"
	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// Drop leaves nothing behind, and does nothing where nothing is.
func TestDrop(t *testing.T) {
	for name, test := range map[string]struct {
		server    func(testing.TB) *servertest.Server
		parameter string
	}{
		"mysql":    {servertest.MySQL, "table"},
		"mariadb":  {servertest.MariaDB, "table"},
		"postgres": {servertest.PostgreSQL, "table"},
		"mongodb":  {servertest.MongoDB, "collection"},
	} {
		t.Run(name, func(t *testing.T) {
			rawURL := test.server(t).Apart(t, test.parameter)
			store, err := session.Open(t.Context(), rawURL)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if err := store.Save(t.Context(), session.ID{1}, session.Record{Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := scratch.Drop(t.Context(), rawURL); err != nil {
					t.Error(err)
				}
			}
			if _, err := store.Load(t.Context(), session.ID{1}); err == nil {
				t.Error("the record is still there")
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := scratch.Drop(ctx, rawURL); !errors.Is(err, context.Canceled) {
				t.Errorf("with an ended context: %v", err)
			}
		})
	}
}

func TestDropOfOtherURLs(t *testing.T) {
	for _, rawURL := range []string{"redis://127.0.0.1:1?prefix=x", "memcached://127.0.0.1:1", "file:///x", "dir:x", "memory:", ""} {
		if err := scratch.Drop(t.Context(), rawURL); err != nil {
			t.Errorf("%q: %v", rawURL, err)
		}
	}
	for _, rawURL := range []string{
		"mysql://a:secret@127.0.0.1:1/b", "postgres://a:secret@127.0.0.1:1/b", "mongodb://a:secret@127.0.0.1:1/b",
		"postgres://a:secret@127.0.0.1:1/b?table=%zz",
	} {
		if err := scratch.Drop(t.Context(), rawURL); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", rawURL, err)
		}
	}
}
