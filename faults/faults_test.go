package faults

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"example.com/session/internal/servertest"
)

// crowd is how many requests come at the same time: more than any store has connections on two cores.
const crowd = 30

// A fault is something that happens to a server, or on the way to it.
type fault struct {
	name  string
	addr  string // where the application finds the server
	begin func()
	end   func()
	// brief faults are over before anybody makes a request, but the connections are of no use any more.
	brief bool
	// readable: sessions can be read, and not saved.
	readable bool
	// ends: sessions can be ended all the same.
	ends bool
	// empty: the server has lost all data when the fault is over.
	empty bool
}

func TestFaults(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
		server := b.start(t)
		for _, f := range b.faults(t, server) {
			t.Run(f.name, func(t *testing.T) { f.test(t, b.url(server, f.addr)) })
		}
		for _, r := range b.refusals {
			t.Run(r.name, func(t *testing.T) {
				server := server
				if r.args != nil {
					server = b.start(t, r.args...)
				}
				f := fault{
					addr:     server.Addrs[0],
					begin:    func() { r.begin(t, server) },
					end:      func() { r.end(t, server) },
					readable: !r.unreadable,
					ends:     r.ends,
				}
				f.test(t, b.url(server, f.addr))
			})
		}
	})
}

// faults returns those that every server can have.
func (b *backend) faults(t *testing.T, server *servertest.Server) []fault {
	g := newGate(t, server.Addrs[0])
	poisoned := func(name, toxic, direction, attributes string) fault {
		return fault{
			name: name, addr: g.addr(), end: g.cure,
			begin: func() { g.poison(1, toxic, direction, attributes) },
		}
	}
	direct := server.Addrs[0]
	list := []fault{
		{name: "refused", addr: g.addr(), begin: g.shut, end: g.open},
		{name: "cut while idle", addr: g.addr(), begin: g.shut, end: g.open, brief: true},
		poisoned("reset", "reset_peer", "downstream", `"timeout": 0`),
		poisoned("reset in the middle of a reply", "limit_data", "downstream", `"bytes": 3`),
		poisoned("reset in the middle of a request", "limit_data", "upstream", `"bytes": 25`),
		poisoned("slow", "latency", "downstream", `"latency": 600000`),
		poisoned("silent, then closed", "timeout", "downstream", `"timeout": 300`),
		poisoned("replies lost", "timeout", "downstream", `"timeout": 0`),
		poisoned("requests lost", "timeout", "upstream", `"timeout": 0`),
		{name: "standing still", addr: direct, begin: server.Pause, end: server.Resume},
		{
			name: "killed, restarted empty", addr: direct, empty: true, begin: server.Kill,
			end: func() {
				server.Restart(true)
				b.ready(t, server)
			},
		},
	}
	if b.durable {
		restart := func() { server.Restart(false) }
		list = append(list,
			fault{name: "killed", addr: direct, begin: server.Kill, end: restart},
			fault{name: "restarted while idle", addr: direct, begin: server.Kill, end: restart, brief: true})
	} else {
		list = append(list, fault{
			name: "restarted empty while idle", addr: direct, empty: true, brief: true,
			begin: server.Kill, end: func() { server.Restart(true) },
		})
	}
	if b.disconnect != nil {
		list = append(list, fault{
			name: "connections closed by the server", addr: direct, brief: true,
			begin: func() { b.disconnect(t, server) }, end: func() {},
		})
	}
	return list
}

func (f fault) test(t *testing.T, rawURL string) {
	tr := begin(t, f.addr)
	a := openApp(t, rawURL)
	alice, bob, carol := a.login("alice"), a.login("bob"), a.login("carol")
	all(crowd, func(int) { alice.want("/get/user", "alice") }) // fills the pool

	// A request in whose middle the fault begins.
	const write = "/between/word/yes"
	switch {
	case !f.brief:
		a.between = f.begin
		bob.wantFailure(write, 2)
		f.during(t, a, alice, bob, carol)
		f.end()
	case !f.empty:
		a.between = func() { f.begin(); f.end() }
		bob.want(write, "set")
	default: // the session that was loaded is gone when it is to be saved: the change begins a new one
		a.between = func() { f.begin(); f.end() }
		if res := bob.do(write); res.status != http.StatusOK || len(res.cookies) != 1 {
			t.Errorf("%v; want 200 with a cookie", res)
		}
		bob.want("/get/word", "yes")
		bob.want("/get/user", "")
	}

	// The first requests after it. Any connection that the pool still holds may be of no use.
	if f.empty {
		all(crowd, func(int) { alice.want("/get/user", unknown) })
	} else {
		bob.want("/get/user", "bob")
		alice.want("/set/first/yes", "set")
		all(crowd, func(int) { alice.want("/get/first", "yes") })
		if f.brief {
			bob.want("/get/word", "yes")
		}
	}
	alice.want("/set/user/alice", "set")
	if alice.cookie == "" {
		t.Error("the session that was begun after the fault has no cookie")
	}
	alice.want("/get/user", "alice")

	a.close()
	tr.end()
}

// during sends all kinds of requests while the fault is there.
func (f fault) during(t *testing.T, a *app, alice, bob, carol *client) {
	steps := 1 // a session that cannot be read is not saved either
	if f.readable {
		steps = 2
	}
	var wg sync.WaitGroup
	wg.Go(func() { alice.want("/plain", "plain") })
	wg.Go(func() { (&client{app: a}).want("/plain", "plain") })
	wg.Go(func() { (&client{app: a}).wantFailure("/set/user/dave", 1) })
	wg.Go(func() {
		if f.ends {
			carol.want("/logout", "")
			carol.want("/get/user", unknown)
		} else {
			carol.wantFailure("/logout", steps)
		}
	})
	wg.Go(func() {
		all(crowd, func(i int) {
			if f.readable {
				alice.want("/get/user", "alice")
			} else {
				alice.wantFailure("/get/user", 1)
			}
		})
	})
	wg.Go(func() { all(8, func(i int) { bob.wantFailure(fmt.Sprintf("/set/word%d/yes", i), steps) }) })
	wg.Wait()
}
