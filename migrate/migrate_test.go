package migrate_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/mysqlstore"
	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	_ "github.com/go-sql-driver/mysql"
	"github.com/gorilla/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"example.com/session"
	"example.com/session/internal/servertest"
	"example.com/session/migrate"
)

func TestMain(m *testing.M) {
	gob.Register(cart{})
	gob.Register(time.Time{})
	os.Exit(servertest.Main(m))
}

type cart struct {
	Items []string
	Total float64
}

var (
	myCart  = cart{[]string{"tea", "milk"}, 4.5}
	since   = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	allKeys = []string{"cart", "name", "raw", "since", "visits"}
)

const (
	visits session.Key[int]       = "visits"
	name   session.Key[string]    = "name"
	carts  session.Key[cart]      = "cart"
	dates  session.Key[time.Time] = "since"
	raw    session.Key[[]byte]    = "raw"
)

// setUser is what the application knows of its old sessions.
func setUser(old *session.OldSession) {
	old.User, _ = old.Values["user"].(string)
	delete(old.Values, "user")
}

// An application is one as it was before the change: /login logs ann in, and /user tells who is logged in.
type application struct {
	handler   http.Handler
	migration *session.Migration
	store     session.Store // for what comes after
	stateless bool          // its sessions are in their cookies
}

func newStore(t *testing.T, rawURL string) session.Store {
	t.Helper()
	store, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func newSCS(t *testing.T, old scs.Store, rawURL string) application {
	m := scs.New()
	m.Store = old
	m.Cookie.Secure = true
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(_ http.ResponseWriter, r *http.Request) {
		if err := m.RenewToken(r.Context()); err != nil {
			t.Error(err)
		}
		m.Put(r.Context(), "user", "ann")
		m.Put(r.Context(), "name", "Ann")
		m.Put(r.Context(), "visits", 41)
		m.Put(r.Context(), "cart", myCart)
		m.Put(r.Context(), "since", since)
		m.Put(r.Context(), "raw", []byte{0, 255})
		m.RememberMe(r.Context(), true)
	})
	mux.HandleFunc("/user", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, m.GetString(r.Context(), "user")) })
	return application{m.LoadAndSave(mux), migrate.SCS(m, setUser), newStore(t, rawURL), false}
}

func newGorilla(t *testing.T, old sessions.Store, options *sessions.Options) application {
	const name = "session-name"
	get := func(r *http.Request) *sessions.Session {
		s, _ := old.Get(r, name)
		return s
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		s := get(r)
		s.Values["user"] = "ann"
		s.Values["name"] = "Ann"
		s.Values["visits"] = 41
		s.Values["cart"] = myCart
		s.Values["since"] = since
		s.Values["raw"] = []byte{0, 255}
		if err := s.Save(r, w); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/user", func(w http.ResponseWriter, r *http.Request) {
		user, _ := get(r).Values["user"].(string)
		io.WriteString(w, user)
	})
	_, stateless := old.(*sessions.CookieStore)
	return application{mux, migrate.Gorilla(old, name, options, setUser), newStore(t, "memory:"), stateless}
}

var applications = map[string]func(t *testing.T) application{
	"scs, memory": func(t *testing.T) application {
		return newSCS(t, memstore.NewWithCleanupInterval(0), "memory:")
	},
	"scs, Redis": func(t *testing.T) application {
		server := servertest.Redis(t)
		opts, err := redis.ParseURL(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		client := redis.NewClient(opts)
		t.Cleanup(func() { client.Close() })
		return newSCS(t, goredisstore.New(client), server.URL)
	},
	"scs, MySQL": func(t *testing.T) application {
		server := servertest.MariaDB(t)
		db, err := sql.Open("mysql", fmt.Sprintf("root@tcp(%s)/test?parseTime=true", server.Addrs[0]))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			db.Exec("DROP TABLE sessions")
			db.Close()
		})
		for _, statement := range []string{
			"DROP TABLE IF EXISTS sessions",
			"CREATE TABLE sessions (token CHAR(43) PRIMARY KEY, data BLOB NOT NULL, expiry TIMESTAMP(6) NOT NULL)",
		} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		wantRefused(t, server.URL)
		return newSCS(t, mysqlstore.NewWithCleanupInterval(db, 0), server.Apart(t, "table"))
	},
	"scs, PostgreSQL": func(t *testing.T) application {
		server := servertest.PostgreSQL(t)
		pool, err := pgxpool.New(t.Context(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			pool.Exec(context.Background(), "DROP TABLE sessions")
			pool.Close()
		})
		for _, statement := range []string{
			"DROP TABLE IF EXISTS sessions",
			"CREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL)",
		} {
			if _, err := pool.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		wantRefused(t, server.URL)
		return newSCS(t, pgxstore.NewWithCleanupInterval(pool, 0), server.Apart(t, "table"))
	},
	"gorilla, cookie": func(t *testing.T) application {
		old := sessions.NewCookieStore(bytes.Repeat([]byte("a"), 32), bytes.Repeat([]byte("e"), 32))
		return newGorilla(t, old, old.Options)
	},
	"gorilla, files": func(t *testing.T) application {
		old := sessions.NewFilesystemStore(t.TempDir(), bytes.Repeat([]byte("a"), 32))
		old.Options.Secure = true
		return newGorilla(t, old, old.Options)
	},
}

// wantRefused checks that the old library's table is not taken for one of the new one's.
func wantRefused(t *testing.T, rawURL string) {
	t.Helper()
	if store, err := session.Open(t.Context(), rawURL); err == nil {
		store.Close()
		t.Error("the old library's table is taken for one of this library's")
	}
}

// A site is an application on a server, before or after the change.
type site struct {
	*httptest.Server
	handler atomic.Pointer[http.Handler]
}

func newSite(t *testing.T, h http.Handler) *site {
	s := new(site)
	s.become(h)
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*s.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) become(h http.Handler) { s.handler.Store(&h) }

// A browser keeps its cookies.
type browser struct {
	t    *testing.T
	site *site
	jar  *cookiejar.Jar
}

func (s *site) browser(t *testing.T, cookies ...*http.Cookie) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t, s, jar}
	jar.SetCookies(b.url(), cookies)
	return b
}

func (b *browser) url() *url.URL {
	u, err := url.Parse(b.site.URL)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func (b *browser) cookies() []*http.Cookie { return b.jar.Cookies(b.url()) }

func (b *browser) get(path string, status int) string {
	b.t.Helper()
	client := &http.Client{Transport: b.site.Client().Transport, Jar: b.jar}
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.site.URL+path, nil)
	if err != nil {
		b.t.Error(err)
		return ""
	}
	res, err := client.Do(r)
	if err != nil {
		b.t.Error(err)
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status {
		b.t.Errorf("%s: %s %q, %v; want %d", path, res.Status, body, err, status)
	}
	return string(body)
}

func (b *browser) want(path, body string) {
	b.t.Helper()
	if got := b.get(path, http.StatusOK); got != body {
		b.t.Errorf("%s: got %q, want %q", path, got, body)
	}
}

func newManager(t *testing.T, app application) *session.Manager {
	t.Helper()
	m, err := session.New(app.store, bytes.Repeat([]byte("s"), 32), &session.Options{
		Cookie:    session.Cookie{Name: "__Host-session_id"},
		Migration: app.migration,
		Logger:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// newHandler is the application after the change.
func newHandler(t *testing.T, m *session.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/user", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, session.FromContext(r.Context()).User())
	})
	mux.HandleFunc("/visit", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		fmt.Fprint(w, visits.Update(s, func(n int) int { return n + 1 }))
	})
	mux.HandleFunc("/values", func(_ http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		n, _ := name.Get(s)
		c, _ := carts.Get(s)
		d, _ := dates.Get(s)
		b, _ := raw.Get(s)
		if n != "Ann" || fmt.Sprint(c) != fmt.Sprint(myCart) || !d.Equal(since) || !bytes.Equal(b, []byte{0, 255}) {
			t.Errorf("values: %q, %v, %v, %v", n, c, d, b)
		}
		if got := s.Keys(); fmt.Sprint(got) != fmt.Sprint(allKeys) {
			t.Errorf("keys: %q, want %q", got, allKeys)
		}
	})
	mux.HandleFunc("/logout", func(_ http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Destroy() })
	return m.Handler(mux)
}

func TestMigrate(t *testing.T) {
	for name, open := range applications {
		t.Run(name, func(t *testing.T) {
			app := open(t)
			s := newSite(t, app.handler)
			ann := s.browser(t)
			ann.get("/login", http.StatusOK)
			ann.want("/user", "ann")
			ticket := ann.cookies()
			if len(ticket) != 1 || ticket[0].Name != app.migration.Cookie.Name {
				t.Fatalf("cookies: %v", ticket)
			}

			// The change, and a page that sends many requests at once.
			m := newManager(t, app)
			s.become(newHandler(t, m))
			const parallel = 8
			var all sync.WaitGroup
			for range parallel {
				one := s.browser(t, ticket...)
				all.Go(func() {
					one.get("/visit", http.StatusOK)
					one.want("/user", "ann")
				})
			}
			all.Wait()
			ann.want("/user", "ann")
			ann.get("/values", http.StatusOK)
			ann.want("/visit", fmt.Sprint(41+parallel+1))
			if got := ann.cookies(); len(got) != 1 || got[0].Name != "__Host-session_id" {
				t.Errorf("the browser has the cookies %v", got)
			}
			if list, err := m.Sessions(t.Context(), session.OfUser("ann")); len(list) != 1 || err != nil {
				t.Errorf("ann's sessions: %+v, %v", list, err)
			}

			// The old system has forgotten it, where it can; and it is over once ann logs out.
			copied := s.browser(t, ticket...)
			s.become(app.handler)
			if app.stateless {
				copied.want("/user", "ann")
			} else {
				copied.want("/user", "")
			}
			s.become(newHandler(t, m))
			ann.get("/logout", http.StatusOK)
			if got := ann.cookies(); len(got) != 0 {
				t.Errorf("after the logout, the browser has the cookies %v", got)
			}
			s.browser(t, ticket...).want("/user", "")

			// Cookies that nobody gave out, or that were cut or spelled in another way, lead nowhere.
			value := ticket[0].Value
			for _, value := range []string{"x", value[:len(value)-2], strings.Repeat("A", 43), respell(value)} {
				s.browser(t, &http.Cookie{Name: ticket[0].Name, Value: value}).want("/user", "")
			}
		})
	}
}

// respell returns another spelling of a value in base64, with other bits at its end that do not count.
func respell(value string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	end := strings.TrimRight(value, "=")
	last := strings.IndexByte(alphabet, end[len(end)-1])
	return end[:len(end)-1] + alphabet[last^1:][:1] + value[len(end):]
}

// A cookie that has moved does not move again in another spelling, which the old library accepts.
func TestGorillaSpelling(t *testing.T) {
	respelled := 0
	for n := range 6 { // of lengths whose end has bits that do not count, and one that has none
		old := sessions.NewCookieStore(bytes.Repeat([]byte("a"), 32))
		w := httptest.NewRecorder()
		s := sessions.NewSession(old, "x")
		s.Values["user"], s.Options = strings.Repeat("a", n), old.Options
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if err := old.Save(r, w, s); err != nil {
			t.Fatal(err)
		}
		cookie := w.Result().Cookies()[0]
		mg := migrate.Gorilla(old, "x", old.Options, nil)
		for _, value := range []string{cookie.Value, respell(cookie.Value)} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.AddCookie(&http.Cookie{Name: "x", Value: value})
			_, err := old.New(r, "x")
			found, loadErr := mg.Load(r)
			if loadErr != nil || (found != nil) != (value == cookie.Value) {
				t.Errorf("%q, issued as %q: got %v, %v", value, cookie.Value, found, loadErr)
			}
			if err == nil && value != cookie.Value {
				respelled++
			}
		}
	}
	if respelled == 0 {
		t.Error("no other spelling was accepted by the old library: the test shows nothing")
	}
}

// The life of a session goes on where it was.
func TestSCSTimes(t *testing.T) {
	app := applications["scs, memory"](t)
	s := newSite(t, app.handler)
	b := s.browser(t)
	before := time.Now()
	b.get("/login", http.StatusOK)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(b.cookies()[0])
	old, err := app.migration.Load(r)
	if err != nil {
		t.Fatal(err)
	}
	if d := old.Created.Sub(before); d < 0 || d > time.Hour || old.Expires.Sub(old.Created) != 24*time.Hour {
		t.Errorf("begun at %v, created %v, expires %v", before, old.Created, old.Expires)
	}
	if old.Remember != 24*time.Hour {
		t.Errorf("remembered for %v", old.Remember)
	}
}

// A store that is down is no logout.
func TestSCSStoreDown(t *testing.T) {
	store := &downStore{Store: memstore.NewWithCleanupInterval(0)}
	app := newSCS(t, store, "memory:")
	s := newSite(t, app.handler)
	ann := s.browser(t)
	ann.get("/login", http.StatusOK)
	s.become(newHandler(t, newManager(t, app)))
	store.down.Store(true)
	ann.get("/user", http.StatusServiceUnavailable)
	store.down.Store(false)
	ann.want("/user", "ann")
}

type downStore struct {
	scs.Store
	down atomic.Bool
}

func (d *downStore) Find(token string) ([]byte, bool, error) {
	if d.down.Load() {
		return nil, false, errors.New("down")
	}
	return d.Store.Find(token)
}

// A cookie that is older than the store lets it be is no session; a directory that cannot be read is no logout.
func TestGorillaFailures(t *testing.T) {
	dir := t.TempDir()
	old := sessions.NewFilesystemStore(dir, bytes.Repeat([]byte("a"), 32))
	old.Options.Secure = true
	app := newGorilla(t, old, old.Options)
	s := newSite(t, app.handler)
	ann := s.browser(t)
	ann.get("/login", http.StatusOK)
	ticket := ann.cookies()
	s.become(newHandler(t, newManager(t, app)))

	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	file := dir + "/" + files[0].Name()
	if err := os.Rename(file, dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil { // what is there cannot be read
		t.Fatal(err)
	}
	ann.get("/user", http.StatusServiceUnavailable)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.browser(t, ticket...).want("/user", "") // it is not there
	if err := os.Rename(dir+"/away", file); err != nil {
		t.Fatal(err)
	}
	ann.want("/user", "ann")
}

func TestGorillaOptions(t *testing.T) {
	old := sessions.NewCookieStore(bytes.Repeat([]byte("a"), 32))
	mg := migrate.Gorilla(old, "x", nil, nil)
	if mg.Cookie.Name != "x" || mg.Cookie.Path != "/" {
		t.Errorf("the cookie is %v", mg.Cookie)
	}
	if _, err := mg.Load(httptest.NewRequest(http.MethodGet, "/", nil)); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("without a cookie: %v", err)
	}
	if err := mg.End(httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
		t.Errorf("without a cookie: %v", err)
	}
	forged := httptest.NewRequest(http.MethodGet, "/", nil)
	forged.AddCookie(&http.Cookie{Name: "x", Value: "forged"})
	if s, err := mg.Load(forged); s != nil || err != nil {
		t.Errorf("a forged cookie: %v, %v", s, err)
	}
	if err := mg.End(forged); err != nil {
		t.Errorf("a forged cookie: %v", err)
	}
}
