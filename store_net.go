package session

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// What a record looks like in a store that keeps one string of bytes for it, Redis or Memcached:
//
//	"S" and the format's version, 1
//	version, 8 bytes, big-endian
//	expiry in Unix milliseconds, 8 bytes, big-endian; 0 for never
//	data
const (
	packedFormat   = "S\x01"
	packedHeadSize = len(packedFormat) + 8 + 8
	// maxPackedExpiry is far beyond all years that matter and within what Lua's numbers can tell apart.
	maxPackedExpiry = 1 << 52
)

func packRecord(version uint64, expires int64, data []byte) []byte {
	b := make([]byte, 0, packedHeadSize+len(data))
	b = append(b, packedFormat...)
	b = binary.BigEndian.AppendUint64(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	return append(b, data...)
}

// unpackRecord returns the record in b, whose Data is a part of b. ok is false for what packRecord did not make.
func unpackRecord(b []byte) (rec Record, ok bool) {
	if len(b) < packedHeadSize || string(b[:len(packedFormat)]) != packedFormat {
		return Record{}, false
	}
	rec.Version = binary.BigEndian.Uint64(b[len(packedFormat):])
	if expires := binary.BigEndian.Uint64(b[len(packedFormat)+8:]); expires != 0 {
		rec.Expires = time.UnixMilli(int64(min(expires, maxPackedExpiry)))
	}
	rec.Data = b[packedHeadSize:len(b):len(b)]
	return rec, rec.Version != 0
}

// prefixed returns the key of a record.
func prefixed(prefix string, id ID) string {
	b := make([]byte, 0, 128) // on the stack, and enough for most
	return string(hex.AppendEncode(append(b, prefix...), id[:]))
}

// packedExpiry returns t in Unix milliseconds, 0 for the zero time.
func packedExpiry(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(max(1, t.UnixMilli()), maxPackedExpiry)
}

// untilDone returns what f returns or, if ctx is done before, its error. f then goes on in a goroutine of its
// own, and what it returns is dropped. It is for clients that do not heed a context.
func untilDone[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if err := ctx.Err(); err != nil {
		return *new(T), err
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}

// brokenConn reports whether err says that a connection had ended, or ended before the whole reply was there.
func brokenConn(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// overdue adds the error of ctx to err if ctx is done: a client reports a deadline as a time-out of its own, and
// may do so just before ctx itself takes notice.
func overdue(ctx context.Context, err error) error {
	done := ctx.Err()
	if deadline, ok := ctx.Deadline(); done == nil && ok && !time.Now().Before(deadline) {
		done = context.DeadlineExceeded
	}
	if done == nil || errors.Is(err, done) {
		return err
	}
	return fmt.Errorf("%w: %w", done, err)
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
	if strings.ContainsAny(host, "@/?#[] ") {
		return "", errors.New("an address is host:port")
	}
	return net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port), nil
}
