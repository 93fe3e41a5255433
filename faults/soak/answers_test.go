//go:build unix

package soak

import "time"

// end is called when the answer is there, or lost.
func (k *checker) end(c *call, a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, b := k.now(), c.browser
	if c.login != nil {
		c.login.flying--
	}
	k.count[c.what+" "+a.kind]++
	if c.ghost != nil {
		if a.kind == "ok" && a.state.Login != 0 {
			k.violated(k.risky(c.ghost.mustEnd), "the cookie of login %d, ended by %s at %v, leads to login %d", c.ghost.id, c.ghost.because, c.ghost.mustEnd, a.state.Login)
		}
		return
	}
	if a.kind != "lost" && len(a.cookies) > 0 {
		if c.start < b.since && c.what != "login" && b.cur != nil && c.login != b.cur {
			b.cur.excuse("a response that was overtaken", now)
			k.count["overtaken"]++
		}
		b.jar.SetCookies(k.site, a.cookies)
	}
	k.checkState(c, a, now)
	switch c.what {
	case "login":
		k.endLogin(c, a, now)
	case "add":
		k.endAdd(c, a, now)
	case "set":
		k.endSet(c, a, now)
	case "logout":
		if a.kind == "ok" && a.state.Done {
			k.bury(c.login, "logout", now, c)
			b.cur, b.since = nil, now
		}
	case "others":
		k.endOthers(c, a, now)
	}
}

// bury notes that a login has ended, whose cookie the browser had.
func (k *checker) bury(l *login, because string, now time.Duration, c *call) {
	l.over(because, now)
	for _, cookie := range c.cookies {
		l.cookie = cookie.Value
	}
	g := &l.browser.ghosts
	if *g = append(*g, l); len(*g) > 8 {
		*g = (*g)[1:]
	}
}

func (k *checker) endLogin(c *call, a answer, now time.Duration) {
	b, l, u := c.browser, c.fresh, c.browser.user
	u.loginsIn--
	l.lastUse = now
	switch a.kind {
	case "ok":
		if a.state.Login != l.id || a.state.User != u.name {
			k.violated(false, "login %d of %s reads %d of %s", l.id, u.name, a.state.Login, a.state.User)
		}
		l.end, l.used = now, c.start
		if c.login != nil {
			k.bury(c.login, "login", now, c)
		}
		b.cur, b.since = l, now
	case "refused":
		if l.mayEnd == 0 && u.loginsIn == 0 && u.othersIn == 0 {
			k.violated(false, "login %d of %s is refused without a reason: %s", l.id, u.name, a.detail)
		}
		fallthrough
	default:
		l.tried = now
	}
}

func (k *checker) endAdd(c *call, a answer, now time.Duration) {
	if c.op == nil {
		return
	}
	switch {
	case a.kind == "ok" && a.state.Done:
		c.op.acked = now
		if c.op.place == 0 {
			c.login.unplaced[c.op.id] = c.op
		}
	case a.kind == "ok", a.kind == "refused":
		if c.op.refused = true; c.op.place != 0 {
			k.violated(false, "operation %d of login %d is refused, and was applied", c.op.id, c.login.id)
		}
	}
}

func (k *checker) endSet(c *call, a answer, now time.Duration) {
	if c.seq == 0 {
		return
	}
	r := &c.login.tabs[c.tab]
	switch {
	case a.kind == "ok" && a.state.Done:
		r.acked, r.at = max(r.acked, c.seq), now
		delete(r.unknown, c.seq)
	case a.kind == "ok", a.kind == "refused":
		delete(r.unknown, c.seq)
	}
}

func (k *checker) endOthers(c *call, a answer, now time.Duration) {
	if c.login == nil {
		return
	}
	u := c.browser.user
	u.othersIn--
	if u.othersTo = max(u.othersTo, now); a.kind != "ok" {
		u.othersTo = max(u.othersTo, now+landing)
	}
	if a.kind != "ok" || !a.state.Done {
		return
	}
	for _, l := range u.logins {
		before := l.end != 0 && l.end <= c.start || l.end == 0 && l.tried != 0 && l.tried+landing <= c.start
		if l != c.login && before {
			l.over("others", now)
		}
	}
}
