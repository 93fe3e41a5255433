package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// offsetEnv holds how far a process's clock is ahead.
const offsetEnv = "SESSION_TEST_CLOCK_OFFSET"

// clockSource is what package time gets beside its own files.
const clockSource = `package time

import "syscall"

var clockOffset = func() Duration {
	text, _ := syscall.Getenv("` + offsetEnv + `")
	d, err := ParseDuration(text)
	if err != nil || d%Second != 0 {
		panic("time: ` + offsetEnv + ` is " + text)
	}
	return d
}()

func Now() Time {
	t := trueNow()
	t.wall += uint64(clockOffset/Second) << nsecShift // and the monotonic clock stays what it is
	return t
}
`

// build builds the program with a package time whose Now is off. Everything is: package session, the clients of
// the servers, what they are built on.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	file, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const now = "\nfunc Now() Time {"
	if strings.Count(string(file), now) != 1 {
		t.Fatalf("package time has no %q", now)
	}
	files := map[string]string{
		"time.go":  strings.Replace(string(file), now, "\nfunc trueNow() Time {", 1),
		"clock.go": clockSource,
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][filepath.Join(source, name)] = path
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	config, bin := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "clocks")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", config, "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// A site runs the application on one store.
type site struct {
	t     *testing.T
	bin   string
	args  []string
	store string
	slow  time.Duration // the offset of the one clock
	ahead time.Duration // how far the other is ahead of it

	processes map[time.Duration]*process
}

// difference is that of the clocks.
const difference = time.Minute

// at returns a process whose clock is off by so much.
func (s *site) at(offset time.Duration) *process {
	s.t.Helper()
	if p := s.processes[offset]; p != nil {
		return p
	}
	cmd := exec.Command(s.bin, append([]string{"-store", s.store}, s.args...)...)
	cmd.Env = append(os.Environ(), offsetEnv+"="+offset.String())
	var log bytes.Buffer
	cmd.Stderr = &log
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		s.t.Fatal(err1, err2)
	}
	before := time.Now()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("the process at %v: %v", offset, err)
		}
		if s.t.Failed() {
			s.t.Logf("the log of the process at %v:\n%s", offset, &log)
		}
	})
	var address string
	var millis int64
	if _, err := fmt.Fscanln(bufio.NewReader(out), &address, &millis); err != nil {
		s.t.Fatalf("the process at %v: %v", offset, err)
	}
	if ahead := time.UnixMilli(millis).Sub(before); ahead < offset-time.Millisecond || ahead > offset+time.Since(before) {
		s.t.Fatalf("a clock is %v ahead, not %v", ahead, offset)
	}
	p := &process{s.t, "http://" + address}
	if s.processes == nil {
		s.processes = make(map[time.Duration]*process)
	}
	s.processes[offset] = p
	return p
}

// later returns the two processes as they are after that time: the one with the slower clock, and the other.
func (s *site) later(d time.Duration) (slow, fast *process) {
	s.t.Helper()
	return s.at(s.slow + d), s.at(s.slow + s.ahead + d)
}

// swapped returns the site with its two processes the other way round.
func (s *site) swapped() *site {
	other := *s
	other.slow, other.ahead, other.processes = s.slow+s.ahead, -s.ahead, nil
	return &other
}

// A process is one of the application's.
type process struct {
	t    *testing.T
	base string
}

// A reply is the answer with what of the response concerns the session.
type reply struct {
	answer
	Status int
	Cookie string // set by it; "-" if it removes the cookie
}

func (p *process) get(path string) (*http.Response, []byte) {
	p.t.Helper()
	res, err := http.Get(p.base + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res, body
}

// do sends a request with the cookie, none if it is empty, whose handler takes the steps.
func (p *process) do(cookie string, steps ...string) reply {
	p.t.Helper()
	r, err := http.NewRequest("GET", p.base+"/do?"+url.Values{"step": steps}.Encode(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: "session_id", Value: cookie})
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Error(err) // it need not be the goroutine of the test
		return reply{}
	}
	defer res.Body.Close()
	got := reply{Status: res.StatusCode}
	if res.StatusCode == http.StatusOK {
		if err := json.NewDecoder(res.Body).Decode(&got.answer); err != nil {
			p.t.Error(err)
		}
	}
	for _, c := range res.Cookies() {
		if got.Cookie = c.Value; c.MaxAge < 0 {
			got.Cookie = "-"
		}
	}
	return got
}

// want checks the status, and how many hits the session had.
func (p *process) want(what string, got reply, status, hits int) reply {
	p.t.Helper()
	if got.Status != status || got.Hits != hits {
		p.t.Errorf("%s: %+v, want status %d and %d hits", what, got, status, hits)
	}
	return got
}

// begin returns the cookie of a new session with one hit.
func (p *process) begin() string {
	p.t.Helper()
	got := p.do("", "hit")
	if got.Status != http.StatusOK || got.Hits != 1 || got.Cookie == "" {
		p.t.Fatalf("a new session: %+v", got)
	}
	return got.Cookie
}

// hold starts a request with steps, one of which is to hold, and returns when it does. The function lets all of
// the process's requests go on that hold, and returns this one's reply.
func (p *process) hold(cookie string, steps ...string) (goOn func() reply) {
	p.t.Helper()
	done := make(chan reply, 1)
	go func() { done <- p.do(cookie, steps...) }()
	p.get("/held")
	return func() reply {
		p.t.Helper()
		p.get("/release")
		return <-done
	}
}

// count gets a path that answers with a number; ok is false if the store cannot.
func (p *process) count(path string) (n int, ok bool) {
	p.t.Helper()
	res, body := p.get(path)
	if res.StatusCode == http.StatusNotImplemented {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil {
		p.t.Fatalf("%s: %s %s", path, res.Status, body)
	}
	return n, true
}
