package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/session"
)

const failed = "/?login=failed"

// A page for members leads to the provider and back, and the session gets a new cookie on the way, the user and a label.
func TestLogin(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	a := b.send("/members/a?b=c", nil)
	if a.location != s.base+"/login?to=%2Fmembers%2Fa%3Fb%3Dc" {
		t.Fatalf("it leads to %q", a.location)
	}
	a = b.follow(a, "ann", s.base+"/callback")
	before := b.cookie(s.base, "session")
	b.leads(a.location, "/members/a?b=c")
	if after := b.cookie(s.base, "session"); after == before || before == "" {
		t.Errorf("the cookie was %q, and is %q", before, after)
	}
	if a := b.send("/members/a", nil); a.body != "Members only: \"a\" for ann.\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, group := range []session.Group{session.OfUser(s.op.Issuer + "#ann"), session.Labelled(s.rp.label(s.op.Sessions("ann")[0]))} {
		list, err := s.rp.sessions.Sessions(t.Context(), group)
		if err != nil || len(list) != 1 || list[0].User != s.op.Issuer+"#ann" {
			t.Errorf("%v: %v, %v", group, list, err)
		}
	}
}

// The request to the provider has all that the answer is checked by, and no two have the same.
func TestRequest(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	seen := make(map[string]bool)
	for range 3 {
		u, err := url.Parse(b.send("/login", nil).location)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Get("code_challenge_method") != "S256" || q.Get("response_type") != "code" || !strings.HasPrefix(q.Get("scope"), "openid") {
			t.Errorf("the request is %v", q)
		}
		for _, name := range []string{"state", "nonce", "code_challenge"} {
			if v := q.Get(name); len(v) < 26 || seen[v] {
				t.Errorf("%s is %q", name, v)
			} else {
				seen[v] = true
			}
		}
	}
}

// Logins in several tabs of one browser each come back to their own page, in whatever order, one after the other or at once.
func TestTabs(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	begin := func(b *browser, n int) (callbacks []string) {
		for i := range n {
			callbacks = append(callbacks, b.begin("ann", fmt.Sprintf("/members/%d", i)))
		}
		return callbacks
	}
	t.Run("one after the other", func(t *testing.T) {
		b := s.browser()
		callbacks := begin(b, 3)
		for _, i := range []int{1, 2, 0} {
			b.leads(callbacks[i], fmt.Sprintf("/members/%d", i))
			b.want("ann")
		}
	})
	t.Run("at once", func(t *testing.T) {
		for range 10 {
			b := s.browser()
			var all sync.WaitGroup
			for i, callback := range begin(b, 3) {
				all.Go(func() {
					// One that the provider sends back after another has got its answer finds a browser that is logged in.
					if a := b.send(callback, nil); a.location != s.base+fmt.Sprintf("/members/%d", i) && a.location != s.base+failed {
						t.Errorf("it leads to %q (%d)", a.location, a.status)
					}
				})
			}
			all.Wait()
			b.want("ann")
		}
	})
	t.Run("too many", func(t *testing.T) {
		b := s.browser()
		callbacks := begin(b, maxPending+1)
		b.leads(callbacks[0], failed)
		b.want("")
		for i, callback := range callbacks[1:] {
			b.leads(callback, fmt.Sprintf("/members/%d", i+1))
		}
		b.want("ann")
	})
}

// Who logs in as somebody else in another tab has nothing of the one before.
func TestAnotherUser(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	first := b.begin("ann", "/")
	at, err := url.Parse(s.op.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(at, []*http.Cookie{{Name: "provider", MaxAge: -1}}) // the provider asks again
	second, third := b.begin("bob", "/"), b.begin("bob", "/members/third")
	b.leads(first, "/")
	b.want("ann")
	const cart session.Key[string] = "cart"
	m := s.rp.sessions
	list, err := m.Sessions(t.Context(), session.OfUser(s.op.Issuer+"#ann"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := m.Change(t.Context(), list[0].ID, func(s *session.Session) { cart.Set(s, "ann's") }); err != nil {
		t.Fatal(err)
	}
	b.leads(second, "/")
	b.want("bob")
	if info, err := m.Inspect(t.Context(), list[0].ID); err != nil || info.User != s.op.Issuer+"#bob" || slices.Contains(info.Keys, "cart") {
		t.Errorf("bob has %v, %v", info.Keys, err)
	}
	b.leads(third, "/members/third")
	b.want("bob")
	if list, err := s.rp.sessions.Sessions(t.Context(), session.OfUser(s.op.Issuer+"#ann")); err != nil || len(list) > 0 {
		t.Errorf("ann has still %v, %v", list, err)
	}
}

// A callback that comes twice has its code exchanged once, and does no harm.
func TestCallbackTwice(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	once := func(callback string) {
		t.Helper()
		u, err := url.Parse(callback)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := s.exchanged[u.Query().Get("code")]; n != 1 {
			t.Errorf("the code was exchanged %d times", n)
		}
	}
	t.Run("one after the other", func(t *testing.T) {
		b := s.browser()
		callback := b.begin("ann", "/members/")
		b.leads(callback, "/members/")
		b.leads(callback, failed)
		b.want("ann")
		once(callback)
	})
	t.Run("at once, at two processes", func(t *testing.T) {
		_, other := s.process()
		for range 10 {
			b := s.browser()
			callback := b.begin("ann", "/members/")
			elsewhere := &http.Client{Transport: handlerTransport{other}, Jar: b.client.Jar, CheckRedirect: b.client.CheckRedirect}
			var all sync.WaitGroup
			for _, client := range []*http.Client{b.client, elsewhere, b.client, elsewhere} {
				all.Go(func() { (&browser{s, client}).send(callback, nil) })
			}
			all.Wait()
			b.want("ann")
			once(callback)
		}
	})
}

// A browser that comes back after its session at the provider has ended is not logged in.
func TestCallbackTooLate(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	callback := b.begin("ann", "/")
	if a := b.send(s.op.Issuer+"/logout", url.Values{}); a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, a.body)
	}
	b.leads(callback, failed)
	b.want("")
}

// The provider says that the user does not want to, and the next login is as good as any.
func TestDenied(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	a := b.follow(b.send("/members/", nil), "", "")
	if a.status != http.StatusOK || !strings.Contains(a.body, "come to nothing") {
		t.Errorf("%d %s", a.status, a.body)
	}
	b.want("")
	b.login("ann")
}

// A logout ends the session here, and the one of the provider.
func TestLogout(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	b.login("ann")
	sid, old := s.op.Sessions("ann")[0], b.cookie(s.base, "session")
	a := b.send("/logout", url.Values{})
	u, err := url.Parse(a.location)
	if err != nil {
		t.Fatal(err)
	}
	if q := u.Query(); !strings.HasPrefix(a.location, s.op.Issuer+"/end_session?") || q.Get("id_token_hint") == "" || q.Get("state") == "" || q.Get("post_logout_redirect_uri") != s.base+"/logged-out" {
		t.Errorf("it leads to %s", a.location)
	}
	b.want("")
	if b.cookie(s.base, "session") == old {
		t.Error("the cookie is the one from before")
	}
	if end := b.follow(a, "", ""); end.body != "You are logged out, here and at the provider.\n" {
		t.Errorf("%d %s", end.status, end.body)
	}
	if got := s.op.Sessions("ann"); len(got) > 0 {
		t.Errorf("the provider has still %v, of %s", got, sid)
	}
	b.leads("/logged-out?state="+u.Query().Get("state"), "/") // once is enough
	b.leads("/logged-out?state=made+up", "/")
	b.login("bob") // the provider asks again
}

// Who is not logged in is sent nowhere else by a logout, and another site can log nobody out.
func TestLogoutOfNobody(t *testing.T) {
	s := newSite(t, session.NewMemoryStore())
	b := s.browser()
	if a := b.send("/logout", url.Values{}); a.location != s.base+"/" {
		t.Errorf("it leads to %q", a.location)
	}
	b.login("ann")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "https://evil.example")
	res, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Error(res.Status)
	}
	b.want("ann")
}
