package console

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/session"
)

// openOwn opens a store of one's own: here a directory, by another name.
func openOwn(ctx context.Context, rawURL string) (session.StoreCloser, error) {
	_, path, _ := strings.Cut(rawURL, ":")
	path, _, _ = strings.Cut(path, "?")
	return session.NewDirStore(path, &session.DirOptions{NoSync: true})
}

// runOwn runs a command that was built with a scheme of one's own.
func runOwn(t *testing.T, args ...string) result {
	t.Helper()
	cmd := newCommand(t, args...)
	cmd.Env = append(cmd.Env, "SESSION_TEST_COMMAND=own")
	return runCommand(t, cmd)
}

// A command that was built with a scheme of one's own does with it what it does with the others.
func TestOwnScheme(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions")
	rawURL := "own:" + path + "?password=" + password
	p := populate(t, openTest(t, "dir://"+path), session.Options{})
	if got := decode[[]listed](t, runOwn(t, "list", "--json", "--store", rawURL).stdout); len(got) != 4 {
		t.Errorf("listed: %+v", got)
	}
	if r := runOwn(t, "show", p.anns.String()[:8], "--store", rawURL); r.code != exitOK || !strings.Contains(r.stdout, "ann") {
		t.Errorf("show: %+v", r)
	}
	if r := runOwn(t, "check", "--in-place", "--store", rawURL); r.code != exitOK || !strings.HasPrefix(r.stdout, "own: keeps") {
		t.Errorf("check: %+v", r)
	}
	if r := runOwn(t, "check", "--store", rawURL); r.code != exitUsage || !strings.Contains(r.stderr, "--in-place") {
		t.Errorf("check beside it: %+v", r)
	}
	// Under another name it is the same store.
	if r := runOwn(t, "copy", rawURL, "dir://"+path); r.code != exitUsage || !strings.Contains(r.stderr, "the same store") {
		t.Errorf("copy onto itself: %+v", r)
	}
	to := redisBackend.newURL(t)
	if r := runOwn(t, "copy", rawURL, to); r.code != exitOK || !strings.Contains(r.stdout, " in own:\n") {
		t.Errorf("copy: %+v", r)
	}
	if r := runOwn(t, "end", "--user", "ann", "--store", rawURL); r.code != exitOK || alive(t, p.m, p.ann) {
		t.Errorf("end: %+v", r)
	}
	if r := runOwn(t, "--help"); !strings.Contains(r.stdout, "\n  own:/path\n") {
		t.Errorf("the help lacks it:\n%s", r.stdout)
	}
	if r := run(t, "list", "--store", rawURL); r.code != exitUsage {
		t.Errorf("without it: %+v", r)
	}
}

// The program in the package's doc is built, in a module of its own, as somebody's would be.
func TestOwnProgram(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	block, _, _ := strings.Cut(string(source), "\npackage console\n")
	_, block, found := strings.Cut(block, "//\n//\tpackage main")
	program := "package main" + regexp.MustCompile(`(?m)^//\t?`).ReplaceAllString(block, "")
	if lines := strings.Count(strings.TrimSpace(program), "\n") + 1; !found || lines > 10 {
		t.Errorf("the program has %d lines, and is to have ten:\n%s", lines, program)
	}
	dir := t.TempDir()
	command, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"main.go": program,
		"natsstore/store.go": "package natsstore\n\nimport (\n\t\"context\"\n\n\t\"example.com/session\"\n)\n\n" +
			"func Open(context.Context, string) (session.StoreCloser, error) { return session.NewMemoryStore(), nil }\n",
		"go.mod": "module example.com/app\n\ngo 1.26\n",
		"go.sum": string(sums),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := "go mod edit -replace example.com/session=" + filepath.Dir(filepath.Dir(command)) +
		" -replace example.com/session/cmd/session=" + command + " && go get example.com/session/cmd/session@v0.0.0 && " +
		"go build -o session . && ./session list --json --store nats:x && ./session --help && ./session --version"
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = dir
	out, err := cmd.Output()
	if e, ok := err.(*exec.ExitError); ok {
		t.Fatalf("%v\n%s\n%s", err, out, e.Stderr)
	}
	if !strings.HasPrefix(string(out), "[]\n") || !strings.Contains(string(out), "\n  nats://host:port\n") || !strings.Contains(string(out), "\nsession v0.0.0 (library ") {
		t.Errorf("it prints:\n%s", out)
	}
}
