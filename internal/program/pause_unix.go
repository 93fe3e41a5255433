//go:build unix

package program

import "syscall"

// Pause has the program stand still, as on a machine that is short of time: its connections stay, and nobody answers.
func (p *Process) Pause() { p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() { p.cmd.Process.Signal(syscall.SIGCONT) }
