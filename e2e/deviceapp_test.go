package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
	"github.com/chromedp/chromedp"
)

// A boundApp is an application whose sessions are bound to devices. Its clock is the test's.
type boundApp struct {
	site
	t       *testing.T
	m       *session.Manager
	secret  []byte
	store   *double.Store
	ahead   atomic.Int64 // how far the clock is
	handler atomic.Pointer[http.Handler]
	events  inbox[session.Event]
	served  inbox[request]
}

// A request is one that the application has answered.
type request struct {
	method, path string
	identifier   string // of the key, if it is a refresh
	proof        bool   // it carries one
	skipped      string // why the browser says that it carries no cookie
	from         string // from where, as the browser says
}

// newBoundApp runs an application with one manager. Options may be nil.
func newBoundApp(t *testing.T, options *session.Options) *boundApp {
	t.Helper()
	a := &boundApp{t: t, secret: []byte(rand.Text() + rand.Text()), store: double.New(session.NewMemoryStore())}
	a.m = a.manager(options)
	a.run(a.m.Handler(a.pages(a.m)))
	a.site = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.served.put(request{
			method:     r.Method,
			path:       r.URL.Path,
			identifier: r.Header.Get("Sec-Secure-Session-Id"),
			proof:      r.Header.Get("Secure-Session-Response") != "",
			skipped:    r.Header.Get("Secure-Session-Skipped"),
			from:       r.Header.Get("Sec-Fetch-Site"),
		})
		if r.URL.Path == "/.well-known/device-bound-sessions" { // who may bind the sessions of all of example.test
			fmt.Fprintf(w, `{"registering_origins": [%q]}`, a.home())
			return
		}
		(*a.handler.Load()).ServeHTTP(w, r)
	}))
	return a
}

// run has the handler serve requests from now on, as after a restart.
func (a *boundApp) run(h http.Handler) { a.handler.Store(&h) }

// later moves the clock.
func (a *boundApp) later(d time.Duration) { a.ahead.Add(int64(d)) }

// expired has the time of all proofs run out, for the server and for the browser.
func (a *boundApp) expired(b *tab) {
	b.t.Helper()
	a.later(12 * time.Minute)
	b.runOut(proofName)
}

const (
	tokenName = "session_id"
	proofName = "session_id-device"
	// endpoint is where the browser registers keys and proves that it has them.
	endpoint = "/.session/device/session_id"
)

// manager returns a manager of the application's sessions, whose options may be nil.
func (a *boundApp) manager(options *session.Options) *session.Manager {
	a.t.Helper()
	o := session.Options{Device: new(session.DeviceBinding)}
	if options != nil {
		o = *options
	}
	o.IdleTimeout = 10 * time.Hour
	o.Observer = func(_ context.Context, e session.Event) { a.events.put(e) }
	o.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		w.WriteHeader(http.StatusServiceUnavailable)
		plain(err.Error()).ServeHTTP(w, r)
	}
	m, err := session.New(a.store, a.secret, &o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { m.Close() })
	storetest.SetClock(m, func() time.Time { return time.Now().Add(time.Duration(a.ahead.Load())) })
	return m
}

// pages are those of one manager: /login and /logout do what they say, /add changes the session, /secure wants a proof
// that is not older than five minutes, and any other tells who is there.
func (a *boundApp) pages(m *session.Manager) http.Handler {
	const sum session.Key[int] = "sum"
	mux := http.NewServeMux()
	home := func(w http.ResponseWriter, r *http.Request) { whoIsThere(w, r, m.FromContext(r.Context()), "") }
	mux.HandleFunc("/", home)
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		m.FromContext(r.Context()).SetUser(cmp.Or(r.FormValue("user"), "ann"))
		if r.Method == http.MethodPost {
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		plain("logged in").ServeHTTP(w, r)
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		m.FromContext(r.Context()).Destroy()
		plain("logged out").ServeHTTP(w, r)
	})
	mux.HandleFunc("/add", func(w http.ResponseWriter, r *http.Request) {
		s := m.FromContext(r.Context())
		whoIsThere(w, r, s, ", sum "+strconv.Itoa(sum.Update(s, func(n int) int { return n + 1 })))
	})
	mux.Handle("/secure", m.RequireDevice(5*time.Minute, http.HandlerFunc(home), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		plain("enter the password").ServeHTTP(w, r)
	})))
	return mux
}

// plain serves a page without an icon, for which the browser would ask when it likes.
func plain(text string) http.Handler {
	return page200(`<link rel=icon href="data:,"><body>` + text)
}

// whoIsThere answers with who is logged in and what is known of the device, and with how much the request brought.
func whoIsThere(w http.ResponseWriter, r *http.Request, s *session.Session, more string) {
	d, text := s.Device(), s.User()
	status := http.StatusOK
	switch {
	case d.Locked:
		status, text = http.StatusUnauthorized, "This browser has lost its key. Log in again."
	case text == "":
		status, text = http.StatusUnauthorized, "nobody"
	case !d.Proven.IsZero():
		text += ", proven"
	case !d.Bound.IsZero():
		text += ", bound"
	}
	if form := r.FormValue("text"); form != "" {
		more += fmt.Sprintf(", %q", form)
	} else if body, err := io.ReadAll(r.Body); err != nil || len(body) > 0 {
		more += ", " + digest(body)
	}
	w.WriteHeader(status)
	plain(text+more).ServeHTTP(w, r)
}

func digest[T string | []byte](body T) string {
	return fmt.Sprintf("%d bytes %x", len(body), sha256.Sum256([]byte(body)))
}

// ask sends a request with cookies as a client that is no browser does, and returns the answer.
func (a *boundApp) ask(path string, cookies map[string]string, header http.Header) (status int, text string) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, a.at("127.0.0.1")+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	if header != nil {
		r.Header = header.Clone()
	}
	for name, value := range cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificate(a.t).pool}}}
	defer client.CloseIdleConnections()
	response, err := client.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// bind logs the browser in, and waits until its session is bound.
func (a *boundApp) bind(b *tab, k *keys) {
	b.t.Helper()
	b.open("/login")
	k.registered()
	b.open("/")
	b.sees("ann, proven")
	a.events.wait(b.t, ofKind(session.EventDeviceBound))
	a.forget()
}

// forget has the next look at what the application has seen begin here.
func (a *boundApp) forget() {
	a.events.forget(nil)
	a.served.forget(nil)
}

func ofKind(kind session.EventKind) func(session.Event) bool {
	return func(e session.Event) bool { return e.Kind == kind }
}

// bound returns an application and a browser that is logged in, with its session bound.
func bound(t *testing.T, options *session.Options) (*boundApp, *tab, *keys) {
	t.Helper()
	a := newBoundApp(t, options)
	b := newProfile(t, a.site)
	k := b.keys()
	a.bind(b, k)
	return a, b, k
}

// boundTabs is bound with a gate before the application and a second tab.
func boundTabs(t *testing.T) (a *boundApp, g *gate, b *tab, k *keys, other *tab) {
	t.Helper()
	a = newBoundApp(t, nil)
	g = newGate(t, a.site)
	b = newProfile(t, g.site)
	k = b.keys()
	a.bind(b, k)
	other = b.another()
	other.open("/")
	return a, g, b, k, other
}

// refreshed wants the browser to have got so many new cookies for proofs since the application was last looked at.
func (a *boundApp) refreshed(times int) {
	a.t.Helper()
	if got := a.events.forget(ofKind(session.EventDeviceRefreshed)); got != times {
		a.t.Errorf("the browser has proven possession %d times, want %d", got, times)
	}
	a.served.forget(nil)
}

// denied goes to a page, and wants it to say that nobody is logged in, or that the session is locked. A page that reloads
// itself can come first.
func (b *tab) denied(path, text string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.site.home() + path))
	b.arrives(text)
}

// arrives waits for a page with that text.
func (b *tab) arrives(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.body?.innerText.includes(%q)", text))
}

const lockedText = "This browser has lost its key. Log in again."

// fetch has the page send a request, and returns what the answer shows.
func (b *tab) fetch(path, options string) string {
	b.t.Helper()
	return get(b, chromedp.Evaluate[string](fmt.Sprintf(`fetch(%q, %s).then((r) => r.text()).then((t) => t.replace(/.*<body>/, ""))`, path, options),
		chromedp.EvalAwaitPromise))
}

// submit sends a form with a text by POST, and wants to arrive at a page.
func (b *tab) submit(action, at, text string) {
	b.t.Helper()
	b.goes(at, 200, script(fmt.Sprintf(`{
		const form = document.createElement("form");
		Object.assign(form, {method: "post", action: %q, enctype: "multipart/form-data"});
		form.innerHTML = "<textarea name=text></textarea>";
		form.elements.text.value = %q;
		document.body.append(form);
		form.submit();
	}`, action, text)))
}

// script runs JavaScript in the page.
func script(text string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := chromedp.Evaluate[any](text)(ctx, target)
		return err
	})
}

// follow begins a step that leads to another page. The function that it returns waits for the page, and returns its status.
func (b *tab) follow(step chromedp.Action[chromedp.Void]) (status func() int64) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	b.t.Cleanup(cancel)
	type result struct {
		status int64
		err    error
	}
	done := make(chan result, 1)
	go func() {
		response, err := chromedp.RunResponse(ctx, step)
		if err != nil {
			done <- result{0, err}
			return
		}
		done <- result{response.Status, nil}
	}()
	return func() int64 {
		b.t.Helper()
		r := <-done
		if r.err != nil {
			b.t.Fatal(r.err)
		}
		return r.status
	}
}
