package console

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"example.com/session"
	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
)

func statsCommand() *command {
	return &command{
		name:    "stats",
		summary: "count sessions and other records, by age and size",
		help: `
Goes through the store and counts: records by kind, live sessions by user and by age since they began, and the sizes of
sessions as they are stored. The age of sessions that are encrypted (EncryptAtRest) is unknown.

JSON is an object with records (numbers by kind: session, tombstone, moved, index, lock, damaged), users, anonymous and
encrypted (numbers of sessions but for the first), ages (an array of objects with below, in seconds, absent for
the last, and sessions), and sizes (bytes, median, p95, max, total).

Examples:
  session stats
  session stats --json | jq .records.session
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			s.addCommon(flags)
		},
		run: stats,
	}
}

// statistics are what stats prints, and their JSON.
type statistics struct {
	Records   map[session.RecordKind]int `json:"records"`
	Users     int                        `json:"users"`
	Anonymous int                        `json:"anonymous"`
	Encrypted int                        `json:"encrypted"`
	Ages      []ageGroup                 `json:"ages"`
	Sizes     sizes                      `json:"sizes"`
}

// An ageGroup counts the sessions that are younger than Below, and no younger than the group before.
type ageGroup struct {
	Below    int64 `json:"below,omitempty"` // seconds; 0: no limit
	Sessions int   `json:"sessions"`

	name string
}

// sizes are those of live sessions' records, in bytes.
type sizes struct {
	Median int   `json:"median"`
	P95    int   `json:"p95"`
	Max    int   `json:"max"`
	Total  int64 `json:"total"`
}

func stats(ctx context.Context, c *console, s *settings, args []string) error {
	if err := checkNone(args); err != nil {
		return err
	}
	store, m, err := s.openManager(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	found, err := gather(ctx, m)
	if err != nil {
		return err
	}
	if s.json {
		return c.printJSON(found)
	}
	return found.print(c)
}

func gather(ctx context.Context, m *session.Manager) (*statistics, error) {
	st := &statistics{
		Records: make(map[session.RecordKind]int),
		Ages: []ageGroup{
			{Below: 60, name: "under a minute"},
			{Below: 15 * 60, name: "under 15 minutes"},
			{Below: 3600, name: "under an hour"},
			{Below: 24 * 3600, name: "under a day"},
			{Below: 30 * 24 * 3600, name: "under 30 days"},
			{name: "older"},
		},
	}
	for kind := range kinds {
		st.Records[kind] = 0
	}
	users := make(map[string]struct{})
	var bytes []int
	now := time.Now()
	for info, err := range m.Records(ctx) {
		if err != nil {
			return nil, err
		}
		st.Records[info.Kind]++
		if info.Kind != session.RecordSession {
			continue
		}
		bytes = append(bytes, info.Size)
		st.Sizes.Total += int64(info.Size)
		switch {
		case !info.Readable:
			st.Encrypted++
			continue
		case info.User == "":
			st.Anonymous++
		default:
			users[info.User] = struct{}{}
		}
		age := int64(now.Sub(info.Created) / time.Second)
		i := slices.IndexFunc(st.Ages, func(g ageGroup) bool { return g.Below == 0 || age < g.Below })
		st.Ages[i].Sessions++
	}
	st.Users = len(users)
	if len(bytes) > 0 {
		slices.Sort(bytes)
		last := len(bytes) - 1
		st.Sizes.Median, st.Sizes.P95, st.Sizes.Max = bytes[last/2], bytes[last*95/100], bytes[last]
	}
	return st, nil
}

func (st *statistics) print(c *console) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(n int, what string) { fmt.Fprintf(w, "%s\t  %s\n", humanize.Comma(int64(n)), what) }
	line(st.Records[session.RecordSession], "live sessions")
	line(st.Users, "users who are logged in")
	line(st.Anonymous, "sessions of nobody")
	line(st.Encrypted, "sessions that are encrypted")
	for _, kind := range []session.RecordKind{
		session.RecordTombstone, session.RecordMoved, session.RecordIndex, session.RecordLock, session.RecordDamaged,
	} {
		line(st.Records[kind], fmt.Sprintf("%s: %s", kind, kinds[kind]))
	}
	for _, g := range st.Ages {
		line(g.Sessions, "sessions "+g.name)
	}
	size := func(n int64, what string) { fmt.Fprintf(w, "%s\t  %s\n", humanize.IBytes(uint64(n)), what) }
	size(int64(st.Sizes.Median), "median size of a session")
	size(int64(st.Sizes.P95), "that 95 of 100 do not exceed")
	size(int64(st.Sizes.Max), "the largest")
	size(st.Sizes.Total, "all together")
	return w.Flush()
}
