package servertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// findRedisTLS finds Redis for TLS alone. Distributors build it with TLS; one without it fails to start.
func findRedisTLS(durable bool) (*software, error) {
	bin, name, err := lookRedis()
	if err != nil {
		return nil, err
	}
	return &software{
		name:    name + " (TLS)",
		nodes:   1,
		prepare: writeCertificate,
		command: func(dir string, n *node) []string {
			return append(redisCommand(bin, dir, n, durable),
				"--port", "0", "--tls-port", strconv.Itoa(n.port), "--tls-auth-clients", "no",
				"--tls-cert-file", filepath.Join(dir, certificateFile), "--tls-key-file", filepath.Join(dir, keyFile),
			)
		},
		ping: func(conn net.Conn) error {
			return pingRedis(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}))
		},
		url: func(addrs []string) string { return "rediss://" + addrs[0] + "/0?skip_verify=true" },
	}, nil
}

const certificateFile, keyFile = "certificate.pem", "key.pem"

// writeCertificate writes a certificate for 127.0.0.1, signed by itself, and its key to dir.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "127.0.0.1"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, certificateFile), "CERTIFICATE", certificate),
		writePEM(filepath.Join(dir, keyFile), "PRIVATE KEY", private),
	)
}

func writePEM(file, kind string, content []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
}
