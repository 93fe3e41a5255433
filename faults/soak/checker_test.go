//go:build unix

package soak

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"sync"
	"time"
)

const (
	// slack is how much later than the clock says something may end: a process reads it before it is scheduled away.
	slack = 2 * time.Second
	// landing is how long a request may go on whose client has hung up. It is longer than what all steps of one take.
	landing = 20 * time.Second
	// young is for how long the list of a user may count a session that has ended, beyond its login.
	young = 65*time.Second + slack
	// replication is how long before its death a master's acknowledgements are worth nothing.
	replication = time.Second
)

// A login is a session, from one login to its end.
type login struct {
	id      uint64
	browser *browser
	start   time.Duration // of the request; times are from the beginning of the run
	end     time.Duration // when it was acknowledged; 0: it was not
	tried   time.Duration // when it came to nothing that the browser knows of; 0: it did not
	cookie  string        // when it ended, for another try

	mayEnd  time.Duration // since when there is a reason for its end; 0: there is none
	why     string
	mustEnd time.Duration // since when it has ended for sure; 0: it has not
	because string

	used     time.Duration // when the last request began that found it
	lastUse  time.Duration // until when it may have been used
	ops      map[uint32]*operation
	unplaced map[uint32]*operation // acknowledged, and not seen yet
	places   map[int]*operation    // by their number in the ledger
	top      int                   // the highest of these
	flying   int                   // requests under way
	tabs     [tabs]register
}

// An operation adds to a ledger.
type operation struct {
	id      uint32
	acked   time.Duration
	refused bool
	place   int           // from 1; 0: it has not been seen
	seen    time.Duration // at that place
}

// A register is a value that one tab alone sets, one time after the other.
type register struct {
	acked   uint32
	at      time.Duration   // when it was acknowledged
	unknown map[uint32]bool // what may have become of these
	tried   uint32
}

// A browser keeps cookies, and knows what it is logged in as.
type browser struct {
	id     int
	user   *user
	jar    *cookiejar.Jar
	cur    *login
	since  time.Duration // when its last login or logout was acknowledged
	ghosts []*login      // have ended
	asleep time.Duration // until when
	busy   [tabs]bool
	heavy  sync.Mutex // of a login, a logout: a person does one after the other
}

// A user has several browsers.
type user struct {
	name     string
	logins   []*login
	othersIn int           // requests under way that end sessions of the user
	othersTo time.Duration // until when such a request may go on
	loginsIn int
}

// A call is one request of a browser's.
type call struct {
	what    string
	browser *browser
	start   time.Duration
	cookies []*http.Cookie
	login   *login // of the browser, when the request began
	fresh   *login // that the request begins
	ghost   *login // whose cookie it shows
	op      *operation
	tab     int
	seq     uint32
	settled map[*operation]bool // had been seen when it began, or acknowledged
	tabsAt  [tabs]uint32        // what was acknowledged when it began
	placed  map[int]*operation
	dead    bool // the login had ended for sure, by the clock
}

// An answer is what the browser got.
type answer struct {
	kind    string // ok, refused, failed, lost
	status  int
	state   state
	cookies []*http.Cookie
	detail  string
}

// A checker knows what the browsers of one store were told. All its methods take the lock, but those that begin with "check".
type checker struct {
	name string
	settings
	site *url.URL
	now  func() time.Duration

	mu         sync.Mutex
	logins     map[uint64]*login
	next       uint64
	nextOp     uint32
	losses     [][2]time.Duration // when a master was killed: from, to
	violations []string
	count      map[string]int
}

func newChecker(name string, s settings, now func() time.Duration) *checker {
	site, _ := url.Parse("http://site/" + name + "/")
	return &checker{name: name, settings: s, site: site, now: now, logins: map[uint64]*login{}, count: map[string]int{}}
}

// loses notes that what was acknowledged until now, and not long before, may be lost.
func (k *checker) loses(from, to time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.losses = append(k.losses, [2]time.Duration{from - replication, to + slack})
}

func (k *checker) risky(at time.Duration) bool {
	return slices.ContainsFunc(k.losses, func(l [2]time.Duration) bool { return l[0] <= at && at <= l[1] })
}

// violated notes a broken promise, or one that a failover has broken.
func (k *checker) violated(excused bool, format string, args ...any) {
	text := fmt.Sprintf("%v %s: ", k.now().Round(time.Millisecond), k.name) + fmt.Sprintf(format, args...)
	if excused {
		k.count["lost by the failover"]++
		return
	}
	k.violations = append(k.violations, text)
}

// excuse notes a reason for which a login may end from now on.
func (l *login) excuse(why string, at time.Duration) {
	if l.mayEnd == 0 || at < l.mayEnd {
		l.mayEnd, l.why = at, why
	}
}

// over notes that a login has ended.
func (l *login) over(because string, at time.Duration) {
	l.excuse(because, at)
	if l.mustEnd == 0 {
		l.mustEnd, l.because = at, because
	}
}

// begin is called before a request is sent.
func (k *checker) begin(b *browser, what string, tab int) *call {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &call{what: what, browser: b, start: k.now(), cookies: b.jar.Cookies(k.site), login: b.cur, tab: tab}
	l := c.login
	if l != nil {
		c.placed = make(map[int]*operation, tail)
		for n := max(1, l.top-tail+1); n <= l.top; n++ {
			if op := l.places[n]; op != nil {
				c.placed[n] = op
			}
		}
		c.dead = l.flying == 0 && k.dead(l, c.start)
		l.flying++
		c.settled = make(map[*operation]bool)
		for _, op := range l.unplaced {
			c.settled[op] = true
		}
		for i := range l.tabs {
			c.tabsAt[i] = l.tabs[i].acked
		}
	}
	switch {
	case what == "login":
		k.beginLogin(c)
	case l == nil:
	case what == "add":
		k.nextOp++
		c.op = &operation{id: k.nextOp}
		l.ops[c.op.id] = c.op
	case what == "set":
		l.tabs[tab].tried++
		c.seq = l.tabs[tab].tried
		l.tabs[tab].unknown[c.seq] = true
	case what == "logout":
		l.excuse("logout", c.start)
	case what == "others":
		b.user.othersIn++
		for _, other := range b.user.logins {
			if other != l {
				other.excuse("others", c.start)
			}
		}
	}
	return c
}

func (k *checker) beginLogin(c *call) {
	k.next++
	u := c.browser.user
	l := &login{
		id: k.next, browser: c.browser, start: c.start, ops: map[uint32]*operation{}, unplaced: map[uint32]*operation{},
		places: map[int]*operation{},
	}
	for i := range l.tabs {
		l.tabs[i].unknown = map[uint32]bool{}
	}
	if u.othersIn > 0 || c.start <= u.othersTo {
		l.excuse("others, meanwhile", c.start)
	}
	if c.login != nil {
		c.login.excuse("login", c.start)
	}
	u.logins = slices.DeleteFunc(u.logins, func(l *login) bool { return k.forgotten(l) })
	u.logins = append(u.logins, l)
	u.loginsIn++
	k.logins[l.id], c.fresh = l, l
	// Those end that the limit leaves no room for: that many others are younger.
	for _, old := range u.logins {
		younger := 0
		for _, y := range u.logins {
			if y != old && y != c.login && (y.end == 0 || y.end >= old.start) && k.counts(y, c.start) {
				younger++
			}
		}
		if old != l && younger >= k.limit {
			old.excuse("limit", c.start)
		}
	}
}

// counts reports whether the list of a user may have it that a login lives.
func (k *checker) counts(l *login, now time.Duration) bool {
	known := max(l.end, l.tried)
	if known == 0 || now < known+young+landing {
		return true
	}
	return !k.dead(l, now)
}

// dead reports whether a login cannot live.
func (k *checker) dead(l *login, now time.Duration) bool {
	idle := l.lastUse
	if l.end == 0 {
		if l.tried == 0 {
			return false
		}
		idle = max(idle, l.tried+landing)
	}
	return l.mustEnd != 0 && l.mustEnd <= now || idle+k.idle+slack <= now || l.end != 0 && l.end+k.absolute+slack <= now
}

// forgotten reports whether nothing more can be learned about a login.
func (k *checker) forgotten(l *login) bool {
	return k.dead(l, k.now()-5*time.Minute) && l.browser.cur != l
}

// reason returns why a login may have ended, empty if it may not.
func (k *checker) reason(l *login, now time.Duration) string {
	if l.mayEnd != 0 && l.mayEnd <= now {
		return l.why
	}
	return k.expired(l, now)
}

// expired returns which timeout may have ended a login, empty for none.
func (k *checker) expired(l *login, now time.Duration) string {
	switch {
	case l.used+k.idle*9/10-slack <= now:
		return "idle"
	case l.start+k.absolute-slack <= now:
		return "absolute"
	}
	return ""
}
