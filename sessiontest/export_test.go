package sessiontest

import (
	"context"
	"errors"

	"example.com/session"
)

// RuleNames returns the names of all rules.
func RuleNames() []string {
	var names []string
	for _, r := range rules() {
		names = append(names, r.name)
	}
	return names
}

// PlayRounds plays so many rounds of each mode, the first with that seed.
func PlayRounds(ctx context.Context, store session.Store, first, n uint64) error {
	var errs []error
	for _, m := range []mode{{}, {renew: true}, {renew: true, faults: true}} {
		errs = append(errs, m.rounds(ctx, newSite(store), first, n))
	}
	return errors.Join(errs...)
}
