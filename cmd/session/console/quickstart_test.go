package console

import (
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session/internal/program"
)

// Whoever logs in at the quickstart is seen by the command, and logged out by it.
func TestQuickstart(t *testing.T) {
	rawURL := dirBackend.newURL(t)
	bin := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "example.com/session/examples/quickstart").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("SESSION_STORE", rawURL)
	b := program.NewBrowser(t, program.Start(t, bin).Base)
	b.Want("Hello stranger, this is visit 1.\n", "GET", "/", nil)
	b.Want("Hello ann, this is visit 2.\n", "POST", "/login", url.Values{"user": {"ann"}})
	if list := runOK(t, "list", "--store", rawURL); strings.Count(list, "\nann ") != 1 {
		t.Errorf("the list:\n%s", list)
	}
	if out := runOK(t, "end", "--user", "ann", "--store", rawURL); out != "ended 1 session\n" {
		t.Errorf("end prints %q", out)
	}
	if status, page := b.Do("GET", "/", nil); status != 200 || strings.Contains(page, "ann") {
		t.Errorf("afterwards: %d %q", status, page)
	}
}
