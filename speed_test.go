package session_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"example.com/session"
)

// Benchmarks of what each request pays. How this compares with others is for module bench.

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
	} {
		b.Run(bm.name, func(b *testing.B) {
			m, err := session.New(session.NewMemoryStore(), make([]byte, 32), &session.Options{
				RenewInterval: session.Never, SweepInterval: session.Never,
			})
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

// BenchmarkMemoryStore shows that a store with many records costs little more than one with few.
func BenchmarkMemoryStore(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		store := session.NewMemoryStore()
		for i := range n {
			rec := session.Record{Expires: time.Now().Add(time.Hour), Data: make([]byte, 150)}
			if err := store.Save(b.Context(), storeID(i), rec); err != nil {
				b.Fatal(err)
			}
		}
		ids := make([]session.ID, n)
		for i := range ids {
			ids[i] = storeID(i * 7919 % n)
		}
		b.Run(fmt.Sprintf("load/%d", n), func(b *testing.B) {
			ctx := b.Context()
			for i := 0; b.Loop(); i++ {
				if _, err := store.Load(ctx, ids[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A blankWriter drops what it is given.
type blankWriter struct{ header http.Header }

func (w *blankWriter) Header() http.Header         { return w.header }
func (w *blankWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *blankWriter) WriteHeader(int)             {}
