package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/session"
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
command be killed, it can be removed by hand. It takes some thousand operations and a quarter of a minute.

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
	if len(args) > 0 {
		return usage("it takes no arguments; the store is given by --store")
	}
	rawURL, err := s.storeURL()
	if err != nil {
		return err
	}
	var store session.Store
	remove := func() error { return nil }
	if s.inPlace {
		store, err = openURL(ctx, rawURL, true)
	} else {
		store, remove, err = openScratch(ctx, rawURL)
	}
	if err != nil {
		return err
	}
	began := time.Now()
	broken := sessiontest.Check(ctx, store)
	removed := errors.Join(remove(), session.Close(store))
	if removed != nil {
		removed = fmt.Errorf("the place of the check was not removed: %w", removed)
	}
	took := time.Since(began)
	if s.json {
		if err := c.printJSON(checked{broken == nil, texts(broken), took.Seconds()}); err != nil {
			return errors.Join(broken, removed, err)
		}
	} else if broken == nil {
		fmt.Fprintf(c.stdout, "%s keeps the contract (%.1f s)\n", display(rawURL), took.Seconds())
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

// openScratch opens a store at the server of a URL, in a place of its own. remove removes that; the store is still
// to be closed.
func openScratch(ctx context.Context, rawURL string) (store session.Store, remove func() error, err error) {
	name := "session_check_" + strings.ToLower(rand.Text()[:12])
	remove = func() error { return nil }
	scheme, path, local := localPath(rawURL)
	switch {
	case local && path != "":
		path = filepath.Clean(path) + "." + name
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil, nil, err
		}
		remove = func() error { return os.RemoveAll(path) }
		rawURL = scheme + ":" + (&url.URL{Path: path}).EscapedPath()
	case slices.Contains([]string{"mysql", "mariadb", "postgres", "postgresql"}, scheme):
		rawURL = replaceTable(rawURL, name)
	case slices.Contains([]string{"mongodb", "mongodb+srv"}, scheme):
		rawURL, _ = setParameter(rawURL, "collection", name)
	case slices.Contains([]string{"redis", "rediss", "valkey", "valkeys", "memcached"}, scheme):
		rawURL, _ = setParameter(rawURL, "prefix", name+":")
	}
	// An interruption must not come between the table and the store that knows how to drop it.
	store, err = open(context.WithoutCancel(ctx), rawURL)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	if d, ok := store.(interface{ Drop(context.Context) error }); ok {
		remove = func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
			defer cancel()
			return d.Drop(ctx)
		}
	}
	return store, remove, nil
}

// replaceTable sets the parameter table of a URL, within the schema or database that it names.
func replaceTable(rawURL, name string) string {
	replaced, before := setParameter(rawURL, "table", name)
	if schema, _, ok := strings.Cut(before, "."); ok {
		replaced, _ = setParameter(rawURL, "table", schema+"."+name)
	}
	return replaced
}

// setParameter sets a parameter of a URL, and returns the value that it had. It takes the URL for no more than text:
// what it holds may not be escaped as it should be, and is the store's to judge.
func setParameter(rawURL, name, value string) (replaced, before string) {
	base, query := rawURL, ""
	if i := strings.LastIndexByte(rawURL, '?'); i >= 0 {
		base, query = rawURL[:i], rawURL[i+1:]
	}
	var pairs []string
	for _, pair := range strings.Split(query, "&") {
		if had, ok := strings.CutPrefix(pair, name+"="); ok {
			before = had
		} else if pair != "" {
			pairs = append(pairs, pair)
		}
	}
	return base + "?" + strings.Join(append(pairs, name+"="+value), "&"), before
}
