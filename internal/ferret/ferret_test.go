package ferret

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
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
// both succeed. The kit says so, by the rule that such a server breaks. It runs in a process of its own, since it is to fail.
func TestConditionalUpdates(t *testing.T) {
	const child = "SESSION_TEST_FERRET"
	if os.Getenv(child) != "" {
		rawURL := startFerret(t) + "/test?create=false" // it knows no index that expires
		sessiontest.Run(t, sessiontest.Stores{
			Place: func(*testing.T) string { return rawURL },
			Open:  func(ctx context.Context, url string) (session.Store, error) { return session.Open(ctx, url) },
		})
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestConditionalUpdates$/^race-increment$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "rule race-increment:") {
		t.Fatalf("the rule race-increment is not found broken: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
