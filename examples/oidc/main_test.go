package main

import (
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session/internal/program"
)

// The program goes on where it stopped, with the provider that comes with it, and has its users logged out by that.
func TestProgram(t *testing.T) {
	op := filepath.Join(t.TempDir(), "provider")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", op, "./provider").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	bin := program.Build(t)
	issuer := program.Start(t, op).Base
	start := func() *program.Process {
		return program.Start(t, bin, "-issuer", issuer, "-store", "file://"+filepath.Join(t.TempDir(), "..", "sessions"))
	}
	p := start()
	b := program.NewBrowser(t, p.Base)
	_, page := b.Do("GET", "/members/", nil)
	id := requestID.FindStringSubmatch(page)
	if id == nil {
		t.Fatalf("it leads to %s", page)
	}
	atOP := *b
	atOP.Base = issuer
	atOP.Want("Members only: \"\" for ann.\n", "POST", "/login", url.Values{"id": {id[1]}, "do": {"login"}, "user": {"ann"}})
	p.Stop()
	p = start()
	b.Base = p.Base
	b.Want("Members only: \"x\" for ann.\n", "GET", "/members/x", nil)
	if _, page := b.Do("POST", "/logout", url.Values{}); !strings.Contains(page, "logged out, here and at the provider") {
		t.Error(page)
	}
	if _, page := b.Do("GET", "/", nil); strings.Contains(page, "Hello") {
		t.Error(page)
	}
	p.Stop()
}
