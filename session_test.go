package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"encoding/base64"
	"encoding/hex"

	"example.com/session"
	"example.com/session/internal/double"
)

// A visitor is a client that keeps its session cookie between requests, as a browser does.
type visitor struct {
	t      *testing.T
	store  session.Store
	m      *session.Manager
	cookie *http.Cookie
	native bool // it has the cookie's value in a header instead
}

// newVisitor returns a client of a manager on store; opts may be nil.
func newVisitor(t *testing.T, store session.Store, opts *session.Options) *visitor {
	t.Helper()
	return &visitor{t: t, store: store, m: newManager(t, store, opts)}
}

// visitors make a client of a manager on the store; the options may be nil.
type visitors = func(t *testing.T, store session.Store, opts *session.Options) *visitor

// onTransports runs a test with browsers, and with clients that have their token in a header. To the test, these have a cookie
// as well, and are sent one.
func onTransports(t *testing.T, test func(t *testing.T, newVisitor visitors)) {
	t.Run("cookie", func(t *testing.T) { test(t, newVisitor) })
	t.Run("header", func(t *testing.T) {
		test(t, func(t *testing.T, store session.Store, opts *session.Options) *visitor {
			var o session.Options
			if opts != nil {
				o = *opts
			}
			o.TokenHeader = tokenHeader
			v := newVisitor(t, store, &o)
			v.native = true
			return v
		})
	})
}

func newManager(t *testing.T, store session.Store, opts *session.Options) *session.Manager {
	t.Helper()
	if opts == nil {
		opts = new(session.Options)
	}
	if encrypted {
		o := *opts
		o.EncryptAtRest = true
		opts = &o
	}
	m, err := session.New(store, bytes.Repeat([]byte("s"), 32), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// visit sends a request whose handler is fn, and returns the response.
func (v *visitor) visit(fn func(s *session.Session)) *http.Response {
	v.t.Helper()
	return v.send(v.m, func(_ http.ResponseWriter, r *http.Request) { fn(session.FromContext(r.Context())) })
}

// send is visit with the whole of the handler, at a manager of choice.
func (v *visitor) send(m *session.Manager, h http.HandlerFunc) *http.Response {
	v.t.Helper()
	var res *http.Response
	if v.native {
		res = v.sendNative(m, h)
	} else {
		var cookies []string
		if v.cookie != nil {
			cookies = append(cookies, v.cookie.Name+"="+v.cookie.Value)
		}
		res = serve(m.Handler(h), cookies...)
	}
	for _, c := range res.Cookies() {
		v.cookie = c
		if c.MaxAge < 0 {
			v.cookie = nil
		}
	}
	return res
}

// sendNative is send with the token in a header, which the response has as a cookie, too.
func (v *visitor) sendNative(m *session.Manager, h http.HandlerFunc) *http.Response {
	v.t.Helper()
	n := native{t: v.t, m: v.m}
	if v.cookie != nil {
		n.token = v.cookie.Value
	}
	res := n.send(m, h)
	if tokens := res.Header[tokenHeader]; tokens != nil {
		c := http.Cookie{Name: "session_id", Value: n.token, HttpOnly: true}
		if n.token == "" {
			c.MaxAge = -1
		}
		res.Header.Set("Set-Cookie", c.String())
	}
	return res
}

// clone is another request's view of the same client: it has the cookie, and keeps what it gets to itself.
func (v *visitor) clone() *visitor {
	c := *v
	return &c
}

func wantStatus(t *testing.T, res *http.Response, status int) {
	t.Helper()
	if res.StatusCode != status {
		t.Errorf("the status is %s, want %d", res.Status, status)
	}
}

func TestDictionary(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) {
		if !s.IsNew() || s.Len() != 0 || s.Has("a") || len(s.Keys()) != 0 {
			t.Error("a new session is not empty")
		}
		if got, ok := s.Get("a"); got != nil || ok {
			t.Errorf("Get of nothing: %v, %v", got, ok)
		}
		s.Set("a", 1)
		s.SetAll(map[string]any{"b": "two", "c": []any{3.5, true}, "d": map[string]any{"e": nil}})
		if got := s.SetDefault("a", 9); got != int64(1) {
			t.Errorf("SetDefault of a key that is there: %v", got)
		}
		if got := s.SetDefault("f", "new"); got != "new" {
			t.Errorf("SetDefault of a key that is not there: %v", got)
		}
	})
	want := map[string]any{"a": int64(1), "b": "two", "c": []any{3.5, true}, "d": map[string]any{"e": nil}, "f": "new"}
	v.visit(func(s *session.Session) {
		got := map[string]any{}
		for k, val := range s.All() {
			got[k] = val
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("All: %v, want %v", got, want)
		}
		if keys := s.Keys(); !slices.Equal(keys, []string{"a", "b", "c", "d", "f"}) {
			t.Errorf("Keys: %v", keys)
		}
		if s.Len() != 5 || s.IsNew() {
			t.Errorf("Len %d, IsNew %v", s.Len(), s.IsNew())
		}
		if got, want := slices.Collect(s.Values()), []any{want["a"], want["b"], want["c"], want["d"], want["f"]}; !reflect.DeepEqual(got, want) {
			t.Errorf("Values: %v, want %v", got, want)
		}
		for range s.Values() {
			break
		}
		if got, ok := s.Pop("b"); got != "two" || !ok || s.Has("b") {
			t.Errorf("Pop: %v, %v", got, ok)
		}
		if got, ok := s.Pop("b"); got != nil || ok {
			t.Errorf("Pop of nothing: %v, %v", got, ok)
		}
		s.Delete("c", "d", "nothing")
	})
	v.visit(func(s *session.Session) {
		if keys := s.Keys(); !slices.Equal(keys, []string{"a", "f"}) {
			t.Errorf("after Pop and Delete: %v", keys)
		}
		s.Clear()
		s.Set("g", 1)
	})
	v.visit(func(s *session.Session) {
		if keys := s.Keys(); !slices.Equal(keys, []string{"g"}) {
			t.Errorf("after Clear and Set: %v", keys)
		}
	})
}

// The cost of a request at the store: nothing if it does not use the session, one load if it reads, one load and
// one save if it changes something.
func TestStoreCalls(t *testing.T) {
	store := double.New(session.NewMemoryStore())
	v := newVisitor(t, store, nil)
	number := session.Key[int]("n")
	for _, step := range []struct {
		name string
		do   func(*session.Session)
		want [4]int // loads, saves, touches, deletes
	}{
		{"a visitor without a cookie looks", func(s *session.Session) { number.Get(s); s.Len() }, [4]int{}},
		{"and clears nothing", func(s *session.Session) { s.Clear(); s.Delete("n") }, [4]int{}},
		{"sets and deletes", func(s *session.Session) { number.Set(s, 1); number.Delete(s) }, [4]int{}},
		{"the first value", func(s *session.Session) { number.Set(s, 1) }, [4]int{0, 1, 0, 0}},
		{"does not use it", func(*session.Session) {}, [4]int{}},
		{"reads", func(s *session.Session) { number.Get(s); s.Len() }, [4]int{1, 0, 0, 0}},
		{"sets what is there", func(s *session.Session) { number.Set(s, 1) }, [4]int{1, 0, 0, 0}},
		{"deletes what is not there", func(s *session.Session) { s.Delete("x") }, [4]int{1, 0, 0, 0}},
		{"changes it", func(s *session.Session) { number.Set(s, 2); number.Set(s, 3) }, [4]int{1, 1, 0, 0}},
		{"updates", func(s *session.Session) { number.Update(s, func(n int) int { return n + 1 }) }, [4]int{1, 1, 0, 0}},
		{"regenerates", func(s *session.Session) { s.Regenerate() }, [4]int{1, 1, 0, 0}},
		{"empties it", func(s *session.Session) { s.Clear() }, [4]int{1, 1, 0, 0}},
		{"without a cookie again", func(s *session.Session) { number.Get(s) }, [4]int{}},
	} {
		wantStatus(t, v.visit(step.do), http.StatusOK)
		if got := store.Calls(); got != step.want {
			t.Errorf("%s: loads, saves, touches, deletes are %v, want %v", step.name, got, step.want)
		}
	}
}

func TestEmptySessionEnds(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	old := v.clone()
	res := v.visit(func(s *session.Session) { s.Delete("k") })
	if v.cookie != nil || len(res.Cookies()) != 1 || res.Cookies()[0].MaxAge >= 0 {
		t.Errorf("the cookie was not removed: %v", res.Header)
	}
	old.visit(func(s *session.Session) {
		if s.Len() != 0 {
			t.Error("the old cookie leads to values")
		}
	})
	// Another request that added a value meanwhile keeps the session alive.
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	other := v.clone()
	v.visit(func(s *session.Session) {
		s.Delete("k")
		other.visit(func(s *session.Session) { s.Set("other", 2) })
	})
	v.visit(func(s *session.Session) {
		if !slices.Equal(s.Keys(), []string{"other"}) {
			t.Errorf("the keys are %v", s.Keys())
		}
	})
}

func TestAccessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			RenewInterval: session.Never, SweepInterval: session.Never,
			ClientAddr: func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") },
		})
		v.visit(func(s *session.Session) {
			if s.ID() != (session.ID{}) || !s.IsNew() || s.WasUnknown() || !s.Created().Equal(start) || !s.LastUsed().Equal(start) {
				t.Errorf("a new session: %v", s)
			}
			if want := start.Add(15 * time.Minute); !s.Expires().Equal(want) {
				t.Errorf("a new session expires %v, want %v", s.Expires(), want)
			}
			s.Set("k", "value")
		})
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) {
			if s.ID() == (session.ID{}) || s.IsNew() || !s.Created().Equal(start) || !s.LastUsed().Equal(start) {
				t.Errorf("after 5 minutes: %v, last used %v", s, s.LastUsed())
			}
			if s.RemoteAddr() != "192.0.2.7" || s.UserAgent() != "" {
				t.Errorf("client: %q %q", s.RemoteAddr(), s.UserAgent())
			}
			if s.WasRegenerated() {
				t.Error("WasRegenerated")
			}
			if text := s.String(); strings.Contains(text, "value") || !strings.Contains(text, s.ID().String()) || !strings.Contains(text, "k") {
				t.Errorf("String: %s", text)
			}
		})
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) {
			if want := start.Add(5 * time.Minute); !s.LastUsed().Equal(want) {
				t.Errorf("last used %v, want %v", s.LastUsed(), want)
			}
			if want := start.Add(20 * time.Minute); !s.Expires().Equal(want) {
				t.Errorf("expires %v, want %v", s.Expires(), want)
			}
		})
	})
}

// The maker of a session is told at once, and stays the same: of the agent 256 bytes, and no part of a character.
func TestCreator(t *testing.T) {
	for agent, want := range map[string]string{
		"":                                 "",
		"test/1":                           "test/1",
		strings.Repeat("m", 1000):          strings.Repeat("m", 256),
		strings.Repeat("é", 128):           strings.Repeat("é", 128),
		"m" + strings.Repeat("é", 1000):    "m" + strings.Repeat("é", 127),
		"mm" + strings.Repeat("日", 1000):   "mm" + strings.Repeat("日", 84),
		"m" + strings.Repeat("日", 1000):    "m" + strings.Repeat("日", 85),
		"mmm" + strings.Repeat("🙂", 1000):  "mmm" + strings.Repeat("🙂", 63),
		strings.Repeat("\x80", 1000):       strings.Repeat("\x80", 252), // no text at all
		strings.Repeat("m", 255) + "\xff日": strings.Repeat("m", 255) + "\xff",
	} {
		m := newManager(t, session.NewMemoryStore(), nil)
		cookie := ""
		visit := func(addr, agent string, do func(*session.Session)) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = addr
			r.Header.Set("User-Agent", agent)
			r.Header.Set("Cookie", "session_id="+cookie)
			w := httptest.NewRecorder()
			handle(m, do).ServeHTTP(w, r)
			if line := setCookie(t, w.Result().Header, "session_id"); line != "" {
				cookie = cookieValue(line)
			}
		}
		is := func(s *session.Session, addr, agent string) {
			t.Helper()
			if s.RemoteAddr() != addr || s.UserAgent() != agent {
				t.Errorf("%.9q: the creator is %q, %q, want %q, %q", agent, s.RemoteAddr(), s.UserAgent(), addr, agent)
			}
		}
		visit("192.0.2.1:1", agent, func(s *session.Session) { is(s, "192.0.2.1", want) })
		visit("192.0.2.1:1", agent, func(s *session.Session) {
			s.Set("k", 1)
			is(s, "192.0.2.1", want)
			s.Save(t.Context())
			is(s, "192.0.2.1", want)
		})
		visit("[2001:db8::1]:1", "another", func(s *session.Session) {
			is(s, "192.0.2.1", want)
			s.Destroy()
			is(s, "2001:db8::1", "another")
			s.Set("k", 1)
		})
		visit("192.0.2.1:1", agent, func(s *session.Session) { is(s, "2001:db8::1", "another") })
	}
}

// A session that is gone has no ID, however it went, and neither has one that is not there.
func TestIDOfWhatIsGone(t *testing.T) {
	for name, end := range map[string]func(v *visitor, s *session.Session) error{
		"destroyed here": func(v *visitor, s *session.Session) error { s.Destroy(); return s.Save(v.t.Context()) },
		"emptied here":   func(v *visitor, s *session.Session) error { s.Clear(); return s.Save(v.t.Context()) },
		"destroyed in another request": func(v *visitor, s *session.Session) error {
			v.clone().visit((*session.Session).Destroy)
			return s.Reload(v.t.Context())
		},
		"replaced by a login": func(v *visitor, s *session.Session) error {
			v.clone().login()
			return s.Reload(v.t.Context())
		},
		"ended by an operator": func(v *visitor, s *session.Session) error {
			if err := v.m.End(v.t.Context(), s.ID()); err != nil {
				return err
			}
			return s.Reload(v.t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), nil)
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			old := v.clone()
			v.visit(func(s *session.Session) {
				if s.ID() == (session.ID{}) {
					t.Error("a live session has no ID")
				}
				if err := end(v, s); err != nil && !errors.Is(err, session.ErrGone) {
					t.Error(err)
				}
				if id := s.ID(); id != (session.ID{}) {
					t.Errorf("in its request, the ID is %v", id)
				}
			})
			old.visit(func(s *session.Session) {
				if id := s.ID(); id != (session.ID{}) || s.Has("k") {
					t.Errorf("by the old cookie, the ID is %v", id)
				}
			})
		})
	}
}

// A session describes itself without what a cookie could be made of, and without values.
func TestStringHoldsNoSecrets(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	value, id := begin(t, m)
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(*session.Session){
		"unused": func(*session.Session) {},
		"used":   func(s *session.Session) { s.Set("k", "do not show") },
		"keyed":  func(s *session.Session) { s.Regenerate(); s.SetUser("ann"); s.FormToken() },
	} {
		var texts []string
		res := serve(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			do(s)
			var log strings.Builder
			slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "session", s, "ctx", r.Context())
			texts = append(texts, s.String(), fmt.Sprintf("%v %+v %s", s, s, s), log.String())
			if name != "unused" && !strings.Contains(s.String(), id.String()) {
				t.Errorf("%s: %s has no ID", name, s)
			}
			if name == "keyed" { // what the client has from now on
				s.Save(r.Context())
				texts = append(texts, s.String(), fmt.Sprint(s))
			}
		})), "session_id="+value)
		secrets := [][]byte{raw}
		if line := setCookie(t, res.Header, "session_id"); line != "" {
			next, _ := base64.RawURLEncoding.DecodeString(cookieValue(line))
			secrets = append(secrets, next)
			value = cookieValue(line)
		}
		for _, secret := range secrets {
			for _, part := range [][]byte{secret[:16], secret[16:32], secret[36:]} {
				bytes := fmt.Sprint(part)
				for _, form := range []string{string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), bytes[1 : len(bytes)-1],
					base64.RawURLEncoding.EncodeToString(part)[:20], base64.RawStdEncoding.EncodeToString(part)[:20], "do not show"} {
					if text := strings.Join(texts, "\n"); strings.Contains(text, form) {
						t.Errorf("%s: the text holds a part of the cookie: %s", name, text)
					}
				}
			}
		}
		raw, _ = base64.RawURLEncoding.DecodeString(value)
	}
}

// While the store is down, nobody is taken for logged out, and what does not use the session is served.
func TestStoreDown(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
		v.visit(func(s *session.Session) { s.Set("user", "ann") })
		store.Hook(double.Fail(errDown, double.Load, double.Save))
		var err error
		wantStatus(t, v.visit(func(s *session.Session) {
			if s.IsNew() {
				t.Error("the session reads as new")
			}
			err = s.Err()
		}), http.StatusServiceUnavailable)
		if !errors.Is(err, errDown) {
			t.Errorf("Err is %v", err)
		}
		wantStatus(t, v.visit(func(*session.Session) {}), http.StatusOK)
		stranger := newVisitor(t, store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
		wantStatus(t, stranger.visit(func(s *session.Session) { s.Has("user") }), http.StatusOK)
		wantStatus(t, stranger.visit(func(s *session.Session) { s.Set("user", "bob") }), http.StatusServiceUnavailable)
		if stranger.cookie != nil {
			t.Error("a cookie was set for a session that was not saved")
		}
		store.Hook()
		v.visit(func(s *session.Session) {
			if got, _ := s.Get("user"); got != "ann" {
				t.Errorf("afterwards, the user is %v", got)
			}
		})
	})
}

// One session, used by many goroutines of its request.
func TestSessionIsSafeForConcurrentUse(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	n := session.Key[int]("n")
	v.visit(func(s *session.Session) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					n.Update(s, func(n int) int { return n + 1 })
					s.Len()
					_ = s.String()
				}
			})
		}
		wg.Wait()
	})
	v.visit(func(s *session.Session) {
		if got, _ := n.Get(s); got != 800 {
			t.Errorf("%d, want 800", got)
		}
	})
}

// BenchmarkRequest is a request of a session with three values or more, on a memory store.
func BenchmarkRequest(b *testing.B) {
	const name, seen = session.Key[string]("name"), session.Key[int]("seen")
	for _, bm := range []struct {
		name    string
		values  int
		handler func(s *session.Session, i int)
	}{
		{"unused", 3, nil},
		{"read", 3, func(s *session.Session, _ int) { name.Get(s) }},
		{"readOf64", 64, func(s *session.Session, _ int) { name.Get(s) }},
		{"read16Of64", 64, func(s *session.Session, _ int) {
			for range 16 {
				name.Get(s)
			}
		}},
		{"write", 3, func(s *session.Session, i int) { seen.Set(s, i) }},
		{"regenerate", 3, func(s *session.Session, _ int) { s.Regenerate() }},
		{"readObserved", 3, func(s *session.Session, _ int) { name.Get(s) }},
		{"writeObserved", 3, func(s *session.Session, i int) { seen.Set(s, i) }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			opts := &session.Options{RenewInterval: session.Never, SweepInterval: session.Never}
			if strings.HasSuffix(bm.name, "Observed") {
				opts.Observer = func(context.Context, session.Event) {}
			}
			m, err := session.New(session.NewMemoryStore(), make([]byte, 32), opts)
			if err != nil {
				b.Fatal(err)
			}
			fill := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := session.FromContext(r.Context())
				s.SetAll(map[string]any{"name": "Ann Example", "seen": 0})
				for i := 2; i < bm.values; i++ {
					s.Set(fmt.Sprint("key ", i), "dark")
				}
			}))
			requests := make([]*http.Request, 1000)
			for i := range requests {
				w := httptest.NewRecorder()
				fill.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				requests[i] = httptest.NewRequest("GET", "/", nil)
				requests[i].AddCookie(w.Result().Cookies()[0])
			}
			i := 0
			h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if bm.handler != nil {
					bm.handler(session.FromContext(r.Context()), i)
				}
			}))
			w := &blankWriter{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				i++
				clear(w.header)
				h.ServeHTTP(w, requests[i%len(requests)])
				if lines := w.header["Set-Cookie"]; len(lines) > 0 {
					requests[i%len(requests)].Header["Cookie"][0] = lines[0]
				}
			}
		})
	}
}

// BenchmarkGet reads a value of a session that is there: a string and an int have a way of their own.
func BenchmarkGet(b *testing.B) {
	m, err := session.New(session.NewMemoryStore(), make([]byte, 32), &session.Options{SweepInterval: session.Never})
	if err != nil {
		b.Fatal(err)
	}
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.SetAll(map[string]any{"name": "Ann Example", "seen": 12, "tall": 1.75})
		b.Run("string", func(b *testing.B) { benchmarkGet[string](b, s, "name") })
		b.Run("int", func(b *testing.B) { benchmarkGet[int](b, s, "seen") })
		b.Run("float64", func(b *testing.B) { benchmarkGet[float64](b, s, "tall") })
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

func benchmarkGet[T any](b *testing.B, s *session.Session, key session.Key[T]) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := key.Get(s); !ok {
			b.Fatal("no value")
		}
	}
}

// A blankWriter drops what it is given.
type blankWriter struct{ header http.Header }

func (w *blankWriter) Header() http.Header { return w.header }

func (w *blankWriter) Write(b []byte) (int, error) { return len(b), nil }

func (w *blankWriter) WriteHeader(int) {}

// Changed tells changes from what makes no difference, before they are saved and after.
func TestChanged(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(*session.Session)
		want bool
	}{
		"nothing":               {func(s *session.Session) { s.Get("k") }, false},
		"the same":              {func(s *session.Session) { s.Set("k", 1); s.Delete("other") }, false},
		"there and back":        {func(s *session.Session) { s.Set("k", 2); s.Set("k", 1) }, false},
		"another":               {func(s *session.Session) { s.Set("k", 2) }, true},
		"another, saved":        {func(s *session.Session) { s.Set("k", 2); s.Save(context.Background()) }, true},
		"saved, and back":       {func(s *session.Session) { s.Set("k", 2); s.Save(context.Background()); s.Set("k", 1) }, true},
		"no more":               {func(s *session.Session) { s.Delete("k") }, true},
		"clear":                 {func(s *session.Session) { s.Clear() }, true},
		"a user":                {func(s *session.Session) { s.SetUser("ann") }, true},
		"a key":                 {func(s *session.Session) { s.Regenerate() }, true},
		"an idle timeout":       {func(s *session.Session) { s.SetIdleTimeout(time.Hour) }, true},
		"the usual timeout":     {func(s *session.Session) { s.SetIdleTimeout(0) }, false},
		"persistence":           {func(s *session.Session) { s.SetPersistent(true) }, true},
		"the end":               {func(s *session.Session) { s.Destroy() }, true},
		"the end, saved":        {func(s *session.Session) { s.Destroy(); s.Save(context.Background()) }, true},
		"a save that is forced": {func(s *session.Session) { s.ForceSave(); s.Save(context.Background()) }, false},
	} {
		v := newVisitor(t, session.NewMemoryStore(), nil)
		v.visit(func(s *session.Session) {
			if s.Changed() {
				t.Error("a session that was not used has changed")
			}
			s.Delete("k")
			if s.Destroy(); s.Changed() {
				t.Error("a new session has changed that has nothing in it")
			}
			if s.Set("k", 1); !s.Changed() {
				t.Error("a new session with a value has not changed")
			}
		})
		v.visit(func(s *session.Session) {
			if test.do(s); s.Changed() != test.want {
				t.Errorf("%s: Changed returns %v", name, s.Changed())
			}
		})
	}
	off := newVisitor(t, nil, &session.Options{Disabled: true})
	off.visit(func(s *session.Session) {
		s.Set("k", 1)
		if s.Save(t.Context()); !s.Changed() {
			t.Error("where sessions are switched off, none changes")
		}
	})
	off.visit(func(s *session.Session) {
		if s.ForceSave(); s.Changed() {
			t.Error("where sessions are switched off, reading changes one")
		}
	})
}

// A forced save is a use of the session, however short ago the last one was, and tells when it fails.
func TestForceSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
		res := v.visit(func(s *session.Session) { s.ForceSave() })
		if len(res.Cookies()) != 0 || recordCount(t, store) != 0 {
			t.Error("a new and empty session is stored")
		}
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		id := v.id()
		version := func() uint64 {
			rec, err := store.Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return rec.Version
		}
		time.Sleep(time.Second)
		seen := version()
		v.visit(func(s *session.Session) {
			s.ForceSave()
			if want := time.Now().Add(15 * time.Minute); !s.Expires().Equal(want) {
				t.Errorf("a forced save is to lead to %v, want %v", s.Expires(), want)
			}
		})
		v.visit(func(s *session.Session) {
			if !s.LastUsed().Equal(time.Now()) || version() != seen+1 {
				t.Errorf("the session was used at %v, in version %d after %d", s.LastUsed(), version(), seen)
			}
		})
		store.Hook(double.Fail(errDown, double.Save))
		wantStatus(t, v.visit(func(s *session.Session) { s.ForceSave() }), http.StatusServiceUnavailable)
		store.Hook()
		wantStatus(t, v.visit(func(s *session.Session) {
			s.ForceSave()
			v.clone().visit((*session.Session).Destroy)
		}), http.StatusConflict)
	})
}

// Both String and a log tell what a session is, and nothing that is in it.
func TestSessionDescribesItself(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) {
		if got := s.String(); got != "[state=not loaded]" {
			t.Errorf("a session that was not used is %s", got)
		}
		s.SetUser("ann")
		s.SetAll(map[string]any{"password": "secret", "theme": "dark"})
	})
	v.visit(func(s *session.Session) {
		s.Created()
		logger.Info("look", "session", s)
		stamp := func(at time.Time) string { return at.Format("2006-01-02T15:04:05.000") }
		for what, text := range map[string]string{"String": s.String(), "the log": log.String()} {
			for _, want := range []string{"live", s.ID().String(), "user=ann", "addr=192.0.2.1", "password theme", "created=", "last_used=", "expires="} {
				if !strings.Contains(text, want) {
					t.Errorf("%s lacks %q: %s", what, want, text)
				}
			}
			for _, secret := range []string{"secret", "dark", v.cookie.Value[:20], v.cookie.Value[24:44]} {
				if strings.Contains(text, secret) {
					t.Errorf("%s shows %q: %s", what, secret, text)
				}
			}
		}
		for _, at := range []time.Time{s.Created(), s.LastUsed(), s.Expires()} {
			if !strings.Contains(log.String(), stamp(at)) {
				t.Errorf("the log lacks %s: %s", stamp(at), log.String())
			}
		}
	})
}
