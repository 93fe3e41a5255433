package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/examples/oidc/internal/provider"
	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

// A site is the application, and a provider for it.
type site struct {
	t     *testing.T
	op    *provider.Provider
	rp    *relyingParty
	app   http.Handler
	base  string
	store session.Store

	mu        sync.Mutex
	exchanged map[string]int              // how often, by code
	forge     func(idToken string) string // takes the place of ID tokens, unless nil
}

func newSite(t *testing.T, store session.Store) *site {
	t.Helper()
	s := &site{t: t, store: store, exchanged: make(map[string]int)}
	opServer := httptest.NewUnstartedServer(http.HandlerFunc(s.serveProvider))
	_, port, _ := strings.Cut(opServer.Listener.Addr().String(), ":")
	var err error
	if s.op, err = provider.New("http://localhost:" + port); err != nil {
		t.Fatal(err)
	}
	s.op.Exchanged = func(code string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.exchanged[code]++
	}
	opServer.Start()
	t.Cleanup(opServer.Close)
	appServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.app.ServeHTTP(w, r) }))
	t.Cleanup(appServer.Close)
	s.base = appServer.URL
	s.rp, s.app = s.process()
	return s
}

// process returns the application once more, as another process would have it.
func (s *site) process() (*relyingParty, http.Handler) {
	s.t.Helper()
	c := &config{base: s.base, issuer: s.op.Issuer, client: provider.ClientID, clientSecret: provider.ClientSecret, secret: strings.Repeat("s", 32)}
	rp, handler, err := newApp(s.t.Context(), s.store, c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { rp.sessions.Close() })
	return rp, handler
}

// A browser has cookies of both, and follows redirects only where it is told to.
type browser struct {
	*site
	client *http.Client
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{s, &http.Client{Jar: jar, CheckRedirect: stay, Timeout: time.Minute}}
}

// An answer is a response that was read.
type answer struct {
	status   int
	location string // absolute
	body     string
	header   http.Header
}

// send sends a request, to the application if the address has no host. A form makes it a POST.
func (b *browser) send(address string, form url.Values) answer {
	b.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.base + address
	}
	method, body := http.MethodGet, ""
	if form != nil {
		method, body = http.MethodPost, form.Encode()
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Error(err) // also on other goroutines than the test's
		return answer{}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Error(err)
	}
	a := answer{status: res.StatusCode, body: string(text), header: res.Header}
	if to, err := res.Location(); err == nil {
		a.location = to.String()
	}
	return a
}

var requestID = regexp.MustCompile(`name=id value="([^"]+)"`)

// follow goes on from an answer, gives the provider the user's name where it asks, and stops before an address that begins
// with stop, or where no redirect leads on.
func (b *browser) follow(a answer, user, stop string) answer {
	b.t.Helper()
	for range 10 {
		switch ask := requestID.FindStringSubmatch(a.body); {
		case stop != "" && strings.HasPrefix(a.location, stop):
			return a
		case a.location != "":
			a = b.send(a.location, nil)
		case ask != nil && user == "":
			a = b.send(b.op.Issuer+"/login", url.Values{"id": {ask[1]}, "do": {"deny"}})
		case ask != nil:
			a = b.send(b.op.Issuer+"/login", url.Values{"id": {ask[1]}, "do": {"login"}, "user": {user}})
		default:
			return a
		}
	}
	b.t.Error("the redirects do not end")
	return a
}

// begin begins a login in a tab, and returns the address of the callback.
func (b *browser) begin(user, to string) string {
	b.t.Helper()
	a := b.follow(b.send("/login?"+url.Values{"to": {to}}.Encode(), nil), user, b.base+"/callback")
	if a.location == "" {
		b.t.Fatalf("no callback: %d %s", a.status, a.body)
	}
	return a.location
}

// login logs in.
func (b *browser) login(user string) {
	b.t.Helper()
	if a := b.follow(b.send("/login", nil), user, ""); !strings.Contains(a.body, "Hello, "+user) {
		b.t.Fatalf("%s is not logged in: %d %s", user, a.status, a.body)
	}
}

// want checks who is logged in, empty for nobody.
func (b *browser) want(user string) {
	b.t.Helper()
	a := b.send("/", nil)
	if got := strings.Contains(a.body, "Hello, "); got != (user != "") || !strings.Contains(a.body, "Hello, "+user) && user != "" {
		b.t.Errorf("want %q logged in, got %d %s", user, a.status, a.body)
	}
}

// leads checks where a request leads.
func (b *browser) leads(address, to string) {
	b.t.Helper()
	if a := b.send(address, nil); a.location != b.base+to {
		b.t.Errorf("it leads to %q (%d), want %q", a.location, a.status, to)
	}
}

// cookie returns the value of a cookie of the application's, or of the provider's.
func (b *browser) cookie(at, name string) string {
	u, err := url.Parse(at)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// A handlerTransport has a handler answer in place of the network.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	res.Request = r
	return res, nil
}

// serveProvider answers in the place of the provider.
func (s *site) serveProvider(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	forge := s.forge
	s.mu.Unlock()
	if forge == nil || r.URL.Path != "/oauth/token" {
		s.op.ServeHTTP(w, r)
		return
	}
	genuine := httptest.NewRecorder()
	s.op.ServeHTTP(genuine, r)
	var tokens map[string]any
	if err := json.Unmarshal(genuine.Body.Bytes(), &tokens); err != nil {
		s.t.Error(err)
	}
	if raw, ok := tokens["id_token"].(string); ok {
		tokens["id_token"] = forge(raw)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(tokens)
}
