package console

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"example.com/session"
	"golang.org/x/sync/errgroup"
)

// final makes TO what FROM is, and compares. Nobody else uses either store; if somebody does, that is found out.
func (cp *copier) final(ctx context.Context, c *console) (*copied, error) {
	result, err := cp.pass(ctx, c, true)
	if err != nil {
		return result, err
	}
	differ, err := cp.compare(ctx, c)
	if err == nil && differ > 0 {
		err = fmt.Errorf("%s changed meanwhile: an application still uses FROM, or TO; stop it, and repeat this",
			count(differ, "record"))
	}
	result.Compared = err == nil
	return result, err
}

// compare returns how many records differ. TO may have a later expiry.
func (cp *copier) compare(ctx context.Context, c *console) (int, error) {
	held, err := cp.look(ctx, c)
	if err != nil {
		return 0, err
	}
	bar := c.progress("comparing", cp.total(ctx, c))
	defer bar.Finish()
	var differ atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(cp.parallel)
	lookAgain := func(id session.ID) {
		group.Go(func() error {
			same, err := cp.compareOne(groupCtx, id)
			if err == nil && !same {
				differ.Add(1)
			}
			return err
		})
	}
	err = cp.each(groupCtx, cp.from, func(e session.Entry) error {
		t, known := held[e.ID]
		delete(held, e.ID)
		if !known || t.version > 1 || !cp.settled(&t, &e.Record) {
			lookAgain(e.ID)
		}
		bar.Add(1)
		return nil
	})
	for id := range held {
		if err == nil {
			lookAgain(id)
		}
	}
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	return int(differ.Load()), err
}

// compareOne reports whether both stores hold the same under an ID at this moment.
func (cp *copier) compareOne(ctx context.Context, id session.ID) (bool, error) {
	want, wantErr := cp.from.Load(ctx, id)
	have, haveErr := cp.to.Load(ctx, id)
	for _, err := range []error{wantErr, haveErr} {
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return false, err
		}
	}
	if wantErr != nil || haveErr != nil {
		// what has expired between the two looks has expired in both
		return wantErr != nil && haveErr != nil || wantErr == nil && !want.Live(time.Now()) || haveErr == nil && !have.Live(time.Now()), nil
	}
	t := cp.trace(have)
	return t.version == 1 && cp.settled(&t, &want), nil
}
