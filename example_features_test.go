package session_test

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"example.com/session"
)

// Who is logged in, and since when: a page that does something sensitive asks for the password again.
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
func ExampleManager_UserSessions() {
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
		list, err := m.UserSessions(r.Context(), user)
		if err != nil {
			http.Error(w, "try again later", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d devices", len(list))
		for _, s := range list { // s.Handle goes into the form that has EndSession called
			if s.Current {
				fmt.Fprint(w, ", this one from ", s.RemoteAddr)
			}
		}
	})
	mux.HandleFunc("/devices/end-others", func(w http.ResponseWriter, r *http.Request) {
		n, err := m.EndOtherSessions(r.Context())
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

// A lock is for who reads, asks somebody else, and writes what depends on both: one request of the session at a time.
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

// With EncryptAtRest, who reads the store, or a backup of it, reads nothing: the key is in the client's cookie.
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

// What happens to sessions goes to one function, as values that slog can print: the ID, and never the cookie.
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
	// Output: [created regenerated ended]
}
