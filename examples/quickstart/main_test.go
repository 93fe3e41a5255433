package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program builds the example once and runs it; it returns its address.
func program(t *testing.T, args ...string) (base string, stop func() error) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
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
	t.Cleanup(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("it printed %q, %v\n%s", line, err, &stderr)
	}
	return base, func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		return cmd.Wait()
	}
}

// browse returns a function that sends a request with the cookies of one browser.
func browse(t *testing.T, base string) (func(method, path string, form url.Values) string, *cookiejar.Jar) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: time.Minute}
	return func(method, path string, form url.Values) string {
		t.Helper()
		r, err := http.NewRequestWithContext(context.Background(), method, base+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %s, %v", method, path, res.Status, err)
		}
		return string(body)
	}, jar
}

func TestQuickstart(t *testing.T) {
	stores := map[string][]string{
		"default": nil,
		"memory":  {"-store", "memory:"},
		"file":    {"-store", "file://" + filepath.ToSlash(t.TempDir()) + "/sessions.db"},
		"dir":     {"-store", "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions"},
	}
	for name, args := range stores {
		t.Run(name, func(t *testing.T) {
			base, stop := program(t, args...)
			do, jar := browse(t, base)
			want := func(got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			for i := range 3 {
				want(do("GET", "/", nil), fmt.Sprintf("Hello stranger, this is visit %d.\n", i+1))
			}
			want(do("POST", "/login", url.Values{"user": {"ann"}}), "Hello ann, this is visit 4.\n")
			at, _ := url.Parse(base)
			loggedIn := jar.Cookies(at)
			want(do("POST", "/logout", nil), "Hello stranger, this is visit 1.\n")

			// The cookie of before the logout is worth nothing, nor is one that was tampered with.
			cookie := loggedIn[0]
			for i, value := range []string{
				cookie.Value,
				cookie.Value[:len(cookie.Value)-1],
				cookie.Value + cookie.Value,
				cookie.Value[43:] + cookie.Value[:43],
				strings.Repeat("A", len(cookie.Value)),
				"",
			} {
				r, _ := http.NewRequest("GET", base+"/", nil)
				r.AddCookie(&http.Cookie{Name: cookie.Name, Value: value})
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if i == 0 { // it ended a moment ago: nothing may be changed with it
					if res.StatusCode != http.StatusConflict {
						t.Errorf("after logout: %s %q", res.Status, body)
					}
					continue
				}
				want(string(body), "Hello stranger, this is visit 1.\n")
			}
			if err := stop(); err != nil {
				t.Errorf("SIGTERM: %v", err)
			}
		})
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
