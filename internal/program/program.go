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

// Start runs an executable with -addr and args, and returns the addresses that it prints: "listening on" the first, and
// as many more as there are other lines that it begins with. It has the same SESSION_SECRET each time, and ends with the
// test at the latest.
func Start(t *testing.T, bin string, lines int, args ...string) (addresses []string, stop func() error) {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "SESSION_SECRET="+strings.Repeat("s", 32))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	t.Cleanup(func() {
		cmd.Process.Kill()
		wait()
	})
	for stdout := bufio.NewReader(out); len(addresses) < lines; {
		line, err := stdout.ReadString('\n')
		what, address, ok := strings.Cut(strings.TrimSpace(line), " on ")
		if err != nil || !ok || len(addresses) == 0 && what != "listening" {
			cmd.Process.Kill()
			wait() // so that all of stderr is there
			t.Fatalf("it printed %q, %v\n%s", line, err, &stderr)
		}
		addresses = append(addresses, address)
	}
	return addresses, func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		return wait()
	}
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
