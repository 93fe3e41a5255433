package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
)

// playRounds plays rounds of a race, several side by side, until one fails: 100 of them, or as many as the environment
// variable SESSION_TEST_ROUNDS says. Each of those side by side has a function of its own to play them, which draws
// all that it draws from the seed. SESSION_TEST_SEED sets the first one.
func playRounds(t *testing.T, newRound func() func(ctx context.Context, seed uint64) error) {
	t.Helper()
	t.Parallel() // with the rounds on other stores: much of the time they wait for servers
	rounds, first := uint64(100), rand.Uint64()
	if env := os.Getenv("SESSION_TEST_ROUNDS"); env != "" {
		rounds, _ = strconv.ParseUint(env, 10, 64)
	}
	if env := os.Getenv("SESSION_TEST_SEED"); env != "" {
		first, _ = strconv.ParseUint(env, 10, 64)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range 4 {
		play := newRound()
		workers.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= rounds {
					return
				}
				if err := play(ctx, first+n); err != nil && ctx.Err() == nil {
					t.Errorf("round %d, SESSION_TEST_SEED=%d: %v", n, first+n, err)
					cancel()
				}
			}
		})
	}
	workers.Wait()
}

// A crew is managers that share nothing but the store and the secret, as the processes of an application do.
type crew []*session.Manager

func newCrew(t *testing.T, store session.Store, n int, opts session.Options) crew {
	t.Helper()
	opts.SweepInterval = session.Never
	opts.StoreTimeout = time.Minute // a busy machine is no fault of the store
	opts.Logger = quiet
	var c crew
	for range n {
		m, err := session.New(store, secretOf('s'), &opts)
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, m)
	}
	return c
}

// An answer is what of a response concerns the session.
type answer struct {
	status  int
	cookie  string // that the response sets
	removed bool   // the response removes the cookie
}

func (a answer) String() string {
	switch {
	case a.removed:
		return fmt.Sprintf("%d, the cookie removed", a.status)
	case a.cookie != "":
		return fmt.Sprintf("%d and cookie %.6s…", a.status, a.cookie)
	}
	return strconv.Itoa(a.status)
}

// ask sends a request with the cookie, none if it is empty, to a handler that calls use.
func ask(ctx context.Context, m *session.Manager, cookie string, use func(*session.Session)) answer {
	return send(ctx, m, cookie, func(_ http.ResponseWriter, r *http.Request) { use(session.FromContext(r.Context())) })
}

// send is ask with the whole of the handler.
func send(ctx context.Context, m *session.Manager, cookie string, h http.HandlerFunc) answer {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: "session_id", Value: cookie})
	}
	w := httptest.NewRecorder()
	m.Handler(h).ServeHTTP(w, r)
	a := answer{status: w.Code}
	for _, c := range w.Result().Cookies() {
		a.cookie, a.removed = c.Value, c.MaxAge < 0
	}
	return a
}

// 32 requests with one cookie, at the moment of renewal, in up to four processes, half of them writing: one
// successor, every write kept, all answers valid, and the next request is at home with either cookie.
func TestRenewalRaces(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		playRounds(t, func() func(context.Context, uint64) error {
			opts := session.Options{RenewGrace: 10 * time.Minute}
			plain := newCrew(t, store, 4, opts)
			opts.EncryptAtRest = true
			encrypted := newCrew(t, store, 4, opts)
			return func(ctx context.Context, seed uint64) error {
				random := rand.New(rand.NewPCG(seed, 0))
				all := plain
				if random.IntN(2) == 0 {
					all = encrypted
				}
				return renewalRace(ctx, all[:1+random.IntN(4)], random)
			}
		})
	})
}

const hitCounter session.Key[int] = "hits"

func renewalRace(ctx context.Context, all crew, random *rand.Rand) error {
	const n = 32
	user := ""
	if random.IntN(4) == 0 {
		user = fmt.Sprintf("user %d", random.Uint64())
	}
	begun := ask(ctx, all[0], "", func(s *session.Session) { s.SetUser(user); s.Set("planted", true) })
	if begun.cookie == "" {
		return fmt.Errorf("a new session: %v", begun)
	}
	cookie := begun.cookie
	if err := all[0].Age(ctx, cookie, 4*time.Minute); err != nil {
		return err
	}
	var loaded sync.WaitGroup
	together := random.IntN(2) == 0 // all have loaded the session before the first one commits
	if together {
		loaded.Add(n)
	}
	var requests sync.WaitGroup
	var answers [n]answer
	var lost atomic.Int32
	for i := range n {
		requests.Go(func() {
			answers[i] = ask(ctx, all[i%len(all)], cookie, func(s *session.Session) {
				if !s.Has("planted") || s.User() != user {
					lost.Add(1)
				}
				if together {
					loaded.Done()
					loaded.Wait()
				}
				if i%2 == 0 {
					s.Set(fmt.Sprint(i), true)
					hitCounter.Update(s, func(n int) int { return n + 1 })
				}
			})
		})
	}
	requests.Wait()
	if lost.Load() > 0 {
		return fmt.Errorf("%d requests found no session", lost.Load())
	}
	for i, a := range answers {
		if a != answers[0] || a.status != http.StatusOK || a.cookie == "" || a.removed {
			return fmt.Errorf("the answers to requests 0 and %d: %v; %v", i, answers[0], a)
		}
	}
	var ids [2]session.ID
	for i, cookie := range []string{answers[0].cookie, cookie} {
		var keys, hits int
		a := ask(ctx, all[len(all)-1], cookie, func(s *session.Session) {
			ids[i], keys = s.ID(), s.Len()
			hits, _ = hitCounter.Get(s)
		})
		if a.status != http.StatusOK || a.removed || keys != 2+n/2 || hits != n/2 {
			return fmt.Errorf("the next request: %v, %d keys, %d hits", a, keys, hits)
		}
	}
	if ids[0] != ids[1] {
		return fmt.Errorf("the cookie leads to %v, the one before to %v", ids[0], ids[1])
	}
	if user == "" {
		return nil
	}
	list, err := all[0].UserSessions(ctx, user)
	if err != nil || len(list) != 1 || list[0].ID != ids[0] {
		return fmt.Errorf("the user's sessions: %v, %v; want %v", list, err, ids[0])
	}
	return nil
}
