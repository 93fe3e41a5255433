package provider

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const keyID = "1"

// A storage is what the provider's library asks the Provider for.
type storage Provider

var (
	errNotFound    = errors.New("provider: not found")
	errUnsupported = errors.New("provider: unsupported")
)

// A request is an authorization request.
type request struct {
	oidc.AuthRequest
	id, sid, user string
	at            time.Time
}

func (q *request) GetID() string                      { return q.id }
func (q *request) GetACR() string                     { return "" }
func (q *request) GetAMR() []string                   { return nil }
func (q *request) GetAudience() []string              { return []string{q.ClientID} }
func (q *request) GetAuthTime() time.Time             { return q.at }
func (q *request) GetClientID() string                { return q.ClientID }
func (q *request) GetNonce() string                   { return q.Nonce }
func (q *request) GetRedirectURI() string             { return q.RedirectURI }
func (q *request) GetResponseType() oidc.ResponseType { return q.ResponseType }
func (q *request) GetResponseMode() oidc.ResponseMode { return q.ResponseMode }
func (q *request) GetScopes() []string                { return q.Scopes }
func (q *request) GetState() string                   { return q.State }
func (q *request) GetSubject() string                 { return q.user }
func (q *request) Done() bool                         { return q.sid != "" }

func (q *request) GetCodeChallenge() *oidc.CodeChallenge {
	if q.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: q.CodeChallenge, Method: q.CodeChallengeMethod}
}

func (s *storage) CreateAuthRequest(_ context.Context, q *oidc.AuthRequest, user string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	created := &request{AuthRequest: *q, id: rand.Text(), user: user}
	s.requests[created.id] = created
	return created, nil
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, ok := s.requests[id]; ok {
		snapshot := *q
		return &snapshot, nil
	}
	return nil, errNotFound
}

func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	if s.Exchanged != nil {
		s.Exchanged(code)
	}
	s.mu.Lock()
	id := s.codes[code]
	q := s.requests[id]
	lives := q != nil && s.sessions[q.sid] != nil
	s.mu.Unlock()
	if !lives { // also if the session that the code was given out in has ended
		return nil, errNotFound
	}
	return s.AuthRequestByID(ctx, id)
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), time.Now().Add(time.Hour), nil
}

func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errUnsupported
}

func (s *storage) TokenRequestByRefreshToken(context.Context, string) (op.RefreshTokenRequest, error) {
	return nil, op.ErrInvalidRefreshToken
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }

// TerminateSessionFromRequest ends the session that the ID token belongs to.
func (s *storage) TerminateSessionFromRequest(ctx context.Context, q *op.EndSessionRequest) (string, error) {
	if q.IDTokenHintClaims != nil {
		(*Provider)(s).end(ctx, q.IDTokenHintClaims.SessionID)
	}
	return q.RedirectURI, nil
}

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error { return nil }

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return privateKey{s}, nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) { return []op.Key{publicKey{s}}, nil }

type privateKey struct{ s *storage }

func (k privateKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k privateKey) Key() any                                    { return k.s.Key }
func (k privateKey) ID() string                                  { return keyID }

type publicKey struct{ s *storage }

func (k publicKey) ID() string                         { return keyID }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return &k.s.Key.PublicKey }

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != ClientID {
		return nil, errNotFound
	}
	return client{}, nil
}

func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != ClientID || secret != ClientSecret {
		return errNotFound
	}
	return nil
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills in what an ID token says.
func (s *storage) SetUserinfoFromRequest(_ context.Context, u *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	u.Subject = request.GetSubject()
	if slices.Contains(scopes, oidc.ScopeProfile) {
		u.Name = request.GetSubject()
	}
	if q, ok := request.(interface{ session() string }); ok {
		u.AppendClaims("sid", q.session())
	}
	return nil
}

func (q *request) session() string { return q.sid }

func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errUnsupported
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errUnsupported
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnsupported
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnsupported
}

func (s *storage) Health(context.Context) error { return nil }

// A client is the one that there is, under any address of this machine.
type client struct{}

func (client) GetID() string                        { return ClientID }
func (client) RedirectURIs() []string               { return nil }
func (client) PostLogoutRedirectURIs() []string     { return nil }
func (client) RedirectURIGlobs() []string           { return []string{"http://127.0.0.1:*/callback"} }
func (client) PostLogoutRedirectURIGlobs() []string { return []string{"http://127.0.0.1:*/logged-out"} }
func (client) ApplicationType() op.ApplicationType  { return op.ApplicationTypeWeb }
func (client) AuthMethod() oidc.AuthMethod          { return oidc.AuthMethodBasic }
func (client) ResponseTypes() []oidc.ResponseType   { return []oidc.ResponseType{oidc.ResponseTypeCode} }
func (client) GrantTypes() []oidc.GrantType         { return []oidc.GrantType{oidc.GrantTypeCode} }
func (client) LoginURL(id string) string            { return "/login?id=" + url.QueryEscape(id) }
func (client) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeBearer }
func (client) IDTokenLifetime() time.Duration       { return time.Hour }
func (client) DevMode() bool                        { return true }
func (client) IsScopeAllowed(string) bool           { return false }
func (client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (client) ClockSkew() time.Duration             { return 0 }

func (client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return same }
func (client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return same }

func same(scopes []string) []string { return scopes }
