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
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
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
				a := openApp(t, b.url(server, p.addr()), longTimeout)
				warm := a.login("warm")
				warm.want("/hit", "1") // Redis has to learn the script

				// The first save of a session.
				eve := &client{app: a}
				p.lose(test.requests, test.replies)
				want := 0
				if test.fails {
					eve.wantFailure("/hit")
				} else {
					eve.want("/hit", "1")
					want = 1
				}
				if p.count() == 0 {
					t.Error("nothing was lost at the first save")
				}
				p.lose(0, 0)
				want++
				eve.want("/hit", strconv.Itoa(want))

				// A later one.
				p.lose(test.requests, test.replies)
				if test.fails {
					eve.wantFailure("/hit")
				} else {
					want++
					eve.want("/hit", strconv.Itoa(want))
				}
				if p.count() == 0 {
					t.Error("nothing was lost at a later save")
				}
				p.lose(0, 0)
				want++
				eve.want("/hit", strconv.Itoa(want))
			})
		}
	})
}

func TestRandomResets(t *testing.T) {
	const clients, requests = 4, 30
	forEach(t, func(t *testing.T, b backend) {
		t.Parallel()
		server := b.shared(t)
		b.ready(t, server)
		g := newGate(t, server.Addrs[0])
		a := openApp(t, b.url(server, g.addr()), storeTimeout)
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
				if res := eve.do("/hit"); res.status == http.StatusOK {
					saved.Add(1)
				} else {
					failed.Add(1)
					a.checkFailure(res, 2)
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
