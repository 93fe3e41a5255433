package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// deviceFeatures has Chromium bind sessions to keys, which it keeps in software for want of hardware, tell of them, and
// prove possession as often as tests want: usually it does six times in nine minutes.
const deviceFeatures = "DeviceBoundSessions:RefreshQuota/false,EnableBoundSessionCredentialsSoftwareKeysForManualTesting," +
	"DeviceBoundSessionsDevTools"

// An inbox keeps what arrives until a test waits for it.
type inbox[E any] struct {
	mu      sync.Mutex
	kept    []E
	arrived chan struct{} // closed with the next one, if anybody waits
}

func (in *inbox[E]) put(e E) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kept = append(in.kept, e)
	if in.arrived != nil {
		close(in.arrived)
		in.arrived = nil
	}
}

// wait returns the next that matches. It forgets those before it.
func (in *inbox[E]) wait(t *testing.T, match func(E) bool) E {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		in.mu.Lock()
		if i := slices.IndexFunc(in.kept, match); i >= 0 {
			e := in.kept[i]
			in.kept = in.kept[i+1:]
			in.mu.Unlock()
			return e
		}
		if in.arrived == nil {
			in.arrived = make(chan struct{})
		}
		arrived := in.arrived
		in.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			in.mu.Lock()
			defer in.mu.Unlock()
			t.Fatalf("it has not arrived; of others there are %d: %+v", len(in.kept), in.kept)
		}
	}
}

// forget drops what nobody has waited for, and returns how many of them match.
func (in *inbox[E]) forget(match func(E) bool) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for _, e := range in.kept {
		if match != nil && match(e) {
			n++
		}
	}
	in.kept = nil
	return n
}

type keyEvent = network.EventDeviceBoundSessionEventOccurred

// Keys are what a profile's browser tells of the keys that it binds sessions to.
type keys struct {
	inbox[*keyEvent]
	tab *tab
}

// keys has the browser tell of the profile's keys from now on.
func (b *tab) keys() *keys {
	b.t.Helper()
	k := &keys{tab: b}
	err := chromedp.Listen(b.ctx, func(event any) {
		if e, ok := event.(*keyEvent); ok {
			k.put(e)
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	call(b, network.EnableDeviceBoundSessions, network.EnableDeviceBoundSessionsParams{Enable: true})
	return k
}

// registered waits until the browser has answered an offer, and returns the key's name. The cookie is there by then.
func (k *keys) registered() *network.DeviceBoundSessionKey {
	k.tab.t.Helper()
	e := k.wait(k.tab.t, func(e *keyEvent) bool { return e.CreationEventDetails != nil })
	if !e.Succeeded {
		k.tab.t.Fatalf("the registration failed: %+v", e.CreationEventDetails)
	}
	return e.CreationEventDetails.NewSession.Key
}

// ended waits until the browser has thrown a key away, and returns why.
func (k *keys) ended() network.TerminationEventDetailsDeletionReason {
	k.tab.t.Helper()
	e := k.wait(k.tab.t, func(e *keyEvent) bool { return e.TerminationEventDetails != nil })
	return e.TerminationEventDetails.DeletionReason
}

// lose has the browser throw a key away.
func (k *keys) lose(key *network.DeviceBoundSessionKey) {
	k.tab.t.Helper()
	call(k.tab, network.DeleteDeviceBoundSession, network.DeleteDeviceBoundSessionParams{Key: key})
	k.ended()
}

// runOut removes the cookies of those names, as the browser does when their time has come.
func (b *tab) runOut(names ...string) {
	b.t.Helper()
	for _, name := range names {
		call(b, network.DeleteCookies, network.DeleteCookiesParams{Name: name, Domain: "www.example.test"})
	}
}

// holds returns the values of the browser's cookies by their names.
func (b *tab) holds() map[string]string {
	b.t.Helper()
	values := make(map[string]string)
	for _, c := range b.cookies() {
		values[c.Name] = c.Value
	}
	return values
}

// steal has the browser take over all cookies of another, and keep them whatever the server said of that.
func (b *tab) steal(from *tab) {
	b.t.Helper()
	for _, c := range from.cookies() {
		call(b, network.SetCookie, network.SetCookieParams{
			URL: from.site.home(), Path: c.Path, Name: c.Name, Value: c.Value, Secure: &c.Secure, HTTPOnly: &c.HTTPOnly, SameSite: c.SameSite,
		})
	}
}
