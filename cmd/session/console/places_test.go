package console

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/session"
	"github.com/rivo/uniseg"
)

// Commands that only read make nothing of a place that is not there, and say that it is not.
func TestNothingIsMade(t *testing.T) {
	const anID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	eachBackend(t, func(t *testing.T, b backend) {
		rawURL := strings.Replace(b.newURL(t), "=", "=session_check_", 1) // a name that scratches finds
		before := scratches(t, rawURL)
		if b.name == "dir" || b.name == "file" {
			rawURL += "-session_check_"
		}
		there := b.name == "redis" || b.name == "memcached" // with any name, and empty
		for _, args := range [][]string{
			{"list"}, {"list", "--json"}, {"list", "--user", "ann"}, {"list", "--user", "ann", "--json"}, {"show", anID},
			{"show", anID[:8], "--json"}, {"show", "--user", "ann"}, {"stats"}, {"stats", "--json"}, {"sweep"}, {"end", anID},
			{"end", "--user", "ann"}, {"end", "--all", "--yes"}, {"copy", rawURL, "dir://" + t.TempDir() + "/to"},
			{"check", "--in-place"},
		} {
			if args[0] == "check" && (there || b.name == "mongodb") { // where the first write makes the place
				continue
			}
			r := run(t, append([]string{"SESSION_STORE=" + rawURL}, args...)...)
			switch {
			case b.name != "mongodb" && !there && (r.code != exitFailed || r.stdout != "" || r.stderr == ""):
				t.Errorf("session %q exits with %d: %s%s", args, r.code, r.stdout, r.stderr)
			case r.code == exitAway || r.code == exitUsage && b.name != "memcached":
				t.Errorf("session %q exits with %d: %s%s", args, r.code, r.stdout, r.stderr)
			}
			if after := scratches(t, rawURL); len(after) > len(before) {
				t.Fatalf("session %q has made %q", args, after)
			}
		}
	})
	// Nor is an empty file made a store.
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "list", "--store", "file://"+empty); r.code != exitFailed || !strings.Contains(r.stderr, "there is no store") {
		t.Errorf("an empty file: %+v", r)
	}
	if info, err := os.Stat(empty); err != nil || info.Size() != 0 {
		t.Errorf("the empty file: %v, %v", info, err)
	}
}

// Nor does one who only reads leave anything in a place that is there.
func TestReadingLeavesNothing(t *testing.T) {
	for _, b := range []backend{dirBackend, fileBackend} {
		rawURL := b.newURL(t)
		store := openTest(t, rawURL)
		p := populate(t, store, session.Options{})
		store.Close()
		_, path, _ := localPath(rawURL)
		before := files(t, filepath.Dir(path))
		for _, args := range [][]string{{"list"}, {"list", "--user", "ann"}, {"show", shortID(p.anns)}, {"show", "--user", "ann"}, {"stats"}} {
			runOK(t, append(args, "--store", rawURL)...)
		}
		if after := files(t, filepath.Dir(path)); !slices.Equal(after, before) {
			t.Errorf("%s: there were %q, and are %q", b.name, before, after)
		}
	}
}

// files returns the names of all files in a directory and below.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A store is not copied onto itself, by whatever names it goes.
func TestCopyOntoItself(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	dir, file := dirBackend.newURL(t), fileBackend.newURL(t)
	openTest(t, dir).Close()
	openTest(t, file).Close()
	if err := os.Symlink(strings.TrimPrefix(dir, "dir://"), link); err != nil {
		t.Fatal(err)
	}
	pairs := [][2]string{{dir, dir}, {dir, "dir://" + link}, {file, file}, {file, strings.Replace(file, "//", "//localhost", 1)}}
	for _, b := range []backend{redisBackend, mysqlBackend, postgresBackend, mongoBackend} {
		rawURL := b.newURL(t)
		populate(t, openTest(t, rawURL), session.Options{})
		pairs = append(pairs, [2]string{rawURL, rawURL}, [2]string{rawURL, strings.Replace(rawURL, "127.0.0.1", "localhost", 1)})
	}
	for _, pair := range pairs {
		for _, args := range [][]string{{"copy", pair[0], pair[1]}, {"copy", "--final", "--yes", pair[1], pair[0]}} {
			if r := run(t, args...); r.code != exitUsage || r.stdout != "" || !strings.Contains(r.stderr, "the same store") {
				t.Errorf("session %q: %+v", args, r)
			}
		}
		if records := countRecords(t, pair[0]); records != 0 && records != 6 {
			t.Errorf("%s has %d records", pair[0], records)
		}
	}
}

func countRecords(t *testing.T, rawURL string) int {
	t.Helper()
	store := openTest(t, rawURL)
	defer store.Close()
	n := 0
	for _, err := range session.List(t.Context(), store) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// What begins several IDs, or none, is told, and nothing is done then.
func TestBeginningsOfIDs(t *testing.T) {
	rawURL := redisBackend.newURL(t)
	store := openTest(t, rawURL)
	for _, id := range []session.ID{{0xab, 0xcd, 0x01}, {0xab, 0xcd, 0x02}, {0x12}} {
		if err := store.Save(t.Context(), id, session.Record{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		beginning string
		code      int
	}{
		{"abcd01", exitOK}, {"ABCD02", exitOK}, {"1200", exitOK}, {"abcd0", exitUsage}, {"abcd", exitUsage},
		{"abc", exitUsage}, {"", exitUsage}, {"abcdx", exitUsage}, {strings.Repeat("a", 65), exitUsage},
		{"dcba", exitNone}, {strings.Repeat("a", 64), exitNone},
	} {
		r := run(t, "show", test.beginning, "--store", rawURL)
		if r.code != test.code || r.code == exitOK && !strings.Contains(r.stdout, strings.ToLower(test.beginning)) {
			t.Errorf("show %q: %+v", test.beginning, r)
		}
	}
	p := populate(t, store, session.Options{})
	for _, other := range []string{"abcd", "dcba"} {
		if r := run(t, "end", p.anns.String(), other, "--store", rawURL); r.code == exitOK || !alive(t, p.m, p.ann) {
			t.Errorf("end of one and %q: %+v", other, r)
		}
	}
	if r := run(t, "end", shortID(p.anns), shortID(p.bobs), "--store", rawURL); r.code != exitOK || alive(t, p.m, p.ann) || alive(t, p.m, p.bob) {
		t.Errorf("end of two: %+v", r)
	}
}

// Tables fit a terminal, whatever clients send.
func TestTablesFit(t *testing.T) {
	rawURL := redisBackend.newURL(t)
	m := newApp(t, openTest(t, rawURL), session.Options{IdleTimeout: session.Never, AbsoluteTimeout: session.Never})
	for _, user := range []string{"ann", strings.Repeat("long", 20), "日本語の名前はここでは幅が広い", "a\x1b[2Jb", strings.Repeat("e\u0301", 40)} {
		_, id := visitFrom(t, m, nil, "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:1", strings.Repeat("Browser ", 30), func(s *session.Session) {
			s.SetUser(user)
			s.Set("k", "v")
		})
		if list := runOK(t, "list", "--store", rawURL); !strings.Contains(list, shortID(id)) {
			t.Errorf("the list lacks %v:\n%s", id, list)
		}
	}
	for _, args := range [][]string{{"list"}, {"list", "--user", "ann"}, {"stats"}} {
		for line := range strings.Lines(runOK(t, append(args, "--store", rawURL)...)) {
			if line = strings.TrimSuffix(line, "\n"); uniseg.StringWidth(line) > 100 {
				t.Errorf("session %q prints a line of %d columns: %s", args, uniseg.StringWidth(line), line)
			}
		}
	}
}

// The help, what commands print, and the documents name the kinds of stores and records that the library has.
func TestKinds(t *testing.T) {
	_, err := session.Open(context.Background(), "no-such-scheme:")
	_, list, found := strings.Cut(err.Error(), "known are ")
	list, _, ok := strings.Cut(list, ": and the empty string")
	if !found || !ok {
		t.Fatalf("session.Open does not tell what it knows: %v", err)
	}
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	help := runOK(t, "--help")
	schemes := strings.Split(list, ":, ")
	for _, scheme := range schemes {
		if _, known := kindOf(scheme); !known && scheme != "memory" {
			t.Errorf("the command does not know %s:", scheme)
		}
		if !strings.Contains(help, scheme+":") {
			t.Errorf("the help does not name %s:", scheme)
		}
		if !strings.Contains(string(readme), scheme+":") {
			t.Errorf("the README does not name %s:", scheme)
		}
	}
	for _, k := range kindsOfStores {
		for _, scheme := range k.schemes {
			if !slices.Contains(schemes, scheme) {
				t.Errorf("session.Open does not know %s:", scheme)
			}
		}
	}
	for kind := range kinds {
		for _, command := range []string{"show", "stats"} {
			if text := runOK(t, command, "--help"); !strings.Contains(text, string(kind)) {
				t.Errorf("the help of %s does not name %s", command, kind)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	if out := runOK(t, "--version"); !strings.HasPrefix(out, "session ") || !strings.Contains(out, "library") || strings.Count(out, "\n") != 1 {
		t.Errorf("--version prints %q", out)
	}
}
