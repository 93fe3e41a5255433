package sessiongrpc

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A Client keeps the token of one client from one call to the next, as a browser keeps a cookie. The zero value has none.
// It is safe for concurrent use. To keep the token on disk, write what Token returns after each call, and after the end of
// each stream, and give it to SetToken at the next start. A stream that is cancelled brings no token.
//
//	var c sessiongrpc.Client
//	conn, err := grpc.NewClient(target, grpc.WithUnaryInterceptor(c.Unary), grpc.WithStreamInterceptor(c.Stream), …)
type Client struct {
	mu    sync.Mutex
	token string
}

// Token returns the token, empty if there is none, to be kept like a password.
func (c *Client) Token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// SetToken sets the token to one that was kept.
func (c *Client) SetToken(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// take takes up the token of a trailer, if it has one, after a call that sent another. The end of the session that was sent
// is none of the one that another call has brought meanwhile.
func (c *Client) take(sent string, trailer metadata.MD) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if values := trailer[Key]; len(values) > 0 && (values[0] != "" || c.token == sent) {
		c.token = values[0]
	}
}

func (c *Client) send(ctx context.Context) (with context.Context, sent string) {
	sent = c.Token()
	return metadata.AppendToOutgoingContext(ctx, Key, sent), sent
}

// Unary is a grpc.UnaryClientInterceptor.
func (c *Client) Unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var trailer metadata.MD
	ctx, sent := c.send(ctx)
	err := invoke(ctx, method, request, reply, conn, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))...)
	c.take(sent, trailer)
	return err
}

// Stream is a grpc.StreamClientInterceptor. The token is there once RecvMsg has returned the stream's end, or the one reply
// of a stream to the server.
func (c *Client) Stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, sent := c.send(ctx)
	stream, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return &clientStream{stream, c, sent, desc.ServerStreams}, nil
}

type clientStream struct {
	grpc.ClientStream
	client *Client
	sent   string
	many   bool // messages come from the server
}

func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil || !s.many {
		s.client.take(s.sent, s.Trailer())
	}
	return err
}
