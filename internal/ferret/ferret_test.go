package ferret

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/FerretDB/FerretDB/ferretdb"

	"example.com/session"
	"example.com/session/sessiontest"
)

// startFerret returns the URL of FerretDB on SQLite, in this process.
func startFerret(t *testing.T) string {
	t.Helper()
	f, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		Logger:    slog.New(slog.DiscardHandler),
		SQLiteURL: (&url.URL{Scheme: "file", Path: t.TempDir() + "/"}).String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return strings.TrimSuffix(f.MongoDBURI(), "/")
}

// FerretDB 1.24 on SQLite speaks MongoDB's protocol, and looks before it writes: of two conditional updates at the same time
// both succeed. Check says so, by the rules that such a server breaks.
func TestConditionalUpdates(t *testing.T) {
	rawURL := startFerret(t) + "/test?create=false" // it knows no index that expires
	open := func() session.Store {
		store, err := session.Open(t.Context(), rawURL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	err := sessiontest.Check(t.Context(), open(), open())
	if err == nil || !strings.Contains(err.Error(), "rule race-increment:") {
		t.Fatalf("the rule race-increment is not found broken: %v", err)
	}
	t.Log(err)
}
