package main

import (
	"context"
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
Shows what can be told of the record under an ID, which is 64 hexadecimal digits, as in lists, logs and events; or,
with --user, of the record that names a user's sessions. A session's values are shown with --values only, in CBOR
diagnostic notation (RFC 8949, section 8). Of a session that is encrypted (EncryptAtRest) nobody can tell more than the
ID, the expiry and the size: the key is in the client's cookie.

A record is live (a session), sealed (the former ID of a session that was renewed; it leads to the successor for a
grace period), retired (the mark of an ID that was ended, or regenerated), an index (names the sessions of a user), a
lock, or damaged.

JSON is an object with id, kind, version, size, encrypted and readable, and, where they are known and have a meaning,
expires, created, last_used, authenticated_at, user, remote_addr, user_agent, keys, values (text, by key), successor,
regenerated, sessions and locked_until.

Examples:
  session show 5f0c…e1 --values
  session show --user ann --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			flags.BoolVar(&s.values, "values", false, "show the values too, which may be anybody's secrets")
			flags.StringVar(&s.user, "user", "", "show the record that names this `NAME`'s sessions")
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
	AuthenticatedAt time.Time          `json:"authenticated_at,omitzero"`
	User            string             `json:"user,omitempty"`
	RemoteAddr      string             `json:"remote_addr,omitempty"`
	UserAgent       string             `json:"user_agent,omitempty"`
	Keys            []string           `json:"keys,omitempty"`
	Values          map[string]string  `json:"values,omitempty"`
	Successor       session.ID         `json:"successor,omitzero"`
	Regenerated     bool               `json:"regenerated,omitempty"`
	Sessions        []session.ID       `json:"sessions,omitempty"`
	LockedUntil     time.Time          `json:"locked_until,omitzero"`
}

func show(ctx context.Context, c *console, s *settings, args []string) error {
	byUser := s.changed("user")
	if byUser && len(args) > 0 || !byUser && len(args) != 1 {
		return usage("it takes one ID, or --user")
	}
	var ids []session.ID
	var err error
	if !byUser {
		if ids, err = parseIDs(args); err != nil {
			return err
		}
	}
	store, m, err := s.openManager(ctx, c)
	if err != nil {
		return err
	}
	defer session.Close(store)
	var info session.RecordInfo
	if byUser {
		info, err = m.InspectUser(ctx, s.user)
	} else {
		info, err = m.Inspect(ctx, ids[0])
	}
	if err != nil {
		return err
	}
	if s.json {
		return c.printJSON(asShown(&info, s.values))
	}
	return printInfo(c, &info, s.values)
}

// parseIDs returns the IDs that the arguments are. It repeats none of them: they may be something else.
func parseIDs(args []string) ([]session.ID, error) {
	ids := make([]session.ID, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = session.ParseID(arg); err != nil {
			return nil, usage("an ID is 64 hexadecimal digits")
		}
	}
	return ids, nil
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
		AuthenticatedAt: jsonTime(info.AuthenticatedAt),
		User:            info.User,
		RemoteAddr:      info.RemoteAddr,
		UserAgent:       info.UserAgent,
		Keys:            info.Keys,
		Successor:       info.Successor,
		Regenerated:     info.Regenerated,
		Sessions:        info.Sessions,
		LockedUntil:     jsonTime(info.LockedUntil),
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
	session.RecordLive:    "a session that its client can use",
	session.RecordSealed:  "the former ID of a session that was renewed",
	session.RecordRetired: "the mark of an ID that was ended",
	session.RecordMoved:   "the mark of a session that was moved in from another system",
	session.RecordIndex:   "names the sessions of a user",
	session.RecordLock:    "says whether a request has a session for itself",
	session.RecordDamaged: "damaged, or foreign",
}

func printInfo(c *console, info *session.RecordInfo, values bool) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("id", "%s", info.ID)
	kind := kinds[info.Kind]
	if info.Regenerated {
		kind = "the mark of an ID that was regenerated"
	}
	line("kind", "%s: %s", info.Kind, kind)
	line("version", "%d", info.Version)
	line("size", "%s", humanize.IBytes(uint64(info.Size)))
	line("expires", "%s", longTime(info.Expires, "never"))
	if info.Encrypted && !info.Readable {
		line("content", "encrypted")
	}
	if info.Successor != (session.ID{}) {
		line("leads to", "%s", info.Successor)
	}
	switch {
	case info.Kind == session.RecordIndex && info.Readable:
		for i, id := range info.Sessions {
			line([]string{"sessions", ""}[min(i, 1)], "%s", id)
		}
	case info.Kind == session.RecordLock:
		line("locked until", "%s", longTime(info.LockedUntil, "not locked"))
	case info.Readable && (info.Kind == session.RecordLive || info.Kind == session.RecordSealed):
		line("created", "%s", longTime(info.Created, "-"))
		line("last used", "%s", longTime(info.LastUsed, "-"))
		line("user", "%s", plain(info.User))
		if info.User != "" {
			line("logged in", "%s", longTime(info.AuthenticatedAt, "-"))
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
