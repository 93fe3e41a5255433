//go:build !encrypted

package session_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/sessiontest"
)

// An API for scripts of other origins: errors are JSON, also those of sessions, and the header that lets a script read
// an answer is set around the manager, so that error answers have it too.
func Example_api() {
	const origin = "https://app.example.com" // of the pages with the scripts; the API is at https://api.example.com

	fail := func(w http.ResponseWriter, status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"error": code})
	}
	store := &breakable{Store: session.NewMemoryStore()}
	m, err := session.New(store, secret, &session.Options{
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, session.ErrGone) || errors.Is(err, session.ErrLockLost) {
				fail(w, http.StatusConflict, "session_changed") // ask who is logged in, and send the request again
				return
			}
			log.Print(r.Method, " ", r.URL.Path, ": ", err)
			w.Header().Set("Retry-After", "5")
			fail(w, http.StatusServiceUnavailable, "try_again")
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	api := http.NewServeMux()
	api.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann") // once the password was checked
		w.WriteHeader(http.StatusNoContent)
	})
	api.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		user := session.FromContext(r.Context()).User()
		if user == "" {
			fail(w, http.StatusUnauthorized, "log_in")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"user": user})
	})
	guard := http.NewCrossOriginProtection() // against forged requests; no tokens are needed
	if err := guard.AddTrustedOrigin(origin); err != nil {
		log.Fatal(err)
	}
	inner := m.Handler(guard.Handler(api))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		if r.Header.Get("Origin") == origin {
			w.Header().Set("Access-Control-Allow-Origin", origin) // "*" would not do for requests with cookies
			w.Header().Set("Access-Control-Allow-Credentials", "true")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
			w.Header().Set("Access-Control-Allow-Headers", "Content-Type")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		inner.ServeHTTP(w, r)
	})

	var cookies []*http.Cookie
	// The request of a page's fetch(url, {method, credentials: "include"}).
	fetch := func(method, path, from string) {
		r := httptest.NewRequest(method, "https://api.example.com"+path, nil)
		r.Header.Set("Origin", from)
		r.Header.Set("Sec-Fetch-Site", "same-site")
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
		readable := w.Header().Get("Access-Control-Allow-Origin") == from
		fmt.Println(method, path, w.Code, "readable:", readable)
		if w.Code >= 400 {
			fmt.Println(" ", strings.TrimSpace(w.Body.String()))
		}
	}
	fetch("GET", "/me", origin)
	fetch("POST", "/login", "https://other.example.com")
	fetch("POST", "/login", origin)
	fetch("GET", "/me", origin)
	store.down.Store(true)
	fetch("GET", "/me", origin)
	// Output:
	// GET /me 401 readable: true
	//   {"error":"log_in"}
	// POST /login 403 readable: false
	//   cross-origin request detected from Sec-Fetch-Site header
	// POST /login 204 readable: true
	// GET /me 200 readable: true
	// GET /me 503 readable: true
	//   {"error":"try_again"}
}

// A breakable store can be down.
type breakable struct {
	session.Store
	down atomic.Bool
}

func (s *breakable) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if s.down.Load() {
		return session.Record{}, errors.New("the server is down")
	}
	return s.Store.Load(ctx, id)
}

// A client without a cookie jar keeps one string: of each answer that sets the cookie it takes the new value, since
// logins and renewals replace it, and of one that removes it, it forgets it.
func Example_cookieByHand() {
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/visit", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Set("seen", true) })
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).SetUser("ann") })
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Destroy() })
	mux.HandleFunc("/me", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", session.FromContext(r.Context()).User())
	})
	handler := m.Handler(mux)

	cookie := "" // as the client keeps it, like a password, from one start to the next
	send := func(path string) string {
		r := httptest.NewRequest("GET", path, nil)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			if c.Name == "session_id" {
				if cookie = c.Name + "=" + c.Value; c.MaxAge < 0 {
					cookie = ""
				}
			}
		}
		return w.Body.String()
	}
	send("/visit")
	before := cookie
	send("/login")
	fmt.Println(send("/me"), "with another cookie:", cookie != before)
	send("/logout")
	fmt.Printf("%s with the cookie %q\n", send("/me"), cookie)
	// Output:
	// "ann" with another cookie: true
	// "" with the cookie ""
}

// A native application keeps its token by hand, and sends it in a header of its own. Browsers of the same site have
// cookies.
func Example_tokenHeader() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{TokenHeader: "Session-Token"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).SetUser("ann") })
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Destroy() })
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", session.FromContext(r.Context()).User())
	})
	handler := m.Handler(mux)

	token := "" // as the client keeps it, like a password, from one start to the next
	send := func(method, path string) string {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Session-Token", token) // empty says that there is none yet
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if lines := w.Result().Header.Values("Session-Token"); len(lines) > 0 {
			token = lines[0]
		}
		return w.Body.String()
	}
	send("POST", "/login")
	fmt.Println(send("GET", "/me"), "with a token:", token != "")
	send("POST", "/logout")
	fmt.Println(send("GET", "/me"), "with a token:", token != "")
	// Output:
	// "ann" with a token: true
	// "" with a token: false
}

// An OpenID provider tells by a back-channel logout which of its sessions has ended: a label finds those that began with it.
func ExampleLabelled() {
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	login := func(user, sid string) {
		if _, err := m.Do(ctx, "", func(ctx context.Context) error {
			session.FromContext(ctx).SetUser(user, session.Label{Name: "sid", Value: sid})
			return nil
		}); err != nil {
			log.Fatal(err)
		}
	}
	login("ann", "08a5019c")
	login("ann", "7cd4e2b1")

	n, err := m.EndSessions(ctx, session.Labelled(session.Label{Name: "sid", Value: "08a5019c"}))
	fmt.Println(n, err)
	left, err := m.Sessions(ctx, session.OfUser("ann"))
	fmt.Println(len(left), err)
	// Output:
	// 1 <nil>
	// 1 <nil>
}

// A server of anything else than HTTP has the token from its client, and hands out the next one.
func ExampleManager_Do() {
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()

	token, err := m.Do(ctx, "", func(ctx context.Context) error {
		session.FromContext(ctx).SetUser("ann")
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	token, err = m.Do(ctx, token, func(ctx context.Context) error {
		fmt.Println(session.FromContext(ctx).User())
		return errors.New("no room") // what this call has changed is dropped
	})
	fmt.Println(err, token != "")
	// Output:
	// ann
	// no room true
}

// Where the browser can, a session is bound to its device; something sensitive asks for a proof of that, and for the password
// where there is none.
func ExampleManager_RequireDevice() {
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{Device: &session.DeviceBinding{Exclude: []string{"/static/"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	transfer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "done")
	})
	password := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if session.FromContext(r.Context()).Device().Locked {
			fmt.Fprintln(w, "this is not the device that you logged in from, please log in again")
			return
		}
		fmt.Fprintln(w, "please enter your password once more")
	})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann") // offers it to the browser
	})
	mux.Handle("POST /transfer", m.RequireDevice(5*time.Minute, transfer, password))

	login := httptest.NewRecorder()
	m.Handler(mux).ServeHTTP(login, httptest.NewRequest("POST", "/login", nil))
	fmt.Println(strings.HasPrefix(login.Header().Get("Secure-Session-Registration"), "(ES256 RS256);"))
	next := httptest.NewRequest("POST", "/transfer", nil)
	next.AddCookie(login.Result().Cookies()[0]) // of a browser without the hardware
	answer := httptest.NewRecorder()
	m.Handler(mux).ServeHTTP(answer, next)
	fmt.Print(answer.Body)
	// Output:
	// true
	// please enter your password once more
}

// htmx asks for parts of a page. A redirect to the login page, which its request would follow, put that page into the
// place of the part; a header has the whole page go there.
func Example_htmx() {
	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "HX-Request") // one URL, two answers
		switch {
		case session.FromContext(r.Context()).User() != "":
			fmt.Fprint(w, "<li>a part")
		case r.Header.Get("HX-Request") == "true":
			w.Header().Set("HX-Redirect", "/login") // with a status of 200: htmx does not see headers of a 303
		default:
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		}
	}))
	for _, htmx := range []string{"", "true"} {
		r := httptest.NewRequest("GET", "/part", nil)
		r.Header.Set("HX-Request", htmx)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Location"), w.Header().Get("HX-Redirect"), w.Header()["Vary"])
	}
	// Output:
	// 303 /login  [HX-Request Cookie]
	// 200  /login [HX-Request Cookie]
}

// Get has no type to decode into: integers come back as int64, maps as map[string]any. A typed key, or Decode, gives
// back what was set. They return a copy: a change of it is stored by Set or Update.
func ExampleSession_Get() {
	const limits session.Key[map[string]int] = "limits"

	m, err := session.New(session.NewMemoryStore(), secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		s.Set("n", 1)
		s.Set("limits", map[string]int{"day": 10})

		n, _ := s.Get("n")
		_, isInt := n.(int)
		fmt.Printf("%T %v\n", n, isInt)
		v, _ := s.Get("limits")
		fmt.Printf("%T %T\n", v, v.(map[string]any)["day"])

		typed, _ := limits.Get(s)
		fmt.Printf("%T %v\n", typed, typed)
		typed["day"] = 20
		again, _ := limits.Get(s)
		fmt.Println(again)
		limits.Set(s, typed)
		again, _ = limits.Get(s)
		fmt.Println(again)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output:
	// int64 false
	// map[string]interface {} int64
	// map[string]int map[day:10]
	// map[day:10]
	// map[day:20]
}

// A form token makes a page that only reads into one that writes: a save each time it is shown, and for a visitor of whom
// nothing was known a session of its own.
func ExampleSession_FormToken() {
	var calls []string
	m, err := session.New(session.NewMemoryStore(), secret, &session.Options{
		Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventStore {
				calls = append(calls, e.Op)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	token := ""
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		switch r.URL.Path {
		case "/form":
			token = s.FormToken()
		case "/send":
			s.UseFormToken(r.Context(), token)
		default:
			s.User()
		}
	}))
	var cookies []*http.Cookie
	for _, path := range []string{"/", "/form", "/", "/form", "/send"} {
		r := httptest.NewRequest("GET", path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
		fmt.Println(path, calls, len(cookies), "cookie")
		calls = nil
	}
	// Output:
	// / [] 0 cookie
	// /form [save] 1 cookie
	// / [load] 1 cookie
	// /form [load save] 1 cookie
	// /send [load save] 1 cookie
}

// A server that has revisions of its own counts them its own way: one for all keys together, an ETag, a CAS value. The
// record's version goes into the value then, and the write depends on the revision of the value that was looked at. So
// a Save is two round trips. A server's count of the writes to one key, from 1, can be the version itself if what has
// expired is removed before it is saved anew, since that has to become version 1.
func ExampleStore_revisions() {
	var store session.Store = &revisionStore{client: memcache.New("127.0.0.1:11211"), prefix: "app:"}
	m, err := session.New(store, secret, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
}

// A revisionStore keeps records on Memcached as a server with revisions of its own, the "CAS values". (NewMemcacheStore
// does it in one round trip, and has the server remove what has expired.) The client knows no contexts: its Timeout bounds
// a call.
type revisionStore struct {
	client *memcache.Client
	prefix string
}

func (s *revisionStore) key(id session.ID) string { return s.prefix + id.String() }

func (s *revisionStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	_, rec, err := s.look(ctx, id)
	if err == nil && rec.Version == 0 {
		err = session.ErrNotFound
	}
	return rec, err
}

// look returns what is under the key, nil if nothing is, and the live record in it, of version 0 if there is none.
func (s *revisionStore) look(ctx context.Context, id session.ID) (*memcache.Item, session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, session.Record{}, err
	}
	item, err := s.client.Get(s.key(id))
	if errors.Is(err, memcache.ErrCacheMiss) {
		return nil, session.Record{}, nil
	}
	if err != nil || len(item.Value) < 16 { // not a record: it may be overwritten
		return item, session.Record{}, err
	}
	rec := session.Record{Version: binary.BigEndian.Uint64(item.Value), Data: item.Value[16:]}
	if expires := int64(binary.BigEndian.Uint64(item.Value[8:])); expires != 0 {
		rec.Expires = time.UnixMilli(expires)
	}
	if !rec.Live(time.Now()) {
		rec = session.Record{}
	}
	return item, rec, nil
}

func (s *revisionStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	item, current, err := s.look(ctx, id)
	if err != nil {
		return err
	}
	if current.Version != rec.Version {
		return session.ErrConflict
	}
	expires := int64(0)
	if !rec.Expires.IsZero() {
		expires = max(1, rec.Expires.UnixMilli())
	}
	value := binary.BigEndian.AppendUint64(nil, rec.Version+1)
	value = append(binary.BigEndian.AppendUint64(value, uint64(expires)), rec.Data...)
	if item == nil {
		err = s.client.Add(&memcache.Item{Key: s.key(id), Value: value})
	} else { // what expired, too, is replaced at its revision, and not removed first: somebody may have been quicker
		item.Value = value
		err = s.client.CompareAndSwap(item)
	}
	switch {
	case errors.Is(err, memcache.ErrNotStored), errors.Is(err, memcache.ErrCASConflict), errors.Is(err, memcache.ErrCacheMiss):
		return session.ErrConflict
	case err != nil && strings.Contains(err.Error(), "too large"):
		return fmt.Errorf("%w: %v", session.ErrTooLarge, err)
	}
	return err
}

func (s *revisionStore) Delete(ctx context.Context, id session.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.client.Delete(s.key(id))
	if errors.Is(err, memcache.ErrCacheMiss) {
		err = nil
	}
	return err
}

// The stores of the examples keep the contract, races included: they are there to be copied.
func TestMapStore(t *testing.T) {
	stores := storesIn("", func(string) session.Store { return newMapStore() })
	stores.Once = true // what is in memory is nowhere else
	sessiontest.Run(t, stores)
	sessiontest.RunSessions(t, stores)
}

func TestRevisionStore(t *testing.T) {
	server := servertest.Memcached(t)
	stores := storesIn(uniquePrefix(), func(prefix string) session.Store {
		return &revisionStore{memcacheClient(t, server.Addrs...), prefix}
	})
	sessiontest.Run(t, stores)
	sessiontest.RunSessions(t, stores)
}
