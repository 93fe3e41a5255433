package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/session/internal/program"
	"github.com/coder/websocket"
)

// A draft is saved while the socket is open, and seen by the events of another tab; logging out elsewhere ends both.
func TestStreams(t *testing.T) {
	for _, renew := range []string{"0", "1ms"} { // 1ms: the cookie is renewed as soon as it can be
		t.Run("renew="+renew, func(t *testing.T) {
			p := start(t, program.Build(t), t.TempDir(), "-renew", renew)
			phone, laptop := login(t, p, "ann"), login(t, p, "ann")
			events := phone.events()
			events.wants("draft", update{"", 0, 1})
			socket := phone.socket()
			socket.saves("one", "1")
			events.wants("draft", update{"one", 1, 2})
			for range 5 {
				phone.get("/")
			}
			socket.saves("two", "2")
			events.wants("draft", update{"two", 2, 3})
			if page := phone.get("/"); !strings.Contains(page, ">two</textarea>") {
				t.Errorf("the page lacks the draft:\n%s", page)
			}
			stays := laptop.events()
			stays.wants("draft", update{"", 0, 1})

			laptop.post("/logout-others", nil)
			events.wants("ended", update{})
			socket.closes(statusLoggedOut)
			other := laptop.socket()
			other.saves("three", "1")
			stays.wants("draft", update{"three", 1, 2})
			if res := phone.do("GET", "/events", nil); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("events without a login: %s", res.Status)
			}
			if _, res, err := websocket.Dial(limited(t), p.Base+"/socket", &websocket.DialOptions{HTTPClient: phone.client}); err == nil ||
				res.StatusCode != http.StatusUnauthorized {
				t.Errorf("a socket without a login: %v", err)
			}
			// Logging in again goes at once, whatever cookie the browser still has.
			if page := phone.post("/login", url.Values{"user": {"ann"}}); !strings.Contains(page, "Your draft, ann") {
				t.Errorf("the login led to\n%s", page)
			}

			events, socket = laptop.events(), laptop.socket()
			events.skip("draft")
			laptop.post("/logout", nil) // in one of its tabs
			events.wants("ended", update{})
			socket.closes(statusLoggedOut)
			other.closes(statusLoggedOut)
			p.Stop()
		})
	}
}

// What was saved is there after the process was killed in the middle of a stream.
func TestSavedWhileOpen(t *testing.T) {
	bin, dir := program.Build(t), t.TempDir()
	p := start(t, bin, dir)
	b := login(t, p, "ann")
	b.socket().saves("kept", "1")
	events := b.events()
	events.wants("draft", update{"kept", 1, 1})
	p.Kill()

	p = start(t, bin, dir)
	b.base = p.Base
	b.events().wants("draft", update{"kept", 1, 2})
	p.Stop()
}

// SIGTERM ends streams, each in its way, and then the process.
func TestShutdown(t *testing.T) {
	p := start(t, program.Build(t), t.TempDir())
	b := login(t, p, "ann")
	events, socket := b.events(), b.socket()
	events.wants("draft", update{"", 0, 1})
	done := make(chan error, 1)
	go func() { done <- p.Terminate() }()
	socket.closes(websocket.StatusGoingAway)
	if rest, err := io.ReadAll(events.body); err != nil || len(rest) != 0 {
		t.Errorf("events ended with %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}

// Another site's page cannot open a socket, although its browser would send the cookie.
func TestOrigin(t *testing.T) {
	p := start(t, program.Build(t), t.TempDir())
	b := login(t, p, "ann")
	_, res, err := websocket.Dial(limited(t), p.Base+"/socket", &websocket.DialOptions{
		HTTPClient: b.client, HTTPHeader: http.Header{"Origin": {"https://evil.example"}},
	})
	if err == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("err %v, want a refusal", err)
	}
	p.Stop()
}

// patience is how long a step may take before the test gives up, on a machine that is busy with other things.
const patience = time.Minute

// limited returns a context for one step.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs the program with its sessions in dir.
func start(t *testing.T, bin, dir string, args ...string) *program.Process {
	t.Helper()
	args = append([]string{"-every", "10ms", "-store", "dir://" + filepath.ToSlash(dir) + "/s"}, args...)
	return program.Start(t, bin, args...)
}

// A browser is one that keeps cookies.
type browser struct {
	t      *testing.T
	base   string
	client *http.Client
}

// login returns the browser of a user who has logged in.
func login(t *testing.T, p *program.Process, user string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t, p.Base, &http.Client{Jar: jar}}
	if page := b.post("/login", url.Values{"user": {user}}); !strings.Contains(page, "Your draft, "+user) {
		t.Fatalf("the login led to\n%s", page)
	}
	return b
}

func (b *browser) do(method, path string, form url.Values) *http.Response {
	b.t.Helper()
	r, err := http.NewRequestWithContext(limited(b.t), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { res.Body.Close() })
	return res
}

func (b *browser) page(method, path string, form url.Values) string {
	b.t.Helper()
	res := b.do(method, path, form)
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s, %v\n%s", method, path, res.Status, err, text)
	}
	return string(text)
}

func (b *browser) get(path string) string { b.t.Helper(); return b.page("GET", path, nil) }
func (b *browser) post(path string, form url.Values) string {
	b.t.Helper()
	return b.page("POST", path, form)
}

// An update is what an event holds.
type update struct {
	Text     string
	Saves    int
	Messages int
}

type events struct {
	t    *testing.T
	body *bufio.Reader
}

func (b *browser) events() *events {
	b.t.Helper()
	res := b.do("GET", "/events", nil)
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		b.t.Fatalf("events: %s, %s", res.Status, got)
	}
	return &events{b.t, bufio.NewReader(res.Body)}
}

// next returns the next event.
func (e *events) next() (name string, u update) {
	e.t.Helper()
	for {
		line, err := e.body.ReadString('\n')
		if err != nil {
			e.t.Fatalf("events ended: %v", err)
		}
		field, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &u); err != nil {
				e.t.Fatalf("data %q: %v", value, err)
			}
		case "":
			return name, u
		}
	}
}

func (e *events) wants(name string, u update) {
	e.t.Helper()
	if gotName, got := e.next(); gotName != name || got != u {
		e.t.Fatalf("event %s %+v, want %s %+v", gotName, got, name, u)
	}
}

// skip reads an event of that name.
func (e *events) skip(name string) {
	e.t.Helper()
	if got, _ := e.next(); got != name {
		e.t.Fatalf("event %s, want %s", got, name)
	}
}

type socket struct {
	t    *testing.T
	conn *websocket.Conn
}

func (b *browser) socket() *socket {
	b.t.Helper()
	conn, _, err := websocket.Dial(limited(b.t), b.base+"/socket", &websocket.DialOptions{HTTPClient: b.client})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.CloseNow() })
	return &socket{b.t, conn}
}

// saves sends a draft and wants the answer.
func (s *socket) saves(text, answer string) {
	s.t.Helper()
	if err := s.conn.Write(limited(s.t), websocket.MessageText, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
	if _, got, err := s.conn.Read(limited(s.t)); err != nil || string(got) != answer {
		s.t.Fatalf("the answer to %q is %q, %v; want %q", text, got, err, answer)
	}
}

// closes wants the server to close the socket.
func (s *socket) closes(code websocket.StatusCode) {
	s.t.Helper()
	_, message, err := s.conn.Read(limited(s.t))
	if got := websocket.CloseStatus(err); got != code {
		s.t.Errorf("message %q, close code %v, %v; want %v", message, got, err, code)
	}
}
