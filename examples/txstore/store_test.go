package txstore_test

import (
	"context"
	"path/filepath"
	"testing"

	"example.com/session"
	"example.com/session/examples/txstore"
	"example.com/session/sessiontest"
)

func TestStore(t *testing.T) {
	stores := sessiontest.Stores{
		Place: func(t *testing.T) string { return filepath.Join(t.TempDir(), "sessions.db") },
		Open:  func(_ context.Context, path string) (session.Store, error) { return txstore.Open(path) },
		Once:  true, // bbolt locks the file
	}
	sessiontest.Run(t, stores)
	sessiontest.RunSessions(t, stores)
}
