package console

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"example.com/session"
	"github.com/spf13/pflag"
)

func listCommand() *command {
	return &command{
		name:    "list",
		summary: "list the live sessions",
		help: `
Lists the live sessions by user, the newest first; then those of nobody, then those that are encrypted
(EncryptAtRest), of which only ID, expiry and size can be told. The table says how long ago a session began and was last
used, and in how long it expires; the last use is exact to the application's TouchInterval, a tenth of the idle timeout
unless set. It shows the first digits of an ID, which show and end take as well, and no more of a name, an address or a
User-Agent than a line of 100 columns has room for. JSON has all of it.

With --user, the sessions are those that the user's own record names: that is quick however many others there are,
and works with Memcached and with EncryptAtRest too (with the application's secret in SESSION_SECRET). With --label,
they are those that SetUser gave a label, such as a tenant or the session of an OpenID provider, in the same way.

BOUND is since when a session has been bound to a key in its device (DeviceBinding); it is empty if it is not.

JSON is an array, [] if there is no session, of objects with id, user, created, last_used, expires, bound, remote_addr,
user_agent, labels (objects with name and value), size (of the record, in bytes) and encrypted. Times are in UTC. What
is unknown is left out, and so is expires for a session that never expires, and bound for one that is not. With --user
or --label, size and labels are unknown.

Examples:
  session list --store redis://127.0.0.1:6379/0
  session list --user ann
  session list --label tenant=acme
  session list --json | jq -r '.[] | select(.remote_addr == "192.0.2.1") | .id' | xargs session end
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			s.addGroup(flags, "list the sessions")
			s.addNamespace(flags)
			s.addIdle(flags)
			s.addCommon(flags)
		},
		run: list,
	}
}

// A listed session is one line of a list, and one object of its JSON.
type listed struct {
	ID         session.ID `json:"id"`
	User       string     `json:"user,omitempty"`
	Created    time.Time  `json:"created,omitzero"`
	LastUsed   time.Time  `json:"last_used,omitzero"`
	Expires    time.Time  `json:"expires,omitzero"`
	Bound      time.Time  `json:"bound,omitzero"`
	RemoteAddr string     `json:"remote_addr,omitempty"`
	UserAgent  string     `json:"user_agent,omitempty"`
	Labels     []label    `json:"labels,omitempty"`
	Size       int        `json:"size,omitempty"`
	Encrypted  bool       `json:"encrypted"`
}

// A label is the JSON of a session.Label.
type label struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func asLabels(labels []session.Label) (out []label) {
	for _, l := range labels {
		out = append(out, label(l))
	}
	return out
}

func list(ctx context.Context, c *console, s *settings, args []string) error {
	if err := checkNone(args); err != nil {
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
	var sessions []listed
	if s.ofGroup() {
		sessions, err = listGroup(ctx, s, m, group)
	} else {
		sessions, err = listAll(ctx, m)
	}
	if s.json && exitCode(err) == exitNone {
		return errors.Join(err, c.printJSON([]listed{}))
	}
	if err != nil {
		return err
	}
	slices.SortFunc(sessions, func(a, b listed) int { return compareListed(&a, &b) })
	if s.json {
		return c.printJSON(sessions)
	}
	if err := c.printList(sessions, time.Now()); err != nil {
		return err
	}
	c.note("%s", count(len(sessions), "live session"))
	return nil
}

// printList prints the sessions for people.
func (c *console) printList(sessions []listed, now time.Time) error {
	t := newTable(column{"USER", 20}, column{"ID", shownDigits}, column{"AGE", 5}, column{"IDLE", 5}, column{"EXPIRES", 7},
		column{"BOUND", 5}, column{"ADDRESS", 29}, column{"USER-AGENT", 0})
	for i := range sessions {
		e := &sessions[i]
		user := plain(e.User)
		if e.Encrypted && e.User == "" {
			user = "(encrypted)"
		}
		expires := "never"
		if !e.Expires.IsZero() {
			expires = span(now, e.Expires)
		}
		bound := ""
		if !e.Bound.IsZero() {
			bound = span(e.Bound, now)
		}
		t.add(user, shortID(e.ID), span(e.Created, now), span(e.LastUsed, now), expires, bound, plain(e.RemoteAddr), plain(e.UserAgent))
	}
	return t.print(c.stdout)
}

func listAll(ctx context.Context, m *session.Manager) ([]listed, error) {
	sessions := []listed{}
	for info, err := range m.Records(ctx) {
		if err != nil {
			return nil, err
		}
		if info.Kind != session.RecordSession {
			continue
		}
		sessions = append(sessions, listed{
			ID:         info.ID,
			User:       info.User,
			Created:    jsonTime(info.Created),
			LastUsed:   jsonTime(info.LastUsed),
			Expires:    jsonTime(info.Expires),
			Bound:      jsonTime(info.Bound),
			Labels:     asLabels(info.Labels),
			RemoteAddr: info.RemoteAddr,
			UserAgent:  info.UserAgent,
			Size:       info.Size,
			Encrypted:  info.Encrypted,
		})
	}
	return sessions, nil
}

func listGroup(ctx context.Context, s *settings, m *session.Manager, g session.Group) ([]listed, error) {
	index, err := s.index(ctx, m, g)
	if err != nil {
		return nil, err
	}
	found, err := m.Sessions(ctx, g)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoGroup(s)
	}
	sessions := make([]listed, len(found))
	for i, f := range found {
		sessions[i] = listed{
			ID:         f.ID,
			User:       f.User,
			Created:    jsonTime(f.Created),
			LastUsed:   jsonTime(f.LastUsed),
			Expires:    jsonTime(f.Expires),
			Bound:      jsonTime(f.Bound),
			RemoteAddr: f.RemoteAddr,
			UserAgent:  f.UserAgent,
			Encrypted:  index.Encrypted,
		}
	}
	return sessions, nil
}

// compareListed puts users in order, before nobody and what is encrypted, and the newest of each first.
func compareListed(a, b *listed) int {
	rank := func(l *listed) int {
		switch {
		case l.User != "":
			return 0
		case !l.Encrypted:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.User, b.User), b.Created.Compare(a.Created),
		b.Expires.Compare(a.Expires), slices.Compare(a.ID[:], b.ID[:]))
}
