package main

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func measured(t *testing.T) *figures {
	t.Helper()
	f, err := readFigures("../results")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestDocument wants SCALING.md to have what the model prints. After a new "make bench", go -C bench run ./scaling -tables has it.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../SCALING.md")
	if err != nil {
		t.Fatal(err)
	}
	var tables bytes.Buffer
	if err := writeTables(&tables, measured(t)); err != nil {
		t.Fatal(err)
	}
	for table := range strings.SplitSeq(strings.TrimSpace(tables.String()), "\n\n") {
		if !strings.Contains(string(text), table) {
			t.Errorf("SCALING.md lacks\n%s", table)
		}
	}
	if lines := strings.Count(string(text), "\n"); lines > 200 {
		t.Errorf("SCALING.md has %d lines, at most 200 are read", lines)
	}
}

// TestPlan does some of the sums of SCALING.md by its formulas.
func TestPlan(t *testing.T) {
	f := measured(t)
	visits := usual.with(2e6, 5e4)
	visits.Life, visits.Idle, visits.Logouts = 30*time.Minute, 15*time.Minute, .5
	for _, w := range []workload{usual, visits, usual.with(1e8, 1e6), usual.with(100, 1e5)} {
		for _, store := range []string{"redis", "memcached", "mariadb", "postgresql"} {
			p, err := w.plan(f, store)
			if err != nil {
				t.Fatal(err)
			}
			l := w.Sessions / w.Life.Seconds()
			a := min(w.Sessions, w.Requests*w.Pace.Seconds())
			n := min(a/330, w.Requests)
			q := w.Logouts
			for name, pair := range map[string][2]float64{
				"loads":   {p.Operations.Load, w.Requests + n + l + 2*q*l},
				"saves":   {p.Operations.Save, w.Requests*w.Writes + n + 2*l + 2*q*l},
				"touches": {p.Operations.Touch, min(a/(w.Idle.Seconds()/10), w.Requests*(1-w.Writes))},
				"records": {p.Records, w.Sessions + l*w.Absolute.Seconds() + q*l*max(0, 3600-w.Life.Seconds())},
				"removed": {p.Removed, 2 * l},
			} {
				if math.Abs(pair[0]-pair[1]) > 1e-6*pair[1] {
					t.Errorf("%s, %s: %v, by the formula %v", store, name, pair[0], pair[1])
				}
			}
			if p.Cores <= 0 || p.AppCores <= 0 || p.Shards < p.Cores || p.Bytes < 200*w.Sessions {
				t.Errorf("%s: %+v", store, p)
			}
		}
	}
	if _, err := usual.plan(f, "nowhere"); err == nil {
		t.Error("there is a plan for a store that was not measured")
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0", 1: "1", 1340: "1340", 10_300: "10.3 k", 134_000: "134 k", 1e6: "1 M", 83.1e6: "83 M", 1.8e9: "1.8 G",
	} {
		if got := short(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}
