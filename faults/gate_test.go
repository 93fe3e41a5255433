package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// A gate is a Toxiproxy in front of a server.
type gate struct {
	tb    testing.TB
	proxy *toxiproxy.Proxy
}

// newGate returns an open gate.
func newGate(tb testing.TB, upstream string) *gate {
	tb.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, tb.Name(), freeAddr(tb), upstream)
	if err := server.Collection.Add(proxy, true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Collection.Clear(); err != nil {
			tb.Error(err)
		}
	})
	return &gate{tb, proxy}
}

func (g *gate) addr() string { return g.proxy.Listen }

// shut closes all connections and refuses others.
func (g *gate) shut() { g.proxy.Stop() }

func (g *gate) open() {
	// Another program may have looked for a moment whether the port is free.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := g.proxy.Start()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.tb.Error(err)
			return
		}
	}
}

// poison does to the connections, those that are open and those to come, what Toxiproxy's README says of the toxic.
// Of direction "downstream" it concerns the server's replies, of "upstream" what is sent to it. toxicity is the
// share of connections that it concerns.
func (g *gate) poison(toxicity float64, toxic, direction, attributes string) {
	const form = `{"toxicity": %g, "type": %q, "stream": %q, "attributes": {%s}}`
	text := fmt.Sprintf(form, toxicity, toxic, direction, attributes)
	if _, err := g.proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
		g.tb.Errorf("%s: %v", text, err)
	}
}

// cure ends what poison did, and closes the connections: those that were poisoned have lost data.
func (g *gate) cure() {
	g.shut()
	g.proxy.Toxics.ResetToxics(context.Background())
	g.open()
}

// freeAddr returns a loopback address that nothing listens on, and that stays free while its listener is down: its
// port is not among those that the system gives to outgoing connections.
func freeAddr(tb testing.TB) string {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(32768-15000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	tb.Fatal("no free port")
	return ""
}
