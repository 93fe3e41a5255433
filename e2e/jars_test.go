package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/session"
)

// curl's cookie jar goes through a login, a remembered one, and a logout.
func TestCurl(t *testing.T) {
	bin := need(t, "curl")
	s := example(t, "login").site
	jar := filepath.Join(t.TempDir(), "jar")
	curl := func(path string, form ...string) (page string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		args := []string{"-sS", "-L", "--cacert", certificate(t).certFile, "--resolve", "www.example.test:" + s.port + ":127.0.0.1",
			"-b", jar, "-c", jar, "-w", "\n%{http_code} %{url_effective}", s.home() + path}
		for _, field := range form {
			args = append(args, "--data-urlencode", field)
		}
		cmd := exec.CommandContext(ctx, bin, args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("curl: %v\n%s", err, &stderr)
		}
		return string(out)
	}
	// stored returns the fields of the session cookie's line: domain, subdomains, path, secure, expiry, name, value.
	stored := func() []string {
		t.Helper()
		text, err := os.ReadFile(jar)
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(`(?m)^.*\t__Host-session\t.*$`).FindAllString(string(text), -1)
		if len(line) != 1 {
			t.Fatalf("the jar holds %d session cookies:\n%s", len(line), text)
		}
		return strings.Split(line[0], "\t")
	}

	page := curl("/")
	contains(t, page, "200 "+s.home()+"/login")
	page = curl("/login", "user=ann", "password="+password, "remember=yes")
	contains(t, page, "Welcome, ann.")
	after := stored()
	if got, want := strings.Join(after[:4], " "), "#HttpOnly_www.example.test FALSE / TRUE"; got != want {
		t.Errorf("the cookie is %s, want %s", got, want)
	}
	expires, err := strconv.ParseInt(after[4], 10, 64)
	if left := time.Until(time.Unix(expires, 0)); err != nil || left < 29*24*time.Hour {
		t.Errorf("the cookie expires at %s", after[4])
	}
	page = curl("/devices")
	contains(t, page, "curl")
	contains(t, page, "this device only")
	page = curl("/logout", token(t, page))
	contains(t, page, "You are logged out.")
	contains(t, curl("/devices"), "200 "+s.home()+"/login")
}

// Python's http.cookiejar does, too.
func TestPython(t *testing.T) {
	bin := need(t, "python3")
	s := example(t, "login").site
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, filepath.Join("testdata", "login.py"), s.at("localhost"), certificate(t).certFile, password,
		session.FormTokenField)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "done" {
		t.Errorf("it printed %s", got)
	}
}

// token returns the field with the page's form token.
func token(t *testing.T, page string) string {
	t.Helper()
	match := regexp.MustCompile(`name="` + session.FormTokenField + `" value="([^"]+)"`).FindStringSubmatch(page)
	if match == nil {
		t.Fatalf("there is no form token in\n%s", page)
	}
	return session.FormTokenField + "=" + match[1]
}
