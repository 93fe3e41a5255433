package console

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"example.com/session"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
)

func endCommand() *command {
	return &command{
		name:    "end",
		args:    " ID…|--user NAME|--label NAME=VALUE|--all",
		summary: "end sessions",
		help: `
Ends sessions as a logout does: nothing that is under way can bring them back, and the record of the user's sessions
is kept up to date. A session keeps its ID until it has ended, whoever logs in with it meanwhile. An ID is 64 digits, as
in logs and events, or the beginning of it that lists show. If there is no such session, or it has ended, that is an
error. With several IDs, each is tried, unless one is not the beginning of exactly one ID.

With --user, that the user has no session is an error too, and so it is with --label: that ends the sessions that
SetUser gave the label, such as a tenant or the session of an OpenID provider, whoever their users are. With --all, it
goes through the store until it finds no live session, at most five times, since others may log in meanwhile; it asks
first, unless --yes says that it need not.

JSON is an object with ended, the number of sessions, and failed, an array of objects with id and error.

Examples:
  session end 5f0c…e1
  session end --user ann --namespace __Host-session_id
  session end --label tenant=acme
  session end --all --yes --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			s.addGroup(flags, "end all sessions")
			flags.BoolVar(&s.all, "all", false, "end everybody's sessions")
			flags.BoolVar(&s.yes, "yes", false, "do not ask")
			s.addNamespace(flags)
			s.addCommon(flags)
		},
		run: end,
	}
}

// An ending is what end did, and its JSON.
type ending struct {
	Ended  int       `json:"ended"`
	Failed []failure `json:"failed"`

	mu   sync.Mutex
	code int // to exit with for those that failed
}

// A failure is an ID that was not ended.
type failure struct {
	ID    session.ID `json:"id"`
	Error string     `json:"error"`
}

func end(ctx context.Context, c *console, s *settings, args []string) error {
	ways := 0
	for _, given := range []bool{len(args) > 0, s.changed("user"), s.changed("label"), s.all} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return usage("it takes IDs, or --user, or --label, or --all")
	}
	if err := checkIDs(args); err != nil {
		return err
	}
	group, err := s.group()
	if err != nil {
		return err
	}
	store, m, err := s.openManager(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	e := &ending{Failed: []failure{}}
	switch {
	case s.all:
		err = e.all(ctx, c, s, m)
	case s.ofGroup():
		err = e.group(ctx, s, m, group)
	default:
		var ids []session.ID
		if ids, err = findIDs(ctx, store, args); err == nil {
			e.each(ctx, m, ids)
		}
	}
	if isUsage(err) {
		return err
	}
	return e.report(ctx, c, s, err)
}

// report prints what was done, also if not all was.
func (e *ending) report(ctx context.Context, c *console, s *settings, err error) error {
	if s.json {
		if err := c.printJSON(e); err != nil {
			return err
		}
	} else if err == nil || e.Ended > 0 {
		fmt.Fprintf(c.stdout, "ended %s\n", count(e.Ended, "session"))
	}
	for _, f := range e.Failed {
		c.note("session end: %s: %s", f.ID, f.Error)
	}
	if err == nil && len(e.Failed) > 0 {
		err = &exitError{e.code, count(len(e.Failed), "session") + " could not be ended"}
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// group ends all sessions of a group.
func (e *ending) group(ctx context.Context, s *settings, m *session.Manager, g session.Group) error {
	if _, err := s.index(ctx, m, g); err != nil {
		return err
	}
	live, _ := m.Sessions(ctx, g)                    // those that are out of reach are the next call's error
	if _, err := m.EndSessions(ctx, g); err != nil { // it counts those as well that have expired
		return err
	}
	if e.Ended = len(live); e.Ended == 0 {
		return errNoGroup(s)
	}
	return nil
}

// fail takes note of a session that was not ended. Of several reasons, one that is not its absence decides the exit code.
func (e *ending) fail(id session.ID, err error) {
	e.Failed = append(e.Failed, failure{id, failureText(err)})
	code := exitCode(err)
	if errors.Is(err, session.ErrNotFound) {
		code = exitNone
	}
	if e.code == exitOK || e.code == exitNone {
		e.code = code
	}
}

// each ends the sessions of the given IDs.
func (e *ending) each(ctx context.Context, m *session.Manager, ids []session.ID) {
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		if err := m.End(ctx, id); err != nil {
			e.fail(id, err)
			continue
		}
		e.Ended++
	}
}

// maxRounds bounds how often end --all goes through the store.
const maxRounds = 5

// all ends all sessions. Of those that are given another ID while the store is listed, a round may miss some.
func (e *ending) all(ctx context.Context, c *console, s *settings, m *session.Manager) error {
	for round := 1; round <= maxRounds; round++ {
		sessions, err := listAll(ctx, m)
		if err != nil {
			return err
		}
		if round == 1 {
			rawURL, err := s.storeURL()
			if err != nil {
				return err
			}
			question := fmt.Sprintf("End %s in %s?", count(len(sessions), "live session"), c.display(rawURL))
			if err := c.confirm(s, question); err != nil {
				return err
			}
		}
		if len(sessions) == 0 {
			return nil
		}
		if err := e.many(ctx, c, m, sessions); err != nil || len(e.Failed) > 0 {
			return err
		}
	}
	c.note("sessions are still being created: those that are live were not there before")
	return nil
}

// many ends the listed sessions, a few at a time.
func (e *ending) many(ctx context.Context, c *console, m *session.Manager, sessions []listed) error {
	bar := c.progress("ending", len(sessions))
	defer bar.Finish()
	var group errgroup.Group
	group.SetLimit(defaultParallel)
	for _, l := range sessions {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			err := m.End(ctx, l.ID)
			e.mu.Lock()
			defer e.mu.Unlock()
			bar.Add(1)
			switch {
			case err == nil:
				e.Ended++
			case !errors.Is(err, session.ErrNotFound) && !errors.Is(err, session.ErrGone): // the next round finds those
				e.fail(l.ID, err)
			}
			return nil
		})
	}
	group.Wait()
	return ctx.Err()
}
