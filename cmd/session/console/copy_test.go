package console

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"example.com/session"
)

// copySessions is how many sessions are moved where it is not about their number.
const copySessions = 300

// An application is moved to another store while its clients go on: nothing is lost, nobody is logged out, and nobody
// who has logged out is in again, though copy is killed in the middle again and again. TestCopyLarge does the same with
// a hundred thousand sessions.
func TestCopy(t *testing.T) {
	for i, pair := range [][2]backend{
		{dirBackend, redisBackend},
		{redisBackend, postgresBackend},
		{postgresBackend, dirBackend},
		{mongoBackend, mysqlBackend},
		{mysqlBackend, mongoBackend},
		{redisBackend, memcachedBackend},
	} {
		t.Run(pair[0].name+" to "+pair[1].name, func(t *testing.T) {
			t.Parallel()
			from, to := pair[0].newURL(t), pair[1].newURL(t)
			a := newMovingApp(t, from, i%2 == 1)
			a.seed(copySessions)
			stop := a.work()
			a.move(from, to)
			a.await(a.busy())
			stop()
			a.verify()

			// From now on FROM is out of date, and cannot do any harm.
			for _, args := range [][]string{{"copy", from, to, "--json"}, {"copy", from, to, "--final", "--yes", "--json"}} {
				r := run(t, args...)
				got := decode[copied](t, r.stdout)
				if r.code != exitFailed || got.Removed != 0 || got.InUse == 0 && canList(a.store) {
					t.Errorf("copy into a store that is in use: %+v", r)
				}
				if !canList(a.store) {
					break
				}
			}
			a.verify()
		})
	}
}

// move moves the application while its clients work.
func (a *movingApp) move(from, to string) {
	t := a.t
	began, n := time.Now(), len(a.clients)
	step := func(what string, c *copied) {
		if c != nil {
			what += fmt.Sprintf(": %+v, %.0f/s", *c, float64(c.Records)/c.Seconds)
		}
		t.Logf("%6.1fs %s", time.Since(began).Seconds(), what)
	}

	a.await(a.busy())
	if lists(t, to) {
		// Killed in the middle: at this rate the rest of it takes longer than a busy machine to look.
		cmd := newCommand(t, "copy", from, to, "--rate", strconv.Itoa(max(20, n/40)))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		a.await(func() bool { return holds(t, to, n/4) })
		kill(t, cmd, true)
		step("copy is killed", nil)

		first := runCopyCommand(t, "copy", from, to)
		step("copy while clients work", &first)
		if first.Same+first.Changed < n/5 || first.Created == 0 || first.Records < n {
			t.Errorf("the first whole copy: %+v", first)
		}
		a.await(a.busy())
		second := runCopyCommand(t, "copy", from, to)
		step("copy again", &second)
		if second.Changed == 0 || second.InUse != 0 {
			t.Errorf("the second copy: %+v", second)
		}
		a.await(a.busy())
	}

	// The last one, with the requests held up, and killed again.
	a.hold()
	held := time.Now()
	for range 2 {
		cmd := newCommand(t, "copy", from, to, "--final", "--rate", "50")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-time.After(rand.N(time.Second + time.Duration(n)*10*time.Microsecond)): // at any moment
		case <-t.Context().Done():
		}
		kill(t, cmd, false)
	}
	last := runCopyCommand(t, "copy", from, to, "--final")
	step("the final copy", &last)
	if !last.Compared || last.Surplus != 0 {
		t.Errorf("the final copy: %+v", last)
	}
	wantSame(t, from, to)
	a.start(to)
	a.goOn()
	step(fmt.Sprintf("after %d requests, %d renewals, %d logouts the application works on the other store; clients had to wait for %.1fs",
		a.requests.Load(), a.renewals.Load(), a.logouts.Load(), time.Since(held).Seconds()), nil)
}

// runCopyCommand runs a copy that has to succeed.
func runCopyCommand(t *testing.T, args ...string) copied {
	t.Helper()
	return decode[copied](t, runOK(t, append(args, "--json")...))
}

// kill kills a process; if it has to be in the middle of its work, it must not have ended before.
func kill(t *testing.T, cmd *exec.Cmd, middle bool) {
	t.Helper()
	cmd.Process.Kill()
	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); middle && !status.Signaled() {
		t.Fatalf("copy ended by itself: %v", cmd.ProcessState)
	}
}

// holds reports whether a store has at least n records.
func holds(t *testing.T, rawURL string, n int) bool {
	t.Helper()
	store := openTest(t, rawURL)
	defer store.Close()
	found, err := session.CountRecords(t.Context(), store)
	if err != nil && t.Context().Err() == nil {
		t.Fatal(err)
	}
	return found >= n
}

// lists reports whether a store can list its records.
func lists(t *testing.T, rawURL string) bool {
	t.Helper()
	store := openTest(t, rawURL)
	defer store.Close()
	return canList(store)
}

// wantSame fails the test unless both stores hold the same records, but for their versions.
func wantSame(t *testing.T, from, to string) {
	t.Helper()
	source, target := openTest(t, from), openTest(t, to)
	defer source.Close()
	defer target.Close()
	records := make(map[session.ID]session.Record)
	for e, err := range session.List(t.Context(), source) {
		if err != nil {
			t.Fatal(err)
		}
		records[e.ID] = e.Record
	}
	same := func(id session.ID, rec session.Record) {
		want, ok := records[id]
		if !ok || string(rec.Data) != string(want.Data) || rec.Expires.UnixMilli() != want.Expires.UnixMilli() || rec.Version != 1 {
			t.Errorf("under %v is version %d, which expires at %v; want %v", id, rec.Version, rec.Expires, want.Expires)
		}
		delete(records, id)
	}
	if canList(target) {
		for e, err := range session.List(t.Context(), target) {
			if err != nil {
				t.Fatal(err)
			}
			same(e.ID, e.Record)
		}
	} else {
		for id := range maps.Clone(records) {
			if rec, err := target.Load(t.Context(), id); err == nil {
				same(id, rec)
			}
		}
	}
	maps.DeleteFunc(records, func(_ session.ID, rec session.Record) bool { return !rec.Live(time.Now().Add(time.Second)) })
	if len(records) > 0 {
		t.Errorf("%d records are missing", len(records))
	}
}
