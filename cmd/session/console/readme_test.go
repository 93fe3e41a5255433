package console

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/session"
)

// The README's commands print what it says, apart from where the servers are and how long it took.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n```console\n")
	block, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatal("the README has no commands")
	}
	from, to := startRedis(t), postgresBackend.newURL(t)
	populate(t, openTest(t, from.URL), session.Options{})

	bin := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "session"))
	}
	if err != nil {
		t.Fatal(err)
	}
	// Where the servers are, and how long it took.
	variable := regexp.MustCompile(`127\.0\.0\.1:\d+|/\S+ \([0-9.]+ s\)`)
	for _, part := range strings.Split(block, "$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		if strings.HasPrefix(command, "export ") {
			continue
		}
		sh := exec.CommandContext(t.Context(), "sh", "-c", command)
		sh.Env = append(newCommand(t).Env, "PATH="+bin+":"+os.Getenv("PATH"), "SESSION_STORE="+from.URL, "NEXT_STORE="+to)
		got := runCommand(t, sh)
		if got.code != exitOK || variable.ReplaceAllString(got.stdout, "…") != variable.ReplaceAllString(want, "…") {
			t.Errorf("%s\nprints %q, the README says %q: %s", command, got.stdout, want, got.stderr)
		}
	}
}
