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

// CheckRule checks one rule, on one store and then on all in turn. Open opens one more, for the rule to close; it may be nil.
func CheckRule(ctx context.Context, name string, open func(ctx context.Context) (session.Store, error), stores ...session.Store) error {
	k := newKit()
	k.fresh = open
	for _, r := range rules() {
		if r.name == name {
			_, err := k.runOn(ctx, r, stores)
			return err
		}
	}
	return errors.New("there is no rule " + name)
}

// PlayRounds plays so many rounds of each mode, the first with that seed.
func PlayRounds(ctx context.Context, store session.Store, first, n uint64) error {
	var errs []error
	for _, m := range []mode{{}, {renew: true}, {renew: true, faults: true}} {
		errs = append(errs, m.rounds(ctx, newSite(store), first, n))
	}
	return errors.Join(errs...)
}
