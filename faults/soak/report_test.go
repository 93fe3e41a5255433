//go:build unix

package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A sample is one request as its client saw it.
type sample struct {
	at, took time.Duration
	store    string
	kind     string // ok, refused, lost, cut off, or a status
}

type samples struct {
	mu  sync.Mutex
	all []sample
}

func (s *samples) add(x sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, x)
}

func (s *samples) where(match func(sample) bool) (found []sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		if match(x) {
			found = append(found, x)
		}
	}
	return found
}

// quantiles returns p50, p99 and the longest of those whose response the client waited for.
func quantiles(found []sample) (p50, p99, longest time.Duration) {
	var took []time.Duration
	for _, x := range found {
		if x.kind != "cut off" {
			took = append(took, x.took)
		}
	}
	if len(took) == 0 {
		return 0, 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
}

func describe(found []sample) string {
	kinds := map[string]int{}
	for _, x := range found {
		kinds[x.kind]++
	}
	p50, p99, longest := quantiles(found)
	return fmt.Sprintf("%6d requests, p50 %5.1f ms, p99 %7.1f ms, longest %8.1f ms, %s",
		len(found), ms(p50), ms(p99), ms(longest), counts(kinds, "ok"))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// counts prints what there is in ascending order, but for one.
func counts(m map[string]int, but string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key != but {
			parts = append(parts, fmt.Sprintf("%s %d", key, m[key]))
		}
	}
	return strings.Join(parts, ", ")
}

// A reading is how all processes were at a time.
type reading struct {
	at    time.Duration
	stats []*stats // nil: it did not answer
}

// read asks all processes.
func (l *load) read() reading {
	rd := reading{at: l.now()}
	client := &http.Client{Timeout: 10 * time.Second}
	for i := range l.bases {
		var st *stats
		if base := l.bases[i].Load(); base != nil {
			if res, err := client.Get(*base + "/stats"); err == nil {
				st = new(stats)
				if json.NewDecoder(res.Body).Decode(st) != nil {
					st = nil
				}
				res.Body.Close()
			}
		}
		rd.stats = append(rd.stats, st)
	}
	client.CloseIdleConnections()
	return rd
}

func (rd reading) String() string {
	var heap, goroutines, files []string
	for _, st := range rd.stats {
		if st == nil {
			st = new(stats)
		}
		heap = append(heap, fmt.Sprintf("%.1f", float64(st.Heap)/(1<<20)))
		goroutines = append(goroutines, fmt.Sprint(st.Goroutines))
		files = append(files, fmt.Sprint(st.Files))
	}
	return fmt.Sprintf("heap %s MiB, goroutines %s, files %s",
		strings.Join(heap, " "), strings.Join(goroutines, " "), strings.Join(files, " "))
}

// level returns the mean of a figure of all processes in a part of the run.
func level(readings []reading, from, to time.Duration, figure func(*stats) float64) float64 {
	sum, n := 0.0, 0
	for _, rd := range readings {
		for _, st := range rd.stats {
			if st != nil && rd.at >= from && rd.at < to {
				sum += figure(st)
				n++
			}
		}
	}
	return sum / float64(max(n, 1))
}

// A total is what the processes of one store did, those included that have ended.
type total struct {
	cpu      time.Duration
	services map[string]serviceStats
}

// add counts what a process has done since it began.
func (t *total) add(st *stats) {
	t.cpu += st.CPU
	for name, sv := range st.Services {
		if t.services == nil {
			t.services = map[string]serviceStats{}
		}
		if _, ok := t.services[name]; !ok {
			t.services[name] = serviceStats{map[string]int{}, map[string]int{}, map[string]int{}}
		}
		sum := t.services[name]
		for _, pair := range [][2]map[string]int{{sum.Ops, sv.Ops}, {sum.Events, sv.Events}, {sum.Requests, sv.Requests}} {
			for key, n := range pair[1] {
				pair[0][key] += n
			}
		}
	}
}
