package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/program"
	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }

const (
	password  = "correct horse battery"
	password2 = "a staple of another kind"
)

func TestProgram(t *testing.T) {
	t.Setenv("LOGIN_PASSWORD", password)
	p := program.Start(t, program.Build(t), "-store", "dir://"+filepath.ToSlash(t.TempDir())+"/sessions")
	phone, laptop := newBrowser(t, p.Base, nil), newBrowser(t, p.Base, nil)

	phone.get("/")
	phone.wants(http.StatusOK, "/login", "Stay logged in")
	phone.submit("/login", "user", "ann", "password", "guessed")
	phone.wants(http.StatusForbidden, "/login", "The name or the password is wrong")
	wrong := phone.text
	phone.get("/login")
	phone.submit("/login", "user", "bob", "password", "guessed")
	phone.wants(http.StatusForbidden, "/login", "The name or the password is wrong")
	if a, b := strings.ReplaceAll(wrong, "ann", "user"), strings.ReplaceAll(phone.text, "bob", "user"); a != b {
		t.Errorf("an unknown user's page differs:\n%s\n%s", a, b)
	}
	if got := phone.client.Jar.Cookies(phone.base); len(got) > 0 {
		t.Errorf("before the login there are cookies: %v", got)
	}
	phone.submit("/login", "user", "ann", "password", password, "remember", "yes")
	phone.wants(http.StatusOK, "/", "Welcome, ann", "you stay logged in")

	laptop.get("/login")
	laptop.submit("/login", "user", "ann", "password", password)
	laptop.wants(http.StatusOK, "/", "Welcome, ann", "you are logged out")
	laptop.get("/devices")
	laptop.wants(http.StatusOK, "/devices", "2 devices", "This device")
	laptop.submit("/devices/end", "handle", first(t, laptop.text, `name="handle" value="([0-9a-f]+)"`))
	laptop.wants(http.StatusOK, "/devices", "That device is logged out", "this device only")
	phone.get("/")
	phone.wants(http.StatusOK, "/login", "You have been logged out")

	laptop.get("/")
	laptop.submit("/logout")
	laptop.wants(http.StatusOK, "/login", "You are logged out.")
	laptop.get("/devices")
	laptop.wants(http.StatusOK, "/login")
	p.Stop()
}

// A browser keeps cookies, follows redirects, and knows the page that it shows.
type browser struct {
	t      *testing.T
	base   *url.URL
	client *http.Client

	status int
	path   string
	header http.Header
	text   string
}

// newBrowser returns a browser at base. A nil transport means the network.
func newBrowser(t *testing.T, base string, transport http.RoundTripper) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, base: u, client: &http.Client{Jar: jar, Transport: transport, Timeout: time.Minute}}
}

func (b *browser) get(path string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), "GET", b.base.String()+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(r)
}

// submit sends the form of the page that goes to action, with the token, if the page has one, and the values, which come
// in pairs.
func (b *browser) submit(action string, values ...string) {
	b.t.Helper()
	if !strings.Contains(b.text, `action="`+action+`"`) {
		b.t.Fatalf("%s has no form for %s:\n%s", b.path, action, b.text)
	}
	if strings.Contains(b.text, session.FormTokenField) {
		values = append(values, session.FormTokenField, b.token())
	}
	b.post(action, values...)
}

// token returns the token of the page's forms.
func (b *browser) token() string {
	b.t.Helper()
	return first(b.t, b.text, `name="`+session.FormTokenField+`" value="([^"]+)"`)
}

func (b *browser) post(path string, values ...string) {
	b.t.Helper()
	form := make(url.Values)
	for i := 0; i < len(values); i += 2 {
		form.Set(values[i], values[i+1])
	}
	r, err := http.NewRequestWithContext(b.t.Context(), "POST", b.base.String()+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	b.do(r)
}

func (b *browser) do(r *http.Request) {
	b.t.Helper()
	if err := b.try(r); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) try(r *http.Request) error {
	res, err := b.client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	b.status, b.path, b.header, b.text = res.StatusCode, res.Request.URL.Path, res.Header, string(text)
	return err
}

// wants checks what the browser shows.
func (b *browser) wants(status int, path string, texts ...string) {
	b.t.Helper()
	if b.status != status || b.path != path {
		b.t.Fatalf("at %s: %d, want %d at %s\n%s", b.path, b.status, status, path, b.text)
	}
	if strings.Contains(b.text, "no value") {
		b.t.Errorf("%s misses a value:\n%s", path, b.text)
	}
	for _, text := range texts {
		if !strings.Contains(b.text, text) {
			b.t.Errorf("%s lacks %q:\n%s", path, text, b.text)
		}
	}
}

// cookie returns the session cookie.
func (b *browser) cookie() *http.Cookie {
	b.t.Helper()
	cookies := b.client.Jar.Cookies(b.base)
	if len(cookies) != 1 {
		b.t.Fatalf("%d cookies, want 1", len(cookies))
	}
	return cookies[0]
}

// first returns what the pattern's group matches first.
func first(t *testing.T, text, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if match == nil {
		t.Fatalf("nothing matches %s in\n%s", pattern, text)
	}
	return match[1]
}
