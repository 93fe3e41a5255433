package session_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/codec"
	"example.com/session/internal/storetest"
)

// The answer to a request whose session has ended, or whose key was replaced, depends on what ended it: nobody is locked out,
// and no straggler takes the place of the cookie of a login that just happened. This is each cell of the table that
// says so, through the front door.
func TestWhatLateRequestsGet(t *testing.T) {
	// The fate of the client's cookie.
	const (
		keeps   = "keeps its cookie"
		anew    = "gets a new session"
		removed = "loses its cookie"
	)
	type cell struct {
		status int
		cookie string
	}
	refused, begins, nothing := cell{409, keeps}, cell{200, anew}, cell{200, keeps}
	type row struct {
		name                  string
		before                func(w *lateWorld)
		while                 func(w *lateWorld) // after the request was let in
		change, login, logout cell
		read                  cell
	}
	logout := func(w *lateWorld) { w.ask(w.first, func(s *session.Session) { s.Destroy() }) }
	login := func(w *lateWorld) {
		w.second = w.ask(w.first, func(s *session.Session) { s.SetUser("ann") }).Cookie
	}
	revoke := func(w *lateWorld) {
		if _, err := w.m.EndSessions(w.t.Context(), session.OfUser("bob")); err != nil {
			w.t.Error(err)
		}
	}
	renewedAndConfirmed := func(w *lateWorld) {
		w.now = w.now.Add(4 * time.Minute)
		w.second = w.ask(w.first, func(s *session.Session) { s.Len() }).Cookie
		w.ask(w.second, func(s *session.Session) { s.Set("k", 3) })
	}
	after := func(d time.Duration, f func(*lateWorld)) func(*lateWorld) {
		return func(w *lateWorld) { f(w); w.now = w.now.Add(d) }
	}
	none := func(*lateWorld) {}
	rows := []row{
		{"closed just now", logout, none, refused, begins, nothing, nothing},
		{"emptied just now", func(w *lateWorld) { w.ask(w.first, func(s *session.Session) { s.SetUser(""); s.Clear() }) }, none,
			refused, begins, nothing, nothing},
		{"closed while it ran", none, logout, refused, begins, nothing, nothing},
		{"closed within the grace", after(6*time.Second, logout), none, begins, begins, nothing, nothing},
		{"closed before the grace", after(31*time.Second, logout), none, begins, begins, cell{200, removed}, nothing},
		{"revoked before it began", after(time.Millisecond, revoke), none, begins, begins, cell{200, removed}, nothing},
		{"revoked while it ran", none, revoke, refused, refused, nothing, nothing},
		{"replaced just now", login, none, refused, begins, refused, nothing},
		{"replaced while it ran", none, login, refused, begins, refused, nothing},
		{"replaced within the grace", after(6*time.Second, login), none, begins, begins, refused, nothing},
		{"replaced before the grace", after(31*time.Second, login), none, begins, begins, cell{200, removed}, nothing},
		{"the key before the one before", func(w *lateWorld) {
			login(w)
			w.ask(w.second, func(s *session.Session) { s.Regenerate() })
		}, none, begins, begins, cell{200, removed}, nothing},
		{"no record", func(w *lateWorld) { w.remove() }, none, begins, begins, cell{200, removed}, nothing},
		{"no record any more", none, func(w *lateWorld) { w.remove() }, begins, begins, nothing, nothing},
		{"reused", after(91*time.Second, renewedAndConfirmed), none, begins, begins, cell{200, removed}, nothing},
	}
	storetest.EachShared(t, storetest.Private, func(t *testing.T, kind storetest.Kind) {
		if kind.Name != "memory" && kind.Name != "redis" {
			t.Skip("histories are played on the other stores")
		}
		t.Parallel()
		store := kind.New(t)
		for _, row := range rows {
			for _, col := range []struct {
				name string
				use  func(*session.Session)
				want cell
			}{
				{"change", func(s *session.Session) { s.Set("late", 1) }, row.change},
				{"login", func(s *session.Session) { s.SetUser("carol") }, row.login},
				{"nobody", func(s *session.Session) { s.SetUser(""); s.Set("late", 1) }, row.change},
				{"logout", func(s *session.Session) { s.Destroy() }, row.logout},
				{"read", func(s *session.Session) { s.Has("k") }, row.read},
			} {
				t.Run(row.name+"/"+col.name, func(t *testing.T) {
					w := newLateWorld(t, store)
					row.before(w)
					a := w.ask(w.first, func(s *session.Session) {
						if row.while(w); s.Err() != nil {
							t.Error(s.Err())
						}
						col.use(s)
					})
					got := cell{a.Status, keeps}
					switch {
					case a.Removed:
						got.cookie = removed
					case a.Cookie != "" && client.Parse(a.Cookie).ID() == client.Parse(w.first).ID():
						got.cookie = "gets another cookie of the session"
					case a.Cookie != "":
						got.cookie = anew
					}
					if got != col.want {
						t.Errorf("it gets %v, want %v", got, col.want)
					}
					if col.want == begins { // this request's changes alone
						w.ask(a.Cookie, func(s *session.Session) {
							if s.Has("k") || s.User() == "bob" || s.IsNew() || col.name == "login" != (s.User() == "carol") {
								t.Errorf("the new session is %v", s)
							}
						})
					}
				})
			}
		}
	})
}

// A logout with a cookie that fell behind ends the session: its client may have nothing else.
func TestLogoutWithReusedCookie(t *testing.T) {
	w := newLateWorld(t, session.NewMemoryStore())
	w.now = w.now.Add(4 * time.Minute)
	second := w.ask(w.first, func(s *session.Session) { s.Len() }).Cookie
	w.ask(second, func(s *session.Session) { s.Set("k", 3) })
	w.now = w.now.Add(91 * time.Second)
	if a := w.ask(w.first, func(s *session.Session) { s.Destroy() }); a.Status != http.StatusOK || !a.Removed {
		t.Errorf("the logout gets %v", a)
	}
	if g, err := w.m.Glimpse(t.Context(), second); err != nil || g.Served {
		t.Errorf("the session is still there: %v", err)
	}
}

// A lateWorld is a manager, its clock, and bob's session.
type lateWorld struct {
	t             *testing.T
	m             *session.Manager
	store         session.Store
	now           time.Time
	first, second string // cookies of the session
}

func newLateWorld(t *testing.T, store session.Store) *lateWorld {
	w := &lateWorld{t: t, store: store, now: time.Now()}
	w.m = newManager(t, store, &session.Options{
		IdleTimeout: time.Hour, SweepInterval: session.Never, Logger: quiet, Namespace: t.Name() + time.Now().String(),
	})
	w.m.SetClock(func() time.Time { return w.now })
	w.first = w.ask("", func(s *session.Session) { s.Set("k", 1); s.SetUser("bob") }).Cookie
	w.now = w.now.Add(time.Minute)
	return w
}

// ask sends a request whose handler has looked at the session when it calls use.
func (w *lateWorld) ask(cookie string, use func(*session.Session)) client.Answer {
	return client.Ask(context.Background(), w.m, cookie, func(s *session.Session) {
		s.Len()
		use(s)
	})
}

func (w *lateWorld) remove() {
	if err := w.store.Delete(w.t.Context(), client.Parse(w.first).ID()); err != nil {
		w.t.Error(err)
	}
}

func plainManager(t *testing.T) *session.Manager {
	return newManager(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never})
}

// A record's answer to a cookie.
func TestJudge(t *testing.T) {
	m := plainManager(t)
	const now, grace = 1_000_000_000, 30_000
	key, before, other := codec.KeyHash{1}, codec.KeyHash{2}, codec.KeyHash{3}
	live := codec.Envelope{Kind: codec.Session, Credential: codec.Credential{
		Key: key, Before: before, Count: 7, Floor: 6, Keyed: now, Issued: now,
	}}
	until := live
	until.Credential.Until = now + 90_000
	dead := codec.Envelope{Kind: codec.Tombstone, End: codec.End{At: now, GoneUntil: now + grace}}
	for _, c := range []struct {
		name   string
		e      codec.Envelope
		key    codec.KeyHash
		count  uint32
		began  int64
		want   string
		within string // of a request that was let in
	}{
		{"the count issued last", live, key, 7, now, "current", "current"},
		{"the one before, not shown yet", live, key, 6, now + 1e9, "previous", "previous"},
		{"one below the floor", live, key, 5, now, "reused", "admitted"},
		{"a higher one", live, key, 9, now, "ahead", "ahead"},
		{"the one before, within the window", until, key, 6, now + 89_999, "previous", "previous"},
		{"the one before, after it", until, key, 6, now + 90_000, "reused", "admitted"},
		{"the key before, within the grace", live, before, 7, now + grace - 1, "rekeyed", "rekeyed"},
		{"the key before, after it", live, before, 7, now + grace, "unknown", "rekeyed"},
		{"another key", live, other, 7, now, "unknown", "rekeyed"},
		{"a session that has just ended", dead, key, 7, now + grace - 1, "ended", "ended"},
		{"one that has ended before", dead, key, 7, now + grace, "unknown", "ended"},
		{"no session's record", codec.Envelope{Kind: codec.Index}, key, 7, now, "unknown", "unknown"},
		{"no record", codec.Envelope{}, key, 7, now, "unknown", "unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.Judge(c.e, c.key, c.count, c.began, false); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := m.Judge(c.e, c.key, c.count, c.began, true); got != c.within {
				t.Errorf("let in: %s, want %s", got, c.within)
			}
		})
	}
}

// Where a request stands that no record serves.
func TestStand(t *testing.T) {
	m := plainManager(t)
	const now = 1_000_000_000
	own := codec.Envelope{Kind: codec.Tombstone, End: codec.End{At: now, GoneUntil: now + 30_000}}
	elsewhere := own
	elsewhere.End.Elsewhere = true
	rekeyed := codec.Envelope{Kind: codec.Session, Credential: codec.Credential{Keyed: now}}
	for _, c := range []struct {
		name, standing string
		e              codec.Envelope
		began          int64
		letIn          bool
		want           string
		straggler      bool
	}{
		{"unknown", "unknown", codec.Envelope{}, now, false, "visitor", false},
		{"gone meanwhile", "unknown", codec.Envelope{}, now, true, "visitor", false},
		{"reused", "reused", rekeyed, now, false, "visitor", false},
		{"closed, at once", "ended", own, now + 4999, false, "closed", true},
		{"closed, later", "ended", own, now + 5000, false, "closed", false},
		{"closed meanwhile", "ended", own, now + 50_000, true, "closed", true},
		{"revoked before", "ended", elsewhere, now, false, "visitor", false},
		{"revoked before it was looked at", "ended", elsewhere, now - 1, false, "closed", true},
		{"revoked meanwhile", "ended", elsewhere, now - 1, true, "revoked", false},
		{"replaced, at once", "rekeyed", rekeyed, now + 4999, false, "replaced", true},
		{"replaced, later", "rekeyed", rekeyed, now + 5000, false, "replaced", false},
		{"replaced meanwhile", "rekeyed", rekeyed, now + 50_000, true, "replaced", true},
	} {
		if phase, straggler := m.Stand(c.standing, c.e, c.began, c.letIn); phase != c.want || straggler != c.straggler {
			t.Errorf("%s: %s, %t; want %s, %t", c.name, phase, straggler, c.want, c.straggler)
		}
	}
}

// The next step, from all that it depends on.
func TestPlan(t *testing.T) {
	m := plainManager(t)
	const now, window = 1_000_000_000, 90_000
	due := codec.Credential{Count: 3, Floor: 3, Issued: now - 240_000}
	fresh := codec.Credential{Count: 3, Floor: 3, Issued: now}
	unconfirmed := codec.Credential{Count: 3, Floor: 2, Issued: now - 1000}
	unconfirmedDue := codec.Credential{Count: 3, Floor: 2, Issued: now - 240_000}
	open := codec.Credential{Count: 3, Floor: 2, Until: now + 1, Issued: now - 240_000}
	closed := codec.Credential{Count: 3, Floor: 2, Until: now, Issued: now - 240_000}
	with := func(c codec.Credential, count, floor uint32, until, issued int64) codec.Credential {
		c.Count, c.Floor, c.Until, c.Issued = count, floor, until, issued
		return c
	}
	served := func(standing string, cred codec.Credential, wants, header string) session.Situation {
		return session.Situation{Phase: "served", Standing: standing, Count: cred.Count, Cred: cred, Wants: wants, Header: header}
	}
	renewed := with(due, 4, 3, 0, now)
	behind := served("previous", due, "", "")
	behind.Count = 2
	ahead := served("ahead", fresh, "change", "")
	ahead.Count = 9
	aheadRead := ahead
	aheadRead.Wants = ""
	unused := served("current", unconfirmed, "", "")
	unused.Unused = 2 * time.Minute
	listed := served("current", due, "", "")
	listed.User = "ann"
	quiet := served("current", due, "", "")
	quiet.Quiet = true
	stale := served("previous", fresh, "", "")
	stale.Cookie = true
	staleSent := stale
	staleSent.Header = "sent"
	touch := served("previous", fresh, "", "")
	touch.Cookie, touch.Unused = true, 2*time.Minute
	shown := func(s session.Situation) session.Situation {
		s.Device = codec.Device{7}
		return s
	}
	bound := func(c codec.Credential) codec.Credential {
		c.Device, c.Bound = codec.Device{7}, now
		return c
	}
	quietShown := shown(quiet)
	locked := func(wants, header string, later bool) session.Situation {
		return session.Situation{Phase: "locked", Wants: wants, Header: header, Straggler: later}
	}
	straggler := func(phase, wants string, is bool) session.Situation {
		return session.Situation{Phase: phase, Wants: wants, Straggler: is}
	}
	none := codec.Credential{}
	for _, c := range []struct {
		name string
		s    session.Situation
		step string
		cred codec.Credential // that a save leaves behind
		err  error
	}{
		{"nothing to do", served("current", fresh, "", ""), "none", fresh, nil},
		{"a change", served("current", fresh, "change", ""), "save", fresh, nil},
		{"a renewal that is due", served("current", due, "", ""), "save", renewed, nil},
		{"in the save of a change", served("current", due, "change", ""), "save", renewed, nil},
		{"of a user's session", listed, "renew", renewed, nil},
		{"that the client will hardly get", served("current", due, "change", "lost"), "save", due, nil},
		{"that it cannot get", served("current", due, "change", "sent"), "save", due, nil},
		{"that has failed once", quiet, "none", due, nil},
		{"for a request that shows the one before", behind, "none", due, nil},
		{"while one before is accepted", served("current", open, "", ""), "none", open, nil},
		{"when it is no longer", served("current", closed, "", ""), "save", with(closed, 4, 3, 0, now), nil},
		{"a confirmation with a save", served("current", unconfirmed, "change", ""), "save", with(unconfirmed, 3, 2, now+window, now-1000), nil},
		{"with a touch", unused, "save", with(unconfirmed, 3, 2, now+window, now-1000), nil},
		{"with a renewal that is due", served("current", unconfirmedDue, "", ""), "save", with(unconfirmedDue, 3, 2, now+window, now-240_000), nil},
		{"with nothing", served("current", unconfirmed, "", ""), "none", unconfirmed, nil},
		{"by a request that shows the one before", served("previous", unconfirmed, "change", ""), "save", unconfirmed, nil},
		{"a count that the store has lost", ahead, "save", with(fresh, 9, 3, now+window, now), nil},
		{"that a read does not save", aheadRead, "none", with(fresh, 9, 3, now+window, now), nil},
		{"a touch", touch, "touch", none, nil},
		{"a cookie to be sent", stale, "look", none, nil},
		{"that is too late", staleSent, "none", none, nil},
		{"a device that is shown", shown(served("current", fresh, "", "")), "save", bound(fresh), nil},
		{"a device, too late for a cookie", shown(served("previous", fresh, "", "sent")), "save", bound(fresh), nil},
		{"a device in the save of a renewal", shown(served("current", due, "", "")), "save", bound(renewed), nil},
		{"a device and a count that the store has lost", shown(aheadRead), "save", bound(with(fresh, 9, 3, now+window, now)), nil},
		{"a device, when that has failed once", quietShown, "none", due, nil},

		{"locked: reads", locked("", "", false), "none", none, nil},
		{"locked: a change", locked("change", "", false), "create", none, nil},
		{"locked: a login", locked("change key user login", "", true), "create", none, nil},
		{"locked: a logout", locked("end", "", false), "none", none, nil},
		{"locked: comes again, reads", locked("", "", true), "give up", none, session.ErrUnproven},
		{"locked: comes again, a change", locked("change", "", true), "give up", none, session.ErrUnproven},
		{"locked: comes again, a logout", locked("end", "", true), "give up", none, session.ErrUnproven},
		{"locked: comes again, a change too late", locked("change", "sent", true), "give up", none, session.ErrUnproven},
		{"locked: comes again, a logout too late", locked("end", "sent", true), "give up", none, session.ErrUnproven},
		{"locked: too late to say so", locked("", "sent", true), "none", none, nil},

		{"a login", served("current", fresh, "change key user login", ""), "login", fresh, nil},
		{"a login too late", served("current", fresh, "change key user login", "sent"), "give up", none, session.ErrHeaderSent},
		{"a logout", served("current", fresh, "end change", "sent"), "destroy", none, nil},
		{"nothing left", served("current", fresh, "change empty", ""), "empty", none, nil},
		{"nothing left too late", served("current", fresh, "change empty", "sent"), "save", fresh, nil},

		{"a visitor who reads", session.Situation{Phase: "visitor"}, "none", none, nil},
		{"who changes", session.Situation{Phase: "visitor", Wants: "change"}, "create", none, nil},
		{"to nothing", session.Situation{Phase: "visitor", Wants: "change empty"}, "none", none, nil},
		{"who logs out", session.Situation{Phase: "visitor", Wants: "end"}, "none", none, nil},
		{"too late", session.Situation{Phase: "visitor", Wants: "change", Header: "sent"}, "give up", none, session.ErrHeaderSent},
		{"too late, and had one", session.Situation{Phase: "visitor", Wants: "change", Header: "sent", Lost: true}, "give up", none, session.ErrGone},
		{"who had one in this request", session.Situation{Phase: "visitor", Wants: "change", Lost: true}, "create", none, nil},
		{"who had one in this call", session.Situation{Phase: "visitor", Wants: "change", Lost: true, Call: true}, "give up", none, session.ErrGone},
		{"who had one in this call, and is to have another", session.Situation{Phase: "visitor", Wants: "end change", Lost: true, Call: true}, "create", none, nil},
		{"who had one in this call, and logs in", session.Situation{Phase: "visitor", Wants: "change key user login", Lost: true, Call: true}, "create", none, nil},
		{"who had none in this call", session.Situation{Phase: "visitor", Wants: "change", Call: true}, "create", none, nil},

		{"closed: reads", straggler("closed", "", true), "none", none, nil},
		{"closed: a straggler's change", straggler("closed", "change", true), "give up", none, session.ErrGone},
		{"closed: a straggler's new key", straggler("closed", "key", true), "give up", none, session.ErrGone},
		{"closed: a later change", straggler("closed", "change", false), "create", none, nil},
		{"closed: a login", straggler("closed", "change key user login", true), "create", none, nil},
		{"closed: a straggler becomes nobody", straggler("closed", "change key user", true), "give up", none, session.ErrGone},
		{"closed: a logout", straggler("closed", "end", true), "none", none, nil},
		{"replaced: a straggler's change", straggler("replaced", "change", true), "give up", none, session.ErrGone},
		{"replaced: a later change", straggler("replaced", "change", false), "create", none, nil},
		{"replaced: a login", straggler("replaced", "change key user login", true), "create", none, nil},
		{"replaced: a logout", straggler("replaced", "end", false), "give up", none, session.ErrGone},
		{"revoked: reads", straggler("revoked", "", false), "none", none, nil},
		{"revoked: a change", straggler("revoked", "change", false), "give up", none, session.ErrGone},
		{"revoked: a login", straggler("revoked", "change key user login", false), "give up", none, session.ErrGone},
		{"revoked: a logout", straggler("revoked", "end", false), "none", none, nil},

		{"unmoved: reads", session.Situation{Phase: "unmoved"}, "move", none, nil},
		{"unmoved: reads, and hardly hears of it", session.Situation{Phase: "unmoved", Header: "lost"}, "none", none, nil},
		{"unmoved: changes, and hardly hears of it", session.Situation{Phase: "unmoved", Header: "lost", Wants: "change"}, "move", none, nil},
		{"unmoved: changes too late", session.Situation{Phase: "unmoved", Header: "sent", Wants: "change"}, "give up", none, session.ErrHeaderSent},
		{"unmoved: a logout", session.Situation{Phase: "unmoved", Header: "sent", Wants: "end"}, "destroy", none, nil},
		{"failed", session.Situation{Phase: "failed", Wants: "change"}, "none", none, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.Now = now
			step, cred, err := m.Plan(c.s)
			if step != c.step || !errors.Is(err, c.err) {
				t.Errorf("%s, %v; want %s, %v", step, err, c.step, c.err)
			}
			if slices.Contains([]string{"save", "renew", "login"}, step) && cred != c.cred {
				t.Errorf("it leaves %+v, want %+v", cred, c.cred)
			}
		})
	}
}
