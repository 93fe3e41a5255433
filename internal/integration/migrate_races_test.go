package integration_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
)

// oldName is the name of the old system's cookie.
const oldName = "old"

// Requests with one old cookie meet, and with the new cookies that come of it, each in a process of its own. One at a
// time makes one step at the store or the old system, drawn at random; in every other round steps fail, replies get lost
// and processes die.
func TestMigrationRaces(t *testing.T) {
	rounds := uint64(2000)
	if testing.Short() {
		rounds = 300
	}
	for seed := range rounds {
		r := newMove(t, seed)
		r.Play(t.Context())
		r.judge(t)
		if t.Failed() {
			t.Fatalf("%v", r)
		}
	}
}

// A moveAct is what a request does with the session.
type moveAct int

const (
	moveReads moveAct = iota
	moveWrites
	moveRegenerates // and writes
	moveLogsIn      // as another user, and writes
	moveDestroys
	moveEndsAll // of the user's sessions, without a request
	moveActs
)

func (a moveAct) String() string {
	return [...]string{"reader", "writer", "regenerator", "login", "destroyer", "end of all"}[a]
}

// A move is a round in which requests meet that carry the cookie of one old session, or one that an earlier of them
// got.
type move struct {
	*interleave.Round
	store   *interleave.Store
	old     *interleave.Store // the old system keeps the session here
	endures bool              // it never forgets
	dated   bool              // it knows when the user logged in: before the round
	encrypt bool
	movers  []*moveRequest

	mu      sync.Mutex
	cookies []string // that are about; the empty one stands for the old cookie
	ends    int      // calls of Migration.End
}

// A moveRequest is one of them, and what came of it.
type moveRequest struct {
	*interleave.Actor
	act     moveAct
	index   int
	found   bool // the old session's values, when the handler looked; of an end of all, that it concerns the session
	status  int
	without bool   // it came with the old cookie, and got no other
	got     string // the cookie that the answer set
}

func newMove(t *testing.T, seed uint64) *move {
	r := &move{
		Round: interleave.New(seed), cookies: []string{""},
		store: interleave.NewStore(session.NewMemoryStore()), old: interleave.NewStore(session.NewMemoryStore()),
	}
	r.Faults = seed%2 == 1
	r.endures, r.dated, r.encrypt = r.Random.IntN(2) == 0, r.Random.IntN(2) == 0, r.Random.IntN(2) == 0
	r.Clock = new(interleave.Clock)
	r.Clock.Start()
	r.Clock.Pass(time.Second)
	if err := r.old.Save(t.Context(), sha256.Sum256([]byte("ticket")), session.Record{Data: []byte("Ann")}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 + r.Random.IntN(4) {
		act := moveAct(r.Random.IntN(int(moveActs)))
		if r.Random.IntN(2) == 0 {
			act = moveWrites
		}
		m := r.newManager(t)
		draw := rand.New(rand.NewPCG(seed, uint64(i)))
		q := &moveRequest{act: act, index: i}
		q.Actor = r.Add(fmt.Sprintf("%d, a %v", i, act), func(ctx context.Context) { q.run(ctx, r, m, draw) })
		r.movers = append(r.movers, q)
	}
	return r
}

func (r *move) newManager(t *testing.T) *session.Manager {
	return newCrew(t, r.store, 1, r.options()).by(r.Clock)[0]
}

// options returns the options of one of the processes.
func (r *move) options() session.Options {
	id := func(req *http.Request) session.ID {
		c, err := req.Cookie(oldName)
		if err != nil {
			return session.ID{}
		}
		return sha256.Sum256([]byte(c.Value))
	}
	began := r.Clock.Now().Add(-time.Second)
	return session.Options{
		RenewGrace: time.Minute, EncryptAtRest: r.encrypt,
		Migration: &session.Migration{
			Cookie: http.Cookie{Name: oldName},
			Load: func(req *http.Request) (*session.OldSession, error) {
				rec, err := r.old.Load(req.Context(), id(req))
				old := &session.OldSession{Values: map[string]any{"name": string(rec.Data), "k": 1}, User: "ann"}
				if r.dated {
					old.AuthenticatedAt = began
				}
				return old, err
			},
			End: func(req *http.Request) error {
				r.mu.Lock()
				r.ends++
				r.mu.Unlock()
				if r.endures {
					return nil
				}
				return r.old.Delete(req.Context(), id(req))
			},
		},
	}
}

// run sends the request, at some time, with one of the cookies that are about by then.
func (q *moveRequest) run(ctx context.Context, r *move, m *session.Manager, draw *rand.Rand) {
	r.old.Load(ctx, session.ID{}) // takes a turn, and does nothing
	r.mu.Lock()
	cookie := r.cookies[draw.IntN(len(r.cookies))]
	moved := len(r.cookies) > 1
	r.mu.Unlock()
	if q.act == moveEndsAll {
		_, err := m.EndSessions(ctx, session.OfUser("ann"))
		q.found, q.status = moved || r.dated, http.StatusOK
		if err != nil {
			q.status = http.StatusServiceUnavailable
		}
		return
	}
	a := sendMove(ctx, m, cookie, func(s *session.Session) {
		q.found = s.Has("name")
		switch q.act {
		case moveRegenerates:
			s.Regenerate()
		case moveLogsIn:
			s.SetUser("bob")
		case moveDestroys:
			s.Destroy()
			return
		case moveReads:
			return
		}
		s.Set(fmt.Sprint("written ", q.index), true)
		session.Key[int]("k").Update(s, func(n int) int { return n + 1 })
	})
	q.status, q.without, q.got = a.Status, cookie+a.Cookie == "", a.Cookie
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Cookie != "" && !q.Died() { // or the client got nothing
		r.cookies = append(r.cookies, a.Cookie)
	}
}

// sendMove sends a request with the old cookie, and a new one unless it is empty.
func sendMove(ctx context.Context, m *session.Manager, cookie string, use func(*session.Session)) client.Answer {
	return client.Ask(ctx, m, cookie, use, &http.Cookie{Name: oldName, Value: "ticket"})
}

// A moveView is what a cookie leads to.
type moveView struct {
	user string
	keys []string
	k    int
}

// look returns what all cookies that are about lead to, and whether the old one leads anywhere.
func (r *move) look(t *testing.T, m *session.Manager) (views map[session.ID]moveView, byOld bool) {
	views = make(map[session.ID]moveView)
	for _, cookie := range r.cookies {
		a := sendMove(t.Context(), m, cookie, func(s *session.Session) {
			if !s.Has("name") {
				return
			}
			if err := s.Save(t.Context()); err != nil {
				t.Errorf("looking at the session: %v", err)
			}
			if s.ID() == (session.ID{}) && r.cast(moveEndsAll) { // it was not to move any more
				return
			}
			k, _ := session.Key[int]("k").Get(s)
			views[s.ID()] = moveView{s.User(), s.Keys(), k}
			byOld = byOld || cookie == ""
		})
		if a.Status != http.StatusOK {
			t.Errorf("looking at the session: %v", a)
		}
	}
	return views, byOld
}

// cast reports whether some request does one of the acts.
func (r *move) cast(acts ...moveAct) bool {
	return slices.ContainsFunc(r.movers, func(q *moveRequest) bool { return slices.Contains(acts, q.act) })
}

// apart returns the sessions of their own that requests began because the old system's had ended, or was replaced, by
// then: a login at any time, others as visitors, once the user's sessions had been ended.
func (r *move) apart(t *testing.T, m *session.Manager) map[session.ID]*moveRequest {
	sessions := make(map[session.ID]*moveRequest)
	for _, q := range r.movers {
		user := ""
		switch {
		case q.status != http.StatusOK || q.got == "" || q.Died():
			continue
		case q.act == moveLogsIn:
			user = "bob"
		case !r.cast(moveEndsAll):
			continue
		}
		a := client.Ask(t.Context(), m, q.got, func(s *session.Session) {
			if s.Has("name") || s.ID() == (session.ID{}) {
				return
			}
			sessions[s.ID()] = q
			k, _ := session.Key[int]("k").Get(s)
			if s.User() != user || k != 1 || !slices.Equal(s.Keys(), []string{"k", fmt.Sprint("written ", q.index)}) {
				t.Errorf("request %d began session %v with k = %d", q.index, s, k)
			}
		})
		if a.Status != http.StatusOK {
			t.Errorf("looking at the session: %v", a)
		}
	}
	return sessions
}

func (r *move) judge(t *testing.T) {
	t.Helper()
	if err := errors.Join(r.store.Err(), r.old.Err()); err != nil {
		t.Error(err)
	}
	ends := r.ends // of the requests, not of those that look
	m := r.newManager(t)
	views, byOld := r.look(t, m)
	apart := r.apart(t, m)
	cast := r.cast
	done := func(acts ...moveAct) bool {
		return slices.ContainsFunc(r.movers, func(q *moveRequest) bool {
			return slices.Contains(acts, q.act) && q.found && q.status == http.StatusOK
		})
	}
	quietly := !cast(moveRegenerates, moveLogsIn, moveDestroys, moveEndsAll)
	ended := done(moveDestroys) || done(moveEndsAll) && !cast(moveLogsIn)
	switch {
	case len(views) > 1:
		t.Errorf("there are %d sessions: %v", len(views), views)
	case ended && len(views) > 0:
		t.Error("a session that was ended is alive")
	case len(views) == 0 && quietly:
		t.Error("the session is lost, and nobody ended it")
	case len(views) == 0 && !r.Faults && !ended && !cast(moveEndsAll):
		t.Error("the session is lost, and nobody was told that it ended")
	case done(moveRegenerates, moveLogsIn) && byOld:
		t.Error("the ID was regenerated, and the old cookie still leads to the session")
	}
	if len(apart) > 0 && !cast(moveRegenerates, moveDestroys, moveEndsAll) && len(views) == 0 {
		t.Errorf("%d logins began anew, and nobody ended or replaced the session", len(apart))
	}
	for _, v := range views {
		r.judgeView(t, v, apart)
		list, err := m.Sessions(t.Context(), session.OfUser(v.user))
		want := 1
		for _, q := range apart {
			if q.act == moveLogsIn && v.user == "bob" {
				want++
			}
		}
		if err != nil || len(list) != want && !(r.Faults && cast(moveEndsAll, moveLogsIn)) {
			t.Errorf("%q has the sessions %v, %v", v.user, list, err)
		}
	}
	if r.Faults {
		return
	}
	for _, q := range r.movers {
		if q.status != http.StatusOK && (quietly || q.status != http.StatusConflict) {
			t.Errorf("request %d got %d", q.index, q.status)
		}
		if q.without && quietly {
			t.Errorf("request %d got no cookie", q.index)
		}
	}
	live := 0
	for info, err := range newManager(t, r.store.Store, session.Options{}).Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Kind == session.RecordSession {
			live++
		}
	}
	if live != len(views)+len(apart) {
		t.Errorf("%d records are live, %d and %d can be reached", live, len(views), len(apart))
	}
	if ends != 1 && cast(moveReads, moveWrites, moveRegenerates, moveLogsIn, moveDestroys) {
		t.Errorf("End was called %d times", ends)
	}
}

// judgeView checks that the session has what requests were told is saved, each once.
func (r *move) judgeView(t *testing.T, v moveView, apart map[session.ID]*moveRequest) {
	t.Helper()
	written := 0
	for _, q := range r.movers {
		if slices.Contains(slices.Collect(maps.Values(apart)), q) {
			continue
		}
		has := slices.Contains(v.keys, fmt.Sprint("written ", q.index))
		if has {
			written++
		}
		if writes := moveWrites <= q.act && q.act <= moveLogsIn; writes && q.status == http.StatusOK && !has {
			t.Errorf("what request %d wrote is lost", q.index)
		}
		if has && q.status != http.StatusOK && !r.Faults {
			t.Errorf("what request %d wrote is there, and it was told %d", q.index, q.status)
		}
	}
	if v.k != 1+written {
		t.Errorf("k is %d, and %d requests have counted", v.k, written)
	}
}
