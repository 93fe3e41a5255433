package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"example.com/session/internal/servertest"
)

// Children are what the tests of a package run in processes of their own: see Child.
type Children map[string]func()

// Main is for TestMain. In a process that Child started it calls that child's function, and otherwise runs the tests. It
// returns the exit code.
func (c Children) Main(m *testing.M) int {
	name := os.Getenv("SESSION_TEST_CHILD")
	if name == "" {
		return servertest.Main(m)
	}
	child, ok := c[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no child process is called %q\n", name)
		return 2
	}
	child()
	return 0
}

// Child returns a command, not started, that runs this program again as the child process of that name. The rest
// are environment variables, as in NAME=value. The process is killed when the test ends.
func Child(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), "SESSION_TEST_CHILD="+name, "GORACE=atexit_sleep_ms=0"), env...)
	cmd.Stderr = os.Stderr
	return cmd
}
