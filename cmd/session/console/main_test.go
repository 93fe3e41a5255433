package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/internal/servertest"
)

// TestMain lets tests run this program again as the command itself, with the race detector if they have it.
func TestMain(m *testing.M) {
	switch os.Getenv("SESSION_TEST_COMMAND") {
	case "1":
		Main()
	case "own":
		Main(Scheme{Name: "own", URL: "own:/path", Open: openOwn})
	}
	os.Exit(servertest.Main(m))
}

// password is one that no output may show, nor may it show secret.
const password = "hunter2-Pa55word"

// A result is what a command printed, and its exit code.
type result struct {
	stdout, stderr string
	code           int
}

// command returns the command as a process of its own, not started.
func newCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SESSION_STORE=") && !strings.HasPrefix(v, "SESSION_SECRET=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "SESSION_TEST_COMMAND=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// run runs the command. Leading arguments of the form NAME=value are its environment.
func run(t *testing.T, args ...string) result {
	t.Helper()
	var env []string
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "-") {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := newCommand(t, args...)
	cmd.Env = append(cmd.Env, env...)
	return runCommand(t, cmd)
}

func runCommand(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if out := r.stdout + r.stderr; strings.Contains(out, password) || strings.Contains(out, secret) {
		t.Errorf("session %q shows the password, or the secret:\n%s%s", cmd.Args[1:], r.stdout, r.stderr)
	}
	return r
}

// runOK is run for a command that has to succeed. It returns what it printed to stdout.
func runOK(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.code != exitOK {
		t.Fatalf("session %q exits with %d:\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// decode returns the one JSON value that text is.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in JSON: %s", err, text)
	}
	if d.More() {
		t.Fatalf("more than one value in JSON: %s", text)
	}
	return v
}

// A backend is a kind of store, at a real server where it needs one.
type backend struct {
	name   string
	newURL func(t *testing.T) string // of an empty place of its own
}

var (
	dirBackend       = backend{"dir", func(t *testing.T) string { return "dir://" + filepath.Join(t.TempDir(), "sessions") }}
	fileBackend      = backend{"file", func(t *testing.T) string { return "file://" + filepath.Join(t.TempDir(), "sessions.db") }}
	redisBackend     = backend{"redis", serverURL(servertest.Redis, "prefix")}
	memcachedBackend = backend{"memcached", serverURL(servertest.Memcached, "prefix")}
	mysqlBackend     = backend{"mysql", serverURL(servertest.MariaDB, "table")}
	postgresBackend  = backend{"postgres", serverURL(servertest.PostgreSQL, "table")}
	mongoBackend     = backend{"mongodb", serverURL(servertest.MongoDB, "collection")}

	backends = []backend{
		dirBackend, fileBackend, redisBackend, memcachedBackend, mysqlBackend, postgresBackend, mongoBackend,
	}
)

func serverURL(server func(testing.TB) *servertest.Server, parameter string) func(*testing.T) string {
	return func(t *testing.T) string { return server(t).Apart(t, parameter) }
}

// eachBackend runs a test on every backend.
func eachBackend(t *testing.T, fn func(t *testing.T, b backend)) {
	t.Helper()
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { fn(t, b) })
	}
}

// openTest opens a store in this process, the quick way: a directory without waiting for the disk. It makes what is
// missing.
func openTest(t *testing.T, rawURL string) session.StoreCloser {
	t.Helper()
	var store session.StoreCloser
	var err error
	if u, parseErr := url.Parse(rawURL); parseErr == nil && u.Scheme == "dir" {
		store, err = session.NewDirStore(u.Path, &session.DirOptions{NoSync: true})
	} else {
		store, err = session.Open(t.Context(), rawURL)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// canList reports whether the store's records can be listed.
func canList(store session.Store) bool {
	_, err := session.CountRecords(context.Background(), store)
	return !errors.Is(err, errors.ErrUnsupported)
}

// startRedis returns a Redis of the test's own.
func startRedis(t *testing.T) *servertest.Server {
	t.Helper()
	return servertest.Start(t, servertest.KindRedis)
}
