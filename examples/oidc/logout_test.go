package main

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/examples/oidc/internal/provider"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
)

// tell sends a logout token as the provider's server does, which has no cookies.
func (s *site) tell(token string) answer {
	s.t.Helper()
	a := s.browser().send("/backchannel-logout", url.Values{"logout_token": {token}})
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Set-Cookie") != "" || a.body != "" {
		s.t.Errorf("%q with %v", a.body, a.header)
	}
	return a
}

// logoutToken returns one with other claims than usual; nil leaves one out.
func (s *site) logoutToken(claims map[string]any) string {
	all := s.op.LogoutClaims()
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return s.op.Sign("logout+jwt", all)
}

// eachStore runs a test on a store of each of some kinds.
func eachStore(t *testing.T, test func(t *testing.T, store session.Store)) {
	for _, name := range []string{"memory", "redis", "postgres", "memcached"} {
		t.Run(name, func(t *testing.T) {
			kind, ok := storetest.Named(name)
			if !ok {
				t.Fatal("there is no such kind")
			}
			test(t, kind.New(t))
		})
	}
}

// The provider logs out one of its sessions, and the sessions that began in it end, in whatever process; then all of a user's.
func TestBackchannelLogout(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store)
		phone, laptop, bob := s.browser(), s.browser(), s.browser()
		phone.login("ann")
		sid := s.op.Sessions("ann")[0]
		laptop.login("ann")
		bob.login("bob")

		s.rp, s.app = s.process() // the one that is told is not the one where they logged in
		if a := s.tell(s.logoutToken(map[string]any{"sid": sid, "sub": "ann"})); a.status != http.StatusOK {
			t.Errorf("by sid: %d", a.status)
		}
		phone.want("")
		laptop.want("ann")
		phone.login("ann") // with what it still has of the provider's
		if a := s.tell(s.logoutToken(map[string]any{"sub": "ann"})); a.status != http.StatusOK {
			t.Errorf("by sub: %d", a.status)
		}
		phone.want("")
		laptop.want("")
		bob.want("bob")
		phone.login("ann")
		phone.want("ann")
		for name, claims := range map[string]map[string]any{"sid": {"sid": "unknown"}, "sub": {"sub": "nobody"}} { // nothing to do is no fault
			if a := s.tell(s.logoutToken(claims)); a.status != http.StatusOK {
				t.Errorf("an unknown %s: %d", name, a.status)
			}
		}
		phone.want("ann")
		bob.want("bob")
	})
}

// A browser logs out at the provider itself, and by another application of the provider's: both end the session here.
func TestLogoutAtProvider(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b, other := s.browser(), s.browser()
	b.login("ann")
	other.login("ann")
	if a := b.send(s.op.Issuer+"/logout", url.Values{}); a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, a.body)
	}
	b.want("")
	other.want("ann")
}

// A logout token that was used once is worth nothing: it cannot log the user out again who has come back.
func TestLogoutTokenTwice(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store)
		b := s.browser()
		b.login("ann")
		token := s.logoutToken(map[string]any{"sub": "ann"})
		if a := s.tell(token); a.status != http.StatusOK {
			t.Error(a.status)
		}
		b.want("")
		b.login("ann")
		s.rp, s.app = s.process()
		if a := s.tell(token); a.status != http.StatusBadRequest {
			t.Error(a.status)
		}
		b.want("ann")
	})
}

// Logins and logouts at once: a login comes in, or ends with the session that it began in; nothing else fails, no session is left
// that was to end, and nobody is locked out.
func TestBackchannelRaces(t *testing.T) {
	eachStore(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store)
		var all sync.WaitGroup
		browsers := make(chan *browser, 4)
		for range cap(browsers) {
			all.Go(func() {
				b := s.browser()
				for range 5 {
					a := b.follow(b.send("/login", nil), "ann", s.base+"/callback")
					if a.location != "" {
						a = b.send(a.location, nil)
					}
					if a.status != http.StatusSeeOther && a.status != http.StatusConflict {
						t.Errorf("%d %s", a.status, a.body)
					}
				}
				browsers <- b
			})
			all.Go(func() {
				for range 25 {
					if a := s.tell(s.logoutToken(map[string]any{"sub": "ann"})); a.status != http.StatusOK {
						t.Error(a.status)
					}
				}
			})
		}
		all.Wait()
		if a := s.tell(s.logoutToken(map[string]any{"sub": "ann"})); a.status != http.StatusOK {
			t.Error(a.status)
		}
		if list, err := s.rp.sessions.Sessions(t.Context(), session.OfUser(s.op.Issuer+"#ann")); err != nil || len(list) > 0 {
			t.Errorf("there are still %v, %v", list, err)
		}
		close(browsers)
		for b := range browsers {
			b.want("")
			b.login("ann")
		}
	})
}

// What is no logout token of the provider's for this client, and fresh, logs nobody out.
func TestLogoutTokenRefused(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	b.login("ann")
	good := map[string]any{"sub": "ann", "sid": s.op.Sessions("ann")[0]}
	with := func(name string, value any) string {
		claims := maps.Clone(good)
		claims[name] = value
		return s.logoutToken(claims)
	}
	valid := s.logoutToken(good)
	parts := strings.Split(valid, ".")
	now := time.Now()
	for name, token := range map[string]string{
		"empty":                         "",
		"no token":                      "made up",
		"no signature":                  parts[0] + "." + parts[1] + ".",
		"another signature":             parts[0] + "." + parts[1] + "." + strings.Split(s.logoutToken(good), ".")[2],
		"two signatures":                twice(t, parts),
		"alg none":                      forged(t, `{"alg":"none"}`, parts[1], nil),
		"alg HS256, the client's":       forged(t, `{"alg":"HS256","kid":"1"}`, parts[1], []byte(provider.ClientSecret)),
		"alg HS256, the public key":     forged(t, `{"alg":"HS256","kid":"1"}`, parts[1], publicPEM(t, &s.op.Key.PublicKey)),
		"another key":                   otherKey(t, s, good),
		"another issuer":                with("iss", "https://evil.example"),
		"no issuer":                     with("iss", nil),
		"another client":                with("aud", "another"),
		"no client":                     with("aud", nil),
		"expired":                       with("exp", now.Add(-time.Minute).Unix()),
		"no exp":                        with("exp", nil),
		"of long ago":                   with("iat", now.Add(-fresh-time.Minute).Unix()),
		"of the future":                 with("iat", now.Add(clockSkew+time.Minute).Unix()),
		"no iat":                        with("iat", nil),
		"no jti":                        with("jti", nil),
		"a nonce":                       with("nonce", "n"),
		"a nonce that is null":          with("nonce", json.RawMessage("null")),
		"no events":                     with("events", nil),
		"other events":                  with("events", map[string]any{"http://schemas.openid.net/event/other": map[string]any{}}),
		"an event that is null":         with("events", map[string]any{logoutKind: nil}),
		"an event that is text":         with("events", map[string]any{logoutKind: "x"}),
		"an event of other case":        with("events", map[string]any{strings.ToUpper(logoutKind): map[string]any{}}),
		"neither sid nor sub":           s.logoutToken(nil),
		"an ID token":                   idTokenOf(t, s, "ann"),
		"an ID token without its nonce": s.op.Sign("JWT", map[string]any{"iss": s.op.Issuer, "aud": provider.ClientID, "sub": "ann", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "1"}),
	} {
		t.Run(name, func(t *testing.T) {
			if a := s.tell(token); a.status != http.StatusBadRequest {
				t.Errorf("it is answered with %d", a.status)
			}
			b.want("ann")
		})
	}
	if a := b.send("/backchannel-logout?logout_token="+valid, nil); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET is answered with %d", a.status)
	}
	if a := b.send("/backchannel-logout?logout_token="+valid, url.Values{}); a.status != http.StatusBadRequest { // ASVS 14.2.1
		t.Errorf("a token in the URL is answered with %d", a.status)
	}
	b.want("ann")
	if a := s.tell(valid); a.status != http.StatusOK {
		t.Errorf("the valid one is answered with %d", a.status)
	}
	b.want("")
}

// A logout that fails is told, whichever call of the store it is that fails, and the same token is good for another try.
func TestBackchannelStoreDown(t *testing.T) {
	for _, op := range []double.Op{double.Load, double.Save} {
		for n, done := 0, false; !done; n++ {
			down := double.New(session.NewMemoryStore())
			s := newSite(t, down)
			b := s.browser()
			b.login("ann")
			token := s.logoutToken(map[string]any{"sub": "ann"})
			calls := 0
			down.Hook(func(ctx context.Context, c *double.Call, next func(context.Context) error) error {
				if c.Op != op {
					return next(ctx)
				}
				if calls++; calls > n {
					return errors.New("the store is down")
				}
				return next(ctx)
			})
			switch a := s.tell(token); {
			case calls <= n:
				if done = true; n < 2 || a.status != http.StatusOK {
					t.Errorf("after %d calls of %v: %d", calls, op, a.status)
				}
			case a.status == http.StatusBadRequest:
				down.Hook()
				if a := s.tell(token); a.status != http.StatusOK {
					t.Errorf("the second try, after call %d of %v has failed: %d", n, op, a.status)
				}
			case a.status != http.StatusOK: // what it takes was done by then
				t.Errorf("call %d of %v has failed: %d", n, op, a.status)
			}
			down.Hook()
			b.want("")
		}
	}
}

func encode(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

// forged returns a token with that header, and a payload of another's, signed with an HMAC key, or with nothing.
func forged(t *testing.T, header, payload string, key []byte) string {
	t.Helper()
	signed := encode([]byte(header)) + "." + payload
	if key == nil {
		return signed + "."
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil))
}

// twice returns a token in JSON, with the genuine signature and one of nobody's.
func twice(t *testing.T, parts []string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"payload": parts[1], "signatures": []map[string]string{
		{"protected": parts[0], "signature": parts[2]}, {"protected": parts[0], "signature": parts[2]},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func publicPEM(t *testing.T, key *rsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// otherKey returns a token of a provider that says it is this one.
func otherKey(t *testing.T, s *site, claims map[string]any) string {
	t.Helper()
	evil, err := provider.New(s.op.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	all := evil.LogoutClaims()
	maps.Copy(all, claims)
	return evil.Sign("logout+jwt", all)
}

// idTokenOf returns a genuine ID token of a login.
func idTokenOf(t *testing.T, s *site, user string) string {
	t.Helper()
	b := s.browser()
	b.login(user)
	u, err := url.Parse(b.send("/logout", url.Values{}).location)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("id_token_hint")
}
