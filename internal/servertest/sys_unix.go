//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package servertest

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

const (
	signalStop     = syscall.SIGSTOP
	signalContinue = syscall.SIGCONT
	signalKill     = syscall.SIGKILL
)

// signal sends a signal to one process. A process that has ended is no error.
func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// detach makes cmd a session of its own, which no terminal's signals reach, and lets it run as another user.
func detach(cmd *exec.Cmd, as *account) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	}
	return nil
}

// lock waits for the exclusive lock on f, which the end of this process releases.
func lock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
