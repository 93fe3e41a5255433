package main

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/examples/oidc/internal/provider"
)

// The provider's errors, and answers that are not to this browser's question, log nobody in and end no session.
func TestCallbackRefused(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	change := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	stranger := s.browser().begin("mallory", "/")
	theirs, err := url.Parse(stranger)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(url.Values){
		"no state":                                 func(q url.Values) { q.Del("state") },
		"another state":                            change("state", "made up"),
		"another browser's answer (login CSRF)":    func(q url.Values) { clear(q); copyTo(q, theirs.Query()) },
		"another browser's code (code injection)":  change("code", theirs.Query().Get("code")),
		"no code":                                  func(q url.Values) { q.Del("code") },
		"a code that is none":                      change("code", "made up"),
		"another provider's (mix-up)":              change("iss", "https://evil.example"),
		"an error":                                 change("error", "access_denied"),
		"an error that is markup":                  change("error", "<script>alert(1)</script>"),
		"an error and another browser's (CSRF)":    func(q url.Values) { clear(q); q.Set("error", "x"); q.Set("state", theirs.Query().Get("state")) },
		"two states, of which one is this login's": func(q url.Values) { q["state"] = []string{"made up", q.Get("state")} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, user := range []string{"", "ann"} {
				b := s.browser()
				if user != "" {
					b.login(user)
				}
				u, err := url.Parse(b.begin("bob", "/"))
				if err != nil {
					t.Fatal(err)
				}
				q := u.Query()
				edit(q)
				b.leads("/callback?"+q.Encode(), failed)
				b.want(user)
				if a := b.send(failed, nil); user == "" && !strings.Contains(a.body, "come to nothing") || strings.Contains(a.body, "<script>") {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
}

// An ID token that is not what this login asked for logs nobody in, whoever has signed it.
func TestIDTokenRefused(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	// with has the provider sign the token once more, with another claim.
	with := func(name string, value any) func(string) string {
		return func(raw string) string {
			claims := claimsOf(t, raw)
			if claims[name] = value; value == nil {
				delete(claims, name)
			}
			return s.op.Sign("JWT", claims)
		}
	}
	for name, test := range map[string]struct {
		forge func(raw string) string
		good  bool
	}{
		"as it is":            {func(raw string) string { return raw }, true},
		"signed once more":    {with("name", "ann"), true},
		"for two, and for us": {with("aud", []string{"another", provider.ClientID}), true}, // azp is this client
		"none":                {func(string) string { return "" }, false},
		"another nonce":       {with("nonce", "made up"), false},
		"no nonce":            {with("nonce", nil), false},
		"another issuer":      {with("iss", "https://evil.example"), false},
		"another client":      {with("aud", "another"), false},
		"for another, by azp": {with("azp", "another"), false},
		"for two, without azp": {func(raw string) string {
			return with("azp", nil)(with("aud", []string{"another", provider.ClientID})(raw))
		}, false},
		"of nobody":      {with("sub", nil), false},
		"expired":        {with("exp", time.Now().Add(-time.Minute).Unix()), false},
		"a logout token": {func(string) string { return s.logoutToken(map[string]any{"sub": "ann"}) }, false},
		"alg none":       {func(raw string) string { return forged(t, `{"alg":"none"}`, strings.Split(raw, ".")[1], nil) }, false},
		"alg HS256, the client's": {func(raw string) string {
			return forged(t, `{"alg":"HS256"}`, strings.Split(raw, ".")[1], []byte(provider.ClientSecret))
		}, false},
		"alg HS256, the public key": {func(raw string) string {
			return forged(t, `{"alg":"HS256","kid":"1"}`, strings.Split(raw, ".")[1], publicPEM(t, &s.op.Key.PublicKey))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.browser()
			callback := b.begin("ann", "/members/")
			s.mu.Lock()
			s.forge = test.forge
			s.mu.Unlock()
			if test.good {
				b.leads(callback, "/members/")
				b.want("ann")
			} else {
				b.leads(callback, failed)
				b.want("")
			}
		})
	}
}

// A provider that says so names itself in each answer (RFC 9207).
func TestIssuerIsNamed(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	s.rp.provider.NamesIssuer = true
	b := s.browser()
	callback := b.begin("ann", "/members/")
	b.leads(callback, failed)
	b.leads(b.begin("ann", "/members/")+"&iss="+url.QueryEscape(s.op.Issuer), "/members/")
}

// An attacker who had a cookie in the victim's browser before the login has nothing after it.
func TestPlantedCookie(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	evil, b := s.browser(), s.browser()
	callback := evil.begin("mallory", "/")
	at, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(at, evil.client.Jar.Cookies(at))
	b.login("ann")
	evil.want("")
	evil.leads(callback, failed)
	evil.want("")
	b.want("ann")
}

func claimsOf(t *testing.T, raw string) (claims map[string]any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func copyTo(to, from url.Values) {
	for name, values := range from {
		to[name] = values
	}
}

// Whatever is asked for, a login ends on this site.
func TestReturn(t *testing.T) {
	for to, want := range map[string]string{
		"":                               "/",
		"/members/a?b=c&d=%2F":           "/members/a?b=c&d=%2F",
		"/members/%2F..%2Fx":             "/members//../x",
		"//evil.example/":                "/",
		"///evil.example/":               "/evil.example/",
		"https://evil.example/a":         "/a",
		"https:evil.example":             "/",
		"/\\evil.example":                "/%5Cevil.example",
		"\\\\evil.example":               "/%5C%5Cevil.example",
		"/\t/evil.example":               "/",
		"/a/..//evil.example":            "/a/..//evil.example",
		"javascript:alert(1)":            "/",
		"/x\r\nSet-Cookie: a=b":          "/",
		"@evil.example":                  "/@evil.example",
		"/" + strings.Repeat("x", maxTo): "/",
	} {
		if got := local(to); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
	}
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	b.leads(b.begin("ann", "//evil.example//evil.example"), "/evil.example")
}
