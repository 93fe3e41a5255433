// Package program is for tests of programs that serve HTTP: it builds one, runs it, and has a client for it.
package program

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Build builds the program in the test's directory, and returns the path of the executable.
func Build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "program")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// A Process is a program that runs. Its methods are for the goroutine of the test.
type Process struct {
	Base string // the address that it listens on

	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Reader
	wait func() error
}

// Start runs an executable with -addr and args, and waits until it prints "listening on" an address. It has the same
// SESSION_SECRET each time, and otherwise the test's environment. It ends with the test at the latest; if that has
// failed, what the program wrote to its standard error is logged.
func Start(t *testing.T, bin string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "SESSION_SECRET="+strings.Repeat("s", 32))
	endWithParent(cmd)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, out: bufio.NewReader(out), wait: sync.OnceValue(cmd.Wait)}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(bin), &stderr)
		}
	})
	p.Base = p.Address("listening")
	return p
}

// Address reads the program's next line, which has to be what and " on " an address.
func (p *Process) Address(what string) string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), what+" on ")
	if err != nil || !ok {
		p.t.Fatalf("it printed %q, %v, want the address of %q", line, err, what)
	}
	return address
}

// Terminate asks the program to end, as an administrator would, and waits until it has.
func (p *Process) Terminate() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

// Stop is Terminate; the test fails unless the program ends as a success.
func (p *Process) Stop() {
	p.t.Helper()
	if err := p.Terminate(); err != nil {
		p.t.Errorf("SIGTERM: %v", err)
	}
}

// Kill ends the program without giving it a chance.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	p.wait()
}

// A Browser keeps its cookies, which know no port and so outlast the program, and follows redirects.
type Browser struct {
	Base   string // where the program is
	t      *testing.T
	client *http.Client
}

// NewBrowser returns one without cookies.
func NewBrowser(t *testing.T, base string) *Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{base, t, &http.Client{Jar: jar, Timeout: time.Minute}}
}

// Cookies returns those that it has for the program.
func (b *Browser) Cookies() []*http.Cookie {
	b.t.Helper()
	at, err := url.Parse(b.Base)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.client.Jar.Cookies(at)
}

// SetCookie gives it a cookie for the program.
func (b *Browser) SetCookie(c *http.Cookie) {
	b.t.Helper()
	at, err := url.Parse(b.Base)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client.Jar.SetCookies(at, []*http.Cookie{c})
}

// Do returns the status and the body that a request ends with. Form is sent unless it is nil. It may be called by
// several goroutines.
func (b *Browser) Do(method, path string, form url.Values) (status int, page string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.Base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Error(err)
		return 0, ""
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Error(err)
	}
	return res.StatusCode, string(body)
}

// Want checks what a request ends with.
func (b *Browser) Want(page, method, path string, form url.Values) {
	b.t.Helper()
	if status, got := b.Do(method, path, form); status != http.StatusOK || got != page {
		b.t.Errorf("%s %s: %d %q, want %q", method, path, status, got, page)
	}
}
