package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A sqlTable is the table of a store in an SQL database. What is true of it, its columns and indexes, is one
// line of lower-case text each: "id bytea not null", "primary key (id)", "index (expires)".
type sqlTable struct {
	server string // for error texts: "mysql"
	name   string
	lines  []string // what has to be true, and nothing else, but for more indexes that are not unique

	inspect func(ctx context.Context) ([]string, error)
	create  func(ctx context.Context, exists bool) error
	raced   func(err error) bool // another process has just created the same
}

// ensure returns nil once the table is what it has to be. Unless noCreate is true it creates what is missing;
// several processes may do so at the same time.
func (t *sqlTable) ensure(ctx context.Context, noCreate bool) error {
	for try := 1; ; try++ {
		found, err := t.inspect(ctx)
		if err != nil {
			return sqlError(ctx, t.server, "look at the table "+t.name, err)
		}
		missing, surplus := t.compare(found)
		switch {
		case len(missing)+len(surplus) == 0:
			return nil
		case len(found) > 0 && !onlyIndexes(missing, surplus):
			return fmt.Errorf("session: %s: the table %s is of another shape: it lacks %s and has %s",
				t.server, t.name, quoteLines(missing), quoteLines(surplus))
		case noCreate || try == sqlTries:
			return fmt.Errorf("session: %s: the table %s is not there, or hidden from this account, or it lacks %s",
				t.server, t.name, quoteLines(missing))
		}
		if err := t.create(ctx, len(found) > 0); err != nil && !t.raced(err) {
			return sqlError(ctx, t.server, "create the table "+t.name+" or its index", err)
		}
	}
}

// compare returns the lines that should be true and are not, and the lines that are true and should not be.
func (t *sqlTable) compare(found []string) (missing, surplus []string) {
	for _, line := range t.lines {
		// an index that goes on after the columns in question serves as well
		prefix := strings.TrimSuffix(line, ")")
		if !slices.ContainsFunc(found, func(f string) bool {
			return f == line || isIndex(line) && strings.HasPrefix(f, prefix+", ")
		}) {
			missing = append(missing, line)
		}
	}
	for _, line := range found {
		if !slices.Contains(t.lines, line) && !isIndex(line) {
			surplus = append(surplus, line)
		}
	}
	return missing, surplus
}

func isIndex(line string) bool { return strings.HasPrefix(line, "index (") }

// onlyIndexes reports whether nothing is missing but indexes, which can be created later.
func onlyIndexes(missing, surplus []string) bool {
	return len(surplus) == 0 && !slices.ContainsFunc(missing, func(line string) bool { return !isIndex(line) })
}

func quoteLines(lines []string) string {
	if len(lines) == 0 {
		return "nothing"
	}
	return `"` + strings.Join(lines, `", "`) + `"`
}

// sqlTries is how often a statement is run that the server rolls back through no fault of its own. Serializable
// transactions that insert into the same page of an index need several, and deadlocks two.
const sqlTries = 10

// sqlConns is how many connections a store has that Open returned, unless its URL says otherwise.
func sqlConns() int { return max(8, 4*runtime.GOMAXPROCS(0)) }

// retrySQL calls run until it succeeds, or fails with an error after which it is of no use to call it again:
// neither has the server rolled the statement back, nor was it sent on a connection that had ended, perhaps long
// ago, and perhaps as one of many. In the latter case it may have taken effect: run again, a save that did is a
// conflict.
func retrySQL(ctx context.Context, rolledBack, broken func(error) bool, run func() error) error {
	for try, lost := 1, 0; ; {
		err := run()
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case broken(err) && lost < sqlConns():
			lost++
			continue
		case try == sqlTries || !rolledBack(err):
			return err
		}
		select {
		case <-time.After(rand.N(time.Duration(try) * time.Millisecond)): // who collided does not do so again
			try++
		case <-ctx.Done():
			return err
		}
	}
}

// sqlError says where err came from, and makes errors.Is find ctx's error in it if ctx is done.
func sqlError(ctx context.Context, server, doing string, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("session: %s: %s: %w (%v)", server, doing, cause, err)
	}
	return fmt.Errorf("session: %s: %s: %w", server, doing, err)
}

// sqlRecord returns the record of a row, if it is live. It says so if no store has written the row.
func sqlRecord(server string, id ID, version, expires int64, data []byte) (Record, error) {
	if hasExpired(expires) {
		return Record{}, ErrNotFound
	}
	if version < 1 {
		return Record{}, fmt.Errorf("session: %s: damaged row %s: its version is %d: %w", server, id, version, ErrNotFound)
	}
	return Record{Version: uint64(version), Expires: expiryTime(expires), Data: data}, nil
}

// maxSQLVersion is the greatest version that fits a signed BIGINT.
const maxSQLVersion = 1<<63 - 1

// sqlPage is how many records one step of a List reads: what a server answers within a moment, and what may be
// in memory at once.
const sqlPage = 256

// listSQL goes through the records by page, which returns the first sqlPage of them with IDs from from on.
func listSQL(page func(from ID) ([]Entry, error)) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for from, more := (ID{}), true; more; {
			entries, err := page(from)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if len(entries) < sqlPage {
				return
			}
			from, more = nextID(entries[len(entries)-1].ID)
		}
	}
}

// nextID returns the ID that follows id in the order of bytes, or false if id is the last.
func nextID(id ID) (next ID, ok bool) {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			return id, true
		}
	}
	return ID{}, false
}

// splitTable returns the parts of a table's name, the schema's empty if there is none.
func splitTable(server, name string) (schema, table string, err error) {
	if name == "" {
		name = "sessions"
	}
	table = name
	if first, second, found := strings.Cut(name, "."); found {
		schema, table = first, second
	}
	if !validName(table, 50) || schema == "" && strings.Contains(name, ".") || schema != "" && !validName(schema, 63) {
		return "", "", fmt.Errorf("session: %s: a table's name is a letter or underscore and up to 49 more letters, "+
			"digits and underscores, with a schema's or database's name and a dot before it or not; it cannot be %q",
			server, name)
	}
	return schema, table, nil
}

func validName(s string, longest int) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || '9' < c) {
			return false
		}
	}
	return s != "" && len(s) <= longest
}

// cutParam removes a parameter from the query of a URL, and returns the others as they were.
func cutParam(query, name string) (value, rest string) {
	var others []string
	for _, pair := range strings.Split(query, "&") {
		if v, found := strings.CutPrefix(pair, name+"="); found {
			value = v
			if plain, err := url.QueryUnescape(v); err == nil {
				value = plain
			}
		} else if pair != "" {
			others = append(others, pair)
		}
	}
	return value, strings.Join(others, "&")
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
