package session_test

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"io"
	"log"
	"log/slog"
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
	defer store.Close()
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

// An operator, or a job, takes a role from a session without its client, who has it no more with the next request.
func ExampleManager_Change() {
	const admin session.Key[bool] = "admin"

	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	var id session.ID
	get, done := browser(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if r.URL.Path == "/login" {
			s.SetUser("ann")
			admin.Set(s, true)
			return
		}
		id = s.ID()
		fmt.Fprint(w, s.User(), " is an administrator: ", admin.Has(s))
	})))
	defer done()
	get("/login")
	get("/")
	if err := m.Change(context.Background(), id, admin.Delete); err != nil {
		log.Fatal(err)
	}
	get("/")
	// Output:
	// /login:
	// /: ann is an administrator: true
	// /: ann is an administrator: false
}

// An access log around the manager knows who was logged in.
func ExampleWithUser() {
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	app := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann")
	}))
	logged := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, user := session.WithUser(r.Context())
		app.ServeHTTP(w, r.WithContext(ctx))
		fmt.Println(r.Method, r.URL.Path, user())
	})
	logged.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/login", nil))
	// Output: POST /login ann
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

// A store of one's own needs three methods. Save makes it a store: it compares versions and writes in
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
	m.records[id] = session.Record{Version: rec.Version + 1, Expires: rec.Expires, Data: rec.Data}
	return nil
}

func (m *mapStore) Delete(_ context.Context, id session.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
	return nil
}

// The user, and since when: a page that does something sensitive asks for the password again.
func ExampleSession_SetUser() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	get, done := browser(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		switch r.URL.Path {
		case "/login": // once the password was checked
			s.SetUser("ann")
		case "/logout":
			s.Destroy()
		case "/account/close":
			if s.User() == "" || time.Since(s.AuthenticatedAt()) > 10*time.Minute {
				fmt.Fprintln(w, "enter your password")
				return
			}
		}
		fmt.Fprintf(w, "user %q", s.User())
	})))
	defer done()
	get("/account/close")
	get("/login")
	get("/account/close")
	get("/logout")
	// Output:
	// /account/close: enter your password
	// /login: user "ann"
	// /account/close: user "ann"
	// /logout: user ""
}

// A page "your devices": it lists the user's sessions, and ends one of them, or all others.
func ExampleManager_Sessions() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Cookie: insecure, MaxSessionsPerUser: 5})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann")
	})
	mux.HandleFunc("/devices", func(w http.ResponseWriter, r *http.Request) {
		user := session.FromContext(r.Context()).User()
		if user == "" {
			fmt.Fprint(w, "log in first")
			return
		}
		list, err := m.Sessions(r.Context(), session.OfUser(user))
		if err != nil {
			http.Error(w, "try again later", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d devices", len(list))
		for _, s := range list { // s.Handle goes into the form that has EndSessions called for it
			if s.Current {
				fmt.Fprint(w, ", this one from ", s.RemoteAddr)
			}
		}
	})
	mux.HandleFunc("/devices/end-others", func(w http.ResponseWriter, r *http.Request) {
		n, err := m.EndSessions(r.Context(), session.OfUser(session.FromContext(r.Context()).User()).Others())
		fmt.Fprint(w, n, " ended, error ", err)
	})
	phone, done := browser(m.Handler(mux))
	defer done()
	laptop, done := browser(m.Handler(mux))
	defer done()
	phone("/login")
	laptop("/login")
	laptop("/devices")
	laptop("/devices/end-others")
	laptop("/devices")
	phone("/devices")
	// Output:
	// /login:
	// /login:
	// /devices: 2 devices, this one from 127.0.0.1
	// /devices/end-others: 1 ended, error <nil>
	// /devices: 1 devices, this one from 127.0.0.1
	// /devices: log in first
}

// "Keep me logged in": this one session outlives the browser, and a month without use. The others end as usual.
func ExampleSession_Remember() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		AbsoluteTimeout: 90 * 24 * time.Hour, // the longest that anybody is remembered
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	login := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.SetUser("ann")
		if r.FormValue("remember") != "" {
			s.Remember(30 * 24 * time.Hour)
		}
	}))
	for _, path := range []string{"/login", "/login?remember=yes"} {
		w := httptest.NewRecorder()
		login.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, (time.Duration(w.Result().Cookies()[0].MaxAge) * time.Second).Round(time.Hour))
	}
	// Output:
	// /login 0s
	// /login?remember=yes 720h0m0s
}

// A form that can be sent once: by whom it was shown to, and by nobody who sends it again.
func ExampleSession_UseFormToken() {
	page := template.Must(template.New("").Parse(`<form method="post">{{.FormTokenInput}}<button>Pay</button></form>`))
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		switch {
		case r.Method == "GET":
			var html bytes.Buffer // the token may begin a session, whose cookie has to go first
			if err := page.Execute(&html, s); err != nil {
				log.Print(err)
			}
			html.WriteTo(w)
		case s.UseFormToken(r.Context(), r.FormValue(session.FormTokenField)):
			fmt.Fprintln(w, "paid")
		default:
			http.Error(w, "this form was sent already, or is not yours", http.StatusForbidden)
		}
	}))

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	cookie := w.Result().Cookies()[0]
	_, rest, _ := strings.Cut(w.Body.String(), `value="`)
	token, _, _ := strings.Cut(rest, `"`)
	for range 2 {
		r := httptest.NewRequest("POST", "/?"+session.FormTokenField+"="+token, nil)
		r.AddCookie(cookie)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Print(w.Code, " ", w.Body)
	}
	// Output:
	// 200 paid
	// 403 this form was sent already, or is not yours
}

// A lock is for a request that reads, asks somebody else, and writes the result: one request of the session at a time.
func ExampleSession_Lock() {
	const balance session.Key[int] = "balance"

	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if err := s.Lock(r.Context()); err != nil {
			return // the client gets the answer of Options.ErrorHandler
		}
		n := balance.GetOr(s, 100)
		time.Sleep(time.Millisecond) // a payment service takes its time
		balance.Set(s, n-1)
		fmt.Fprintln(w, n-1)
	}))

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	cookie := w.Result().Cookies()[0]
	pay := func() *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(cookie)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() { pay() })
	}
	clients.Wait()
	fmt.Print(pay().Body)
	// Output: 48
}

// A session that is bound to a network and a User-Agent is no use to who stole its cookie and shows others. The owner
// stays logged in.
func ExampleBindAll() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		Bind: session.BindAll(session.BindUserAgent, session.BindNetwork(24, 56, nil)),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if r.URL.Path == "/login" {
			s.SetUser("ann")
		}
		fmt.Fprintf(w, "user %q", s.User())
	}))
	var cookies []*http.Cookie
	visit := func(path, address, agent string) {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = address + ":1234"
		r.Header.Set("User-Agent", agent)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if path == "/login" {
			cookies = w.Result().Cookies()
		}
		fmt.Println(address, agent, w.Body)
	}
	visit("/login", "192.0.2.1", "Firefox")
	visit("/", "192.0.2.77", "Firefox")
	visit("/", "198.51.100.1", "Firefox")
	visit("/", "192.0.2.1", "curl")
	visit("/", "192.0.2.1", "Firefox")
	// Output:
	// 192.0.2.1 Firefox user "ann"
	// 192.0.2.77 Firefox user "ann"
	// 198.51.100.1 Firefox user ""
	// 192.0.2.1 curl user ""
	// 192.0.2.1 Firefox user "ann"
}

// With EncryptAtRest, a reader of the store, or of a backup, reads nothing: the key is in the client's cookie.
func ExampleOptions_EncryptAtRest() {
	for _, encrypt := range []bool{false, true} {
		store := session.NewMemoryStore()
		m, err := session.New(store, secret, &session.Options{EncryptAtRest: encrypt})
		if err != nil {
			log.Fatal(err)
		}
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session.FromContext(r.Context()).Set("diagnosis", "measles")
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		for entry := range store.List(context.Background()) {
			fmt.Println(encrypt, bytes.Contains(entry.Record.Data, []byte("measles")))
		}
		m.Close()
	}
	// Output:
	// false true
	// true false
}

// The ID changes from time to time. A request that is still on its way with the old cookie finds its session, for as
// long as the grace lasts; then the old one is worth nothing.
func ExampleOptions_RenewInterval() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		RenewInterval: time.Millisecond, // usually 4 minutes
		RenewGrace:    time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.SetDefault("since", "Monday")
		since, _ := s.Get("since")
		fmt.Fprintln(w, since)
	}))
	visit := func(cookies []*http.Cookie) []*http.Cookie {
		r := httptest.NewRequest("GET", "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Print(w.Body)
		return w.Result().Cookies()
	}
	first := visit(nil)
	time.Sleep(time.Millisecond)
	second := visit(first)
	visit(first) // a late request
	fmt.Println("another cookie:", first[0].Value != second[0].Value)
	// Output:
	// Monday
	// Monday
	// Monday
	// another cookie: true
}

// To change the secret, keep the one before as long as its cookies may live. Nobody is logged out.
func ExampleOptions_PreviousSecrets() {
	store := session.NewMemoryStore()
	newSecret := []byte("what a program reads from its environment")
	visit := func(secret []byte, previous [][]byte, cookies []*http.Cookie) []*http.Cookie {
		m, err := session.New(store, secret, &session.Options{PreviousSecrets: previous})
		if err != nil {
			log.Fatal(err)
		}
		defer m.Close()
		r := httptest.NewRequest("GET", "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			fmt.Println("new:", s.IsNew())
			s.Set("seen", true)
		})).ServeHTTP(w, r)
		return w.Result().Cookies()
	}
	cookies := visit(secret, nil, nil)
	visit(newSecret, [][]byte{secret}, cookies)
	visit(newSecret, nil, cookies) // the one before was dropped too early for this cookie
	// Output:
	// new: true
	// new: false
	// new: true
}

// All that happens to sessions goes to one function, as values that slog can print: the ID, and never the cookie.
func ExampleOptions_Observer() {
	logger := slog.New(slog.NewTextHandler(log.Writer(), nil)) // wherever the program logs to
	var mu sync.Mutex
	seen := []session.EventKind{}
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		Logger: logger, // of what went wrong and no response could say
		Observer: func(ctx context.Context, e session.Event) {
			if e.Kind == session.EventStore {
				return // each call to the store, with the time that it took
			}
			logger.DebugContext(ctx, "session", "event", e)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, e.Kind)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	var cookies []*http.Cookie
	visit := func(fn func(*session.Session)) {
		r := httptest.NewRequest("GET", "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fn(session.FromContext(r.Context()))
		})).ServeHTTP(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
	}
	visit(func(s *session.Session) { s.Set("cart", "tea") })
	visit(func(s *session.Session) { s.SetUser("ann") })
	visit(func(s *session.Session) { s.Destroy() })
	fmt.Println(seen)
	// Output: [created regenerated login ended logout]
}
