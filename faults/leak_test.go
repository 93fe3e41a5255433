package faults

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A trace finds what the code that runs between its beginning and its end leaves behind.
type trace struct {
	tb    testing.TB
	label string
	addr  string
	older []string // connections that were there before
}

// begin marks this goroutine, and with it all those that it starts, directly or not. addr is the server's.
func begin(tb testing.TB, addr string) *trace {
	tr := &trace{tb: tb, label: tb.Name(), addr: addr}
	tr.older = tr.connections()
	pprof.SetGoroutineLabels(pprof.WithLabels(tb.Context(), pprof.Labels("trace", tr.label)))
	return tr
}

// end waits until all goroutines that were started since begin have ended and no connection to the server is
// left, and reports what does not go away.
func (tr *trace) end() {
	tr.tb.Helper()
	pprof.SetGoroutineLabels(context.Background())
	const settle = 30 * time.Second
	for deadline := time.Now().Add(settle); ; {
		goroutines, conns := tr.goroutines(), tr.connections()
		if len(goroutines) == 0 && len(conns) == 0 {
			return
		}
		if time.Now().After(deadline) {
			tr.tb.Errorf("after %v there are still connections %q and goroutines\n%s",
				settle, conns, strings.Join(goroutines, "\n\n"))
			return
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// goroutines returns the stacks of those that were started since begin, less those of the tools of this test.
func (tr *trace) goroutines() []string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		tr.tb.Fatal(err)
	}
	var found []string
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote("trace")+":"+strconv.Quote(tr.label)) &&
			!strings.Contains(stack, "github.com/Shopify/toxiproxy") && !strings.Contains(stack, "/internal/servertest.") {
			found = append(found, stack)
		}
	}
	return found
}

// connections returns the local ends of the connections to the server that were opened since begin and that this
// machine's programs have not closed. It finds none where there is no Linux /proc.
func (tr *trace) connections() []string {
	host, port, err := net.SplitHostPort(tr.addr)
	if err != nil {
		tr.tb.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	ip := net.ParseIP(host).To4()
	remote := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], number)
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		// number, local address, remote address, state (01: established, 08: the other side has closed)
		f := strings.Fields(line)
		if len(f) > 3 && f[2] == remote && (f[3] == "01" || f[3] == "08") && !slices.Contains(tr.older, f[1]) {
			found = append(found, f[1])
		}
	}
	return found
}
