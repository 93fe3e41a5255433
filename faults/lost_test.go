package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// always is more than the tries that anything gets.
const always = 1 << 30

func TestLostReply(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
		b.skipEncrypted(t)
		server := b.shared(t)
		b.ready(t, server)
		for _, test := range []struct {
			name              string
			requests, replies int // that are lost
			fails             bool
		}{
			{name: "reply", replies: 1},
			{name: "two replies", replies: 2},
			{name: "every reply", replies: always},
			{name: "request", requests: 1},
			{name: "request and reply", requests: 1, replies: 1},
			{name: "every request", requests: always, fails: true},
		} {
			t.Run(test.name, func(t *testing.T) {
				p := newLossy(t, server.Addrs[0], counter)
				a := openApp(t, b.url(server, p.addr))
				warm := a.login("warm")
				warm.want("/hit", "1") // Redis has to learn the script

				// The first save of a session.
				eve := &client{app: a}
				p.lose(test.requests, test.replies, nil)
				want := 0
				if test.fails {
					a.checkFailure(eve.do("/hit"), longTimeout)
				} else {
					eve.want("/hit", "1")
					want = 1
				}
				if p.count() == 0 {
					t.Error("nothing was lost at the first save")
				}
				p.lose(0, 0, nil)
				want++
				eve.want("/hit", strconv.Itoa(want))

				// A later one.
				p.lose(test.requests, test.replies, nil)
				if test.fails {
					a.checkFailure(eve.do("/hit"), longTimeout)
				} else {
					want++
					eve.want("/hit", strconv.Itoa(want))
				}
				if p.count() == 0 {
					t.Error("nothing was lost at a later save")
				}
				p.lose(0, 0, nil)
				want++
				eve.want("/hit", strconv.Itoa(want))
			})
		}
	})
}

// TestLostReplyAndAnother has another process save before anybody can look whether the first save took effect: it
// is no longer what the record holds last.
func TestLostReplyAndAnother(t *testing.T) {
	t.Parallel()
	const others = 3
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
		b.skipEncrypted(t)
		server := b.shared(t)
		b.ready(t, server)
		p := newLossy(t, server.Addrs[0], counter)
		a := openApp(t, b.url(server, p.addr))
		elsewhere := openApp(t, b.url(server, server.Addrs[0]))
		eve := a.login("eve")
		eve.want("/hit", "1")
		p.lose(0, 1, func() {
			for i := range others {
				(&client{app: elsewhere, cookie: eve.cookie}).want("/hit", strconv.Itoa(3+i))
			}
		})
		eve.want("/hit", "2")
		if p.count() != 1 {
			t.Errorf("%d replies were lost, want 1", p.count())
		}
		eve.want("/hit", strconv.Itoa(3+others))
	})
}

func TestRandomResets(t *testing.T) {
	t.Parallel()
	const clients, requests = 4, 30
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
		server := b.shared(t)
		b.ready(t, server)
		g := newGate(t, server.Addrs[0])
		a := openApp(t, b.url(server, g.addr()))
		eve := a.login("eve")
		eve.want("/hit", "1")

		var mu sync.Mutex
		poisoned := false
		disturb := func() {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case rand.IntN(3) > 0:
			case poisoned:
				g.cure()
				poisoned = false
			default:
				g.poison(0.5, "limit_data", "downstream", fmt.Sprintf(`"bytes": %d`, rand.IntN(100)))
				poisoned = true
			}
		}
		var saved, failed atomic.Int32
		all(clients, func(int) {
			for range requests {
				disturb()
				if res := eve.send(a.hurried, "/hit"); res.status == http.StatusOK {
					saved.Add(1)
				} else {
					failed.Add(1)
					a.checkFailure(res, 2*storeTimeout+patience)
				}
			}
		})
		g.cure()
		least := 1 + int(saved.Load())
		most := least + int(failed.Load())
		res := eve.do("/hit")
		n, err := strconv.Atoi(res.body)
		if res.status != http.StatusOK || err != nil || n-1 < least || n-1 > most {
			t.Errorf("%v; want %d to %d before it", res, least, most)
		}
		t.Logf("%d saved, %d failed, of which %d were saved", saved.Load(), failed.Load(), n-1-least)
	})
}
