package sessiontest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session/internal/remote"
)

// The environment of a process that startProcess has started.
const (
	processTest = "SESSIONTEST_PROCESS_TEST" // the name of the test that called Run
	processRun  = "SESSIONTEST_PROCESS_RUN"  // the how manieth of that test
	processAddr = "SESSIONTEST_PROCESS_ADDR" // where that waits for a connection
)

// runs counts the calls of Run by test.
var runs struct {
	sync.Mutex
	of map[string]int
}

// countRun returns how many times Run was called by a test, this time included.
func countRun(t *testing.T) string {
	runs.Lock()
	defer runs.Unlock()
	if runs.of == nil {
		runs.of = make(map[string]int)
	}
	runs.of[t.Name()]++
	return strconv.Itoa(runs.of[t.Name()])
}

// isSecondProcess reports whether this process has to make calls for another one.
func isSecondProcess() bool { return os.Getenv(processTest) != "" }

// A process is a second one, which runs the same test up to Run, and makes calls for this one.
type process struct {
	cmd    *exec.Cmd
	stores *remote.Client
}

// startProcess starts this program again, for the same test. It ends with the test, or with this process.
func startProcess(t *testing.T, run string) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(t.Name(), "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	cmd := exec.Command(self, "-test.run="+strings.Join(parts, "/"), "-test.timeout=30m")
	cmd.Env = append(os.Environ(), processTest+"="+t.Name(), processRun+"="+run, processAddr+"="+listener.Addr().String(), "GORACE=atexit_sleep_ms=0")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
		listener.Close()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	listener.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := listener.Accept()
	if err != nil {
		cmd.Process.Kill()
		<-ended
		return nil, fmt.Errorf("the second process has not come as far as sessiontest.Run in the test %s, which may need nothing but "+
			"what Stores.Open is given (%w); it wrote:\n%s", t.Name(), err, &output)
	}
	return &process{cmd, remote.NewClient(conn)}, nil
}

// serveProcess makes calls for the process that started this one, until that ends, if it is this call of Run that it is for.
func serveProcess(t *testing.T, stores Stores, run string) {
	if os.Getenv(processTest) != t.Name() || os.Getenv(processRun) != run {
		return
	}
	conn, err := net.Dial("tcp", os.Getenv(processAddr))
	if err != nil {
		t.Fatal(err)
	}
	remote.Serve(conn, stores.Open)
}
