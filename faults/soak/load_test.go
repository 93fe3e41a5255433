//go:build unix

package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A load is what all browsers do.
type load struct {
	tb      testing.TB
	began   time.Time
	rng     *rand.Rand
	client  *http.Client
	parts   []*part
	bases   []atomic.Pointer[string] // of the processes; nil: it takes no requests
	running sync.WaitGroup
	samples samples
	quietly atomic.Bool // they read only
	eager   float64     // how likely a request of who is logged out is a login
}

// A part is the browsers of one store.
type part struct {
	name     string
	checker  *checker
	browsers []*browser
	users    []*user
}

func (l *load) now() time.Duration { return time.Since(l.began) }

// newPart makes browsers: every other user has few, and the limit of sessions does not meet them, the others have more.
func newPart(name string, n int, s settings, now func() time.Duration) *part {
	p := &part{name: name, checker: newChecker(name, s, now)}
	for i := range n {
		if u := len(p.users); u == 0 || (u%2 == 1 && p.has(u-1) == 3) || p.has(u-1) == 5 {
			p.users = append(p.users, &user{name: fmt.Sprintf("%s-user-%d", name, u)})
		}
		jar, _ := cookiejar.New(nil)
		p.browsers = append(p.browsers, &browser{id: i, jar: jar, user: p.users[len(p.users)-1]})
	}
	return p
}

// has returns how many browsers the user has by now.
func (p *part) has(i int) (n int) {
	for _, b := range p.browsers {
		if b.user == p.users[i] {
			n++
		}
	}
	return n
}

// A draw is all that is random about a request.
type draw struct {
	part     *part
	browser  *browser
	what     float64
	tab      int
	base     int
	save     bool
	cut      float64
	hangUp   time.Duration
	sleep    float64
	sleeping float64
}

func (l *load) draw() draw {
	p := l.parts[l.rng.IntN(len(l.parts))]
	return draw{
		part: p, browser: p.browsers[l.rng.IntN(len(p.browsers))], what: l.rng.Float64(), tab: l.rng.IntN(tabs),
		base: l.rng.IntN(len(l.bases)), save: l.rng.IntN(2) == 0, cut: l.rng.Float64(),
		hangUp: time.Duration(l.rng.ExpFloat64() * float64(3*time.Millisecond)), sleep: l.rng.Float64(), sleeping: l.rng.Float64(),
	}
}

// run sends requests at the rate until the context ends. It waits for none of them.
func (l *load) run(ctx context.Context, rate float64) {
	next := time.Now()
	for ctx.Err() == nil {
		d := l.draw()
		burst := 1
		if d.cut > .9 { // a page with what belongs to it
			burst = 2
		}
		for i := range burst {
			d := d
			if i > 0 {
				d.tab = (d.tab + i) % tabs
				d.base = (d.base + i) % len(l.bases)
				d.cut = 1
			}
			l.start(d)
			next = next.Add(time.Duration(float64(time.Second) / rate))
		}
		if late := time.Since(next); late > time.Second { // after a standstill of the machine
			next = next.Add(late)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		}
	}
}

// start has a browser send a request, unless its lid is closed or the tab is waiting.
func (l *load) start(d draw) {
	k, b := d.part.checker, d.browser
	k.mu.Lock()
	now := k.now()
	idle := b.busy[d.tab] || b.asleep > now && !l.quietly.Load()
	if !idle {
		b.busy[d.tab] = true
		if d.sleep < .004 && !l.quietly.Load() { // it wakes up before the session has ended, or after
			b.asleep = now + time.Duration(float64(k.idle)*(.4+d.sleeping))
		}
	}
	k.mu.Unlock()
	if idle {
		return
	}
	l.running.Go(func() {
		l.do(d)
		k.mu.Lock()
		b.busy[d.tab] = false
		k.mu.Unlock()
	})
}

// do is one request.
func (l *load) do(d draw) {
	k, b := d.part.checker, d.browser
	k.mu.Lock()
	in, ghosts := b.cur != nil, len(b.ghosts)
	k.mu.Unlock()
	what := "read"
	switch {
	case l.quietly.Load():
	case d.what < .02 && ghosts > 0:
		l.haunt(d)
		return
	case !in && d.what < l.eager:
		what = "login"
	case d.what < .03:
		what = "logout"
	case d.what < .037:
		what = "login"
	case d.what < .04:
		what = "others"
	case d.what < .30:
		what = "add"
	case d.what < .42:
		what = "set"
	}
	if what == "login" || what == "logout" {
		if !b.heavy.TryLock() {
			what = "read"
		} else {
			defer b.heavy.Unlock()
		}
	}
	c := k.begin(b, what, d.tab)
	k.end(c, l.send(d, what, c.form(d), c.cookies))
}

// form returns the parameters of a request.
func (c *call) form(d draw) url.Values {
	form := url.Values{}
	if c.login != nil {
		form.Set("login", strconv.FormatUint(c.login.id, 10))
	}
	switch {
	case c.fresh != nil:
		form.Set("login", strconv.FormatUint(c.fresh.id, 10))
		form.Set("user", c.browser.user.name)
	case c.op != nil:
		form.Set("op", strconv.FormatUint(uint64(c.op.id), 10))
		if d.save {
			form.Set("save", "1")
		}
	case c.seq != 0:
		form.Set("tab", strconv.Itoa(d.tab))
		form.Set("seq", strconv.FormatUint(uint64(c.seq), 10))
	}
	return form
}

// haunt shows the cookie of a session that has ended.
func (l *load) haunt(d draw) {
	k, b := d.part.checker, d.browser
	k.mu.Lock()
	g := b.ghosts[int(d.sleeping*float64(len(b.ghosts)))]
	k.mu.Unlock()
	c := &call{what: "ghost", browser: b, start: k.now(), ghost: g}
	if g.cookie == "" {
		return
	}
	form := url.Values{"login": {strconv.FormatUint(g.id, 10)}, "op": {"1"}}
	k.end(c, l.send(d, []string{"read", "add", "others"}[int(d.sleeping*3)], form, []*http.Cookie{{Name: "session_id", Value: g.cookie}}))
}

// cutOff is how many of the responses get lost.
const cutOff = .02

// send sends a request to one of the processes, and loses some of the answers: the client hangs up, or what it gets is
// thrown away.
func (l *load) send(d draw, what string, form url.Values, cookies []*http.Cookie) answer {
	base := l.bases[d.base].Load()
	for i := 1; base == nil && i < len(l.bases); i++ { // the load balancer knows
		base = l.bases[(d.base+i)%len(l.bases)].Load()
	}
	if base == nil {
		return answer{kind: "lost", detail: "no process"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.cut < cutOff/2 {
		defer time.AfterFunc(d.hangUp, cancel).Stop()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, *base+"/"+d.part.name+"/"+what+"?"+form.Encode(), nil)
	if err != nil {
		l.tb.Error(err)
		return answer{kind: "lost"}
	}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	began := l.now()
	a := l.ask(r)
	kind := a.kind
	switch {
	case d.cut < cutOff/2 && a.kind == "lost":
		kind = "cut off"
	case d.cut >= cutOff/2 && d.cut < cutOff:
		a, kind = answer{kind: "lost"}, "cut off"
	case a.kind == "failed":
		kind = strconv.Itoa(a.status)
	}
	l.samples.add(sample{began, l.now() - began, d.part.name, kind})
	return a
}

func (l *load) ask(r *http.Request) answer {
	res, err := l.client.Do(r)
	if err != nil {
		return answer{kind: "lost", detail: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a := answer{kind: "failed", status: res.StatusCode, cookies: res.Cookies(), detail: strings.TrimSpace(string(body))}
	switch {
	case err != nil:
		return answer{kind: "lost", detail: err.Error()}
	case res.StatusCode == http.StatusOK:
		if a.kind = "ok"; json.Unmarshal(body, &a.state) != nil {
			l.tb.Errorf("%s: 200 %q", r.URL.Path, body)
		}
	case res.StatusCode == http.StatusConflict:
		a.kind = "refused"
	}
	return a
}
