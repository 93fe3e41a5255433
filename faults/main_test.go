package faults

import (
	"flag"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"

	"example.com/session/internal/servertest"
	"github.com/redis/go-redis/v9/logging"
)

// SESSION_FAULTS_LOG=1 shows what the applications log.
func TestMain(m *testing.M) {
	if os.Getenv("SESSION_FAULTS_LOG") != "" {
		logHandler = slog.NewTextHandler(os.Stderr, nil)
	}
	go processTime.run()
	// The tests wait more than they work: four backends at a time, on however few cores.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set(strconv.Itoa(max(4, runtime.GOMAXPROCS(0))))
	}
	logging.Disable() // go-redis tells of each connection that it cannot make
	os.Exit(servertest.Main(m))
}
