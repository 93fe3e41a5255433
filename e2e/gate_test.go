package e2e

import (
	"crypto/tls"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// A gate is a proxy in front of a site. It can hold a request, or its response, until the test lets it go on.
type gate struct {
	site
	mu    sync.Mutex
	holds []*hold
}

// A hold keeps the next request to a path.
type hold struct {
	path     string
	response bool
	arrived  chan struct{} // closed when the request, or its response, is held
	release  chan struct{} // close it to let it go on
}

func newGate(t *testing.T, to site) *gate {
	t.Helper()
	backend, err := url.Parse(to.at("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificate(t).pool}}
	t.Cleanup(transport.CloseIdleConnections)
	g := new(gate)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(backend)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			g.pass(r.Request, true)
			return nil
		},
	}
	g.site = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.pass(r, false)
		proxy.ServeHTTP(w, r)
	}))
	return g
}

// hold has the next request to the path, or the response to it, wait.
func (g *gate) hold(t *testing.T, path string, response bool) *hold {
	h := &hold{path, response, make(chan struct{}), make(chan struct{})}
	g.mu.Lock()
	g.holds = append(g.holds, h)
	g.mu.Unlock()
	t.Cleanup(h.letGo) // or the server could not be closed
	return h
}

func (h *hold) letGo() {
	select {
	case <-h.release:
	default:
		close(h.release)
	}
}

func (g *gate) pass(r *http.Request, response bool) {
	var held *hold
	g.mu.Lock()
	for i, h := range g.holds {
		if h.path == r.URL.Path && h.response == response {
			held = h
			g.holds = append(g.holds[:i:i], g.holds[i+1:]...)
			break
		}
	}
	g.mu.Unlock()
	if held != nil {
		close(held.arrived)
		<-held.release
	}
}
