//go:build unix

package soak

import (
	"strings"
	"testing"
	"time"
)

// A story is what browsers do and are told, at times that it sets.
type story struct {
	t   *testing.T
	k   *checker
	p   *part
	at  time.Duration
	log *ledger // of the session that is told of
}

func newStory(t *testing.T) *story {
	st := &story{t: t, log: new(ledger)}
	s := settings{idle: 40 * time.Second, absolute: 4 * time.Minute, limit: 4}
	st.p = newPart("x", 9, s, func() time.Duration { st.at += time.Millisecond; return st.at })
	st.k = st.p.checker
	return st
}

// a is the first browser, b another one of the same user, and c another user's.
func (s *story) a() *browser { return s.p.browsers[0] }
func (s *story) b() *browser { return s.p.browsers[1] }
func (s *story) c() *browser { return s.p.browsers[4] }

func (s *story) login(b *browser) *login {
	c := s.k.begin(b, "login", 0)
	s.k.end(c, answer{kind: "ok", state: state{Login: c.fresh.id, User: b.user.name, Done: true}})
	return c.fresh
}

// tell ends a request with what the session of that login is; nil: there is none.
func (s *story) tell(c *call, l *login) {
	var st state
	if l != nil {
		st = state{Login: l.id, User: l.browser.user.name, Done: l == c.login, Exact: true, ledger: *s.log}
		for i := range l.tabs {
			st.Tabs[i] = l.tabs[i].acked
		}
	}
	s.k.end(c, answer{kind: "ok", state: st})
}

func (s *story) read(b *browser, l *login) { s.tell(s.k.begin(b, "read", 0), l) }

// add adds to the ledger, as often as it says.
func (s *story) add(b *browser, times int) *operation {
	c := s.k.begin(b, "add", 0)
	for range times {
		*s.log = s.log.add(c.op.id)
	}
	s.k.end(c, answer{kind: "ok", state: state{Login: c.login.id, User: b.user.name, Done: true}})
	return c.op
}

// ask ends a request with no news but that of kind.
func (s *story) ask(b *browser, what, kind string) *call {
	c := s.k.begin(b, what, 0)
	s.k.end(c, answer{kind: kind, state: state{Done: true}})
	return c
}

// others ends the user's other sessions.
func (s *story) others(b *browser) {
	c := s.k.begin(b, "others", 0)
	s.tell(c, c.login)
}

// TestChecker wants the checker to find what is wrong, and nothing else.
func TestChecker(t *testing.T) {
	for _, test := range []struct {
		name string
		tell func(*story)
		want string // part of the violation; empty: none
	}{
		{"a session is found", func(s *story) { s.read(s.a(), s.login(s.a())) }, ""},
		{"a visitor has none", func(s *story) { s.read(s.a(), nil) }, ""},
		{"a session vanishes", func(s *story) { s.login(s.a()); s.read(s.a(), nil) }, "logged out without a reason"},
		{"a logout", func(s *story) { s.login(s.a()); s.ask(s.a(), "logout", "ok"); s.read(s.a(), nil) }, ""},
		{"a logout whose answer was lost", func(s *story) { s.login(s.a()); s.ask(s.a(), "logout", "lost"); s.read(s.a(), nil) }, ""},
		{"a session that is back after a logout", func(s *story) {
			l := s.login(s.a())
			s.ask(s.a(), "logout", "ok")
			s.read(s.a(), l)
		}, "is back"},
		{"a request that began before a logout", func(s *story) {
			l := s.login(s.a())
			c := s.k.begin(s.a(), "read", 1)
			s.ask(s.a(), "logout", "ok")
			s.tell(c, l)
		}, ""},
		{"the cookie of a session that ended leads to one", func(s *story) {
			l := s.login(s.a())
			s.ask(s.a(), "logout", "ok")
			s.k.end(&call{what: "ghost", browser: s.a(), start: s.at, ghost: l}, answer{kind: "ok", state: state{Login: l.id}})
		}, "the cookie of login 1"},
		{"another browser's session", func(s *story) { l := s.login(s.a()); s.login(s.c()); s.read(s.c(), l) }, "gets login 1"},
		{"others", func(s *story) { s.login(s.a()); s.login(s.b()); s.others(s.b()); s.read(s.a(), nil) }, ""},
		{"others that end one's own", func(s *story) { s.login(s.a()); s.others(s.a()); s.read(s.a(), nil) }, "without a reason"},
		{"others of another user", func(s *story) { s.login(s.a()); s.login(s.c()); s.others(s.c()); s.read(s.a(), nil) }, "without a reason"},
		{"others that leave one", func(s *story) { l := s.login(s.a()); s.login(s.b()); s.others(s.b()); s.read(s.a(), l) }, "is back"},
		{"others with a login under way", func(s *story) {
			s.login(s.b())
			c := s.k.begin(s.b(), "others", 0)
			s.login(s.a())
			s.tell(c, c.login)
			s.read(s.a(), nil)
		}, ""},
		{"a login after others", func(s *story) { s.login(s.b()); s.others(s.b()); s.login(s.a()); s.read(s.a(), nil) }, "without a reason"},
		{"idle for long", func(s *story) { s.login(s.a()); s.at += 38 * time.Second; s.read(s.a(), nil) }, ""},
		{"idle for less", func(s *story) { s.login(s.a()); s.at += 33 * time.Second; s.read(s.a(), nil) }, "without a reason"},
		{"idle for too long", func(s *story) { l := s.login(s.a()); s.at += 43 * time.Second; s.read(s.a(), l) }, "outlives"},
		{"in use for too long", func(s *story) {
			l := s.login(s.a())
			for range 9 {
				s.at += 30 * time.Second
				s.read(s.a(), l)
			}
		}, "outlives"},
		{"a change refused", func(s *story) { s.login(s.a()); s.ask(s.a(), "add", "refused") }, "refused without a reason"},
		{"a change refused after a logout", func(s *story) {
			s.login(s.a())
			c := s.k.begin(s.a(), "add", 1)
			s.ask(s.a(), "logout", "ok")
			s.k.end(c, answer{kind: "refused"})
		}, ""},
		{"a login refused", func(s *story) { s.ask(s.a(), "login", "refused") }, "refused without a reason"},
		{"a write", func(s *story) { l := s.login(s.a()); s.add(s.a(), 1); s.read(s.a(), l) }, ""},
		{"a write lost", func(s *story) { l := s.login(s.a()); s.add(s.a(), 0); s.read(s.a(), l) }, "has lost operation"},
		{"a write lost later", func(s *story) {
			l := s.login(s.a())
			s.add(s.a(), 1)
			s.read(s.a(), l)
			*s.log = ledger{}
			s.read(s.a(), l)
		}, "has lost operation"},
		{"a write lost to a failover", func(s *story) {
			l := s.login(s.a())
			s.k.loses(s.at, s.at)
			s.add(s.a(), 0)
			s.read(s.a(), l)
		}, ""},
		{"a write applied twice", func(s *story) { l := s.login(s.a()); s.add(s.a(), 2); s.read(s.a(), l) }, "twice"},
		{"a write whose answer was lost", func(s *story) { l := s.login(s.a()); s.ask(s.a(), "add", "lost"); s.read(s.a(), l) }, ""},
		{"a write that was refused and applied", func(s *story) {
			l := s.login(s.a())
			l.excuse("logout", s.at)
			c := s.ask(s.a(), "add", "refused")
			*s.log = s.log.add(c.op.id)
			s.read(s.a(), l)
		}, "which was refused"},
		{"a write of somebody else", func(s *story) { l := s.login(s.a()); *s.log = s.log.add(77); s.read(s.a(), l) }, "not asked for"},
		{"writes that change places", func(s *story) {
			l := s.login(s.a())
			s.add(s.a(), 1)
			s.add(s.a(), 1)
			s.read(s.a(), l)
			s.log.Tail[0], s.log.Tail[1] = s.log.Tail[1], s.log.Tail[0]
			s.read(s.a(), l)
		}, "as number"},
		{"a value that is set back", func(s *story) {
			l := s.login(s.a())
			c := s.k.begin(s.a(), "set", 0)
			s.tell(c, l)
			c = s.k.begin(s.a(), "read", 0)
			s.k.end(c, answer{kind: "ok", state: state{Login: l.id, User: s.a().user.name, Done: true}})
		}, "has 0 in tab 0"},
		{"the list has one that ended", func(s *story) {
			l := s.login(s.a())
			s.ask(s.a(), "logout", "ok")
			s.k.checkList(s.a().user, []uint64{l.id}, false)
		}, "ended by logout"},
		{"the list lacks one", func(s *story) { s.login(s.a()); s.k.checkList(s.a().user, nil, false) }, "lacks"},
		{"the list has one that nobody has", func(s *story) {
			c := s.ask(s.a(), "login", "lost")
			s.k.checkList(s.a().user, []uint64{c.fresh.id}, true)
		}, "nobody uses"},
		{"the limit", func(s *story) {
			first := s.p.browsers[3:8]
			for _, b := range first {
				s.login(b)
			}
			s.read(first[0], nil)
		}, ""},
		{"the limit ends the wrong one", func(s *story) {
			first := s.p.browsers[3:8]
			for _, b := range first {
				s.login(b)
			}
			s.read(first[1], nil)
		}, "without a reason"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory(t)
			test.tell(s)
			got := strings.Join(s.k.violations, "\n")
			if !strings.Contains(got, test.want) || test.want == "" && got != "" {
				t.Errorf("violations %q, want %q", got, test.want)
			}
		})
	}
}
