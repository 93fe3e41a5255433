package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A template is a directory that takes long to make and is the same for each server of a version: it is made
// once per machine, in the user's cache directory, and copied or used from there.
type template struct {
	name  string   // of the server, with its version
	as    *account // to run commands as; owner of the directory while it is made
	build func(ctx context.Context, g *guard, dir string) error
}

// templateFormat is raised when a build changes what it makes of the same version.
const templateFormat = 2

// Long enough to fetch a server on a slow line.
const templateTimeout = 5 * time.Minute

// path returns the template's directory, and makes it if need be. Of several processes that need it at a time
// one makes it and the others wait.
func (t *template) path() (string, error) {
	dir, err := t.make()
	if err != nil {
		return "", fmt.Errorf("servertest: preparing %s: %w", t.name, err)
	}
	return dir, nil
}

// copyTo copies the template's files to dir, which exists and is empty.
func (t *template) copyTo(dir string) error {
	src, err := t.path()
	if err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(src))
}

func (t *template) make() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	cache = filepath.Join(cache, "session-servertest")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	id := strings.ReplaceAll(strings.ToLower(t.name), " ", "-")
	done := filepath.Join(cache, fmt.Sprintf("%s-%s-%d", id, runtime.GOARCH, templateFormat))
	if exists(done) {
		return done, nil
	}
	l, err := os.OpenFile(done+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer l.Close()
	if err := lock(l); err != nil {
		return "", err
	}
	if exists(done) {
		return done, nil
	}
	return done, t.makeAt(done)
}

func (t *template) makeAt(done string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), templateTimeout)
	defer cancel()
	base, err := tempBase(t.as)
	if err != nil {
		return err
	}
	// Beside done, so that it can be renamed; built elsewhere, where other users have access.
	copied := done + "-" + rand.Text()
	g, err := newGuard(base, "template", copied)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	dir := filepath.Join(g.dir, "data-template")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if t.as != nil {
		if err := t.as.own(dir); err != nil {
			return err
		}
	}
	if err := t.build(ctx, g, dir); err != nil {
		return err
	}
	if err := os.Mkdir(copied, 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return err
	}
	return os.Rename(copied, done)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
