package console

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/session"
	"github.com/spf13/pflag"
	"golang.org/x/time/rate"
)

func copyCommand() *command {
	return &command{
		name:    "copy",
		args:    " FROM TO",
		summary: "copy all records to another store, to move to it",
		help: `
Makes the store TO hold what FROM holds: all records, byte for byte, with their expiry. It reads no session, so it needs
no secret, and works with EncryptAtRest. While it runs, the application works on FROM, and on FROM only. TO is a place
that nothing else uses: a new table, collection, prefix, directory or file. To move an application:

  1. session copy FROM TO            while the application runs; it takes the time that it takes. Repeat it if that was
                                     long ago, so that step 3 has little left to do.
  2. Stop the application, or have the proxy in front of it hold all requests.
  3. session copy --final FROM TO    copies what has changed since, removes what is gone, and compares.
  4. If step 3 exited with 0, start the application on TO, else on FROM again.

Nothing is lost, nobody is logged out, and nobody is logged in again who has logged out: after step 3, TO holds what
FROM holds and nothing else. From 2 to 4, requests have to wait; step 3 takes about as long as reading both stores
twice, which is seconds for 100,000 sessions. It fails if it sees that an application still works on FROM or TO.

FROM and TO have to be two stores: it saves a record in TO for a moment, and gives up if FROM has it then.

It can be interrupted or killed at any time, and repeated: what is to be done follows from what both stores hold. It
writes nothing to FROM. Run one at a time.

It never overwrites what an application has saved in TO. A record that copy wrote has version 1; if one in TO has
another version, an application works there, or has worked there: TO is right then and FROM out of date, and copy does
nothing. To move back, copy into a new place too.

There is no step 1 if FROM is file:, which one process has open at a time, or if TO is Memcached. That cannot list what
it holds, so what is gone from FROM cannot be removed there: if the application has worked on FROM after a step 3, take
a new prefix for the next one; and do not copy to it once the application works there, since what FROM still has of a
session that has ended there could come back. Memcached cannot be FROM.

Where TO is file: or dir:, run it as the application's user, who has to be able to read what it writes. It needs about
100 bytes of memory for each record in TO.

JSON is an object with records (in FROM), created, changed, prolonged, removed, same, surplus (records in TO that FROM
does not have; --final removes them), in_use (records that are as an application on TO saved them), too_large (an array
of IDs), compared (by --final: both hold the same) and seconds.

Examples:
  export NOW='redis://:password@10.0.0.1/0' NEXT='postgres://app:password@10.0.0.2/app'
  session copy env:NOW env:NEXT --rate 2000
  session copy env:NOW env:NEXT --final && systemctl start app
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			flags.BoolVar(&s.final, "final", false, "the application has stopped: remove what is gone from FROM, then compare")
			flags.BoolVar(&s.yes, "yes", false, "with --final, remove more records than stay without asking")
			flags.IntVar(&s.parallel, "parallel", defaultParallel, "write this many records at a time")
			flags.Float64Var(&s.rate, "rate", 0, "write at most this many records per second (default: no limit)")
			s.addCommon(flags)
		},
		run: runCopy,
	}
}

// defaultParallel is how many records are written at a time: enough to hide the way to a server and back, and few
// beside what an application does.
const defaultParallel = 16

func runCopy(ctx context.Context, c *console, s *settings, args []string) error {
	switch {
	case len(args) != 2:
		return usage("it takes the URLs of two stores")
	case s.parallel < 1:
		return usage("--parallel is at least 1")
	case s.rate < 0:
		return usage("--rate is not negative")
	}
	fromURL, err := resolve(args[0])
	if err != nil {
		return err
	}
	toURL, err := resolve(args[1])
	if err != nil {
		return err
	}
	if samePath(fromURL, toURL) {
		return errItself
	}
	from, err := c.openURL(ctx, fromURL, false)
	if err != nil {
		return fmt.Errorf("FROM: %w", err)
	}
	defer from.Close()
	to, err := c.openURL(ctx, toURL, true)
	if err != nil {
		return fmt.Errorf("TO: %w", err)
	}
	defer to.Close()
	if same, err := sameStore(ctx, from, to); err != nil {
		return err
	} else if same {
		return errItself
	}
	return s.copy(ctx, c, from, to, c.display(fromURL), c.display(toURL))
}

// copy copies between two stores that are open, and of which the names can be shown.
func (s *settings) copy(ctx context.Context, c *console, from, to session.Store, fromName, toName string) (err error) {
	began := time.Now()
	cp := &copier{from: from, to: to, parallel: s.parallel, limit: rate.NewLimiter(rate.Inf, 1)}
	if s.rate > 0 {
		cp.limit = rate.NewLimiter(rate.Limit(s.rate), 1)
	}
	cp.mayRemove = func(surplus, stay int) error {
		if surplus <= stay {
			return nil
		}
		return c.confirm(s, fmt.Sprintf("%s in %s %s not in %s, and only %d are. Remove the former?",
			count(surplus, "record"), toName, isAre(surplus), fromName, stay))
	}
	var result *copied
	if s.final {
		result, err = cp.final(ctx, c)
	} else {
		result, err = cp.pass(ctx, c, false)
	}
	result.Seconds = time.Since(began).Seconds()
	if isUsage(err) {
		return err
	}
	if s.json {
		return errors.Join(err, c.printJSON(result))
	}
	if result.Records > 0 || err == nil {
		result.print(c, fromName, toName)
	}
	return err
}

// copied is what copy did, and its JSON.
type copied struct {
	Records   int          `json:"records"`
	Created   int          `json:"created"`
	Changed   int          `json:"changed"`
	Prolonged int          `json:"prolonged"`
	Removed   int          `json:"removed"`
	Same      int          `json:"same"`
	Surplus   int          `json:"surplus"`
	InUse     int          `json:"in_use"`
	TooLarge  []session.ID `json:"too_large"`
	Compared  bool         `json:"compared"`
	Seconds   float64      `json:"seconds"`
}

func (r *copied) print(c *console, from, to string) {
	fmt.Fprintf(c.stdout, "%s in %s\n", count(r.Records, "record"), from)
	fmt.Fprintf(c.stdout, "%d created, %d changed, %d prolonged, %d removed, %d left as they were in %s (%.1f s)\n",
		r.Created, r.Changed, r.Prolonged, r.Removed, r.Same, to, r.Seconds)
	if r.Surplus > 0 {
		fmt.Fprintf(c.stdout, "%s in the latter only; --final removes what is gone from the former\n", count(r.Surplus, "record"))
	}
	for _, id := range r.TooLarge {
		fmt.Fprintf(c.stdout, "too large for the latter: %s\n", id)
	}
	if r.Compared {
		fmt.Fprintln(c.stdout, "compared: both hold the same; the application can be started on the latter")
	}
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
