// Oidc is a web application whose users log in at an OpenID provider, and are logged out when they log out there: rp.go has all
// that takes, to be taken as it is. Register at the provider, under the address of -base: /callback to redirect to, /logged-out to
// redirect to after a logout, and /backchannel-logout for logouts by the back channel, with a session ID.
//
// Try it without one of your own: go run ./provider in one terminal, go run . in another.
//
// The provider sends the browser back by a link from another site. A cookie with SameSite=Lax comes along there, and one with
// Strict would not: the login would come back to a browser that never asked for one. Nor does Lax come along with a form that
// another site sends: with the provider's response_mode=form_post, the session would need SameSite=None, and then a check of
// Origin for all that is not GET, as http.CrossOriginProtection has it. Login and callback use the session's own cookie, no other.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/session"
)

type config struct{ addr, base, store, issuer, client, clientSecret, secret string }

func main() {
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks a free one")
	flag.StringVar(&c.base, "base", "", "`URL` by which browsers and the provider find it (default: http:// and the address)")
	flag.StringVar(&c.store, "store", os.Getenv("SESSION_STORE"), "`URL` of the session store (empty: a temporary file)")
	flag.StringVar(&c.issuer, "issuer", "http://localhost:9090", "`URL` of the OpenID provider")
	flag.StringVar(&c.client, "client", "example", "`ID` of the client that the provider knows; its secret is in the variable OIDC_CLIENT_SECRET")
	flag.Parse()
	c.clientSecret = cmp.Or(os.Getenv("OIDC_CLIENT_SECRET"), "a secret of the client that is long enough for HMAC-SHA256") // of ./provider
	if c.secret = os.Getenv("SESSION_SECRET"); c.secret == "" {
		log.Print("warning: SESSION_SECRET is not set; with a random one, sessions end with this process")
		c.secret = rand.Text() + rand.Text()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx is done, and then until all requests are answered.
func (c *config) run(ctx context.Context) error {
	store, err := session.Open(ctx, c.store)
	if err != nil {
		return err
	}
	defer store.Close()
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	c.base = strings.TrimSuffix(cmp.Or(c.base, "http://"+listener.Addr().String()), "/")
	rp, handler, err := newApp(ctx, store, c)
	if err != nil {
		return err
	}
	defer rp.sessions.Close()
	fmt.Printf("listening on %s\n", c.base)
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return server.Shutdown(limit)
	}
}

// newApp returns the application, and the relying party in it.
func newApp(ctx context.Context, store session.Store, c *config) (*relyingParty, http.Handler, error) {
	// Lax, which is the default, and a name that no other host can set: nobody can plant the session of a login of theirs.
	cookie := session.Cookie{Name: "__Host-session", SameSite: http.SameSiteLaxMode}
	if strings.HasPrefix(c.base, "http://") {
		cookie = session.Cookie{Name: "session", InsecureHTTP: true} // to develop with
	}
	m, err := session.New(store, []byte(c.secret), &session.Options{Cookie: cookie})
	if err != nil {
		return nil, nil, err
	}
	rp, err := newRelyingParty(ctx, m, store, c)
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", home)
	mux.HandleFunc("GET /members/{page...}", member(members))
	mux.HandleFunc("GET /login", rp.begin)
	mux.HandleFunc("GET /callback", rp.callback)
	mux.HandleFunc("POST /logout", rp.logout)
	mux.HandleFunc("GET /logged-out", rp.loggedOut)
	mux.HandleFunc("POST /backchannel-logout", rp.backchannel)
	sameOrigin := http.NewCrossOriginProtection().Handler(mux)
	return rp, http.MaxBytesHandler(m.Handler(sameOrigin), 64<<10), nil
}

// member is for those who are logged in. Others are sent to the login, and come back to where they wanted to go.
func member(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if session.FromContext(r.Context()).User() == "" {
			http.Redirect(w, r, "/login?"+url.Values{"to": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

var page = template.Must(template.New("").Parse(`<!doctype html><html lang=en><title>OpenID Connect</title>
{{if .User}}<p>Hello, {{.Name}}. <a href=/members/>For members</a><form method=post action=/logout><button>Log out</button></form>
{{else}}{{if .Failed}}<p>That login has come to nothing. Please try again.{{end}}<p><a href=/login>Log in</a>{{end}}
`))

func home(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	page.Execute(w, map[string]any{"User": s.User(), "Name": name.GetOr(s, ""), "Failed": r.FormValue("login") == "failed"})
}

func members(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Members only: %q for %s.\n", r.PathValue("page"), name.GetOr(session.FromContext(r.Context()), ""))
}
