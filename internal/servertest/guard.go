package servertest

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A guard is a shell that waits for this process to close a pipe, or to die, which closes it too. It then ends
// the processes that were started through it and removes its directories. Stopping servers the usual way goes
// the same way, so that it is known to work.
type guard struct {
	dir  string // for any use; removed in the end
	pipe *os.File
	cmd  *exec.Cmd
}

//go:embed guard.sh
var guardScript string

// newGuard starts a guard with a new directory in base. It removes the directories in remove too, which need
// not exist.
func newGuard(base, name string, remove ...string) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	g := &guard{dir: filepath.Join(base, "session-"+name+"-"+rand.Text()), pipe: w}
	g.cmd = exec.Command("/bin/sh", append([]string{"-c", guardScript, "sh", g.dir}, remove...)...)
	g.cmd.Stdin = r
	g.cmd.Dir = "/"
	if err := detach(g.cmd, nil); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if err := g.cmd.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	// Only now, when somebody is there to remove it. Others may pass through: a server that runs as another
	// user has its data in there.
	if err = os.Mkdir(g.dir, 0o711); err == nil {
		err = os.Chmod(g.dir, 0o711)
	}
	if err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return g, nil
}

// start starts a program in dir, with its output appended to the file log, and nothing to read.
func (g *guard) start(dir, log string, as *account, argv []string) (*process, error) {
	return g.startWith(nil, dir, log, as, argv)
}

func (g *guard) startWith(in *os.File, dir, log string, as *account, argv []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// The program's process tells the guard about itself before it turns into the program, so that there is no
	// moment in which it runs and the guard does not know.
	const announce = `echo "+$$" >&3 || exit; exec 3>&-; exec "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", announce, "sh"}, argv...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PWD="+dir, "TMPDIR="+dir)
	if in != nil {
		cmd.Stdin = in
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{g.pipe}
	if err := detach(cmd, as); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		fmt.Fprintf(g.pipe, "-%d\n", cmd.Process.Pid)
		close(p.done)
	}()
	return p, nil
}

// run runs a program until it ends, with input to read, and returns its output as the error if it fails.
func (g *guard) run(ctx context.Context, dir string, as *account, input string, argv ...string) error {
	file, log := filepath.Join(g.dir, "in-"+rand.Text()), filepath.Join(g.dir, "log-"+rand.Text())
	if err := os.WriteFile(file, []byte(input), 0o600); err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	p, err := g.startWith(in, dir, log, as, argv)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill(context.WithoutCancel(ctx))
		err = ctx.Err()
	}
	if err == nil && p.cmd.ProcessState.Success() {
		return nil
	}
	text, _ := os.ReadFile(log)
	return fmt.Errorf("%s: %v\n%s", strings.Join(argv, " "), errors.Join(err, errors.New(p.state())), text)
}

// stop returns when all processes have ended and all files are gone.
func (g *guard) stop() error {
	g.pipe.Close()
	timer := time.AfterFunc(30*time.Second, func() { g.cmd.Process.Kill() })
	defer timer.Stop()
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("servertest: cleaning up %s: %w", g.dir, err)
	}
	return nil
}
