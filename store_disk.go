package session

import (
	"errors"
	"hash/crc32"
	"os"
	"runtime"
	"syscall"
)

// A record that ends a session is smaller than the session's, so the end of one must not fail for want of room. Both stores
// keep some room in reserve, for changes that take the place of what is as large. recordSlack is what these may have more: the
// IDs of recent writes.
const recordSlack = 256

// noRoom reports whether err says that the disk is full, or that the account has as much as it may.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// recordSum is a checksum of a stored record's bytes, bound to its ID.
func recordSum(id ID, b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(id[:], table), table, b)
}

// syncNames makes what was created, renamed or removed in a directory outlive a loss of power.
func syncNames(dir *os.File) error {
	if runtime.GOOS == "windows" { // which cannot sync a directory, and needs not
		return nil
	}
	return dir.Sync()
}
