package console

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/session"
)

// A kindOfStore is what the command knows of the URLs of one of session.Open's kinds.
type kindOfStore struct {
	schemes []string
	url     string // for the help
	note    string
	place   string // the parameter that names the place in it; empty: the path does
	creates bool   // what is missing, unless its parameter create is false
}

var kindsOfStores = []kindOfStore{
	{[]string{"file"}, "file:///path/to/file", "(while no other process has it open)", "", false},
	{[]string{"dir"}, "dir:///path/to/dir", "", "", false},
	{[]string{"mysql", "mariadb"}, "mysql://user:password@host:port/database", "parameter table; also mariadb:", "table", true},
	{[]string{"postgres", "postgresql"}, "postgres://user:password@host:port/database", "parameter table; also postgresql:", "table", true},
	{[]string{"redis", "rediss", "valkey", "valkeys"}, "redis://user:password@host:port/number",
		"parameter prefix; also rediss:, valkey:, valkeys:", "prefix", false},
	{[]string{"mongodb", "mongodb+srv"}, "mongodb://user:password@host:port/database", "parameter collection; also mongodb+srv:",
		"collection", true},
	{[]string{"memcached"}, "memcached://host:port,host:port", "parameter prefix; cannot list: list, stats, end --all, copy from it",
		"prefix", false},
}

// kindOf returns the kind that a scheme in lower case is of.
func kindOf(scheme string) (kindOfStore, bool) {
	for _, k := range kindsOfStores {
		if slices.Contains(k.schemes, scheme) {
			return k, true
		}
	}
	return kindOfStore{}, false
}

func (c *console) isOwn(scheme string) bool {
	return slices.ContainsFunc(c.schemes, func(own Scheme) bool { return own.Name == scheme })
}

var errScheme = usage("the URL of a store begins with a scheme that session --help names, and a colon")

// openTimeout bounds the time for a server to answer at all.
const openTimeout = 30 * time.Second

// openURL opens a store that others can see. Unless create is set, it makes none out of a path or name that is mistaken.
func (c *console) openURL(ctx context.Context, rawURL string, create bool) (session.StoreCloser, error) {
	scheme, path, local := localPath(rawURL)
	k, known := kindOf(scheme)
	switch {
	case local && path == "" || scheme == "memory":
		return nil, usage("the URL names a store that nobody else can see")
	case !known && !c.isOwn(scheme):
		return nil, errScheme
	case local && !create:
		if err := thereIs(scheme, path); err != nil {
			return nil, err
		}
	case k.creates && !create:
		rawURL, _ = setParameter(rawURL, "create", "false")
	}
	return c.open(ctx, rawURL)
}

// thereIs returns an error unless a store has been made at a path.
func thereIs(scheme, path string) error {
	mark := path
	if scheme == "dir" {
		mark = filepath.Join(path, ".locks") // every DirStore has one
	}
	info, err := os.Stat(mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no store: %w", err)
	case err == nil && scheme == "file" && info.Size() == 0: // which opening it would make one
		return fmt.Errorf("there is no store: the file %s is empty", quoted(path))
	}
	return nil
}

// open is session.Open within openTimeout. Its errors say where the server is, as far as that can be shown.
func (c *console) open(ctx context.Context, rawURL string) (session.StoreCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	store, err := session.Open(ctx, rawURL)
	if err != nil {
		if _, _, local := localPath(rawURL); !local {
			err = fmt.Errorf("%s: %w", c.display(rawURL), err)
		}
		return nil, err
	}
	return store, nil
}

// localPath returns the scheme of a URL in lower case and, if that is file or dir, the path. Whether that is as it
// should be is left to session.Open.
func localPath(rawURL string) (scheme, path string, ok bool) {
	scheme, _, _ = strings.Cut(strings.ToLower(rawURL), ":")
	u, err := url.Parse(rawURL)
	if err != nil || scheme != "file" && scheme != "dir" || u.User != nil || u.Host != "" && u.Host != "localhost" {
		return scheme, "", false
	}
	path, err = url.PathUnescape(cmp.Or(u.Opaque, u.EscapedPath()))
	return scheme, path, err == nil
}

// errItself refuses to copy a store onto itself.
var errItself = usage("FROM and TO are the same store")

// samePath reports whether two URLs are of one path, which its store may not let two open.
func samePath(from, to string) bool {
	_, fromPath, fromLocal := localPath(from)
	_, toPath, toLocal := localPath(to)
	if !fromLocal || !toLocal {
		return from == to
	}
	a, err := os.Stat(fromPath)
	if err != nil {
		return false
	}
	b, err := os.Stat(toPath)
	return err == nil && os.SameFile(a, b)
}

// probeLife is after how long a probe is gone by itself.
const probeLife = time.Minute

// sameStore reports whether a record that is saved in one store is in the other, however different their URLs are. It
// leaves nothing behind.
func sameStore(ctx context.Context, from, to session.Store) (bool, error) {
	var id session.ID
	rand.Read(id[:])
	if err := to.Save(ctx, id, session.Record{Expires: time.Now().Add(probeLife), Data: []byte("a probe of session copy")}); err != nil {
		return false, err
	}
	defer to.Delete(context.WithoutCancel(ctx), id)
	switch _, err := from.Load(ctx, id); {
	case err == nil:
		return true, nil
	case errors.Is(err, session.ErrNotFound):
		return false, nil
	default:
		return false, err
	}
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
