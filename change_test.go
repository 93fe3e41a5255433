package session_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"example.com/session"
)

// Changes of parallel requests are merged: each applies to what the others saved.
func TestParallelChangesMerge(t *testing.T) {
	onTransports(t, func(t *testing.T, newVisitor visitors) {
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
	})
}

// The result of Update is the caller's, also if another goroutine saves or reloads the session at the same time, and
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

// Ten times as many keys cost ten times as much, or a little more for their order, whatever is done to them: a client may
// choose them.
func BenchmarkManyKeys(b *testing.B) {
	add := func(n int) int { return n + 1 }
	for _, bm := range []struct {
		name   string
		handle func(s *session.Session, keys []string, values map[string]any)
	}{
		{"SetAll", func(s *session.Session, _ []string, values map[string]any) { s.SetAll(values) }},
		{"SetAfterClear", func(s *session.Session, _ []string, values map[string]any) { s.Clear(); s.SetAll(values) }},
		{"Get", func(s *session.Session, keys []string, _ map[string]any) {
			for _, key := range keys {
				s.Get(key)
			}
		}},
		{"Update", func(s *session.Session, keys []string, _ map[string]any) {
			for _, key := range keys {
				session.Key[int](key).Update(s, add)
			}
			s.Reload(context.Background())
		}},
		{"UpdateOne", func(s *session.Session, keys []string, _ map[string]any) {
			for range keys {
				session.Key[int]("one").Update(s, add)
			}
			s.Reload(context.Background())
		}},
		{"Pop", func(s *session.Session, keys []string, values map[string]any) {
			for _, key := range keys {
				s.Pop(key)
			}
			s.SetAll(values)
		}},
		{"All", func(s *session.Session, _ []string, values map[string]any) {
			s.SetAll(values)
			for range s.All() {
			}
			s.Keys()
			s.Len()
		}},
		{"Delete", func(s *session.Session, keys []string, _ map[string]any) { s.Delete(keys...) }},
	} {
		for _, n := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", bm.name, n), func(b *testing.B) {
				m, err := session.New(session.NewMemoryStore(), secretOf('s'), &session.Options{SweepInterval: session.Never})
				if err != nil {
					b.Fatal(err)
				}
				keys, values := make([]string, n), make(map[string]any)
				for i := range keys {
					keys[i] = fmt.Sprintf("key %d", i*7919%n)
					values[keys[i]] = i
				}
				cookie := serve(handle(m, func(s *session.Session) { s.SetAll(values) })).Header.Get("Set-Cookie")
				for b.Loop() {
					serve(handle(m, func(s *session.Session) {
						bm.handle(s, keys, values)
						if err := s.Err(); err != nil {
							b.Error(err)
						}
					}), cookie)
				}
			})
		}
	}
}
