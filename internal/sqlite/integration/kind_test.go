// Package integration has the tests of internal/integration once more, by links, with SQLite in the place of the other
// stores: the module of those has no driver. Files that are new there are linked by go generate.
package integration_test

import (
	"context"
	"net/url"

	"example.com/session"
	"example.com/session/internal/sqlite"
	"example.com/session/internal/storetest"

	_ "modernc.org/sqlite"
)

//go:generate sh -c "ln -sf ../../integration/*_test.go ."

var driver = sqlite.Driver{Name: "sqlite", Pragma: sqlite.Call}

func init() {
	var kinds []storetest.Kind
	for _, k := range []struct{ name, scheme, journal string }{
		{"sqlite", "sqlite", "WAL"}, {"sqlite without WAL", "sqlite-delete", "DELETE"},
	} {
		err := session.RegisterScheme(k.scheme, func(ctx context.Context, rawURL string) (session.StoreCloser, error) {
			u, err := url.Parse(rawURL)
			if err != nil {
				return nil, err
			}
			return driver.OpenStore(ctx, u.Path, "journal_mode="+k.journal, "synchronous=FULL")
		})
		if err != nil {
			panic(err)
		}
		open := func(ctx context.Context, dir string) (session.StoreCloser, error) {
			return driver.OpenStore(ctx, dir, "journal_mode="+k.journal, "synchronous=OFF")
		}
		kinds = append(kinds, storetest.NewKind(k.name, k.scheme, storetest.Processes, open))
	}
	storetest.Use(kinds...)
}
