package servertest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestChild is what the other tests run in a process of its own: it starts the kinds of servers that its
// environment names, each once shared and once not, pauses the latter, and ends as it is told.
func TestChild(t *testing.T) {
	names, end, ok := strings.Cut(os.Getenv("SERVERTEST_CHILD"), " ")
	if !ok {
		t.Skip("runs as part of other tests")
	}
	var wg sync.WaitGroup
	var own []*Server
	for name := range strings.SplitSeq(names, ",") {
		wg.Go(func() { share(t, Kind(name)) }) // all at once, for the sake of time
		own = append(own, Start(t, Kind(name)))
	}
	wg.Wait()
	for _, s := range own {
		s.Pause()
	}
	fmt.Println("started")
	switch end {
	case "panic":
		go panic("on purpose")
	case "exit":
		os.Exit(0)
	case "return":
		return
	}
	io.Copy(io.Discard, os.Stdin) // "wait"
}

func TestChildEnds(t *testing.T) {
	few := []Kind{KindRedis, KindPostgreSQL}
	for end, kinds := range map[string][]Kind{"kill": kinds, "panic": few, "exit": few, "return": kinds} {
		t.Run(end, func(t *testing.T) {
			c := startChild(t, kinds, end, "")
			if !c.started() {
				t.Fatalf("the child did not start its servers:\n%s", c.output())
			}
			if end == "kill" {
				if left := c.left(); len(c.processes()) < 2*len(kinds) || len(c.locks) != 2 {
					t.Fatalf("the test does not see all there is: %q, %q", left, c.locks)
				}
				c.cmd.Process.Kill()
			}
			c.cmd.Wait()
			if end == "return" { // when Main has returned, nothing may be left to do
				if left := c.left(); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			}
			c.mustVanish()
		})
	}
}

// However little or much a child has done when it is killed, nothing of it stays. That includes templates that
// are being made.
func TestChildKilledAnyTime(t *testing.T) {
	for delay := 25 * time.Millisecond; delay < 2*time.Second; delay = delay * 3 / 2 {
		t.Run(delay.String(), func(t *testing.T) {
			local := slices.DeleteFunc(slices.Clone(kinds), func(k Kind) bool { // what needs no cache that is full
				return k == KindMongoDB || k == KindMySQL
			})
			c := startChild(t, local, "wait", t.TempDir())
			time.Sleep(delay) // any will do
			c.cmd.Process.Kill()
			c.cmd.Wait()
			c.mustVanish()
		})
	}
}

func TestTwoAtOnce(t *testing.T) {
	cache := t.TempDir()
	sql := []Kind{KindMariaDB, KindPostgreSQL}
	a, b := startChild(t, sql, "return", cache), startChild(t, sql, "return", cache)
	for _, c := range []*child{a, b} {
		if !c.started() {
			t.Errorf("the child did not start its servers:\n%s", c.output())
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%v:\n%s", err, c.output())
		}
		c.mustVanish()
	}
	made, err := filepath.Glob(filepath.Join(cache, "session-servertest", "*"))
	if err != nil || len(made) != 2*len(sql) {
		t.Errorf("not one template and one lock for each: %q, %v", made, err)
	}
}

type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string // its TMPDIR
	cache string
	locks []string // of PostgreSQL: the identifiers of pieces of shared memory
	out   *bufio.Reader
	text  strings.Builder
}

// startChild runs TestChild in another process. All its temporary files are in one directory, which all its
// servers have as their working directory, or one in it. cache is its cache directory, "" for this process's.
func startChild(t *testing.T, kinds []Kind, end, cache string) *child {
	t.Helper()
	need(t, kinds...)
	as, err := unprivileged("postgres", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	base, err := tempBase(as)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "servertest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, kind := range kinds {
		names = append(names, string(kind))
	}
	c := &child{t: t, dir: dir, cache: cache}
	c.cmd = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	c.cmd.Env = append(os.Environ(), "SERVERTEST_CHILD="+strings.Join(names, ",")+" "+end, "TMPDIR="+dir)
	if cache != "" {
		c.cmd.Env = append(c.cmd.Env, "XDG_CACHE_HOME="+cache)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	c.cmd.Stdout, c.cmd.Stderr = w, w
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	c.out = bufio.NewReader(io.TeeReader(r, &c.text))
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// started waits until the child has its servers, and reports whether it has.
func (c *child) started() bool {
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.TrimSpace(line) == "started" {
			break
		}
	}
	files, _ := filepath.Glob(filepath.Join(c.dir, "session-*", "data-*", "postmaster.pid"))
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may just have been removed
		if lines := strings.Split(string(text), "\n"); len(lines) > 6 {
			c.locks = append(c.locks, strings.Fields(lines[6])[1])
		}
	}
	return true
}

// output returns all that the child wrote.
func (c *child) output() string {
	io.Copy(io.Discard, c.out)
	return c.text.String()
}

// mustVanish waits until nothing of a child that has ended is left.
func (c *child) mustVanish() {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for len(c.left()) > 0 {
		if time.Now().After(deadline) {
			c.t.Fatalf("left behind: %q", c.left())
		}
		pause(c.t.Context())
	}
}

// left returns the processes and files of the child that are there.
func (c *child) left() []string {
	files, _ := filepath.Glob(filepath.Join(c.dir, "session-*"))
	if c.cache != "" { // templates that are not finished
		unfinished, _ := filepath.Glob(filepath.Join(c.cache, "session-servertest", "*-1-*"))
		files = append(files, unfinished...)
	}
	shm, _ := os.ReadFile("/proc/sysvipc/shm")
	for line := range strings.Lines(string(shm)) {
		if f := strings.Fields(line); len(f) > 1 && slices.Contains(c.locks, f[1]) {
			files = append(files, "shared memory "+f[1])
		}
	}
	return append(c.processes(), files...)
}

// processes returns the processes whose working directory is one of the child's.
func (c *child) processes() []string {
	var found []string
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && strings.HasPrefix(dir, c.dir+"/") {
			found = append(found, filepath.Dir(link)+" "+dir)
		}
	}
	return found
}
