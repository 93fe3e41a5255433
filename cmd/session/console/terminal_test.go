package console

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"example.com/session"
	"github.com/creack/pty"
)

// onTerminal runs a command whose input and output is a terminal, at which somebody types what is asked for. It
// returns what the terminal showed, and the exit code.
func onTerminal(t *testing.T, typed string, args ...string) (string, int) {
	t.Helper()
	cmd := newCommand(t, args...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if _, err := io.WriteString(terminal, typed); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if _, err := io.Copy(&shown, terminal); err != nil && !errors.Is(err, syscall.EIO) { // which is its end
		t.Fatal(err)
	}
	err = cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	if strings.Contains(shown.String(), password) {
		t.Errorf("session %q shows the password:\n%s", args, shown.String())
	}
	return shown.String(), cmd.ProcessState.ExitCode()
}

// At a terminal, end --all asks.
func TestConfirm(t *testing.T) {
	rawURL := redisBackend.newURL(t)
	p := populate(t, openTest(t, rawURL), session.Options{})
	args := []string{"end", "--all", "--store", rawURL}
	for _, no := range []string{"n\n", "\n", "nonsense\n", "\x04"} {
		shown, code := onTerminal(t, no, args...)
		if code != exitFailed || !strings.Contains(shown, "End 4 live sessions in redis://127.0.0.1") || !strings.Contains(shown, "nothing was done") {
			t.Errorf("answered %q, it exits with %d:\n%s", no, code, shown)
		}
	}
	if !alive(t, p.m, p.bob) {
		t.Error("it was done all the same")
	}
	if shown, code := onTerminal(t, "yes\n", args...); code != exitOK || !strings.Contains(shown, "ended 4 sessions") {
		t.Errorf("answered yes, it exits with %d:\n%s", code, shown)
	}
	if alive(t, p.m, p.bob) {
		t.Error("it was not done")
	}
}

// At a terminal, and only there, copy shows how far it has come.
func TestProgress(t *testing.T) {
	from, to := redisBackend.newURL(t), redisBackend.newURL(t)
	source := openTest(t, from)
	for id := range byte(20) {
		if err := source.Save(t.Context(), session.ID{id}, session.Record{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	from = strings.Replace(from, "redis://", "redis://default:"+password+"@", 1) // Redis takes any if it has none
	shown, code := onTerminal(t, "", "copy", from, to, "--rate", "50")
	if code != exitOK || !strings.Contains(shown, "copying") || !strings.Contains(shown, "/20") {
		t.Errorf("it exits with %d:\n%q", code, shown)
	}
	if r := run(t, "copy", from, to); r.code != exitOK || r.stderr != "" {
		t.Errorf("with no terminal: %+v", r)
	}
}
