package console

import (
	"context"
	"errors"
	"fmt"

	"example.com/session"
	"github.com/spf13/pflag"
)

func sweepCommand() *command {
	return &command{
		name:    "sweep",
		summary: "remove what has expired",
		help: `
Removes expired records, in small batches that hold nobody up, as the application does every five minutes unless it
sets SweepInterval to Never. Redis, MongoDB and Memcached remove them by themselves; there is nothing to do then.

JSON is an object with removed, the number of records, and supported, false if the store's server does it by itself.

Examples:
  session sweep --store dir:///var/lib/app/sessions
  session sweep --timeout 10m --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			s.addCommon(flags)
		},
		run: sweep,
	}
}

// swept is the JSON of sweep.
type swept struct {
	Removed   int  `json:"removed"`
	Supported bool `json:"supported"`
}

func sweep(ctx context.Context, c *console, s *settings, args []string) error {
	if err := checkNone(args); err != nil {
		return err
	}
	store, err := s.openStore(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	n, err := session.DeleteExpired(ctx, store)
	unsupported := errors.Is(err, errors.ErrUnsupported)
	if unsupported {
		err = nil
	}
	switch {
	case s.json:
		err = errors.Join(err, c.printJSON(swept{n, !unsupported}))
	case unsupported:
		fmt.Fprintln(c.stdout, "the store's server removes expired records by itself")
	default:
		fmt.Fprintf(c.stdout, "removed %s\n", count(n, "expired record"))
	}
	return err
}
