package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// A secret that is text is the same with and without the line ends that files add; one of random bytes is what it is.
func TestSecretFromFile(t *testing.T) {
	text, random := strings.Repeat("s", 43), strings.Repeat("\x01s\xff\n", 9)
	for _, test := range []struct {
		name, signs string
		opts        session.Options // of who verifies
		verifies    string
		same        bool
	}{
		{"line end", text, session.Options{}, text + "\n", true},
		{"of Windows", text + "\r\n", session.Options{}, text, true},
		{"several", text + "\n\n", session.Options{}, text + "\n", true},
		{"beyond ASCII", "é" + text + "\n", session.Options{}, "é" + text, true},
		{"encrypted", text + "\n", session.Options{EncryptAtRest: true}, text, true},
		{"previous", text + "\n", session.Options{PreviousSecrets: [][]byte{[]byte(text + "\r\n")}}, strings.Repeat("x", 32), true},
		{"other white space", text + " ", session.Options{}, text, false},
		{"in front", "\n" + text, session.Options{}, text, false},
		{"random bytes", random, session.Options{}, strings.TrimRight(random, "\n"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := session.NewMemoryStore()
			visit := func(secret string, opts session.Options, cookies ...string) (hits int, cookie string) {
				opts.Cookie.InsecureHTTP, opts.SweepInterval = true, session.Never
				m, err := session.New(store, []byte(secret), &opts)
				if err != nil {
					t.Fatal(err)
				}
				response := serve(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					hits = hitCounter.Update(session.FromContext(r.Context()), func(n int) int { return n + 1 })
				})), cookies...)
				for _, c := range response.Cookies() {
					cookie = c.Name + "=" + c.Value
				}
				return hits, cookie
			}
			_, cookie := visit(test.signs, session.Options{EncryptAtRest: test.opts.EncryptAtRest})
			if hits, _ := visit(test.verifies, test.opts, cookie); (hits == 2) != test.same {
				t.Errorf("the second visit is number %d", hits)
			}
		})
	}
	short := strings.Repeat("s", 31) + "\n"
	_, err := session.New(session.NewMemoryStore(), []byte(short), &session.Options{PreviousSecrets: [][]byte{[]byte(short)}})
	if err == nil || !strings.Contains(err.Error(), "the secret has 31 bytes") || !strings.Contains(err.Error(), "PreviousSecrets[0] has 31 bytes") {
		t.Errorf("31 bytes and a line end: %v", err)
	}
}

// New finds each fault, and names the field.
func TestNewFaults(t *testing.T) {
	secret, store := secretOf('s'), session.NewMemoryStore()
	cookie := func(c session.Cookie) *session.Options { return &session.Options{Cookie: c} }
	for _, test := range []struct {
		name   string
		store  session.Store
		secret []byte
		opts   *session.Options
		want   []string // in the text
	}{
		{"no store", nil, secret, nil, []string{"store"}},
		{"no secret", store, nil, nil, []string{"secret", "0 bytes"}},
		{"short secret", store, []byte("hunter2 hunter2 hunter2 hunter2"), nil, []string{"secret", "31 bytes"}},
		{"short previous secret", store, secret, &session.Options{PreviousSecrets: [][]byte{secret, []byte("hunter2")}},
			[]string{"PreviousSecrets[1]", "7 bytes"}},
		{"empty previous secret", store, secret, &session.Options{PreviousSecrets: [][]byte{nil}}, []string{"PreviousSecrets[0]"}},
		{"negative idle", store, secret, &session.Options{IdleTimeout: -1}, []string{"IdleTimeout"}},
		{"tiny idle", store, secret, &session.Options{IdleTimeout: time.Microsecond}, []string{"IdleTimeout", "1µs"}},
		{"negative absolute", store, secret, &session.Options{AbsoluteTimeout: -time.Hour}, []string{"AbsoluteTimeout"}},
		{"negative renewal", store, secret, &session.Options{RenewInterval: -time.Hour}, []string{"RenewInterval"}},
		{"negative grace", store, secret, &session.Options{RenewGrace: -time.Hour}, []string{"RenewGrace"}},
		{"no grace", store, secret, &session.Options{RenewGrace: session.Never}, []string{"RenewGrace"}},
		{"no touch interval", store, secret, &session.Options{TouchInterval: session.Never}, []string{"TouchInterval"}},
		{"touches that come too late", store, secret, &session.Options{TouchInterval: 15 * time.Minute}, []string{"TouchInterval", "15m0s"}},
		{"no store timeout", store, secret, &session.Options{StoreTimeout: session.Never}, []string{"StoreTimeout"}},
		{"negative sweep", store, secret, &session.Options{SweepInterval: -1}, []string{"SweepInterval"}},
		{"an idle timeout that never comes", store, secret, &session.Options{IdleTimeout: 30 * 24 * time.Hour}, []string{"IdleTimeout", "720h0m0s", "AbsoluteTimeout", "24h0m0s"}},
		{"an idle timeout that never comes, both set", store, secret, &session.Options{IdleTimeout: time.Hour, AbsoluteTimeout: time.Minute}, []string{"IdleTimeout", "AbsoluteTimeout"}},
		{"refusal without a limit", store, secret, &session.Options{RefuseNewSessions: true}, []string{"RefuseNewSessions", "MaxSessionsPerUser"}},
		{"reuse without renewal", store, secret, &session.Options{EndOnReuse: true, RenewInterval: session.Never}, []string{"EndOnReuse", "RenewInterval"}},
		{"a size that nothing fits", store, secret, &session.Options{MaxSize: 10}, []string{"MaxSize", "10", "1024"}},
		{"a size that hardly anything fits", store, secret, &session.Options{MaxSize: 1023}, []string{"MaxSize", "1024"}},
		{"a lease that ends at once", store, secret, &session.Options{LockLease: time.Millisecond}, []string{"LockLease", "1ms", "100ms"}},
		{"a lease that hardly lasts", store, secret, &session.Options{Locking: true, LockLease: 100*time.Millisecond - 1}, []string{"LockLease", "100ms"}},
		{"negative lease", store, secret, &session.Options{LockLease: -time.Second}, []string{"LockLease", "-1s"}},
		{"negative size", store, secret, &session.Options{MaxSize: -1}, []string{"MaxSize"}},
		{"name with a blank", store, secret, cookie(session.Cookie{Name: "session id"}), []string{"Cookie", `Name "session id"`, "letters"}},
		{"name with a separator", store, secret, cookie(session.Cookie{Name: "a=b"}), []string{"Name"}},
		{"name with a line break", store, secret, cookie(session.Cookie{Name: "a\r\nSet-Cookie: b"}), []string{"Name"}},
		{"relative path", store, secret, cookie(session.Cookie{Path: "app"}), []string{"Path", `"app"`}},
		{"path with an attribute", store, secret, cookie(session.Cookie{Path: "/;Domain=evil"}), []string{"Path"}},
		{"path with a line break", store, secret, cookie(session.Cookie{Path: "/\n"}), []string{"Path"}},
		{"domain with an attribute", store, secret, cookie(session.Cookie{Domain: "a;b"}), []string{`Domain "a;b"`}},
		{"domain with a port", store, secret, cookie(session.Cookie{Domain: "example.com:80"}), []string{`Domain "example.com:80"`, "port"}},
		{"domain with a scheme", store, secret, cookie(session.Cookie{Domain: "https://example.com"}), []string{`Domain "https://example.com"`, "scheme"}},
		{"domain with a wildcard", store, secret, cookie(session.Cookie{Domain: "*.example.com"}), []string{`Domain "*.example.com"`, "host name"}},
		{"domain outside ASCII", store, secret, cookie(session.Cookie{Domain: "münchen.de"}), []string{`Domain "münchen.de"`, "ASCII"}},
		{"path outside ASCII", store, secret, cookie(session.Cookie{Path: "/ä"}), []string{`Path "/ä"`, "ASCII"}},
		{"old name with a blank", store, secret, &session.Options{Migration: &session.Migration{Cookie: http.Cookie{Name: "old name", Domain: "a:1"}}},
			[]string{"Migration", `Name "old name"`, `Domain "a:1"`, "Load"}},
		{"unknown SameSite", store, secret, cookie(session.Cookie{SameSite: 9}), []string{"SameSite"}},
		{"negative SameSite", store, secret, cookie(session.Cookie{SameSite: -1}), []string{"SameSite"}},
		{"__Host- with a domain", store, secret, cookie(session.Cookie{Name: "__Host-s", Domain: "example.com"}), []string{"__Host-s", "Domain"}},
		{"__Host- with a path", store, secret, cookie(session.Cookie{Name: "__Host-s", Path: "/app"}), []string{"__Host-s", "Path"}},
		{"__Host- without Secure", store, secret, cookie(session.Cookie{Name: "__Host-s", InsecureHTTP: true}), []string{"__Host-s", "Secure"}},
		{"__HOST- is the same", store, secret, cookie(session.Cookie{Name: "__HOST-s", Domain: "example.com"}), []string{"__HOST-s"}},
		{"__Secure- without Secure", store, secret, cookie(session.Cookie{Name: "__Secure-s", InsecureHTTP: true}), []string{"__Secure-s"}},
		{"__Http- without HttpOnly", store, secret, cookie(session.Cookie{Name: "__Http-s", InsecureScriptAccess: true}), []string{"__Http-s"}},
		{"the present scope as a former one", store, secret, cookie(session.Cookie{Former: []session.CookieScope{{Path: "/app"}, {}}}), []string{"Former[1]", "present"}},
		{"the present scope in other words", store, secret, cookie(session.Cookie{Domain: "Example.com", Path: "/app",
			Former: []session.CookieScope{{Domain: ".example.COM", Path: "/app"}}}), []string{"Former[0]", "present"}},
		{"a former scope that is none", store, secret, cookie(session.Cookie{Former: []session.CookieScope{{Path: "app", Domain: "a:1"}}}),
			[]string{`Former[0]: Path "app"`, `Former[0]: Domain "a:1"`}},
		{"__Host- with a former scope", store, secret, cookie(session.Cookie{Name: "__Host-s", Former: []session.CookieScope{{Path: "/app"}}}), []string{"Former[0]", "__Host-s"}},
		{"SameSite=None without Secure", store, secret,
			cookie(session.Cookie{SameSite: http.SameSiteNoneMode, InsecureHTTP: true}), []string{"SameSite=None"}},
		{"too long", store, secret, cookie(session.Cookie{Name: strings.Repeat("n", 4000)}), []string{"too long", "4096"}},
		{"a path that browsers ignore", store, secret, cookie(session.Cookie{Path: "/" + strings.Repeat("p", 1024)}), []string{"Path"}},
		{"several in one cookie", store, secret, cookie(session.Cookie{Name: "a b", Path: "/;", Domain: "a b", SameSite: 9}),
			[]string{"Name", "Path", "Domain", "SameSite"}},
		{"all at once", nil, []byte("hunter2"), &session.Options{
			PreviousSecrets: [][]byte{[]byte("hunter2")}, IdleTimeout: -1, AbsoluteTimeout: -1, RenewInterval: -1, RenewGrace: -1,
			TouchInterval: -1, StoreTimeout: -1, SweepInterval: -1, MaxSize: -1,
			Cookie: session.Cookie{Name: "__Host-s", Path: "app", Domain: "example.com", SameSite: http.SameSiteNoneMode, InsecureHTTP: true},
		}, []string{"store", "the secret", "PreviousSecrets[0]", "IdleTimeout", "AbsoluteTimeout", "RenewInterval", "RenewGrace",
			"TouchInterval", "StoreTimeout", "SweepInterval", "MaxSize", `Path "app"`, "__Host-s", "SameSite=None"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := session.New(test.store, test.secret, test.opts)
			if err == nil {
				m.Close()
				t.Fatal("New found no fault")
			}
			if m != nil {
				t.Error("New returned a manager, too")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not speak of %q: %v", want, err)
				}
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "session: ") || strings.Contains(line, "hunter2") {
					t.Errorf("the error says %q", line)
				}
			}
		})
	}
}

// Values that are allowed at the edges.
func TestNewAccepts(t *testing.T) {
	for name, opts := range map[string]*session.Options{
		"nil":               nil,
		"zero":              {},
		"all switched off":  {IdleTimeout: session.Never, AbsoluteTimeout: session.Never, RenewInterval: session.Never, SweepInterval: session.Never},
		"milliseconds":      {IdleTimeout: time.Millisecond, AbsoluteTimeout: time.Millisecond, RenewGrace: time.Millisecond},
		"the longest":       {IdleTimeout: math.MaxInt64, AbsoluteTimeout: math.MaxInt64, RenewGrace: math.MaxInt64},
		"a short life":      {AbsoluteTimeout: time.Minute}, // shorter than the usual idle timeout
		"idle alone":        {IdleTimeout: 30 * 24 * time.Hour, AbsoluteTimeout: session.Never},
		"the smallest":      {MaxSize: 1 << 10, EndOnReuse: true, MaxSessionsPerUser: 1, RefuseNewSessions: true},
		"__Host-":           {Cookie: session.Cookie{Name: "__Host-session_id"}},
		"__Secure-":         {Cookie: session.Cookie{Name: "__Secure-s", Domain: "example.com", Path: "/app"}},
		"leading dot":       {Cookie: session.Cookie{Domain: ".example.com"}},
		"long, but not too": {Cookie: session.Cookie{Name: strings.Repeat("n", 3800)}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, session.NewMemoryStore(), opts)
			res := serve(handle(m, func(s *session.Session) { s.Set("k", 1) }))
			if res.StatusCode != http.StatusOK || len(res.Header["Set-Cookie"]) != 1 || len(res.Header["Set-Cookie"][0]) > 4096 {
				t.Errorf("a request leads to %s, %q", res.Status, res.Header["Set-Cookie"])
			}
		})
	}
}

// The options and the secret are New's to read, and the caller's to change afterwards.
func TestNewCopies(t *testing.T) {
	secret, previous := secretOf('s'), secretOf('p')
	opts := &session.Options{PreviousSecrets: [][]byte{previous}}
	store := session.NewMemoryStore()
	old, _ := session.New(store, secretOf('p'), nil)
	defer old.Close()
	oldValue, _ := begin(t, old)
	m, err := session.New(store, secret, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	value, _ := begin(t, m)
	clear(secret)
	clear(previous)
	*opts = session.Options{}
	for _, v := range []string{value, oldValue} {
		serve(handle(m, func(s *session.Session) {
			if !s.Has("k") {
				t.Error("a cookie is refused after the caller wiped its secrets")
			}
		}), "session_id="+v)
	}
}

// A value that has no encoding is a fault of the program: the client is told so, and nothing is saved.
func TestUnencodableValues(t *testing.T) {
	for name, set := range map[string]func(s *session.Session){
		"chan":           func(s *session.Session) { s.Set("bad", make(chan int)) },
		"func":           func(s *session.Session) { s.Set("bad", func() {}) },
		"inside":         func(s *session.Session) { s.Set("bad", map[string]any{"x": []any{1, make(chan int)}}) },
		"typed":          func(s *session.Session) { session.Key[chan int]("bad").Set(s, nil) },
		"SetAll":         func(s *session.Session) { s.SetAll(map[string]any{"good": 1, "bad": make(chan int)}) },
		"SetDefault":     func(s *session.Session) { s.SetDefault("bad", make(chan int)) },
		"Update":         func(s *session.Session) { session.Key[any]("bad").Update(s, func(any) any { return make(chan int) }) },
		"its own method": func(s *session.Session) { s.Set("bad", unencodable{}) },
	} {
		t.Run(name, func(t *testing.T) {
			store := double.New(session.NewMemoryStore())
			m := newManager(t, store, &session.Options{Logger: quiet})
			value, _ := begin(t, m)
			store.Calls()
			res := serve(handle(m, func(s *session.Session) {
				s.Set("k", 2)
				set(s)
				if err := s.Err(); err == nil || !strings.Contains(err.Error(), `"bad"`) {
					t.Errorf("Err is %v", err)
				}
			}), "session_id="+value)
			wantStatus(t, res, http.StatusInternalServerError)
			if calls := store.Calls(); calls[1] != 0 {
				t.Errorf("%d saves", calls[1])
			}
			serve(handle(m, func(s *session.Session) {
				if got, _ := s.Get("k"); got != int64(1) || s.Len() != 1 {
					t.Errorf("the session holds %v, k is %v", s.Keys(), got)
				}
			}), "session_id="+value)
		})
	}
}

type unencodable struct{}

func (unencodable) MarshalCBOR() ([]byte, error) { return nil, errors.New("no") }

// A value of another type reads as absent, is logged, and stays.
func TestOtherType(t *testing.T) {
	var log strings.Builder
	var events []session.Event
	m := newManager(t, session.NewMemoryStore(), &session.Options{
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventUndecodable {
				events = append(events, e)
			}
		},
	})
	value, id := begin(t, m)
	serve(handle(m, func(s *session.Session) { s.Set("text", "do not log me") }), "session_id="+value)
	res := serve(handle(m, func(s *session.Session) {
		if n, ok := session.Key[int]("text").Get(s); n != 0 || ok {
			t.Errorf("a text reads as the number %d, %v", n, ok)
		}
		if n, ok := session.Key[struct{ A int }]("text").Get(s); n.A != 0 || ok {
			t.Errorf("a text reads as a struct %v, %v", n, ok)
		}
		if n := session.Key[uint8]("text").GetOr(s, 7); n != 7 {
			t.Errorf("GetOr returns %d", n)
		}
		if text, ok := session.Key[string]("text").Get(s); text != "do not log me" || !ok {
			t.Errorf("the text is %q, %v", text, ok)
		}
	}), "session_id="+value)
	wantStatus(t, res, http.StatusOK)
	if len(events) != 3 || events[0].Key != "text" || events[0].ID != id || events[0].Err == nil {
		t.Errorf("the observer saw %v", events)
	}
	if got := log.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, id.String()) || strings.Contains(got, "do not log me") {
		t.Errorf("the log is %q", got)
	}
}

// A session up to MaxSize is saved; one byte more is an error, and the session stays as it was. At any size that
// was saved, it can be read, changed, renewed, regenerated and destroyed.
func TestMaxSize(t *testing.T) {
	for _, limit := range []int{1 << 10, 5000, 1 << 20} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, encrypted %v", limit, encrypted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := session.NewMemoryStore()
					var lastErr error
					m := newManager(t, store, &session.Options{MaxSize: limit, SweepInterval: session.Never, Logger: quiet,
						EncryptAtRest: encrypted, Observer: func(_ context.Context, e session.Event) {
							if e.Kind == session.EventStore && e.Op == "save" {
								lastErr = e.Err
							}
						}})
					create := func(n int) (*http.Response, error) {
						var s *session.Session
						res := serve(handle(m, func(its *session.Session) { s = its; s.Set("k", make([]byte, n)) }))
						return res, s.Err()
					}
					low, high := 0, limit // low fits, high does not
					for low+1 < high {
						mid := (low + high) / 2
						if res, _ := create(mid); res.StatusCode == http.StatusOK {
							low = mid
						} else {
							high = mid
						}
					}
					res, err := create(high)
					wantStatus(t, res, http.StatusInternalServerError)
					if !errors.Is(err, session.ErrTooLarge) || lastErr != nil {
						t.Errorf("the error is %v", err)
					}
					res, _ = create(low)
					wantStatus(t, res, http.StatusOK)
					value := cookieValue(setCookie(t, res.Header, "session_id"))
					largest := 0
					for e, err := range session.List(t.Context(), store) {
						if err != nil {
							t.Fatal(err)
						}
						largest = max(largest, len(e.Record.Data))
					}
					if largest != limit {
						t.Errorf("the largest record has %d bytes, want %d", largest, limit)
					}
					sent := 0
					send := func(name string, fn func(s *session.Session)) {
						t.Helper()
						time.Sleep(5 * time.Minute) // renewal is due each time, or else the confirmation of the last one
						res := serve(handle(m, func(s *session.Session) {
							if v, ok := session.Key[[]byte]("k").Get(s); !ok || len(v) != low {
								t.Errorf("%s: the value has %d bytes, %v", name, len(v), ok)
							}
							fn(s)
						}), "session_id="+value)
						if res.StatusCode != http.StatusOK {
							t.Errorf("%s: %s", name, res.Status)
						}
						if line := setCookie(t, res.Header, "session_id"); line != "" {
							value = cookieValue(line)
							sent++
						}
					}
					send("read", func(*session.Session) {})
					send("write", func(s *session.Session) { s.Set("k", append(make([]byte, low-1), 1)) })
					send("regenerate", func(s *session.Session) { s.Regenerate() })
					send("destroy", func(s *session.Session) { s.Destroy() })
					if sent != 3 { // renewed, regenerated, removed
						t.Errorf("%d cookies", sent)
					}
				})
			})
		}
	}
}

// Values with surprises in them come back as they were, or read as absent; nothing crashes.
func TestUnusualValues(t *testing.T) {
	deep := any("bottom")
	for range 1000 {
		deep = []any{deep}
	}
	deepMap := any("bottom")
	for range 1000 {
		deepMap = map[string]any{"x": deepMap}
	}
	type inner struct{ B *inner }
	type unusual struct {
		A int `json:"a"`
		B *inner
		C map[int]string
		d int
	}
	huge, _ := new(big.Int).SetString(strings.Repeat("9", 100), 10)
	zone := time.FixedZone("X", 5*3600+1800)
	for _, test := range []struct {
		name string
		in   any
		want any // of Get
	}{
		{"nil", nil, nil},
		{"NaN", math.NaN(), nil},
		{"infinity", math.Inf(-1), math.Inf(-1)},
		{"negative zero", math.Copysign(0, -1), math.Copysign(0, -1)},
		{"float32", float32(0.5), 0.5},
		{"invalid UTF-8", "a\xffb", "a\xffb"},
		{"NUL", "a\x00b", "a\x00b"},
		{"empty string", "", ""},
		{"bytes", []byte{0, 255}, []byte{0, 255}},
		{"empty list", []int{}, []any{}},
		{"deep list", deep, deep},
		{"deep map", deepMap, deepMap},
		{"big.Int", huge, huge},
		{"negative big.Int", new(big.Int).Neg(huge), new(big.Int).Neg(huge)},
		{"largest uint64", uint64(math.MaxUint64), new(big.Int).SetUint64(math.MaxUint64)},
		{"smallest int64", int64(math.MinInt64), int64(math.MinInt64)},
		{"bool", true, true},
		{"time", time.Date(2026, 2, 3, 4, 5, 6, 7, zone), time.Date(2026, 2, 3, 4, 5, 6, 7, zone)},
		{"zero time", time.Time{}, nil},
		{"map[int]string", map[int]string{1: "a", -2: "b"}, map[any]any{int64(1): "a", int64(-2): "b"}},
		{"mixed keys", map[any]any{1: "a", "b": 2}, map[any]any{int64(1): "a", "b": int64(2)}},
		{"empty map", map[string]int{}, map[string]any{}},
		{"struct", unusual{A: 1, B: &inner{&inner{}}, C: map[int]string{3: "c"}, d: 4}, map[string]any{
			"a": int64(1), "B": map[string]any{"B": map[string]any{"B": nil}}, "C": map[any]any{int64(3): "c"}}},
		{"nil pointer", (*unusual)(nil), nil},
		{"nil slice", []int(nil), nil},
		{"NaN as a key", map[float64]int{math.NaN(): 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newManager(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
			value, _ := begin(t, m)
			wantStatus(t, serve(handle(m, func(s *session.Session) { s.Set("v", test.in) }), "session_id="+value), http.StatusOK)
			var got any
			wantStatus(t, serve(handle(m, func(s *session.Session) {
				got, _ = s.Get("v")
				_ = s.String()
				for range s.All() {
				}
				if !s.Has("v") || !s.Has("k") {
					t.Error("the values are not there")
				}
			}), "session_id="+value), http.StatusOK)
			if want, ok := test.want.(time.Time); ok {
				if g, ok := got.(time.Time); !ok || !g.Equal(want) || g.Format(time.RFC3339Nano) != want.Format(time.RFC3339Nano) {
					t.Errorf("Get returns %v, want %v", got, want)
				}
			} else if m, ok := got.(map[any]any); ok && len(m) != reflect.ValueOf(test.in).Len() {
				t.Errorf("Get returns %v", got)
			} else if test.want != nil && !reflect.DeepEqual(got, test.want) {
				t.Errorf("Get returns %#v, want %#v", got, test.want)
			}
		})
	}
}

// A value that contains itself is a fault of the program like any other that cannot be encoded. Overflowing
// the stack would end the process, which no recover can prevent, so a process of its own tries it.
func TestCyclicValue(t *testing.T) {
	if os.Getenv("SESSION_TEST_CYCLE") == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestCyclicValue$")
		cmd.Env = append(os.Environ(), "SESSION_TEST_CYCLE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%.600s", err, out)
		}
		return
	}
	debug.SetMaxStack(64 << 20)
	type node struct {
		Name string
		Next *node
		More []*node
	}
	ring := &node{Name: "a"}
	ring.Next = &node{Name: "b", Next: ring}
	tree := &node{Name: "a"}
	tree.More = []*node{tree, tree, tree}
	asMap := map[string]any{}
	asMap["x"] = []any{1, asMap}
	asList := []any{nil}
	asList[0] = asList
	for name, v := range map[string]any{"pointer": ring, "slice of pointers": tree, "map": asMap, "list": asList} {
		m := newManager(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
		res := serve(handle(m, func(s *session.Session) { s.Set("v", v) }))
		if res.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
}

// Disabled switches sessions off, and handlers need not know.
func TestDisabled(t *testing.T) {
	v := newVisitor(t, nil, &session.Options{Disabled: true})
	res := v.visit(func(s *session.Session) {
		s.Set("k", 1)
		if !s.Has("k") {
			t.Error("a value does not last for the request")
		}
		s.SetUser("ann")
		s.Regenerate()
		s.Destroy()
		s.Set("k", 1)
		s.SetUser("ann")
		if err := s.Save(t.Context()); err != nil || !s.Has("k") || s.User() != "ann" || !s.Changed() {
			t.Errorf("after Save: %v, %v", s, err)
		}
	})
	wantStatus(t, res, 200)
	if len(res.Cookies()) != 0 {
		t.Errorf("cookies: %v", res.Cookies())
	}
	if list := userSessions(t, v.m); len(list) != 0 {
		t.Errorf("sessions: %v", list)
	}
	value, _ := begin(t, newManager(t, session.NewMemoryStore(), nil)) // of before sessions were switched off
	if res := serve(handle(v.m, (*session.Session).Destroy), "session_id="+value); len(res.Cookies()) != 0 {
		t.Errorf("cookies after Destroy: %v", res.Cookies())
	}
}
