package sessiongrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/servertest"
	"example.com/session/internal/storetest"
	"example.com/session/sessiongrpc"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

const hits session.Key[int] = "hits"

// A service does what the request's body says.
type service struct {
	grpc_testing.UnimplementedTestServiceServer
	do func(ctx context.Context, what string) (string, error)
}

func (s *service) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	out, err := s.do(ctx, string(in.Payload.Body))
	return &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: []byte(out)}}, err
}

func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		out, err := s.do(stream.Context(), string(in.Payload.Body))
		if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: []byte(out)}}); err != nil {
			return err
		}
	}
}

func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	n := 0
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		if _, err := s.do(stream.Context(), string(in.Payload.Body)); err != nil {
			return err
		}
		n++
	}
}

// does is what most tests have the service do.
func does(ctx context.Context, what string) (string, error) {
	s := session.FromContext(ctx)
	switch what {
	case "login":
		s.SetUser("ann")
	case "logout":
		s.Destroy()
	case "hit":
		return strconv.Itoa(hits.Update(s, func(n int) int { return n + 1 })), nil
	case "hit and save":
		hits.Update(s, func(n int) int { return n + 1 })
		return "", s.Save(ctx)
	case "hit and fail":
		hits.Update(s, func(n int) int { return n + 1 })
		return "", status.Error(codes.InvalidArgument, "no")
	case "hits":
		n, _ := hits.Get(s)
		return strconv.Itoa(n), nil
	case "large":
		s.Set("large", make([]byte, 2<<20))
	case "gone":
		return "", fmt.Errorf("as it was told: %w", session.ErrGone)
	case "fail":
		return "", errors.New("some error")
	case "wait":
		s.Get("k")
		<-ctx.Done()
		s.Set("k", 1)
		return "", ctx.Err()
	case "client":
		return s.RemoteAddr() + " " + s.UserAgent(), nil
	}
	return s.User(), nil
}

func newManager(t *testing.T, store session.Store, opts *session.Options) *session.Manager {
	t.Helper()
	m, err := session.New(store, bytes.Repeat([]byte("s"), 32), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// serve starts a server, and returns where it is.
func serve(t *testing.T, m *session.Manager, do func(context.Context, string) (string, error)) (target string, server *grpc.Server) {
	t.Helper()
	server = grpc.NewServer(
		grpc.ChainUnaryInterceptor(sessiongrpc.UnaryServerInterceptor(m)),
		grpc.ChainStreamInterceptor(sessiongrpc.StreamServerInterceptor(m)),
	)
	grpc_testing.RegisterTestServiceServer(server, &service{do: do})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return l.Addr().String(), server
}

// A peer is a client of the service.
type peer struct {
	sessiongrpc.Client
	t      *testing.T
	client grpc_testing.TestServiceClient
}

func dial(t *testing.T, target string) *peer {
	t.Helper()
	p := &peer{t: t}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(p.Unary), grpc.WithStreamInterceptor(p.Stream))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.client = grpc_testing.NewTestServiceClient(conn)
	return p
}

func (p *peer) try(ctx context.Context, what string) (string, error) {
	out, err := p.client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: []byte(what)}})
	return string(out.GetPayload().GetBody()), err
}

// call makes a call that has to succeed.
func (p *peer) call(what string) string {
	p.t.Helper()
	out, err := p.try(p.t.Context(), what)
	if err != nil {
		p.t.Errorf("%s: %v", what, err)
	}
	return out
}

// eachStore runs a test on the stores that stand for all.
func eachStore(t *testing.T, fn func(t *testing.T, store session.Store)) {
	for _, name := range []string{"memory", "redis", "postgres"} {
		kind, ok := storetest.Named(name)
		if !ok {
			t.Fatalf("no store %q", name)
		}
		t.Run(name, func(t *testing.T) { fn(t, kind.New(t)) })
	}
}

// A session's life goes by calls of a client that keeps its token.
func TestCalls(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, nil)
		target, _ := serve(t, m, does)
		p := dial(t, target)
		if got := p.call("user"); got != "" || p.Token() != "" {
			t.Errorf("at first the user is %q, the token %q", got, p.Token())
		}
		p.call("hit")
		first := p.Token()
		p.call("login")
		if got := p.call("user"); got != "ann" || p.Token() == first || first == "" {
			t.Errorf("after the login the user is %q, the token %q after %q", got, p.Token(), first)
		}
		if got := p.call("client"); got[:len("127.0.0.1 ")] != "127.0.0.1 " || len(got) < 20 {
			t.Errorf("the client is %q", got)
		}
		other := dial(t, target)
		other.SetToken(p.Token())
		if got := other.call("hits"); got != "1" {
			t.Errorf("with a token that was kept, there are %s hits", got)
		}
		old := dial(t, target)
		old.SetToken(first)
		if got := old.call("user"); got != "" {
			t.Errorf("the token from before the login is %q's", got)
		}
		p.call("logout")
		if got := p.call("user"); got != "" || p.Token() != "" {
			t.Errorf("after the logout the user is %q, the token %q", got, p.Token())
		}
	})
}

// A thousand calls at the same time, of one session and at two servers, add to one value.
func TestCallsInParallel(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		opts := &session.Options{StoreTimeout: time.Minute}
		a, _ := serve(t, newManager(t, store, opts), does)
		b, _ := serve(t, newManager(t, store, opts), does)
		p := dial(t, a)
		p.call("login")
		q := dial(t, b)
		q.SetToken(p.Token())
		const calls = 1000
		var all sync.WaitGroup
		slots := make(chan struct{}, 50)
		for i := range calls {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				[]*peer{p, q}[i%2].call("hit")
			})
		}
		all.Wait()
		if got := p.call("hits"); got != strconv.Itoa(calls) {
			t.Errorf("%s of %d hits count", got, calls)
		}
	})
}

// A stream saves while it runs, and its token comes with its end.
func TestStreams(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		target, _ := serve(t, newManager(t, store, nil), does)
		p := dial(t, target)
		p.call("hit")
		stream, err := p.client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		say := func(what string) {
			t.Helper()
			if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: []byte(what)}}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		say("hit and save")
		if got := p.call("hits"); got != "2" {
			t.Errorf("while the stream runs, there are %s hits", got)
		}
		p.call("hit")
		say("hit")
		say("login")
		if got := p.call("hits"); got != "3" {
			t.Errorf("what the stream has not saved counts: %s hits", got)
		}
		before := p.Token()
		stream.CloseSend()
		if _, err := stream.Recv(); err != io.EOF {
			t.Errorf("the stream ends with %v", err)
		}
		if p.Token() == before {
			t.Error("the end of a stream that logged in brings no token")
		}
		if user, n := p.call("user"), p.call("hits"); user != "ann" || n != "4" {
			t.Errorf("after the stream there are %s hits of %q", n, user)
		}

		input, err := p.client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		input.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: []byte("logout")}})
		if _, err := input.CloseAndRecv(); err != nil {
			t.Errorf("a stream to the server: %v", err)
		}
		if p.Token() != "" {
			t.Error("the client has a token after a stream that logged out")
		}
	})
}

// Faults are status errors, and drop what the call did.
func TestFaults(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, &session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: true})
	target, _ := serve(t, m, does)
	p := dial(t, target)
	p.call("login")
	p.call("hit")
	down := errors.New("the store's words")
	for what, test := range map[string]struct {
		code codes.Code
		hook []double.Hook
	}{
		"hit and fail": {code: codes.InvalidArgument},
		"large":        {code: codes.Internal},
		"gone":         {code: codes.Aborted},
		"fail":         {code: codes.Unknown},
		"hit":          {code: codes.Unavailable, hook: []double.Hook{double.Fail(down, double.Save)}},
		"hit and save": {code: codes.Unavailable, hook: []double.Hook{double.Fail(down, double.Save)}},
		"hits":         {code: codes.Unavailable, hook: []double.Hook{double.Fail(down, double.Load)}},
	} {
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		store.Hook(test.hook...)
		_, err := p.try(t.Context(), what)
		store.Hook()
		slog.SetDefault(before)
		if got := status.Code(err); got != test.code {
			t.Errorf("%s: %v, want %v", what, err, test.code)
		}
		if test.hook != nil && (bytes.Contains([]byte(err.Error()), []byte(down.Error())) || !bytes.Contains(log.Bytes(), []byte(down.Error()))) {
			t.Errorf("%s: the client is told %v, the log %s", what, err, log.String())
		}
	}
	if got := p.call("hits"); got != "1" {
		t.Errorf("after calls that failed, there are %s hits", got)
	}
	if _, err := dial(t, target).try(t.Context(), "login"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a login beyond the limit: %v", err)
	}
}

// A manager that binds sessions to requests fails each call, and does not blame the store.
func TestBindIsRefused(t *testing.T) {
	target, _ := serve(t, newManager(t, session.NewMemoryStore(), &session.Options{Bind: session.BindUserAgent}), does)
	if _, err := dial(t, target).try(t.Context(), "user"); status.Code(err) != codes.Internal {
		t.Errorf("the call ends with %v", err)
	}
}

// The end of one session does not have a client forget the next one, of which it has learned meanwhile.
func TestLateEndForgetsNoLogin(t *testing.T) {
	var p *peer
	target, _ := serve(t, newManager(t, session.NewMemoryStore(), nil), func(ctx context.Context, what string) (string, error) {
		if what != "logout, and log in meanwhile" {
			return does(ctx, what)
		}
		s := session.FromContext(ctx)
		s.Destroy()
		if err := s.Save(ctx); err != nil {
			return "", err
		}
		p.call("login")
		return "", nil
	})
	p = dial(t, target)
	p.call("login")
	if p.call("logout, and log in meanwhile"); p.Token() == "" || p.call("user") != "ann" {
		t.Errorf("the token is %q", p.Token())
	}
	if p.call("logout"); p.Token() != "" {
		t.Errorf("after a logout the token is %q", p.Token())
	}
}

// A session that ends while a call runs is Aborted.
func TestCallMeetsTheEnd(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	var end atomic.Bool
	var p *peer
	target, _ := serve(t, m, func(ctx context.Context, what string) (string, error) {
		s := session.FromContext(ctx)
		s.User()
		if end.Swap(false) {
			p.call("logout")
			s.Set("k", 1)
			return "", nil
		}
		return does(ctx, what)
	})
	p = dial(t, target)
	p.call("login")
	end.Store(true)
	if _, err := p.try(t.Context(), "user"); status.Code(err) != codes.Aborted {
		t.Errorf("the call ends with %v", err)
	}
}

// A deadline, a client that leaves, and a server that stops end a call, and drop what it did.
func TestCallIsCutOff(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	for name, test := range map[string]struct {
		cut  func(cancel context.CancelFunc, server *grpc.Server)
		code codes.Code
	}{
		"deadline": {func(context.CancelFunc, *grpc.Server) {}, codes.DeadlineExceeded},
		"cancel":   {func(cancel context.CancelFunc, _ *grpc.Server) { cancel() }, codes.Canceled},
		"server":   {func(_ context.CancelFunc, server *grpc.Server) { server.Stop() }, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			began := make(chan struct{})
			target, server := serve(t, m, func(ctx context.Context, what string) (string, error) {
				if what == "wait" {
					close(began)
				}
				return does(ctx, what)
			})
			p := dial(t, target)
			p.call("login")
			token := p.Token()
			ctx, cancel := context.WithCancel(t.Context())
			if name == "deadline" {
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
			}
			defer cancel()
			result := make(chan error, 1)
			go func() { _, err := p.try(ctx, "wait"); result <- err }()
			select {
			case <-began:
				test.cut(cancel, server)
			case <-ctx.Done(): // so slow is this machine
			}
			if err := <-result; status.Code(err) != test.code {
				t.Errorf("the call ends with %v", err)
			}
			if p.Token() != token {
				t.Error("the token has changed")
			}
			next, _ := serve(t, m, does)
			q := dial(t, next)
			q.SetToken(token)
			if got := q.call("user"); got != "ann" {
				t.Errorf("after that the user is %q", got)
			}
		})
	}
}

// Tokens that are none of the server's, or several at once, lead to no session.
func TestForeignTokens(t *testing.T) {
	target, _ := serve(t, newManager(t, session.NewMemoryStore(), nil), does)
	p := dial(t, target)
	p.call("login")
	token := p.Token()
	for _, foreign := range []string{"x", token + "x", token[1:]} {
		p.SetToken(foreign)
		if got := p.call("user"); got != "" {
			t.Errorf("%q is %q's", foreign, got)
		}
	}
	p.SetToken(token)
	ctx := metadata.AppendToOutgoingContext(t.Context(), sessiongrpc.Key, token)
	if got, err := p.try(ctx, "user"); got != "" || err != nil {
		t.Errorf("two tokens at once are %q's (%v)", got, err)
	}
	if got := p.call("user"); got != "ann" {
		t.Errorf("the token is %q's", got)
	}
}
