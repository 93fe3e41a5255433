package servertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A process is a program that a guard started, with its children.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// state describes the end of a process that has ended.
func (p *process) state() string { return p.cmd.ProcessState.String() }

func (p *process) pause(ctx context.Context) error {
	_, err := p.freeze(ctx)
	return err
}

// freeze stops the process and its children, and returns the children.
func (p *process) freeze(ctx context.Context) ([]int, error) {
	if p.exited() {
		return nil, fmt.Errorf("it has ended: %s", p.state())
	}
	if err := freezeOne(ctx, p.cmd.Process.Pid); err != nil {
		return nil, err
	}
	pids := children(p.cmd.Process.Pid)
	for _, pid := range pids {
		if err := freezeOne(ctx, pid); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

func (p *process) resume(context.Context) error {
	if p.exited() {
		return fmt.Errorf("it has ended: %s", p.state())
	}
	for _, pid := range append(children(p.cmd.Process.Pid), p.cmd.Process.Pid) {
		if err := signal(pid, signalContinue); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) kill(ctx context.Context) error {
	if p.exited() {
		return nil
	}
	pids, err := p.freeze(ctx) // so that no child is born meanwhile
	if err != nil && !p.exited() {
		return err
	}
	pids = append(pids, p.cmd.Process.Pid)
	for _, pid := range pids {
		if err := signal(pid, signalKill); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		for ctx.Err() == nil && alive(pid) {
			pause(ctx)
		}
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", p.cmd.Process.Pid, ctx.Err())
	}
}

// freezeOne stops one process and returns when it has stopped: SIGSTOP takes effect some time after the call.
func freezeOne(ctx context.Context, pid int) error {
	if err := signal(pid, signalStop); err != nil {
		return err
	}
	for !stopped(pid) {
		if ctx.Err() != nil {
			return fmt.Errorf("process %d does not stop: %w", pid, ctx.Err())
		}
		pause(ctx)
	}
	return nil
}

// stopped reports whether no thread of the process runs. Without a Linux /proc it is taken for granted.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range threads {
		if state, _, ok := readStat(file); ok && !strings.Contains("TtZX", state) {
			return false
		}
	}
	return true
}

func alive(pid int) bool {
	state, _, ok := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return ok && !strings.Contains("ZX", state)
}

// children returns the process's children.
func children(pid int) []int {
	var pids []int
	if stats, _ := filepath.Glob("/proc/[0-9]*/stat"); len(stats) > 0 {
		for _, file := range stats {
			if _, parent, ok := readStat(file); ok && parent == pid {
				child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
				pids = append(pids, child)
			}
		}
		return pids
	}
	out, _ := exec.Command("ps", "-A", "-o", "ppid=", "-o", "pid=").Output()
	for line := range strings.Lines(string(out)) {
		var parent, child int
		if n, _ := fmt.Sscan(line, &parent, &child); n == 2 && parent == pid {
			pids = append(pids, child)
		}
	}
	return pids
}

// readStat returns the state and the parent in a file of Linux's /proc. The name before them can hold spaces
// and parentheses.
func readStat(file string) (state string, parent int, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", 0, false
	}
	rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
	n, _ := fmt.Sscan(rest, &state, &parent)
	return state, parent, n == 2
}

// cpu returns the processor time that the process and its children took, those included that have ended. It is zero where
// there is no Linux /proc.
func (p *process) cpu() (d time.Duration) {
	const tick = time.Second / 100 // what the kernel counts in, as all programs see it
	for _, pid := range append(children(p.cmd.Process.Pid), p.cmd.Process.Pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// after the name: the state, and ten more; then user and system, and the same of children that have ended
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for i := 11; i < min(len(f), 15); i++ {
			n, _ := strconv.Atoi(f[i])
			d += time.Duration(n) * tick
		}
	}
	return d
}

// listens reports whether the process itself listens on the TCP port. Where Linux's /proc cannot tell, it is
// taken for granted.
func (p *process) listens(port int) bool {
	sockets, known := listeners(port)
	if !known {
		return true
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return !p.exited()
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && sockets[target] {
			return true
		}
	}
	return false
}

// listeners returns the sockets that listen on a port, as they show in /proc/PID/fd.
func listeners(port int) (sockets map[string]bool, known bool) {
	sockets = make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		known = true
		for line := range strings.Lines(string(text)) {
			// number, local address, remote address, state (0A: listen), five more, inode
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	return sockets, known
}
