package session_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// What the options say is what the browser is told, when the cookie is set and when it is removed.
func TestCookieAttributes(t *testing.T) {
	for _, test := range []struct {
		name   string
		cookie session.Cookie
		want   string // behind the value, less the lifetime
	}{
		{"defaults", session.Cookie{}, "session_id=; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"name", session.Cookie{Name: "__Host-sid"}, "__Host-sid=; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"secure name", session.Cookie{Name: "__Secure-sid", Domain: "example.com"},
			"__Secure-sid=; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		{"path", session.Cookie{Path: "/app"}, "session_id=; Path=/app; HttpOnly; Secure; SameSite=Lax"},
		{"domain", session.Cookie{Domain: "example.com"}, "session_id=; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		{"default mode", session.Cookie{SameSite: http.SameSiteDefaultMode}, "session_id=; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"strict", session.Cookie{SameSite: http.SameSiteStrictMode}, "session_id=; Path=/; HttpOnly; Secure; SameSite=Strict"},
		{"none", session.Cookie{SameSite: http.SameSiteNoneMode}, "session_id=; Path=/; HttpOnly; Secure; SameSite=None"},
		{"unencrypted", session.Cookie{InsecureHTTP: true}, "session_id=; Path=/; HttpOnly; SameSite=Lax"},
		{"scripts", session.Cookie{InsecureScriptAccess: true}, "session_id=; Path=/; Secure; SameSite=Lax"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name, attributes, _ := strings.Cut(test.want, "=; ")
			m := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: test.cookie})
			line := setCookie(t, serve(handle(m, func(s *session.Session) { s.Set("k", 1) })).Header, name)
			value := cookieValue(line)
			if want := name + "=" + value + "; " + attributes; line != want || len(value) != 86 {
				t.Errorf("the cookie is set by %q, want %q", line, want)
			}
			for how, end := range map[string]func(*session.Session){
				"Destroy": (*session.Session).Destroy, "Clear": (*session.Session).Clear,
			} {
				m := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: test.cookie})
				set := setCookie(t, serve(handle(m, func(s *session.Session) { s.Set("k", 1) })).Header, name)
				line := setCookie(t, serve(handle(m, end), name+"="+cookieValue(set)).Header, name)
				line, age, _ := cutLifetime(line)
				if line != test.want || age != "0" {
					t.Errorf("%s removes the cookie by %q with Max-Age=%s", how, line, age)
				}
			}
		})
	}
}

// cutLifetime takes Max-Age and Expires out of a Set-Cookie line.
func cutLifetime(line string) (rest, maxAge, expires string) {
	var kept []string
	for part := range strings.SplitSeq(line, "; ") {
		if age, ok := strings.CutPrefix(part, "Max-Age="); ok {
			maxAge = age
		} else if date, ok := strings.CutPrefix(part, "Expires="); ok {
			expires = date
		} else {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "; "), maxAge, expires
}

// A persistent cookie lives as long as its session and slides with it, for 400 days at most; any other one has
// no lifetime at all.
func TestCookieLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		name string
		opts session.Options
		do   func(s *session.Session)
		want time.Duration // 0: it ends with the browser
	}{
		{"not persistent", session.Options{}, nil, 0},
		{"persistent", session.Options{Cookie: session.Cookie{Persistent: true}}, nil, 15 * time.Minute},
		{"absolute timeout", session.Options{Cookie: session.Cookie{Persistent: true}, AbsoluteTimeout: time.Minute}, nil, time.Minute},
		{"never ends", session.Options{Cookie: session.Cookie{Persistent: true}, IdleTimeout: session.Never, AbsoluteTimeout: session.Never},
			nil, 400 * day},
		{"more than 400 days", session.Options{Cookie: session.Cookie{Persistent: true}, IdleTimeout: 500 * day, AbsoluteTimeout: session.Never},
			nil, 400 * day},
		{"below a second", session.Options{Cookie: session.Cookie{Persistent: true}, IdleTimeout: 10 * time.Millisecond}, nil, time.Second},
		{"remember me", session.Options{}, func(s *session.Session) { s.SetPersistent(true) }, 15 * time.Minute},
		{"forget me", session.Options{Cookie: session.Cookie{Persistent: true}}, func(s *session.Session) { s.SetPersistent(false) }, 0},
		{"timeout of its own", session.Options{Cookie: session.Cookie{Persistent: true}},
			func(s *session.Session) { s.SetIdleTimeout(2 * time.Hour) }, 2 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.opts.SweepInterval = session.Never
				m := newManager(t, session.NewMemoryStore(), &test.opts)
				line := setCookie(t, serve(handle(m, func(s *session.Session) {
					s.Set("k", 1)
					if test.do != nil {
						test.do(s)
					}
				})).Header, "session_id")
				wantLifetime(t, line, test.want)
				if test.want < time.Minute {
					return
				}
				time.Sleep(test.want / 5)
				line = setCookie(t, serve(handle(m, func(s *session.Session) { s.Has("k") }), "session_id="+cookieValue(line)).Header, "session_id")
				if test.opts.AbsoluteTimeout == time.Minute {
					if line != "" {
						t.Errorf("the cookie was set again by %q, though the session ends as before", line)
					}
				} else if test.want < time.Hour {
					wantLifetime(t, line, test.want)
				}
			})
		})
	}
}

// The choice whether to be remembered can be made, and taken back, in a session that is there.
func TestSetPersistentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
		value, _ := begin(t, m)
		send := func(fn func(s *session.Session)) string {
			return setCookie(t, serve(handle(m, fn), "session_id="+value).Header, "session_id")
		}
		wantLifetime(t, send(func(s *session.Session) { s.SetPersistent(true) }), 15*time.Minute)
		if line := send(func(s *session.Session) { s.SetPersistent(true) }); line != "" {
			t.Errorf("the same choice again sets the cookie by %q", line)
		}
		time.Sleep(2 * time.Minute)
		wantLifetime(t, send(func(s *session.Session) { s.Len() }), 15*time.Minute)
		wantLifetime(t, send(func(s *session.Session) { s.SetPersistent(false) }), 0)
		time.Sleep(2 * time.Minute)
	})
}

func wantLifetime(t *testing.T, line string, want time.Duration) {
	t.Helper()
	_, age, expires := cutLifetime(line)
	wantAge, wantExpires := "", ""
	if want > 0 {
		wantAge = fmt.Sprint(int(want.Seconds()))
		wantExpires = time.Now().Add(want).UTC().Format(http.TimeFormat)
	}
	if line == "" || age != wantAge || expires != wantExpires {
		t.Errorf("the cookie is set by %q, want Max-Age %q, Expires %q", line, wantAge, wantExpires)
	}
}

// A value that this manager did not sign costs no store call and leads to a new session.
func TestForgedCookie(t *testing.T) {
	store := newCounting()
	m := newManager(t, store, nil)
	value, _ := begin(t, m)
	second, _ := begin(t, m)
	raw, _ := base64.RawURLEncoding.DecodeString(value)
	flip := func(i int) string {
		b := append([]byte(nil), raw...)
		b[i] ^= 1
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signedBy := func(secret []byte, name string) string {
		m, err := session.New(store, secret, &session.Options{Cookie: session.Cookie{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		res := serve(handle(m, func(s *session.Session) { s.Set("k", 1) }))
		return cookieValue(setCookie(t, res.Header, name))
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, value[85])
	for name, forged := range map[string]string{
		"empty":                 "",
		"equals sign":           "=",
		"random":                strings.Repeat("A", 86),
		"not base64":            strings.Repeat("!", 86),
		"standard base64":       strings.Repeat("+/", 43),
		"token flipped":         flip(0),
		"signature flipped":     flip(63),
		"token alone":           value[:43],
		"cut by one":            value[:85],
		"first one missing":     value[1:],
		"doubled":               value + value,
		"extended":              value + "A",
		"padded":                value + "==",
		"non-canonical":         value[:85] + digits[last^1:][:1],
		"halves swapped":        base64.RawURLEncoding.EncodeToString(append(raw[32:64:64], raw[:32]...)),
		"another's signature":   value[:42] + second[42:],
		"other secret":          signedBy(secretOf('x'), "session_id"),
		"other cookie name":     signedBy(secretOf('s'), "session_i"),
		"name and token moved":  signedBy(secretOf('s'), "session_id2"),
		"upper case":            strings.ToUpper(value),
		"percent-encoded":       "%" + value[1:],
		"one quote":             `"` + value,
		"quotes inside":         `""` + value + `""`,
		"blank inside":          value[:40] + " " + value[41:],
		"the ID of the record":  strings.Repeat("0", 64),
		"comma and attributes":  value + ",Path=/",
		"as a part of another":  "x; session_id_=" + value,
		"name in capitals":      "x; SESSION_ID=" + value,
		"no value":              "x; session_id",
		"value of a nameless":   "x; =" + value,
		"blank before the sign": "x; session_id =" + value,
	} {
		t.Run(name, func(t *testing.T) {
			if forged == value {
				t.Fatal("it is the genuine value")
			}
			store.calls()
			serve(handle(m, func(s *session.Session) {
				if !s.IsNew() || s.WasUnknown() || s.Len() > 0 {
					t.Error("the request has a session")
				}
			}), "session_id="+forged)
			if calls := store.calls(); calls != [4]int{} {
				t.Errorf("loads, saves, touches, deletes: %v", calls)
			}
		})
	}
	for _, genuine := range []string{value, `"` + value + `"`, value + " ", "x; session_id=" + value} {
		serve(handle(m, func(s *session.Session) {
			if !s.Has("k") {
				t.Errorf("%q is refused", genuine)
			}
		}), "session_id="+genuine)
	}
}

// A cookie is 256 random bits and their MAC, of which nothing is the same in another one, whatever the session holds.
func TestTokens(t *testing.T) {
	const n = 4096
	m := newManager(t, session.NewMemoryStore(), nil)
	seen := make(map[string]bool)
	var ones [8 * 64]int
	for range n {
		line := setCookie(t, serve(handle(m, func(s *session.Session) { s.Set("k", "v") })).Header, "session_id")
		value, err := base64.RawURLEncoding.DecodeString(cookieValue(line))
		if err != nil || len(value) != 64 {
			t.Fatalf("the cookie has %d bytes, %v", len(value), err)
		}
		for _, half := range []string{string(value[:32]), string(value[32:])} {
			if seen[half] {
				t.Fatal("two cookies have a half in common")
			}
			seen[half] = true
		}
		for i := range ones {
			ones[i] += int(value[i/8] >> (i % 8) & 1)
		}
	}
	for i, got := range ones {
		if got < n/2-n/16 || got > n/2+n/16 { // eight standard deviations
			t.Errorf("bit %d is set in %d of %d cookies", i, got, n)
		}
	}
}

// Cookies of the same name that others planted do not hide the genuine one, unless they are more than a browser keeps.
func TestPlantedCookies(t *testing.T) {
	for _, planted := range []int{0, 1, 2, 9, 200} {
		for _, at := range slices.Compact([]int{0, planted / 2, max(0, planted-1), planted}) {
			store := newCounting()
			m := newManager(t, store, nil)
			value, _ := begin(t, m)
			store.calls()
			var line []string
			for i := range planted + 1 {
				if i == at {
					line = append(line, "session_id="+value)
				}
				if i < planted {
					line = append(line, "session_id="+strings.Repeat("A", 85)+fmt.Sprint(i), fmt.Sprint("other", i, "=1"))
				}
			}
			for _, lines := range [][]string{{strings.Join(line, "; ")}, line} {
				serve(handle(m, func(s *session.Session) {
					if got, want := s.Has("k"), at < 200; got != want {
						t.Errorf("behind %d planted cookies the session is found: %v", at, got)
					}
				}), lines...)
				if calls := store.calls(); calls[0] > 1 || calls[1]+calls[2]+calls[3] > 0 {
					t.Errorf("loads, saves, touches, deletes: %v", calls)
				}
			}
		}
	}
}

// A genuine cookie whose session has ended does not hide one that is alive, and costs a bounded number of loads.
func TestDeadCookies(t *testing.T) {
	store := newCounting()
	m := newManager(t, store, nil)
	var dead []string
	for range 20 {
		value, id := begin(t, m)
		store.Delete(t.Context(), id)
		dead = append(dead, "session_id="+value)
	}
	value, _ := begin(t, m)
	store.calls()
	serve(handle(m, func(s *session.Session) {
		if !s.Has("k") {
			t.Error("the live session is not found")
		}
	}), append(dead[:7:7], "session_id="+value)...)
	store.calls()
	serve(handle(m, func(s *session.Session) { s.Has("k") }), dead...)
	if calls := store.calls(); calls[0] > 8 {
		t.Errorf("%d loads for one request", calls[0])
	}
}

// After a change of the secret, sessions live on, and their cookies are signed anew when they are next sent.
func TestSecretRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &dyingStore{MemoryStore: session.NewMemoryStore(), left: -1}
		manager := func(secrets ...[]byte) *session.Manager {
			m, err := session.New(store, secrets[0], &session.Options{PreviousSecrets: secrets[1:],
				RenewInterval: time.Minute, SweepInterval: session.Never, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			return m
		}
		a, b := secretOf('a'), secretOf('b')
		before, both, swapped, after := manager(a), manager(b, a), manager(a, b), manager(b)
		// send returns the cookie that the client has afterwards.
		send := func(m *session.Manager, value string, known bool) string {
			t.Helper()
			res := serve(handle(m, func(s *session.Session) {
				if got := s.Has("k"); got != known {
					t.Errorf("the session is known: %v", got)
				}
			}), "session_id="+value)
			if line := setCookie(t, res.Header, "session_id"); line != "" {
				return cookieValue(line)
			}
			return value
		}

		old, _ := begin(t, before)
		send(after, old, false)
		if got := send(both, old, true); got != old {
			t.Error("a cookie that need not be sent was sent")
		}
		time.Sleep(time.Minute)
		next := send(both, old, true)
		if next == old {
			t.Fatal("the session was not renewed")
		}
		send(after, next, true)
		send(before, next, false)
		// Requests that carry the old cookie follow, wherever they arrive; each process signs with its own secret.
		if got := send(both, old, true); got != next {
			t.Error("the old cookie leads elsewhere")
		}
		send(after, send(both, old, true), true)
		send(before, send(before, old, true), true)
		send(before, send(swapped, old, true), true)
		if token := func(value string) string { return value[:42] }; token(send(before, old, true)) != token(next) {
			t.Error("two processes derive different successors")
		}

		// The process dies between the two steps of a renewal, and one with other secrets in front takes over.
		time.Sleep(time.Minute)
		store.left = 1
		res := serve(handle(both, func(s *session.Session) { s.Has("k") }), "session_id="+next)
		store.left = -1
		if setCookie(t, res.Header, "session_id") != "" {
			t.Fatal("the renewal was completed")
		}
		last := send(swapped, next, true)
		if last == next {
			t.Error("the renewal was not completed by the next request")
		}
		send(before, last, true)
		send(both, last, true)
	})
}

// What a browser keeps and sends is what the library asked for.
func TestCookieJar(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "__Host-sid"}})
	mux := http.NewServeMux()
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Set("k", 1) })
	mux.HandleFunc("/new", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Regenerate() })
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Destroy() })
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, session.FromContext(r.Context()).Has("k"), m.HasCookie(r))
	})
	jar, _ := cookiejar.New(nil)
	srv := newServer(t, true, m.Handler(mux))
	srv.Client().Jar = jar
	get := func(path string) string {
		res, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		return readBody(t, res)
	}
	for _, step := range []struct{ path, want string }{
		{"/get", "false false"}, {"/set", ""}, {"/get", "true true"}, {"/new", ""}, {"/get", "true true"},
		{"/end", ""}, {"/get", "false false"}, {"/set", ""}, {"/get", "true true"},
	} {
		if got := get(step.path); got != step.want {
			t.Errorf("%s: %q, want %q", step.path, got, step.want)
		}
	}
}

// A response that sets the cookie is kept out of shared caches, with no more done to the handler's own
// Cache-Control than that takes.
func TestCacheControl(t *testing.T) {
	for _, test := range []struct {
		name   string
		header http.Header
		want   string // all lines of Cache-Control, joined
	}{
		{"none", nil, "private"},
		{"empty", http.Header{"Cache-Control": {""}}, "private"},
		{"public", http.Header{"Cache-Control": {"public"}}, "private"},
		{"public in capitals", http.Header{"Cache-Control": {"PUBLIC, Max-Age=1"}}, "Max-Age=1, private"},
		{"max-age", http.Header{"Cache-Control": {"max-age=60"}}, "max-age=60, private"},
		{"s-maxage", http.Header{"Cache-Control": {"public, s-maxage=60, max-age=5"}}, "max-age=5, private"},
		{"no-store", http.Header{"Cache-Control": {"no-store"}}, "no-store"},
		{"no-store, max-age", http.Header{"Cache-Control": {"no-store, max-age=0"}}, "no-store, max-age=0"},
		{"must-understand voids no-store", http.Header{"Cache-Control": {"must-understand, no-store"}}, "must-understand, no-store, private"},
		{"private", http.Header{"Cache-Control": {"private"}}, "private"},
		{"Private, max-age", http.Header{"Cache-Control": {"Private, max-age=9"}}, "Private, max-age=9"},
		{"private fields", http.Header{"Cache-Control": {`private="X-Foo"`}}, "private"},
		{"private fields with commas", http.Header{"Cache-Control": {`private="X-Foo, public", max-age=1`}}, "max-age=1, private"},
		{"no-cache", http.Header{"Cache-Control": {"no-cache"}}, "no-cache, private"},
		{"no-cache fields", http.Header{"Cache-Control": {`no-cache="a, private, b", public`}}, `no-cache="a, private, b", private`},
		{"escaped quote", http.Header{"Cache-Control": {`ext="a\", private", public`}}, `ext="a\", private", private`},
		{"several lines", http.Header{"Cache-Control": {"public", "max-age=1", "no-cache"}}, "max-age=1, no-cache, private"},
		{"blanks and commas", http.Header{"Cache-Control": {" , public ,, max-age=1 ,"}}, "max-age=1, private"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, how := range []string{"set", "removal"} {
				m := newManager(t, session.NewMemoryStore(), nil)
				value, _ := begin(t, m)
				res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for name, lines := range test.header {
						w.Header()[name] = lines
					}
					s := session.FromContext(r.Context())
					if how == "set" {
						s.Regenerate()
					} else {
						s.Destroy()
					}
				})), "session_id="+value)
				if got := strings.Join(res.Header.Values("Cache-Control"), "\n"); got != test.want {
					t.Errorf("%s: Cache-Control is %q, want %q", how, got, test.want)
				}
			}
		})
	}

	// Without a cookie in the response, the handler's word stands.
	m := newManager(t, session.NewMemoryStore(), nil)
	value, _ := begin(t, m)
	res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=5")
		session.FromContext(r.Context()).Has("k")
	})), "session_id="+value)
	if got := res.Header.Get("Cache-Control"); got != "public, max-age=5" {
		t.Errorf("Cache-Control of a response without the cookie is %q", got)
	}

	// Headers for particular shared caches go before Cache-Control (RFC 9213), so they are held to the same.
	res = serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("CDN-Cache-Control", "max-age=600")
		w.Header().Set("Surrogate-Control", "max-age=600")
		session.FromContext(r.Context()).Regenerate()
	})), "session_id="+value)
	for _, name := range []string{"CDN-Cache-Control", "Surrogate-Control"} {
		if got := res.Header.Get(name); got != "max-age=600, private" {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// A response that depends on the session says so, once.
func TestVary(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	for _, test := range []struct{ lines, want []string }{
		{nil, []string{"Cookie"}},
		{[]string{"Accept"}, []string{"Accept", "Cookie"}},
		{[]string{"Accept, cookie"}, []string{"Accept, cookie"}},
		{[]string{"Accept", "Origin,COOKIE"}, []string{"Accept", "Origin,COOKIE"}},
		{[]string{"*"}, []string{"*"}},
		{[]string{"Accept, *"}, []string{"Accept, *"}},
		{[]string{"Cookies, X-Cookie"}, []string{"Cookies, X-Cookie", "Cookie"}},
	} {
		for name, fn := range map[string]func(*session.Session){
			"read": func(s *session.Session) { s.Has("k") }, "write": func(s *session.Session) { s.Set("k", 1) },
		} {
			w := httptest.NewRecorder()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Vary"] = append([]string(nil), test.lines...)
				fn(session.FromContext(r.Context()))
				w.Write(nil)
				w.Write(nil)
			})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			if got := w.Result().Header["Vary"]; strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("%s: Vary %q becomes %q, want %q", name, test.lines, got, test.want)
			}
		}
	}
}

// A persistent cookie slides along with what a save, or another idle timeout, does to the session's end.
func TestCookieSlidesWithSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			Cookie: session.Cookie{Persistent: true}, RenewInterval: session.Never, SweepInterval: session.Never,
		})
		for _, step := range []struct {
			do   func(*session.Session)
			want int
		}{
			{func(s *session.Session) { s.Set("k", 1) }, 900},
			{func(s *session.Session) { s.Set("k", 2) }, 900},
			{func(s *session.Session) {
				s.SetIdleTimeout(time.Hour)
				if want := time.Now().Add(time.Hour); !s.Expires().Equal(want) {
					t.Errorf("before the commit the session expires %v, want %v", s.Expires(), want)
				}
			}, 3600},
		} {
			cookies := v.visit(step.do).Cookies()
			if len(cookies) != 1 || cookies[0].MaxAge != step.want {
				t.Errorf("the cookies are %v, want one with Max-Age=%d", cookies, step.want)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A response has one cookie of the session's name, whoever else set one.
func TestOneCookieOfTheName(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	res := serve(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "session_id=of another library")
		w.Header().Add("Set-Cookie", "session_id2=1")
		session.FromContext(r.Context()).Set("k", 1)
	})))
	if lines := res.Header.Values("Set-Cookie"); len(lines) != 2 || lines[0] != "session_id2=1" || !strings.HasPrefix(lines[1], "session_id=") {
		t.Errorf("the cookies are %q", lines)
	}
}
