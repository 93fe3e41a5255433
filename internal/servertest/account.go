package servertest

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// An account is a user that a server runs as.
type account struct{ uid, gid int }

// unprivileged returns an account for a server that refuses to run as root: the first of names that exists. It
// returns nil if this process is not root.
func unprivileged(names ...string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs []error
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &account{uid, gid}, nil
	}
	return nil, errors.Join(errs...)
}

// own makes all files in dir the account's.
func (a *account) own(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
}

// tempBase returns the directory for temporary files: the system's, if the account can get there.
func tempBase(as *account) (string, error) {
	base, err := filepath.Abs(os.TempDir())
	if err != nil || as == nil {
		return base, err
	}
	for dir := base; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return "", err
		}
		if info.Mode()&0o001 == 0 {
			return "/tmp", nil
		}
		if dir == filepath.Dir(dir) {
			return base, nil
		}
	}
}
