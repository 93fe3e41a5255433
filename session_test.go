package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
)

// A visitor is a client that keeps its session cookie between requests, as a browser does.
type visitor struct {
	t      *testing.T
	store  session.Store
	m      *session.Manager
	cookie *http.Cookie
}

// newVisitor returns a client of a manager on store; opts may be nil.
func newVisitor(t *testing.T, store session.Store, opts *session.Options) *visitor {
	t.Helper()
	return &visitor{t: t, store: store, m: newManager(t, store, opts)}
}

func newManager(t *testing.T, store session.Store, opts *session.Options) *session.Manager {
	t.Helper()
	if opts == nil {
		opts = new(session.Options)
	}
	if os.Getenv("SESSION_TEST_ENCRYPTED") != "" { // all tests, once more
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
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if v.cookie != nil {
		r.AddCookie(&http.Cookie{Name: v.cookie.Name, Value: v.cookie.Value})
	}
	w := httptest.NewRecorder()
	m.Handler(h).ServeHTTP(w, r)
	res := w.Result()
	for _, c := range res.Cookies() {
		v.cookie = c
		if c.MaxAge < 0 {
			v.cookie = nil
		}
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
		n := 0
		for range s.Values() {
			if n++; n == 2 {
				break
			}
		}
		if n != 2 {
			t.Errorf("Values stopped after %d", n)
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

func TestTypedKeys(t *testing.T) {
	type profile struct {
		Name string
		Tags []string
		when time.Time // not exported, not kept
	}
	const (
		number session.Key[int]            = "number"
		who    session.Key[profile]        = "who"
		raw    session.Key[[]byte]         = "raw"
		at     session.Key[time.Time]      = "at"
		byID   session.Key[map[int]string] = "by id"
		huge   session.Key[*big.Int]       = "huge"
		text   session.Key[string]         = "text"
		addr   session.Key[netip.Addr]     = "addr"
	)
	when := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
	big1 := new(big.Int).Lsh(big.NewInt(1), 100)
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: slog.New(slog.DiscardHandler)})
	v.visit(func(s *session.Session) {
		if _, ok := number.Get(s); ok || number.GetOr(s, 7) != 7 || number.Has(s) {
			t.Error("a key that was never set has a value")
		}
		number.Set(s, -5)
		p := profile{Name: "ann", Tags: []string{"x"}, when: when}
		who.Set(s, p)
		p.Tags[0] = "changed after Set"
		raw.Set(s, []byte{0, 255})
		at.Set(s, when)
		byID.Set(s, map[int]string{-1: "minus", 300: "many"})
		huge.Set(s, big1)
		text.Set(s, "not UTF-8: \xff")
		addr.Set(s, netip.MustParseAddr("2001:db8::1"))
	})
	v.visit(func(s *session.Session) {
		if n, ok := number.Get(s); n != -5 || !ok {
			t.Errorf("number: %v %v", n, ok)
		}
		if p, _ := who.Get(s); p.Name != "ann" || !slices.Equal(p.Tags, []string{"x"}) {
			t.Errorf("who: %+v", p)
		}
		if b, _ := raw.Get(s); !bytes.Equal(b, []byte{0, 255}) {
			t.Errorf("raw: %v", b)
		}
		if b, _ := raw.Get(s); len(b) > 0 {
			b[0] = 9 // ours, not the session's
		}
		if b, _ := raw.Get(s); b[0] != 0 {
			t.Error("a byte slice that Get returned is the session's own")
		}
		if got, _ := at.Get(s); !got.Equal(when) {
			t.Errorf("at: %v", got)
		}
		if m, _ := byID.Get(s); !reflect.DeepEqual(m, map[int]string{-1: "minus", 300: "many"}) {
			t.Errorf("by id: %v", m)
		}
		if h, _ := huge.Get(s); h == nil || h.Cmp(big1) != 0 {
			t.Errorf("huge: %v", h)
		}
		if got, _ := text.Get(s); got != "not UTF-8: \xff" {
			t.Errorf("text: %q", got)
		}
		if got, _ := addr.Get(s); got.String() != "2001:db8::1" {
			t.Errorf("addr: %v", got)
		}
		if got, ok := session.Key[string]("number").Get(s); got != "" || ok {
			t.Errorf("a number read as a string: %q %v", got, ok)
		}
		if got := number.SetDefault(s, 1); got != -5 {
			t.Errorf("SetDefault over a value: %v", got)
		}
		if got := session.Key[int]("other").SetDefault(s, 1); got != 1 {
			t.Errorf("SetDefault: %v", got)
		}
		if got := number.Update(s, func(n int) int { return n * 2 }); got != -10 {
			t.Errorf("Update: %v", got)
		}
		if got, ok := text.Pop(s); !ok || got == "" || text.Has(s) {
			t.Errorf("Pop: %q %v", got, ok)
		}
		raw.Delete(s)
	})
	v.visit(func(s *session.Session) {
		if n, _ := number.Get(s); n != -10 || raw.Has(s) || text.Has(s) {
			t.Errorf("number %v, raw %v, text %v", n, raw.Has(s), text.Has(s))
		}
	})
}

// SetDefault neither changes what its argument refers to, nor mixes it into the value that is there.
func TestSetDefaultKeepsItsArgument(t *testing.T) {
	const (
		ages session.Key[map[string]int] = "ages"
		tags session.Key[[]string]       = "tags"
	)
	noAges, noTags := map[string]int{"default": 1}, []string{"default", "default"}
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) {
		ages.Set(s, map[string]int{"ann": 42})
		tags.Set(s, []string{"x"})
	})
	v.visit(func(s *session.Session) {
		if got := ages.SetDefault(s, noAges); !reflect.DeepEqual(got, map[string]int{"ann": 42}) {
			t.Errorf("ages: %v", got)
		}
		if got := tags.SetDefault(s, noTags); !slices.Equal(got, []string{"x"}) {
			t.Errorf("tags: %v", got)
		}
	})
	if len(noAges) != 1 || noTags[0] != "default" {
		t.Errorf("the arguments are now %v and %v", noAges, noTags)
	}
}

// Nothing of a value that decodes half way is given out.
func TestHalfDecodedValue(t *testing.T) {
	type profile struct {
		A string
		B int
	}
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
	v.visit(func(s *session.Session) {
		s.Set("k", map[string]any{"A": "x", "B": "no number"})
		if got, ok := session.Key[profile]("k").Get(s); ok || got != (profile{}) {
			t.Errorf("Get returns %v, %v", got, ok)
		}
		session.Key[profile]("k").Update(s, func(p profile) profile {
			if p != (profile{}) {
				t.Errorf("Update starts from %v", p)
			}
			return p
		})
	})
}

// A value that does not decode reads as absent, is reported, and stays.
func TestUndecodableValueStays(t *testing.T) {
	var log bytes.Buffer
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	v.visit(func(s *session.Session) { s.Set("k", "secret text") })
	v.visit(func(s *session.Session) {
		if n, ok := session.Key[int]("k").Get(s); n != 0 || ok {
			t.Errorf("%v %v", n, ok)
		}
	})
	if !strings.Contains(log.String(), "undecodable") || strings.Contains(log.String(), "secret text") {
		t.Errorf("the log says %q", log.String())
	}
	v.visit(func(s *session.Session) {
		if got, _ := s.Get("k"); got != "secret text" {
			t.Errorf("the value is now %v", got)
		}
	})
	for name, replace := range map[string]func(*session.Session){
		"Update":     func(s *session.Session) { session.Key[int]("k").Update(s, func(n int) int { return n + 1 }) },
		"SetDefault": func(s *session.Session) { session.Key[int]("k").SetDefault(s, 1) },
	} {
		log.Reset()
		v.visit(func(s *session.Session) {
			s.Set("k", "secret text")
			replace(s)
		})
		if !strings.Contains(log.String(), "undecodable") || strings.Contains(log.String(), "secret text") {
			t.Errorf("%s: the log says %q", name, log.String())
		}
		v.visit(func(s *session.Session) {
			if got, _ := s.Get("k"); got != int64(1) {
				t.Errorf("%s: the value is now %v", name, got)
			}
		})
	}
}

// writes counts the calls that reach a store.
type counting struct {
	*session.MemoryStore
	mu                             sync.Mutex
	loads, saves, touches, deletes int
}

func newCounting() *counting { return &counting{MemoryStore: session.NewMemoryStore()} }

func (c *counting) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *counting) Load(ctx context.Context, id session.ID) (session.Record, error) {
	c.count(&c.loads)
	return c.MemoryStore.Load(ctx, id)
}

func (c *counting) Save(ctx context.Context, id session.ID, rec session.Record) error {
	c.count(&c.saves)
	return c.MemoryStore.Save(ctx, id, rec)
}

func (c *counting) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	c.count(&c.touches)
	return c.MemoryStore.Touch(ctx, id, rec)
}

func (c *counting) Delete(ctx context.Context, id session.ID) error {
	c.count(&c.deletes)
	return c.MemoryStore.Delete(ctx, id)
}

// calls returns the numbers of loads, saves, touches and deletes since the last call.
func (c *counting) calls() [4]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := [4]int{c.loads, c.saves, c.touches, c.deletes}
	c.loads, c.saves, c.touches, c.deletes = 0, 0, 0, 0
	return n
}

// What a request costs at the store: nothing if it does not use the session, one load if it reads, one load and
// one save if it changes something.
func TestStoreCalls(t *testing.T) {
	store := newCounting()
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
		{"regenerates", func(s *session.Session) { s.Regenerate() }, [4]int{1, 2, 0, 0}},
		{"empties it", func(s *session.Session) { s.Clear() }, [4]int{1, 1, 0, 0}},
		{"without a cookie again", func(s *session.Session) { number.Get(s) }, [4]int{}},
	} {
		wantStatus(t, v.visit(step.do), http.StatusOK)
		if got := store.calls(); got != step.want {
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

// Changes of parallel requests are merged: each applies to what the others saved.
func TestParallelChangesMerge(t *testing.T) {
	n := session.Key[int]("n")
	add := func(n int) int { return n + 1 }
	for _, test := range []struct {
		name         string
		first, other func(*session.Session)
		want         map[string]any
	}{
		{"different keys",
			func(s *session.Session) { s.Set("a", 1) }, func(s *session.Session) { s.Set("b", 2) },
			map[string]any{"n": int64(10), "old": "x", "a": int64(1), "b": int64(2)}},
		{"update and update",
			func(s *session.Session) { n.Update(s, add); n.Update(s, add) }, func(s *session.Session) { n.Update(s, add) },
			map[string]any{"n": int64(13), "old": "x"}},
		{"set, then update, over update",
			func(s *session.Session) { n.Set(s, 100); n.Update(s, add) }, func(s *session.Session) { n.Update(s, add) },
			map[string]any{"n": int64(101), "old": "x"}},
		{"update, then set the same as before, over update",
			func(s *session.Session) { n.Update(s, add); n.Set(s, 11) }, func(s *session.Session) { n.Update(s, add) },
			map[string]any{"n": int64(11), "old": "x"}},
		{"clear over set",
			func(s *session.Session) { s.Clear(); s.Set("a", 1) }, func(s *session.Session) { s.Set("b", 2) },
			map[string]any{"a": int64(1)}},
		{"update after clear",
			func(s *session.Session) { s.Clear(); n.Update(s, add) }, func(s *session.Session) { n.Update(s, add) },
			map[string]any{"n": int64(1)}},
		{"delete over update",
			func(s *session.Session) { s.Delete("n") }, func(s *session.Session) { n.Update(s, add) },
			map[string]any{"old": "x"}},
		{"update over delete",
			func(s *session.Session) { n.Update(s, add) }, func(s *session.Session) { s.Delete("n") },
			map[string]any{"n": int64(1), "old": "x"}},
		{"set default over set",
			func(s *session.Session) { s.SetDefault("d", 1) }, func(s *session.Session) { s.Set("d", 2) },
			map[string]any{"n": int64(10), "old": "x", "d": int64(2)}},
		{"update that made no difference, and a set, over update",
			func(s *session.Session) { n.Update(s, func(n int) int { return min(n, 10) }); s.Set("a", 1) },
			func(s *session.Session) { n.Update(s, add) },
			map[string]any{"n": int64(10), "old": "x", "a": int64(1)}},
		{"set and delete that made no difference, and a set, over set",
			func(s *session.Session) { n.Set(s, 10); s.Delete("d"); s.Set("a", 1) },
			func(s *session.Session) { n.Set(s, 20); s.Set("d", 1) },
			map[string]any{"n": int64(10), "old": "x", "a": int64(1)}},
		{"set that made no difference until a reload",
			func(s *session.Session) { n.Set(s, 10) }, func(s *session.Session) { n.Set(s, 20) },
			map[string]any{"n": int64(10), "old": "x"}},
		{"set that made no difference and was committed, before a reload",
			func(s *session.Session) { n.Set(s, 10); s.Save(context.Background()) }, func(s *session.Session) { n.Set(s, 20) },
			map[string]any{"n": int64(20), "old": "x"}},
		{"changes that made no difference, and no other",
			func(s *session.Session) {
				n.Set(s, 10)
				n.Set(s, 10)
				s.Delete("d")
				n.Update(s, func(n int) int { return n })
			},
			func(s *session.Session) { n.Set(s, 20); s.Set("d", 1) },
			map[string]any{"n": int64(20), "old": "x", "d": int64(1)}},
		{"regenerate over set",
			func(s *session.Session) { s.Regenerate(); s.Set("a", 1) }, func(s *session.Session) { s.Set("b", 2) },
			map[string]any{"n": int64(10), "old": "x", "a": int64(1), "b": int64(2)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newVisitor(t, session.NewMemoryStore(), nil)
			v.visit(func(s *session.Session) { n.Set(s, 10); s.Set("old", "x") })
			other := v.clone()
			wantStatus(t, v.visit(func(s *session.Session) {
				test.first(s)
				wantStatus(t, other.visit(test.other), http.StatusOK)
				if strings.HasSuffix(test.name, "a reload") {
					if err := s.Reload(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}), http.StatusOK)
			v.visit(func(s *session.Session) {
				got := map[string]any{}
				for k, val := range s.All() {
					got[k] = val
				}
				if !reflect.DeepEqual(got, test.want) {
					t.Errorf("the session holds %v, want %v", got, test.want)
				}
			})
		})
	}
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

func TestUserAgentIsCut(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	var cookie *http.Cookie
	for _, agent := range []string{strings.Repeat("m", 1000), "another"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("User-Agent", agent)
		if cookie != nil {
			r.AddCookie(cookie)
		}
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			if cookie == nil {
				s.Set("k", 1)
				return
			}
			if got := s.UserAgent(); got != strings.Repeat("m", 256) {
				t.Errorf("the User-Agent has %d bytes: %.20q…", len(got), got)
			}
			if got := s.RemoteAddr(); got != "192.0.2.1" { // what httptest.NewRequest says
				t.Errorf("the address is %q", got)
			}
		})).ServeHTTP(w, r)
		if cookie == nil {
			cookie = w.Result().Cookies()[0]
		}
	}
}

func TestTimeouts(t *testing.T) {
	const forever = -1
	for _, test := range []struct {
		name  string
		opts  session.Options
		setup func(*session.Session)
		every time.Duration // between visits
		lives time.Duration // visits before that age find it; forever means all do
	}{
		{"idle, used", session.Options{}, nil, 14 * time.Minute, 24 * time.Hour},
		{"idle, unused", session.Options{}, nil, 15 * time.Minute, 0},
		{"absolute", session.Options{IdleTimeout: time.Hour, AbsoluteTimeout: 3 * time.Hour}, nil, 10 * time.Minute, 3 * time.Hour},
		{"no idle", session.Options{IdleTimeout: session.Never}, nil, 11 * time.Hour, 24 * time.Hour},
		{"neither", session.Options{IdleTimeout: session.Never, AbsoluteTimeout: session.Never}, nil, 400 * 24 * time.Hour, forever},
		{"idle alone", session.Options{AbsoluteTimeout: session.Never}, nil, 14 * time.Minute, forever},
		{"of its own, longer", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(2 * time.Hour) }, 119 * time.Minute, 24 * time.Hour},
		{"of its own, shorter", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(time.Minute) }, time.Minute, 0},
		{"of its own, shorter than the touch interval", session.Options{TouchInterval: 5 * time.Minute},
			func(s *session.Session) { s.SetIdleTimeout(2 * time.Minute) }, time.Minute, 24 * time.Hour},
		{"of its own, never", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(session.Never) }, 11 * time.Hour, 24 * time.Hour},
		{"of its own, and back", session.Options{}, func(s *session.Session) { s.SetIdleTimeout(time.Hour); s.SetIdleTimeout(0) }, 15 * time.Minute, 0},
	} {
		for _, renew := range []time.Duration{session.Never, 4 * time.Minute} {
			t.Run(test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := test.opts
					opts.RenewInterval, opts.SweepInterval = renew, session.Never
					v := newVisitor(t, session.NewMemoryStore(), &opts)
					v.visit(func(s *session.Session) {
						s.Set("k", 1)
						if test.setup != nil {
							test.setup(s)
						}
					})
					found := true
					for visits, age := 0, test.every; found && visits < 200; visits, age = visits+1, age+test.every {
						time.Sleep(test.every)
						v.visit(func(s *session.Session) { found = s.Has("k") })
						if want := test.lives == forever || age < test.lives; found != want {
							t.Fatalf("after %v, there is %v, want %v", age, found, want)
						}
					}
				})
			})
		}
	}
}

// The expiry slides, but is written only when a tenth of the idle timeout, or the set interval, has passed.
func TestTouchIsThrottled(t *testing.T) {
	for _, test := range []struct {
		interval time.Duration
		want     []int // touches at each of the visits, a minute apart
	}{
		{0, []int{0, 1, 0, 1, 0, 1}}, // 90 seconds
		{3 * time.Minute, []int{0, 0, 1, 0, 0, 1}},
		{time.Second, []int{1, 1, 1, 1, 1, 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newCounting()
			v := newVisitor(t, store, &session.Options{TouchInterval: test.interval, RenewInterval: session.Never, SweepInterval: session.Never})
			v.visit(func(s *session.Session) { s.Set("k", 1) })
			store.calls()
			for i, want := range test.want {
				time.Sleep(time.Minute)
				v.visit(func(s *session.Session) { s.Has("k") })
				if got := store.calls(); got != [4]int{1, 0, want, 0} {
					t.Errorf("interval %v, minute %d: loads, saves, touches, deletes are %v", test.interval, i+1, got)
				}
			}
		})
	}
}

// Changes that made it into the store are told from those that did not, whatever becomes of the replies.
func TestLostReplies(t *testing.T) {
	n := session.Key[int]("n")
	for _, test := range []struct {
		name  string
		fault func(f *faulty)
	}{
		{"saved, but the reply is an error", func(f *faulty) { f.after = errors.New("connection reset") }},
		{"saved, but sent twice", func(f *faulty) { f.twice = true }},
		{"not saved, an error", func(f *faulty) { f.before = errors.New("connection reset") }},
		{"saved, the reply is lost, and another one saves", func(f *faulty) {
			f.after, f.meanwhile = errors.New("connection reset"), true
		}},
		{"not saved, and another one saves", func(f *faulty) {
			f.before, f.meanwhile = errors.New("connection reset"), true
		}},
	} {
		for _, op := range []string{"update", "create", "regenerate", "destroy", "renew"} {
			t.Run(op+"/"+test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &faulty{MemoryStore: session.NewMemoryStore()}
					opts := session.Options{SweepInterval: session.Never, RenewInterval: session.Never}
					other := newVisitor(t, store.MemoryStore, &opts)
					if op == "renew" {
						opts.RenewInterval = time.Minute
					}
					v := newVisitor(t, store, &opts)
					want := 0
					if op != "create" {
						v.visit(func(s *session.Session) { n.Set(s, 1) })
						want = 1
					}
					time.Sleep(61 * time.Second)
					other.cookie = v.cookie
					test.fault(store)
					if store.meanwhile && v.cookie != nil {
						store.then = func() {
							res := other.visit(func(s *session.Session) { n.Update(s, func(n int) int { return n + 10 }) })
							store.done = res.StatusCode == http.StatusOK // else it was too late
						}
					}
					res := v.visit(func(s *session.Session) {
						switch op {
						case "regenerate":
							s.Regenerate()
						case "destroy":
							s.Destroy()
							return
						}
						n.Update(s, func(n int) int { return n + 1 })
					})
					wantStatus(t, res, http.StatusOK)
					want++
					if op == "destroy" {
						want = 0
					} else if store.done {
						want += 10
					}
					v.visit(func(s *session.Session) {
						if got, _ := n.Get(s); got != want {
							t.Errorf("the number is %d, want %d", got, want)
						}
					})
				})
			})
		}
	}
}

// A faulty store fails once, at a Save.
type faulty struct {
	*session.MemoryStore
	before, after error
	twice         bool
	meanwhile     bool
	then          func() // what another client does in between
	done          bool   // and whether it succeeded
}

func (f *faulty) Save(ctx context.Context, id session.ID, rec session.Record) error {
	before, after, twice, then := f.before, f.after, f.twice, f.then
	f.before, f.after, f.twice, f.then = nil, nil, false, nil
	if before != nil {
		if then != nil {
			then()
		}
		return before
	}
	err := f.MemoryStore.Save(ctx, id, rec)
	if twice {
		err = f.MemoryStore.Save(ctx, id, rec)
	}
	if after != nil {
		if then != nil {
			then()
		}
		return after
	}
	return err
}

// While the store is down, nobody is taken for logged out, and what does not use the session is served.
func TestStoreDown(t *testing.T) {
	store := &downStore{MemoryStore: session.NewMemoryStore()}
	v := newVisitor(t, store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
	v.visit(func(s *session.Session) { s.Set("user", "ann") })
	store.down = true
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
	store.down = false
	v.visit(func(s *session.Session) {
		if got, _ := s.Get("user"); got != "ann" {
			t.Errorf("afterwards, the user is %v", got)
		}
	})
}

var errDown = errors.New("store is down")

type downStore struct {
	*session.MemoryStore
	down bool
}

func (d *downStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if d.down {
		return session.Record{}, errDown
	}
	return d.MemoryStore.Load(ctx, id)
}

func (d *downStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if d.down {
		return errDown
	}
	return d.MemoryStore.Save(ctx, id, rec)
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

// What Update returns is the caller's, also if another goroutine saves or reloads the session at the same time, and
// the change is made again.
func TestUpdateWhileOthersReload(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	n, flag := session.Key[int]("n"), session.Key[bool]("flag")
	v.visit(func(s *session.Session) { n.Set(s, 0) })
	v.visit(func(s *session.Session) {
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 100 {
				if got := n.Update(s, func(n int) int { return n + 1 }); got != i+1 {
					t.Errorf("Update %d returned %d", i+1, got)
				}
				runtime.Gosched()
				if !flag.SetDefault(s, true) {
					t.Error("SetDefault returned another value")
				}
				runtime.Gosched()
				if i%10 == 9 {
					if err := s.Save(t.Context()); err != nil {
						t.Errorf("Save: %v", err)
					}
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				if err := s.Reload(t.Context()); err != nil {
					t.Errorf("Reload: %v", err)
				}
				runtime.Gosched()
			}
		})
		wg.Wait()
	})
}

// A look at the store in the middle of a commit can show that a change makes a difference after all.
func TestVainChangeAndLookBeforeTheHeader(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	v.send(v.m, func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.SetPersistent(true)
		if err := s.Save(r.Context()); err != nil { // there is a cookie to set
			t.Error(err)
		}
		s.Set("k", 1)
		v.clone().visit(func(s *session.Session) { s.Set("k", 2) })
		io.WriteString(w, "hello")
		v.clone().visit(func(other *session.Session) {
			mine, _ := s.Get("k")
			if stored, _ := other.Get("k"); mine != int64(1) || stored != mine {
				t.Errorf("the handler sees %v, the store has %v, want 1", mine, stored)
			}
		})
	})
}

// However many changes make no difference, few are kept.
func TestManyVainChanges(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { s.Set("k", 1) })
	v.visit(func(s *session.Session) {
		calls := 0
		const many = 100_000
		for range many {
			session.Key[int]("k").Update(s, func(n int) int { calls++; return n })
		}
		calls = 0
		v.clone().visit(func(s *session.Session) { s.Set("k", 2) })
		if err := s.Reload(t.Context()); err != nil || calls == 0 || calls > 100 {
			t.Errorf("a reload repeats %d of %d updates: %v", calls, many, err)
		}
	})
}
