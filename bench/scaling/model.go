package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Operations are calls of the store, each of which is one round trip on one key.
type operations struct{ Load, Save, Touch float64 }

func (o operations) times(n float64) operations {
	return operations{o.Load * n, o.Save * n, o.Touch * n}
}

func (o operations) plus(p operations) operations {
	return operations{o.Load + p.Load, o.Save + p.Save, o.Touch + p.Touch}
}

// The kinds of requests.
const (
	kindUnused     = "uses no session"
	kindRead       = "reads"
	kindTouch      = "reads, and a tenth of IdleTimeout has passed since the last save"
	kindRenewal    = "reads, and RenewInterval has passed since the last cookie"
	kindWrite      = "writes"
	kindNew        = "begins a session of nobody"
	kindLogin      = "logs in, without a session"
	kindLoginAgain = "logs in, with a session"
	kindLocked     = "reads, under a lock"
	kindLogout     = "logs out"
)

var kinds = []string{kindUnused, kindRead, kindTouch, kindRenewal, kindWrite, kindNew, kindLogin, kindLoginAgain, kindLogout, kindLocked}

// costs are what each kind of request asks the store for, if it meets no other. TestOperations counts.
var costs = map[string]operations{
	kindUnused:     {},
	kindRead:       {Load: 1},
	kindTouch:      {Load: 1, Touch: 1},
	kindRenewal:    {Load: 2, Save: 1},
	kindWrite:      {Load: 1, Save: 1},
	kindNew:        {Save: 1},
	kindLogin:      {Load: 1, Save: 2},
	kindLoginAgain: {Load: 2, Save: 2},
	kindLogout:     {Load: 2, Save: 2},
	kindLocked:     {Load: 3, Save: 2},
}

// endOf is what the end of k sessions of a user asks for, if there is one.
func endOf(k float64) operations {
	return operations{Load: 2 + k, Save: 2 + k}
}

// A workload is what an application asks for.
type workload struct {
	Sessions float64       // that live
	Requests float64       // a second that use the session
	Writes   float64       // share of these that change it
	Logouts  float64       // share of sessions that end by a logout; the others expire
	Pace     time.Duration // between two requests of a session in use
	Life     time.Duration // of a session in the store, from the login to its end
	Absolute time.Duration // Options.AbsoluteTimeout
	Idle     time.Duration // Options.IdleTimeout
	Renewal  time.Duration // between two renewals of a session in use
	Use      float64       // the most of a server's processors that are to be busy
	Shard    float64       // bytes that one server of a cluster is to have
}

// usual is a site whose users are logged in for a day.
var usual = workload{
	Sessions: 1e6, Requests: 1e4, Writes: .1, Logouts: .3, Pace: 10 * time.Second,
	Life: 24 * time.Hour, Absolute: 24 * time.Hour, Idle: 24 * time.Hour,
	Renewal: 4*time.Minute + 90*time.Second, // RenewInterval, then RenewGrace and a minute
	Use:     .5, Shard: 16 << 30,
}

// figures are what "make bench" measured: bench/results.
type figures struct {
	Data  map[string]float64
	Sizes []sizing
	Lines []struct {
		Case string
		Ours float64
		Unit string
	}
}

type sizing struct {
	Backend, Place string
	Bytes          map[string]float64
	Micros         map[string]float64 `json:"cpu_µs"`
}

func readFigures(dir string) (*figures, error) {
	f := new(figures)
	for _, name := range []string{"sizes.json", "results.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(text, f)
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *figures) sizing(backend string) (sizing, error) {
	for _, z := range f.Sizes {
		if z.Backend == backend {
			return z, nil
		}
	}
	return sizing{}, fmt.Errorf("no figures of %q", backend)
}

// cpu returns the microseconds of processor time that an application takes for a request, the client's included.
func (f *figures) cpu(backend, work string) float64 {
	for _, l := range f.Lines {
		if l.Case == backend+"/"+work+"/small" && l.Unit == "µs CPU/request" {
			return l.Ours
		}
	}
	return 0
}

// bytes returns what a record takes. Beside the data, a server has as much as for a small session that was saved more than once.
func (f *figures) bytes(z sizing, kind string) float64 {
	beside := cmp.Or(z.Bytes["small, saved once more"], z.Bytes["small"]) - f.Data["small"]
	return beside + f.Data[kind]
}

// A plan is what a workload needs.
type plan struct {
	Logins     float64    // a second
	Renewals   float64    // a second, at most
	Touches    float64    // a second, at most
	Operations operations // a second
	Removed    float64    // expired records a second
	Records    float64
	Bytes      float64
	Cores      float64 // of the store's servers
	AppCores   float64 // of the application's, for sessions alone
	Shards     float64 // masters of a cluster
}

// plan is the model. SCALING.md has it as formulas, under the same names.
func (w workload) plan(f *figures, backend string) (plan, error) {
	z, err := f.sizing(backend)
	if err != nil {
		return plan{}, err
	}
	var p plan
	life := w.Life.Seconds()
	p.Logins = w.Sessions / life
	active := min(w.Sessions, w.Requests*w.Pace.Seconds())
	p.Renewals = min(active/w.Renewal.Seconds(), w.Requests)
	p.Touches = min(active/(w.Idle.Seconds()/10), w.Requests*(1-w.Writes))
	p.Operations = costs[kindRead].times(w.Requests * (1 - w.Writes)).
		plus(costs[kindWrite].times(w.Requests * w.Writes)).
		plus(less(costs[kindRenewal], costs[kindRead]).times(p.Renewals)).
		plus(less(costs[kindTouch], costs[kindRead]).times(p.Touches)).
		plus(costs[kindLogin].times(p.Logins)).
		plus(costs[kindLogout].times(p.Logins * w.Logouts))

	// A list stays for AbsoluteTimeout after the last login, a tombstone for an hour after it, and until the sweep.
	lists := p.Logins * w.Absolute.Seconds()
	tombstones := p.Logins * w.Logouts * max(0, time.Hour.Seconds()-min(life, time.Hour.Seconds()))
	p.Records = w.Sessions + lists + tombstones
	p.Removed = 2 * p.Logins // the session and, in the end, the list
	p.Bytes = w.Sessions*f.bytes(z, "small") + lists*f.bytes(z, "list") + tombstones*f.bytes(z, "ended")

	busy := p.Operations.Load*z.Micros["load"] + p.Operations.Save*cmp.Or(z.Micros["save"], z.Micros["create"]) +
		p.Operations.Touch*cmp.Or(z.Micros["touch"], z.Micros["load"])
	p.Cores = busy / 1e6 / w.Use
	read, write := f.cpu(backend, "read"), f.cpu(backend, "write")
	p.AppCores = (w.Requests*(1-w.Writes)*read + w.Requests*w.Writes*write) / 1e6 / w.Use
	p.Shards = max(math.Ceil(p.Bytes/w.Shard), math.Ceil(p.Cores), 1)
	return p, nil
}

func less(o, p operations) operations { return o.plus(p.times(-1)) }
