// Package provider is an OpenID provider for tests, and to try the example with: whoever gives a name is logged in by it.
package provider

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The client that it knows. It may have any address on this machine: the back-channel is found beside the callback.
const (
	ClientID     = "example"
	ClientSecret = "a secret of the client that is long enough for HMAC-SHA256"
)

const cookieName = "provider" // of its own sessions

// A Provider logs users in, and tells the clients when they log out. It is safe for concurrent use.
type Provider struct {
	Issuer    string
	Exchanged func(code string) // called for each code that is exchanged, unless nil
	Key       *rsa.PrivateKey   // that it signs with

	http.Handler
	oidc op.OpenIDProvider

	mu       sync.Mutex
	requests map[string]*request
	codes    map[string]string   // to the request's ID
	sessions map[string]*session // by sid
}

// A session is a browser that is logged in at the provider.
type session struct {
	user    string
	clients map[string]bool // the back-channel logout URIs of those that it went to
}

// New returns a provider that browsers and clients reach under the issuer.
func New(issuer string) (*Provider, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	p := &Provider{Issuer: issuer, Key: key, requests: make(map[string]*request), codes: make(map[string]string), sessions: make(map[string]*session)}
	config := &op.Config{CodeMethodS256: true, DefaultLogoutRedirectURI: issuer + "/bye", BackChannelLogoutSupported: true, BackChannelLogoutSessionSupported: true}
	rand.Read(config.CryptoKey[:])
	if p.oidc, err = op.NewProvider(config, (*storage)(p), op.StaticIssuer(issuer), op.WithAllowInsecure()); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", p.oidc)
	mux.HandleFunc("GET /login", p.loginPage)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("POST /logout", p.logout)
	mux.HandleFunc("GET /bye", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "bye") })
	p.Handler = mux
	return p, nil
}

var page = template.Must(template.New("").Parse(`<!doctype html><html lang=en><title>Provider</title>
<form method=post action=/login><input type=hidden name=id value="{{.}}">
<label>Name <input name=user autofocus></label><button name=do value=login>Continue</button><button name=do value=deny>Cancel</button></form>
<form method=post action=/logout><button>Log out everywhere</button></form>`))

// loginPage asks who it is, unless the browser is logged in.
func (p *Provider) loginPage(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if sid, s := p.session(r); s != nil && id != "" {
		p.grant(w, r, id, sid)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	page.Execute(w, id)
}

func (p *Provider) login(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if r.FormValue("do") == "deny" {
		p.deny(w, r, id)
		return
	}
	sid := rand.Text()
	p.mu.Lock()
	p.sessions[sid] = &session{user: r.FormValue("user"), clients: make(map[string]bool)}
	p.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: sid, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	p.grant(w, r, id, sid)
}

// grant sends the browser back to the client.
func (p *Provider) grant(w http.ResponseWriter, r *http.Request, id, sid string) {
	p.mu.Lock()
	q, s := p.requests[id], p.sessions[sid]
	if q != nil && s != nil {
		q.sid, q.user, q.at = sid, s.user, time.Now()
		back, err := url.Parse(q.RedirectURI)
		if err == nil {
			s.clients[back.Scheme+"://"+back.Host+"/backchannel-logout"] = true
		}
	}
	p.mu.Unlock()
	if q == nil {
		http.Error(w, "no such request", http.StatusBadRequest)
		return
	}
	http.Redirect(w, r, op.AuthCallbackURL(p.oidc)(op.ContextWithIssuer(r.Context(), p.Issuer), id), http.StatusSeeOther)
}

func (p *Provider) deny(w http.ResponseWriter, r *http.Request, id string) {
	p.mu.Lock()
	q := p.requests[id]
	p.mu.Unlock()
	if q == nil {
		http.Error(w, "no such request", http.StatusBadRequest)
		return
	}
	op.AuthRequestError(w, r, q, oidc.ErrAccessDenied().WithDescription("<b>the user has cancelled</b>"), p.oidc)
}

// logout is the provider's own: the browser's session ends, and with it those of all clients.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	sid, _ := p.session(r)
	p.end(r.Context(), sid)
	http.Redirect(w, r, "/bye", http.StatusSeeOther)
}

func (p *Provider) session(r *http.Request) (sid string, s *session) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return "", nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.Value, p.sessions[c.Value]
}

// Sessions returns the session IDs of a user's sessions at the provider.
func (p *Provider) Sessions(user string) (sids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for sid, s := range p.sessions {
		if s.user == user {
			sids = append(sids, sid)
		}
	}
	return sids
}

// end ends a session of the provider, and tells the clients (OpenID Connect Back-Channel Logout 1.0, section 2.5).
func (p *Provider) end(ctx context.Context, sid string) {
	p.mu.Lock()
	s := p.sessions[sid]
	delete(p.sessions, sid)
	p.mu.Unlock()
	if s == nil {
		return
	}
	for uri := range s.clients {
		claims := p.LogoutClaims()
		claims["sid"], claims["sub"] = sid, s.user
		if err := send(ctx, uri, p.Sign("logout+jwt", claims)); err != nil {
			slog.Warn("a client does not log out", "err", err)
		}
	}
}

// send posts a logout token to a client.
func send(ctx context.Context, uri, token string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", uri, res.Status)
	}
	return nil
}

// LogoutClaims returns those of a logout token that still lacks the session, or the user.
func (p *Provider) LogoutClaims() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": p.Issuer, "aud": ClientID, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": rand.Text(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
}

// Sign returns a JWT of the provider's.
func (p *Provider) Sign(typ string, claims any) string {
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", keyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.Key}, options)
	if err != nil {
		panic(err) // the key is its own
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err) // a claim that is no JSON
	}
	return text
}
