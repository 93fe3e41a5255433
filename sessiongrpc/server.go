// Package sessiongrpc gives the calls of a grpc-go server their sessions: session.FromContext finds in a call's context the
// session that the token in the call's metadata leads to.
//
//	server := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(sessiongrpc.UnaryServerInterceptor(m)),
//		grpc.ChainStreamInterceptor(sessiongrpc.StreamServerInterceptor(m)),
//	)
//
// The token is metadata under [Key], in the request and in the response's trailer: the client sends from each call on what
// the last trailer said, an empty token included. A [Client] does that. Tokens are those of session.Options.TokenHeader, and
// no cookie's. A method's session is saved when it returns nil; an error, or a panic, drops what session.Session.Save has not
// saved by then. See session.Manager.Do for all else.
package sessiongrpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"example.com/session"
)

// Key is the key of the token in metadata.
const Key = "session-token"

// UnaryServerInterceptor returns an interceptor that gives each unary call its session. The client's address is that of the
// connection. A server has one manager: the tokens of several would be under the same Key.
//
// Faults of the session are status errors: Aborted for session.ErrGone and ErrLockLost, ResourceExhausted for
// ErrTooManySessions, Internal for a fault of the program (ErrTooLarge, a value that cannot be encoded), DeadlineExceeded
// and Canceled where the call's context ended, and Unavailable for the store's, which slog.Default() is told. So they are
// when a method returns them, as what session.Session.Save returned. Every other error of a method passes as it is.
func UnaryServerInterceptor(m *session.Manager) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
		err = do(ctx, m, info.FullMethod, func(md metadata.MD) { grpc.SetTrailer(ctx, md) }, func(ctx context.Context) (err error) {
			response, err = handler(ctx, request)
			return err
		})
		if err != nil {
			return nil, err
		}
		return response, nil
	}
}

// StreamServerInterceptor is UnaryServerInterceptor for streams. A stream has one session from its first message to its end;
// session.Session.Save saves it meanwhile, and Reload shows what others saved. The trailer has the token, so whoever logs in
// by a stream knows it when that has ended: a unary call is the better place for a login, and streams are opened after it.
//
// A stream that runs for long keeps no session alive unless it saves; ForceSave and Save do that without a change. Call
// Reload before what depends on the session: it returns session.ErrGone once that has ended or expired, as a change does
// then. With Options.Locking, call Session.Unlock, since the client's other calls wait for the lock.
func StreamServerInterceptor(m *session.Manager) grpc.StreamServerInterceptor {
	return func(server any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return do(ss.Context(), m, info.FullMethod, ss.SetTrailer, func(ctx context.Context) error {
			return handler(server, serverStream{ss, ctx})
		})
	}
}

// A serverStream is one whose context has the session.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// do makes the call with its session.
func do(ctx context.Context, m *session.Manager, method string, setTrailer func(metadata.MD), call func(context.Context) error) error {
	token := strings.Join(metadata.ValueFromIncomingContext(ctx, Key), ", ") // of two, neither is to be trusted
	own := false                                                             // the error is the method's
	next, err := m.Do(session.WithClient(ctx, clientAddr(ctx), userAgent(ctx)), token, func(ctx context.Context) error {
		err := call(ctx)
		own = err != nil && !errors.Is(err, session.FromContext(ctx).Err()) // as it is when a method returns that of Save
		return err
	})
	if next != token {
		setTrailer(metadata.Pairs(Key, next))
	}
	if own {
		return methodError(err)
	}
	return sessionError(ctx, method, err)
}

// methodError returns what a method's error is for the client.
func methodError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if s := session.HTTPStatus(err); s != http.StatusServiceUnavailable { // else anything
		return status.Error(codeOf(s), err.Error())
	}
	return err
}

// sessionError returns what a fault of the session is for the client. The store's words are for the log, not for the client.
func sessionError(ctx context.Context, method string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return status.FromContextError(ctx.Err()).Err()
	}
	s := session.HTTPStatus(err)
	if s == http.StatusServiceUnavailable {
		slog.ErrorContext(ctx, "session: call failed", "method", method, "err", err)
		return status.Error(codes.Unavailable, "session: the store does not answer")
	}
	return status.Error(codeOf(s), err.Error())
}

func codeOf(status int) codes.Code {
	switch status {
	case http.StatusConflict:
		return codes.Aborted
	case http.StatusForbidden:
		return codes.ResourceExhausted
	}
	return codes.Internal
}

// clientAddr returns the address at the other end of the call's connection.
func clientAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return netip.Addr{}
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(host)
	return addr
}

func userAgent(ctx context.Context) string {
	return strings.Join(metadata.ValueFromIncomingContext(ctx, "user-agent"), " ")
}
