package bench

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// cpuTime returns for how long processors have worked for this process.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// wallTime returns the time since some moment.
func wallTime() time.Duration { return time.Since(processStart) }

var processStart = time.Now()

// cpuName returns the processor's name where the system tells it.
func cpuName() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for l := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
