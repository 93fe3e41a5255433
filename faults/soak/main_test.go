//go:build unix

package soak

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"example.com/session/internal/servertest"
	"github.com/redis/go-redis/v9/logging"
)

var (
	duration = flag.Duration("for", 0, "how long the run lasts; 0 means some seconds, as a test")
	rate     = flag.Float64("rate", 150, "requests a second, all in all")
	crowd    = flag.Int("browsers", 300, "how many browsers there are")
	seed     = flag.Uint64("seed", 0, "what the requests are drawn from; 0 means a new one")
	every    = flag.Duration("every", 30*time.Second, "how often a line is printed")
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis tells of each connection that it cannot make
	if len(os.Args) > 1 && os.Args[1] == "-addr" {
		if err := serve(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(servertest.Main(m))
}
