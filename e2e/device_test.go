package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// After a login, however it is made, the browser registers a key and gets the cookie that proves it. The next request
// binds the session.
func TestDeviceLogin(t *testing.T) {
	for name, test := range map[string]struct {
		cookie  session.Cookie
		encrypt bool
		login   func(*tab)
		want    string // of the second cookie
	}{
		"a page":        {session.Cookie{}, false, func(b *tab) { b.open("/login") }, "session_id-device www.example.test/ Lax"},
		"a form":        {session.Cookie{Name: "__Host-s"}, false, func(b *tab) { b.submit("/login", "/", "") }, "__Host-s-device www.example.test/ Lax"},
		"a fetch":       {session.Cookie{Name: "__Secure-s", SameSite: http.SameSiteStrictMode}, true, func(b *tab) { b.fetch("/login", "{}") }, "__Secure-s-device www.example.test/ Strict"},
		"of the domain": {session.Cookie{Domain: "example.test"}, false, func(b *tab) { b.open("/login") }, "session_id-device .example.test/ Lax"},
		"embedded":      {session.Cookie{SameSite: http.SameSiteNoneMode}, true, func(b *tab) { b.open("/login") }, "session_id-device www.example.test/ None"},
		"remembered":    {session.Cookie{Persistent: true}, true, func(b *tab) { b.open("/login") }, "session_id-device www.example.test/ Lax"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newBoundApp(t, &session.Options{Cookie: test.cookie, EncryptAtRest: test.encrypt, Device: new(session.DeviceBinding)})
			b := newProfile(t, a.site)
			k := b.keys()
			b.denied("/", "nobody")
			test.login(b)
			k.registered()
			b.open("/")
			b.sees("ann, proven")
			a.events.wait(t, ofKind(session.EventDeviceBound))
			sessions, err := a.m.Sessions(t.Context(), session.OfUser("ann"))
			if err != nil || len(sessions) != 1 || sessions[0].Bound.IsZero() {
				t.Errorf("the user's sessions are %+v, %v", sessions, err)
			}
			var proof *network.Cookie
			for _, c := range b.cookies() {
				if strings.HasSuffix(c.Name, "-device") {
					proof = c
				}
			}
			if proof == nil {
				t.Fatalf("there is no second cookie: %v", b.holds())
			}
			got := fmt.Sprintf("%s %s%s %s", proof.Name, proof.Domain, proof.Path, proof.SameSite)
			if left := time.Until(time.Unix(int64(proof.Expires), 0)); got != test.want || !proof.Secure || !proof.HTTPOnly || left <= 0 || left > 10*time.Minute {
				t.Errorf("the second cookie is %s, which expires in %v; want %s\n%+v", got, left, test.want, proof)
			}
		})
	}
}

// When the second cookie has run out, what the browser is about to send waits until it has proven possession, and arrives
// whole.
func TestDeviceRefresh(t *testing.T) {
	a, b, _ := bound(t, nil)
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for name, test := range map[string]struct {
		step func() string
		want string
	}{
		"a page":  {func() string { b.open("/"); return b.text() }, "ann, proven"},
		"a form":  {func() string { b.submit("/form", "/form", "some text"); return b.text() }, `ann, proven, "some text"`},
		"a fetch": {func() string { return b.fetch("/", fmt.Sprintf(`{method: "POST", body: %q}`, large)) }, "ann, proven, " + digest(large)},
	} {
		a.expired(b)
		if got := test.step(); got != test.want {
			t.Errorf("%s: the answer is %q, want %q", name, got, test.want)
		}
		a.refreshed(1)
	}
}

// All cookies of a browser, copied into another client, are worth nothing once the proof among them is old. Their owner
// notices nothing.
func TestStolenCookies(t *testing.T) {
	a, owner, _ := bound(t, nil)
	thief := newProfile(t, a.site)
	thief.steal(owner)
	thief.open("/")
	thief.sees("ann, proven") // for the rest of ten minutes
	stolen := owner.holds()

	a.later(12 * time.Minute)
	for _, test := range []struct {
		cookies map[string]string
		status  int
		text    string
	}{
		{stolen, 503, "has not proved"}, // it could be the owner, whose clock is behind
		{map[string]string{tokenName: stolen[tokenName]}, 401, lockedText},
	} {
		cookies := test.cookies
		if status, text := a.ask("/add", cookies, nil); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("with the cookies %v the answer is %d %q", cookies, status, text)
		}
		excuse := http.Header{"Secure-Session-Skipped": {"unreachable"}}
		if status, text := a.ask("/add", cookies, excuse); status != 503 || strings.Contains(text, "ann") {
			t.Errorf("with the cookies %v and an excuse the answer is %d %q", cookies, status, text)
		}
	}
	for range 2 {
		thief.denied("/", lockedText)
	}
	a.refreshed(0)

	owner.runOut(proofName)
	owner.open("/add")
	owner.sees("ann, proven, sum 1")
	a.refreshed(1)
	thief.denied("/", lockedText)
}

// A thief who has the session renewed while the copied proof counts leaves the owner's cookie behind. The owner catches up, from
// wherever the browser comes.
func TestDeviceThiefRenews(t *testing.T) {
	a, owner, _ := bound(t, nil)
	elsewhere := serve(t, plain(`<a href="`+a.home()+`/add">add</a>`))
	thief := newProfile(t, a.site)
	thief.steal(owner)
	for range 2 { // a renewal, and its confirmation
		a.later(4*time.Minute + time.Second)
		thief.open("/add")
	}
	thief.sees("ann, proven, sum 2")
	behind := owner.holds()[tokenName]
	a.expired(owner)
	owner.goes("/", 200, chromedp.Navigate(elsewhere.at("localhost")))
	owner.press("add", "/add", 200)
	owner.sees("ann, proven, sum 3")
	if now := owner.holds()[tokenName]; now == behind || now != thief.holds()[tokenName] {
		t.Error("the owner's cookie is still behind")
	}
	thief.denied("/", lockedText)
}

// Two tabs, and requests that a page sends at the same time, share one proof.
func TestDeviceSharedRefresh(t *testing.T) {
	a, g, first, _, second := boundTabs(t)
	tabs := []*tab{first, second}
	var sent inbox[struct{}]
	for _, b := range tabs {
		err := chromedp.Listen(b.ctx, func(event any) {
			if e, ok := event.(*network.EventRequestWillBeSent); ok && strings.HasSuffix(e.Request.URL, "/add") {
				sent.put(struct{}{})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	a.expired(first)
	h := g.hold(t, endpoint, false)
	for _, b := range tabs {
		b.do(script(`window.answers = Promise.all(Array.from({length: 8}, () => fetch("/add").then((r) => r.text())));`))
	}
	<-h.arrived
	for range 16 {
		sent.wait(t, func(struct{}) bool { return true })
	}
	h.letGo()
	for _, b := range tabs {
		for _, text := range get(b, chromedp.Evaluate[[]string]("window.answers", chromedp.EvalAwaitPromise)) {
			contains(t, text, "ann, proven")
		}
	}
	proofs := func(r request) bool { return r.proof }
	if n := a.served.forget(proofs); n != 1 {
		t.Errorf("the browser has proven possession %d times, want once", n)
	}
	first.open("/add")
	first.sees("ann, proven, sum 17")
}

// A logout takes the second cookie, too, and the key with the next request.
func TestDeviceLogout(t *testing.T) {
	a, b, k := bound(t, nil)
	b.open("/logout")
	if left := b.holds(); len(left) > 0 {
		t.Errorf("the browser still holds %v", left)
	}
	b.denied("/", "nobody")
	if why := k.ended(); why != network.TerminationEventDetailsDeletionReasonServerRequested {
		t.Errorf("the key has ended: %s", why)
	}
	a.served.forget(nil)
	b.denied("/", "nobody")
	if n := a.served.forget(func(r request) bool { return r.path == endpoint }); n > 0 {
		t.Errorf("the browser asks for a proof %d times", n)
	}
	a.bind(b, k)
}

// Clear-Site-Data takes all of that at once.
func TestDeviceLogoutClears(t *testing.T) {
	a, b, k := bound(t, &session.Options{Device: new(session.DeviceBinding), ClearSiteData: []string{"cookies"}})
	b.open("/logout")
	if why := k.ended(); why != network.TerminationEventDetailsDeletionReasonStoragePartitionCleared {
		t.Errorf("the key has ended: %s", why)
	}
	b.denied("/", "nobody")
	if n := a.served.forget(func(r request) bool { return r.path == endpoint }); n > 0 {
		t.Errorf("the browser asks for a proof %d times", n)
	}
	a.bind(b, k)
}

// A logout in one tab, while the other waits for a proof, leaves nobody logged in, and a login works at once.
func TestDeviceLogoutInFlight(t *testing.T) {
	for name, late := range map[string][]bool{ // what the gate holds last is late: the response, or the request
		"before the challenge": {false},
		"before the proof":     {true},
		"before the cookie":    {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, g, b, k, other := boundTabs(t)

			logout := g.hold(t, "/logout", false)
			loggedOut := other.follow(chromedp.Navigate(g.home() + "/logout"))
			<-logout.arrived
			b.runOut(proofName)
			h := g.hold(t, endpoint, late[0])
			arrives := b.follow(chromedp.Navigate(g.home() + "/"))
			<-h.arrived
			for _, response := range late[1:] {
				next := g.hold(t, endpoint, response)
				h.letGo()
				<-next.arrived
				h = next
			}
			logout.letGo()
			if status := loggedOut(); status != 200 {
				t.Fatalf("the logout is answered %d", status)
			}
			h.letGo()
			if status := arrives(); status != 401 {
				t.Errorf("the late request is answered %d", status)
			}
			b.sees("nobody")
			a.bind(b, k)
			a.expired(b)
			other.open("/add")
			other.sees("ann, proven, sum 1")
		})
	}
}

// Another login in the same browser binds the session anew, but for one of the same user, which keeps the key. The keys of
// the logins before go, whichever of them the browser tries first.
func TestDeviceSecondLogin(t *testing.T) {
	a := newBoundApp(t, nil)
	b := newProfile(t, a.site)
	k := b.keys()
	for i, login := range []struct {
		user   string
		before string // where the browser goes before
		kept   bool   // the key is
	}{
		{"ann", "/logout", false},
		{"ann", "/", true},
		{"bob", "/", false},
		{"bob", "/logout", false},
		{"ann", "/", false},
		{"carl", "/logout", false},
	} {
		b.do(chromedp.Navigate(a.home() + login.before))
		b.opens("/login?user="+login.user, "/login")
		if !login.kept {
			k.registered()
		}
		b.open("/")
		b.sees(login.user + ", proven")
		a.expired(b)
		b.open("/add")
		b.sees(login.user + ", proven")
		if left := b.holds(); len(left) != 2 {
			t.Errorf("after login %d the browser holds %v", i, left)
		}
	}
	if n := k.forget(func(e *keyEvent) bool { return e.CreationEventDetails != nil }); n > 0 {
		t.Errorf("the browser has registered %d keys too many", n)
	}
}

// A proof by the key of a login before, which comes late, does not end the key of the login after it.
func TestDeviceLateRefresh(t *testing.T) {
	for name, registration := range map[string]bool{"after the registration": false, "before the registration": true} {
		t.Run(name, func(t *testing.T) {
			a, g, b, k, other := boundTabs(t)

			login := g.hold(t, "/login", false)
			loggedIn := other.follow(chromedp.Navigate(g.home() + "/login?user=bob"))
			<-login.arrived
			h := g.hold(t, endpoint, false)
			var arrives func() int64
			late := func() {
				b.runOut(proofName)
				arrives = b.follow(chromedp.Navigate(g.home() + "/"))
			}
			if !registration {
				late()
				<-h.arrived
			}
			login.letGo()
			if status := loggedIn(); status != 200 {
				t.Fatalf("the login is answered %d", status)
			}
			if registration {
				<-h.arrived
				late()
			} else {
				k.registered()
				h.letGo()
			}
			if why := k.ended(); why != network.TerminationEventDetailsDeletionReasonServerRequested {
				t.Errorf("the old key has ended: %s", why)
			}
			if status := arrives(); status != 200 {
				t.Errorf("the late request is answered %d", status)
			}
			b.sees("bob")
			if registration {
				h.letGo()
				k.registered()
			}
			b.open("/")
			b.sees("bob, proven")
			a.expired(b)
			a.forget()
			b.open("/")
			b.sees("bob, proven")
			a.refreshed(1)
		})
	}
}

// The renewal of the session's cookie, and proofs, do not get into each other's way.
func TestDeviceRenewal(t *testing.T) {
	a := newBoundApp(t, &session.Options{Device: new(session.DeviceBinding), RenewInterval: time.Millisecond})
	b := newProfile(t, a.site)
	a.bind(b, b.keys())
	tokens := make(map[string]bool)
	for range 6 {
		tokens[b.holds()[tokenName]] = true
		a.expired(b)
		for _, text := range get(b, chromedp.Evaluate[[]string](`Promise.all(Array.from({length: 8}, () => fetch("/add").then((r) => r.text())))`,
			chromedp.EvalAwaitPromise)) {
			contains(t, text, "ann, proven")
		}
		a.refreshed(1)
	}
	if len(tokens) < 3 { // every other round can renew it
		t.Errorf("the session's cookie had %d values", len(tokens))
	}
	b.open("/add")
	b.sees("ann, proven, sum 49")
}

// A restart with another secret, which knows the former, is not noticed, whatever it comes between.
func TestDeviceRestart(t *testing.T) {
	for _, encrypt := range []bool{false, true} {
		options := &session.Options{Device: new(session.DeviceBinding), EncryptAtRest: encrypt}
		a := newBoundApp(t, options)
		g := newGate(t, a.site)
		b := newProfile(t, g.site)
		k := b.keys()
		restart := func() {
			options.PreviousSecrets = append(options.PreviousSecrets, a.secret)
			a.secret = []byte(rand.Text() + rand.Text())
			a.m = a.manager(options)
			a.run(a.m.Handler(a.pages(a.m)))
		}
		t.Log("between the offer and the registration")
		h := g.hold(t, endpoint, false)
		b.open("/login")
		<-h.arrived
		restart()
		h.letGo()
		k.registered()
		b.open("/add")
		b.sees("ann, proven, sum 1")
		t.Log("between a proof and its use")
		restart()
		b.open("/add")
		b.sees("ann, proven, sum 2")
		t.Log("before a proof")
		a.expired(b)
		restart()
		b.open("/add")
		b.sees("ann, proven, sum 3")
		t.Log("between the challenge and the proof")
		a.expired(b)
		h = g.hold(t, endpoint, true)
		arrives := b.follow(chromedp.Navigate(g.home() + "/add"))
		<-h.arrived
		restart()
		h.letGo()
		arrives()
		b.sees("ann, proven, sum 4")
	}
}

// While the store is down, or what is in front of the application, nobody is logged out and no key is lost. Afterwards
// everything is as before.
func TestDeviceStoreDown(t *testing.T) {
	a, b, k := bound(t, nil)
	unavailable := func(text string) {
		t.Helper()
		b.goes("/", 503, chromedp.Navigate(a.home()+"/"))
		b.sees(text)
	}
	a.expired(b)
	a.store.Hook(double.Fail(errors.New("the store is down")))
	unavailable("the store is down")
	unavailable("the store is down")
	a.store.Hook()
	b.open("/add")
	b.sees("ann, proven, sum 1")
	a.refreshed(1)

	up := *a.handler.Load()
	a.run(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == endpoint {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		up.ServeHTTP(w, r)
	}))
	a.expired(b)
	unavailable(session.ErrUnproven.Error())
	unavailable(session.ErrUnproven.Error())
	if n := a.served.forget(func(r request) bool { return r.skipped != "" }); n != 2 {
		t.Errorf("%d requests came with an excuse, want 2", n)
	}
	a.run(up)
	b.open("/add")
	b.sees("ann, proven, sum 2")
	a.refreshed(1)
	if n := k.forget(func(e *keyEvent) bool { return e.TerminationEventDetails != nil }); n > 0 {
		t.Errorf("%d keys have ended", n)
	}
}

// A user who follows a link from another site arrives logged in, once the browser has proven possession.
func TestDeviceLinkFromAnotherSite(t *testing.T) {
	a, b, _ := bound(t, nil)
	elsewhere := serve(t, plain(`<a href="`+a.home()+`/article">read</a>`))
	a.expired(b)
	b.goes("/", 200, chromedp.Navigate(elsewhere.at("localhost")))
	a.refreshed(0)
	b.press("read", "/article", 200)
	b.sees("ann, proven")
	if r := a.served.wait(t, func(r request) bool { return r.path == "/article" }); r.from != "cross-site" {
		t.Errorf("the request is %+v", r)
	}
}

// A browser that sends a proof that is too old, since its clock is behind, gets a page that takes the cookie away and loads
// itself once more.
func TestDeviceReload(t *testing.T) {
	a, b, _ := bound(t, nil)
	elsewhere := serve(t, plain(`<a href="`+a.home()+`/article">read</a>`))
	for name, come := range map[string]func(){
		"by its address": func() { b.do(chromedp.Navigate(a.home() + "/article")) },
		"by a link":      func() { b.do(chromedp.Click(labelled("read"))) },
	} {
		b.goes("/", 200, chromedp.Navigate(elsewhere.at("localhost")))
		a.later(12 * time.Minute)
		come()
		b.arrives("ann, proven")
		if n := a.served.forget(func(r request) bool { return r.path == "/article" }); n != 2 {
			t.Errorf("%s: the page was asked for %d times, want 2", name, n)
		}
		a.refreshed(1)
	}
}

// Requests of another host of the site wait for a proof as those of the site's own do. If the browser's clock is behind, they
// are refused once, and leave the owner's session alone.
func TestDeviceFetchedFromSibling(t *testing.T) {
	a, b, _ := bound(t, nil)
	sibling := serve(t, plain(`<form method=post action="`+a.home()+`/add"><button>add</button></form>`))
	fetch := `fetch("` + a.home() + `/add", {method: "POST", mode: "no-cors", credentials: "include"}).then(() => "answered")`
	sum := 0
	for name, test := range map[string]struct {
		runOut func()
		adds   int
	}{
		"the proof has run out":       {func() { a.expired(b) }, 1},
		"the owner's clock is behind": {func() { a.later(12 * time.Minute) }, 0},
	} {
		for how, ask := range map[string]func(){
			"a fetch": func() { get(b, chromedp.Evaluate[string](fetch, chromedp.EvalAwaitPromise)) },
			"a form": func() {
				b.do(chromedp.Click(labelled("add")))
				b.until(`location.pathname === "/add" && document.readyState === "complete"`) // the answer's cookies are stored
			},
		} {
			b.goes("/", 200, chromedp.Navigate(sibling.at("api.example.test")))
			test.runOut()
			a.served.forget(nil)
			ask()
			if r := a.served.wait(t, func(r request) bool { return r.path == "/add" }); r.from != "same-site" {
				t.Errorf("%s, %s: the request is %+v", name, how, r)
			}
			sum += test.adds + 1
			b.open("/add")
			b.sees("ann, proven, sum " + strconv.Itoa(sum))
		}
	}
}

// A login that began at another site, as with a provider of identities, is bound as well: the browser sends no cookie when
// it registers the key.
func TestDeviceLoginFromAnotherSite(t *testing.T) {
	for _, encrypt := range []bool{false, true} {
		a := newBoundApp(t, &session.Options{Device: new(session.DeviceBinding), EncryptAtRest: encrypt})
		elsewhere := serve(t, plain(`<a href="`+a.home()+`/login">by link</a>
			<form method=post action="`+a.home()+`/login?user=bob"><button>by form</button></form>`))
		b := newProfile(t, a.site)
		k := b.keys()
		for _, login := range []struct{ by, at, user string }{{"by link", "/login", "ann"}, {"by form", "/", "bob"}} {
			b.goes("/", 200, chromedp.Navigate(elsewhere.at("localhost")))
			b.press(login.by, login.at, 200)
			k.registered()
			b.open("/")
			b.sees(login.user + ", proven")
			a.expired(b)
			b.open("/add")
			b.sees(login.user + ", proven")
		}
	}
}

// A browser that has lost its key is told to log in again. That helps at once, and leaves the session before alone.
func TestDeviceKeyLost(t *testing.T) {
	a := newBoundApp(t, nil)
	b := newProfile(t, a.site)
	k := b.keys()
	b.open("/login")
	key := k.registered()
	b.open("/add")
	a.expired(b)
	k.lose(key)
	b.denied("/", lockedText)
	b.denied("/", lockedText)
	a.refreshed(0)
	a.bind(b, k)
	a.expired(b)
	b.open("/add")
	b.sees("ann, proven, sum 1")
}

// Something sensitive asks for a proof that is recent: the browser is sent to the same place once more, with the form that
// it had sent, and proves possession on its way.
func TestDeviceStepUp(t *testing.T) {
	a, b, _ := bound(t, nil)
	b.open("/secure")
	b.sees("ann, proven")
	a.refreshed(0)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { b.opens("/secure?a=b", "/secure") }, "ann, proven"},
		{func() { b.submit("/secure", "/secure", "some text") }, `ann, proven, "some text"`},
		{func() {
			b.do(script(`fetch("/secure", {method: "POST", body: "0123456789"}).then((r) => r.text()).then((t) => document.write(t))`))
		},
			"ann, proven, " + digest("0123456789")},
	} {
		a.later(7 * time.Minute)
		b.open("/")
		b.sees("ann, proven")
		a.refreshed(0)
		step.do()
		b.arrives(step.want)
		a.refreshed(1)
	}
	// Whoever has no key is asked for something else.
	unbound := newProfile(t, a.site)
	unbound.denied("/secure", "enter the password")
	a.later(12 * time.Minute)
	unbound.steal(b)
	unbound.denied("/secure?locked", "enter the password")
}

// When binding is switched off, users whose sessions are bound are served as all others; when sessions are, nobody is
// logged in. When both are on again, everything is as before.
func TestDeviceSwitchedOff(t *testing.T) {
	a, b, k := bound(t, nil)
	on := *a.handler.Load()
	for name, test := range map[string]struct {
		options session.Options
		status  int64
		want    string
	}{
		"binding":  {session.Options{}, 200, "ann"},
		"sessions": {session.Options{Device: new(session.DeviceBinding), Disabled: true}, 401, "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			off := a.manager(&test.options)
			a.run(off.Handler(a.pages(off)))
			for range 2 {
				a.expired(b)
				b.goes("/", test.status, chromedp.Navigate(a.home()+"/"))
				if got := b.text(); got != test.want {
					t.Errorf("the page shows %q, want %q", got, test.want)
				}
			}
			a.forget()
			a.run(on)
			b.open("/")
			b.sees("ann, proven")
			a.refreshed(0)
			a.expired(b)
			b.open("/")
			b.sees("ann, proven")
			a.refreshed(1)
		})
	}
	if n := k.forget(func(e *keyEvent) bool { return e.TerminationEventDetails != nil }); n > 0 {
		t.Errorf("%d keys have ended", n)
	}
}

// A browser that has forgotten the cookie of a session may still have its key, and the session may live: a browser that
// was closed is an example. Neither keeps the session of the next login from being bound.
func TestDeviceForgottenSession(t *testing.T) {
	a := newBoundApp(t, nil)
	elsewhere := serve(t, plain(`<a href="`+a.home()+`/article">read</a>`))
	b := newProfile(t, a.site)
	k := b.keys()
	for range 3 {
		a.bind(b, k)
		b.runOut(tokenName, proofName)
	}
	a.bind(b, k)
	t.Run("at the site", func(t *testing.T) {
		a.expired(b)
		b.open("/")
		b.sees("ann, proven")
		a.refreshed(1)
	})
	t.Run("from another site", func(t *testing.T) { // whose links bring no cookie along when the browser proves possession
		for range 3 {
			b.runOut(tokenName, proofName)
			a.bind(b, k)
		}
		a.expired(b)
		b.goes("/", 200, chromedp.Navigate(elsewhere.at("localhost")))
		b.do(chromedp.Click(labelled("read")))
		b.arrives("ann, proven") // maybe after a page that reloads itself
	})
}

// Each of two managers that wrap the same requests has a key of its own, and so has each of two below paths of their own.
func TestDeviceTwoManagers(t *testing.T) {
	for name, mount := range map[string]func(a *boundApp) http.Handler{
		"on the same requests": func(a *boundApp) http.Handler {
			one := a.manager(&session.Options{Cookie: session.Cookie{Name: "one"}, Device: new(session.DeviceBinding)})
			two := a.manager(&session.Options{Cookie: session.Cookie{Name: "two"}, Device: new(session.DeviceBinding)})
			mux := http.NewServeMux()
			mux.Handle("/one/", http.StripPrefix("/one", a.pages(one)))
			mux.Handle("/two/", http.StripPrefix("/two", a.pages(two)))
			return one.Handler(two.Handler(mux))
		},
		"below paths": func(a *boundApp) http.Handler {
			mux := http.NewServeMux()
			for _, name := range []string{"one", "two"} {
				m := a.manager(&session.Options{Cookie: session.Cookie{Name: name, Path: "/" + name}, Device: new(session.DeviceBinding)})
				mux.Handle("/"+name+"/", http.StripPrefix("/"+name, m.Handler(a.pages(m))))
			}
			return mux
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newBoundApp(t, nil)
			a.run(mount(a))
			b := newProfile(t, a.site)
			k := b.keys()
			b.opens("/one/login?user=ann", "/one/login")
			k.registered()
			b.opens("/two/login?user=bob", "/two/login")
			key := k.registered()
			both := func(one, two string) {
				t.Helper()
				b.open("/one/")
				b.sees(one)
				b.open("/two/")
				b.sees(two)
			}
			both("ann, proven", "bob, proven")
			a.forget()
			a.later(12 * time.Minute)
			b.runOut("one-device", "two-device")
			both("ann, proven", "bob, proven")
			a.refreshed(2)
			b.open("/one/logout")
			b.denied("/one/", "nobody")
			b.open("/two/")
			b.sees("bob, proven")
			b.opens("/one/login?user=carl", "/one/login")
			k.registered()
			k.lose(key)
			a.later(12 * time.Minute)
			b.runOut("one-device", "two-device")
			b.open("/one/")
			b.sees("carl, proven")
			b.denied("/two/", lockedText)
		})
	}
}

// A key outlives the browser, and so does the session of somebody who stays logged in.
func TestDeviceBrowserRestart(t *testing.T) {
	need(t, "chromium")
	a := newBoundApp(t, &session.Options{Cookie: session.Cookie{Persistent: true}, Device: new(session.DeviceBinding)})
	dir := filepath.Join(t.TempDir(), "profile")
	visit(t, dir, a.site, func(b *tab) { a.bind(b, b.keys()) })
	visit(t, dir, a.site, func(b *tab) {
		a.expired(b)
		b.open("/")
		b.sees("ann, proven")
		a.refreshed(1)
	})
}

// The login example says which of the devices are bound.
func TestDeviceSign(t *testing.T) {
	s := example(t, "login").site
	b := newProfile(t, s)
	k := b.keys()
	b.login(false)
	k.registered()
	b.press("Your data", "/data", 200)
	b.sees("Your browser has proved")
	other := newProfile(t, s)
	other.login(true)
	other.open("/devices")
	other.sees("2 devices", "Only this device can use it")
}
