package main

import (
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.com/session/internal/servertest"
)

// The defaults of the options.
const (
	idleTimeout     = 15 * time.Minute
	absoluteTimeout = 24 * time.Hour
	renewGrace      = 30 * time.Second
	window          = renewGrace + difference // for which a cookie is accepted once a newer one was shown
	lockLease       = 30 * time.Second
)

// margin is what a test may take between two moments that its processes' clocks set apart.
const margin = 30 * time.Second

var stores = []struct {
	name string
	url  func(*testing.T) string
}{
	{"dir", func(t *testing.T) string { return "dir://" + filepath.ToSlash(t.TempDir()) + "/sessions" }},
	{"redis", func(t *testing.T) string { return servertest.Redis(t).Apart(t, "prefix") }},
	{"redis cluster", func(t *testing.T) string { return servertest.RedisCluster(t).Apart(t, "prefix") }},
	{"memcached", func(t *testing.T) string { return servertest.Memcached(t).Apart(t, "prefix") }},
	{"mysql", func(t *testing.T) string { return servertest.MySQL(t).Apart(t, "table") }},
	{"mariadb", func(t *testing.T) string { return servertest.MariaDB(t).Apart(t, "table") }},
	{"postgres", func(t *testing.T) string { return servertest.PostgreSQL(t).Apart(t, "table") }},
	{"mongodb", func(t *testing.T) string { return servertest.MongoDB(t).Apart(t, "collection") }},
}

// Two processes whose clocks differ by a minute share a store, whose server has the time of one of them.
//
//   - No change is lost that was acknowledged, and nothing that has ended comes back.
//   - A session ends when the clock of the process that looks says so: a minute earlier or later for one than for
//     the other. A sweep removes what has expired for the process that sweeps.
//   - Renewal leads to one cookie, and the one before keeps working until that has been shown, whatever the clocks say;
//     after that for RenewGrace at least, since the window allows for the difference.
//   - A lock is taken over a minute early or late. The holder who lost it saves nothing.
func TestClocksThatDiffer(t *testing.T) {
	bin := build(t)
	tests := []struct {
		name string
		args []string
		run  func(t *testing.T, s *site)
	}{
		{"updates", nil, testUpdates},
		{"ended by the slower", nil, testEnded},
		{"ended by the faster", nil, func(t *testing.T, s *site) { testEnded(t, s.swapped()) }},
		{"user's ended by the slower", nil, testUserEnded},
		{"user's ended by the faster", nil, func(t *testing.T, s *site) { testUserEnded(t, s.swapped()) }},
		{"idle timeout", nil, func(t *testing.T, s *site) { testTimeout(t, s, idleTimeout) }},
		{"absolute timeout", []string{"-idle=24h"}, func(t *testing.T, s *site) { testTimeout(t, s, absoluteTimeout) }},
		{"sweep", nil, testSweep},
		{"renewal by the slower", nil, testRenewal},
		{"renewal by the faster", nil, func(t *testing.T, s *site) { testRenewal(t, s.swapped()) }},
		{"lock", []string{"-lock-wait=1s"}, testLock},
	}
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			for right, slow := range map[string]time.Duration{"slow is right": 0, "fast is right": -difference} {
				t.Run(right, func(t *testing.T) {
					for _, test := range tests {
						t.Run(test.name, func(t *testing.T) {
							test.run(t, &site{
								t: t, bin: bin, args: test.args, store: store.url(t), slow: slow, ahead: difference,
							})
						})
					}
				})
			}
		})
	}
}

func testUpdates(t *testing.T, s *site) {
	slow, fast := s.later(0)
	cookie := slow.begin()
	const clients, each = 4, 5
	var all sync.WaitGroup
	for _, p := range []*process{slow, fast} {
		for range clients {
			all.Go(func() {
				for range each {
					if got := p.do(cookie, "hit"); got.Status != http.StatusOK {
						t.Errorf("a hit: %+v", got)
					}
				}
			})
		}
	}
	all.Wait()
	for _, p := range []*process{slow, fast} {
		p.want("after all hits", p.do(cookie), http.StatusOK, 1+2*clients*each)
	}
}

// A session that one process ends, due for renewal or not, is not brought back by a request in flight at the other.
func testEnded(t *testing.T, s *site) {
	for _, age := range []time.Duration{0, 6 * time.Minute} {
		for _, step := range []string{"destroy", "regenerate"} {
			begun, _ := s.later(0)
			ending, other := s.later(age)
			cookie := begun.begin()
			reader, writer := other.hold(cookie, "hold"), other.hold(cookie, "hold", "hit")
			next := ending.want(step, ending.do(cookie, step), http.StatusOK, map[string]int{"regenerate": 1}[step])
			for what, goOn := range map[string]func() reply{"reader": reader, "writer": writer} {
				status, hits := http.StatusOK, 1
				if what == "writer" {
					status, hits = http.StatusConflict, 0
				}
				if got := other.want(what+" in flight", goOn(), status, hits); got.Cookie != "" {
					t.Errorf("%s in flight: it sets a cookie", what)
				}
			}
			for _, p := range []*process{ending, other} {
				p.want("the old cookie", p.do(cookie), http.StatusOK, 0)
				if got := p.do(cookie, "hit"); got.Status != http.StatusConflict && (got.Hits != 1 || !got.Unknown) {
					t.Errorf("a hit with the old cookie: %+v", got)
				}
				if step == "regenerate" {
					p.want("the new cookie", p.do(next.Cookie), http.StatusOK, 1)
				}
			}
		}
	}
}

// A user's sessions that one process ends are ended, also those that the other has just made or renewed.
func testUserEnded(t *testing.T, s *site) {
	one, _ := s.later(0)
	ending, other := s.later(6 * time.Minute)
	var cookies []string
	for range 3 {
		cookies = append(cookies, one.do(one.begin(), "login").Cookie)
	}
	renewing := other.hold(cookies[0], "hold", "hit")
	renewed := other.want("a renewal", other.do(cookies[1], "hit"), http.StatusOK, 2)
	cookies = append(cookies, renewed.Cookie, other.do(other.begin(), "login").Cookie)
	if n, _ := ending.count("/end"); n != 4 {
		t.Errorf("%d of 4 sessions were ended", n)
	}
	other.want("a renewal in flight", renewing(), http.StatusConflict, 0)
	for _, cookie := range cookies {
		for _, p := range []*process{ending, other} {
			p.want("an ended session", p.do(cookie), http.StatusOK, 0)
		}
	}
}

// testTimeout looks at sessions that end after that time. A look prolongs a session: each is looked at once.
func testTimeout(t *testing.T, s *site, timeout time.Duration) {
	slow, fast := s.later(0)
	for _, test := range []struct {
		what         string
		begun        *process
		after        time.Duration // by a clock that is right
		slower, fast int           // hits that each finds
	}{
		{"before any clock says so", slow, timeout - difference - margin, 1, 1},
		{"before any clock says so", fast, timeout - margin, 1, 1},
		{"when the faster says so", slow, timeout - margin, 1, 0},
		{"when the faster says so", fast, timeout + margin, 1, 0},
		{"when both say so", slow, timeout, 0, 0},
		{"when both say so", fast, timeout + difference, 0, 0},
	} {
		laterSlow, laterFast := s.later(test.after)
		laterSlow.want(test.what+", the slower", laterSlow.do(test.begun.begin()), http.StatusOK, test.slower)
		laterFast.want(test.what+", the faster", laterFast.do(test.begun.begin()), http.StatusOK, test.fast)
	}
}

func testSweep(t *testing.T, s *site) {
	begun, _ := s.later(0)
	expiring := begun.begin()
	begun, _ = s.later(12 * time.Minute) // so that it is not due for renewal
	lasting := begun.begin()
	slow, fast := s.later(idleTimeout - margin)
	n, ok := slow.count("/sweep")
	if !ok {
		t.Skip("the server removes the expired")
	}
	if n != 0 {
		t.Errorf("the slower one removed %d sessions", n)
	}
	if n, _ := fast.count("/sweep"); n != 1 {
		t.Errorf("the faster one removed %d sessions, want the expired one", n)
	}
	slow.want("what was swept", slow.do(expiring), http.StatusOK, 0)
	slow.want("what was not", slow.do(lasting), http.StatusOK, 1)
	fast.want("what was not", fast.do(lasting), http.StatusOK, 1)
}

// The former cookie works until a newer one was shown in a request that saves, and then for the window, whose end is a
// minute earlier or later by the clock of the other process. It never costs a change.
func testRenewal(t *testing.T, s *site) {
	const age = 6 * time.Minute
	begun, _ := s.later(0)
	one, other := s.later(age)

	cookie := begun.begin()
	var inFlight []func() reply
	for range 4 {
		inFlight = append(inFlight, one.hold(cookie, "hold", "hit"), other.hold(cookie, "hold", "hit"))
	}
	renewed := make(map[string]bool)
	for _, got := range together(inFlight) {
		if got.Status != http.StatusOK || got.Cookie == "" {
			t.Errorf("in flight at the moment of renewal: %+v", got)
		}
		renewed[got.Cookie] = true
	}
	if len(renewed) != 1 || renewed[cookie] {
		t.Errorf("renewal has led to %d cookies", len(renewed))
	}

	cookie = begun.begin()
	late := other.hold(cookie, "hold", "hit")
	next := one.want("renewal", one.do(cookie, "hit"), http.StatusOK, 2).Cookie
	if got := other.want("in flight", late(), http.StatusOK, 2); got.Cookie != next {
		t.Error("in flight: it gets another cookie than the one that was renewed")
	}
	laterOne, laterOther := s.later(age + idleTimeout - 2*margin - difference) // as long as the session lives
	hits := 3
	for _, p := range []*process{other, one, laterOne, laterOther} {
		hits++
		if got := p.want("nobody has shown the new cookie", p.do(cookie, "hit"), http.StatusOK, hits); got.Cookie != next {
			t.Error("the former cookie gets another than the one that was renewed")
		}
	}

	// The request that showed the new one, at either, begins the window.
	for _, confirming := range []*process{one, other} {
		cookie := begun.begin()
		next := one.want("renewal", one.do(cookie, "hit"), http.StatusOK, 2).Cookie
		confirming.want("confirmation", confirming.do(next, "hit"), http.StatusOK, 3)
		for _, p := range []*process{one, other} {
			p.want("within the window", p.do(cookie), http.StatusOK, 3)
		}
		within, withinOther := s.later(age + renewGrace - margin/2)
		for _, p := range []*process{within, withinOther} {
			p.want("within RenewGrace", p.do(cookie), http.StatusOK, 3)
		}
		after, afterOther := s.later(age + window + difference)
		for _, p := range []*process{after, afterOther} {
			if got := p.want("after the window", p.do(cookie), http.StatusOK, 0); !got.Unknown || got.Cookie != "" {
				t.Errorf("after the window: %+v", got)
			}
			p.want("the new cookie after the window", p.do(next), http.StatusOK, 3)
		}
	}
}

func testLock(t *testing.T, s *site) {
	slow, fast := s.later(0)
	cookie := slow.begin()
	holder := slow.hold(cookie, "lock", "hold", "hit")
	fast.want("taking over", fast.do(cookie, "lock", "hit"), http.StatusOK, 2)
	slow.want("who has lost the lock", holder(), http.StatusConflict, 0)
	slow.want("after that", slow.do(cookie), http.StatusOK, 2)

	holder = fast.hold(cookie, "lock", "hold", "hit")
	slow.want("waiting", slow.do(cookie, "lock", "hit"), http.StatusServiceUnavailable, 0)
	late, _ := s.later(lockLease)
	late.want("waiting for longer than the lease", late.do(cookie, "lock", "hit"), http.StatusServiceUnavailable, 0)
	late, _ = s.later(lockLease + difference + margin) // the holder extends it as long as it lives
	late.want("taking over", late.do(cookie, "lock", "hit"), http.StatusOK, 3)
	fast.want("who has lost the lock", holder(), http.StatusConflict, 0)
	slow.want("after that", slow.do(cookie), http.StatusOK, 3)
}

// together lets requests go on that hold, at the same time, and returns their replies.
func together(goOn []func() reply) []reply {
	replies := make([]reply, len(goOn))
	var all sync.WaitGroup
	for i, f := range goOn {
		all.Go(func() { replies[i] = f() })
	}
	all.Wait()
	return replies
}
