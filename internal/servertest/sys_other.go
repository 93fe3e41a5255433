//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

const (
	signalStop = iota
	signalContinue
	signalKill
)

func signal(int, int) error            { return unsupported() }
func detach(*exec.Cmd, *account) error { return unsupported() }
func lock(*os.File) error              { return unsupported() }

func unsupported() error {
	return fmt.Errorf("%w: servers are not started on %s; see the SESSION_TEST_… variables", errMissing,
		runtime.GOOS)
}
