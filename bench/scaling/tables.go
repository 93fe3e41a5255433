package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// writeTables prints the tables of SCALING.md that come from the model.
func writeTables(out io.Writer, f *figures) error {
	for _, table := range []func(*figures) (string, error){operationsTable, sizesTable, recordsText, listText, plansTable} {
		text, err := table(f)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, text+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func operationsTable(*figures) (string, error) {
	var b strings.Builder
	b.WriteString("| a request that … | Load | Save | Touch |\n|---|---|---|---|\n")
	for _, kind := range kinds {
		o := costs[kind]
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", kind, count(o.Load), count(o.Save), count(o.Touch))
	}
	return b.String(), nil
}

func count(n float64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func sizesTable(f *figures) (string, error) {
	var b strings.Builder
	b.WriteString("| store | where | 3 values | saved once more | 10 values, 2 KiB | a user's list | µs Load | µs Save |\n|---|---|---|---|---|---|---|---|\n")
	for _, z := range f.Sizes {
		cell := func(m map[string]float64, key string) string {
			if m[key] == 0 {
				return ""
			}
			return fmt.Sprintf("%.0f", m[key])
		}
		save := "save"
		if z.Micros[save] == 0 {
			save = "create"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", z.Backend, z.Place, cell(z.Bytes, "small"),
			cell(z.Bytes, "small, saved once more"), cell(z.Bytes, "2 KiB"), cell(z.Bytes, "list"), cell(z.Micros, "load"), cell(z.Micros, save))
	}
	return b.String(), nil
}

// recordsText is what a record is of.
func recordsText(f *figures) (string, error) {
	return fmt.Sprintf(`- Of the record itself, %.0f bytes are a session of three short values with its user, address and User-Agent, %.0f one of ten
  values of 2 KiB together, %.0f the mark that a logout leaves, %.0f a user's list, and %.0f each further session in that.
`, f.Data["small"], f.Data["2 KiB"], f.Data["ended"], f.Data["list"], f.Data["list of two"]-f.Data["list"]), nil
}

// listText is how long a list gets, see makeRoom in index.go.
func listText(f *figures) (string, error) {
	const room = 1 << 20 * 3 / 4 // of MaxSize
	return fmt.Sprintf("- A list has at most three quarters of `MaxSize` (1 MiB): about %.0f sessions. Beyond, the oldest end.\n",
		math.Round(room/(f.Data["list of two"]-f.Data["list"])/100)*100), nil
}

// plansTable is the workloads that SCALING.md speaks of.
func plansTable(f *figures) (string, error) {
	var b strings.Builder
	b.WriteString("| live sessions | requests/s | Load/s | Save/s, Touch/s | Redis: memory | masters | PostgreSQL: disk | cores | MariaDB: disk | cores | the application's cores |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	visits := usual // with the default timeouts, and visits of a quarter of an hour
	visits.Idle, visits.Life = 15*time.Minute, 30*time.Minute
	for _, w := range []workload{
		usual.with(1e6, 1e4), usual.with(1e6, 1e5), usual.with(1e7, 1e5), usual.with(1e8, 1e5), usual.with(1e8, 1e6), visits.with(1e6, 1e5),
	} {
		redis, err1 := w.plan(f, "redis")
		postgres, err2 := w.plan(f, "postgresql")
		mariadb, err3 := w.plan(f, "mariadb")
		for _, err := range []error{err1, err2, err3} {
			if err != nil {
				return "", err
			}
		}
		note := ""
		if w.Life != usual.Life {
			note = ", visits"
		}
		fmt.Fprintf(&b, "| %s%s | %s | %s | %s | %s | %.0f | %s | %s | %s | %s | %s |\n", short(w.Sessions), note, short(w.Requests),
			short(redis.Operations.Load), short(redis.Operations.Save+redis.Operations.Touch), gigabytes(redis.Bytes), redis.Shards,
			gigabytes(postgres.Bytes), short(math.Ceil(postgres.Cores)), gigabytes(mariadb.Bytes), short(math.Ceil(mariadb.Cores)),
			short(math.Ceil(redis.AppCores)))
	}
	return b.String(), nil
}

func (w workload) with(sessions, requests float64) workload {
	w.Sessions, w.Requests = sessions, requests
	return w
}

func gigabytes(bytes float64) string { return short(bytes/1e9) + " GB" }

// short returns two or three digits that mean something, with thousands and millions.
func short(n float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, " G"}, {1e6, " M"}, {1e4, " k"}} {
		if n >= unit.size*.9995 {
			if unit.size == 1e4 {
				unit.size = 1e3
			}
			return fmt.Sprintf("%.4g%s", round(n/unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%.6g", round(n))
}

// round leaves two digits, three if the first is small.
func round(n float64) float64 {
	if n == 0 {
		return 0
	}
	scale := math.Pow(10, math.Floor(math.Log10(math.Abs(n)))-1)
	if n/scale < 30 {
		scale /= 10
	}
	return math.Round(n/scale) * scale
}
