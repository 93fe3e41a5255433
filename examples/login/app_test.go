package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/sessiontest"
)

// site runs a test of the application, without a network and with a clock that moves when all wait for it.
func site(t *testing.T, test func(t *testing.T, newBrowser func() *browser)) {
	t.Helper()
	siteOn(t, session.NewMemoryStore(), test)
}

func siteOn(t *testing.T, store session.Store, test func(t *testing.T, newBrowser func() *browser)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		people := newAccounts(1) // the hash has a test of its own
		if err := people.setPassword("ann", password); err != nil {
			t.Fatal(err)
		}
		a, err := newApp(store, []byte(strings.Repeat("s", 32)), people, true, 0, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer a.sessions.Close()
		test(t, func() *browser { return newBrowser(t, "https://login.example.test", inProcess{a}) })
	})
}

// login logs the browser in.
func (b *browser) login(values ...string) {
	b.t.Helper()
	b.get("/login")
	b.submit("/login", append(values, "user", "ann", "password", password)...)
	b.wants(http.StatusOK, "/", "Welcome, ann")
}

func TestCookie(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b := newBrowser()
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		b.get("/login")
		for _, remember := range []string{"", "yes"} {
			b.get("/login")
			b.submit("/login", "user", "ann", "password", password, "remember", remember)
			got := b.header.Get("Set-Cookie")
			name, rest, _ := strings.Cut(got, "=")
			_, attributes, _ := strings.Cut(rest, "; ")
			want := "Path=/; HttpOnly; Secure; SameSite=Lax"
			if remember != "" {
				want = "Path=/; Expires=Mon, 31 Jan 2000 00:00:00 GMT; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax"
			}
			if name != "__Host-session" || attributes != want {
				t.Errorf("remember %q: %s; %s, want %s", remember, name, attributes, want)
			}
			b.get("/")
			b.submit("/logout")
		}
	})
}

func TestTimeouts(t *testing.T) {
	tests := []struct {
		remember string
		idle     time.Duration // between two requests
		total    time.Duration
		ok       bool
	}{
		{"", 14 * time.Minute, 11 * time.Hour, true},
		{"", 16 * time.Minute, 16 * time.Minute, false},
		{"", 14 * time.Minute, 13 * time.Hour, false},
		{"yes", 24 * time.Hour, 29 * 24 * time.Hour, true},
		{"yes", 24 * time.Hour, 31 * 24 * time.Hour, false},
	}
	for _, test := range tests {
		site(t, func(t *testing.T, newBrowser func() *browser) {
			b := newBrowser()
			b.login("remember", test.remember)
			for passed := time.Duration(0); passed < test.total; passed += test.idle {
				time.Sleep(test.idle)
				b.get("/")
			}
			if ok := b.path == "/"; ok != test.ok {
				t.Errorf("remember %q, used every %v for %v: logged in is %v", test.remember, test.idle, test.total, ok)
			}
		})
	}
}

func TestFormTokens(t *testing.T) {
	posts := map[string][]string{
		"/logout":             nil,
		"/devices/end":        {"handle", "0"},
		"/devices/end-others": nil,
		"/confirm":            {"password", password},
		"/password":           {"password", password2, "again", password2},
	}
	for path, values := range posts {
		t.Run(path, func(t *testing.T) {
			site(t, func(t *testing.T, newBrowser func() *browser) {
				refused := "That form was sent before"
				b, other := newBrowser(), newBrowser()
				other.login()
				b.login()
				used := b.token() // of the page that the login led to
				b.get("/devices")
				b.post(path, values...)
				b.wants(http.StatusOK, b.path, refused)
				b.post(path, append(values, session.FormTokenField, other.token())...)
				b.wants(http.StatusOK, b.path, refused)
				b.post(path, append(values, session.FormTokenField, used)...)
				if strings.Contains(b.text, refused) {
					t.Errorf("its own token is refused:\n%s", b.text)
				}
				b.post(path, append(values, session.FormTokenField, used)...)
				if path == "/logout" { // who is logged out already has no session that a form could be of
					refused = "Log in"
				}
				b.wants(http.StatusOK, b.path, refused)
			})
		})
	}
}

func TestDevices(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		a, b, c := newBrowser(), newBrowser(), newBrowser()
		for _, x := range []*browser{a, b, c} {
			x.login()
		}
		a.get("/devices")
		a.wants(http.StatusOK, "/devices", "3 devices")
		a.submit("/devices/end", "handle", first(t, a.text, `name="handle" value="([0-9a-f]+)"`))
		a.wants(http.StatusOK, "/devices", "2 devices")
		a.post("/devices/end-others", session.FormTokenField, a.token())
		a.wants(http.StatusOK, "/devices", "this device only", "All your other devices are logged out")
		for _, x := range []*browser{b, c} {
			x.get("/")
			x.wants(http.StatusOK, "/login", "You have been logged out")
			x.login()
		}
	})
}

// The page's words for a phone. The sessions are there as the test makes them, without a login.
func TestDevicesPage(t *testing.T) {
	a, err := newApp(session.NewMemoryStore(), []byte(strings.Repeat("s", 32)), newAccounts(1), true, 0, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer a.sessions.Close()
	phone, laptop := sessiontest.NewClient(t, a.sessions, a), sessiontest.NewClient(t, a.sessions, a)
	phone.Header.Set("User-Agent", "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0")
	phone.RemoteAddr = "198.51.100.7:1234"
	for _, c := range []*sessiontest.Client{phone, laptop} {
		c.Session(func(s *session.Session) { s.SetUser("ann") })
	}
	page, err := io.ReadAll(laptop.Do(httptest.NewRequest("GET", "/devices", nil)).Body)
	for _, want := range []string{"2 devices", "Firefox on Android", "198.51.100.7"} {
		if !strings.Contains(string(page), want) || err != nil {
			t.Errorf("the page lacks %q, %v:\n%s", want, err, page)
		}
	}
}

// A store that is down logs nobody out, and is not taken for a wrong password.
func TestStoreDown(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	siteOn(t, store, func(t *testing.T, newBrowser func() *browser) {
		b, stranger := newBrowser(), newBrowser()
		b.login()
		stranger.get("/login")
		store.Hook(double.Fail(errors.New("the store is down"), double.Load, double.Save))
		for _, path := range []string{"/", "/devices", "/password", "/login"} {
			b.get(path)
			b.wants(http.StatusServiceUnavailable, path, "If you were logged in, you still are")
		}
		stranger.get("/login")
		stranger.wants(http.StatusOK, "/login")
		stranger.submit("/login", "user", "ann", "password", password)
		stranger.wants(http.StatusServiceUnavailable, "/login", "Please try again")
		store.Hook()
		b.get("/")
		b.wants(http.StatusOK, "/", "Hello, ann")
	})
}

func TestPassword(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b, other := newBrowser(), newBrowser()
		other.login()
		b.login()
		b.get("/password")
		b.wants(http.StatusOK, "/password")
		time.Sleep(6 * time.Minute)
		b.submit("/password", "password", password2, "again", password2)
		b.wants(http.StatusOK, "/confirm", "enter your password once more")
		b.submit("/confirm", "password", "guessed")
		b.wants(http.StatusForbidden, "/confirm", "The password is wrong")
		before := b.cookie().Value
		b.submit("/confirm", "password", password)
		b.wants(http.StatusOK, "/password")
		if b.cookie().Value == before {
			t.Error("the cookie is the same after the password was entered")
		}
		for _, bad := range []struct{ password, again, text string }{
			{"too short", "too short", "15 to 256 characters"},
			{strings.Repeat("x", 257), strings.Repeat("x", 257), "15 to 256 characters"},
			{password2, password, "not the same"},
		} {
			b.submit("/password", "password", bad.password, "again", bad.again)
			b.wants(http.StatusUnprocessableEntity, "/password", bad.text)
		}
		other.get("/")
		other.wants(http.StatusOK, "/")
		before = b.cookie().Value
		b.submit("/password", "password", password2, "again", password2)
		b.wants(http.StatusOK, "/", "The password is changed")
		if b.cookie().Value == before {
			t.Error("the cookie is the same after the password was changed")
		}
		other.get("/")
		other.wants(http.StatusOK, "/login", "You have been logged out")
		other.submit("/login", "user", "ann", "password", password)
		other.wants(http.StatusForbidden, "/login")
		other.submit("/login", "user", "ann", "password", password2)
		other.wants(http.StatusOK, "/")
	})
}

// A sensitive page asks a browser without a device key for the password, and one with a key for a proof.
func TestData(t *testing.T) {
	site(t, func(t *testing.T, newBrowser func() *browser) {
		b := newBrowser()
		b.login()
		b.get("/data")
		b.wants(http.StatusOK, "/data", "entered your password")
		time.Sleep(6 * time.Minute)
		b.get("/data")
		b.wants(http.StatusOK, "/confirm")
		b.submit("/confirm", "password", password)
		b.wants(http.StatusOK, "/data", "entered your password")
		b.get("/devices")
		if strings.Contains(b.text, "Only this device") {
			t.Errorf("a browser without a key:\n%s", b.text)
		}

		key := newDeviceKey(t, b)
		b.get("/devices")
		b.wants(http.StatusOK, "/devices", "Only this device can use it")
		time.Sleep(8 * time.Minute)
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		b.get("/data")
		b.wants(http.StatusTemporaryRedirect, "/data")
		key.refresh()
		b.get("/data")
		b.wants(http.StatusOK, "/data", "Your browser has proved")
		b.client.CheckRedirect = nil
		time.Sleep(12 * time.Minute)
		b.get("/login") // without a refresh
		b.wants(http.StatusOK, "/login", "could not prove")
		key.refresh()
		b.get("/")
		b.wants(http.StatusOK, "/", "Hello, ann")
	})
}

// A deviceKey does what a browser does by itself that can bind the session to its device.
type deviceKey struct {
	b          *browser
	private    *ecdsa.PrivateKey
	identifier string
	endpoint   string
}

// newDeviceKey registers one at another login.
func newDeviceKey(t *testing.T, b *browser) *deviceKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := &deviceKey{b: b, private: private}
	b.get("/")
	b.submit("/logout")
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.submit("/login", "user", "ann", "password", password)
	b.client.CheckRedirect = nil
	offer := b.header.Get("Secure-Session-Registration")
	k.endpoint = first(t, offer, `path="([^"]+)"`)
	k.send("Secure-Session-Response", k.proof(first(t, offer, `challenge="([^"]+)"`), true))
	b.wants(http.StatusOK, k.endpoint)
	k.identifier = first(t, b.text, `"session_identifier":"([^"]+)"`)
	return k
}

// send sends a request of the browser's own.
func (k *deviceKey) send(header ...string) {
	k.b.t.Helper()
	r, err := http.NewRequestWithContext(k.b.t.Context(), "POST", k.b.base.String()+k.endpoint, nil)
	if err != nil {
		k.b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	k.b.do(r)
}

func (k *deviceKey) refresh() {
	k.b.t.Helper()
	k.send("Sec-Secure-Session-Id", k.identifier)
	challenge := first(k.b.t, k.b.header.Get("Secure-Session-Challenge"), `^"([^"]+)"`)
	k.send("Sec-Secure-Session-Id", k.identifier, "Secure-Session-Response", k.proof(challenge, false))
	k.b.wants(http.StatusOK, k.endpoint)
}

// proof returns a JWT that answers the challenge.
func (k *deviceKey) proof(challenge string, withKey bool) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := `{"alg":"ES256","typ":"dbsc+jwt"}`
	if withKey {
		point, err := k.private.PublicKey.Bytes()
		if err != nil {
			k.b.t.Fatal(err)
		}
		header = `{"alg":"ES256","jwk":{"crv":"P-256","kty":"EC","x":"` + encode(point[1:33]) + `","y":"` + encode(point[33:]) + `"},"typ":"dbsc+jwt"}`
	}
	signed := encode([]byte(header)) + "." + encode([]byte(`{"jti":"`+challenge+`"}`))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		k.b.t.Fatal(err)
	}
	return signed + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func TestAccounts(t *testing.T) {
	people := newAccounts(1000)
	if err := people.setPassword("ann", password); err != nil {
		t.Fatal(err)
	}
	people.iterations = 2000 // old hashes stay good
	for _, test := range []struct {
		user, password string
		want           bool
	}{
		{"ann", password, true},
		{"ann", password + " ", false},
		{"ann", "", false},
		{"bob", password, false},
		{"bob", "", false},
		{"", "", false},
	} {
		if got := people.check(test.user, test.password); got != test.want {
			t.Errorf("check(%q, %q) is %v", test.user, test.password, got)
		}
	}
}

func TestRelative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for d, want := range map[time.Duration]string{
			0:                               "just now",
			-59 * time.Second:               "just now",
			-time.Minute:                    "1 minute ago",
			14*time.Minute + 59*time.Second: "in 15 minutes",
			-90 * time.Minute:               "2 hours ago",
			30 * 24 * time.Hour:             "in 30 days",
		} {
			if got := relative(time.Now().Add(d)); got != want {
				t.Errorf("%v: %q, want %q", d, got, want)
			}
		}
	})
}

func TestDevice(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":               "Chrome on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":           "Edge on Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1": "Safari on iPhone",
		"Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0":                                                "Firefox on Android",
		"curl/7.88.1": "curl",
		"":            "Unknown browser",
	} {
		if got := device(agent); got != want {
			t.Errorf("%s: %q, want %q", agent, got, want)
		}
	}
}

// inProcess is the application without a network, which does not go with the clock of testing/synctest.
type inProcess struct{ handler http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r = r.Clone(r.Context())
	r.RemoteAddr = "192.0.2.1:1234"
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
	res := w.Result()
	res.Request = r
	return res, nil
}

// A form that is far too large is not read to its end: the server closes the connection.
func TestLargeForm(t *testing.T) {
	people := newAccounts(1)
	if err := people.setPassword("ann", password); err != nil {
		t.Fatal(err)
	}
	a, err := newApp(session.NewMemoryStore(), []byte(strings.Repeat("s", 32)), people, false, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer a.sessions.Close()
	srv := httptest.NewServer(a)
	defer srv.Close()
	for size, wantClose := range map[int]bool{1 << 10: false, 20 << 10: true} {
		form := "user=ann&password=" + strings.Repeat("x", size)
		res, err := srv.Client().Post(srv.URL+"/login", "application/x-www-form-urlencoded", strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.Close != wantClose {
			t.Errorf("%d bytes: %s, the connection is closed: %v", size, res.Status, res.Close)
		}
	}
}
