package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/interleave"
)

// A cookie that somebody knew before the login never reaches the session after it, not within the grace either, however
// the login is done, and whatever the session's ID was renewed to before and since.
func TestFixation(t *testing.T) {
	for name, login := range map[string]func(*session.Session){
		"SetUser":             func(s *session.Session) { s.SetUser("ann") },
		"Regenerate":          func(s *session.Session) { s.Regenerate() },
		"Destroy and SetUser": func(s *session.Session) { s.Destroy(); s.SetUser("ann") },
		"twice":               func(s *session.Session) { s.SetUser("bob"); s.SetUser("ann") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVisitor(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, Logger: quiet})
				v.visit(func(s *session.Session) { s.Set("basket", "tea") })
				known := []*visitor{v.clone()}
				for range 3 {
					time.Sleep(4*time.Minute + 5*time.Second)
					v.visit(func(s *session.Session) { s.Has("basket") }) // it is renewed
					known = append(known, v.clone())
				}
				wantStatus(t, v.visit(func(s *session.Session) { login(s); s.Set("private", 0) }), http.StatusOK)
				for i, pause := range []time.Duration{0, 10 * time.Second, 19 * time.Second, 2 * time.Second, 4 * time.Minute, time.Hour} {
					for range pause / (10 * time.Minute) {
						time.Sleep(10 * time.Minute)
						v.visit(func(s *session.Session) { s.Has("private") })
					}
					time.Sleep(pause % (10 * time.Minute))
					v.visit(func(s *session.Session) {
						if !s.Has("private") {
							t.Errorf("step %d: who logged in is not any more", i)
						}
						s.Set("private", i)
					})
					for n, k := range known {
						k.clone().visit(func(s *session.Session) {
							if s.User() != "" || s.Len() > 0 {
								t.Errorf("step %d: cookie %d of before the login leads to %v", i, n, s)
							}
						})
						k.clone().visit(func(s *session.Session) { s.Set("basket", "poison") })
					}
					v.visit(func(s *session.Session) {
						if basket, _ := s.Get("basket"); basket == "poison" {
							t.Errorf("step %d: a cookie of before the login changes the session", i)
						}
					})
				}
			})
		})
	}
}

// The same while whoever knows the cookie uses it during the login, in any order of calls to the store, with faults: no
// cookie that is known, and none that a response to one of them sets, ever leads to who logged in.
func TestFixationRaces(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := &interleave.Store{Store: newStore(t)}
		playRounds(t, func() func(context.Context, uint64) error {
			var casts [2]userCast
			for i := range casts {
				opts := session.Options{RenewInterval: time.Millisecond, RenewGrace: 10 * time.Minute, EncryptAtRest: i == 1}
				casts[i] = userCast{options: opts, processes: newCrew(t, store, 5, opts)}
			}
			return func(ctx context.Context, seed uint64) error {
				r := interleave.New(seed)
				r.Faults = r.Random.IntN(3) == 0
				if err := fixationRace(ctx, r, casts[r.Random.IntN(len(casts))]); err != nil {
					return fmt.Errorf("%w\n%v", err, r)
				}
				return nil
			}
		})
	})
}

func fixationRace(ctx context.Context, r *interleave.Round, cast userCast) error {
	victim := fmt.Sprintf("victim %d", rand.Uint64())
	planted := ask(ctx, cast.processes[0], "", func(s *session.Session) { s.Set("planted", true) }).cookie
	var login answer
	him := r.Add("login", func(ctx context.Context) {
		login = ask(ctx, cast.processes[0], planted, func(s *session.Session) { s.SetUser(victim); s.Set("private", true) })
	})
	known := make([]answer, 1+r.Random.IntN(4))
	var actors []*interleave.Actor
	for i := range known {
		act := []userAct{reads, writes, regenerates, logsIn}[r.Random.IntN(4)]
		actors = append(actors, r.Add(fmt.Sprintf("attack %d: %s", i, act), func(ctx context.Context) {
			known[i] = ask(ctx, cast.processes[1+i], planted, func(s *session.Session) {
				s.Has("planted")
				switch act {
				case writes:
					s.Set("poison", true)
				case regenerates:
					s.Regenerate()
				case logsIn:
					s.SetUser("attacker of " + victim)
				}
			})
		}))
	}
	r.Play(ctx)
	cookies := []string{planted}
	for i, a := range known {
		if a.cookie != "" && !a.removed && !actors[i].Died() {
			cookies = append(cookies, a.cookie)
		}
	}
	loggedIn := login.status == http.StatusOK && login.cookie != "" && !him.Died()
	for step := range 2 {
		for i, cookie := range cookies {
			a := ask(ctx, cast.processes[1], cookie, func(s *session.Session) {
				if s.User() == victim || s.Has("private") {
					i = -1
				}
			})
			if i < 0 || a.status != http.StatusOK {
				return fmt.Errorf("step %d: a cookie of the attacker's leads to who logged in; the answer is %v", step, a)
			}
			if a.cookie != "" {
				cookies = append(cookies, a.cookie)
			}
		}
		if !loggedIn {
			continue
		}
		found := false
		a := ask(ctx, cast.processes[0], login.cookie, func(s *session.Session) {
			found = s.User() == victim && s.Has("private")
			s.Set("private", step)
		})
		if a.status != http.StatusOK || !found {
			return fmt.Errorf("step %d: who logged in is not any more: %v", step, a)
		}
		if a.cookie != "" {
			login.cookie = a.cookie
		}
	}
	return nil
}
