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
)

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
		{"negative size", store, secret, &session.Options{MaxSize: -1}, []string{"MaxSize"}},
		{"name with a blank", store, secret, cookie(session.Cookie{Name: "session id"}), []string{"Cookie", "Name"}},
		{"name with a separator", store, secret, cookie(session.Cookie{Name: "a=b"}), []string{"Name"}},
		{"name with a line break", store, secret, cookie(session.Cookie{Name: "a\r\nSet-Cookie: b"}), []string{"Name"}},
		{"relative path", store, secret, cookie(session.Cookie{Path: "app"}), []string{"Path", `"app"`}},
		{"path with an attribute", store, secret, cookie(session.Cookie{Path: "/;Domain=evil"}), []string{"Path"}},
		{"path with a line break", store, secret, cookie(session.Cookie{Path: "/\n"}), []string{"Path"}},
		{"domain with an attribute", store, secret, cookie(session.Cookie{Domain: "a;b"}), []string{"Domain"}},
		{"domain with a port", store, secret, cookie(session.Cookie{Domain: "example.com:80"}), []string{"Domain"}},
		{"domain with a scheme", store, secret, cookie(session.Cookie{Domain: "https://example.com"}), []string{"Domain"}},
		{"unknown SameSite", store, secret, cookie(session.Cookie{SameSite: 9}), []string{"SameSite"}},
		{"negative SameSite", store, secret, cookie(session.Cookie{SameSite: -1}), []string{"SameSite"}},
		{"__Host- with a domain", store, secret, cookie(session.Cookie{Name: "__Host-s", Domain: "example.com"}), []string{"__Host-s", "Domain"}},
		{"__Host- with a path", store, secret, cookie(session.Cookie{Name: "__Host-s", Path: "/app"}), []string{"__Host-s", "Path"}},
		{"__Host- without Secure", store, secret, cookie(session.Cookie{Name: "__Host-s", InsecureHTTP: true}), []string{"__Host-s", "Secure"}},
		{"__HOST- is the same", store, secret, cookie(session.Cookie{Name: "__HOST-s", Domain: "example.com"}), []string{"__HOST-s"}},
		{"__Secure- without Secure", store, secret, cookie(session.Cookie{Name: "__Secure-s", InsecureHTTP: true}), []string{"__Secure-s"}},
		{"__Http- without HttpOnly", store, secret, cookie(session.Cookie{Name: "__Http-s", InsecureScriptAccess: true}), []string{"__Http-s"}},
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

// What is allowed at the edges.
func TestNewAccepts(t *testing.T) {
	for name, opts := range map[string]*session.Options{
		"nil":               nil,
		"zero":              {},
		"all switched off":  {IdleTimeout: session.Never, AbsoluteTimeout: session.Never, RenewInterval: session.Never, SweepInterval: session.Never},
		"milliseconds":      {IdleTimeout: time.Millisecond, AbsoluteTimeout: time.Millisecond, RenewGrace: time.Millisecond},
		"the longest":       {IdleTimeout: math.MaxInt64, AbsoluteTimeout: math.MaxInt64, RenewGrace: math.MaxInt64},
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
			store := newCounting()
			m := newManager(t, store, &session.Options{Logger: quiet})
			value, _ := begin(t, m)
			store.calls()
			res := serve(handle(m, func(s *session.Session) {
				s.Set("k", 2)
				set(s)
				if err := s.Err(); err == nil || !strings.Contains(err.Error(), `"bad"`) {
					t.Errorf("Err is %v", err)
				}
			}), "session_id="+value)
			wantStatus(t, res, http.StatusInternalServerError)
			if calls := store.calls(); calls[1] != 0 {
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
	for _, limit := range []int{256, 1000, 1 << 20} {
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
					send := func(name string, fn func(s *session.Session)) {
						t.Helper()
						time.Sleep(5 * time.Minute) // renewal is due each time
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
						} else {
							t.Errorf("%s: the ID was not renewed", name)
						}
					}
					send("read", func(*session.Session) {})
					send("write", func(s *session.Session) { s.Set("k", append(make([]byte, low-1), 1)) })
					send("regenerate", func(s *session.Session) { s.Regenerate() })
					send("destroy", func(s *session.Session) { s.Destroy() })
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
		{"error", errors.New("x"), map[string]any{}},
		{"list as a key", map[[2]int]string{{1, 2}: "a"}, nil},
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
