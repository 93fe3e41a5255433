package session_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"example.com/session/internal/servertest"
)

// children are what a test can run in a process of its own: see childCommand.
var children = map[string]func(){
	"open":       childOpen,
	"increment":  childIncrement,
	"write":      childWrite,
	"visits":     childVisits,
	"casualties": childCasualties,
	"lockers":    childLockers,
	"holder":     childHolder,
}

func TestMain(m *testing.M) {
	if name := os.Getenv("SESSION_TEST_CHILD"); name != "" {
		child, ok := children[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "no child process is called %q\n", name)
			os.Exit(2)
		}
		child()
		os.Exit(0)
	}
	os.Exit(servertest.Main(m))
}

// childCommand returns a command, not started, that runs this program again as the child process of that name.
// What follows are environment variables, as in NAME=value. The process is killed when the test ends.
func childCommand(t *testing.T, name string, env ...string) *exec.Cmd {
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
