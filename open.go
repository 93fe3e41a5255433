package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// Open returns the store that rawURL names, ready to use, and to be closed when it has served. ctx bounds the opening
// only.
//
//	(empty)                a new temporary file, gone after Close or, but on Windows, any end of the process
//	memory:                this process's memory
//	file:///path/to/file   one file (file:name for a relative path)
//	dir:///path/to/dir     one file a session; without a path a new temporary directory, removed by Close
//	mysql://user:password@host:port/database        MySQL, and mariadb: MariaDB
//	postgres://user:password@host:port/database     PostgreSQL
//	redis://user:password@host:port/number          Redis; rediss: with TLS; valkey: and valkeys: the same
//	mongodb://user:password@host:port/database      MongoDB, and mongodb+srv:
//	memcached://host:port,host:port                 Memcached
//
// and the schemes that RegisterScheme added. Each store's type tells what its URL has beyond that, and what stands for a part that
// is left out. An error never shows the URL's password.
//
// Line ends at the end of rawURL are no part of it, since files and variables come with them. Any other control character, and
// white space at either end, is an error.
//
// Open links every backend into the program. To link one alone, call its constructor.
func Open(ctx context.Context, rawURL string) (StoreCloser, error) {
	rawURL = strings.TrimRight(rawURL, lineEnds)
	if strings.ContainsFunc(rawURL, unicode.IsControl) || rawURL != strings.TrimSpace(rawURL) {
		return nil, errors.New("session: the URL of the store has a control character in it, such as a line end, " +
			"or begins or ends with white space: remove it, or percent-encode it")
	}
	scheme, _, found := strings.Cut(rawURL, ":")
	scheme = strings.ToLower(scheme)
	if rawURL != "" && (!found || scheme == "") {
		return nil, fmt.Errorf("session: a store's URL starts with a scheme and a colon; known are %s", knownSchemes())
	}
	open, ok := lookupScheme(scheme)
	if !ok {
		open, ok = builtinSchemes()[scheme]
	}
	if !ok {
		if !validScheme(scheme) {
			scheme = "(not a scheme)" // it may be anything, a password too
		}
		return nil, fmt.Errorf("session: unknown kind of store %q; known are %s", scheme, knownSchemes())
	}
	return open(ctx, rawURL)
}

// A StoreCloser is a Store that has something to give back. Every store of this package is one.
//
// Close gives back what the store opened itself: connections, a file, a temporary directory. A client that the
// application has handed over stays open. Calls that come after Close do their work, or fail with an error that is none of those
// that Store names; what becomes of those that are under way is told at the store's type. A second Close does nothing.
type StoreCloser interface {
	Store
	io.Closer
}

// An OpenFunc opens the store that a URL names; ctx bounds the opening only. Its errors must not show the URL's
// password.
type OpenFunc func(ctx context.Context, rawURL string) (StoreCloser, error)

// builtinSchemes is reachable from Open alone, so that the linker drops the backends of a program that does
// not call it.
func builtinSchemes() map[string]OpenFunc {
	return map[string]OpenFunc{
		"":       openTemporary,
		"memory": openMemory,
		"file":   openFile,
		"dir":    openDir,

		"mysql": openMySQL, "mariadb": openMySQL,
		"postgres": openPostgres, "postgresql": openPostgres,
		"redis": openRedis, "rediss": openRedis, "valkey": openRedis, "valkeys": openRedis,
		"mongodb": openMongo, "mongodb+srv": openMongo,
		"memcached": openMemcache,
	}
}

var registered struct {
	sync.RWMutex
	schemes map[string]OpenFunc
}

// RegisterScheme lets Open know another kind of store, or another way to open a built-in one. The scheme is in
// lower case, as RFC 3986 section 3.1 has it. It returns an error if the scheme is invalid or was registered
// before. It is meant to be called by a program's main function, and is safe for concurrent use.
func RegisterScheme(scheme string, open OpenFunc) error {
	if !validScheme(scheme) || open == nil {
		return fmt.Errorf("session: RegisterScheme needs a lower-case scheme and a function, not %q", scheme)
	}
	registered.Lock()
	defer registered.Unlock()
	if registered.schemes[scheme] != nil {
		return fmt.Errorf("session: the scheme %q is registered already", scheme)
	}
	if registered.schemes == nil {
		registered.schemes = make(map[string]OpenFunc)
	}
	registered.schemes[scheme] = open
	return nil
}

func lookupScheme(scheme string) (OpenFunc, bool) {
	registered.RLock()
	defer registered.RUnlock()
	open, ok := registered.schemes[scheme]
	return open, ok
}

func knownSchemes() string {
	registered.RLock()
	defer registered.RUnlock()
	all := builtinSchemes()
	maps.Copy(all, registered.schemes)
	delete(all, "")
	return strings.Join(slices.Sorted(maps.Keys(all)), ":, ") + ": and the empty string (a temporary file)"
}

func validScheme(scheme string) bool {
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !(('0' <= c && c <= '9') || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return scheme != ""
}

// lineEnds are what files and variables have after a URL or a secret, and what is no part of it.
const lineEnds = "\r\n"

// parseURL is url.Parse whose error does not repeat the URL, which may hold a password.
func parseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		scheme, _, _ := strings.Cut(rawURL, ":")
		return nil, fmt.Errorf("session: the %s: URL of the store is malformed (reserved characters in a user name or password are percent-encoded)", scheme)
	}
	return u, nil
}

// urlPath returns the local path of a file: or dir: URL, empty if it has none. Its errors repeat the URL unless it has an
// authority, where somebody may have put a password.
func urlPath(rawURL string) (string, error) {
	scheme, rest, _ := strings.Cut(rawURL, ":")
	scheme = strings.ToLower(scheme)
	shown := ""
	if !strings.HasPrefix(rest, "//") || strings.HasPrefix(rest, "///") {
		shown = fmt.Sprintf(" %q", rawURL)
	}
	u, err := url.Parse(rawURL)
	path := ""
	if err == nil {
		path, err = url.PathUnescape(cmp.Or(u.Opaque, u.EscapedPath()))
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("session: the %[1]s: URL%[2]s is malformed: it is %[1]s:///path, and what is not a letter "+
			"or digit of the path may have to be percent-encoded, such as \"%%\" as %%25", scheme, shown)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("session: the %[1]s: URL%[2]s has more than a path: it is %[1]s:///path, with \"?\" as %%3F and "+
			"\"#\" as %%23", scheme, shown)
	case u.Host != "" && u.Host != "localhost":
		return "", fmt.Errorf("session: the %[1]s: URL names a host: an absolute path has three slashes, as in %[1]s:///path, "+
			"and a relative one has none, as in %[1]s:path", scheme)
	}
	return path, nil
}

// validAddresses reports whether s is a list of host:port, of which all can be left out, with commas in between. Whatever
// else stands there may be a part of a password, and a client would repeat it in its error.
func validAddresses(s string) bool {
	for addr := range strings.SplitSeq(s, ",") {
		host, port := addr, ""
		if i := strings.LastIndexByte(addr, ':'); i >= 0 && !strings.HasSuffix(addr, "]") {
			host, port = addr[:i], addr[i+1:]
		}
		_, portErr := strconv.ParseUint(cmp.Or(port, "0"), 10, 16)
		inner, v6 := strings.CutPrefix(host, "[")
		if v6 {
			host = strings.TrimSuffix(inner, "]")
			_, err := netip.ParseAddr(host)
			v6 = err == nil && host != inner
		}
		plain, err := url.PathUnescape(host)
		if portErr != nil || err != nil || !v6 && strings.ContainsAny(plain, ":@?#[]\\ \"'`|^<>{}&=;!$*()+~") {
			return false
		}
	}
	return true
}

// withPort returns addr as host:port, with 127.0.0.1 and the given port where they are left out.
func withPort(addr, port string) (string, error) {
	host := addr
	if h, p, err := net.SplitHostPort(addr); err == nil {
		host, port = h, cmp.Or(p, port)
	} else if bare := strings.TrimPrefix(strings.TrimSuffix(addr, "]"), "["); !strings.Contains(bare, ":") ||
		net.ParseIP(bare) != nil {
		host = bare
	}
	if strings.ContainsAny(host, "@/?#[] ") || strings.HasPrefix(addr, "[") != strings.Contains(addr, "]") {
		return "", errors.New("an address is host:port")
	}
	return net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port), nil
}
