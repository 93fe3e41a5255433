package session_test

import (
	"testing"

	"example.com/session"
)

// eachStore runs a test on every backend. newStore returns a store, or a namespace of one, that nobody else uses.
func eachStore(t *testing.T, fn func(t *testing.T, newStore func(*testing.T) session.Store)) {
	t.Helper()
	for name, newStore := range stores {
		t.Run(name, func(t *testing.T) { fn(t, newStore) })
	}
}

var stores = map[string]func(*testing.T) session.Store{
	"memory": func(*testing.T) session.Store { return session.NewMemoryStore() },
}
