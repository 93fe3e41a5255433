package program

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel kill cmd's process when this one ends, however it ends.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
