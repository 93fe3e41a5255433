package main

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/session/internal/program"
)

// A token is what a client without a jar keeps.
type token struct {
	http.RoundTripper
	value string
}

func (t *token) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Session-Token", t.value)
	res, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		if lines := res.Header.Values("Session-Token"); len(lines) > 0 {
			t.value = lines[0]
		}
	}
	return res, err
}

// Clients of connect-go, with cookies and with a token, in its own protocol and in gRPC's for browsers.
func TestConnect(t *testing.T) {
	p := program.Start(t, program.Build(t), "-framework", "connect")
	defer p.Stop()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*http.Client{
		"cookies": {Jar: jar}, "header": {Transport: &token{RoundTripper: http.DefaultTransport}},
	} {
		for protocol, opts := range map[string][]connect.ClientOption{"connect": nil, "json": {connect.WithProtoJSON()}, "grpc-web": {connect.WithGRPCWeb()}} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				at := p.Base + "/visits.v1.Visits/"
				hello := func(want string) {
					t.Helper()
					if got := call[emptypb.Empty, wrapperspb.StringValue](t, client, at+"Hello", &emptypb.Empty{}, opts).GetValue(); got != want {
						t.Errorf("the server says %q, want %q", got, want)
					}
				}
				hello("Hello stranger, this is visit 1.\n")
				call[wrapperspb.StringValue, emptypb.Empty](t, client, at+"Login", wrapperspb.String("ann"), opts)
				hello("Hello ann, this is visit 2.\n")
				call[emptypb.Empty, emptypb.Empty](t, client, at+"Logout", &emptypb.Empty{}, opts)
				hello("Hello stranger, this is visit 1.\n")
				call[emptypb.Empty, emptypb.Empty](t, client, at+"Logout", &emptypb.Empty{}, opts)
			})
		}
	}
}

func call[In, Out any](t *testing.T, client *http.Client, at string, in *In, opts []connect.ClientOption) *Out {
	t.Helper()
	res, err := connect.NewClient[In, Out](client, at, opts...).CallUnary(context.Background(), connect.NewRequest(in))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}
