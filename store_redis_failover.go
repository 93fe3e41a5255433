package session

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisCall calls f, again where that helps, and returns when ctx is done, if f would not.
func redisCall[T any](ctx context.Context, s *RedisStore, f func() (T, error)) (T, error) {
	again := func() (T, error) { return redisAgain(ctx, s, f) }
	if _, ok := ctx.Deadline(); (ok && s.prompt) || ctx.Done() == nil {
		return again()
	}
	return untilDone(ctx, again)
}

// redisAgain calls f, and again where a connection broke, led to the wrong server, or was turned away.
//
// The client finds out by itself which idle connections have ended, unless they are of TLS: any number of them
// may be of no use then, and each call uses up at least one.
func redisAgain[T any](ctx context.Context, s *RedisStore, f func() (T, error)) (T, error) {
	generation := s.conns.current()
	value, err := callAgain(ctx, s.idle, f)
	switch {
	case err == nil || ctx.Err() != nil:
	case misdirected(err) && s.conns != nil:
		s.conns.drop(generation)
		value, err = callAgain(ctx, s.idle, f)
	case redis.IsReadOnlyError(err): // the client has dropped the connection, and may have others of the kind
		for left := s.idle(); left >= 0 && redis.IsReadOnlyError(err) && ctx.Err() == nil; left-- {
			value, err = callAgain(ctx, s.idle, f)
		}
	case turnedAway(err):
		for began, try := time.Now(), 1; turnedAway(err) && waitForRoom(ctx, began, try); try++ {
			value, err = callAgain(ctx, s.idle, f)
		}
		if err != nil && ctx.Err() != nil && !turnedAway(err) { // the time was over in between
			err = fmt.Errorf("%w: %w", errTurnedAway, err)
		}
	}
	if c, ok := s.client.(*redis.ClusterClient); ok && err != nil && !isRedisReply(err) {
		c.ReloadState(ctx) // another node may have taken the place of one that is out of reach
	}
	return value, err
}

// misdirected reports whether err is the answer of a server that is not, or not yet, the one to ask: after a failover,
// connections to the former primary may live on, while new ones reach the new one.
func misdirected(err error) bool {
	return redis.IsReadOnlyError(err) || redis.IsMasterDownError(err) || redis.IsLoadingError(err)
}

// turnedAway reports whether the server has all the connections that it can have.
func turnedAway(err error) bool { return errors.Is(err, errTurnedAway) || redis.IsMaxClientsError(err) }

// errTurnedAway is what becomes of "max number of clients reached": of the words, a reset often leaves nothing.
var errTurnedAway = errors.New("the server closes new connections at once, as it does at its maxclients")

// waitForRoom waits for a random time before another try to connect, the longer the more there were. It reports false if
// ctx ended, or if ctx has no deadline and the default of Options.StoreTimeout has gone by.
func waitForRoom(ctx context.Context, began time.Time, try int) bool {
	if _, ok := ctx.Deadline(); !ok && time.Since(began) > 5*time.Second {
		return false
	}
	return sleep(ctx, mathrand.N(time.Millisecond<<min(try+2, 8))) // up to a quarter of a second
}

func isRedisReply(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// fault is what an operation returns that failed: which server it was, and what to do where the server's words do not
// say it.
func (s *RedisStore) fault(ctx context.Context, op string, err error) error {
	advice := ""
	switch {
	case redis.IsReadOnlyError(err):
		advice = "the server is a replica, perhaps since a failover: connect to the primary"
	case redis.IsMasterDownError(err), redis.IsClusterDownError(err):
		advice = "a failover may be under way"
	case redis.IsLoadingError(err):
		advice = "the server has just started"
	case redis.IsOOMError(err):
		advice = "the server is full: raise maxmemory"
	case redis.IsPermissionError(err), strings.Contains(err.Error(), "ACL failure in script"),
		strings.Contains(err.Error(), "can't run this command"):
		advice = "the account needs the commands and keys that the documentation of RedisStore names"
	case turnedAway(err):
		advice = "raise the server's maxclients, or lower the pool_size of those who use it"
	}
	where := ""
	if c, ok := s.client.(*redis.Client); ok && !strings.Contains(err.Error(), c.Options().Addr) && c.Options().Addr != "FailoverClient" {
		where = " " + c.Options().Addr
	}
	err = overdue(ctx, err)
	if advice != "" {
		return fmt.Errorf("session: redis%s: %s: %w (%s)", where, op, err, advice)
	}
	return fmt.Errorf("session: redis%s: %s: %w", where, op, err)
}

// redisConns are the connections of a client that Open has made. All of them can be dropped: the client itself drops
// the one alone that a server refused to serve, and no other than for READONLY.
type redisConns struct {
	generation atomic.Uint64 // of the connections that are made now
}

// current returns the generation of the connections that are made now. Without any connections of ours, that is 0.
func (c *redisConns) current() uint64 {
	if c == nil {
		return 0
	}
	return c.generation.Load()
}

// drop has all connections fail that are of the given generation or an earlier one. Of several who were refused at the
// same time, one drops them.
func (c *redisConns) drop(generation uint64) { c.generation.CompareAndSwap(generation, generation+1) }

// dialer returns a dialer that hands out a useless connection where another would return an error. After as
// many such errors as its pool is large, go-redis makes no connection for a second or more, even where the
// server is back at once.
func (c *redisConns) dialer(config *tls.Config, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	dial := redis.NewDialer(&redis.Options{TLSConfig: config, DialTimeout: cmp.Or(timeout, 5*time.Second)})
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		generation := c.current()
		conn, err := dial(ctx, network, addr)
		if brokenConn(err) { // in the handshake of TLS
			err = errTurnedAway
		}
		if err != nil {
			return failedConn{fmt.Errorf("%w", err)}, nil // go-redis takes one layer off, which would be the address
		}
		ours := &redisConn{Conn: conn, conns: c, generation: generation}
		if plain, ok := conn.(syscall.Conn); ok { // the pool can tell whether it has ended
			return struct {
				*redisConn
				syscall.Conn
			}{ours, plain}, nil
		}
		return ours, nil
	}
}

// A redisConn fails once its generation was dropped, and where the server has turned it away. go-redis takes no notice
// of the latter, and goes on with the connection, until it ends.
type redisConn struct {
	net.Conn
	conns      *redisConns
	generation uint64
	answered   atomic.Bool // the server has sent something
}

func (c *redisConn) Write(b []byte) (int, error) {
	if c.generation != c.conns.current() {
		return 0, &net.OpError{Op: "write", Net: "tcp", Addr: c.RemoteAddr(), Err: syscall.EPIPE}
	}
	n, err := c.Conn.Write(b)
	return n, c.checked(nil, err)
}

func (c *redisConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err := c.checked(b[:n], err); err != nil {
		return 0, err
	}
	return n, nil
}

// checked returns err, or errTurnedAway if that is what it means beside the first answer of the server.
func (c *redisConn) checked(answer []byte, err error) error {
	if c.answered.Load() {
		return err
	}
	if brokenConn(err) || bytes.HasPrefix(answer, []byte("-ERR max number of clients")) {
		return errTurnedAway
	}
	c.answered.Store(len(answer) > 0)
	return err
}

// A failedConn is a connection that could not be made. If it gets into the pool, because nobody waits for it any
// more, the pool's check of idle connections finds it out by SyscallConn.
type failedConn struct{ err error }

func (c failedConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }

func (c failedConn) Read([]byte) (int, error)         { return 0, c.err }
func (c failedConn) Write([]byte) (int, error)        { return 0, c.err }
func (c failedConn) Close() error                     { return nil }
func (c failedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c failedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c failedConn) SetDeadline(time.Time) error      { return nil }
func (c failedConn) SetReadDeadline(time.Time) error  { return nil }
func (c failedConn) SetWriteDeadline(time.Time) error { return nil }
