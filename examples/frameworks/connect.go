package main

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/session"
)

// With connect-go, a procedure is an http.Handler like any other, and its context is the request's: wrap the mux. Browsers
// have cookies, other clients send Session-Token. Of a real service, protoc writes the paths and the types.
func newConnect(m *session.Manager) http.Handler {
	mux := http.NewServeMux()
	handleProcedure(mux, "/visits.v1.Visits/Hello", func(ctx context.Context, _ *emptypb.Empty) *wrapperspb.StringValue {
		s := session.FromContext(ctx)
		return wrapperspb.String(greeting(s.User(), visits.Update(s, increment)))
	})
	handleProcedure(mux, "/visits.v1.Visits/Login", func(ctx context.Context, user *wrapperspb.StringValue) *emptypb.Empty {
		session.FromContext(ctx).SetUser(user.GetValue())
		return &emptypb.Empty{}
	})
	handleProcedure(mux, "/visits.v1.Visits/Logout", func(ctx context.Context, _ *emptypb.Empty) *emptypb.Empty {
		session.FromContext(ctx).Destroy()
		return &emptypb.Empty{}
	})
	return m.Handler(mux)
}

func handleProcedure[In, Out any](mux *http.ServeMux, path string, procedure func(context.Context, *In) *Out) {
	mux.Handle(path, connect.NewUnaryHandler(path, func(ctx context.Context, r *connect.Request[In]) (*connect.Response[Out], error) {
		return connect.NewResponse(procedure(ctx, r.Msg)), nil
	}))
}
