//go:build unix

package soak

import (
	"fmt"
	"slices"
	"time"
)

// checkState judges what a response says of the browser's session.
func (k *checker) checkState(c *call, a answer, now time.Duration) {
	l := c.login
	if l != nil && l.browser.cur == l {
		l.lastUse = max(l.lastUse, now)
		if a.kind == "lost" || a.kind == "failed" {
			l.lastUse = max(l.lastUse, now+landing)
		}
	}
	switch {
	case c.what == "login":
		return
	case a.kind == "refused":
		if l == nil || c.what == "read" || k.reason(l, now) == "" {
			k.violated(l != nil && k.risky(l.end), "%s of login %v is refused without a reason: %s", c.what, l, a.detail)
		}
		return
	case a.kind != "ok":
		return
	case a.state.Login == 0 && c.what == "logout" && a.state.Done:
		return
	case a.state.Login == 0:
		k.checkNone(c, now)
		return
	}
	found := k.logins[a.state.Login]
	switch {
	case found == nil || found.browser != c.browser || a.state.User != c.browser.user.name:
		k.violated(false, "browser %d of %s gets login %d of %s", c.browser.id, c.browser.user.name, a.state.Login, a.state.User)
		return
	case found.mustEnd != 0 && found.mustEnd <= c.start:
		k.violated(k.risky(found.mustEnd), "login %d is back, which ended by %s at %v", found.id, found.because, found.mustEnd)
		return
	case found == l && c.dead:
		k.violated(false, "login %d outlives its timeout: acknowledged at %v, last used at %v", found.id, found.end, found.lastUse)
	}
	if found != l {
		return
	}
	l.used = max(l.used, c.start)
	k.checkTabs(c, a)
	if a.state.Exact {
		k.checkLedger(c, a, now)
	}
}

// checkNone judges that a browser has no session.
func (k *checker) checkNone(c *call, now time.Duration) {
	l, b := c.login, c.browser
	if l == nil || b.cur != l {
		return
	}
	why := k.reason(l, now)
	if why == "" {
		k.violated(k.risky(l.end), "browser %d of %s is logged out without a reason: %s, cookies %d", b.id, b.user.name, l, len(c.cookies))
		why = "nothing"
	}
	k.count["ended by "+why]++
	k.bury(l, why, now, c)
	b.cur = nil
}

// checkTabs judges the values that are set.
func (k *checker) checkTabs(c *call, a answer) {
	for i, v := range a.state.Tabs {
		r := &c.login.tabs[i]
		if c.what == "set" && i == c.tab {
			continue // it is what the request sets
		}
		if v >= c.tabsAt[i] && v <= r.tried || r.unknown[v] {
			continue
		}
		k.violated(k.risky(r.at), "login %d has %d in tab %d, acknowledged was %d of %d", c.login.id, v, i, c.tabsAt[i], r.tried)
		r.acked = min(r.acked, v)
	}
}

// checkLedger judges the operations that were applied.
func (k *checker) checkLedger(c *call, a answer, now time.Duration) {
	l, st := c.login, a.state
	first := st.Count - len(st.Tail) + 1
	for i, id := range st.Tail {
		n, op := first+i, l.ops[id]
		switch {
		case op == nil:
			k.violated(false, "login %d has operation %d, which was not asked for", l.id, id)
		case op.refused:
			k.violated(false, "login %d has operation %d, which was refused", l.id, id)
		case slices.Index(st.Tail, id) != i, op.place != 0 && op.place < first:
			k.violated(false, "login %d has operation %d twice, as number %d", l.id, id, n)
		case l.places[n] != nil && l.places[n] != op, op.place != 0 && op.place != n:
			k.replaced(l, op, n, now)
		case op.place == 0:
			op.place, op.seen, l.places[n], l.top = n, now, op, max(l.top, n)
			delete(l.unplaced, id)
		}
	}
	// What was there before has to be there still, and what was acknowledged before has to have come.
	for n, op := range c.placed {
		if n > st.Count {
			k.lost(l, op, st.Count, now)
		}
	}
	for op := range c.settled {
		if op.place == 0 && !slices.Contains(st.Tail, op.id) {
			k.lost(l, op, st.Count, now)
		}
	}
}

// replaced judges that another operation is where one was.
func (k *checker) replaced(l *login, op *operation, n int, now time.Duration) {
	was := l.places[n]
	excused := was == nil || was.acked == 0 || k.risky(was.acked) || k.risky(was.seen)
	k.violated(excused && len(k.losses) > 0, "login %d has operation %d as number %d, where %+v was", l.id, op.id, n, was)
	if was != nil {
		was.place = 0
		delete(l.unplaced, was.id)
	}
	op.place, op.seen, l.places[n], l.top = n, now, op, max(l.top, n)
}

// lost judges that an operation is not there.
func (k *checker) lost(l *login, op *operation, count int, now time.Duration) {
	k.violated(k.risky(op.acked) || k.risky(op.seen), "login %d has lost operation %+v, and has %d at %v", l.id, *op, count, now)
	if op.place != 0 && l.places[op.place] == op {
		delete(l.places, op.place)
	}
	delete(l.unplaced, op.id)
	op.place, l.top = 0, min(l.top, count)
}

func (l *login) String() string {
	if l == nil {
		return "none"
	}
	return fmt.Sprintf("login %d from %v to %v (tried %v), used at %v, may end at %v (%s), ended at %v", l.id, l.start, l.end, l.tried, l.used, l.mayEnd, l.why, l.mustEnd)
}
