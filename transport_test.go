package session_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/sessiontest"
)

const tokenHeader = "Session-Token"

// A native client keeps its token by hand, and sends it in a header.
type native struct {
	t     *testing.T
	m     *session.Manager
	token string
}

func newNative(t *testing.T, store session.Store, opts session.Options) *native {
	t.Helper()
	opts.TokenHeader = tokenHeader
	return &native{t: t, m: newManager(t, store, &opts)}
}

// visit sends a request whose handler is fn, and returns the response.
func (n *native) visit(fn func(s *session.Session), header ...string) *http.Response {
	n.t.Helper()
	return n.send(n.m, func(_ http.ResponseWriter, r *http.Request) { fn(session.FromContext(r.Context())) }, header...)
}

// send is visit with the whole of the handler. The header's lines are added, as name and value in turn.
func (n *native) send(m *session.Manager, h http.HandlerFunc, header ...string) *http.Response {
	n.t.Helper()
	r := httptest.NewRequestWithContext(n.t.Context(), http.MethodGet, "/", nil)
	r.Header.Set(tokenHeader, n.token)
	for pair := range slices.Chunk(header, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	m.Handler(h).ServeHTTP(w, r)
	res := w.Result()
	if lines, ok := res.Header[tokenHeader]; ok {
		n.token = lines[0]
		if len(lines) != 1 || !slices.Contains(res.Header["Cache-Control"], "no-store") {
			n.t.Errorf("a response with a token has the header %v", res.Header)
		}
	}
	if lines := res.Header["Set-Cookie"]; lines != nil {
		n.t.Errorf("the client gets the cookies %q", lines)
	}
	return res
}

// wantToken fails the test unless the response has a token in its header, or an empty one, or none.
func wantToken(t *testing.T, res *http.Response, want string) {
	t.Helper()
	got := "none"
	if lines, ok := res.Header[tokenHeader]; ok {
		if got = "some"; lines[0] == "" {
			got = "empty"
		}
	}
	if got != want {
		t.Errorf("the response's token is %q, want %s (%d)", res.Header[tokenHeader], want, res.StatusCode)
	}
}

// The whole life of a session whose client sends a header.
func TestTokenHeader(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		n := newNative(t, newStore(t), session.Options{SweepInterval: session.Never})
		wantToken(t, n.visit(func(s *session.Session) { s.Get("k") }), "none")
		res := n.visit(func(s *session.Session) { s.Set("k", 1) })
		wantToken(t, res, "some")
		if got := res.Header["Vary"]; !slices.Equal(got, []string{"Cookie", tokenHeader}) {
			t.Errorf("Vary is %q", got)
		}
		var id session.ID
		wantToken(t, n.visit(func(s *session.Session) {
			if id = s.ID(); !s.Has("k") || s.IsNew() {
				t.Errorf("the session is %v", s)
			}
		}), "none")
		visitor := *n
		wantToken(t, n.visit(func(s *session.Session) { s.SetUser("ann"); s.Remember(time.Hour) }), "some")
		wantToken(t, visitor.visit(func(s *session.Session) {
			if s.Has("k") || s.User() != "" {
				t.Errorf("the token from before the login leads to %v", s)
			}
		}), "none")
		n.visit(func(s *session.Session) {
			if s.ID() != id || !s.Has("k") || s.User() != "ann" {
				t.Errorf("after the login the session is %v", s)
			}
		})
		if list := userSessions(t, n.m); len(list) != 1 || list[0].ID != id {
			t.Errorf("the user has %v", list)
		}
		wantToken(t, n.visit(func(s *session.Session) { s.Destroy() }), "empty")
		wantToken(t, n.visit(func(s *session.Session) { s.Set("k", 2) }), "some")
	})
}

// A client that misses any answers to renewals stays logged in, as a browser does, and touches send no token.
func TestTokenHeaderIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNative(t, session.NewMemoryStore(), session.Options{AbsoluteTimeout: session.Never})
		n.visit(func(s *session.Session) { s.SetUser("ann"); s.SetPersistent(true) })
		first := *n
		renewed := 0
		for range 100 {
			time.Sleep(3 * time.Minute)
			missing := first // whatever it is sent
			if res := missing.visit(func(s *session.Session) {
				if s.User() != "ann" {
					t.Fatalf("the session is %v", s)
				}
			}); res.Header[tokenHeader] != nil {
				renewed++
			}
		}
		if renewed < 90 || renewed > 99 { // from the first renewal on, each answer has the token that is due
			t.Errorf("%d answers have a token", renewed)
		}
		last := first
		last.visit(func(s *session.Session) { s.Get("k") })
		last.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(2 * time.Minute)
		first.visit(func(s *session.Session) {
			if s.User() != "" {
				t.Error("the first token still leads to the session, though a later one was shown")
			}
		})
	})
}

// A token is worth nothing in the other transport, nor do a client's own cookies count where it sends the header.
func TestTransportsKeepApart(t *testing.T) {
	var refused []session.Reason
	opts := session.Options{Observer: func(_ context.Context, e session.Event) {
		if e.Kind == session.EventCookieRefused {
			refused = append(refused, e.Reason)
		}
	}}
	n := newNative(t, session.NewMemoryStore(), opts)
	n.visit(func(s *session.Session) { s.Set("native", true) })
	v := &visitor{t: t, m: n.m}
	res := v.visit(func(s *session.Session) { s.Set("browser", true) })
	if got := res.Header["Vary"]; !slices.Equal(got, []string{"Cookie", tokenHeader}) || res.Header[tokenHeader] != nil {
		t.Errorf("a browser's response has the header %v", res.Header)
	}
	cookie := v.cookie.Name + "=" + v.cookie.Value
	for name, test := range map[string]struct {
		header  []string
		found   string
		reasons []session.Reason
	}{
		"header alone":           {[]string{tokenHeader, n.token}, "native", nil},
		"cookie alone":           {[]string{"Cookie", cookie}, "browser", nil},
		"both":                   {[]string{tokenHeader, n.token, "Cookie", cookie}, "native", nil},
		"empty header":           {[]string{tokenHeader, "", "Cookie", cookie}, "", nil},
		"bad header":             {[]string{tokenHeader, altered(n.token), "Cookie", cookie}, "", []session.Reason{session.ReasonBadSignature}},
		"no token at all":        {[]string{tokenHeader, "Bearer", "Cookie", cookie}, "", []session.Reason{session.ReasonMalformed}},
		"cookie as token":        {[]string{tokenHeader, v.cookie.Value}, "", []session.Reason{session.ReasonBadSignature}},
		"the same, with cookie":  {[]string{tokenHeader, v.cookie.Value, "Cookie", cookie}, "", []session.Reason{session.ReasonBadSignature}},
		"token as cookie":        {[]string{"Cookie", v.cookie.Name + "=" + n.token}, "", []session.Reason{session.ReasonBadSignature}},
		"two headers":            {[]string{tokenHeader, n.token, tokenHeader, n.token}, "", []session.Reason{session.ReasonMalformed}},
		"two in one":             {[]string{tokenHeader, n.token + ", " + n.token}, "", []session.Reason{session.ReasonMalformed}},
		"an empty one before it": {[]string{tokenHeader, "", tokenHeader, n.token}, "", []session.Reason{session.ReasonMalformed}},
		"another header's name":  {[]string{"X-" + tokenHeader, n.token}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			refused = nil
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			for pair := range slices.Chunk(test.header, 2) {
				r.Header.Add(pair[0], pair[1])
			}
			if got := n.m.HasToken(r); got != (test.found != "") {
				t.Errorf("HasToken returns %v", got)
			}
			if len(refused) > 0 {
				t.Error("HasToken is an event")
			}
			w := httptest.NewRecorder()
			n.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				s := session.FromContext(r.Context())
				if got := strings.Join(s.Keys(), " "); got != test.found {
					t.Errorf("the session has %q", got)
				}
				if test.found == "" {
					s.Set("another", true)
				}
			})).ServeHTTP(w, r)
			if !slices.Equal(refused, test.reasons) {
				t.Errorf("refused for %v, want %v", refused, test.reasons)
			}
			_, inHeader := r.Header[tokenHeader]
			if header := w.Header(); test.found == "" && (header["Set-Cookie"] == nil) != inHeader || inHeader && header["Set-Cookie"] != nil {
				t.Errorf("the new session's token comes in the header %v", header)
			}
		})
	}
	other := newNative(t, session.NewMemoryStore(), session.Options{Cookie: session.Cookie{Name: "other"}})
	other.token = n.token
	other.visit(func(s *session.Session) {
		if s.WasUnknown() {
			t.Error("a manager whose cookie has another name takes the token")
		}
	})
}

// altered returns a token with another first character.
func altered(token string) string {
	if token[0] == 'A' {
		return "B" + token[1:]
	}
	return "A" + token[1:]
}

// A handler that changes the header makes no other client of the one that there is: no session that was found by one
// transport's token is answered in the other.
func TestTransportStaysAsItCame(t *testing.T) {
	n := newNative(t, session.NewMemoryStore(), session.Options{})
	n.visit(func(s *session.Session) { s.Set("native", true) })
	v := &visitor{t: t, m: n.m}
	v.visit(func(s *session.Session) { s.Set("browser", true) })
	token := n.token
	n.send(n.m, func(_ http.ResponseWriter, r *http.Request) {
		r.Header.Del(tokenHeader)
		s := session.FromContext(r.Context())
		if s.Regenerate(); s.Has("browser") {
			t.Error("a client with the header has the session of a cookie")
		}
	}, "Cookie", v.cookie.Name+"="+v.cookie.Value)
	if n.token != token {
		t.Error("a client whose header was removed gets another token")
	}
	v.send(v.m, func(_ http.ResponseWriter, r *http.Request) {
		r.Header.Set(tokenHeader, token)
		if s := session.FromContext(r.Context()); s.Has("native") || !s.Has("browser") {
			t.Errorf("a browser whose request was given a header has %v", s)
		}
	})
}

// A token signed by a previous secret counts, and is signed anew.
func TestTokenHeaderAfterRotation(t *testing.T) {
	store := session.NewMemoryStore()
	n := newNative(t, store, session.Options{})
	n.visit(func(s *session.Session) { s.Set("k", 1) })
	before := n.token
	m, err := session.New(store, secretOf('n'), &session.Options{TokenHeader: tokenHeader, PreviousSecrets: [][]byte{secretOf('s')}, EncryptAtRest: encrypted})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n.m = m
	wantToken(t, n.visit(func(s *session.Session) { s.Set("k", 2) }), "some")
	if before == n.token {
		t.Error("the token is the same")
	}
	wantToken(t, n.visit(func(s *session.Session) {
		if v, _ := s.Get("k"); v != int64(2) {
			t.Errorf("the value is %v", v)
		}
		s.Set("k", 3)
	}), "none")
}

// An answer to an error drops what the handler set, but no token: of the session itself, or of a manager within.
func TestTokenHeaderAndErrors(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	opts := func(name, header string) *session.Options {
		return &session.Options{Cookie: session.Cookie{Name: name}, TokenHeader: header, Logger: quiet}
	}
	outer, inner := newManager(t, store, opts("outer", "Outer-Token")), newManager(t, session.NewMemoryStore(), opts("inner", "Inner-Token"))
	h := outer.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := outer.FromContext(r.Context())
		s.Set("k", 1)
		if r.Header.Get("Save-First") != "" {
			if err := s.Save(r.Context()); err != nil {
				t.Error(err)
			}
		}
		s.Set("k", 2)
		inner.FromContext(r.Context()).Set("k", 1)
		store.Hook(double.Fail(errDown, double.Save))
		w.Header().Set("Location", "/")
	})))
	for name, saved := range map[string]bool{"nothing saved before": false, "saved before": true} {
		t.Run(name, func(t *testing.T) {
			store.Hook()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.Header.Set("Outer-Token", "")
			r.Header.Set("Inner-Token", "")
			if saved {
				r.Header.Set("Save-First", "yes")
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			wantStatus(t, w.Result(), http.StatusServiceUnavailable)
			if got := w.Header(); got.Get("Inner-Token") == "" || (got.Get("Outer-Token") != "") != saved || got.Get("Location") != "" ||
				got.Get("Cache-Control") != "no-store" || got["Set-Cookie"] != nil {
				t.Errorf("the header is %v", got)
			}
		})
	}
}

// A client whose session is created and lost in one response gets no token of the lost one.
func TestTokenHeaderAndHijack(t *testing.T) {
	n := newNative(t, session.NewMemoryStore(), session.Options{Logger: quiet})
	res := n.send(n.m, func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("k", 1)
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack returns %v", err)
		}
		if got := w.Header()[tokenHeader]; got != nil {
			t.Errorf("after a Hijack that failed, the header has %q", got)
		}
		io.WriteString(w, "x")
	})
	wantToken(t, res, "some")
}

// Requests of one token at the same time are merged, and a logout ends them all.
func TestTokenHeaderInParallel(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		n := newNative(t, newStore(t), session.Options{SweepInterval: session.Never})
		n.visit(func(s *session.Session) { s.SetUser("ann") })
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				c := *n
				wantStatus(t, c.visit(func(s *session.Session) { hitCounter.Update(s, func(n int) int { return n + 1 }) }), http.StatusOK)
			})
		}
		all.Wait()
		n.visit(func(s *session.Session) {
			if got, _ := hitCounter.Get(s); got != 20 {
				t.Errorf("%d changes count", got)
			}
		})
		late := *n
		n.visit(func(s *session.Session) { s.Destroy() })
		wantStatus(t, late.visit(func(s *session.Session) { s.Set("k", 1) }), http.StatusConflict)
	})
}

// A header whose name means something else is refused.
func TestTokenHeaderNames(t *testing.T) {
	for name, text := range map[string]string{
		"Session-Token": "", "x-session": "", "": "",
		"Session Token": "letters, digits", "Töken": "letters, digits", "A:": "letters, digits",
		"cookie": "meaning of its own", "AUTHORIZATION": "meaning of its own", "sec-token": "meaning of its own", "proxy-token": "meaning of its own",
	} {
		_, err := session.New(session.NewMemoryStore(), secretOf('s'), &session.Options{TokenHeader: name, SweepInterval: session.Never})
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The client of a test keeps its token by hand.
func TestClientWithTokenHeader(t *testing.T) {
	m := sessiontest.NewManager(t, &session.Options{TokenHeader: tokenHeader})
	c := sessiontest.NewClient(t, m, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if r.URL.Path == "/logout" {
			s.Destroy()
			return
		}
		s.SetUser("ann")
		http.SetCookie(w, &http.Cookie{Name: "other", Value: "1"})
	})))
	c.TokenHeader = "session-token"
	if c.Token() != "" {
		t.Errorf("the token is %q", c.Token())
	}
	c.Set(map[string]any{"k": 1})
	before := c.Token()
	res := c.Do(httptest.NewRequest(http.MethodPost, "/login", nil))
	if c.Token() == "" || c.Token() == before || len(res.Cookies()) != 1 {
		t.Errorf("the token is %q after %q; the response has %v", c.Token(), before, res.Header)
	}
	c.Session(func(s *session.Session) {
		if s.User() != "ann" || !s.Has("k") {
			t.Errorf("the session is %v", s)
		}
	})
	c.Do(httptest.NewRequest(http.MethodPost, "/logout", nil))
	if c.Token() != "" || len(c.Values()) != 0 {
		t.Errorf("after the logout, the token is %q", c.Token())
	}
}

// A logout has the browser clear what Options say, and nothing else does.
func TestClearSiteData(t *testing.T) {
	opts := session.Options{ClearSiteData: []string{"cache", "storage"}, TokenHeader: tokenHeader}
	v := newVisitor(t, session.NewMemoryStore(), &opts)
	for _, step := range []struct {
		name string
		do   func(*session.Session)
		want []string
	}{
		{"a visitor who logs out", func(s *session.Session) { s.Destroy() }, nil},
		{"a login", func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) }, nil},
		{"reading", func(s *session.Session) { s.Get("k") }, nil},
		{"emptying", func(s *session.Session) { s.SetUser(""); s.Delete("k") }, nil},
		{"another login", func(s *session.Session) { s.SetUser("ann") }, nil},
		{"a logout", func(s *session.Session) { s.Destroy() }, []string{`"cache", "storage"`}},
		{"once more", func(s *session.Session) { s.Get("k") }, nil},
		{"a third login", func(s *session.Session) { s.SetUser("ann") }, nil},
		{"a logout with a message", func(s *session.Session) { s.Destroy(); s.Set("flash", "bye") }, []string{`"cache", "storage"`}},
	} {
		if got := v.visit(step.do).Header["Clear-Site-Data"]; !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	for name, logout := range map[string]func(*session.Session){
		"alone": func(s *session.Session) { s.Destroy() }, "with a message": func(s *session.Session) { s.Destroy(); s.Set("flash", "bye") },
	} {
		v.visit(func(s *session.Session) { s.SetUser("ann") })
		if _, err := v.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
			t.Error(err)
		}
		if got := v.visit(logout).Header["Clear-Site-Data"]; len(got) != 1 {
			t.Errorf("a logout %s from a session that had ended: %q", name, got)
		}
	}
	n := &native{t: t, m: v.m}
	n.visit(func(s *session.Session) { s.Set("k", 1) })
	if got := n.visit(func(s *session.Session) { s.Destroy() }).Header["Clear-Site-Data"]; got != nil {
		t.Errorf("a native client is told to clear %q", got)
	}
	for data, good := range map[string]bool{"*": true, "azAZ": true, "": false, "\"cache\"": false, "a, b": false, "x\r\ny": false} {
		_, err := session.New(session.NewMemoryStore(), secretOf('s'), &session.Options{ClearSiteData: []string{data}})
		if (err == nil) != good {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// A browser is told once what to clear, and the error of a manager around takes it back no more than the cookie.
func TestClearSiteDataIsToldOnce(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	outer := newManager(t, store, &session.Options{Cookie: session.Cookie{Name: "outer"}, Logger: quiet})
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{ClearSiteData: []string{"cache"}})
	logout := func(h http.Handler) []string {
		v.cookie = nil
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: v.cookie.Name, Value: v.cookie.Value})
		w := httptest.NewRecorder()
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		return w.Result().Header["Clear-Site-Data"]
	}
	if got := logout(v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.m.FromContext(r.Context()).Destroy()
		if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush returns %v", err)
		}
	}))); !slices.Equal(got, []string{`"cache"`}) {
		t.Errorf("after a Flush that failed: %q", got)
	}
	if got := logout(outer.Handler(v.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		v.m.FromContext(r.Context()).Destroy()
		outer.FromContext(r.Context()).Set("k", 1)
		store.Hook(double.Fail(errDown, double.Save))
	})))); !slices.Equal(got, []string{`"cache"`}) {
		t.Errorf("with the answer to an error of another manager: %q", got)
	}
}
