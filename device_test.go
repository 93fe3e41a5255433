package session_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
)

// A deviceWorld is a manager that binds sessions to devices, with a clock that the test moves, and what it tells.
type deviceWorld struct {
	t     testing.TB
	m     *session.Manager
	store *double.Store

	mu     sync.Mutex
	passed time.Duration
	events []string
	reused int // cookies that fell behind
}

// newDeviceWorld returns one. Options that are nil are the defaults; Device is set if it is not.
func newDeviceWorld(t *testing.T, store session.Store, opts *session.Options) *deviceWorld {
	t.Helper()
	w := &deviceWorld{t: t, store: double.New(store)}
	var o session.Options
	if opts != nil {
		o = *opts
	}
	if o.Device == nil {
		o.Device = new(session.DeviceBinding)
	}
	o.Observer, o.Logger = w.observe, quiet
	w.m = newManager(t, w.store, &o)
	w.m.SetClock(w.now)
	return w
}

func (w *deviceWorld) observe(_ context.Context, e session.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Kind == session.EventReused {
		w.reused++
	}
	if strings.HasPrefix(string(e.Kind), "device_") {
		w.events = append(w.events, strings.TrimSuffix(strings.TrimPrefix(string(e.Kind), "device_")+" "+string(e.Reason), " "))
	}
}

func (w *deviceWorld) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.passed)
}

// pass lets time go by.
func (w *deviceWorld) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passed += d
}

// told checks which events there were since it was last asked.
func (w *deviceWorld) told(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.events, want) {
		w.t.Errorf("the events are %q, want %q", w.events, want)
	}
	w.events = nil
}

// A deviceBrowser is one that has a key for the session, or can have one.
type deviceBrowser struct {
	*deviceWorld
	jar        map[string]string
	offer      string // of the last response that had one
	key        *ecdsa.PrivateKey
	body       io.Reader // of its own requests, whose bodies are empty; nil for that
	identifier string    // of the key
	endpoint   string
	said       instructions
}

// instructions are the JSON that a browser is told.
type instructions struct {
	Identifier string `json:"session_identifier"`
	Continue   *bool  `json:"continue"`
	RefreshURL string `json:"refresh_url"`
	Scope      struct {
		Origin        string
		IncludeSite   *bool                                 `json:"include_site"`
		Specification []struct{ Type, Domain, Path string } `json:"scope_specification"`
	}
	Credentials []struct{ Type, Name, Attributes string }
	Initiators  []string `json:"allowed_refresh_initiators"`
}

func (w *deviceWorld) browser() *deviceBrowser {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return &deviceBrowser{deviceWorld: w, jar: make(map[string]string), key: key}
}

// thief returns a client with a copy of the browser's cookies, and no key.
func (b *deviceBrowser) thief() *deviceBrowser {
	t := *b
	t.jar, t.key = maps.Clone(b.jar), nil
	return &t
}

// send sends a request with the browser's cookies and more headers, which come in pairs.
func (b *deviceBrowser) send(method, target string, h http.HandlerFunc, header ...string) *http.Response {
	b.t.Helper()
	r := httptest.NewRequest(method, target, b.body)
	for name, value := range b.jar {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	b.m.Handler(h).ServeHTTP(rec, r)
	res := rec.Result()
	for _, c := range res.Cookies() {
		if b.jar[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.jar, c.Name)
		}
	}
	if offer := res.Header.Get("Secure-Session-Registration"); offer != "" {
		b.offer = offer
	}
	return res
}

// visit sends a request whose handler is fn.
func (b *deviceBrowser) visit(fn func(*session.Session), header ...string) *http.Response {
	b.t.Helper()
	return b.send("GET", "/", func(_ http.ResponseWriter, r *http.Request) { fn(session.FromContext(r.Context())) }, header...)
}

// sees reports whose session the browser has, and what is known of the device.
func (b *deviceBrowser) sees() (user string, d session.Device) {
	b.t.Helper()
	b.visit(func(s *session.Session) { user, d = s.User(), s.Device() })
	return user, d
}

// shows checks whose session the browser has.
func (b *deviceBrowser) shows(user string) {
	b.t.Helper()
	if got, d := b.sees(); got != user {
		b.t.Errorf("the browser has the session of %q, want %q; %+v", got, user, d)
	}
}

// login logs in, without what the browser does then by itself.
func (b *deviceBrowser) login(user string) {
	b.t.Helper()
	if res := b.visit(func(s *session.Session) { s.SetUser(user) }); res.StatusCode != http.StatusOK {
		b.t.Errorf("the login is answered %s", res.Status)
	}
}

var offerForm = regexp.MustCompile(`^\(ES256 RS256\);path="([^"]+)";challenge="([^"]+)"$`)

// offered returns the path and the challenge of the last offer.
func (b *deviceBrowser) offered() (path, challenge string) {
	b.t.Helper()
	parts := offerForm.FindStringSubmatch(b.offer)
	if parts == nil {
		b.t.Fatalf("the offer is %q", b.offer)
	}
	return parts[1], parts[2]
}

// nowhere is a handler that nothing may reach.
func (b *deviceBrowser) nowhere(_ http.ResponseWriter, r *http.Request) {
	b.t.Errorf("%s %s has reached the handler", r.Method, r.URL.Path)
}

// post sends one of the browser's own requests, and reads what it is told.
func (b *deviceBrowser) post(path string, header ...string) *http.Response {
	b.t.Helper()
	res := b.send("POST", path, b.nowhere, header...)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.said = instructions{}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &b.said); err != nil {
			b.t.Fatalf("%v in %s", err, body)
		}
	}
	if cc := res.Header.Get("Cache-Control"); cc != "no-store" {
		b.t.Errorf("%s may be stored: %q", path, cc)
	}
	return res
}

func jsonPart(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// jwt returns a proof by the key. jwk says whether the key is in it.
func jwt(key *ecdsa.PrivateKey, challenge string, jwk bool) string {
	header := `{"alg":"ES256","typ":"dbsc+jwt"}`
	if jwk {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		header = fmt.Sprintf(`{"alg":"ES256","jwk":{"crv":"P-256","kty":"EC","x":"%s","y":"%s"},"typ":"dbsc+jwt"}`,
			jsonPart(string(point[1:33])), jsonPart(string(point[33:])))
	}
	signed := jsonPart(header) + "." + jsonPart(`{"jti":"`+challenge+`"}`)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + jsonPart(string(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)))
}

// register answers the last offer.
func (b *deviceBrowser) register() *http.Response {
	b.t.Helper()
	path, challenge := b.offered()
	res := b.post(path, "Secure-Session-Response", jwt(b.key, challenge, true))
	if res.StatusCode == http.StatusOK {
		b.identifier, b.endpoint = b.said.Identifier, b.said.RefreshURL
	}
	return res
}

// bind logs in, registers, and shows the browser's key.
func (b *deviceBrowser) bind(user string) {
	b.t.Helper()
	b.login(user)
	wantStatus(b.t.(*testing.T), b.register(), http.StatusOK)
	if _, d := b.sees(); d.Proven.IsZero() {
		b.t.Fatalf("the session is not bound: %+v", d)
	}
	b.deviceWorld.told("offered", "registered", "bound")
}

var challengeForm = regexp.MustCompile(`^"([^"]+)";id="([^"]+)"$`)

// challenge asks for another cookie, and returns the challenge, empty if there is none.
func (b *deviceBrowser) challenge() (*http.Response, string) {
	b.t.Helper()
	res := b.post(b.endpoint, "Sec-Secure-Session-Id", b.identifier)
	parts := challengeForm.FindStringSubmatch(res.Header.Get("Secure-Session-Challenge"))
	if parts == nil {
		return res, ""
	}
	if parts[2] != b.identifier {
		b.t.Errorf("the challenge is for %q", parts[2])
	}
	return res, parts[1]
}

// answer proves possession of the browser's key.
func (b *deviceBrowser) answer(challenge string) *http.Response {
	b.t.Helper()
	return b.post(b.endpoint, "Sec-Secure-Session-Id", b.identifier, "Secure-Session-Response", jwt(b.key, challenge, false))
}

// refresh gets the browser another cookie.
func (b *deviceBrowser) refresh() *http.Response {
	b.t.Helper()
	res, challenge := b.challenge()
	if challenge == "" {
		return res
	}
	wantStatus(b.t.(*testing.T), res, http.StatusForbidden)
	return b.answer(challenge)
}

// ended checks that the browser is told that its key is worth nothing.
func (b *deviceBrowser) ended(res *http.Response) {
	b.t.Helper()
	wantStatus(b.t.(*testing.T), res, http.StatusOK)
	if b.said.Continue == nil || *b.said.Continue || b.said.Identifier != b.identifier {
		b.t.Errorf("the browser is told %+v", b.said)
	}
}

const deviceCookie = "session_id-device"

// onStores runs a test in memory and on a server.
func onStores(t *testing.T, test func(t *testing.T, store session.Store)) {
	for _, name := range []string{"memory", "redis"} {
		t.Run(name, func(t *testing.T) {
			kind, ok := storetest.Named(name)
			if !ok {
				t.Fatalf("there is no store %q", name)
			}
			test(t, kind.New(t))
		})
	}
}

// A browser with a key is bound once it has shown that; from then on a copy of its cookies is worth as much as the proof in
// it, and the browser goes on.
func TestDeviceBinding(t *testing.T) {
	onStores(t, func(t *testing.T, store session.Store) {
		w := newDeviceWorld(t, store, nil)
		b := w.browser()
		b.visit(func(s *session.Session) { s.Set("k", 1) })
		if b.offer != "" {
			t.Fatalf("nobody has logged in, and the offer is %q", b.offer)
		}
		b.login("ann")
		w.told("offered")
		if _, d := b.sees(); d != (session.Device{}) {
			t.Errorf("nothing is bound, and the device is %+v", d)
		}
		early := b.thief()
		wantStatus(t, b.register(), http.StatusOK)
		w.told("registered")
		if b.said.RefreshURL != "/.session/device/session_id" || b.said.Scope.IncludeSite == nil || *b.said.Scope.IncludeSite ||
			len(b.said.Credentials) != 1 || b.said.Credentials[0].Name != deviceCookie || !slices.Equal(b.said.Initiators, []string{"*"}) {
			t.Errorf("the browser is told %+v", b.said)
		}
		early.shows("ann") // until the key was shown, nothing is bound
		var id session.ID
		early.visit(func(s *session.Session) { id = s.ID() })
		// An operator's manager binds nothing, and sees it all the same.
		inspected := func() time.Time {
			t.Helper()
			info, err := newManager(t, store, nil).Inspect(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return info.Bound
		}
		if at := inspected(); !at.IsZero() {
			t.Errorf("it is bound since %v", at)
		}
		_, first := b.sees() // which binds it
		_, d := b.sees()
		if first.Bound.IsZero() || !first.Proven.Equal(d.Proven) {
			t.Errorf("as it is bound, the device is %+v, and then %+v", first, d)
		}
		if at := inspected(); !at.Equal(d.Bound) || at.IsZero() {
			t.Errorf("it is bound since %v, its record says %v", d.Bound, at)
		}
		if d.Proven.IsZero() || d.Bound.IsZero() || d.Locked {
			t.Errorf("the device is %+v", d)
		}
		w.told("bound")
		early.shows("ann") // it may have been sent before

		w.pass(2 * time.Minute)
		user, d := early.sees()
		if user != "" || !d.Locked || !d.Proven.IsZero() {
			t.Errorf("without a proof: %q, %+v", user, d)
		}
		w.told("locked unproven")
		late := b.thief()
		late.shows("ann")
		w.pass(10 * time.Minute)
		b.visit(func(s *session.Session) {}) // nobody asks for the session
		w.told()
		late.shows("")
		w.told("locked expired")
		for range 3 {
			delete(b.jar, deviceCookie)
			wantStatus(t, b.refresh(), http.StatusOK)
			b.shows("ann")
			w.told("refreshed")
			w.pass(9 * time.Minute)
			copied := b.thief()
			delete(copied.jar, deviceCookie)
			copied.shows("")
			w.told("locked unproven")
		}
	})
}

// Two keys that are registered at once, a key after the session is bound, and what comes without the challenge of the login.
func TestDeviceRegistration(t *testing.T) {
	onStores(t, func(t *testing.T, store session.Store) {
		w := newDeviceWorld(t, store, nil)
		b, other := w.browser(), w.browser()
		b.login("ann")
		path, challenge := b.offered()
		refused := func(name, proof string, why session.Reason) {
			t.Helper()
			res := other.post(path, "Secure-Session-Response", proof)
			if res.StatusCode != http.StatusForbidden || len(res.Header["Set-Cookie"]) > 0 {
				t.Errorf("%s: %s, %q", name, res.Status, res.Header["Set-Cookie"])
			}
			w.told("refused " + string(why))
		}
		w.told("offered")
		thief := b.thief()
		thief.key = other.key
		other.jar = maps.Clone(b.jar)
		refused("no proof", "", session.ReasonMalformed)
		refused("a megabyte", strings.Repeat("x", 1<<20), session.ReasonMalformed)
		refused("a proof without a key", jwt(other.key, challenge, false), session.ReasonMalformed)
		refused("a challenge of the thief's", jwt(other.key, strings.Repeat("A", len(challenge)), true), session.ReasonBadSignature)
		refused("no challenge", jwt(other.key, "x", true), session.ReasonBadSignature)
		refused("the session's cookie for a challenge", jwt(other.key, b.jar["session_id"], true), session.ReasonBadSignature)
		signed := strings.Split(jwt(other.key, challenge, true), ".")
		refused("another's signature", signed[0]+"."+signed[1]+"."+strings.Split(jwt(b.key, challenge, true), ".")[2], session.ReasonBadSignature)

		// Two at once: both get a cookie, and the one that is shown first counts.
		wantStatus(t, b.register(), http.StatusOK)
		other.offer = b.offer
		wantStatus(t, other.register(), http.StatusOK)
		w.told("registered", "registered")
		other.jar["session_id"] = b.jar["session_id"]
		b.shows("ann")
		w.told("bound")
		w.pass(2 * time.Minute)
		other.shows("")
		w.told("locked replaced")
		if _, ok := other.jar[deviceCookie]; ok {
			t.Error("the browser keeps a cookie for which it asks for no other")
		}
		_, c := other.challenge()
		other.ended(other.answer(c))
		w.told("refused replaced")
		b.shows("ann")
		w.told()

		refused("too late", jwt(other.key, challenge, true), session.ReasonExpired)
	})
}

// A refresh takes a challenge and one Load, and nothing is written; the headers may be quoted.
func TestDeviceRefresh(t *testing.T) {
	onStores(t, func(t *testing.T, store session.Store) {
		w := newDeviceWorld(t, store, nil)
		b := w.browser()
		b.bind("ann")
		b.store.Calls()
		line := setCookie(t, b.refresh().Header, deviceCookie)
		if calls := b.store.Calls(); calls != [4]int{1, 0, 0, 0} {
			t.Errorf("a refresh takes %v calls of load, save, touch and delete", calls)
		}
		attributes := b.said.Credentials[0].Attributes
		if attributes != "Path=/; HttpOnly; Secure; SameSite=Lax" || regexp.MustCompile(`(Expires|Max-Age)=[^;]*; `).ReplaceAllString(line, "") !=
			deviceCookie+"="+b.jar[deviceCookie]+"; "+attributes || !strings.Contains(line, "Max-Age=600") {
			t.Errorf("the cookie is %q, its attributes %q", line, attributes)
		}
		w.told("refreshed")
		b.store.Calls()
		_, c := b.challenge()
		if calls := b.store.Calls(); c == "" || calls != [4]int{} {
			t.Errorf("a challenge takes %v calls", calls)
		}
		res := b.post(b.endpoint, "Sec-Secure-Session-Id", `"`+b.identifier+`"`, "Secure-Session-Response", `"`+jwt(b.key, c, false)+`"`)
		wantStatus(t, res, http.StatusOK)
		w.told("refreshed")
	})
}

// Anything but an answer to a challenge gets another one, for as long as the session lives.
func TestDeviceChallenge(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b, other := w.browser(), w.browser()
	b.bind("ann")
	other.bind("bob")
	_, challengeOfLogin := b.offered()
	_, old := b.challenge()
	w.pass(2*time.Minute + time.Millisecond)
	_, ofOther := other.challenge()
	_, fresh := b.challenge()
	stolen := jwt(b.key, fresh, false)
	for name, proof := range map[string]string{
		"old":                jwt(b.key, old, false),
		"of another session": jwt(b.key, ofOther, false),
		"of the login":       jwt(b.key, challengeOfLogin, false),
		"a cookie":           jwt(b.key, b.jar[deviceCookie], false),
		"another key":        jwt(other.key, fresh, false),
		"another key, shown": jwt(other.key, fresh, true),
		"cut":                stolen[:len(stolen)-1],
		"no JWT":             "x",
		"two":                stolen + "." + stolen,
		"a megabyte":         strings.Repeat(stolen, 1<<20/len(stolen)),
	} {
		res := b.post(b.endpoint, "Sec-Secure-Session-Id", b.identifier, "Secure-Session-Response", proof)
		if res.StatusCode != http.StatusForbidden || !challengeForm.MatchString(res.Header.Get("Secure-Session-Challenge")) || len(res.Header["Set-Cookie"]) > 0 {
			t.Errorf("%s: %s with %v", name, res.Status, res.Header)
		}
	}
	w.told()
	w.pass(time.Minute) // within which processes' clocks may differ
	b.body = unread{t}
	wantStatus(t, b.answer(fresh), http.StatusOK)
	w.pass(time.Minute)
	if res := b.post(b.endpoint, "Sec-Secure-Session-Id", b.identifier, "Secure-Session-Response", stolen); res.StatusCode != http.StatusForbidden {
		t.Errorf("a proof from before is replayed: %s", res.Status)
	}
}

// unread is a body, of whatever length, that nobody is to read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of a browser's request is read")
	return 0, io.EOF
}

// Whatever is wrong: what the browser takes for the end of its key it gets only where the session has ended, or is another
// key's; and where nobody knows, it gets its cookie.
func TestDeviceAnswers(t *testing.T) {
	const goesOn, challenged, ends, unavailable = "goes on", "challenged", "ends", "unavailable"
	answer := func(b *deviceBrowser, res *http.Response) string {
		cookie := setCookie(t, res.Header, deviceCookie)
		switch {
		case res.StatusCode == http.StatusOK && b.said.Continue == nil && cookie != "":
			return goesOn
		case res.StatusCode == http.StatusOK && b.said.Continue != nil && !*b.said.Continue && cookie == "":
			return ends
		case res.StatusCode == http.StatusForbidden && challengeForm.MatchString(res.Header.Get("Secure-Session-Challenge")) && cookie == "":
			return challenged
		case res.StatusCode >= 500 && cookie == "":
			return unavailable
		}
		return fmt.Sprint(res.Status, " ", res.Header)
	}
	for _, test := range []struct {
		name  string
		fault func(b *deviceBrowser)
		want  string
	}{
		{"none", func(*deviceBrowser) {}, goesOn},
		{"no session cookie", func(b *deviceBrowser) { delete(b.jar, "session_id") }, goesOn},
		{"no cookie at all", func(b *deviceBrowser) { clear(b.jar) }, goesOn},
		{"a bad cookie", func(b *deviceBrowser) { b.jar[deviceCookie] = "x" }, goesOn},
		{"a forged session cookie", func(b *deviceBrowser) { b.jar["session_id"] = strings.Repeat("A", 91) }, goesOn},
		{"renewed", func(b *deviceBrowser) { b.pass(5 * time.Minute); b.shows("ann") }, goesOn},
		{"regenerated", func(b *deviceBrowser) { b.visit((*session.Session).Regenerate) }, goesOn},
		{"the same user again", func(b *deviceBrowser) { b.login("ann") }, goesOn},
		{"locked by a request", func(b *deviceBrowser) {
			b.visit(func(s *session.Session) {
				if err := s.Lock(t.Context()); err != nil {
					t.Error(err)
				}
				b.refresh()
			})
		}, goesOn},
		{"the store is down", func(b *deviceBrowser) { b.store.Hook(double.Fail(errDown)) }, goesOn},
		{"the store loads nothing", func(b *deviceBrowser) { b.store.Hook(double.Fail(errDown, double.Load)) }, goesOn},
		{"the store saves nothing", func(b *deviceBrowser) { b.store.Hook(double.Fail(errDown, double.Save)) }, goesOn},
		{"the store's time is up", func(b *deviceBrowser) { b.store.Hook(double.Fail(context.DeadlineExceeded)) }, goesOn},
		{"the store is down, and no proof", func(b *deviceBrowser) { b.store.Hook(double.Fail(errDown)); b.key = b.browser().key }, challenged},
		{"another key", func(b *deviceBrowser) { b.key = b.browser().key }, challenged},
		{"logged out", func(b *deviceBrowser) { b.visit((*session.Session).Destroy) }, ends},
		{"emptied", func(b *deviceBrowser) { b.visit(func(s *session.Session) { s.Clear(); s.SetUser("") }) }, ends},
		{"nobody", func(b *deviceBrowser) { b.visit(func(s *session.Session) { s.SetUser(""); s.Set("k", 1) }) }, ends},
		{"another user", func(b *deviceBrowser) { b.login("bob") }, ends},
		{"logged out, and in again", func(b *deviceBrowser) { b.visit((*session.Session).Destroy); b.login("ann") }, ends},
		{"logged out in another tab", func(b *deviceBrowser) {
			tab := b.thief()
			tab.visit((*session.Session).Destroy)
		}, ends},
		{"ended from elsewhere", func(b *deviceBrowser) {
			if _, err := b.m.EndSessions(t.Context(), session.OfUser("ann")); err != nil {
				t.Error(err)
			}
		}, ends},
		{"expired", func(b *deviceBrowser) {
			id, _ := b.ids()
			if err := b.store.Delete(t.Context(), id); err != nil {
				t.Error(err)
			}
		}, ends},
		{"damaged", func(b *deviceBrowser) {
			id, _ := b.ids()
			rec, err := b.store.Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			rec.Data = rec.Data[1:]
			if err := b.store.Save(t.Context(), id, rec); err != nil {
				t.Error(err)
			}
		}, ends},
		{"the browser has another session", func(b *deviceBrowser) {
			other := b.browser()
			other.login("ann")
			b.jar = other.jar
		}, ends},
		{"the browser has another session, the store is down", func(b *deviceBrowser) {
			other := b.browser()
			other.login("ann")
			b.jar = other.jar
			b.store.Hook(double.Fail(errDown))
		}, ends},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newDeviceWorld(t, session.NewMemoryStore(), nil)
			b := w.browser()
			b.bind("ann")
			test.fault(b)
			if got := answer(b, b.refresh()); got != test.want {
				t.Errorf("it %s, want %s", got, test.want)
			}
		})
	}
	// Whatever the method, the path and the identifier.
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.bind("ann")
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		res := b.send(method, b.endpoint, b.nowhere, "Sec-Secure-Session-Id", b.identifier)
		if got := answer(b, res); got != unavailable {
			t.Errorf("%s %s", method, got)
		}
		if res := b.send(method, b.endpoint, b.nowhere); res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
			t.Errorf("%s, which no browser sends: %s", method, res.Status)
		}
	}
	for _, path := range []string{"/elsewhere", "/.session/device/another", "/"} {
		b.endpoint = path
		if got := answer(b, b.refresh()); got != goesOn {
			t.Errorf("at %s it %s", path, got)
		}
	}
	b.endpoint = "/.session/device/session_id"
	for _, identifier := range []string{"x", b.identifier[:len(b.identifier)-1], b.identifier + "A", strings.Repeat("A", 1<<20), `"\"`, "é"} {
		b.identifier = identifier
		res, _ := b.challenge()
		if got := answer(b, res); got != ends {
			t.Errorf("an identifier that nobody here gave: it %s", got)
		}
	}
}

// ids returns the ID of the browser's session, and of its user's list.
func (b *deviceBrowser) ids() (id, index session.ID) {
	b.t.Helper()
	var user string
	b.visit(func(s *session.Session) { id, user = s.ID(), s.User() })
	return id, b.m.IndexID(session.OfUser(user))
}

// A thief with a copy of the cookies, and no key, cannot do anything to the session, nor to the owner.
func TestDeviceLocked(t *testing.T) {
	for name, use := range map[string]func(*session.Session){
		"read":       func(s *session.Session) { s.Has("k") },
		"destroy":    func(s *session.Session) { s.Destroy() },
		"regenerate": func(s *session.Session) { s.Regenerate() },
		"clear":      func(s *session.Session) { s.Clear() },
		"force":      func(s *session.Session) { s.ForceSave() },
		"lock": func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"reload": func(s *session.Session) {
			if err := s.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"nobody":   func(s *session.Session) { s.SetUser("") },
		"set":      func(s *session.Session) { s.Set("k", 2) },
		"login":    func(s *session.Session) { s.SetUser("mallory") },
		"remember": func(s *session.Session) { s.Remember(time.Hour) },
	} {
		for _, locking := range []bool{false, true} {
			w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{Locking: locking, MaxSessionsPerUser: 1})
			b := w.browser()
			b.visit(func(s *session.Session) { s.Set("k", 1) })
			b.bind("ann")
			w.pass(5 * time.Minute) // a renewal is due
			thief := b.thief()
			delete(thief.jar, deviceCookie)
			before := thief.jar["session_id"]
			id, index := session.ID{}, b.m.IndexID(session.OfUser("ann"))
			b.store.Calls()
			res := thief.visit(func(s *session.Session) {
				if s.User() != "" || s.Has("k") || s.ID() != id || !s.IsNew() || s.WasUnknown() || !s.Device().Locked || len(s.Keys()) > 0 {
					t.Errorf("%s: the thief has %v, %+v", name, s, s.Device())
				}
				use(s)
			})
			wantStatus(t, res, http.StatusOK)
			begins := name == "set" || name == "login"
			if line := setCookie(t, res.Header, "session_id"); (line != "") != begins || begins && thief.jar["session_id"] == before {
				t.Errorf("%s: the thief's cookie is %q", name, line)
			}
			if calls := b.store.Calls(); !begins && calls != [4]int{1, 0, 0, 0} {
				t.Errorf("%s: %v calls", name, calls)
			}
			w.mu.Lock()
			w.events = slices.DeleteFunc(w.events, func(e string) bool { return e == "offered" })
			w.mu.Unlock()
			w.told("locked unproven")
			b.visit(func(s *session.Session) {
				if v, _ := s.Get("k"); v != int64(1) || s.User() != "ann" || s.Device().Proven.IsZero() {
					t.Errorf("%s: the owner has %v", name, s)
				}
			})
			if rec, err := b.store.Load(t.Context(), index); err != nil {
				t.Errorf("%s: %v, %v", name, rec, err)
			}
		}
	}
}

// A copy of a cookie that fell behind ends no bound session, by logout or by being shown, unless a proof comes with it. Then it
// counts, as the owner's may have fallen behind a thief's; or it ends the session for both, if Options say so.
func TestDeviceReused(t *testing.T) {
	for _, test := range []struct{ endOnReuse, proven, counts, lives bool }{
		{false, false, false, true},
		{true, false, false, true},
		{false, true, true, true},
		{true, true, false, false},
	} {
		w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{EndOnReuse: test.endOnReuse})
		b := w.browser()
		b.visit(func(s *session.Session) { s.Set("k", 1) })
		b.bind("ann")
		behind := b.thief()
		for range 2 { // a renewal, and its confirmation
			w.pass(5 * time.Minute)
			b.refresh()
			b.visit(func(s *session.Session) { s.Set("k", 1) })
		}
		w.pass(2 * time.Minute)
		if delete(behind.jar, deviceCookie); test.proven {
			behind.jar[deviceCookie] = b.jar[deviceCookie]
		}
		w.reused = 0
		behind.visit(func(s *session.Session) {
			if counts := s.User() == "ann"; counts != test.counts || s.WasUnknown() == counts {
				t.Errorf("%+v: a cookie that fell behind leads to %v", test, s)
			}
			s.Get("k")
		})
		if w.reused != 1 {
			t.Errorf("%+v: %d events", test, w.reused)
		}
		if current := behind.jar["session_id"] == b.jar["session_id"]; current != test.counts {
			t.Errorf("%+v: the cookie is the current one: %v", test, current)
		}
		b.visit(func(s *session.Session) {
			if lives := s.User() == "ann"; lives != test.lives {
				t.Errorf("%+v: the session lives: %v", test, lives)
			}
		})
		if test.counts {
			continue
		}
		held := maps.Clone(behind.jar)
		behind.visit(func(s *session.Session) { s.Destroy() })
		b.visit(func(s *session.Session) {
			if lives := s.User() == "ann"; lives != test.lives {
				t.Errorf("%+v: after a logout the session lives: %v", test, lives)
			}
		})
		// Nothing is bound any more where Options.Device has been taken back.
		m := newManager(t, w.store, &session.Options{Logger: quiet})
		m.SetClock(w.now)
		unbound := &deviceWorld{t: t, m: m, store: w.store}
		(&deviceBrowser{deviceWorld: unbound, jar: held}).visit(func(s *session.Session) { s.Destroy() })
		b.visit(func(s *session.Session) {
			if s.User() == "ann" {
				t.Errorf("%+v: after a logout without devices the session lives", test)
			}
		})
	}
}

// overtaken has a thief with a copy renew the session's cookie while the stolen proof counts: the owner's falls behind.
func (b *deviceBrowser) overtaken() (thief *deviceBrowser) {
	thief = b.thief()
	for range 2 { // a renewal, and its confirmation
		b.pass(4*time.Minute + time.Second)
		thief.visit(func(s *session.Session) { s.Set("k", 2) })
	}
	b.pass(2 * time.Minute)
	return thief
}

// An owner whose cookie fell behind a thief's, and who comes without a proof that counts, is asked for one before anything takes the
// cookie's place.
func TestDeviceBehindWithoutProof(t *testing.T) {
	for name, header := range map[string][]string{
		"link":    {"Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site"},
		"skipped": {"Secure-Session-Skipped", "server_error"},
		"late":    nil,
	} {
		for i := range 4 {
			endOnReuse, logout := i%2 == 1, i > 1
			w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{EndOnReuse: endOnReuse})
			b := w.browser()
			b.bind("ann")
			thief := b.overtaken()
			w.pass(2 * time.Minute) // the last proof has run out
			if name != "late" {
				delete(b.jar, deviceCookie)
			}
			before, status := b.jar["session_id"], http.StatusServiceUnavailable
			if name == "link" {
				status = http.StatusUnauthorized
			}
			wantStatus(t, b.visit(func(s *session.Session) {
				if s.Set("form", 1); logout {
					s.Destroy()
				}
			}, header...), status)
			if b.jar["session_id"] != before {
				t.Errorf("%s: the owner's cookie is replaced", name)
			}
			b.refresh()
			if user, _ := b.sees(); (user == "ann") == endOnReuse {
				t.Errorf("%s, EndOnReuse %v: with a proof the user is %q", name, endOnReuse, user)
			}
			thief.shows("")
		}
	}
}

// An owner whose cookie fell behind, and who comes with a proof, has the present one with the next response.
func TestDeviceBehindCatchesUp(t *testing.T) {
	for name, use := range map[string]func(*session.Session){
		"read":   func(s *session.Session) { s.Get("k") },
		"change": func(s *session.Session) { s.Set("k", time.Now().UnixNano()) },
	} {
		for _, locking := range []bool{false, true} {
			w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{Locking: locking})
			b := w.browser()
			b.bind("ann")
			thief := b.overtaken()
			thief.visit(func(s *session.Session) { s.Set("k", 3) }) // just used: no touch is due
			wantStatus(t, b.refresh(), http.StatusOK)
			w.reused = 0
			for range 3 {
				b.visit(use)
			}
			if b.jar["session_id"] != thief.jar["session_id"] || w.reused > 2 {
				t.Errorf("%s, locking %v: after 3 requests the cookie is the present one: %v; EventReused %d times", name, locking,
					b.jar["session_id"] == thief.jar["session_id"], w.reused)
			}
		}
	}
}

// A cookie behind the owner's, which a sibling domain has planted, is not taken in its place while the browser is to come again.
func TestDevicePlantedBehindLocked(t *testing.T) {
	for name, live := range map[string]bool{"a live session": true, "one that has just ended": false} {
		for _, ownFirst := range []bool{true, false} {
			if live && !ownFirst {
				continue // the first that leads to a session counts
			}
			w := newDeviceWorld(t, session.NewMemoryStore(), nil)
			b, evil := w.browser(), w.browser()
			b.bind("ann")
			w.pass(12 * time.Minute)
			evil.login("evil")
			cookies := []string{"session_id=" + b.jar["session_id"], "session_id=" + evil.jar["session_id"]}
			if !live {
				evil.visit((*session.Session).Destroy)
				w.pass(10 * time.Second)
			}
			if !ownFirst {
				slices.Reverse(cookies)
			}
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Cookie", strings.Join(cookies, "; "))
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Dest", "document")
			rec := httptest.NewRecorder()
			handle(w.m, func(s *session.Session) {
				if s.Set("form", 1); s.User() != "" {
					t.Errorf("%s: the owner works in the session of %q", name, s.User())
				}
			}).ServeHTTP(rec, r)
			wantStatus(t, rec.Result(), http.StatusUnauthorized)
			if line := setCookie(t, rec.Result().Header, "session_id"); line != "" {
				t.Errorf("%s: the owner's cookie is replaced by %s", name, line)
			}
		}
	}
}

// A proof of another key than the one that is bound goes at once, or the browser would ask for no other before it is too late.
func TestDeviceProofOfAnotherKey(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.login("ann")
	second := w.browser()
	second.offer, second.jar = b.offer, b.jar
	wantStatus(t, b.register(), http.StatusOK)
	tab := b.thief() // a request that is under way
	wantStatus(t, second.register(), http.StatusOK)
	tab.shows("ann")
	b.shows("ann")
	if b.jar[deviceCookie] != "" {
		t.Error("a proof that is worth nothing stays")
	}
	w.pass(2 * time.Minute)
	wantStatus(t, b.refresh(), http.StatusOK)
	b.shows("ann")
}

// Nobody is offered a key who is not logged in when the response leaves.
func TestDeviceOfferToNobody(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.visit(func(s *session.Session) {
		s.SetUser("ann")
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
		s.SetUser("")
		s.Set("k", 1)
	})
	if b.offer != "" {
		t.Errorf("nobody is logged in, and is offered %s", b.offer)
	}
}

// Cookies of other sessions, however many a sibling domain has planted, keep the browser's own from neither a key nor a proof.
func TestDevicePlantedCookies(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.bind("ann")
	var planted []string
	for range 20 {
		other := w.browser()
		other.visit(func(s *session.Session) { s.Set("k", 1) })
		planted = append(planted, "session_id="+other.jar["session_id"])
	}
	w.pass(9 * time.Minute)
	own := "session_id=" + b.jar["session_id"]
	_, challenge := b.challenge()
	r := httptest.NewRequest(http.MethodPost, b.endpoint, nil)
	r.Header.Set("Cookie", strings.Join(append(planted, own), "; "))
	r.Header.Set("Sec-Secure-Session-Id", b.identifier)
	r.Header.Set("Secure-Session-Response", jwt(b.key, challenge, false))
	rec := httptest.NewRecorder()
	b.m.Handler(http.NotFoundHandler()).ServeHTTP(rec, r)
	if line := setCookie(t, rec.Result().Header, deviceCookie); rec.Code != http.StatusOK || line == "" {
		t.Errorf("%d %s, with the cookie %q", rec.Code, rec.Body, line)
	}
}

// A browser that has the key and shows no proof is not taken for somebody who is logged out.
func TestDeviceUnproven(t *testing.T) {
	skipped := []string{"Secure-Session-Skipped", `server_error;session_identifier="own"`}
	others := []string{"Secure-Session-Skipped", `unreachable;session_identifier="x", server_error;session_identifier="other"`}
	elsewhere := []string{"Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site"}
	here := []string{"Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "same-origin"}
	read := func(s *session.Session) { s.Has("k") }
	for _, test := range []struct {
		name   string
		cookie string // that it shows for a proof
		header []string
		use    func(*session.Session)
		status int
	}{
		{"the key is lost", "", nil, read, 200},
		{"the key is lost, a change", "", nil, func(s *session.Session) { s.Set("k", 2) }, 200},
		{"the key is lost, a page", "", here, read, 200},
		{"it could not refresh", "", skipped, read, 503},
		{"it could not refresh, a change", "", skipped, func(s *session.Session) { s.Set("k", 2) }, 503},
		{"it could not refresh, logout", "", skipped, func(s *session.Session) { s.Destroy() }, 503},
		{"it could not refresh, login", "", skipped, func(s *session.Session) { s.SetUser("ann") }, 200},
		{"it could not refresh, nor others", "", []string{"Secure-Session-Skipped", others[1] + `, unreachable;session_identifier="own"`}, read, 503},
		{"it could not refresh, and names no key", "", []string{"Secure-Session-Skipped", "quota_exceeded"}, read, 503},
		{"it could not refresh more than one looks at", "", []string{"Secure-Session-Skipped", strings.Repeat(others[1]+", ", 9) + others[1]}, read, 503},
		{"others could not refresh", "", others, func(s *session.Session) { s.Set("k", 2) }, 200},
		{"others could not refresh, a proof that ran out", "late", others, read, 503},
		{"from another site, it could not refresh", "", append(skipped, elsewhere...), read, 503},
		{"from another site, others could not refresh", "", append(others, elsewhere...), read, 503},
		{"a page from another site", "", elsewhere, read, 401},
		{"a page from another site, a change", "", elsewhere, func(s *session.Session) { s.Set("k", 2) }, 401},
		{"a page from another site, login", "", elsewhere, func(s *session.Session) { s.SetUser("ann") }, 200},
		{"an image on another site", "", []string{"Sec-Fetch-Dest", "image", "Sec-Fetch-Site", "cross-site"}, read, 200},
		{"a frame of another site", "other", []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}, read, 503},
		{"a proof that ran out", "late", nil, read, 503},
		{"a proof that ran out, a change", "late", nil, func(s *session.Session) { s.Set("k", 2) }, 503},
		{"a proof that ran out, a sibling's request", "late", []string{"Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-site"}, func(s *session.Session) { s.Set("k", 2) }, 503},
		{"a proof that ran out, a page from elsewhere", "late", elsewhere, read, 401},
		{"a proof that ran out, login", "late", nil, func(s *session.Session) { s.SetUser("ann") }, 200},
		{"another session's proof", "other", nil, read, 503},
		{"another session's proof, a page from here", "other", here, read, 503},
		{"another session's proof, a page from elsewhere", "other", elsewhere, read, 401},
		{"another session's proof, login", "other", here, func(s *session.Session) { s.SetUser("ann") }, 200},
		{"garbage for a proof", "garbage", nil, read, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newDeviceWorld(t, session.NewMemoryStore(), nil)
			b, other := w.browser(), w.browser()
			b.bind("ann")
			other.bind("ann")
			w.pass(12 * time.Minute)
			late := b.jar[deviceCookie]
			delete(b.jar, deviceCookie)
			switch test.cookie {
			case "late":
				b.jar[deviceCookie] = late
			case "other":
				b.jar[deviceCookie] = other.jar[deviceCookie]
			case "garbage":
				b.jar[deviceCookie] = "x"
			}
			before, header := b.jar["session_id"], slices.Clone(test.header)
			for i := range header {
				header[i] = strings.NewReplacer(`"own"`, `"`+b.identifier+`"`, `"other"`, `"`+other.identifier+`"`).Replace(header[i])
			}
			res := b.visit(test.use, header...)
			wantStatus(t, res, test.status)
			if test.status != http.StatusOK && (setCookie(t, res.Header, "session_id") != "" || b.jar["session_id"] != before || !strings.Contains(res.Header.Get("Cache-Control"), "no-store")) {
				t.Errorf("the header is %v", res.Header)
			}
			body := readBody(t, res)
			if again := strings.Contains(body, `http-equiv="refresh"`); again != (test.status == http.StatusUnauthorized) {
				t.Errorf("the page is %s", body)
			}
			if _, stays := b.jar[deviceCookie]; stays {
				t.Error("a cookie stays for which the browser asks for no other")
			}
			if test.status != http.StatusOK { // and comes again
				wantStatus(t, b.refresh(), http.StatusOK)
				b.shows("ann")
			}
		})
	}
}

// A page that loads itself again does so as the browser's own, whatever policy a middleware sets.
func TestDeviceReloadIsNotSandboxed(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.bind("ann")
	delete(b.jar, deviceCookie)
	w.pass(5 * time.Minute)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: "session_id", Value: b.jar["session_id"]})
	r.Header.Set("Sec-Fetch-Site", "none")
	r.Header.Set("Sec-Fetch-Dest", "document")
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Security-Policy", "sandbox")
	w.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Has("k") })).ServeHTTP(rec, r)
	if policy := rec.Header()["Content-Security-Policy"]; rec.Code != http.StatusUnauthorized || policy != nil {
		t.Errorf("%d, under %q", rec.Code, policy)
	}
}

// The cookie for which browsers prove possession moves with the session's to another path.
func TestDeviceFormerScope(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{
		Cookie: session.Cookie{Path: "/app", Former: []session.CookieScope{{Path: "/"}}},
	})
	b := w.browser()
	b.login("ann")
	lines := func(res *http.Response) (lines []string) {
		for _, c := range res.Cookies() {
			if c.Name == deviceCookie {
				lines = append(lines, fmt.Sprint(c.Path, " ", c.MaxAge >= 0))
			}
		}
		return lines
	}
	if got := lines(b.register()); !slices.Equal(got, []string{"/ false", "/app true"}) {
		t.Errorf("the cookies for the proof are %q", got)
	}
	b.shows("ann")
	b.jar[deviceCookie] = "x"
	w.pass(5 * time.Minute)
	if got := lines(b.visit(func(s *session.Session) { s.Has("k") })); !slices.Equal(got, []string{"/ false", "/app false"}) {
		t.Errorf("where it is worth nothing, the cookies are %q", got)
	}
}

// An answer to the registration that gets lost locks nobody out, and nor does a browser that never answers the offer.
func TestDeviceAnswerLost(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b, plain := w.browser(), w.browser()
	plain.login("bob")
	b.login("ann")
	lost := b.thief()
	lost.key = b.key
	wantStatus(t, lost.register(), http.StatusOK)
	for range 10 {
		w.pass(5 * time.Minute)
		b.shows("ann")
		plain.shows("bob")
	}
	w.told("offered", "offered", "registered")
	list, err := w.m.Sessions(t.Context(), session.OfUser("ann"))
	if err != nil || len(list) != 1 || !list[0].Bound.IsZero() {
		t.Errorf("the sessions are %+v, %v", list, err)
	}
}

// With encryption at rest, after a change of the secret, behind a cache, on a path and host of one's own, and with cookies of
// all kinds, a browser is bound and stays so.
func TestDeviceOptions(t *testing.T) {
	remembered := session.Cookie{Persistent: true}
	for _, test := range []struct {
		name     string
		opts     session.Options
		endpoint string
		cookie   string // attributes of the one that proves possession
	}{
		{"encrypted", session.Options{EncryptAtRest: true}, "/.session/device/session_id", "Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"locking", session.Options{Locking: true}, "/.session/device/session_id", "Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"persistent", session.Options{Cookie: remembered}, "/.session/device/session_id", "Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"__Host-", session.Options{Cookie: session.Cookie{Name: "__Host-id", SameSite: http.SameSiteStrictMode}},
			"/.session/device/__Host-id", "Path=/; HttpOnly; Secure; SameSite=Strict"},
		{"__Secure-", session.Options{Cookie: session.Cookie{Name: "__Secure-id", Path: "/app"}},
			"/app/.session/device/__Secure-id", "Path=/app; HttpOnly; Secure; SameSite=Lax"},
		{"embedded", session.Options{Cookie: session.Cookie{SameSite: http.SameSiteNoneMode}},
			"/.session/device/session_id", "Path=/; HttpOnly; Secure; SameSite=None"},
		{"a path", session.Options{Device: &session.DeviceBinding{Path: "/keys/"}}, "/keys/session_id", "Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"a domain", session.Options{Cookie: session.Cookie{Domain: ".example.com"}}, "/.session/device/session_id",
			"Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		{"an odd name", session.Options{Cookie: session.Cookie{Name: "a#%"}}, "/.session/device/612325", "Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"scripts", session.Options{Cookie: session.Cookie{InsecureScriptAccess: true}}, "/.session/device/session_id", "Path=/; Secure; SameSite=Lax"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newDeviceWorld(t, session.NewCacheStore(session.NewMemoryStore(), nil), &test.opts)
			b := w.browser()
			b.bind("ann")
			if b.endpoint != test.endpoint || b.said.Credentials[0].Attributes != test.cookie {
				t.Errorf("the endpoint is %q, the cookie %+v", b.endpoint, b.said.Credentials)
			}
			wantScope, wantSite := "", false
			if test.opts.Cookie.Domain != "" {
				wantScope, wantSite = "https://example.com", true
			}
			if s := b.said.Scope; s.Origin != wantScope || s.IncludeSite == nil || *s.IncludeSite != wantSite {
				t.Errorf("the scope is %+v", s)
			}
			w.pass(12 * time.Minute)
			b.shows("")
			w.told("locked expired")
			wantStatus(t, b.refresh(), http.StatusOK)
			b.shows("ann")
			w.told("refreshed")
			list, err := w.m.Sessions(t.Context(), session.OfUser("ann"))
			if err != nil || len(list) != 1 || w.now().Sub(list[0].Bound).Round(time.Minute) != 12*time.Minute {
				t.Errorf("the sessions are %+v, %v", list, err)
			}
		})
	}
}

// The browser is told what needs no proof.
func TestDeviceExclude(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{
		Device: &session.DeviceBinding{Exclude: []string{"/static/", "/robots.txt"}, Lifetime: 5*time.Minute + time.Millisecond},
	})
	b := w.browser()
	b.login("ann")
	res := b.register()
	if got := fmt.Sprint(b.said.Scope.Specification); got != "[{exclude * /static/} {exclude * /robots.txt}]" {
		t.Errorf("the rules are %s", got)
	}
	if line := setCookie(t, res.Header, deviceCookie); !strings.Contains(line, "Max-Age=300") {
		t.Errorf("the cookie is %q", line)
	}
}

// New names each mistake in the options.
func TestDeviceFaults(t *testing.T) {
	cached := session.NewCacheStore(session.NewMemoryStore(), &session.CacheOptions{MaxAge: 2 * time.Minute})
	if _, err := session.New(cached, secretOf('s'), &session.Options{Device: new(session.DeviceBinding)}); err == nil || !strings.Contains(err.Error(), "MaxAge of 2m0s") {
		t.Errorf("with a cache that is too old: %v", err)
	}
	newManager(t, cached, nil)
	for want, opts := range map[string]session.Options{
		"does not start with a slash":  {Device: &session.DeviceBinding{Path: "keys/"}},
		"not below that of the cookie": {Device: &session.DeviceBinding{Path: "/keys/"}, Cookie: session.Cookie{Path: "/app"}},
		"does not end with a slash":    {Device: &session.DeviceBinding{Path: "/keys"}},
		`"/a b/" does not start`:       {Device: &session.DeviceBinding{Exclude: []string{"/a b/"}}},
		`"/\"/" does not start`:        {Device: &session.DeviceBinding{Path: `/"/`}},
		`"static" does not start`:      {Device: &session.DeviceBinding{Exclude: []string{"static"}}},
		"Partitioned":                  {Device: &session.DeviceBinding{}, Cookie: session.Cookie{Partitioned: true}},
		"InsecureHTTP":                 {Device: &session.DeviceBinding{}, Cookie: session.Cookie{InsecureHTTP: true}},
		"Device.Lifetime":              {Device: &session.DeviceBinding{Lifetime: -1}},
	} {
		if _, err := session.New(session.NewMemoryStore(), secretOf('s'), &opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want a fault with %q, got %v", want, err)
		}
	}
}

// Proofs, challenges, offers and names of keys that the previous secret signed count, and without it none does.
func TestDeviceSecrets(t *testing.T) {
	store := session.NewMemoryStore()
	old := 0 // keys whose names the previous secret signed
	observe := func(_ context.Context, e session.Event) {
		if e.Kind == session.EventOldSecret && e.Reason == session.ReasonDevice {
			old++
		}
	}
	with := func(secret byte, previous ...[]byte) *session.Manager {
		m, err := session.New(store, secretOf(secret), &session.Options{Device: new(session.DeviceBinding), PreviousSecrets: previous, EncryptAtRest: encrypted, Logger: quiet, Observer: observe})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	former, latter := with('s', secretOf('n')), with('n', secretOf('s'))
	w := newDeviceWorld(t, store, nil)
	b := w.browser()
	w.m = former
	b.login("ann")
	w.m = latter
	wantStatus(t, b.register(), http.StatusOK)
	b.shows("ann")
	w.m = former
	b.shows("ann")
	_, challenge := b.challenge()
	w.m = latter
	wantStatus(t, b.answer(challenge), http.StatusOK)
	if old != 0 {
		t.Errorf("%d events of the previous secret, and the key has the name that the present one signed", old)
	}
	b.shows("ann")
	w.m = former
	wantStatus(t, b.refresh(), http.StatusOK)
	if old != 1 {
		t.Errorf("%d events of the previous secret, want 1", old)
	}
	w.m = with('z')
	res, challenge := b.challenge()
	if challenge != "" {
		t.Error("it is challenged for a name that no secret signed")
	}
	b.ended(res)
}

// A login of another user takes the place of the key, and of the same one leaves it.
func TestDeviceAnotherLogin(t *testing.T) {
	onStores(t, func(t *testing.T, store session.Store) {
		w := newDeviceWorld(t, store, nil)
		b := w.browser()
		b.bind("ann")
		former := b.identifier
		b.offer = ""
		b.login("ann")
		if b.offer != "" || b.jar[deviceCookie] == "" {
			t.Errorf("the same user again: the offer is %q, the cookies %v", b.offer, b.jar)
		}
		b.shows("ann")
		w.told()
		kept, straggler := b.jar[deviceCookie], b.thief()
		b.login("bob")
		straggler.shows("")
		if straggler.jar[deviceCookie] != kept {
			t.Error("an answer that comes late takes the proof, which is another login's by then")
		}
		if b.jar[deviceCookie] != "" {
			t.Error("the proof of the former login stays")
		}
		w.pass(2 * time.Minute)
		b.shows("bob") // without a key
		b.jar[deviceCookie] = kept
		b.shows("bob")
		delete(b.jar, deviceCookie)
		w.told("offered")
		w.pass(-2 * time.Minute)
		wantStatus(t, b.register(), http.StatusOK)
		b.shows("bob")
		w.told("registered", "bound")
		now := b.identifier
		b.identifier = former
		b.ended(b.refresh())
		b.identifier = now
		wantStatus(t, b.refresh(), http.StatusOK)
		w.told("refused replaced", "refreshed")
		b.shows("bob")

		b.visit(func(s *session.Session) { s.SetUser(""); s.Set("k", 1) })
		if b.jar[deviceCookie] != "" || b.jar["session_id"] == "" {
			t.Errorf("nobody is logged in: %v", b.jar)
		}
		w.pass(5 * time.Minute)
		b.shows("")
		w.told()
		b.ended(b.refresh())
	})
}

// A logout takes both cookies, and goes before a refresh that is under way.
func TestDeviceLogout(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.bind("ann")
	_, c := b.challenge()
	tab := b.thief()
	tab.key = b.key
	b.visit((*session.Session).Destroy)
	if len(b.jar) > 0 {
		t.Errorf("the cookies %v stay", b.jar)
	}
	tab.ended(tab.answer(c))
	b.ended(b.refresh())
	w.told("refused ended", "refused ended")
	b.bind("ann2")
	// With a message for the next page, which is a session.
	b.visit(func(s *session.Session) { s.Destroy(); s.Set("flash", "bye") })
	if len(b.jar) != 1 || b.jar["session_id"] == "" {
		t.Errorf("the cookies are %v", b.jar)
	}
	b.ended(b.refresh())
	path, challenge := b.offered()
	res := b.post(path, "Secure-Session-Response", jwt(b.key, challenge, true))
	wantStatus(t, res, http.StatusForbidden) // a registration after the logout
}

// A user who has lost the key logs in again, also where that is one session too many.
func TestDeviceLost(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: true})
	b := w.browser()
	b.bind("ann")
	w.pass(13 * time.Minute)
	delete(b.jar, deviceCookie)
	b.shows("")
	b.login("ann")
	b.shows("ann")
	w.told("locked unproven", "locked unproven", "offered")
	wantStatus(t, b.register(), http.StatusOK)
	b.shows("ann")
}

// Two managers around one handler answer each their own browser's requests.
func TestDeviceManagers(t *testing.T) {
	store := session.NewMemoryStore()
	outer := newDeviceWorld(t, store, &session.Options{Cookie: session.Cookie{Name: "outer"}})
	inner := newDeviceWorld(t, store, &session.Options{Cookie: session.Cookie{Name: "inner"}})
	send := func(b *deviceBrowser, method, path string, h http.HandlerFunc, header ...string) *http.Response {
		return b.send(method, path, func(w http.ResponseWriter, r *http.Request) { inner.m.Handler(h).ServeHTTP(w, r) }, header...)
	}
	b := outer.browser()
	res := send(b, "GET", "/", func(_ http.ResponseWriter, r *http.Request) {
		outer.m.FromContext(r.Context()).SetUser("ann")
		inner.m.FromContext(r.Context()).SetUser("bob")
	})
	offers := res.Header["Secure-Session-Registration"]
	if len(offers) != 2 {
		t.Fatalf("the offers are %q", offers)
	}
	for _, offer := range offers {
		b.offer = offer
		path, challenge := b.offered()
		res := send(b, "POST", path, b.nowhere, "Secure-Session-Response", jwt(b.key, challenge, true))
		wantStatus(t, res, http.StatusOK)
	}
	send(b, "GET", "/", func(_ http.ResponseWriter, r *http.Request) {
		for user, m := range map[string]*session.Manager{"ann": outer.m, "bob": inner.m} {
			if s := m.FromContext(r.Context()); s.User() != user || s.Device().Proven.IsZero() {
				t.Errorf("%s has %v, %+v", user, s, s.Device())
			}
		}
	})
	if len(b.jar) != 4 {
		t.Errorf("the cookies are %v", b.jar)
	}
	outer.told("offered", "registered", "bound")
	inner.told("offered", "registered", "bound")
}

// Switched off, everybody is served unbound, and when it is on again the keys are good.
func TestDeviceOff(t *testing.T) {
	store := session.NewMemoryStore()
	w := newDeviceWorld(t, store, nil)
	off := newManager(t, store, nil)
	disabled := newManager(t, nil, &session.Options{Disabled: true, Device: new(session.DeviceBinding)})
	off.SetClock(w.now)
	disabled.SetClock(w.now)
	b := w.browser()
	b.bind("ann")
	on := w.m
	w.pass(12 * time.Minute)
	delete(b.jar, deviceCookie)
	for _, m := range []*session.Manager{off, disabled} {
		w.m = m
		b.visit(func(s *session.Session) {
			if d := s.Device(); (s.User() == "ann") != (m == off) || d != (session.Device{}) {
				t.Errorf("%v, %+v", s, d)
			}
		})
		res := b.send("POST", b.endpoint, b.nowhere, "Sec-Secure-Session-Id", b.identifier)
		challenge := challengeForm.FindStringSubmatch(res.Header.Get("Secure-Session-Challenge"))
		if challenge == nil {
			t.Fatalf("%s, %v", res.Status, res.Header)
		}
		res = b.send("POST", b.endpoint, b.nowhere, "Sec-Secure-Session-Id", b.identifier, "Secure-Session-Response", jwt(b.key, challenge[1], false))
		if body := readBody(t, res); res.StatusCode != http.StatusOK || setCookie(t, res.Header, deviceCookie) == "" || (m == off && body != "") {
			t.Errorf("%s, %v, %q", res.Status, res.Header, body)
		}
	}
	list, err := off.Sessions(t.Context(), session.OfUser("ann"))
	if err != nil || len(list) != 1 || !list[0].Bound.IsZero() {
		t.Errorf("the sessions are %+v, %v", list, err)
	}
	reached := false
	w.m = off
	b.send("POST", b.endpoint, func(http.ResponseWriter, *http.Request) { reached = true }, "Sec-Secure-Session-Id", "x")
	if !reached {
		t.Error("what is nobody's of this manager does not reach the handler")
	}
	w.m = on
	b.shows("ann")
}

// For something sensitive, a browser with a key proves possession now; others get the other handler.
func TestRequireDevice(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
	}
	guarded := w.m.RequireDevice(3*time.Minute, answer("next"), answer("otherwise")).ServeHTTP
	b := w.browser()
	ask := func(method, path string, status int, text string) *http.Response {
		t.Helper()
		res := b.send(method, path, guarded)
		if body := readBody(t, res); res.StatusCode != status || body != text {
			t.Errorf("%s %s: %s %q, want %d %q", method, path, res.Status, body, status, text)
		}
		return res
	}
	ask("GET", "/", 200, "otherwise") // nobody
	b.login("ann")
	ask("GET", "/", 200, "otherwise") // not bound
	wantStatus(t, b.register(), http.StatusOK)
	ask("GET", "/", 200, "next")
	w.pass(3 * time.Minute)
	ask("GET", "/", 200, "next") // clocks differ by a minute
	w.pass(time.Minute + time.Millisecond)
	for _, test := range [][2]string{
		{"/a?b=c&d=%2F", "/a?b=c&d=%2F"},
		{"//evil.test/x", "/.//evil.test/x"},
		{`/\evil.test/x`, `/./\evil.test/x`},
		{"http://example.com/a?b", "/a?b"},
		{"/", "/"},
	} {
		before := maps.Clone(b.jar)
		res := ask("POST", test[0], 307, "")
		if location := res.Header.Get("Location"); location != test[1] || !strings.Contains(res.Header.Get("Cache-Control"), "no-store") {
			t.Errorf("%s leads to %q, %v", test[0], location, res.Header)
		}
		if b.jar[deviceCookie] != "" || b.jar["session_id"] == "" {
			t.Errorf("the cookies are %v", b.jar)
		}
		b.jar = before
	}
	delete(b.jar, deviceCookie)
	wantStatus(t, b.refresh(), http.StatusOK)
	ask("POST", "/", 200, "next")
	w.pass(5 * time.Minute)
	ask("GET", "/", 307, "")
	ask("GET", "/", 200, "otherwise") // the browser did not prove anything: it is locked, and the circle ends
	b.jar[deviceCookie] = "x"
	if res := b.send("GET", "/", guarded); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a browser that is to come again is answered %s", res.Status)
	}
	wantStatus(t, b.refresh(), http.StatusOK)
	guarded = w.m.RequireDevice(time.Second, answer("next"), answer("otherwise")).ServeHTTP
	w.pass(3*time.Minute - 10*time.Second)
	ask("GET", "/", 200, "next")
	w.pass(11 * time.Second)
	ask("GET", "/", 307, "")
	off := newManager(t, session.NewMemoryStore(), nil)
	res := serve(off.Handler(off.RequireDevice(0, answer("next"), answer("otherwise"))))
	if body := readBody(t, res); body != "otherwise" {
		t.Errorf("without Device: %q", body)
	}
}

// Clients without cookies are offered no device, nor asked for one.
func TestDeviceElsewhere(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), &session.Options{TokenHeader: "Session-Token"})
	b := w.browser()
	b.visit(func(s *session.Session) { s.SetUser("ann") }, "Session-Token", "")
	if _, err := w.m.Do(t.Context(), "", func(ctx context.Context) error {
		session.FromContext(ctx).SetUser("bob")
		return nil
	}); err != nil {
		t.Error(err)
	}
	if b.offer != "" {
		t.Errorf("the offer is %q", b.offer)
	}
	w.told()
	b.bind("carol")
	w.pass(12 * time.Minute)
	if err := w.m.Change(t.Context(), sessionOf(t, w.m, "carol"), func(s *session.Session) { s.Set("k", 1) }); err != nil && !encrypted {
		t.Errorf("from outside: %v", err)
	}
}

// sessionOf returns the ID of a user's only session.
func sessionOf(t *testing.T, m *session.Manager, user string) session.ID {
	t.Helper()
	list, err := m.Sessions(t.Context(), session.OfUser(user))
	if err != nil || len(list) != 1 {
		t.Fatalf("the sessions are %v, %v", list, err)
	}
	return list[0].ID
}

// Requests that show the key for the first time do so together, and change the session: nothing is lost, and it is bound once.
func TestDeviceBoundOnce(t *testing.T) {
	onStores(t, func(t *testing.T, store session.Store) {
		const n = 6
		w := newDeviceWorld(t, store, nil)
		b := w.browser()
		b.login("ann")
		wantStatus(t, b.register(), http.StatusOK)
		w.told("offered", "registered")
		w.store.Hook(double.Meet(n, double.Load))
		var all sync.WaitGroup
		for range n {
			tab := b.thief()
			all.Go(func() {
				wantStatus(t, tab.visit(func(s *session.Session) {
					hitCounter.Update(s, func(n int) int { return n + 1 })
				}), http.StatusOK)
			})
		}
		all.Wait()
		w.store.Hook()
		w.told("bound")
		b.visit(func(s *session.Session) {
			if hits := hitCounter.GetOr(s, 0); hits != n || s.Device().Proven.IsZero() {
				t.Errorf("%d of %d changes, %+v", hits, n, s.Device())
			}
		})
	})
}

// A store that cannot save keeps nobody from reading; the session is bound later.
func TestDeviceBoundLater(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.login("ann")
	wantStatus(t, b.register(), http.StatusOK)
	w.store.Hook(double.Fail(errDown, double.Save))
	b.shows("ann")
	w.store.Hook()
	w.told("offered", "registered")
	b.visit(func(s *session.Session) { s.Has("k") })
	w.told("bound")
}

// The cost of a request of a bound session beside one that is not.
func BenchmarkDevice(b *testing.B) {
	for _, bound := range []bool{false, true} {
		b.Run(map[bool]string{false: "unbound", true: "bound"}[bound], func(b *testing.B) {
			m, err := session.New(session.NewMemoryStore(), secretOf('s'), &session.Options{Device: new(session.DeviceBinding)})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			w := &deviceWorld{t: b, m: m, store: double.New(session.NewMemoryStore())}
			browser := w.browser()
			browser.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
			if bound {
				browser.register()
				if _, d := browser.sees(); d.Bound.IsZero() {
					b.Fatal("it is not bound")
				}
			}
			h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).Has("k") }))
			r := httptest.NewRequest("GET", "/", nil)
			for name, value := range browser.jar {
				r.AddCookie(&http.Cookie{Name: name, Value: value})
			}
			rec := discard{}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(rec, r)
			}
		})
	}
}

// A request that shows a key while another becomes the session's was let in, and has proved nothing.
func TestDeviceOvertaken(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b, other := w.browser(), w.browser()
	b.login("ann")
	other.offer = b.offer
	wantStatus(t, b.register(), http.StatusOK)
	wantStatus(t, other.register(), http.StatusOK)
	other.jar["session_id"] = b.jar["session_id"]
	w.told("offered", "registered", "registered")
	other.visit(func(s *session.Session) {
		if d := s.Device(); d.Proven.IsZero() {
			t.Errorf("before: %+v", d)
		}
		b.shows("ann")
		s.Set("k", 1)
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
		if d := s.Device(); d.Bound.IsZero() || !d.Proven.IsZero() {
			t.Errorf("after: %+v", d)
		}
	})
	w.told("bound")
}

// A challenge from a clock that is far ahead is none.
func TestDeviceClocks(t *testing.T) {
	w := newDeviceWorld(t, session.NewMemoryStore(), nil)
	b := w.browser()
	b.bind("ann")
	for ahead, status := range map[time.Duration]int{59 * time.Second: http.StatusOK, 61 * time.Second: http.StatusForbidden} {
		w.pass(ahead)
		_, challenge := b.challenge()
		w.pass(-ahead)
		wantStatus(t, b.answer(challenge), status)
	}
}
