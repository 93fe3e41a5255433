package sessiontest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/session"
)

// A call is one to the store.
type call struct {
	op     string
	handle int
	id     session.ID
	rec    session.Record // that was given to Save or Touch
	number int            // the limit of DeleteExpired, the index of Count

	got    session.Record // by Load
	result int            // of DeleteExpired and Count, and how many entries List has yielded
	err    error
}

// story tells the calls that led to a failure: those of the same record, if it is one record that is wrong.
func (g *guard) story(id session.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var shown []call
	for _, c := range g.calls {
		if id == (session.ID{}) || c.id == id || c.id == (session.ID{}) {
			shown = append(shown, c)
		}
	}
	if len(shown) == 0 {
		return ""
	}
	omitted := len(g.calls) + g.dropped
	shown = shown[max(0, len(shown)-tapeShown):]
	omitted -= len(shown)
	var b strings.Builder
	b.WriteString("\n\tthe calls that led there")
	if omitted > 0 {
		fmt.Fprintf(&b, " (%d others not shown)", omitted)
	}
	b.WriteString(":")
	for _, c := range shown {
		b.WriteString("\n\t\t")
		if len(g.handles) > 1 {
			fmt.Fprintf(&b, "handle %d: ", c.handle+1)
		}
		b.WriteString(c.String())
	}
	return b.String()
}

func (c call) String() string {
	id := c.id.String()[:8] + "…"
	var what, got string
	switch c.op {
	case "Save", "Touch":
		what = fmt.Sprintf("%s %s %s", c.op, id, recordText(c.rec))
	case "Load":
		what = fmt.Sprintf("Load %s", id)
		got = recordText(c.got)
	case "Delete":
		what = fmt.Sprintf("Delete %s", id)
	case "DeleteExpired":
		what = fmt.Sprintf("DeleteExpired(%d)", c.number)
		got = fmt.Sprint(c.result)
	case "Count":
		what = "Count"
		got = fmt.Sprint(c.result)
	default:
		what = c.op
		got = fmt.Sprintf("%d entries", c.result)
	}
	switch {
	case c.err != nil:
		return what + " → " + outcome(c.err)
	case got != "":
		return what + " → " + got
	}
	return what + " → success"
}

func recordText(rec session.Record) string {
	expires := "never expires"
	if !rec.Expires.IsZero() {
		expires = "expires " + rec.Expires.UTC().Format("15:04:05.000")
		if d := time.Until(rec.Expires).Abs(); d > 24*time.Hour {
			expires = "expires " + rec.Expires.UTC().Format("2006-01-02")
		}
	}
	return fmt.Sprintf("version %d, %d bytes, %s", rec.Version, len(rec.Data), expires)
}

// hint names a likely cause of a failure, or is empty: what authors of stores get wrong most often.
func hint(err error) string {
	if err == nil {
		return ""
	}
	text := strings.ToLower(err.Error())
	for _, h := range []struct{ words, cause string }{
		{"duplicate|unique constraint|already exists|key exists", "the driver's error for a key that exists was returned as it is: make it session.ErrConflict"},
		{"serializ|deadlock|write conflict|transaction conflict|retry", "the driver's error for two transactions that meet was returned as it is: " +
			"try again, and return session.ErrConflict if the version has changed"},
		{"no rows|no documents|key not found|cache miss|nil returned|no such key", "the driver's error for what is not there was returned as it is: make it session.ErrNotFound (Load, Touch), " +
			"session.ErrConflict (Save), or nil (Delete)"},
		{"too large|too big|too long|exceed|max_allowed|maximum", "the driver's error for a size limit was returned as it is: make it session.ErrTooLarge"},
		{"timeout|timed out|canceled|cancelled|interrupt|deadline", "the driver reports the end of a context by an error of its own: if ctx.Err() != nil, return " +
			`fmt.Errorf("%w: %w", ctx.Err(), err)`},
		{"closed|bad connection", "a connection, cursor or transaction was used after its end"},
	} {
		for word := range strings.SplitSeq(h.words, "|") {
			if strings.Contains(text, word) {
				return h.cause
			}
		}
	}
	return ""
}

// hintTime names a likely cause of an expiry that is wrong.
func hintTime(got, want time.Time) string {
	switch d := got.Sub(want); {
	case want.IsZero():
		return "never was stored as 0, or left out, and read back as a time: the zero time needs a value of its own"
	case got.IsZero():
		return "a time was taken for never: 0 in the store must mean one of both, and the Unix epoch is a time"
	case got.Equal(want.Truncate(time.Second)):
		return "the expiry is kept in whole seconds: keep milliseconds"
	case d%(15*time.Minute) == 0 && d.Abs() <= 14*time.Hour:
		return "the time zone got lost: store Expires.UnixMilli(), or UTC"
	case got.After(want) && d < time.Millisecond:
		return "the expiry was rounded up: cut off what is finer than a millisecond"
	}
	return ""
}

// hintData names a likely cause of data that are wrong.
func hintData(got, want []byte) string {
	switch {
	case len(got) == 65535, len(got) > 0 && len(got) < len(want) && len(got)&(len(got)+1) == 0:
		return "the column or the field is too short, and the server cuts silently: a BLOB of MySQL holds 64 KiB, a LONGBLOB 4 GiB"
	case len(got) < len(want) && want[len(got)] == 0:
		return "the data went through a text that ends at a NUL byte: store bytes"
	case len(got) < len(want) && strings.TrimSpace(string(want)) == string(got):
		return "white space was cut off: store bytes, not text"
	case len(got) == len(want):
		return "the driver returned the buffer that it uses again, or the store kept the slice that it was given and wrote into it: copy"
	}
	return ""
}

// hintVersion names a likely cause of a version that is wrong.
func hintVersion(got, want uint64) string {
	for _, bits := range []int{8, 16, 31, 32} {
		if want>>bits != 0 && got == want&(1<<bits-1) {
			return fmt.Sprintf("the version is kept in %d bits: it has 64", bits)
		}
	}
	switch {
	case got+1 == want:
		return "the version counts from 0, or a save was lost: a first Save stores version 1"
	case got == want+1:
		return "something counted as a save that is none, such as Touch"
	}
	return ""
}

// supported reports whether an optional method is there.
func supported(err error) bool { return !errors.Is(err, errors.ErrUnsupported) }
