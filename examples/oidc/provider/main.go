// Provider is an OpenID provider to try the example with, on this machine: whoever gives a name is logged in by it.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"example.com/session/examples/oidc/internal/provider"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:9090", "`address` to listen on; port 0 picks a free one")
	flag.Parse()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	// By another name than the example's, so that browsers take the two for different sites.
	issuer := fmt.Sprintf("http://localhost:%d", listener.Addr().(*net.TCPAddr).Port)
	p, err := provider.New(issuer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s\n", issuer)
	log.Fatal((&http.Server{Handler: p, ReadTimeout: 10 * time.Second}).Serve(listener))
}
