package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"example.com/session"
)

// A relyingParty logs users in and out by an OpenID provider: by the authorization code flow of OpenID Connect Core 1.0 with
// PKCE (RFC 7636), RP-Initiated Logout 1.0 and Back-Channel Logout 1.0. It is safe for concurrent use, in any number of processes.
type relyingParty struct {
	sessions *session.Manager
	store    session.Store // of the sessions; it keeps what counts once as well
	issuer   string
	base     string // the address under which browsers find the application
	client   *http.Client
	oauth2   oauth2.Config
	verifier *oidc.IDTokenVerifier
	provider metadata
}

// metadata is what the provider says of itself, beside what go-oidc reads (OpenID Connect Discovery 1.0).
type metadata struct {
	EndSession  string   `json:"end_session_endpoint"`
	NamesIssuer bool     `json:"authorization_response_iss_parameter_supported"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
}

// A login has been sent to the provider, and is to come back.
type login struct{ State, Nonce, Verifier, To string }

const (
	pending session.Key[[]login] = "oidc_logins" // of all tabs of the browser
	idToken session.Key[string]  = "oidc_token"  // to log out with; it names the user: think of Options.EncryptAtRest
	name    session.Key[string]  = "name"
	leaving session.Key[string]  = "oidc_leaving" // the state of a logout

	maxPending = 8                // more tabs than anybody logs in with at once; the oldest is given up
	maxTo      = 2 << 10          // of the address to return to, in bytes
	fresh      = 10 * time.Minute // how old a logout token may be, and how long it is known that something has been used
	clockSkew  = time.Minute      // of the provider's clock
	logoutKind = "http://schemas.openid.net/event/backchannel-logout"
)

// newRelyingParty asks the provider where it does what. The manager's store is store.
func newRelyingParty(ctx context.Context, m *session.Manager, store session.Store, c *config) (*relyingParty, error) {
	p := &relyingParty{sessions: m, store: store, issuer: c.issuer, base: c.base, client: &http.Client{Timeout: 10 * time.Second}}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), c.issuer)
	if err != nil {
		return nil, err
	}
	if err := provider.Claims(&p.provider); err != nil {
		return nil, err
	}
	// No algorithm but those with the provider's public key is accepted, whatever a token says: neither "none" nor HMAC.
	p.verifier = provider.Verifier(&oidc.Config{ClientID: c.client})
	endpoint := provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader // not left to trial and error, which sends a code twice
	if methods := p.provider.AuthMethods; len(methods) > 0 && !slices.Contains(methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	p.oauth2 = oauth2.Config{ClientID: c.client, ClientSecret: c.clientSecret, Endpoint: endpoint, RedirectURL: c.base + "/callback", Scopes: []string{oidc.ScopeOpenID, "profile"}}
	return p, nil
}

// user returns who the session's user is: a provider's names are its own, and an issuer has no "#" (Core 1.0, section 2).
func (p *relyingParty) user(sub string) string { return p.issuer + "#" + sub }

// label returns what the sessions have in common that began in one session of the provider.
func (p *relyingParty) label(sid string) session.Label {
	return session.Label{Name: "sid of " + p.issuer, Value: sid}
}

// begin sends the browser to the provider. The answer will be checked by what stays here, in the session: state (it is this
// browser that asked, RFC 6749 section 10.12), nonce (the ID token is for this login) and the verifier of PKCE (the code is).
func (p *relyingParty) begin(w http.ResponseWriter, r *http.Request) {
	l := login{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), To: local(r.FormValue("to"))}
	pending.Update(session.FromContext(r.Context()), func(all []login) []login {
		return append(all[max(0, len(all)-maxPending+1):], l)
	})
	http.Redirect(w, r, p.oauth2.AuthCodeURL(l.State, oidc.Nonce(l.Nonce), oauth2.S256ChallengeOption(l.Verifier)), http.StatusSeeOther)
}

// local returns an address of this site, whatever it is given: it would lead elsewhere with a host, or with "//" or "/\".
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || len(to) > maxTo {
		return "/"
	}
	return (&url.URL{Path: "/" + strings.TrimLeft(u.Path, "/"), RawQuery: u.RawQuery}).String()
}

// callback is where the provider sends the browser back to. A state that is not this session's changes nothing: it was used before,
// another browser's, or somebody has made it up. The browser goes to the front page then, which shows whether it is logged in.
func (p *relyingParty) callback(w http.ResponseWriter, r *http.Request) {
	s, q := session.FromContext(r.Context()), r.URL.Query()
	all, _ := pending.Get(s)
	i := slices.IndexFunc(all, func(l login) bool { return l.State == q.Get("state") })
	if i < 0 {
		p.refuse(w, r, errors.New("no such state in this session"))
		return
	}
	l := all[i]
	// The session takes note as well, but two requests at the same instant would both find the state there.
	if first, err := p.use(r.Context(), "state", l.State); !first {
		p.refuse(w, r, errors.Join(errTwice, err))
		return
	}
	without := func(all []login) []login {
		return slices.DeleteFunc(all, func(other login) bool { return other.State == l.State })
	}
	pending.Update(s, without)
	id, raw, err := p.redeem(r.Context(), q, &l)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	if before := s.User(); before != "" && before != p.user(id.Subject) { // what was somebody else's goes, but for the logins of other tabs
		s.Clear()
		pending.Set(s, without(all))
	}
	idToken.Set(s, raw)
	name.Set(s, id.Name)
	var labels []session.Label
	if id.SID != "" {
		labels = append(labels, p.label(id.SID))
	}
	s.SetUser(p.user(id.Subject), labels...) // a new cookie: whoever has planted the one before, or has a copy, has nothing now
	http.Redirect(w, r, l.To, http.StatusSeeOther)
}

// An identity is what an ID token says.
type identity struct {
	Subject string `json:"sub"`
	SID     string `json:"sid"`
	Name    string `json:"name"`
	AZP     string `json:"azp"`
}

// redeem exchanges the code of an answer for an ID token, and checks that (Core 1.0, section 3.1.3.7).
func (p *relyingParty) redeem(ctx context.Context, answer url.Values, l *login) (id identity, raw string, err error) {
	// An answer of another provider's was to be redeemed here (mix-up, RFC 9207).
	if iss := answer.Get("iss"); iss != p.issuer && (iss != "" || p.provider.NamesIssuer) {
		return id, "", fmt.Errorf("the answer is of %q", iss)
	}
	if fault := answer.Get("error"); fault != "" {
		return id, "", fmt.Errorf("the provider says %q: %q", fault, answer.Get("error_description"))
	}
	ctx = oidc.ClientContext(ctx, p.client)
	tokens, err := p.oauth2.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return id, "", err
	}
	raw, _ = tokens.Extra("id_token").(string)
	token, err := p.verifier.Verify(ctx, raw)
	if err != nil {
		return id, "", err
	}
	if err := token.Claims(&id); err != nil {
		return id, "", err
	}
	switch {
	case token.Nonce != l.Nonce:
		err = errors.New("the ID token has another nonce")
	case id.Subject == "":
		err = errors.New("the ID token names nobody")
	case id.AZP != "" && id.AZP != p.oauth2.ClientID, id.AZP == "" && len(token.Audience) > 1:
		err = fmt.Errorf("the ID token is for %q", id.AZP)
	}
	return id, raw, err
}

// refuse sends the browser to the front page. The provider's words are for the log alone: anybody can make them up.
func (p *relyingParty) refuse(w http.ResponseWriter, r *http.Request, err error) {
	slog.WarnContext(r.Context(), "login refused", "err", err)
	http.Redirect(w, r, "/?login=failed", http.StatusSeeOther)
}

// logout ends the session here, and then the provider's (RP-Initiated Logout 1.0). If the session cannot be ended, the browser
// gets the manager's error in place of the redirect.
func (p *relyingParty) logout(w http.ResponseWriter, r *http.Request) {
	s, to := session.FromContext(r.Context()), "/"
	hint, _ := idToken.Get(s)
	s.Destroy()
	if end, err := url.Parse(p.provider.EndSession); err == nil && end.Host != "" && hint != "" {
		state, q := rand.Text(), end.Query()
		leaving.Set(s, state) // in a new session, that of a visitor
		q.Set("id_token_hint", hint)
		q.Set("post_logout_redirect_uri", p.base+"/logged-out")
		q.Set("state", state)
		end.RawQuery = q.Encode()
		to = end.String()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// loggedOut is where the provider sends the browser after a logout.
func (p *relyingParty) loggedOut(w http.ResponseWriter, r *http.Request) {
	state, ok := leaving.Pop(session.FromContext(r.Context()))
	if !ok || state != r.FormValue("state") {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	fmt.Fprintln(w, "You are logged out, here and at the provider.")
}

// backchannel is for the provider's server, which has no cookie: a session of its own has ended, in whatever browser.
func (p *relyingParty) backchannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	n, err := p.endBy(r.Context(), r.PostFormValue("logout_token"))
	slog.InfoContext(r.Context(), "back-channel logout", "ended", n, "err", err)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest) // also if the store is down (section 2.8); the provider may try again
	}
}

// endBy checks a logout token (Back-Channel Logout 1.0, section 2.6), and ends the sessions that it means: those of one session of
// the provider's, or of a user if it names none.
func (p *relyingParty) endBy(ctx context.Context, raw string) (n int, err error) {
	t, err := p.verifier.VerifyLogout(ctx, raw) // signature, iss, aud, exp; a jti, no nonce, sub or sid
	if err != nil {
		return 0, err
	}
	var claims struct {
		Events map[string]map[string]any `json:"events"`
	}
	age := time.Since(t.IssuedAt)
	if err := t.Claims(&claims); err != nil || claims.Events[logoutKind] == nil || age < -clockSkew || age > fresh {
		return 0, fmt.Errorf("the token, of %v, tells of no logout: %v", t.IssuedAt, err)
	}
	if _, err := p.store.Load(session.WithoutCache(ctx), usedID("jti", t.TokenID)); !errors.Is(err, session.ErrNotFound) {
		return 0, errors.Join(errTwice, err)
	}
	group := session.OfUser(p.user(t.Subject))
	if t.SessionID != "" {
		group = session.Labelled(p.label(t.SessionID))
	}
	if n, err = p.sessions.EndSessions(ctx, group); err != nil {
		return n, err
	}
	// Only now: if this process dies in between, the provider can send the token again, and nobody stays logged in.
	_, err = p.use(ctx, "jti", t.TokenID)
	return n, err
}

var errTwice = errors.New("it came before, or nobody can tell")

// use reports whether it is the first call for that name, of all processes': a store saves only what nobody else saved first.
func (p *relyingParty) use(ctx context.Context, what, name string) (first bool, err error) {
	err = p.store.Save(ctx, usedID(what, name), session.Record{Expires: time.Now().Add(fresh + clockSkew)})
	if errors.Is(err, session.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// usedID returns the ID of a record that says that something has been used. To cmd/session, it is a foreign record.
func usedID(what, name string) session.ID {
	return sha256.Sum256(fmt.Appendf(nil, "oidc used %q %q", what, name))
}
