package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"time"
)

// A line is one result: our figure beside another's.
type line struct {
	Case  string  `json:"case"` // backend, kind of work and payload, and what else sets it apart
	Ours  float64 `json:"ours"`
	Other string  `json:"other"`
	Their float64 `json:"figure"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"` // above 1: ours is better
}

// A report is all that a run found out.
type report struct {
	Date    string            `json:"date"`
	Go      string            `json:"go"`
	CPU     string            `json:"cpu"`
	CPUs    int               `json:"cpus"`
	Servers map[string]string `json:"servers"` // the server of each backend, with its version
	Lines   []line            `json:"lines"`

	out io.Writer // where each line goes at once
}

func newReport(out io.Writer) *report {
	return &report{
		Date:    time.Now().UTC().Format(time.DateOnly),
		Go:      runtime.Version(),
		CPU:     cpuName(),
		CPUs:    runtime.GOMAXPROCS(0),
		Servers: make(map[string]string),
		out:     out,
	}
}

func (r *report) add(l line) {
	r.Lines = append(r.Lines, l)
	fmt.Fprintf(r.out, "%s\t%s\t%s\t%s\t%s\t%.2f\n", l.Case, digits(l.Ours), l.Other, digits(l.Their), l.Unit, l.Ratio)
}

// addInProcess adds the lines of a case, the first score being ours.
func (r *report) addInProcess(name string, scores []score) {
	ours := scores[0]
	for _, s := range scores[1:] {
		r.add(line{name, ours.ns, s.name, s.ns, "ns/op", s.ratio})
		// "none at all" has no ratio
		r.add(line{name, ours.allocs, s.name, s.allocs, "allocs/op", s.allocs / max(1, ours.allocs)})
	}
}

// addLoad adds the lines of a case, the first score being ours.
func (r *report) addLoad(name string, scores []loadScore) {
	ours := scores[0]
	for _, s := range scores[1:] {
		r.add(line{name, ours.rate, s.name, s.rate, "requests/s", 1 / s.ratio})
		r.add(line{name, ours.cpu, s.name, s.cpu, "µs CPU/request", s.cpuRatio})
		r.add(line{name, micros(ours.p50), s.name, micros(s.p50), "µs p50", micros(s.p50) / micros(ours.p50)})
		r.add(line{name, micros(ours.p99), s.name, micros(s.p99), "µs p99", micros(s.p99) / micros(ours.p99)})
	}
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

// MarshalJSON leaves out digits that mean nothing.
func (l line) MarshalJSON() ([]byte, error) {
	type plain line
	l.Ours, l.Their, l.Ratio = significant(l.Ours), significant(l.Their), significant(l.Ratio)
	return json.Marshal(plain(l))
}

// significant returns x with four significant digits.
func significant(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

func digits(x float64) string {
	switch {
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", x), ".00")
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
