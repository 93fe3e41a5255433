package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"

	"example.com/session/internal/storetest"
)

// An oidc is examples/oidc and a provider for it, which browsers take for two sites.
type oidc struct{ app, provider string }

func startOIDC(t *testing.T, args ...string) oidc {
	t.Helper()
	provider := exampleHTTP(t, "oidc/provider").Base
	app := exampleHTTP(t, "oidc", append([]string{"-issuer", provider}, args...)...)
	return oidc{app.Base, provider}
}

// visit goes to a page, and wants to arrive at a path.
func (b *tab) visit(address, path string) {
	b.t.Helper()
	b.goes(path, 200, chromedp.Navigate(address))
}

// continues gives the provider a name, and wants to come back to a path.
func (b *tab) continues(user, path string) {
	b.t.Helper()
	b.do(chromedp.SendKeys(field("Name"), user))
	b.press("Continue", path, 200)
}

// A user logs out at the provider while a page is open that the login led to: the next click finds nobody logged in, and other
// devices and users stay.
func TestBackchannelLogout(t *testing.T) {
	for _, name := range []string{"file", "memcached"} {
		t.Run(name, func(t *testing.T) {
			kind, ok := storetest.Named(name)
			if !ok {
				t.Fatal("there is no such kind")
			}
			store := kind.Place(t)
			if kind.Scheme != "" {
				store = kind.Scheme + "://" + store
			}
			s := startOIDC(t, "-store", store)
			phone, laptop, bob := newProfile(t, site{}), newProfile(t, site{}), newProfile(t, site{})
			for b, user := range map[*tab]string{phone: "ann", laptop: "ann", bob: "bob"} {
				b.visit(s.app+"/login", "/login")
				b.continues(user, "/")
				b.sees("Hello, " + user)
			}
			phone.press("For members", "/members/", 200)
			phone.visit(s.app, "/")

			elsewhere := phone.another()
			elsewhere.visit(s.provider+"/login", "/login")
			elsewhere.press("Log out everywhere", "/bye", 200)

			phone.sees("Hello, ann") // as it was
			phone.press("For members", "/login", 200)
			phone.sees("Name")
			laptop.press("For members", "/members/", 200)
			bob.press("For members", "/members/", 200)
			phone.continues("ann", "/members/")
		})
	}
}

// Two tabs log in at once, and each comes back to its page: the cookie comes along from the other site, though it is Lax.
func TestLoginInTabs(t *testing.T) {
	s := startOIDC(t)
	first := newProfile(t, site{})
	second := first.another()
	first.visit(s.app+"/members/1", "/login")
	second.visit(s.app+"/members/2", "/login")
	second.continues("ann", "/members/2")
	second.sees(`"2" for ann`)
	first.continues("ann", "/members/1")
	first.sees(`"1" for ann`)
	first.visit(s.app, "/")
	first.press("Log out", "/logged-out", 200)
	second.visit(s.app+"/members/2", "/login")
}
