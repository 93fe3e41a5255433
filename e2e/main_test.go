package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"example.com/session/internal/servertest"
)

// scratch is a directory for as long as the tests run.
var scratch string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	scratch, err = os.MkdirTemp("", "session-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	defer closeSharedBrowser()
	return servertest.Main(m)
}

// need skips the test if the program is not installed, or fails it if SESSION_TEST_REQUIRE is 1. It returns the
// program's path.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("SESSION_TEST_REQUIRE") == "1" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("%s is not installed", program)
	return ""
}
