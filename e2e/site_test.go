package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session/internal/program"
)

const password = "correct horse battery"

// A site is a server, by the names that the browser knows it by.
type site struct{ scheme, port string }

func (s site) at(host string) string { return s.scheme + "://" + host + ":" + s.port }

// home is where a test usually goes.
func (s site) home() string { return s.at("www.example.test") }

// example builds an example and runs it under TLS, or without if that is among the arguments.
func example(t *testing.T, name string, args ...string) *process {
	t.Helper()
	c := certificate(t)
	return exampleHTTP(t, name, append([]string{"-cert", c.certFile, "-key", c.keyFile}, args...)...)
}

// exampleHTTP is example without TLS.
func exampleHTTP(t *testing.T, name string, args ...string) *process {
	t.Helper()
	t.Setenv("LOGIN_PASSWORD", password)
	p := program.Start(t, build(t, name), args...)
	u, err := url.Parse(p.Base)
	if err != nil {
		t.Fatal(err)
	}
	return &process{p, site{u.Scheme, u.Port()}}
}

// A process is an example that runs.
type process struct {
	*program.Process
	site
}

var builds sync.Map // the example's name to func() (string, error)

// build builds an example, once, and returns the program's path.
func build(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join(scratch, strings.ReplaceAll(name, "/", "-"))
	once, _ := builds.LoadOrStore(name, sync.OnceValues(func() ([]byte, error) {
		cmd := exec.Command("go", "build", "-o", bin, ".")
		cmd.Dir = filepath.Join("..", "examples", name)
		return cmd.CombinedOutput()
	}))
	if out, err := once.(func() ([]byte, error))(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return bin
}

// A cert is a certificate for *.example.test, localhost and 127.0.0.1.
type cert struct {
	pair              tls.Certificate
	pool              *x509.CertPool
	certFile, keyFile string
	hash              string // of its key, which the browser trusts
}

var makeCertificate = sync.OnceValues(func() (*cert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "session e2e"},
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"*.example.test", "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true, // its own
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	c := &cert{certFile: filepath.Join(scratch, "cert.pem"), keyFile: filepath.Join(scratch, "key.pem"), pool: x509.NewCertPool()}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(c.certFile, certPEM, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.keyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	c.pool.AppendCertsFromPEM(certPEM)
	if c.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(c.pair.Leaf.RawSubjectPublicKeyInfo)
	c.hash = base64.StdEncoding.EncodeToString(sum[:])
	return c, nil
})

// certificate returns the certificate of all tests.
func certificate(t *testing.T) *cert {
	t.Helper()
	c, err := makeCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve serves the handler under TLS.
func serve(t *testing.T, handler http.Handler) site {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t).pair}}
	server.EnableHTTP2 = true
	server.StartTLS()
	return running(t, server)
}

// serveHTTP serves the handler without TLS.
func serveHTTP(t *testing.T, handler http.Handler) site {
	t.Helper()
	return running(t, httptest.NewServer(handler))
}

func running(t *testing.T, server *httptest.Server) site {
	t.Cleanup(func() {
		server.CloseClientConnections() // the browser keeps its own open
		server.Close()
	})
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return site{u.Scheme, u.Port()}
}
