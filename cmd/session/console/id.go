package console

import (
	"context"
	"errors"
	"strings"

	"example.com/session"
)

const (
	// idDigits is how many digits an ID has.
	idDigits = 2 * len(session.ID{})
	// minDigits is the shortest beginning of an ID that is taken for one.
	minDigits = 4
	// shownDigits is the beginning that lists show: of a million IDs, hardly two have the same.
	shownDigits = 12
)

// checkIDs returns an error unless the arguments are IDs, or beginnings of IDs. It repeats none of them: they may be
// something else.
func checkIDs(args []string) error {
	for _, arg := range args {
		if len(arg) < minDigits || len(arg) > idDigits || strings.Trim(arg, "0123456789abcdefABCDEF") != "" {
			return usage("an ID is %d hexadecimal digits, or the first %d or more of them", idDigits, minDigits)
		}
	}
	return nil
}

// findIDs returns the IDs that the arguments are, or are the beginning of. Unless all are whole, it goes through the
// store.
func findIDs(ctx context.Context, store session.Store, args []string) ([]session.ID, error) {
	ids := make([]session.ID, len(args))
	found := make([]int, len(args))
	short := make(map[int]string)
	for i, arg := range args {
		var err error
		if ids[i], err = session.ParseID(arg); err != nil {
			short[i] = strings.ToLower(arg)
		}
	}
	if len(short) == 0 {
		return ids, nil
	}
	for e, err := range session.List(ctx, store) {
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, usage("this kind of store cannot list what it holds: give all %d digits of an ID", idDigits)
		}
		if err != nil {
			return nil, err
		}
		text := e.ID.String()
		for i, beginning := range short {
			if strings.HasPrefix(text, beginning) && (found[i] == 0 || e.ID != ids[i]) { // a list may have one twice
				ids[i] = e.ID
				found[i]++
			}
		}
	}
	for i := range short {
		switch {
		case found[i] == 0:
			return nil, none("there is no record with an ID that begins so")
		case found[i] > 1:
			return nil, usage("the beginning of an ID is that of %d records: give more digits", found[i])
		}
	}
	return ids, nil
}

// shortID returns the beginning of an ID that lists show.
func shortID(id session.ID) string { return id.String()[:shownDigits] }
