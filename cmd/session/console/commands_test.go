package console

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/session"
)

// secret is that of the application whose sessions the tests look after.
var secret = strings.Repeat("s", 32)

// newApp returns an application's manager of the sessions in a store.
func newApp(t *testing.T, store session.Store, opts session.Options) *session.Manager {
	t.Helper()
	opts.SweepInterval = session.Never
	m, err := session.New(store, []byte(secret), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// visit has fn work on the session that the cookie leads to, and returns the cookie and ID that the client has then.
func visit(t *testing.T, m *session.Manager, cookie *http.Cookie, fn func(*session.Session)) (*http.Cookie, session.ID) {
	t.Helper()
	return visitFrom(t, m, cookie, "192.0.2.1:1234", "Evil \x1b[2J", fn)
}

// visitFrom is visit by a client of that address and User-Agent.
func visitFrom(t *testing.T, m *session.Manager, cookie *http.Cookie, addr, agent string, fn func(*session.Session)) (*http.Cookie, session.ID) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = addr
	r.Header.Set("User-Agent", agent)
	if cookie != nil {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	var s *session.Session
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s = session.FromContext(r.Context())
		fn(s)
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		cookie = c
	}
	return cookie, s.ID()
}

// alive reports whether the cookie leads to a session with a value under "k".
func alive(t *testing.T, m *session.Manager, cookie *http.Cookie) bool {
	found := false
	visit(t, m, cookie, func(s *session.Session) { found = s.Has("k") })
	return found
}

// A population is what a test puts into a store.
type population struct {
	m                         *session.Manager
	ann, annToo, bob, nobody  *http.Cookie
	anns, annsToo, bobs, none session.ID
}

func populate(t *testing.T, store session.Store, opts session.Options) *population {
	t.Helper()
	p := &population{m: newApp(t, store, opts)}
	login := func(user string) (*http.Cookie, session.ID) {
		return visit(t, p.m, nil, func(s *session.Session) {
			s.Set("k", "value\x1b[2J")
			if user != "" {
				s.SetUser(user)
			}
		})
	}
	p.ann, p.anns = login("ann")
	p.bob, p.bobs = login("bob")
	p.nobody, p.none = login("")
	time.Sleep(2 * time.Millisecond) // the times of sessions are in milliseconds
	p.annToo, p.annsToo = login("ann")
	return p
}

// The commands, one after the other, on each backend; each is a process that opens the store for itself.
func TestCommands(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		for name, encrypt := range map[string]bool{"plain": false, "encrypted": true} {
			t.Run(name, func(t *testing.T) { testCommands(t, b, encrypt) })
		}
	})
}

func testCommands(t *testing.T, b backend, encrypt bool) {
	rawURL := b.newURL(t)
	// The application has the store open all the time, but for the one that only one process can have.
	store := openTest(t, rawURL)
	p := populate(t, store, session.Options{EncryptAtRest: encrypt})
	leave, enter := func() {}, func() {}
	if b.name == "file" {
		leave = func() { store.Close() }
		enter = func() {
			store = openTest(t, rawURL)
			p.m = newApp(t, store, session.Options{EncryptAtRest: encrypt})
		}
	}
	lists := canList(store)
	leave()
	env := []string{"SESSION_STORE=" + rawURL, "SESSION_SECRET=" + secret}
	do := func(args ...string) result { t.Helper(); return run(t, append(env[:len(env):len(env)], args...)...) }

	t.Run("list --user", func(t *testing.T) {
		sessions := decode[[]listed](t, runOK(t, append(env, "list", "--user", "ann", "--json")...))
		if len(sessions) != 2 || sessions[0].ID != p.annsToo || sessions[1].ID != p.anns || sessions[0].User != "ann" ||
			sessions[0].RemoteAddr != "192.0.2.1" || sessions[0].LastUsed.IsZero() || sessions[0].Encrypted != encrypt {
			t.Errorf("ann's sessions: %+v", sessions)
		}
		if r := do("list", "--user", "eve"); r.code != exitNone || !strings.Contains(r.stderr, `namespace "session_id"`) {
			t.Errorf("a user who is not known: %+v", r)
		}
		if r := do("list", "--user", "eve", "--json"); r.code != exitNone || r.stdout != "[]\n" {
			t.Errorf("a user who is not known: %+v", r)
		}
		if r := do("list", "--user", "ann", "--namespace", "other"); r.code != exitNone {
			t.Errorf("in another namespace: %+v", r)
		}
		if encrypt {
			for wrong, text := range map[string]string{"": "set SESSION_SECRET", strings.Repeat("x", 32): "does not fit this store"} {
				r := run(t, "SESSION_STORE="+rawURL, "SESSION_SECRET="+wrong, "list", "--user", "ann")
				if r.code != exitFailed || !strings.Contains(r.stderr, text) {
					t.Errorf("with the secret %q: %+v", wrong, r)
				}
			}
			fromFiles := []string{"SESSION_STORE=" + rawURL + "\n", "SESSION_SECRET=" + secret + "\n", "list", "--user", "ann"}
			if out := runOK(t, fromFiles...); !strings.Contains(out, shortID(p.anns)) {
				t.Errorf("with line ends: %s", out)
			}
			previous := []string{"SESSION_STORE=" + rawURL, "SESSION_SECRET=" + strings.Repeat("x", 32),
				"SESSION_PREVIOUS_SECRETS=" + strings.Repeat("y", 40) + " " + secret, "list", "--user", "ann"}
			if out := runOK(t, previous...); !strings.Contains(out, shortID(p.anns)) {
				t.Errorf("with the secret among the previous ones: %s", out)
			}
		}
	})

	t.Run("list", func(t *testing.T) {
		r := do("list", "--json")
		if !lists {
			if r.code != exitFailed || !strings.Contains(r.stderr, "cannot list") {
				t.Errorf("%+v", r)
			}
			return
		}
		sessions := decode[[]listed](t, r.stdout)
		var ids []session.ID
		for _, s := range sessions {
			ids = append(ids, s.ID)
			if s.Encrypted != encrypt || s.Size == 0 || s.Expires.IsZero() || s.Created.IsZero() != encrypt || s.UserAgent == "" != encrypt {
				t.Errorf("listed: %+v", s)
			}
		}
		if want := []session.ID{p.annsToo, p.anns, p.bobs, p.none}; !encrypt && !slices.Equal(ids, want) {
			t.Errorf("listed in the order %v, want %v", ids, want)
		}
		text := do("list").stdout
		if strings.Count(text, "\n") != 5 || !strings.Contains(text, " "+p.bobs.String()[:shownDigits]+" ") || strings.Contains(text, "\x1b") {
			t.Errorf("the list:\n%s", text)
		}
	})

	t.Run("show", func(t *testing.T) {
		got := decode[shown](t, runOK(t, append(env, "show", p.anns.String(), "--json", "--values")...))
		if got.ID != p.anns || got.Kind != session.RecordSession || got.Encrypted != encrypt || got.Readable == encrypt ||
			!encrypt && (got.User != "ann" || got.Values["k"] != `"value\u001b[2J"` || !slices.Equal(got.Keys, []string{"k"})) {
			t.Errorf("shown: %+v", got)
		}
		if got.Renewed.IsZero() || got.Regenerated.IsZero() || got.ByClient != nil || !got.Ended.IsZero() {
			t.Errorf("shown of the cookie: %+v", got)
		}
		got = decode[shown](t, runOK(t, append(env, "show", p.anns.String(), "--json")...))
		if got.Values != nil {
			t.Errorf("values that nobody asked for: %+v", got)
		}
		for _, args := range [][]string{{"show", p.anns.String()}, {"show", "--values", p.anns.String()}} {
			text := do(args...).stdout
			if !strings.Contains(text, p.anns.String()) || strings.Contains(text, "\x1b") ||
				strings.Contains(text, "value") != (len(args) == 3 && !encrypt) {
				t.Errorf("%q prints\n%s", args, text)
			}
		}
		got = decode[shown](t, runOK(t, append(env, "show", "--user", "ann", "--json")...))
		if got.Kind != session.RecordIndex || !got.Readable || !slices.Equal(got.Sessions, []session.ID{p.anns, p.annsToo}) {
			t.Errorf("the record of ann's sessions: %+v", got)
		}
		for _, args := range [][]string{{"show", strings.Repeat("0", 64)}, {"show", "--user", "eve"}} {
			if r := do(args...); r.code != exitNone || r.stdout != "" {
				t.Errorf("%q: %+v", args, r)
			}
			if r := do(append(args, "--json")...); r.code != exitNone || r.stdout != "null\n" {
				t.Errorf("%q --json: %+v", args, r)
			}
		}
		short := do("show", p.anns.String()[:shownDigits])
		if lists && (short.code != exitOK || !strings.Contains(short.stdout, p.anns.String())) || !lists && short.code != exitUsage {
			t.Errorf("by the beginning of its ID: %+v", short)
		}
	})

	t.Run("stats", func(t *testing.T) {
		r := do("stats", "--json")
		if !lists {
			if r.code != exitFailed {
				t.Errorf("%+v", r)
			}
			return
		}
		st := decode[statistics](t, r.stdout)
		young := 0
		for _, g := range st.Ages {
			young += g.Sessions
		}
		if st.Records[session.RecordSession] != 4 || st.Records[session.RecordIndex] != 2 || st.Sizes.Max == 0 ||
			encrypt && (st.Encrypted != 4 || young != 0) || !encrypt && (st.Users != 2 || st.Anonymous != 1 || young != 4) {
			t.Errorf("statistics: %+v", st)
		}
		enter()
		if n, err := session.Count(t.Context(), store); n != st.Records[session.RecordSession] || err != nil {
			t.Errorf("Count has %d sessions, %v, and stats %d", n, err, st.Records[session.RecordSession])
		}
		leave()
		text := do("stats").stdout
		if !strings.Contains(text, "live sessions") {
			t.Errorf("statistics:\n%s", text)
		}
		for kind, what := range kinds {
			if line := fmt.Sprintf("%s: %s\n", kind, what); kind != session.RecordSession && !strings.Contains(text, line) {
				t.Errorf("statistics without %q:\n%s", line, text)
			}
		}
	})

	t.Run("sweep", func(t *testing.T) {
		got := decode[swept](t, runOK(t, append(env, "sweep", "--json")...))
		supported := b.name != "redis" && b.name != "memcached" && b.name != "mongodb"
		if got.Supported != supported || got.Removed != 0 {
			t.Errorf("swept: %+v", got)
		}
		enter()
		if err := store.Save(t.Context(), session.ID{1}, session.Record{Expires: time.Now().Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
		leave()
		want := "removed 1 expired record\n"
		if !supported {
			want = "the store's server removes expired records by itself\n"
		}
		if text := runOK(t, append(env, "sweep")...); text != want {
			t.Errorf("sweep prints %q, want %q", text, want)
		}
	})

	t.Run("end", func(t *testing.T) {
		unknown := strings.Repeat("0", 64)
		r := do("end", p.anns.String(), unknown, "--json")
		if got := decode[ending](t, r.stdout); r.code != exitNone || got.Ended != 1 || len(got.Failed) != 1 || got.Failed[0].ID.String() != unknown {
			t.Errorf("end of two, one of which is not there: %+v", r)
		}
		enter()
		if alive(t, p.m, p.ann) || !alive(t, p.m, p.annToo) {
			t.Errorf("alive: ann %v, ann too %v", alive(t, p.m, p.ann), alive(t, p.m, p.annToo))
		}
		leave()
		buried := decode[shown](t, runOK(t, append(env, "show", p.anns.String(), "--json")...))
		if buried.Kind != session.RecordTombstone || buried.Ended.IsZero() || buried.ByClient == nil || *buried.ByClient {
			t.Errorf("what is left of an ended session: %+v", buried)
		}
		if text := do("show", p.anns.String()).stdout; !strings.Contains(text, "from elsewhere") || strings.Contains(text, "created") {
			t.Errorf("what is left of an ended session:\n%s", text)
		}
		if r := do("end", p.anns.String()); r.code != exitNone || !strings.Contains(r.stderr, p.anns.String()) {
			t.Errorf("ended twice: %+v", r)
		}
		if r := do("end", "--user", "ann"); r.code != exitOK || r.stdout != "ended 1 session\n" {
			t.Errorf("end --user: %+v", r)
		}
		if r := do("end", "--user", "ann"); r.code != exitNone || r.stdout != "" {
			t.Errorf("end --user again: %+v", r)
		}
		if r := do("end", "--user", "ann", "--json"); r.code != exitNone || decode[ending](t, r.stdout).Ended != 0 {
			t.Errorf("end --user again: %+v", r)
		}
		if r := do("list", "--user", "ann", "--json"); r.code != exitNone || r.stdout != "[]\n" {
			t.Errorf("whose sessions have ended: %+v", r)
		}
		enter()
		if alive(t, p.m, p.annToo) || !alive(t, p.m, p.bob) {
			t.Errorf("alive: ann too %v, bob %v", alive(t, p.m, p.annToo), alive(t, p.m, p.bob))
		}
		leave()
		r = do("end", "--all", "--yes", "--json")
		if !lists {
			if r.code != exitFailed {
				t.Errorf("end --all: %+v", r)
			}
			return
		}
		if got := decode[ending](t, r.stdout); r.code != exitOK || got.Ended != 2 || got.Failed == nil {
			t.Errorf("end --all: %+v", r)
		}
		enter()
		if alive(t, p.m, p.bob) || alive(t, p.m, p.nobody) {
			t.Errorf("alive: bob %v, nobody %v", alive(t, p.m, p.bob), alive(t, p.m, p.nobody))
		}
		leave()
		if r := do("end", "--all", "--yes"); r.code != exitOK || r.stdout != "ended 0 sessions\n" {
			t.Errorf("end --all again: %+v", r)
		}
		if text := runOK(t, append(env, "list", "--json")...); text != "[]\n" {
			t.Errorf("the list: %s", text)
		}
	})
}

func TestNewSecret(t *testing.T) {
	first, second := strings.TrimSpace(runOK(t, "new-secret")), strings.TrimSpace(runOK(t, "new-secret"))
	third := decode[struct{ Secret string }](t, runOK(t, "new-secret", "--json")).Secret
	if first == second || second == third {
		t.Error("two secrets are the same")
	}
	for _, s := range []string{first, second, third} {
		if m, err := session.New(session.NewMemoryStore(), []byte(s), nil); err != nil || len(s) != 43 {
			t.Errorf("%d bytes: %v", len(s), err)
		} else {
			m.Close()
		}
	}
}

// A store that does not answer ends with --timeout.
func TestTimeout(t *testing.T) {
	server := startRedis(t)
	p := populate(t, openTest(t, server.URL), session.Options{})
	server.Pause()
	defer server.Resume()
	for _, args := range [][]string{{"list"}, {"show", p.anns.String()}, {"sweep"}, {"copy", server.URL, "dir://" + t.TempDir()}} {
		if args[0] != "copy" {
			args = append(args, "--store", server.URL)
		}
		r := run(t, append(args, "--timeout", "300ms")...)
		if r.code != exitAway || !strings.Contains(r.stderr, "300ms") {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
