package main

import (
	"bufio"
	"bytes"
	"fmt"
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

	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// build builds the example and returns the path of the program.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// start runs the program and returns its address.
func start(t *testing.T, bin string, args ...string) (base string, stop func() error) {
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
	line, err := bufio.NewReader(out).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		cmd.Process.Kill()
		wait() // so that all of stderr is there
		t.Fatalf("it printed %q, %v\n%s", line, err, &stderr)
	}
	return base, func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		return wait()
	}
}

// A browser sends requests with its cookies. They know no port, and so outlast the program.
type browser struct {
	t      *testing.T
	client *http.Client
	base   string // where the program is
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &http.Client{Jar: jar, Timeout: time.Minute}, base}
}

// want checks what the browser shows after a request.
func (b *browser) want(page, method, path string, form url.Values) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || string(body) != page {
		b.t.Errorf("%s %s: %s %q, %v; want %q", method, path, res.Status, body, err, page)
	}
}

// cookie returns the only one that the browser has.
func (b *browser) cookie() *http.Cookie {
	b.t.Helper()
	at, err := url.Parse(b.base)
	if err != nil {
		b.t.Fatal(err)
	}
	cookies := b.client.Jar.Cookies(at)
	if len(cookies) != 1 {
		b.t.Fatalf("the browser has %d cookies", len(cookies))
	}
	return cookies[0]
}

// sendAlone sends a cookie of that value from a browser that has no others.
func (b *browser) sendAlone(name, value string) (status int, page string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), "GET", b.base+"/", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.AddCookie(&http.Cookie{Name: name, Value: value})
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// stores are what -store can name, each with a place of its own for the sessions.
var stores = []struct {
	name string
	url  func(*testing.T) string
	ends bool // with the program
}{
	{"default", func(*testing.T) string { return "" }, true},
	{"memory", func(*testing.T) string { return "memory:" }, true},
	{"file", func(t *testing.T) string { return "file://" + filepath.ToSlash(t.TempDir()) + "/sessions.db" }, false},
	{"dir", func(t *testing.T) string { return "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions" }, false},
	{"mysql", func(t *testing.T) string { return servertest.MySQL(t).Apart("table") }, false},
	{"mariadb", func(t *testing.T) string { return servertest.MariaDB(t).Apart("table") }, false},
	{"postgres", func(t *testing.T) string { return servertest.PostgreSQL(t).Apart("table") }, false},
	{"redis", func(t *testing.T) string { return servertest.Redis(t).Apart("prefix") }, false},
	{"redis sentinel", func(t *testing.T) string { return servertest.RedisSentinel(t).Apart("prefix") }, false},
	{"valkey", func(t *testing.T) string { return servertest.Valkey(t).Apart("prefix") }, false},
	{"redis cluster", func(t *testing.T) string { return servertest.RedisCluster(t).Apart("prefix") }, false},
	{"mongodb", func(t *testing.T) string { return servertest.MongoDB(t).Apart("collection") }, false},
	{"memcached", func(t *testing.T) string { return servertest.Memcached(t).Apart("prefix") }, false},
}

// The program does the same on every store, and a second one goes on where it stopped.
func TestQuickstart(t *testing.T) {
	bin := build(t)
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			args := []string{"-store", store.url(t)}
			base, stop := start(t, bin, args...)
			b := newBrowser(t, base)
			for i := range 3 {
				b.want(fmt.Sprintf("Hello stranger, this is visit %d.\n", i+1), "GET", "/", nil)
			}
			b.want("Hello ann, this is visit 4.\n", "POST", "/login", url.Values{"user": {"ann"}})

			if err := stop(); err != nil {
				t.Errorf("SIGTERM: %v", err)
			}
			b.base, stop = start(t, bin, args...)
			if store.ends {
				b.want("Hello stranger, this is visit 1.\n", "GET", "/", nil)
			} else {
				b.want("Hello ann, this is visit 5.\n", "GET", "/", nil)
			}

			cookie := b.cookie()
			b.want("Hello stranger, this is visit 1.\n", "POST", "/logout", nil)
			// It ended a moment ago: nothing may be changed with it.
			if status, page := b.sendAlone(cookie.Name, cookie.Value); status != http.StatusConflict {
				t.Errorf("after logout: %d %q", status, page)
			}
			for _, value := range []string{ // tampered with
				cookie.Value[:len(cookie.Value)-1],
				cookie.Value + cookie.Value,
				cookie.Value[43:] + cookie.Value[:43],
				strings.Repeat("A", len(cookie.Value)),
				"",
			} {
				status, page := b.sendAlone(cookie.Name, value)
				if status != http.StatusOK || page != "Hello stranger, this is visit 1.\n" {
					t.Errorf("cookie %q: %d %q", value, status, page)
				}
			}
			if err := stop(); err != nil {
				t.Errorf("SIGTERM: %v", err)
			}
		})
	}
}

// A store that cannot be opened ends the program, which says why and shows no password.
func TestQuickstartFaults(t *testing.T) {
	bin := build(t)
	for _, storeURL := range []string{
		"no-such-scheme://user:hunter2@host",
		"redis://user:hunter2@127.0.0.1:1",
		"mysql://user:hunter2@127.0.0.1:1/test",
		"postgres://user:hunter2@127.0.0.1:1/test",
		"mongodb://user:hunter2@127.0.0.1:1/test?serverSelectionTimeoutMS=100",
		"memcached://user:hunter2@127.0.0.1:1",
	} {
		cmd := exec.CommandContext(t.Context(), bin, "-addr", "127.0.0.1:0", "-store", storeURL)
		out, err := cmd.CombinedOutput()
		if _, ended := err.(*exec.ExitError); !ended || !strings.Contains(string(out), "session: ") ||
			strings.Contains(string(out), "hunter2") {
			t.Errorf("%s: %v\n%s", storeURL, err, out)
		}
	}
}

func TestQuickstartLength(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(source, []byte("\n")); n >= 80 {
		t.Errorf("the program has %d lines; a newcomer reads 79 at most", n)
	}
}
