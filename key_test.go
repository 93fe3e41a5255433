package session_test

import (
	"bytes"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
)

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

// A value that would not come back is refused where it is set, whichever way, with a reason and without the value.
func TestSetRefusesWhatDoesNotComeBack(t *testing.T) {
	late := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	const (
		when session.Key[time.Time]         = "k"
		why  session.Key[error]             = "k"
		pair session.Key[map[[2]int]string] = "k"
	)
	for name, set := range map[string]func(*session.Session){
		"Set":                func(s *session.Session) { s.Set("k", late) },
		"SetAll":             func(s *session.Session) { s.SetAll(map[string]any{"k": map[string]any{"at": late}}) },
		"SetDefault":         func(s *session.Session) { s.SetDefault("k", errors.New("secret text")) },
		"a list as a key":    func(s *session.Session) { s.Set("k", map[[2]int]string{{1, 2}: "secret text"}) },
		"Key.Set":            func(s *session.Session) { when.Set(s, late) },
		"Key.Set, interface": func(s *session.Session) { why.Set(s, errors.New("secret text")) },
		"Key.SetDefault":     func(s *session.Session) { when.SetDefault(s, late) },
		"Key.Update":         func(s *session.Session) { when.Update(s, func(time.Time) time.Time { return late }) },
		"atomic":             func(s *session.Session) { s.Set("k", new(atomic.Int64)) },
	} {
		var err error
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
		wantStatus(t, v.visit(func(s *session.Session) {
			set(s)
			err = s.Err()
			if s.Has("k") {
				t.Errorf("%s: it is there", name)
			}
		}), http.StatusInternalServerError)
		if err == nil || !strings.Contains(err.Error(), `the value of "k" cannot be encoded: `) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: Err returns %v", name, err)
		}
	}
	v := newVisitor(t, session.NewMemoryStore(), nil)
	v.visit(func(s *session.Session) { pair.Set(s, map[[2]int]string{{1, 2}: "x"}) })
	v.visit(func(s *session.Session) {
		if m, ok := pair.Get(s); !ok || m[[2]int{1, 2}] != "x" {
			t.Errorf("a list as a key of a Key comes back as %v, %v", m, ok)
		}
	})
}

// A type that panics takes nothing down that is not its own value.
func TestPanicOfAType(t *testing.T) {
	v := newVisitor(t, session.NewMemoryStore(), &session.Options{Logger: quiet})
	v.visit(func(s *session.Session) { s.Set("k", []byte("x")); s.Set("other", 1) })
	wantStatus(t, v.visit(func(s *session.Session) {
		if _, ok := session.Key[failingType]("k").Get(s); ok || s.Err() != nil {
			t.Errorf("Get has a value, and the error %v", s.Err())
		}
		if n, _ := session.Key[int]("other").Get(s); n != 1 {
			t.Errorf("another value is %d", n)
		}
	}), http.StatusOK)
}

type failingType struct{}

func (*failingType) UnmarshalBinary([]byte) error { panic("secret text") }

// SetDefault stores the value as it was, though another request makes it store it again.
func TestSetDefaultCopies(t *testing.T) {
	const cart session.Key[map[string]int] = "cart"
	for name, set := range map[string]func(*session.Session, map[string]int){
		"typed":   func(s *session.Session, v map[string]int) { cart.SetDefault(s, v) },
		"Session": func(s *session.Session, v map[string]int) { s.SetDefault("cart", v) },
	} {
		v := newVisitor(t, session.NewMemoryStore(), nil)
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		v.visit(func(s *session.Session) {
			value := map[string]int{}
			set(s, value)
			value["scratch"] = 1
			v.clone().visit(func(s *session.Session) { s.Set("k", 2) })
		})
		v.visit(func(s *session.Session) {
			if got, ok := cart.Get(s); !ok || len(got) != 0 {
				t.Errorf("%s: %v, %v", name, got, ok)
			}
		})
	}
}
