package console

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A console is where the command prints and asks.
type console struct {
	stdin          *os.File
	stdout, stderr *os.File
	schemes        []Scheme // beside those of session.Open
}

// printJSON prints v for programs.
func (c *console) printJSON(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// note tells people, not programs, what is good to know.
func (c *console) note(format string, args ...any) { fmt.Fprintf(c.stderr, format+"\n", args...) }

// confirm asks before something that cannot be undone. Where nobody can be asked, it takes --yes.
func (c *console) confirm(s *settings, question string) error {
	if s.yes {
		return nil
	}
	if !isTerminal(c.stdin) || !isTerminal(c.stderr) {
		return usage("%s There is no terminal to answer on; --yes stands for yes", question)
	}
	fmt.Fprintf(c.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(c.stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("nothing was done")
}

// progress shows how far something has come, if there is somebody at a terminal to see it. A total of -1 is unknown.
func (c *console) progress(doing string, total int) *progressbar.ProgressBar {
	return progressbar.NewOptions(total,
		progressbar.OptionSetDescription(doing),
		progressbar.OptionSetWriter(c.stderr),
		progressbar.OptionSetVisibility(isTerminal(c.stderr)),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(20),
		progressbar.OptionClearOnFinish(),
	)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// quoted returns what a client or the application put into a session as it can be shown: with all that a terminal
// could take for a command escaped.
func quoted(s string) string { return strconv.QuoteToGraphic(s) }

// escaped is quoted without the quotes, for text that has its own.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToGraphic(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// plain is quoted without the quotes where they are of no use, and "-" for nothing.
func plain(s string) string {
	q := quoted(s)
	switch {
	case s == "":
		return "-"
	case q[1:len(q)-1] == s && s != "-":
		return s
	}
	return q
}

// count returns a number with what it is of.
func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return strconv.Itoa(n) + " " + of
}

// shortTime returns a time as lists show it.
func shortTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// jsonTime returns a time as JSON has it, in UTC and to the millisecond; the zero time stays zero.
func jsonTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}

// display returns what can be shown of a store's URL: scheme, hosts, path, and the parameter that names the place
// in it. Of a URL that is not as it should be, that is the scheme alone, or not even that, since a password may be
// anywhere.
func (c *console) display(rawURL string) string {
	scheme, rest, _ := strings.Cut(rawURL, ":")
	scheme = strings.ToLower(scheme)
	switch _, known := kindOf(scheme); {
	case c.isOwn(scheme):
		return scheme + ":"
	case !known:
		return "the store"
	}
	base, query, _ := strings.Cut(rest, "?")
	at := strings.LastIndexByte(base, '@')
	if at >= 0 {
		if strings.ContainsAny(strings.TrimPrefix(base[:at], "//"), "/@#?") {
			return scheme + ":"
		}
		base = "//" + base[at+1:]
	}
	if strings.ContainsAny(base+query, "@#") {
		return scheme + ":"
	}
	authority, _, _ := strings.Cut(strings.TrimPrefix(base, "//"), "/")
	for addr := range strings.SplitSeq(authority, ",") {
		// Without an "@", MySQL has user:password there, and with others somebody may have meant it.
		colon := strings.LastIndexByte(addr, ':')
		number := strings.Trim(addr[colon+1:], "0123456789") == "" && (at >= 0 || scheme != "mysql" && scheme != "mariadb")
		if colon >= 0 && !number && !strings.HasSuffix(addr, "]") {
			return scheme + ":"
		}
	}
	for _, pair := range strings.Split(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name == "table" || name == "collection" || name == "prefix" {
			base += "?" + name + "=" + value
		}
	}
	if _, err := url.PathUnescape(base); err != nil || plain(base) != base {
		return scheme + ":"
	}
	return scheme + ":" + base
}
