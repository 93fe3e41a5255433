package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"example.com/session"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitNone   = 3
	exitAway   = 4
)

// An exitError has an exit code of its own.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// usage returns the error of a mistake in how the command was called. Its text repeats no argument: it may be a URL with
// a password that got into the wrong place.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// checkNone returns an error if there are arguments.
func checkNone(args []string) error {
	if len(args) > 0 {
		return usage("it takes no arguments; the store is given by --store")
	}
	return nil
}

func isUsage(err error) bool {
	e, ok := errors.AsType[*exitError](err)
	return ok && e.code == exitUsage
}

// none returns the error for what was named and is not there.
func none(format string, args ...any) error {
	return &exitError{exitNone, fmt.Sprintf(format, args...)}
}

// exitCode returns what the command exits with after an error.
func exitCode(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	switch {
	case err == nil:
		return exitOK
	case away(err):
		return exitAway
	}
	return exitFailed
}

// away reports whether it is the server that cannot be reached, or does not answer: another time it may.
func away(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*os.SyscallError](err); ok { // all that is left of a *net.OpError that would show an address
		return true
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, memcache.ErrNoServers) || mongo.IsNetworkError(err) || mongo.IsTimeout(err)
}

// tell prints what went wrong with a command, if anything did, and returns the exit code.
func (c *console) tell(ctx context.Context, cmd *command, s *settings, err error) int {
	code := exitCode(err)
	switch code {
	case exitOK:
		return code
	case exitUsage:
		c.note("session %s: %s\nsession %[1]s --help tells more", cmd.name, err)
		return code
	}
	text := err.Error()
	if errors.Is(err, errors.ErrUnsupported) {
		text = "this kind of store cannot list what it holds"
	}
	if cause := ctx.Err(); errors.Is(cause, context.DeadlineExceeded) && s.timeout > 0 {
		text = fmt.Sprintf("not done after %v: %s", s.timeout, text)
	} else if cause != nil {
		text, code = "interrupted: "+text, exitFailed
	}
	c.note("session %s: %s", cmd.name, strings.ReplaceAll(text, "session: ", ""))
	return code
}

// failureText says why a session was not ended.
func failureText(err error) string {
	switch {
	case errors.Is(err, session.ErrNotFound):
		return "there is no such session, or it has ended"
	case errors.Is(err, session.ErrGone):
		return "the session has a new ID, to which this one does not lead"
	}
	return err.Error()
}
