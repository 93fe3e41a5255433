package console

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"example.com/session"
	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
)

func showCommand() *command {
	return &command{
		name:    "show",
		args:    " ID",
		summary: "show a session, or another record",
		help: `
Shows what can be told of the record under an ID, which is 64 hexadecimal digits, as in logs and events, or the
beginning of it that lists show; or, with --user or --label, of the record that names the sessions of a user or a
label. A session's values are shown with --values only, in CBOR diagnostic notation (RFC 8949, section 8). Of a session
that is encrypted (EncryptAtRest) nobody can tell more than the ID, the expiry, the size and what concerns its cookie:
the key is in that.

A record is a session (one that lives), a tombstone (one that has ended, and must not come back), moved (the mark of
another system's session that was taken over), an index (names the sessions of a user or a label), a lock, or damaged.

JSON is null if there is no such record, or else an object with id, kind, version, size, encrypted and readable, and,
where they are known and have a meaning, expires, created, last_used, renewed and regenerated (when the cookie was
renewed last, and when it got its key), bound (since when the session has been bound to a key in its device),
authenticated_at, user, labels (objects with name and value), remote_addr, user_agent, keys, values (text, by key),
ended, by_client (whether it was its own client that ended it), sessions and locked_until.

Examples:
  session show 5f0c…e1 --values
  session show --user ann --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			flags.BoolVar(&s.values, "values", false, "show the values too, which may be anybody's secrets")
			s.addGroup(flags, "show the record that names the sessions")
			s.addNamespace(flags)
			s.addIdle(flags)
			s.addCommon(flags)
		},
		run: show,
	}
}

// A shown record is the JSON of a session.RecordInfo.
type shown struct {
	ID              session.ID         `json:"id"`
	Kind            session.RecordKind `json:"kind"`
	Version         uint64             `json:"version"`
	Size            int                `json:"size"`
	Encrypted       bool               `json:"encrypted"`
	Readable        bool               `json:"readable"`
	Expires         time.Time          `json:"expires,omitzero"`
	Created         time.Time          `json:"created,omitzero"`
	LastUsed        time.Time          `json:"last_used,omitzero"`
	Renewed         time.Time          `json:"renewed,omitzero"`
	Regenerated     time.Time          `json:"regenerated,omitzero"`
	Bound           time.Time          `json:"bound,omitzero"`
	AuthenticatedAt time.Time          `json:"authenticated_at,omitzero"`
	User            string             `json:"user,omitempty"`
	Labels          []label            `json:"labels,omitempty"`
	RemoteAddr      string             `json:"remote_addr,omitempty"`
	UserAgent       string             `json:"user_agent,omitempty"`
	Keys            []string           `json:"keys,omitempty"`
	Values          map[string]string  `json:"values,omitempty"`
	Ended           time.Time          `json:"ended,omitzero"`
	ByClient        *bool              `json:"by_client,omitempty"`
	Sessions        []session.ID       `json:"sessions,omitempty"`
	LockedUntil     time.Time          `json:"locked_until,omitzero"`
}

func show(ctx context.Context, c *console, s *settings, args []string) error {
	if s.ofGroup() && len(args) > 0 || !s.ofGroup() && len(args) != 1 {
		return usage("it takes one ID, or --user, or --label")
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
	info, err := find(ctx, s, store, m, group, args)
	if errors.Is(err, session.ErrNotFound) {
		err = none("there is no record with that ID")
	}
	if s.json && exitCode(err) == exitNone {
		return errors.Join(err, c.printJSON(nil))
	}
	if err != nil {
		return err
	}
	if s.json {
		return c.printJSON(asShown(&info, s.values))
	}
	return printInfo(c, &info, s.values)
}

// find returns the record that is to be shown.
func find(ctx context.Context, s *settings, store session.Store, m *session.Manager, g session.Group, args []string) (session.RecordInfo, error) {
	if s.ofGroup() {
		info, err := m.InspectGroup(ctx, g)
		if errors.Is(err, session.ErrNotFound) {
			err = errNoGroup(s)
		}
		return info, err
	}
	ids, err := findIDs(ctx, store, args)
	if err != nil {
		return session.RecordInfo{}, err
	}
	return m.Inspect(ctx, ids[0])
}

func asShown(info *session.RecordInfo, values bool) shown {
	out := shown{
		ID:              info.ID,
		Kind:            info.Kind,
		Version:         info.Version,
		Size:            info.Size,
		Encrypted:       info.Encrypted,
		Readable:        info.Readable,
		Expires:         jsonTime(info.Expires),
		Created:         jsonTime(info.Created),
		LastUsed:        jsonTime(info.LastUsed),
		Renewed:         jsonTime(info.Renewed),
		Regenerated:     jsonTime(info.Regenerated),
		Bound:           jsonTime(info.Bound),
		AuthenticatedAt: jsonTime(info.AuthenticatedAt),
		User:            info.User,
		Labels:          asLabels(info.Labels),
		RemoteAddr:      info.RemoteAddr,
		UserAgent:       info.UserAgent,
		Keys:            info.Keys,
		Ended:           jsonTime(info.Ended),
		Sessions:        info.Sessions,
		LockedUntil:     jsonTime(info.LockedUntil),
	}
	if info.Kind == session.RecordTombstone {
		out.ByClient = &info.ByClient
	}
	if values {
		out.Values = make(map[string]string, len(info.Keys))
		for _, key := range info.Keys {
			out.Values[key], _ = info.Value(key)
		}
	}
	return out
}

// kinds says in words what a record is.
var kinds = map[session.RecordKind]string{
	session.RecordSession:   "one that its client can use",
	session.RecordTombstone: "a session that has ended",
	session.RecordMoved:     "the mark of a session that was moved in from another system",
	session.RecordIndex:     "names the sessions of a user or a label",
	session.RecordLock:      "says whether a request has a session for itself",
	session.RecordDamaged:   "damaged, or foreign",
}

func printInfo(c *console, info *session.RecordInfo, values bool) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("id", "%s", info.ID)
	line("kind", "%s: %s", info.Kind, kinds[info.Kind])
	line("version", "%d", info.Version)
	line("size", "%s", humanize.IBytes(uint64(info.Size)))
	line("expires", "%s", longTime(info.Expires, "never"))
	if info.Encrypted && !info.Readable {
		line("content", "encrypted")
	}
	switch info.Kind {
	case session.RecordSession:
		line("key since", "%s", longTime(info.Regenerated, "-"))
		line("renewed", "%s", longTime(info.Renewed, "-"))
		line("bound", "%s", longTime(info.Bound, "to no device"))
	case session.RecordTombstone:
		line("ended", "%s, %s", longTime(info.Ended, "-"), map[bool]string{true: "by its client", false: "from elsewhere"}[info.ByClient])
	}
	switch {
	case info.Kind == session.RecordIndex && info.Readable:
		for i, id := range info.Sessions {
			line([]string{"sessions", ""}[min(i, 1)], "%s", id)
		}
	case info.Kind == session.RecordLock:
		line("locked until", "%s", longTime(info.LockedUntil, "not locked"))
	case info.Readable && info.Kind == session.RecordSession:
		line("created", "%s", longTime(info.Created, "-"))
		line("last used", "%s", longTime(info.LastUsed, "-"))
		line("user", "%s", plain(info.User))
		if info.User != "" {
			line("logged in", "%s", longTime(info.AuthenticatedAt, "-"))
		}
		for _, l := range info.Labels {
			line("label", "%s=%s", plain(l.Name), plain(l.Value))
		}
		line("address", "%s", plain(info.RemoteAddr))
		line("user-agent", "%s", plain(info.UserAgent))
		keys := make([]string, len(info.Keys))
		for i, key := range info.Keys {
			keys[i] = plain(key)
		}
		line("keys", "%s", strings.Join(keys, ", "))
	}
	if values {
		for _, key := range info.Keys {
			value, _ := info.Value(key)
			line("  "+plain(key), "%s", escaped(value))
		}
	}
	return w.Flush()
}

// longTime returns a time with how long ago or ahead it is, or what zero means.
func longTime(t time.Time, zero string) string {
	if t.IsZero() {
		return zero
	}
	return fmt.Sprintf("%s (%s)", shortTime(t), humanize.Time(t))
}
