package session

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A sqlTable is the table of a store in an SQL database. Each fact about it, its columns and indexes, is one
// line of lower-case text: "id bytea not null", "primary key (id)", "index (expires)".
type sqlTable struct {
	calls *sqlCaller
	name  string
	lines []string // what has to be true, and nothing else, but for more indexes that are not unique

	inspect func(ctx context.Context) ([]string, error)
	create  func(ctx context.Context, exists bool) error
}

// ensure returns nil once the table is what it has to be. Unless noCreate is true it creates what is missing;
// several processes may do so at the same time, and be refused because another was first: so it looks again.
func (t *sqlTable) ensure(ctx context.Context, noCreate bool) error {
	var failed error // to create it
	for try := 1; ; try++ {
		found, err := t.inspect(ctx)
		if err != nil {
			return cmp.Or(failed, t.calls.error(ctx, "look at the table "+t.name, err))
		}
		missing, surplus := t.compare(found)
		switch {
		case len(missing)+len(surplus) == 0:
			return nil
		case len(found) > 0 && !onlyIndexes(missing, surplus):
			return fmt.Errorf("session: %s: the table %s is of another shape: it lacks %s and has %s",
				t.calls.server, t.name, quoteLines(missing), quoteLines(surplus))
		case failed != nil:
			return failed
		case noCreate || try == sqlTries:
			return fmt.Errorf("session: %s: the table %s is not there, or hidden from this account, or it lacks %s (%s has "+
				"what makes it)", t.calls.server, t.name, quoteLines(missing), t.calls.schema)
		}
		if err := t.create(ctx, len(found) > 0); err != nil {
			failed = t.createError(ctx, len(found) > 0, err)
		}
	}
}

// createError says what to do where the account may not create what is missing.
func (t *sqlTable) createError(ctx context.Context, exists bool, err error) error {
	switch forbidden := t.calls.fault(err) == sqlForbidden; {
	case forbidden && exists:
		return fmt.Errorf("session: %s: create an index of the table %s: have an account that may do so create one on the "+
			"column expires: %w", t.calls.server, t.name, err)
	case forbidden:
		return fmt.Errorf("session: %s: create the table %s: have an account that may do so run what %s returns, and grant "+
			"this one SELECT, INSERT, UPDATE and DELETE on it: %w", t.calls.server, t.name, t.calls.schema, err)
	}
	return t.calls.error(ctx, "create the table "+t.name+" or its index", err)
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

// sqlConns is how many connections a store has that Open returned, unless its URL says otherwise: few enough for a dozen
// processes and what else there is to share the hundred that PostgreSQL allows by default, or the 151 of MySQL.
const sqlConns = 8

// The times that connections of Open's last: while not in use, less than Options.StoreTimeout, so that a process that has
// none gets one in time; and altogether, so that proxies and servers do not end them first.
const (
	sqlIdleTime = 3 * time.Second
	sqlLifetime = 5 * time.Minute
)

// A sqlFault is what a server's error means for the call that got it.
type sqlFault int

const (
	sqlLasting    sqlFault = iota // the same call would fail again
	sqlCollided                   // the server has rolled it back because of another one at the same time
	sqlBroken                     // the connection had ended
	sqlUnreached                  // no connection could be made
	sqlFull                       // the server takes no connection more just now
	sqlBusy                       // somebody else keeps the database locked just now
	sqlReadOnly                   // the server takes no writes; another one may have taken its place
	sqlUnprepared                 // the server refuses to prepare a statement, or has forgotten it
	sqlForbidden                  // the account may not do that
	sqlMissing                    // there is no table any more
)

// errSQLReadOnly is returned by a statement that only reads, and has met a server that takes no writes.
var errSQLReadOnly = errors.New("the server may be out of date")

// exceptReadOnly returns err, but for errSQLReadOnly after which call did not go on: then there is no better server.
func exceptReadOnly(err error) error {
	if errors.Is(err, errSQLReadOnly) {
		return nil
	}
	return err
}

// A sqlCaller makes calls to a server, again where that helps.
type sqlCaller struct {
	server string // for error texts: "mysql"
	table  string // the same
	schema string // what makes the table: "session.MySQLSchema"
	fault  func(error) sqlFault
	advice func(error) string // what to do about an error; nil: what to do about a server's
	conns  int                // as many connections may have ended at once
	// renew makes every call from now on get a connection that is made from now on. It is nil where the
	// connections are the application's.
	renew func()

	renewing     sync.Mutex
	renewals     atomic.Uint64
	settledUntil atomic.Int64 // until then, in Unix nanoseconds, new connections lead to a server that is read-only, too
	plainUntil   atomic.Int64 // until then, statements are not prepared
}

const (
	// sqlTries is how often a statement is run that the server rolls back through no fault of its own. Serializable
	// transactions that insert into the same page of an index need several, and deadlocks two.
	sqlTries = 10
	// sqlPatience is how long a call without a deadline waits for room on the server.
	sqlPatience = 5 * time.Second
	// sqlSettled is how long reads are content with a server that is read-only, once new connections have led to one.
	sqlSettled = time.Second
	// sqlPlain is how long statements are not prepared after the server refused one.
	sqlPlain = time.Minute
)

// sqlTried is what call has done so far.
type sqlTried struct {
	began                                        time.Time
	lost, dialed, collided, waited, wrong, plain int
	renewals                                     uint64 // of the caller, when the last run began
	before                                       error  // of the last run but this one
}

// call calls run until it succeeds, or fails with an error after which it is of no use to call it again. If the
// connection had ended, or led to a server that has become read-only, run may have taken effect: again, a save that
// did is a conflict. prepared is false where statements are better not prepared.
func (c *sqlCaller) call(ctx context.Context, run func(prepared bool) error) error {
	var tried sqlTried
	for {
		tried.renewals = c.renewals.Load()
		until := c.plainUntil.Load()
		err := run(until == 0 || time.Now().UnixNano() >= until)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return tried.explain(err)
		case !c.again(ctx, &tried, err):
			return err
		}
		tried.before = err
	}
}

// explain adds the error before to that of a run that ctx has ended, which tells nothing but that.
func (t *sqlTried) explain(err error) error {
	if t.before == nil || errors.Is(t.before, errSQLReadOnly) { // that would be taken for an answer
		return err
	}
	return fmt.Errorf("%w, after %w", err, t.before)
}

// again reports whether to run once more, when the time for it has come.
func (c *sqlCaller) again(ctx context.Context, tried *sqlTried, err error) bool {
	switch c.fault(err) {
	case sqlBroken:
		tried.lost++
		return tried.lost <= c.conns
	case sqlUnreached:
		// Once more: package sql makes connections for callers that wait for one, one after the other, and gives the
		// error to whoever waits by then. It may be that of a connection begun when the server was not there yet.
		tried.dialed++
		return tried.dialed == 1
	case sqlCollided:
		tried.collided++
		return tried.collided < sqlTries && sqlPause(ctx, time.Duration(tried.collided)*time.Millisecond)
	case sqlFull:
		return tried.wait(ctx, 10*time.Millisecond, 250*time.Millisecond)
	case sqlBusy:
		return tried.wait(ctx, time.Millisecond, 16*time.Millisecond)
	case sqlReadOnly:
		return c.moveOn(tried)
	case sqlUnprepared:
		c.plainUntil.Store(time.Now().Add(sqlPlain).UnixNano())
		tried.plain++
		return tried.plain == 1
	}
	return false
}

// wait pauses, for longer each time, and reports false when it has done so for long enough.
func (t *sqlTried) wait(ctx context.Context, first, longest time.Duration) bool {
	if t.waited++; t.waited == 1 {
		t.began = time.Now()
	}
	if _, bounded := ctx.Deadline(); !bounded && time.Since(t.began) >= sqlPatience {
		return false
	}
	return sqlPause(ctx, min(first<<min(t.waited-1, 10), longest))
}

// moveOn leaves the connections to a server that takes no writes, unless those that took their place lead to such a
// server, too. Twice, since a connection may have been under way when the first were left.
func (c *sqlCaller) moveOn(tried *sqlTried) bool {
	now := time.Now()
	if c.renew == nil || now.UnixNano() < c.settledUntil.Load() {
		return false
	}
	if tried.wrong++; tried.wrong > 2 {
		c.settledUntil.Store(now.Add(sqlSettled).UnixNano())
		return false
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	if c.renewals.Load() == tried.renewals { // else another call did so meanwhile
		c.renew()
		c.renewals.Add(1)
	}
	return true
}

// sqlPause waits for about d, so that those who collided do not do so again. It returns false if ctx is done before.
func sqlPause(ctx context.Context, d time.Duration) bool {
	return sleep(ctx, d/2+rand.N(d))
}

// error says where err came from and what to do, and makes errors.Is find ctx's error in it if ctx is done.
func (c *sqlCaller) error(ctx context.Context, doing string, err error) error {
	if remedy := c.remedy(err); remedy != "" {
		doing += ": " + remedy
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("session: %s: %s: %w (%v)", c.server, doing, cause, err)
	}
	return fmt.Errorf("session: %s: %s: %w", c.server, doing, err)
}

func (c *sqlCaller) remedy(err error) string {
	if c.advice != nil {
		return c.advice(err)
	}
	switch c.fault(err) {
	case sqlUnreached:
		return "the server cannot be reached (does it run, and are host and port right?)"
	case sqlFull:
		return "the server takes no connection more just now (have all processes larger pools than its limit allows for?)"
	case sqlReadOnly:
		if c.renew == nil {
			return "the server is read-only; if another has taken its place, the application's connections to this one " +
				"have to be closed"
		}
		return "the server is read-only, and new connections lead to no other"
	case sqlForbidden:
		return "the account needs SELECT, INSERT, UPDATE and DELETE on the table " + c.table
	case sqlMissing:
		return "the table " + c.table + " is not there any more (" + c.schema + " has what makes it)"
	}
	return ""
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

// scanEntries returns the rows of id, version, expires and data, with columns before these, and closes them.
func scanEntries(rows *sql.Rows, before ...any) (entries []Entry, err error) {
	defer rows.Close()
	for rows.Next() {
		var e Entry
		var id sql.RawBytes
		var expires int64
		if err := rows.Scan(append(before, &id, &e.Record.Version, &expires, &e.Record.Data)...); err != nil {
			return nil, err
		}
		copy(e.ID[:], id)
		e.Record.Expires = expiryTime(expires)
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

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

// cutCreate removes the parameter create from the query of a URL: whether what is missing may be created.
func cutCreate(server, query string) (noCreate bool, rest string, err error) {
	create, rest := cutParam(query, "create")
	switch create {
	case "", "true", "false":
		return create == "false", rest, nil
	}
	return false, "", fmt.Errorf("session: create in the %s: URL is true or false, not %q", server, create)
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
