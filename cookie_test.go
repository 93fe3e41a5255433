package session_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// The browser is told what the options say, when the cookie is set and when it is removed.
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
			if want := name + "=" + value + "; " + attributes; line != want || len(value) != 91 {
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
	store := double.New(session.NewMemoryStore())
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
		"one quote of two":      `"` + value + `x`,
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
			store.Calls()
			serve(handle(m, func(s *session.Session) {
				if !s.IsNew() || s.WasUnknown() || s.Len() > 0 {
					t.Error("the request has a session")
				}
			}), "session_id="+forged)
			if calls := store.Calls(); calls != [4]int{} {
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

// A new cookie is 256 random bits, a count and their MAC, of which nothing but the count is the same in another one,
// whatever the session holds.
func TestTokens(t *testing.T) {
	const n = 4096
	m := newManager(t, session.NewMemoryStore(), nil)
	seen := make(map[string]bool)
	var ones [8 * 64]int // less the count
	for range n {
		line := setCookie(t, serve(handle(m, func(s *session.Session) { s.Set("k", "v") })).Header, "session_id")
		value, err := base64.RawURLEncoding.DecodeString(cookieValue(line))
		if err != nil || len(value) != 68 || binary.BigEndian.Uint32(value[32:]) != 1 {
			t.Fatalf("the cookie is %x, %v", value, err)
		}
		for _, part := range []string{string(value[:16]), string(value[16:32]), string(value[36:])} {
			if seen[part] {
				t.Fatal("two cookies have a part in common")
			}
			seen[part] = true
		}
		value = slices.Delete(value, 32, 36)
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
			store := double.New(session.NewMemoryStore())
			m := newManager(t, store, nil)
			value, _ := begin(t, m)
			store.Calls()
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
				if calls := store.Calls(); calls[0] > 1 || calls[1]+calls[2]+calls[3] > 0 {
					t.Errorf("loads, saves, touches, deletes: %v", calls)
				}
			}
		}
	}
}

// A genuine cookie whose session has ended does not hide one that is alive, and costs a bounded number of loads.
func TestDeadCookies(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	m := newManager(t, store, nil)
	var dead []string
	for range 20 {
		value, id := begin(t, m)
		store.Delete(t.Context(), id)
		dead = append(dead, "session_id="+value)
	}
	value, _ := begin(t, m)
	store.Calls()
	serve(handle(m, func(s *session.Session) {
		if !s.Has("k") {
			t.Error("the live session is not found")
		}
	}), append(dead[:7:7], "session_id="+value)...)
	store.Calls()
	serve(handle(m, func(s *session.Session) { s.Has("k") }), dead...)
	if calls := store.Calls(); calls[0] > 8 {
		t.Errorf("%d loads for one request", calls[0])
	}
}

// After a change of the secret, sessions live on, and their cookies are signed anew when they are next sent.
func TestSecretRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
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
		// Requests that carry the old cookie are answered with the new one, wherever they arrive; each process signs with its own
		// secret.
		if got := send(both, old, true); got != next {
			t.Error("the old cookie leads elsewhere")
		}
		send(after, send(both, old, true), true)
		send(before, send(before, old, true), true)
		send(before, send(swapped, old, true), true)
		if token := func(value string) string { return value[:48] }; token(send(before, old, true)) != token(next) {
			t.Error("two processes issue different cookies")
		}

		// A cookie that an older secret signed is signed anew with the next save, due or not.
		signed := send(swapped, old, true)
		res := serve(handle(both, func(s *session.Session) { s.Set("more", 1) }), "session_id="+signed)
		anew := cookieValue(setCookie(t, res.Header, "session_id"))
		if anew != next {
			t.Errorf("%q is signed anew as %q, want %q", signed, anew, next)
		}
		send(after, anew, true)
	})
}

// A browser keeps and sends what the library asked for.
func TestCookieJar(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), &session.Options{Cookie: session.Cookie{Name: "__Host-sid"}})
	mux := http.NewServeMux()
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Set("k", 1) })
	mux.HandleFunc("/new", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Regenerate() })
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Destroy() })
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, session.FromContext(r.Context()).Has("k"), m.HasToken(r))
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

// After a change of Path or Domain, a browser keeps the cookie from before beside the new one, unless that scope is named
// as a former one: then it goes with the arrival of the new one, and the session stays.
func TestFormerScopes(t *testing.T) {
	const here = "https://app.example.com/app/page"
	for _, test := range []struct {
		name     string
		from, to session.CookieScope
		also     []session.CookieScope // former ones
		sees     string                // another page where the new cookie is sent
	}{
		{"to a domain", session.CookieScope{}, session.CookieScope{Domain: "example.com"}, nil, "https://other.example.com/"},
		{"from a domain", session.CookieScope{Domain: "example.com"}, session.CookieScope{}, nil, "https://app.example.com/x"},
		{"to a path", session.CookieScope{}, session.CookieScope{Path: "/app"}, nil, "https://app.example.com/app"},
		{"from a path", session.CookieScope{Path: "/app"}, session.CookieScope{}, nil, "https://app.example.com/"},
		{"both, and others", session.CookieScope{Path: "/app", Domain: "example.com"}, session.CookieScope{Path: "/app/page"},
			[]session.CookieScope{{Path: "/elsewhere"}, {Domain: "app.example.com"}}, here},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := session.NewMemoryStore()
				manager := func(scope session.CookieScope, former ...session.CookieScope) *session.Manager {
					return newManager(t, store, &session.Options{SweepInterval: session.Never,
						Cookie: session.Cookie{Path: scope.Path, Domain: scope.Domain, Former: former, Persistent: true}})
				}
				before, after := manager(test.from), manager(test.to, append(test.also, test.from)...)
				jar, _ := cookiejar.New(nil)
				cookies := func(page string) []*http.Cookie {
					u, err := url.Parse(page)
					if err != nil {
						t.Fatal(err)
					}
					return jar.Cookies(u)
				}
				visit := func(m *session.Manager, do func(*session.Session)) []string {
					r := httptest.NewRequest(http.MethodGet, here, nil)
					for _, c := range cookies(here) {
						r.AddCookie(c)
					}
					w := httptest.NewRecorder()
					handle(m, do).ServeHTTP(w, r)
					jar.SetCookies(r.URL, w.Result().Cookies())
					return w.Result().Header["Set-Cookie"]
				}
				has := func(n int, page string) {
					t.Helper()
					if got := cookies(page); len(got) != n {
						t.Errorf("at %s there are the cookies %v, want %d", page, got, n)
					}
				}
				alive := func(s *session.Session) {
					if !s.Has("k") {
						t.Error("the session is gone")
					}
				}
				visit(before, func(s *session.Session) { s.Set("k", 1) })
				if lines := visit(after, alive); len(lines) > 0 {
					t.Errorf("a request that needs no cookie is answered with %q", lines)
				}
				has(1, here)
				time.Sleep(5 * time.Minute)
				lines := visit(after, alive)
				if want := 2 + len(test.also); len(lines) != want || strings.Contains(lines[want-1], "Max-Age=0") {
					t.Errorf("the renewal sends %q", lines)
				}
				has(1, here)
				has(1, test.sees)
				visit(after, alive)
				visit(before, func(s *session.Session) { s.Regenerate(); alive(s) }) // a process of before is still there
				has(2, here)
				visit(after, func(s *session.Session) { alive(s); s.Regenerate() })
				has(1, here)
				visit(after, func(s *session.Session) { alive(s); s.Destroy() })
				has(0, here)
				has(0, test.sees)
			})
		})
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
		{"a quote that does not end", http.Header{"Cache-Control": {`max-age=1, ext="a, public`}}, "max-age=1, private"},
		{"a value where none belongs", http.Header{"Cache-Control": {"no-store=1"}}, "no-store=1, private"},
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

}

// Shared caches obey other headers, too, and some of them before Cache-Control: a response that sets the cookie shuts all
// of them out, and so does one that answers an error.
func TestCacheControlElsewhere(t *testing.T) {
	for _, test := range []struct{ name, value, private, noStore string }{
		// Targeted fields (RFC 9213).
		{"CDN-Cache-Control", "max-age=600", "max-age=600, private", "no-store"},
		{"Cloudflare-CDN-Cache-Control", "public, max-age=3600", "max-age=3600, private", "no-store"},
		{"Netlify-CDN-Cache-Control", `public, s-maxage=9, durable`, "durable, private", "durable, no-store"},
		{"Vercel-CDN-Cache-Control", "private", "private", "no-store"},
		{"Akamai-Cache-Control", "no-store", "no-store", "no-store"},
		{"X-LiteSpeed-Cache-Control", "shared, max-age=60", "max-age=60, private", "no-store"},
		{"Anybodys-Cache-Control", "max-age=1", "max-age=1, private", "no-store"},
		// Edge Architecture Specification: Varnish, Fastly, Squid. "private" is no word of theirs.
		{"Surrogate-Control", "max-age=600", "no-store", "no-store"},
		{"Surrogate-Control", `max-age=600+60;squid, content="ESI/1.0", no-store;varnish`, `content="ESI/1.0", no-store;varnish, no-store`, `content="ESI/1.0", no-store;varnish, no-store`},
		{"Surrogate-Control", "no-store, max-age=0", "no-store", "no-store"},
		// Akamai.
		{"Edge-Control", "!no-store, cache-maxage=1d, max-age=1h, dca=esi", "dca=esi, no-store", "dca=esi, no-store"},
		{"Edge-Control", "bypass-cache", "bypass-cache, no-store", "bypass-cache, no-store"},
		// nginx goes by this one first.
		{"X-Accel-Expires", "3600", "0", "0"},
		{"X-Accel-Expires", "@4102444800", "0", "0"},
		// As somebody might write them who does not use Set.
		{"=cdn-cache-control", "max-age=600", "max-age=600, private", "no-store"},
		{"=cache-control", "public, max-age=600", "max-age=600, private", "no-store"},
		{"=x-accel-expires", "60", "0", "0"},
		// These are of no account beside Cache-Control, or concern others.
		{"Expires", "Thu, 01 Jan 2099 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT"},
		{"Pragma", "no-cache", "no-cache", "no-cache"},
		{"X-Accel-Buffering", "no", "no", "no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name, exact := strings.CutPrefix(test.name, "=")
			put := func(h http.Header) {
				if exact {
					h[name] = []string{test.value}
				} else {
					h.Set(name, test.value)
				}
			}
			find := func(h http.Header) string {
				if exact {
					return strings.Join(h[name], "\n")
				}
				return strings.Join(h.Values(name), "\n")
			}
			store := double.New(session.NewMemoryStore())
			m := newManager(t, store, &session.Options{Logger: quiet})
			for how, use := range map[string]func(*session.Session){"set": (*session.Session).Regenerate, "removal": (*session.Session).Destroy} {
				value, _ := begin(t, m)
				w := &fakeWriter{header: http.Header{}}
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Cookie", "session_id="+value)
				m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					put(w.Header())
					use(session.FromContext(r.Context()))
				})).ServeHTTP(w, r)
				if got := find(w.header); got != test.private {
					t.Errorf("%s: %s: %q becomes %q, want %q", how, name, test.value, got, test.private)
				}
				for line, values := range w.header {
					if strings.EqualFold(line, "Cache-Control") && !strings.Contains(strings.Join(values, ","), "private") {
						t.Errorf("%s: %s is %q", how, line, values)
					}
				}
			}
			for _, own := range []bool{false, true} {
				m := m
				if own {
					m = newManager(t, store, &session.Options{ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(503) }})
				}
				store.Hook(double.Fail(errDown, double.Save))
				w := &fakeWriter{header: http.Header{}}
				put(w.header) // by middleware outside: what the handler had is dropped
				handle(m, func(s *session.Session) { s.Set("k", 1) }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				store.Hook()
				if got := find(w.header); got != test.noStore || w.header.Get("Cache-Control") != "no-store" {
					t.Errorf("an error: %s: %q becomes %q, want %q; Cache-Control is %q", name, test.value, got, test.noStore, w.header.Get("Cache-Control"))
				}
			}
		})
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

// Whatever the client sends: nothing reaches the store but the value that this manager signed.
func FuzzCookie(f *testing.F) {
	v := newVictim(f, session.Options{})
	for _, seed := range []string{
		"", "session_id", "session_id=", "session_id=GENUINE", "a=b; session_id=GENUINE; c=d", `session_id="GENUINE"`,
		"session_id=GENUINE=", "session_id=x;session_id=x\nsession_id=GENUINE", " \t;;=;session_id==", "session_id=GENUINEGENUINE",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(strings.ReplaceAll(text, "GENUINE", v.value), "\n")
		var parts []string // as RFC 6265bis section 5.8.3 has a client put them together
		for _, line := range lines {
			for part := range strings.SplitSeq(line, ";") {
				if name, value, ok := strings.Cut(strings.Trim(part, " \t"), "="); ok && name == "session_id" {
					parts = append(parts, value)
				}
			}
		}
		parts = parts[:min(len(parts), 200)]
		want := slices.Contains(parts, v.value) || slices.Contains(parts, `"`+v.value+`"`)
		v.store.Calls()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = lines
		v.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := v.m.HasToken(r); got != want {
				t.Errorf("HasToken is %v for %q", got, lines)
			}
			if got := session.FromContext(r.Context()).Has("k"); got != want {
				t.Errorf("the session is found: %v for %q", got, lines)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
		calls := 0
		if want {
			calls = 1
		}
		if got := v.store.Calls(); got != [4]int{calls, 0, 0, 0} {
			t.Errorf("loads, saves, touches, deletes are %v for %q", got, lines)
		}
	})
}

// The cost of a request with many cookies is in proportion to their number, whatever they are: others', forged ones of the
// session's name, and genuine ones. So is what a response costs that sets many.
func BenchmarkCookies(b *testing.B) {
	v := newVictim(b, session.Options{})
	forged := "session_id=" + strings.Repeat("A", 91)
	for name, cookie := range map[string]string{"others": "other=value", "forged": forged, "same": "session_id=" + v.value} {
		for _, n := range []int{100, 1000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Cookie", strings.Repeat(cookie+"; ", n)+"session_id="+v.value)
				h := handle(v.m, func(s *session.Session) { s.Has("k") })
				for b.Loop() {
					h.ServeHTTP(&fakeWriter{header: http.Header{}}, r)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/cookie")
			})
		}
	}
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint("set/", n), func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			h := v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range n {
					w.Header().Add("Set-Cookie", "other=value")
				}
				session.FromContext(r.Context()).Set("k", 1)
			}))
			for b.Loop() {
				h.ServeHTTP(&fakeWriter{header: http.Header{}}, r)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/cookie")
		})
	}
}

// A partitioned cookie says so whenever it is set or removed; beside one of before that is not, the newest of a session
// counts, and each request of either finds it.
func TestPartitionedCookie(t *testing.T) {
	store := session.NewMemoryStore()
	whole := newManager(t, store, &session.Options{Cookie: session.Cookie{Name: "__Host-id", SameSite: http.SameSiteNoneMode}})
	apart := newManager(t, store, &session.Options{Cookie: session.Cookie{Name: "__Host-id", SameSite: http.SameSiteNoneMode,
		Partitioned: true, Former: []session.CookieScope{{}}}})
	v := &visitor{t: t, m: whole}
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	old := v.cookie.Value
	res := serve(handle(apart, func(s *session.Session) { s.SetUser("ann") }), "__Host-id="+old)
	lines := res.Header["Set-Cookie"]
	if len(lines) != 2 || strings.Contains(lines[0], "Partitioned") || !strings.Contains(lines[0], "Max-Age=0") || !strings.Contains(lines[1], "; Partitioned") {
		t.Fatalf("the login sets %q", lines)
	}
	fresh := cookieValue(lines[1])
	for _, both := range []string{"__Host-id=" + old + "; __Host-id=" + fresh, "__Host-id=" + fresh + "; __Host-id=" + old} {
		serve(handle(apart, func(s *session.Session) {
			if s.User() != "ann" {
				t.Errorf("%s leads to %v", both, s)
			}
		}), both)
	}
	res = serve(handle(apart, func(s *session.Session) { s.Destroy() }), "__Host-id="+fresh)
	if lines := res.Header["Set-Cookie"]; len(lines) != 2 || !strings.Contains(lines[1], "Max-Age=0") || !strings.Contains(lines[1], "; Partitioned") {
		t.Errorf("the logout sets %q", lines)
	}
	for name, c := range map[string]session.Cookie{
		"without Secure": {Partitioned: true, InsecureHTTP: true},
		"the same scope": {Partitioned: true, Former: []session.CookieScope{{Partitioned: true}}},
		"another path":   {Name: "__Host-id", Partitioned: true, Former: []session.CookieScope{{Path: "/x"}}},
	} {
		if _, err := session.New(store, secretOf('s'), &session.Options{Cookie: c}); err == nil {
			t.Errorf("%s: New returns no error", name)
		}
	}
}

// Behind the cookie of a session that was just closed, one that leads to nothing any more makes its client no newcomer.
func TestClosedBesideDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		dead := v.cookie
		v.login()
		time.Sleep(time.Minute)
		other := newVisitor(t, v.store, nil).login()
		closed := other.cookie
		other.visit((*session.Session).Destroy)
		for _, cookies := range [][]*http.Cookie{{closed, dead}, {dead, closed}} {
			r := httptest.NewRequest("GET", "/", nil)
			for _, c := range cookies {
				r.AddCookie(c)
			}
			w := httptest.NewRecorder()
			handle(v.m, func(s *session.Session) { s.Set("k", 2) }).ServeHTTP(w, r)
			wantStatus(t, w.Result(), http.StatusConflict)
		}
	})
}
