// Scaling says what sessions need: operations a second, bytes, processors and masters, for as many sessions and requests as
// one asks for, from what "make bench" has measured. SCALING.md has the formulas.
//
//	go -C bench run ./scaling -sessions 10e6 -requests 100000 -store postgresql
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
)

func main() {
	w := usual
	flag.Float64Var(&w.Sessions, "sessions", w.Sessions, "sessions that live")
	flag.Float64Var(&w.Requests, "requests", w.Requests, "requests a second that use the session")
	flag.Float64Var(&w.Writes, "writes", w.Writes, "share of the requests that change it")
	flag.Float64Var(&w.Logouts, "logouts", w.Logouts, "share of the sessions that end by a logout")
	flag.DurationVar(&w.Pace, "pace", w.Pace, "time between two requests of a session in use")
	flag.DurationVar(&w.Life, "life", w.Life, "how long a session stays in the store")
	flag.DurationVar(&w.Absolute, "absolute", w.Absolute, "Options.AbsoluteTimeout")
	flag.DurationVar(&w.Idle, "idle", w.Idle, "Options.IdleTimeout")
	flag.DurationVar(&w.Renewal, "renewal", w.Renewal, "time between two renewals of a session in use")
	flag.Float64Var(&w.Use, "use", w.Use, "the most of a server's processors that are to be busy")
	flag.Float64Var(&w.Shard, "shard", w.Shard, "bytes that one server of a cluster is to have")
	store := flag.String("store", "redis", "redis, memcached, mariadb or postgresql")
	results := flag.String("results", "results", "where the figures of make bench are")
	tables := flag.Bool("tables", false, "print the tables of SCALING.md instead")
	flag.Parse()
	f, err := readFigures(*results)
	if err == nil && *tables {
		err = writeTables(os.Stdout, f)
	} else if err == nil {
		err = w.write(os.Stdout, f, *store)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// write prints a plan.
func (w workload) write(out io.Writer, f *figures, store string) error {
	p, err := w.plan(f, store)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name  string
		value float64
		unit  string
	}{
		{"logins", p.Logins, "a second"}, {"renewals", p.Renewals, "a second at most"}, {"touches", p.Touches, "a second at most"},
		{"loads", p.Operations.Load, "a second"}, {"saves", p.Operations.Save, "a second"},
		{"expired records", p.Removed, "a second"}, {"records", p.Records, ""}, {"bytes", p.Bytes, ""},
		{"the store's processors", p.Cores, ""}, {"masters of a cluster", p.Shards, ""}, {"the application's processors", p.AppCores, "for sessions"},
	} {
		if _, err := fmt.Fprintf(out, "%-28s %12s %s\n", l.name, short(l.value), l.unit); err != nil {
			return err
		}
	}
	return nil
}
