package session_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"example.com/session"
)

// secret would come from the environment, or from wherever a program keeps its passwords.
var secret = []byte("an example is no place for a real secret")

// browser returns a client that keeps cookies, and a function that gets a path and prints the answer. The
// examples are served without TLS, which is what insecure is for.
func browser(h http.Handler) (get func(path string), done func()) {
	server := httptest.NewServer(h)
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	return func(path string) {
		res, err := client.Get(server.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		fmt.Println(strings.TrimSpace(path + ": " + string(body)))
	}, server.Close
}

var insecure = session.Cookie{InsecureHTTP: true}

// The whole of it: a store, a manager, a handler, a typed key.
func Example() {
	store, err := session.Open(context.Background(), "") // a temporary file
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close(store)
	m, err := session.New(store, secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	const visits session.Key[int] = "visits"
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		fmt.Fprintln(w, "visit", visits.Update(s, func(n int) int { return n + 1 }))
	})

	get, done := browser(m.Handler(mux)) // http.ListenAndServe(":8080", m.Handler(mux))
	defer done()
	get("/")
	get("/")
	// Output:
	// /: visit 1
	// /: visit 2
}

// A key fixes the type of its values. Structs, slices, maps and times need no registration.
func ExampleKey() {
	type cart struct {
		Items map[string]int
		Since time.Time
	}
	const basket session.Key[cart] = "basket"

	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	get, done := browser(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		switch r.URL.Path {
		case "/add":
			basket.Update(s, func(c cart) cart {
				if c.Items == nil {
					c = cart{Items: map[string]int{}, Since: time.Now()}
				}
				c.Items["tea"]++
				return c
			})
		case "/show":
			c, ok := basket.Get(s)
			fmt.Fprintln(w, ok, c.Items)
		}
	})))
	defer done()
	get("/show")
	get("/add")
	get("/add")
	get("/show")
	// Output:
	// /show: false map[]
	// /add:
	// /add:
	// /show: true map[tea:2]
}

// Login changes the ID, so that nobody who knew it before comes along. Logout ends the session everywhere.
func ExampleSession_Regenerate() {
	const user session.Key[string] = "user"

	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	get, done := browser(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		switch r.URL.Path {
		case "/login": // once the password was checked
			s.Regenerate()
			user.Set(s, "ann")
		case "/logout":
			s.Destroy()
		}
		fmt.Fprintln(w, "hello", user.GetOr(s, "stranger"))
	})))
	defer done()
	get("/")
	get("/login")
	get("/")
	get("/logout")
	get("/")
	// Output:
	// /: hello stranger
	// /login: hello ann
	// /: hello ann
	// /logout: hello stranger
	// /: hello stranger
}

// A flash message is shown once, by whichever page comes next.
func ExampleKey_Pop() {
	const flash session.Key[string] = "flash"

	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/save", func(w http.ResponseWriter, r *http.Request) {
		flash.Set(session.FromContext(r.Context()), "Your changes were saved.")
		http.Redirect(w, r, "/page", http.StatusSeeOther)
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		if message, ok := flash.Pop(session.FromContext(r.Context())); ok {
			fmt.Fprint(w, message, " ")
		}
		fmt.Fprintln(w, "This is the page.")
	})
	get, done := browser(m.Handler(mux))
	defer done()
	get("/save")
	get("/page")
	// Output:
	// /save: Your changes were saved. This is the page.
	// /page: This is the page.
}

// Update is atomic: no click is lost, however many requests of one client run at the same time, in however many
// processes.
func ExampleKey_Update() {
	const clicks session.Key[int] = "clicks"

	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		fmt.Fprintln(w, clicks.Update(s, func(n int) int { return n + 1 }))
	}))

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	cookie := w.Result().Cookies()[0]
	var clients sync.WaitGroup
	for range 99 {
		clients.Go(func() {
			r := httptest.NewRequest("GET", "/", nil)
			r.AddCookie(cookie)
			handler.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	clients.Wait()
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(cookie)
	w = httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: 101
}

// A store of one's own needs three methods. What makes it a store is Save: it compares versions and writes in
// one step that nobody can get in between. Package sessiontest checks it.
func ExampleStore() {
	m, err := session.New(newMapStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Set("kept", true)
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(len(w.Result().Cookies()), "cookie")
	// Output: 1 cookie
}

type mapStore struct {
	mu      sync.Mutex
	records map[session.ID]session.Record
}

func newMapStore() *mapStore { return &mapStore{records: make(map[session.ID]session.Record)} }

// live returns the record, or one of version 0 if there is none or it has expired.
func (m *mapStore) live(id session.ID) session.Record {
	if rec := m.records[id]; rec.Live(time.Now()) {
		return rec
	}
	return session.Record{}
}

func (m *mapStore) Load(_ context.Context, id session.ID) (session.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec := m.live(id)
	if rec.Version == 0 {
		return session.Record{}, session.ErrNotFound
	}
	return rec, nil
}

func (m *mapStore) Save(_ context.Context, id session.ID, rec session.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live(id).Version != rec.Version {
		return session.ErrConflict
	}
	rec.Version++
	m.records[id] = rec
	return nil
}

func (m *mapStore) Delete(_ context.Context, id session.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
	return nil
}
