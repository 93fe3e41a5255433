package main

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
		args:    " ID…|--user NAME|--all",
		summary: "end sessions",
		help: `
Ends sessions as a logout does: nothing that is under way can bring them back, and the record of the user's sessions
is kept up to date. An ID that was renewed meanwhile leads on to the session; one that was regenerated does not, and
that is an error, as it is if there is no such session or it has ended. With several IDs, each is tried.

With --user, that it ends nothing because no session of the user is known is an error too. With --all, it goes through
the store until it finds no live session, at most five times, since others may log in meanwhile; it asks first, unless
--yes says that it need not.

JSON is an object with ended, the number of sessions, and failed, an array of objects with id and error.

Examples:
  session end 5f0c…e1
  session end --user ann --namespace __Host-session_id
  session end --all --yes --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			flags.StringVar(&s.user, "user", "", "end all of this `NAME`'s sessions")
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

	mu sync.Mutex
}

// A failure is an ID that was not ended.
type failure struct {
	ID    session.ID `json:"id"`
	Error string     `json:"error"`
}

func end(ctx context.Context, c *console, s *settings, args []string) error {
	ways := 0
	for _, given := range []bool{len(args) > 0, s.changed("user"), s.all} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return usage("it takes IDs, or --user, or --all")
	}
	ids, err := parseIDs(args)
	if err != nil {
		return err
	}
	store, m, err := s.openManager(ctx, c)
	if err != nil {
		return err
	}
	defer session.Close(store)
	e := &ending{Failed: []failure{}}
	switch {
	case s.all:
		err = e.all(ctx, c, s, m)
	case s.changed("user"):
		err = e.user(ctx, s, m)
	default:
		e.each(ctx, m, ids)
	}
	if _, ok := errors.AsType[*usageError](err); ok {
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
		err = fmt.Errorf("%s could not be ended", count(len(e.Failed), "session"))
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// user ends all sessions of a user.
func (e *ending) user(ctx context.Context, s *settings, m *session.Manager) error {
	if _, err := s.index(ctx, m); err != nil {
		return err
	}
	live, err := m.UserSessions(ctx, s.user)
	if err != nil {
		return err
	}
	if _, err := m.EndUserSessions(ctx, s.user); err != nil { // it counts those as well that have expired
		return err
	}
	e.Ended = len(live)
	return nil
}

// each ends the sessions of the given IDs.
func (e *ending) each(ctx context.Context, m *session.Manager, ids []session.ID) {
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		if err := m.End(ctx, id); err != nil {
			e.Failed = append(e.Failed, failure{id, failureText(err)})
			continue
		}
		e.Ended++
	}
}

func failureText(err error) string {
	switch {
	case errors.Is(err, session.ErrNotFound):
		return "there is no such session, or it has ended"
	case errors.Is(err, session.ErrGone):
		return "the session has a new ID, to which this one does not lead"
	}
	return err.Error()
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
			question := fmt.Sprintf("End %s in %s?", count(len(sessions), "live session"), display(rawURL))
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
				e.Failed = append(e.Failed, failure{l.ID, failureText(err)})
			}
			return nil
		})
	}
	group.Wait()
	return ctx.Err()
}
