//go:build !encrypted

package session_test

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
)

func TestOpenMemory(t *testing.T) {
	for _, rawURL := range []string{"memory:", "MEMORY:"} {
		store, err := session.Open(t.Context(), rawURL)
		if err != nil {
			t.Fatalf("%q: %v", rawURL, err)
		}
		if _, ok := store.(*session.MemoryStore); !ok {
			t.Errorf("%q is a %T", rawURL, store)
		}
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := session.Open(t.Context(), "memory:x"); err == nil {
		t.Error("what follows memory: is ignored")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := session.Open(ctx, "memory:"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context, the error is %v", err)
	}
}

// A URL that leads nowhere is an error that tells what would, and never shows what may be a password.
func TestOpenFaults(t *testing.T) {
	for _, rawURL := range []string{
		":", ":memory:", "://host", "/var/lib/sessions", "sessions.db", "no-such-scheme:", "no-such-scheme://host/path",
		"no-such-scheme://user:hunter2@host", "no-such-scheme://user:hunter2@%zz", "no-such-scheme://hunter2@[::1",
		"hunter2@localhost", "hunter2@localhost:6379", "user:hunter2@localhost", "hunter2%zz", "%zz:hunter2", "hunter2 x://y",
		"1memory:", "mem ory:", " memory:", "\x00:", "é:", "memory:hunter2", "memory://user:hunter2@host", "memory://hunter2@%zz",
	} {
		store, err := session.Open(t.Context(), rawURL)
		if err == nil {
			t.Errorf("%q opened a %T", rawURL, store)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "session: ") || strings.Contains(text, "hunter2") {
			t.Errorf("%q: the error is %q", rawURL, text)
		}
	}
	_, err := session.Open(t.Context(), "no-such-scheme://host")
	for _, want := range []string{`"no-such-scheme"`, "memory:", "file:", "dir:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

// Whatever is left out of a URL, or written with characters that had to be percent-encoded: no error shows a password, the
// error of a server that is not there included.
func FuzzOpen(f *testing.F) {
	for scheme := range urlSchemes {
		for form := range byte(1 << 5) {
			f.Add(byte(scheme), form, "", "", "test")
			f.Add(byte(scheme), form|64, "", "", "test")
		}
	}
	for _, scheme := range []byte{0, 2, 4, 7, 8, 10} { // one for each parser
		for _, around := range []string{"/", "?", "#", "@", ":", "%", "%zz", "&", "=", "[", "]", "\\", " ", ";", ",", "`: ", "//", "@@", ":@/", "é"} {
			for _, form := range []byte{3, 15, 15 | 32} {
				f.Add(scheme, form, "x"+around, "", "test")
				f.Add(scheme, form, "1"+around, around+"1", "test?x=y")
			}
		}
	}
	for _, tail := range []string{"", "/", "0", "x/y", "%", "?", "test?", "test?=", "test?password=PW", "test?a=b&password=PW", "test#PW",
		"test?tlsCertificateKeyFile=/dev/null&tlsCertificateKeyFilePassword=PW", "test?sslpassword=PW&sslkey=/dev/null&sslcert=/dev/null"} {
		for scheme := range urlSchemes {
			f.Add(byte(scheme), byte(15), "", "", tail)
			f.Add(byte(scheme), byte(8), "", "", tail)
		}
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no name is looked up here")
	}}
	f.Fuzz(func(t *testing.T, scheme, form byte, before, after, tail string) {
		name := urlSchemes[int(scheme)%len(urlSchemes)]
		rawURL, password := leakyURL(name, form, before, after, tail)
		if password == "" {
			t.Skip("the password is where others have a port")
		}
		wait := time.Duration(form&64) * time.Millisecond // 0: it gets no further than the URL
		if name == "file" || name == "dir" {
			wait = 0 // or it would make one, anywhere
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		store, err := session.Open(ctx, rawURL)
		if err == nil {
			store.Close()
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), password) || !strings.HasPrefix(err.Error(), "session: ") && err != ctx.Err() {
				t.Fatalf("%q: %v", rawURL, err)
			}
		}
	})
}

var urlSchemes = []string{"mysql", "mariadb", "postgres", "postgresql", "redis", "rediss", "valkey", "mongodb", "memcached", "memory", "file", "dir", "nothing"}

// leakyURL returns a URL with a password, of which the bits of form say what is there: 1 the colon before the password, 2 a
// user before that, 4 the "@" behind it, 8 a host, 16 a number for a password, 32 percent-encoding. In the tail, PW stands for
// the password.
func leakyURL(scheme string, form byte, before, after, tail string) (rawURL, password string) {
	password = "hunter2"
	if form&16 != 0 {
		password = "48151"
	}
	for _, other := range []string{before, after, strings.ReplaceAll(tail, "PW", "")} {
		if strings.Contains(other, password) {
			return "", ""
		}
	}
	written := before + password + after
	if form&32 != 0 {
		written = url.QueryEscape(before) + password + url.QueryEscape(after)
	}
	rawURL = scheme + "://"
	if form&2 != 0 {
		rawURL += "user"
	}
	if form&1 != 0 {
		rawURL += ":"
	}
	rawURL += written
	if form&4 != 0 {
		rawURL += "@"
	}
	if form&8 != 0 {
		rawURL += "127.0.0.1:1"
	}
	rawURL += "/" + strings.ReplaceAll(tail, "PW", password)
	isMySQL, isRedis := scheme == "mysql" || scheme == "mariadb", scheme == "redis" || scheme == "rediss" || scheme == "valkey"
	switch {
	case form&1 == 0 && !(isRedis && form&4 != 0): // only for Redis what stands alone before an "@" is a password
		return "", ""
	case form&4 == 0 && form&16 != 0 && !isMySQL: // and only for MySQL a number after a colon without an "@"
		return "", ""
	}
	return rawURL, password
}

func TestRegisterScheme(t *testing.T) {
	scheme := fmt.Sprintf("open-test+x.%x", rand.Uint64()) // a scheme stays registered
	var seen string
	open := func(_ context.Context, rawURL string) (session.StoreCloser, error) {
		seen = rawURL
		return session.NewMemoryStore(), nil
	}
	if _, err := session.Open(t.Context(), scheme+"://host"); err == nil {
		t.Fatal("the scheme is known before it was registered")
	}
	if err := session.RegisterScheme(scheme, open); err != nil {
		t.Fatal(err)
	}
	rawURL := strings.Replace(scheme, "open", "OPEN", 1) + "://user:%zz@host"
	if _, err := session.Open(t.Context(), rawURL); err != nil || seen != rawURL {
		t.Errorf("Open passed on %q, %v", seen, err)
	}
	if err := session.RegisterScheme(scheme, open); err == nil || !strings.Contains(err.Error(), scheme) {
		t.Errorf("registered twice, the error is %v", err)
	}
	if _, err := session.Open(t.Context(), "no-such-scheme:"); !strings.Contains(err.Error(), scheme+":") {
		t.Errorf("the known schemes do not show it: %v", err)
	}
	for _, bad := range []string{"", "Upper", "1x", "-x", "a_b", "a b", "a:", "é"} {
		if err := session.RegisterScheme(bad, open); err == nil {
			t.Errorf("the scheme %q was registered", bad)
		}
	}
	if err := session.RegisterScheme("open-test-nil", nil); err == nil {
		t.Error("a scheme without a function was registered")
	}
}

// Files and variables have line ends after a URL, which are no part of it. Elsewhere they are a mistake, as other white space is.
func TestOpenTrims(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\n\n"} {
		for _, place := range []string{"file://" + filepath.Join(t.TempDir(), "sessions"), "dir://" + filepath.Join(t.TempDir(), "sessions"), "memory:", ""} {
			openStore(t, place+end)
			_, path, _ := strings.Cut(place, "//")
			if _, err := os.Stat(path); path != "" && err != nil {
				t.Errorf("%q: %v", place+end, err)
			}
		}
	}
	scheme := fmt.Sprintf("open-test-%x", rand.Uint64())
	var seen string
	err := session.RegisterScheme(scheme, func(_ context.Context, rawURL string) (session.StoreCloser, error) {
		seen = rawURL
		return session.NewMemoryStore(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if openStore(t, scheme+"://host/db\r\n"); seen != scheme+"://host/db" {
		t.Errorf("an application's scheme gets %q", seen)
	}
	for _, rawURL := range []string{
		scheme + "://host/db ", " " + scheme + "://host/db", scheme + "://ho\nst/db", scheme + "://host/db\t", scheme + "://host/\x00db", scheme + "://host/db \n",
		"mongodb://host/test\x7f", "memcached://host\n,host", "file:///a\nb", "postgres://host/db\u0085",
	} {
		_, err := session.Open(t.Context(), rawURL)
		wantError(t, err, "", "white space")
	}
}

// A path that is malformed is told with the URL and the remedy, and without a word of passwords.
func TestOpenPaths(t *testing.T) {
	for _, test := range []struct{ rawURL, text string }{
		{"file:///tmp/50%", `"file:///tmp/50%"`}, {"dir:50%zz", `"dir:50%zz"`}, {"FILE:/a%", "%25"},
		{"file:///tmp/a?b", "%3F"}, {"dir:/tmp/a#b", "%23"}, {"file:a?b=c", `"file:a?b=c"`},
		{"file://sessions.db", "file:path"}, {"dir://var/lib/sessions", "dir:///path"}, {"file://host:1/x", "names a host"},
		{"file:", "needs a path"}, {"file://host:x/y", "file:///path"},
		{"file://ann:password@localhost/x", "more than a path"}, {"dir://ann@/x", "more than a path"},
	} {
		_, err := session.Open(t.Context(), test.rawURL)
		wantError(t, err, "password", test.text)
	}
}

// A part left out of a URL has its usual value. The port of MongoDB is left to the driver.
func TestOpenDefaults(t *testing.T) {
	for _, test := range []struct{ rawURL, addr string }{
		{"mysql://u:p@/db", "127.0.0.1:3306"}, {"mariadb:///db", "127.0.0.1:3306"}, {"mysql://u@[::1]/db", "[::1]:3306"}, {"mysql://u:p@:1/db", "127.0.0.1:1"},
		{"mysql://u:1234/db", "127.0.0.1:3306"},
		{"redis:///0", "127.0.0.1:6379"}, {"redis://secret@", "127.0.0.1:6379"}, {"valkey://[::1]", "[::1]:6379"}, {"rediss://:1", "127.0.0.1:1"},
		{"mongodb:///db", "127.0.0.1"}, {"mongodb://u:p@/db", "127.0.0.1"}, {"mongodb://[::1]", "[::1]"}, {"mongodb://:1", "127.0.0.1:1"},
		{"memcached://", "127.0.0.1:11211"}, {"memcached://[::1]", "[::1]:11211"}, {"memcached://::1", "[::1]:11211"}, {"memcached://:1", "127.0.0.1:1"},
	} {
		if got, err := session.AddressOfURL(test.rawURL); err != nil || got != test.addr {
			t.Errorf("%q leads to %q, %v, want %q", test.rawURL, got, err, test.addr)
		}
	}
}

// The error of a server that refuses says why, and shows no password.
func TestStoresRefuse(t *testing.T) {
	const secret = "s3cret"
	for _, test := range []struct {
		name string
		url  func(*testing.T) string
		text string
	}{
		{"redis, account", func(t *testing.T) string { return withUser(t, servertest.Redis(t).URL, "nobody", secret) }, "WRONGPASS"},
		{"redis, database", func(t *testing.T) string { return "redis://" + servertest.Redis(t).Addrs[0] + "/99" }, "out of range"},
		{"redis cluster, account", func(t *testing.T) string { return withUser(t, servertest.RedisCluster(t).URL, "nobody", secret) }, "WRONGPASS"},
		{"redis cluster, database", func(t *testing.T) string {
			return strings.Replace(servertest.RedisCluster(t).URL, "?", "/3?", 1)
		}, "database 0 only"},
		{"mongodb, account", func(t *testing.T) string { return withUser(t, servertest.MongoDB(t).URL, "nobody", secret) }, "auth"},
		{"memcached, account", func(t *testing.T) string { return withUser(t, servertest.Memcached(t).URL, "nobody", secret) }, "without user and password"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, err := session.Open(t.Context(), test.url(t))
			if err == nil {
				store.Close()
			}
			wantError(t, err, secret, test.text)
		})
	}
}

// A store works with its account's password, and shows it in no error: neither when the server refuses another one,
// nor when the server is gone.
func TestStoresHidePasswords(t *testing.T) {
	const password, wrong = "right@:/?#&%'", "wrong@:/?#&%'"
	quoted := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	mysql := func(t *testing.T, server *servertest.Server) {
		db := openDB(t, server.URL, "")
		mustExec(t, db, "CREATE USER alice@'%' IDENTIFIED BY "+quoted)
		mustExec(t, db, "GRANT ALL ON test.* TO alice@'%'")
	}
	for _, test := range []struct {
		kind    servertest.Kind
		args    func(*testing.T) []string
		account func(*testing.T, *servertest.Server) // makes alice's
		refusal string
	}{
		{servertest.KindRedis, nil, func(t *testing.T, server *servertest.Server) {
			rules := []any{"ACL", "SETUSER", "alice", "on", ">" + password, "~*", "&*", "+@all"}
			if err := redisClient(t, server).Do(t.Context(), rules...).Err(); err != nil {
				t.Fatal(err)
			}
		}, "WRONGPASS"},
		{servertest.KindMySQL, nil, mysql, "Access denied"},
		{servertest.KindMariaDB, nil, mysql, "Access denied"},
		{servertest.KindPostgreSQL, passwordRules, func(t *testing.T, server *servertest.Server) {
			pool := newPool(t, server.URL)
			mustExecPostgres(t, pool, "CREATE ROLE alice LOGIN PASSWORD "+quoted)
			mustExecPostgres(t, pool, "GRANT CREATE ON SCHEMA public TO alice")
		}, "password authentication failed"},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			var args []string
			if test.args != nil {
				args = test.args(t)
			}
			server := servertest.Start(t, test.kind, args...)
			test.account(t, server)

			_, err := session.Open(t.Context(), withUser(t, server.URL, "alice", wrong))
			wantError(t, err, wrong, test.refusal)

			store := openStore(t, withUser(t, server.URL, "alice", password))
			id := storetest.Fill(t, store, 1, time.Time{})[0]
			server.Kill()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, loadErr := store.Load(ctx, id)
			for op, err := range map[string]error{
				"load":   loadErr,
				"save":   store.Save(ctx, id, session.Record{Version: 1}),
				"create": store.Save(ctx, storetest.RandomID(), session.Record{}),
				"touch":  session.Touch(ctx, store, id, session.Record{Version: 1}),
				"delete": store.Delete(ctx, id),
			} {
				wantError(t, err, password)
				for _, known := range []error{session.ErrNotFound, session.ErrConflict, ctx.Err()} {
					if known != nil && errors.Is(err, known) {
						t.Errorf("%s without a server: %v", op, err)
					}
				}
				for _, escaped := range []string{url.QueryEscape(password), url.PathEscape(password)} {
					if err != nil && strings.Contains(err.Error(), escaped) {
						t.Errorf("%s: the error shows the password: %v", op, err)
					}
				}
			}
		})
	}
}

// passwordRules returns arguments that make PostgreSQL ask everybody but postgres for a password.
func passwordRules(t *testing.T) []string { return passwordRulesOf(t, "scram-sha-256") }

func passwordRulesOf(t *testing.T, method string) []string {
	t.Helper()
	hba := filepath.Join(t.TempDir(), "hba")
	if err := os.Chmod(filepath.Dir(filepath.Dir(hba)), 0o755); err != nil { // for the account that it runs as
		t.Fatal(err)
	}
	rules := "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 " + method + "\n"
	if err := os.WriteFile(hba, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"-c", "hba_file=" + hba}
}

// Which clients log in under GODEBUG=fips140=only: SECURITY.md says so. "make fips" runs this in that mode.
func TestAccountsUnderFIPS(t *testing.T) {
	const long, short = "a password of 112 bits or more", "short"
	mysql := func(plugin string) func(*testing.T, *servertest.Server, string) {
		return func(t *testing.T, server *servertest.Server, password string) {
			db := openDB(t, server.URL, "")
			mustExec(t, db, "CREATE USER alice@'%' IDENTIFIED "+fmt.Sprintf(plugin, password))
			mustExec(t, db, "GRANT ALL ON test.* TO alice@'%'")
		}
	}
	postgres := func(encryption string) func(*testing.T, *servertest.Server, string) {
		return func(t *testing.T, server *servertest.Server, password string) {
			pool := newPool(t, server.URL)
			mustExecPostgres(t, pool, "SET password_encryption = '"+encryption+"'; CREATE ROLE alice LOGIN PASSWORD '"+password+"'")
			mustExecPostgres(t, pool, "GRANT CREATE ON SCHEMA public TO alice")
		}
	}
	for _, test := range []struct {
		name     string
		kind     servertest.Kind
		account  func(t *testing.T, server *servertest.Server, password string)
		password string
		refusal  string // under fips140=only; empty: none
	}{
		{"redis", servertest.KindRedis, func(t *testing.T, server *servertest.Server, password string) {
			rules := []any{"ACL", "SETUSER", "alice", "on", ">" + password, "~*", "&*", "+@all"}
			if err := redisClient(t, server).Do(t.Context(), rules...).Err(); err != nil {
				t.Fatal(err)
			}
		}, short, ""},
		{"mysql, caching_sha2_password", servertest.KindMySQL, mysql("WITH caching_sha2_password BY '%s'"), long, "SHA-2 or SHA-3"},
		{"mysql, caching_sha2_password, TLS", servertest.KindMySQL, mysql("WITH caching_sha2_password BY '%s' REQUIRE SSL"), long, ""},
		{"mysql, mysql_native_password", servertest.KindMySQL, mysql("WITH mysql_native_password BY '%s'"), long, "SHA-1"},
		{"mariadb, mysql_native_password", servertest.KindMariaDB, mysql("BY '%s'"), long, "SHA-1"},
		{"mariadb, ed25519", servertest.KindMariaDB, mysql("VIA ed25519 USING PASSWORD('%s')"), long, "SHA-1"}, // of the server's first guess
		{"postgres, scram-sha-256", servertest.KindPostgreSQL, postgres("scram-sha-256"), short, ""},
		{"postgres, md5", servertest.KindPostgreSQL, postgres("md5"), long, "MD5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.refusal == "MD5" && fips140.Enforced() {
				t.Skip("it panics in a goroutine of pgx's, which ends the process")
			}
			var args []string
			if test.kind == servertest.KindPostgreSQL {
				args = passwordRulesOf(t, "md5") // or whatever the password is kept as
			}
			if strings.HasSuffix(test.name, "TLS") {
				args = []string{"--tls-version=TLSv1.3"} // by a certificate that it makes itself
			}
			server := servertest.Start(t, test.kind, args...)
			if strings.Contains(test.name, "ed25519") {
				mustExec(t, openDB(t, server.URL, ""), "INSTALL SONAME 'auth_ed25519'")
			}
			test.account(t, server, test.password)
			err := func() (err error) {
				defer func() {
					if p := recover(); p != nil { // so the standard library refuses
						err = fmt.Errorf("%v", p)
					}
				}()
				address := withUser(t, server.URL, "alice", test.password)
				if strings.HasSuffix(test.name, "TLS") {
					address += "?tls=skip-verify"
				}
				store, err := session.Open(t.Context(), address)
				if err != nil {
					return err
				}
				defer store.Close()
				return store.Save(t.Context(), storetest.RandomID(), session.Record{Data: []byte("data")})
			}()
			if refusal := test.refusal; fips140.Enforced() && refusal != "" {
				if err == nil || !strings.Contains(err.Error(), refusal) {
					t.Errorf("the error is %v, want one with %q", err, refusal)
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
