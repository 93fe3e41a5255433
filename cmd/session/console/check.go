package console

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/session"
	"example.com/session/internal/scratch"
	"example.com/session/sessiontest"
	"github.com/spf13/pflag"
)

func checkCommand() *command {
	return &command{
		name:    "check",
		summary: "check a store against the contract of session.Store",
		help: `
Checks each rule of the contract of session.Store, the races included, on the server of the URL, with the versions,
proxies and settings that are there: in a table, collection, prefix, file or directory of its own beside the one that
the URL names, which is removed in the end, also after an interruption. Its name begins with session_check_; should the
command be killed, it can be removed by hand. It takes some ten thousand operations, through two sets of connections,
and most of a minute. A server that only looks compatible is found out: one whose conditional updates are not atomic
breaks the rules named race-….

With --in-place it works in the place that the URL names, for an account that may not create tables. That is safe while
the application works there: it uses random IDs and deletes what it wrote; expired records are removed on the way.

JSON is an object with ok, broken (an array of texts, one for each broken rule) and seconds.

Examples:
  session check --store postgres://app@db.example/app
  session check --in-place --json
`,
		flags: func(flags *pflag.FlagSet, s *settings) {
			s.addStore(flags)
			flags.BoolVar(&s.inPlace, "in-place", false, "work in the place that the URL names, and create none")
			s.addCommon(flags)
		},
		run: check,
	}
}

// checked is the JSON of check.
type checked struct {
	OK      bool     `json:"ok"`
	Broken  []string `json:"broken"`
	Seconds float64  `json:"seconds"`
}

func check(ctx context.Context, c *console, s *settings, args []string) error {
	if err := checkNone(args); err != nil {
		return err
	}
	rawURL, err := s.storeURL()
	if err != nil {
		return err
	}
	var store session.StoreCloser
	place, remove := rawURL, func() error { return nil }
	if s.inPlace {
		store, err = c.openURL(ctx, rawURL, false)
	} else {
		store, place, remove, err = c.openScratch(ctx, rawURL)
	}
	if err != nil {
		return err
	}
	// As a second process has it: with connections of its own.
	others, closeOthers, err := c.openAgain(ctx, place)
	if err != nil {
		return errors.Join(err, remove(), store.Close())
	}
	began := time.Now()
	broken := sessiontest.Check(ctx, store, others...)
	removed := errors.Join(closeOthers(), remove(), store.Close())
	if removed != nil {
		removed = fmt.Errorf("the place of the check was not removed: %w", removed)
	}
	took := time.Since(began)
	if s.json {
		if err := c.printJSON(checked{broken == nil, texts(broken), took.Seconds()}); err != nil {
			return errors.Join(broken, removed, err)
		}
	} else if broken == nil {
		fmt.Fprintf(c.stdout, "%s keeps the contract (%.1f s)\n", c.display(rawURL), took.Seconds())
	}
	return errors.Join(broken, removed)
}

// texts returns the texts of joined errors.
func texts(err error) []string {
	list := []string{}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			list = append(list, texts(err)...)
		}
	} else if err != nil {
		list = append(list, err.Error())
	}
	return list
}

// removeTimeout bounds the clean-up, which goes on after an interruption.
const removeTimeout = 30 * time.Second

// openAgain opens a second store at a place, unless that belongs to one at a time.
func (c *console) openAgain(ctx context.Context, place string) (others []session.Store, closeAll func() error, err error) {
	switch scheme, _, _ := strings.Cut(place, ":"); scheme {
	case "", "memory", "file":
		return nil, func() error { return nil }, nil
	}
	second, err := c.openURL(ctx, place, false)
	if err != nil {
		return nil, nil, fmt.Errorf("open the store a second time, as another process would: %w", err)
	}
	return []session.Store{second}, second.Close, nil
}

// openScratch opens a store at the server of a URL, in a place of its own, whose URL is place. remove removes that; the store is
// still to be closed.
func (c *console) openScratch(ctx context.Context, rawURL string) (store session.StoreCloser, place string, remove func() error, err error) {
	name := "session_check_" + strings.ToLower(rand.Text()[:12])
	remove = func() error { return nil }
	scheme, path, local := localPath(rawURL)
	k, known := kindOf(scheme)
	switch {
	case local && path != "":
		path = filepath.Clean(path) + "." + name
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil, "", nil, err
		}
		remove = func() error { return os.RemoveAll(path) }
		rawURL = scheme + ":" + (&url.URL{Path: path}).EscapedPath()
	case !known && !c.isOwn(scheme):
		return nil, "", nil, errScheme
	case !known:
		return nil, "", nil, usage("of this kind of store it can make none beside it; --in-place checks it as it is")
	case k.place == "table":
		rawURL = replaceTable(rawURL, name)
	case k.place == "collection":
		rawURL, _ = setParameter(rawURL, "collection", name)
	case k.place == "prefix":
		rawURL, _ = setParameter(rawURL, "prefix", name+":")
	}
	if k.creates {
		rawURL, _ = setParameter(rawURL, "create", "true")
	}
	// An interruption must not come between making a table and knowing that it is there.
	store, err = c.open(context.WithoutCancel(ctx), rawURL)
	if err != nil {
		return nil, "", nil, errors.Join(err, remove())
	}
	if !local {
		remove = func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
			defer cancel()
			return scratch.Drop(ctx, rawURL)
		}
	}
	return store, rawURL, remove, nil
}

// replaceTable sets the parameter table of a URL, within the schema or database that it names.
func replaceTable(rawURL, name string) string {
	replaced, before := setParameter(rawURL, "table", name)
	if schema, _, ok := strings.Cut(before, "."); ok {
		replaced, _ = setParameter(rawURL, "table", schema+"."+name)
	}
	return replaced
}
