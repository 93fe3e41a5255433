package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

const (
	keysEach = 32
	hitsEach = 1200
)

// TestProcesses has two processes do much to one session at the same time.
func TestProcesses(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		server := b.shared(t)
		b.ready(t, server)
		rawURL := b.url(server, server.Addrs[0])
		a := openApp(t, rawURL)
		eve := a.login("eve")
		workers := []*worker{
			startWorker(t, rawURL, eve.cookie, "first"),
			startWorker(t, rawURL, eve.cookie, "second"),
		}
		for _, w := range workers {
			w.release()
		}
		for _, w := range workers {
			w.wait()
		}
		for _, w := range workers {
			for i := range keysEach {
				eve.want(fmt.Sprintf("/get/%s-%d", w.name, i), strconv.Itoa(i))
			}
		}
		eve.want("/hit", strconv.Itoa(len(workers)*hitsEach+1))
	})
}

// Environment variables of the processes that startWorker starts: what TestWorker is to do.
const (
	envURL    = "SESSION_FAULTS_WORKER_URL"
	envCookie = "SESSION_FAULTS_WORKER_COOKIE"
	envName   = "SESSION_FAULTS_WORKER_NAME"
)

const ready = "the worker is ready"

// TestWorker is one of the processes of TestProcesses.
func TestWorker(t *testing.T) {
	if os.Getenv(envURL) == "" {
		t.Skip("TestProcesses runs it, in processes of their own")
	}
	c := &client{app: openApp(t, os.Getenv(envURL)), cookie: os.Getenv(envCookie)}
	c.want("/get/user", "eve")
	fmt.Println(ready)
	io.Copy(io.Discard, os.Stdin) // until release

	all(keysEach, func(i int) { c.want(fmt.Sprintf("/set/%s-%d/%d", os.Getenv(envName), i, i), "set") })
	const clients = 4
	all(clients, func(int) {
		for range hitsEach / clients {
			if res := c.do("/hit"); res.status != 200 {
				t.Error(res)
			}
		}
	})
}

// A worker is a process that runs TestWorker.
type worker struct {
	tb     testing.TB
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// startWorker returns when the process is ready to begin.
func startWorker(tb testing.TB, rawURL, cookie, name string) *worker {
	tb.Helper()
	w := &worker{tb: tb, name: name}
	w.cmd = exec.CommandContext(tb.Context(), os.Args[0], "-test.run=^TestWorker$", "-test.timeout=5m")
	w.cmd.Env = append(os.Environ(), envURL+"="+rawURL, envCookie+"="+cookie, envName+"="+name)
	w.cmd.Stderr = &w.stderr
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	w.stdout = bufio.NewReader(stdout)
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	if line, err := w.stdout.ReadString('\n'); strings.TrimSpace(line) != ready {
		w.release()
		w.wait()
		tb.Fatalf("%s does not get ready: %q, %v", name, line, err)
	}
	return w
}

// release lets the worker begin.
func (w *worker) release() { w.stdin.Close() }

// wait returns when the process has ended, and reports what went wrong in it.
func (w *worker) wait() {
	w.tb.Helper()
	output, _ := io.ReadAll(w.stdout)
	if err := w.cmd.Wait(); err != nil {
		w.tb.Errorf("%s: %v\n%.4000s\n%.4000s", w.name, err, output, w.stderr.Bytes())
	}
}
