package session_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// An oldSystem is the session system that an application used before: sessions by the value of their cookie.
type oldSystem struct {
	mu       sync.Mutex
	sessions map[string]session.OldSession
	endures  bool  // End leaves everything as it is, as if the sessions were in their cookies
	loadErr  error // what Load returns
	endErr   error // what End returns
	loads    int
	ends     int
}

const oldName = "old"

// newOldSystem returns one in which ann has a session, with the cookie "ticket".
func newOldSystem() *oldSystem {
	return &oldSystem{sessions: map[string]session.OldSession{"ticket": {
		Values: map[string]any{"k": 1, "name": "Ann"},
		User:   "ann",
	}}}
}

func (o *oldSystem) Load(r *http.Request) (*session.OldSession, error) {
	if _, ok := r.Context().Deadline(); !ok {
		return nil, errors.New("Load was called without a deadline")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.loads++
	c, err := r.Cookie(oldName)
	if err != nil {
		return nil, errors.New("Load was called without a cookie")
	}
	if o.loadErr != nil {
		return nil, o.loadErr
	}
	if c.Value == "forged" {
		return nil, nil
	}
	s, ok := o.sessions[c.Value]
	if !ok {
		return nil, fmt.Errorf("no such session: %w", session.ErrNotFound)
	}
	return &s, nil
}

func (o *oldSystem) End(r *http.Request) error {
	if _, ok := r.Context().Deadline(); !ok {
		return errors.New("End was called without a deadline")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends++
	if o.endErr != nil || o.endures {
		return o.endErr
	}
	c, err := r.Cookie(oldName)
	if err == nil {
		delete(o.sessions, c.Value)
	}
	return err
}

func (o *oldSystem) calls() (loads, ends int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads, o.ends
}

func (o *oldSystem) migration() *session.Migration {
	return &session.Migration{Cookie: http.Cookie{Name: oldName}, Load: o.Load, End: o.End}
}

// options returns options for a manager that takes over from o, with what opts sets.
func (o *oldSystem) options(opts session.Options) *session.Options {
	opts.Migration = o.migration()
	opts.SweepInterval = session.Never
	opts.Logger = quiet
	return &opts
}

// A mover is a browser, which keeps all its cookies from one response to the next request.
type mover struct {
	t       *testing.T
	m       *session.Manager
	cookies map[string]string
}

// withTicket returns a browser that was last here when the old system was in place.
func withTicket(t *testing.T, m *session.Manager) *mover {
	return &mover{t, m, map[string]string{oldName: "ticket"}}
}

func (b *mover) send(h http.HandlerFunc) *http.Response {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, "/", nil)
	for _, name := range slices.Sorted(maps.Keys(b.cookies)) {
		r.AddCookie(&http.Cookie{Name: name, Value: b.cookies[name]})
	}
	w := httptest.NewRecorder()
	b.m.Handler(h).ServeHTTP(w, r)
	res := w.Result()
	for _, c := range res.Cookies() {
		if _, had := b.cookies[c.Name]; !had && c.MaxAge < 0 && c.Name == oldName {
			b.t.Errorf("a cookie is removed that was not sent")
		}
		b.cookies[c.Name] = c.Value
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return res
}

func (b *mover) visit(fn func(s *session.Session)) *http.Response {
	b.t.Helper()
	return b.send(func(_ http.ResponseWriter, r *http.Request) { fn(session.FromContext(r.Context())) })
}

// clone is a browser with the same cookies, which keeps what it gets to itself.
func (b *mover) clone() *mover { return &mover{b.t, b.m, maps.Clone(b.cookies)} }

// user visits without a trace, and returns who is logged in.
func (b *mover) user() string {
	b.t.Helper()
	name := ""
	wantStatus(b.t, b.clone().visit(func(s *session.Session) { name = s.User() }), http.StatusOK)
	return name
}

// want checks which cookies the browser has.
func (b *mover) want(names ...string) {
	b.t.Helper()
	if got := slices.Sorted(maps.Keys(b.cookies)); !slices.Equal(got, names) {
		b.t.Errorf("the browser has the cookies %q, want %q", got, names)
	}
}

func TestMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newOldSystem()
		began := time.Now()
		login := began.Add(time.Minute)
		ticket := old.sessions["ticket"]
		ticket.Created, ticket.AuthenticatedAt, ticket.Expires = began, login, began.Add(24*time.Hour)
		old.sessions["ticket"] = ticket
		time.Sleep(time.Hour)
		var seen events
		store := session.NewMemoryStore()
		m := newManager(t, store, old.options(session.Options{Observer: seen.observe}))

		b := withTicket(t, m)
		left := b.clone() // what somebody has who copied the old cookie
		res := b.send(func(w http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			k, _ := session.Key[int]("k").Get(s)
			if k != 1 || s.User() != "ann" || s.IsNew() || s.WasUnknown() || s.Len() != 2 || s.ID() != (session.ID{}) {
				t.Errorf("the session that moves: %v, user %q, new %v, unknown %v", s, s.User(), s.IsNew(), s.WasUnknown())
			}
			if !s.Created().Equal(began) || !s.AuthenticatedAt().Equal(login) || !s.LastUsed().Equal(time.Now()) {
				t.Errorf("created %v, authenticated %v, last used %v", s.Created(), s.AuthenticatedAt(), s.LastUsed())
			}
			if want := time.Now().Add(15 * time.Minute); !s.Expires().Equal(want) {
				t.Errorf("it expires at %v, want %v", s.Expires(), want)
			}
			if err := s.Reload(r.Context()); err != nil {
				t.Error(err)
			}
		})
		wantStatus(t, res, http.StatusOK)
		b.want("session_id")
		removal := setCookie(t, res.Header, oldName)
		for _, part := range []string{"old=;", "Path=/", "Max-Age=0", "Expires=Thu, 01 Jan 1970"} {
			if !strings.Contains(removal, part) {
				t.Errorf("the old cookie is removed by %q; %q is missing", removal, part)
			}
		}
		if loads, ends := old.calls(); loads != 1 || ends != 1 || len(old.sessions) != 0 {
			t.Errorf("%d calls of Load, %d of End, %d sessions left", loads, ends, len(old.sessions))
		}
		if got := seen.kinds(); !slices.Equal(got, []string{"migrated"}) {
			t.Errorf("events: %q", got)
		}

		// From here on the old system has nothing to do with it.
		old.loadErr = errors.New("gone")
		var id session.ID
		wantStatus(t, b.visit(func(s *session.Session) {
			id = s.ID()
			if s.User() != "ann" || !s.AuthenticatedAt().Equal(login) || s.Len() != 2 {
				t.Errorf("the session that moved: %v, user %q", s, s.User())
			}
		}), http.StatusOK)
		if list := userSessions(t, m); len(list) != 1 || list[0].ID != id || !list[0].Created.Equal(began) {
			t.Errorf("ann's sessions: %+v", list)
		}
		old.loadErr = nil

		// For a while the old cookie leads there, too, and then nowhere.
		straggler := left.clone()
		straggler.visit(func(s *session.Session) {
			if s.ID() != id || s.User() != "ann" {
				t.Errorf("the old cookie leads to %v, want %v", s, id)
			}
		})
		straggler.want("session_id")
		old.endures, old.sessions["ticket"] = true, ticket // a session that End does not really end
		for range 3 {
			time.Sleep(5 * time.Minute)
			b.visit(func(s *session.Session) { s.Has("k") })
		}
		if b.user() != "ann" || left.user() != "" {
			t.Errorf("after a while the new cookie leads to %q, the old one to %q", b.user(), left.user())
		}
		for !time.Now().After(ticket.Expires) { // as long as the old system would accept it
			if left.user() != "" {
				t.Errorf("the old cookie leads to a session again after %v", time.Since(began))
			}
			time.Sleep(time.Hour)
		}
		time.Sleep(2 * time.Hour)
		if _, err := session.DeleteExpired(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		if n := recordCount(t, store); n != 0 {
			t.Errorf("%d records are left behind", n)
		}
	})
}

// A cookie that leads to no session of the old system costs nobody anything.
func TestMigrationOfNothing(t *testing.T) {
	ticket := newOldSystem().sessions["ticket"]
	tests := map[string]struct {
		cookie string
		set    func(*session.OldSession)
	}{
		"no cookie":       {"", nil},
		"a forged cookie": {"forged", nil},
		"unknown":         {"unknown", nil},
		"empty":           {"ticket", func(o *session.OldSession) { o.Values, o.User = nil, "" }},
		"expired":         {"ticket", func(o *session.OldSession) { o.Expires = time.Now().Add(-time.Second) }},
		"too old":         {"ticket", func(o *session.OldSession) { o.Created = time.Now().Add(-25 * time.Hour) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old := newOldSystem()
			if test.set != nil {
				changed := ticket
				test.set(&changed)
				old.sessions["ticket"] = changed
			}
			store := session.NewMemoryStore()
			var seen events
			b := &mover{t, newManager(t, store, old.options(session.Options{Observer: seen.observe})), map[string]string{}}
			if test.cookie != "" {
				b.cookies[oldName] = test.cookie
			}
			before := slices.Collect(maps.Keys(b.cookies))
			wantStatus(t, b.visit(func(s *session.Session) {
				if !s.IsNew() || s.Len() != 0 || s.User() != "" {
					t.Errorf("it leads to %v", s)
				}
			}), http.StatusOK)
			b.want(before...)
			want := map[string]int{"ticket": 1, "unknown": 1}[test.cookie] // calls of Load
			if seen.ops["load"] != want || len(seen.ops) != want {
				t.Errorf("calls of the store: %v", seen.ops)
			}
			if _, ends := old.calls(); ends != 0 || recordCount(t, store) != 0 {
				t.Errorf("%d calls of End, %d records", ends, recordCount(t, store))
			}
			// A session that begins takes the place of what there was.
			wantStatus(t, b.visit(func(s *session.Session) { s.Set("k", 2) }), http.StatusOK)
			b.want("session_id")
		})
	}
}

// The old system is asked only where there is no session of the manager's, and by those who use it.
func TestMigrationIsAskedForLittle(t *testing.T) {
	old := newOldSystem()
	m := newManager(t, session.NewMemoryStore(), old.options(session.Options{}))
	b := withTicket(t, m)
	wantStatus(t, b.send(func(http.ResponseWriter, *http.Request) {}), http.StatusOK)
	b.want(oldName)
	plain := &mover{t, m, map[string]string{}}
	plain.visit(func(s *session.Session) { s.Set("k", 2) })
	plain.cookies[oldName] = "ticket"
	plain.visit(func(s *session.Session) {
		if s.User() != "" {
			t.Error("a session that is there was not enough")
		}
	})
	if loads, ends := old.calls(); loads != 0 || ends != 0 {
		t.Errorf("%d calls of Load, %d of End", loads, ends)
	}
	off := withTicket(t, newManager(t, nil, old.options(session.Options{Disabled: true})))
	off.visit(func(s *session.Session) { s.Set("k", 2) })
	off.want(oldName)
}

// Whatever ends the session in its new home, its old cookie leads nowhere afterwards, at once and later on, although
// the old system never forgets.
func TestMigratedSessionStaysEnded(t *testing.T) {
	ends := map[string]func(*testing.T, *session.Manager, context.Context, *session.Session){
		"Destroy": func(_ *testing.T, _ *session.Manager, _ context.Context, s *session.Session) { s.Destroy() },
		"Clear": func(_ *testing.T, _ *session.Manager, _ context.Context, s *session.Session) {
			s.SetUser("")
			s.Clear()
		},
		"Regenerate": func(_ *testing.T, _ *session.Manager, _ context.Context, s *session.Session) { s.Regenerate() },
		"SetUser":    func(_ *testing.T, _ *session.Manager, _ context.Context, s *session.Session) { s.SetUser("bob") },
		"EndSessions of the user": func(t *testing.T, m *session.Manager, ctx context.Context, s *session.Session) {
			if n, err := m.EndSessions(ctx, session.OfUser(s.User())); n != 1 || err != nil {
				t.Errorf("%d sessions ended, %v", n, err)
			}
		},
		"EndSessions of one": func(t *testing.T, m *session.Manager, ctx context.Context, s *session.Session) {
			list, err := m.Sessions(ctx, session.OfUser(s.User()))
			if len(list) != 1 || !list[0].Current || err != nil {
				t.Fatalf("the user's sessions: %+v, %v", list, err)
			}
			if _, err := m.EndSessions(ctx, session.OfUser(s.User()).One(list[0].Handle)); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range ends {
		for _, when := range []string{"in the request that moves it", "in the next one", "by a straggler", "in parallel"} {
			t.Run(name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					old := newOldSystem()
					old.endures = true
					m := newManager(t, session.NewMemoryStore(), old.options(session.Options{}))
					b := withTicket(t, m)
					left := b.clone()
					switch when {
					case "in the next one":
						wantStatus(t, b.visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
					case "by a straggler":
						wantStatus(t, b.clone().visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
					}
					status := b.send(func(_ http.ResponseWriter, r *http.Request) {
						s := session.FromContext(r.Context())
						s.Has("k")
						if when == "in parallel" { // while this request has the session in its hands
							wantStatus(t, left.clone().visit(func(s *session.Session) { s.Set("other", 1) }), http.StatusOK)
						}
						end(t, m, r.Context(), s)
					}).StatusCode
					if status != http.StatusOK {
						t.Errorf("the status is %d", status)
					}
					want := map[string]string{"Regenerate": "ann", "SetUser": "bob"}[name]
					if got := b.user(); got != want {
						t.Errorf("the new cookie leads to %q, want %q", got, want)
					}
					for _, after := range []time.Duration{0, 10 * time.Second, time.Minute, time.Hour, 1000 * time.Hour} {
						time.Sleep(after)
						if left.user() != "" {
							t.Errorf("after %v, the old cookie leads to %q", after, left.user())
						}
					}
					// For the grace period, a change is refused, as with any other session that has ended.
					if _, ended := old.calls(); ended != 1 {
						t.Errorf("End was called %d times", ended)
					}
				})
			})
		}
	}
}

// A request that was sent with the old cookie before the session ended is told so.
func TestMigrationStraggler(t *testing.T) {
	old := newOldSystem()
	m := newManager(t, session.NewMemoryStore(), old.options(session.Options{}))
	b := withTicket(t, m)
	late := b.clone()
	wantStatus(t, b.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
	b.want()
	wantStatus(t, late.visit(func(s *session.Session) {
		if s.User() != "" || s.IsNew() || !s.WasUnknown() {
			t.Errorf("a session that has ended: %v, user %q", s, s.User())
		}
		s.Set("k", 2)
	}), http.StatusConflict)
	late.want(oldName)
}

// Without End, the old system's session stays what it is, and is worth nothing once it has moved.
func TestMigrationWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := newOldSystem().options(session.Options{})
		opts.Migration.End = nil
		for name, act := range map[string]func(*session.Session){
			"moved": func(s *session.Session) { s.Has("k") }, "ended": func(s *session.Session) { s.Destroy() },
		} {
			old := withTicket(t, newManager(t, session.NewMemoryStore(), opts))
			b := old.clone()
			wantStatus(t, b.visit(act), http.StatusOK)
			if b.cookies[oldName] != "" {
				t.Errorf("%s: the old cookie stays", name)
			}
			if time.Sleep(time.Hour); old.user() != "" {
				t.Errorf("%s: the old cookie is good for %q", name, old.user())
			}
		}
	})
}

// A mark that cannot be read is reported, and its session does not move a second time.
func TestMigrationDamagedMark(t *testing.T) {
	old := newOldSystem()
	old.endures = true
	store := session.NewMemoryStore()
	var seen events
	b := withTicket(t, newManager(t, store, old.options(session.Options{Observer: seen.observe})))
	b.clone().visit(func(s *session.Session) { s.Has("k") })
	seen.kinds()
	for info, err := range b.m.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Kind != session.RecordMoved {
			continue
		}
		rec, err := store.Load(t.Context(), info.ID)
		if err != nil {
			t.Fatal(err)
		}
		rec.Data = []byte("garbage")
		if err := store.Save(t.Context(), info.ID, rec); err != nil {
			t.Fatal(err)
		}
	}
	if user, got := b.user(), seen.kinds(); user != "" || !slices.Equal(got, []string{"damaged", "unknown"}) {
		t.Errorf("the old cookie is good for %q, and the observer is told %q", user, got)
	}
}

func TestMigrationFailures(t *testing.T) {
	down := errors.New("down")
	t.Run("Load", func(t *testing.T) {
		old := newOldSystem()
		old.loadErr = down
		var got error
		opts := old.options(session.Options{ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			got = err
			w.WriteHeader(http.StatusServiceUnavailable)
		}})
		b := withTicket(t, newManager(t, session.NewMemoryStore(), opts))
		wantStatus(t, b.visit(func(s *session.Session) {
			if s.User() != "" || !errors.Is(s.Err(), down) {
				t.Errorf("user %q, Err %v", s.User(), s.Err())
			}
		}), http.StatusServiceUnavailable)
		b.want(oldName)
		if !errors.Is(got, down) {
			t.Errorf("the error handler got %v", got)
		}
		old.loadErr = nil
		if b.user() != "ann" {
			t.Error("logged out")
		}
	})
	t.Run("End", func(t *testing.T) {
		old := newOldSystem()
		old.endErr = down
		var seen events
		b := withTicket(t, newManager(t, session.NewMemoryStore(), old.options(session.Options{Observer: seen.observe})))
		wantStatus(t, b.visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
		b.want("session_id")
		if got := seen.kinds(); b.user() != "ann" || !slices.Equal(got, []string{"migrated", "lost"}) {
			t.Errorf("user %q, events %q", b.user(), got)
		}
	})
	t.Run("Lock", func(t *testing.T) {
		store := double.New(session.NewMemoryStore(), double.Fail(down, double.Save))
		b := withTicket(t, newManager(t, store, newOldSystem().options(session.Options{})))
		wantStatus(t, b.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); !errors.Is(err, down) {
				t.Errorf("Lock: %v", err)
			}
		}), http.StatusServiceUnavailable)
		b.want(oldName)
	})
	t.Run("a value", func(t *testing.T) {
		old := newOldSystem()
		old.sessions["ticket"] = session.OldSession{Values: map[string]any{"f": func() {}}}
		b := withTicket(t, newManager(t, session.NewMemoryStore(), old.options(session.Options{})))
		wantStatus(t, b.visit(func(s *session.Session) { s.Has("k") }), http.StatusInternalServerError)
		b.want(oldName)
	})
	for _, d := range []time.Duration{-time.Hour, -2, time.Microsecond} {
		t.Run(fmt.Sprint("remembered for ", d), func(t *testing.T) {
			old := newOldSystem()
			store := session.NewMemoryStore()
			old.sessions["ticket"] = session.OldSession{User: "ann", Remember: d}
			b := withTicket(t, newManager(t, store, old.options(session.Options{})))
			wantStatus(t, b.visit(func(s *session.Session) {
				if user, err := s.User(), s.Err(); user != "" || err == nil || !strings.Contains(err.Error(), d.String()) {
					t.Errorf("Err: %v", err)
				}
			}), http.StatusInternalServerError)
			b.want(oldName)
			if recordCount(t, store) != 0 {
				t.Error("it has moved")
			}
		})
	}
	t.Run("size", func(t *testing.T) {
		old := newOldSystem()
		store := session.NewMemoryStore()
		old.sessions["ticket"] = session.OldSession{Values: map[string]any{"k": make([]byte, 2<<10)}}
		b := withTicket(t, newManager(t, store, old.options(session.Options{MaxSize: 1 << 10})))
		wantStatus(t, b.visit(func(s *session.Session) { s.Has("k") }), http.StatusInternalServerError)
		b.want(oldName)
		if _, ends := old.calls(); ends != 0 || recordCount(t, store) != 0 {
			t.Errorf("End was called %d times, %d records", ends, recordCount(t, store))
		}
	})
	t.Run("the handler", func(t *testing.T) {
		old := newOldSystem()
		store := session.NewMemoryStore()
		b := withTicket(t, newManager(t, store, old.options(session.Options{})))
		func() {
			defer func() { recover() }()
			b.visit(func(s *session.Session) {
				s.Set("k", 2)
				panic("on purpose")
			})
		}()
		if _, ends := old.calls(); ends != 0 || recordCount(t, store) != 0 || b.user() != "ann" {
			t.Errorf("End was called %d times, %d records, user %q", ends, recordCount(t, store), b.user())
		}
	})
}

// The process dies, or the store goes down, at every single step of the move: the client that comes back with what it
// has is logged in, once, and can log out.
func TestMigrationCutShort(t *testing.T) {
	requests := map[string]func(*session.Session){
		"read":  func(s *session.Session) { s.Has("k") },
		"write": func(s *session.Session) { s.Set("k", 2) },
	}
	for name, request := range requests {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost %v", name, lost), func(t *testing.T) {
				died := true
				for steps := 0; died; steps++ {
					old := newOldSystem()
					old.endures = true
					opts := old.options(session.Options{MaxSessionsPerUser: 1})
					store := double.New(session.NewMemoryStore(), double.Die(steps))
					if lost { // the last reply
						store.Hook(double.Die(steps), double.Nth(steps, double.Lose(double.ErrDead)))
					}
					b := withTicket(t, newManager(t, store, opts))
					status := b.visit(request).StatusCode
					calls := store.Calls()
					made := calls[0] + calls[1] + calls[2] + calls[3]
					if died = made > steps || lost && made == steps; !died && status != http.StatusOK {
						t.Errorf("the status is %d", status)
					}
					b.m = newManager(t, store.Store, opts)
					b.visit(func(s *session.Session) {
						if k, _ := session.Key[int]("k").Get(s); s.User() != "ann" || status == http.StatusOK && name == "write" && k != 2 {
							t.Errorf("cut short after %d steps with status %d: %v, user %q, k is %d", steps, status, s, s.User(), k)
						}
					})
					b.want("session_id")
					if list := userSessions(t, b.m); len(list) != 1 {
						t.Errorf("cut short after %d steps: ann has %d sessions", steps, len(list))
					}
					wantStatus(t, b.visit(func(s *session.Session) { s.Destroy() }), http.StatusOK)
					if got := withTicket(t, b.m).user(); got != "" {
						t.Errorf("cut short after %d steps: after the logout, the old cookie leads to %q", steps, got)
					}
				}
			})
		}
	}
}

// An answer that gets lost is no logout for the grace period, however often: until the client knows the new cookie, the
// old one will do.
func TestMigrationAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newOldSystem()
		b := withTicket(t, newManager(t, session.NewMemoryStore(), old.options(session.Options{})))
		for range 15 {
			wantStatus(t, b.clone().visit(func(s *session.Session) {
				if session.Key[int]("k").Update(s, func(n int) int { return n + 1 }); s.User() != "ann" {
					t.Errorf("the user is %q", s.User())
				}
			}), http.StatusOK)
			time.Sleep(2*time.Second - time.Millisecond)
		}
		b.visit(func(s *session.Session) {
			if k, _ := session.Key[int]("k").Get(s); k != 16 {
				t.Errorf("k is %d, want 16", k)
			}
		})
		b.want("session_id")
	})
}

// The old cookie leads on for the grace period and no longer, however the new session's ID is renewed meanwhile.
func TestMigrationGrace(t *testing.T) {
	for _, interval := range []time.Duration{time.Minute, 4 * time.Minute, session.Never} {
		t.Run(fmt.Sprint("renewed every ", interval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old := newOldSystem()
				old.endures = true
				opts := old.options(session.Options{RenewInterval: interval, RenewGrace: 3 * time.Minute})
				b := withTicket(t, newManager(t, session.NewMemoryStore(), opts))
				left := b.clone()
				for minute := range 20 {
					b.visit(func(s *session.Session) { s.Has("k") })
					want := ""
					if minute < 3 {
						want = "ann"
					}
					if got := left.user(); got != want {
						t.Errorf("in minute %d, the old cookie leads to %q, want %q", minute, got, want)
					}
					left.clone().visit(func(s *session.Session) {
						if s.IsNew() != (want == "") || s.WasUnknown() != (want == "") {
							t.Errorf("in minute %d, IsNew is %v, WasUnknown %v", minute, s.IsNew(), s.WasUnknown())
						}
					})
					time.Sleep(time.Minute)
				}
				if b.user() != "ann" {
					t.Error("logged out")
				}
			})
		})
	}
}

// A session that the store has lost is not made up from the mark that leads there.
func TestMigrationStoreForgets(t *testing.T) {
	old := newOldSystem()
	old.endures = true
	store := session.NewMemoryStore()
	opts := old.options(session.Options{IdleTimeout: session.Never, AbsoluteTimeout: session.Never})
	m := newManager(t, store, opts)
	left := withTicket(t, m)
	var id session.ID
	b := left.clone()
	b.visit(func(s *session.Session) { s.Has("k") })
	b.visit(func(s *session.Session) { id = s.ID() })
	moved := 0
	for info, err := range m.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Kind == session.RecordMoved && info.Readable {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("%d marks lead to the session", moved)
	}
	if err := store.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	left.visit(func(s *session.Session) {
		if !s.IsNew() || !s.WasUnknown() || s.ID() != (session.ID{}) {
			t.Errorf("the old cookie leads to %v", s)
		}
	})
}

// The header has left before the session is used: nothing moves, and what cannot be saved says so.
func TestMigrationTooLate(t *testing.T) {
	tests := map[string]struct {
		use  func(*session.Session)
		err  error
		user string
	}{
		"read":    {func(*session.Session) {}, nil, "ann"},
		"write":   {func(s *session.Session) { s.Set("k", 2) }, session.ErrHeaderSent, "ann"},
		"login":   {func(s *session.Session) { s.SetUser("bob") }, session.ErrHeaderSent, "ann"},
		"destroy": {func(s *session.Session) { s.Destroy() }, session.ErrHeaderSent, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, locking := range []bool{false, true} {
				old := newOldSystem()
				store := session.NewMemoryStore()
				b := withTicket(t, newManager(t, store, old.options(session.Options{Locking: locking})))
				b.send(func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprintln(w, "early")
					s := session.FromContext(r.Context())
					if s.User() != "ann" {
						t.Errorf("the user is %q", s.User())
					}
					test.use(s)
					if err := s.Save(r.Context()); !errors.Is(err, test.err) {
						t.Errorf("Save: %v, want %v", err, test.err)
					}
				})
				b.want(oldName)
				if name != "destroy" && recordCount(t, store) != 0 {
					t.Errorf("%d records", recordCount(t, store))
				}
				if got := b.user(); got != test.user {
					t.Errorf("the user is %q, want %q", got, test.user)
				}
			}
		})
	}
}

// A client that has hung up gets no cookie, so nothing moves unless there is something to save.
func TestMigrationHungUp(t *testing.T) {
	for _, writes := range []bool{false, true} {
		old := newOldSystem()
		m := newManager(t, session.NewMemoryStore(), old.options(session.Options{}))
		ctx, hangUp := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: oldName, Value: "ticket"})
		handle(m, func(s *session.Session) {
			if s.User() != "ann" {
				t.Errorf("the user is %q", s.User())
			}
			if hangUp(); writes {
				s.Set("k", 2)
			}
		}).ServeHTTP(httptest.NewRecorder(), r)
		if _, ends := old.calls(); ends > 0 != writes {
			t.Errorf("writes %v: End was called %d times", writes, ends)
		}
		withTicket(t, m).visit(func(s *session.Session) {
			if k, _ := session.Key[int]("k").Get(s); s.User() != "ann" || writes && k != 2 {
				t.Errorf("writes %v: %v, user %q, k is %d", writes, s, s.User(), k)
			}
		})
	}
}

func TestMigrationWithOptions(t *testing.T) {
	t.Run("Remember", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			old := newOldSystem()
			ticket := old.sessions["ticket"]
			ticket.Remember = 30 * 24 * time.Hour
			old.sessions["ticket"] = ticket
			b := withTicket(t, newManager(t, session.NewMemoryStore(), old.options(session.Options{AbsoluteTimeout: session.Never})))
			res := b.visit(func(s *session.Session) { s.Has("k") })
			if line := setCookie(t, res.Header, "session_id"); !strings.Contains(line, "Max-Age=2592000") {
				t.Errorf("the cookie is %q", line)
			}
			time.Sleep(29 * 24 * time.Hour)
			if b.user() != "ann" {
				t.Error("not remembered")
			}
		})
	})
	t.Run("Bind", func(t *testing.T) {
		old := newOldSystem()
		where := "here"
		opts := old.options(session.Options{Bind: func(*http.Request) string { return where }})
		m := newManager(t, session.NewMemoryStore(), opts)
		b := withTicket(t, m)
		left := b.clone()
		b.visit(func(s *session.Session) { s.Has("k") })
		where = "elsewhere"
		if left.user() != "" || b.user() != "" {
			t.Errorf("bound to another place, the old cookie leads to %q, the new one to %q", left.user(), b.user())
		}
		where = "here"
		t.Run("in parallel", func(t *testing.T) {
			old.sessions["ticket"] = newOldSystem().sessions["ticket"]
			b := withTicket(t, newManager(t, session.NewMemoryStore(), opts))
			wantStatus(t, b.visit(func(s *session.Session) {
				s.Set("k", 2)
				where = "elsewhere"
				wantStatus(t, b.clone().visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
				where = "here"
			}), http.StatusConflict)
		})
		if left.user() != "ann" || b.user() != "ann" {
			t.Errorf("the old cookie leads to %q, the new one to %q", left.user(), b.user())
		}
	})
	t.Run("Lock", func(t *testing.T) {
		for _, locking := range []bool{false, true} {
			old := newOldSystem()
			m := newManager(t, session.NewMemoryStore(), old.options(session.Options{Locking: locking}))
			const n = 8
			inside := 0
			var all sync.WaitGroup
			ids := make([]session.ID, n)
			for i := range n {
				b := withTicket(t, m)
				all.Go(func() {
					res := b.send(func(_ http.ResponseWriter, r *http.Request) {
						s := session.FromContext(r.Context())
						s.Set(fmt.Sprint("before ", i), true)
						if err := s.Lock(r.Context()); err != nil {
							t.Error(err)
							return
						}
						inside++ // the race detector looks on
						k, _ := session.Key[int]("k").Get(s)
						session.Key[int]("k").Set(s, k+1)
						ids[i] = s.ID()
					})
					wantStatus(t, res, http.StatusOK)
					b.want("session_id")
				})
			}
			all.Wait()
			withTicket(t, m).visit(func(s *session.Session) {
				if k, _ := session.Key[int]("k").Get(s); k != n+1 || inside != n || s.Len() != n+2 || s.ID() != ids[0] {
					t.Errorf("k is %d, %d were inside, keys %q", k, inside, s.Keys())
				}
			})
		}
	})
	t.Run("MaxSessionsPerUser", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, refuse := range []bool{false, true} {
				old := newOldSystem()
				old.sessions["second"] = old.sessions["ticket"]
				opts := old.options(session.Options{MaxSessionsPerUser: 1, RefuseNewSessions: refuse})
				m := newManager(t, session.NewMemoryStore(), opts)
				first := withTicket(t, m)
				wantStatus(t, first.visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
				time.Sleep(time.Second)
				second := &mover{t, m, map[string]string{oldName: "second"}}
				wantStatus(t, second.visit(func(s *session.Session) { s.Has("k") }), http.StatusOK)
				if first.user() != "" || second.user() != "ann" || len(userSessions(t, m)) != 1 {
					t.Errorf("users %q, %q, sessions %+v", first.user(), second.user(), userSessions(t, m))
				}
			}
		})
	})
	t.Run("PreviousSecrets", func(t *testing.T) {
		old := newOldSystem()
		store := session.NewMemoryStore()
		b := withTicket(t, newManager(t, store, old.options(session.Options{})))
		b.clone().visit(func(s *session.Session) { s.Set("k", 2) })
		opts := old.options(session.Options{PreviousSecrets: [][]byte{secretOf('s')}})
		m, err := session.New(store, secretOf('n'), opts)
		if err != nil {
			t.Fatal(err)
		}
		b.m = m
		b.visit(func(s *session.Session) {
			if k, _ := session.Key[int]("k").Get(s); k != 2 {
				t.Errorf("with another secret, the old cookie leads to %v", s)
			}
		})
	})
	t.Run("cookie", func(t *testing.T) {
		old := newOldSystem()
		opts := old.options(session.Options{})
		opts.Migration.Cookie = http.Cookie{
			Name: oldName, Value: "x", Path: "/app", Domain: "example.com", Secure: true, Partitioned: true,
			SameSite: http.SameSiteNoneMode, MaxAge: 60,
		}
		res := withTicket(t, newManager(t, session.NewMemoryStore(), opts)).visit(func(s *session.Session) { s.Has("k") })
		const want = "old=; Path=/app; Domain=example.com; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; Secure; " +
			"SameSite=None; Partitioned"
		if got := setCookie(t, res.Header, oldName); got != want {
			t.Errorf("removed by %q, want %q", got, want)
		}
	})
}

func TestMigrationFaults(t *testing.T) {
	load := newOldSystem().Load
	tests := map[string]struct {
		migration session.Migration
		want      string
	}{
		"no Load":      {session.Migration{Cookie: http.Cookie{Name: "old"}}, "there is no Load"},
		"no name":      {session.Migration{Load: load}, `Cookie: Name ""`},
		"our own name": {session.Migration{Cookie: http.Cookie{Name: "session_id"}, Load: load}, `"session_id" is the name`},
		"a bad path":   {session.Migration{Cookie: http.Cookie{Name: "old", Path: "a;b"}, Load: load}, "invalid"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := session.New(session.NewMemoryStore(), secretOf('s'), &session.Options{Migration: &test.migration})
			if err == nil || !strings.Contains(err.Error(), "Options.Migration: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("New: %v, want %q in it", err, test.want)
			}
		})
	}
}
