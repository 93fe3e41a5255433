package bench

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"github.com/gin-gonic/gin"
)

var (
	scaleFlag  = flag.String("scale", "once", "once: each case once, as a test; quick: what needs no server, and Redis; full: everything")
	reportFlag = flag.String("report", "", "the directory for results.json and the charts; empty for none")
	onlyFlag   = flag.String("only", "", "the name of one backend")
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	os.Exit(servertest.Main(m))
}

// TestCompare runs all cases of the scale.
func TestCompare(t *testing.T) {
	s, ok := scales[*scaleFlag]
	if !ok {
		t.Fatalf("there is no scale %q", *scaleFlag)
	}
	var out io.Writer = os.Stdout
	if *scaleFlag == "once" {
		out = io.Discard
	}
	r := newReport(out)
	dir := *reportFlag
	if *scaleFlag == "once" {
		dir = t.TempDir()
	}
	for _, b := range s.backends {
		if *onlyFlag != "" && *onlyFlag != b.name {
			continue
		}
		t.Run(b.name, func(t *testing.T) { s.run(t, r, b.start(t)) })
		if dir != "" { // a run takes long: each backend's figures are kept at once
			writeFile(filepath.Join(dir, "results.json"), r.writeJSON)
			for name, chart := range charts(r) {
				writeFile(filepath.Join(dir, name), chart.writeSVG)
			}
		}
	}
}

func writeFile(path string, write func(io.Writer) error) {
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	f := must(os.Create(path))
	check(errors.Join(write(f), f.Close()))
}

var scales = map[string]scale{
	"once": {
		backends: allBackends, works: allWorks,
		process: contest{rounds: 1}, loopback: contest{rounds: 1},
		conns: 2, sessions: 20, many: 500, passes: 1, deep: true, sweepWait: 20 * time.Millisecond,
	},
	"quick": {
		backends: allBackends[:5], works: allWorks,
		process:  contest{rounds: 5, turn: 20 * time.Millisecond},
		loopback: contest{rounds: 5, turn: 200 * time.Millisecond},
		conns:    8, sessions: 200, passes: 5,
	},
	"full": {
		backends: allBackends, works: allWorks,
		process:  contest{rounds: 11, turn: 20 * time.Millisecond},
		loopback: contest{rounds: 7, turn: 120 * time.Millisecond},
		conns:    8, sessions: 1000, many: 1_000_000, passes: 7, deep: true, sweepWait: 2 * time.Second,
	},
}

// Each request of the case "renew" is answered with a renewed cookie.
func TestRenewalAtEachRequest(t *testing.T) {
	l := ours(session.NewMemoryStore())
	c := newClient(l.handler(renew, small), seed(l, small, 1), false)
	time.Sleep(2 * time.Millisecond) // until the cookie is due: RenewInterval is a millisecond
	for range 3 {
		c.do(1)
		if cookieOf(c.writer.header["Set-Cookie"]) == c.requests[0].Header.Get("Cookie") || len(c.writer.header["Set-Cookie"]) == 0 {
			t.Errorf("the cookie was not renewed: %q", c.writer.header["Set-Cookie"])
		}
	}
}
