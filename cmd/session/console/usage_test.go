package console

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session"
	"github.com/redis/go-redis/v9"
)

// A mistake in how the command is called is exit code 2 and one hint; what was given is not repeated.
func TestUsage(t *testing.T) {
	const anID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	secretURL := "redis://:" + password + "@127.0.0.1:1/0"
	dirURL := dirBackend.newURL(t)
	openTest(t, dirURL) // which makes it
	store := "--store=" + dirURL
	for _, args := range [][]string{
		{},
		{"nonsense"},
		{"help", "nonsense"},
		{secretURL},
		{secretURL, "list"},
		{password},
		{"list"},
		{"list", secretURL},
		{"list", "--" + secretURL},
		{"list", "--" + password},
		{"list", "-x" + password},
		{"list", store, "--timeout", password},
		{"list", store, "--timeout"},
		{"list", store, "--timeout=-1s"},
		{"list", store, "--json=" + password},
		{"list", "--store", ""},
		{"list", "--store", "env:"},
		{"list", "--store", "env:SESSION_TEST_NOT_SET"},
		{"list", "--store", "memory:"},
		{"list", "--store", "MEMORY:"},
		{"list", "--store", "dir:"},
		{"list", "--store", "file:"},
		{"SESSION_STORE=", "list"},
		{"show", store},
		{"show", store, password},
		{"show", store, strings.Repeat(password, 10)[:64]},
		{"show", store, anID, anID},
		{"show", store, anID, "--user", "ann"},
		{"show", store, anID, "--label", "a=b"},
		{"list", store, "--label", password},
		{"list", store, "--label", "=" + password},
		{"list", store, "--label", password + "="},
		{"list", store, "--label", "a=b", "--user", "ann"},
		{"end", store, "--label", "a=b", "--all"},
		{"end", store, "--label", "a=b", "--user", "ann"},
		{"end", store, anID, "--label", "a=b"},
		{"end", store},
		{"end", store, password},
		{"end", store, anID, password},
		{"end", store, anID, "--all"},
		{"end", store, "--user", "ann", "--all"},
		{"end", store, "--all"}, // nobody to ask
		{"sweep", store, password},
		{"stats", store, password},
		{"check", store, password},
		{"new-secret", password},
		{"new-secret", "--store", "memory:"},
		{"copy"},
		{"copy", secretURL},
		{"copy", secretURL, secretURL, secretURL},
		{"copy", secretURL, ""},
		{"copy", secretURL, "env:SESSION_TEST_NOT_SET"},
		{"copy", dirURL, "memory:"},
		{"copy", "memory:", dirURL},
		{"copy", secretURL, secretURL, "--parallel", "0"},
		{"copy", secretURL, secretURL, "--rate=-1"},
		{"copy", secretURL, secretURL, "--rate=" + password},
	} {
		r := run(t, args...)
		if r.code != exitUsage || r.stdout != "" || r.stderr == "" {
			t.Errorf("session %q exits with %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
		if len(args) > 0 && strings.Count(r.stderr, "\n") > 2 {
			t.Errorf("session %q says too much:\n%s", args, r.stderr)
		}
	}
}

// What fails has an exit code that says whether to try again, and shows no password of the URL.
func TestFailures(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for rawURL, code := range map[string]int{
		"dir://" + missing:                exitFailed,
		"file://" + missing:               exitFailed,
		password:                          exitUsage,
		"user:" + password + "@localhost": exitUsage,
		"nonsense://user:" + password + "@localhost":                                      exitUsage,
		"dir://user:" + password + "@localhost/":                                          exitFailed,
		"redis://:" + password + "@127.0.0.1:1/0":                                         exitAway,
		"redis://" + password + "@127.0.0.1:1/0":                                          exitAway,
		"redis://no-such-host.invalid:1/0":                                                exitAway,
		"redis://:x/" + password + "@127.0.0.1:1/0":                                       exitFailed,
		"redis://:x#" + password + "@127.0.0.1:1/0":                                       exitFailed,
		"redis://127.0.0.1:1/0?master_name=x&password=" + password:                        exitAway,
		"mysql://root:" + password + "@127.0.0.1:1/test":                                  exitAway,
		"mysql://root:" + password + "@127.0.0.1:1":                                       exitFailed,
		"postgres://postgres:" + password + "@127.0.0.1:1/test":                           exitAway,
		"postgres://postgres:x/" + password + "@127.0.0.1:1/test":                         exitFailed,
		"postgres://postgres:x?" + password + "@127.0.0.1:1/test":                         exitAway,
		"postgres://127.0.0.1:1/test?password=" + password:                                exitAway,
		"mongodb://root:" + password + "@127.0.0.1:1/test?serverSelectionTimeoutMS=100":   exitAway,
		"mongodb://root:x/" + password + "@127.0.0.1:1/test?serverSelectionTimeoutMS=100": exitFailed,
		"memcached://127.0.0.1:1":                                                         exitAway,
		"memcached://" + password + "@127.0.0.1:1":                                        exitFailed,
	} {
		for _, args := range [][]string{
			{"list", "--store", rawURL},
			{"show", strings.Repeat("0", 64), "--store", rawURL},
			{"end", "--all", "--yes", "--store", rawURL},
			{"sweep", "--store", rawURL},
			{"stats", "--json", "--store", rawURL},
			{"copy", rawURL, "dir://" + t.TempDir() + "/to"},
			{"check", "--in-place", "--store", rawURL},
			{"check", "--store", rawURL},
		} {
			if args[0] == "check" && len(args) == 3 && strings.Contains(rawURL, missing) {
				continue // it is made
			}
			r := run(t, append([]string{"SESSION_STORE=" + rawURL}, args...)...)
			if r.code != code || r.stdout != "" || !strings.HasPrefix(r.stderr, "session "+args[0]+": ") {
				t.Errorf("session %q exits with %d, want %d:\n%s%s", args, r.code, code, r.stdout, r.stderr)
			}
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a command that only looks has made the store")
	}
	// A directory that is something else stays as it is.
	other := t.TempDir()
	for _, args := range [][]string{{"list"}, {"sweep"}, {"end", "--all", "--yes"}, {"check", "--in-place"}} {
		if r := run(t, append(args, "--store", "dir://"+other)...); r.code != exitFailed || !strings.Contains(r.stderr, "no store") {
			t.Errorf("session %q in a directory that is no store: %+v", args, r)
		}
	}
	if files, err := os.ReadDir(other); err != nil || len(files) > 0 {
		t.Errorf("left in a directory that is no store: %v, %v", files, err)
	}
	// A secret that is too short is not shown either.
	if r := run(t, "SESSION_SECRET="+password, "list", "--user", "ann", "--store", redisBackend.newURL(t)); r.code != exitFailed {
		t.Errorf("a secret that is too short: %+v", r)
	}
}

// Servers that ask for a password: with the right one everything works, with a wrong one nothing does, and no command
// shows either.
func TestPasswords(t *testing.T) {
	server := startRedis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addrs[0]})
	defer client.Close()
	if err := client.ConfigSet(t.Context(), "requirepass", password).Err(); err != nil {
		t.Fatal(err)
	}
	right := strings.Replace(server.URL, "redis://", "redis://:"+password+"@", 1)
	wrong := strings.Replace(server.URL, "redis://", "redis://:not-"+password+"@", 1)
	wrongMySQL := strings.Replace(mysqlBackend.newURL(t), "root@", "root:"+password+"@", 1)
	p := populate(t, openTest(t, right), session.Options{})
	empty := strings.Replace(right, "/0", "/1", 1)
	for _, args := range [][]string{
		{"list"},
		{"list", "--user", "ann"},
		{"list", "--user", "ann", "--json"},
		{"show", p.anns.String()},
		{"show", "--user", "ann"},
		{"stats"},
		{"sweep"},
		{"check"},
		{"copy", right, empty},
		{"copy", right, empty, "--final", "--json"},
		{"end", p.anns.String()},
		{"end", "--user", "ann"},
		{"end", "--all", "--yes"},
	} {
		runOK(t, append([]string{"SESSION_STORE=" + right}, args...)...)
		for _, rawURL := range []string{wrong, wrongMySQL} {
			if args[0] == "copy" {
				args[1] = rawURL
			}
			r := run(t, append([]string{"SESSION_STORE=" + rawURL}, args...)...)
			if r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "//127.0.0.1:") {
				t.Errorf("session %q with a wrong password: %+v", args, r)
			}
		}
	}
}

// What is shown of a URL never has a password, whatever is wrong with it.
func TestDisplay(t *testing.T) {
	const p = password
	for rawURL, want := range map[string]string{
		"redis://:" + p + "@host:1/2?prefix=x:&pool_size=3":    "redis://host:1/2?prefix=x:",
		"redis://" + p + "@host/0":                             "redis://host/0",
		"redis://h/0?master_name=m&password=" + p:              "redis://h/0",
		"rediss://h/0?addr=a:1&addr=b:2":                       "rediss://h/0",
		"postgres://u:" + p + "@h1:1,h2:2/db?table=a.b":        "postgres://h1:1,h2:2/db?table=a.b",
		"postgres://u:x/" + p + "@h/db":                        "postgres:",
		"postgres://u:x?" + p + "@h/db":                        "postgres:",
		"postgres://u:x@" + p + "@h/db":                        "postgres:",
		"postgres://u:x#" + p + "@h/db":                        "postgres:",
		"mysql://root@127.0.0.1:3306/test?table=s":             "mysql://127.0.0.1:3306/test?table=s",
		"mongodb://u:" + p + "@h/db?collection=c&authSource=x": "mongodb://h/db?collection=c",
		"mysql://u:" + p + "/db":                               "mysql:",
		"MySQL://u:1234/db":                                    "mysql:",
		"mysql://h/db":                                         "mysql://h/db",
		"mysql://u@h:3306/db":                                  "mysql://h:3306/db",
		"redis://u:" + p + "/0":                                "redis:",
		"mongodb://h:1,u:" + p + "/db":                         "mongodb:",
		"redis://[::1]/0":                                      "redis://[::1]/0",
		"redis://[::1]:1/0":                                    "redis://[::1]:1/0",
		"dir:///var/lib/sessions":                              "dir:///var/lib/sessions",
		"memcached://a:1,b:2":                                  "memcached://a:1,b:2",
		"x y://" + p + "@h":                                    "the store",
		p:                                                      "the store",
		p + "://h":                                             "the store",
		"dir:///a\x1b[2J":                                      "dir:",
		"dir:///%zz":                                           "dir:",
	} {
		if got := new(console).display(rawURL); got != want || strings.Contains(got, p) {
			t.Errorf("%q is shown as %q, want %q", rawURL, got, want)
		}
	}
}

func TestSetParameter(t *testing.T) {
	for _, test := range []struct{ rawURL, want string }{
		{"postgres://u:p@h/db", "postgres://u:p@h/db?table=t"},
		{"postgres://u:p@h/db?table=x", "postgres://u:p@h/db?table=t"},
		{"postgres://u:p@h/db?a=b&table=app.x&c=d", "postgres://u:p@h/db?a=b&c=d&table=app.t"},
		{"postgres://u:p?x@h/db?a=b", "postgres://u:p?x@h/db?a=b&table=t"},
	} {
		if got := replaceTable(test.rawURL, "t"); got != test.want {
			t.Errorf("%q becomes %q, want %q", test.rawURL, got, test.want)
		}
	}
}

// What clients and applications put into sessions is no command to a terminal.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"":            "-",
		"-":           `"-"`,
		"ann":         "ann",
		"Ann Lee":     "Ann Lee",
		"jörg":        "jörg",
		"a\x1b[2Jb":   `"a\x1b[2Jb"`,
		"a\u202eb":    `"a\u202eb"`,
		"a\u009bb":    `"a\u009bb"`,
		"a\xffb":      `"a\xffb"`,
		"a\tb\nc":     `"a\tb\nc"`,
		`say "hello"`: `"say \"hello\""`,
	} {
		if got := plain(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
	if got, want := escaped("\"a\" \x1b\u202eé"), "\"a\" \\x1b\\u202eé"; got != want {
		t.Errorf("escaped: %q, want %q", got, want)
	}
}
