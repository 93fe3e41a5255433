package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
	"example.com/session/internal/storetest"
)

// A cookie that somebody knew before the login never reaches the session after it, not within the grace either, however
// the login is done, and however often the cookie was renewed before and since; nor does a token of the header.
func TestFixation(t *testing.T) {
	t.Run("cookie", func(t *testing.T) { testFixation(t, "") })
	t.Run("header", func(t *testing.T) { testFixation(t, client.Native) })
}

func testFixation(t *testing.T, blank string) {
	for name, login := range map[string]func(*session.Session){
		"SetUser":             func(s *session.Session) { s.SetUser("ann") },
		"Regenerate":          func(s *session.Session) { s.Regenerate() },
		"Destroy and SetUser": func(s *session.Session) { s.Destroy(); s.SetUser("ann") },
		"twice":               func(s *session.Session) { s.SetUser("bob"); s.SetUser("ann") },
	} {
		t.Run(name, func(t *testing.T) {
			clock := new(interleave.Clock)
			clock.Start()
			m := newCrew(t, session.NewMemoryStore(), 1, session.Options{}).by(clock)[0]
			cookie := blank
			visit := func(use func(*session.Session)) {
				t.Helper()
				a := client.Ask(t.Context(), m, cookie, use)
				if cookie = a.Next(cookie); a.Status != http.StatusOK || cookie == "" {
					t.Fatalf("the answer is %v", a)
				}
			}
			visit(func(s *session.Session) { s.Set("basket", "tea") })
			known := []string{cookie}
			for range 3 {
				for range 2 { // it is renewed, and then confirmed
					clock.Pass(4*time.Minute + 5*time.Second)
					visit(func(s *session.Session) { s.Has("basket") })
				}
				if cookie == known[len(known)-1] {
					t.Error("it was not renewed")
				}
				known = append(known, cookie)
			}
			visit(func(s *session.Session) { login(s); s.Set("private", 0) })
			for i, pause := range []time.Duration{0, 4 * time.Second, 10 * time.Second, 15 * time.Second, 2 * time.Second, 4 * time.Minute, time.Hour} {
				for range pause / (10 * time.Minute) {
					clock.Pass(10 * time.Minute)
					visit(func(s *session.Session) { s.Has("private") })
				}
				clock.Pass(pause % (10 * time.Minute))
				visit(func(s *session.Session) {
					if !s.Has("private") {
						t.Errorf("step %d: who logged in is not any more", i)
					}
					s.Set("private", i)
				})
				for n, cookie := range known {
					for range 2 {
						a := client.Ask(t.Context(), m, cookie, func(s *session.Session) {
							if s.User() != "" || s.Len() > 0 {
								t.Errorf("step %d: cookie %d of before the login leads to %v", i, n, s)
							}
						})
						if a != (client.Answer{Status: http.StatusOK}) {
							t.Errorf("step %d: with cookie %d of before the login, the answer is %v", i, n, a)
						}
						client.Ask(t.Context(), m, cookie, func(s *session.Session) { s.Set("basket", "poison") })
						client.Ask(t.Context(), m, cookie, func(s *session.Session) { s.Destroy() })
					}
				}
				visit(func(s *session.Session) {
					if basket, _ := s.Get("basket"); basket == "poison" {
						t.Errorf("step %d: a cookie of before the login changes the session", i)
					}
				})
			}
		})
	}
}

// The same while whoever knows the cookie uses it during the login, in any order of calls to the store, with faults: no
// cookie that is known, and none that a response to one of them sets, ever leads to who logged in.
func TestFixationRaces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := interleave.NewStore(newStore(t))
		playRounds(t, func() func(context.Context, uint64) error {
			clock := new(interleave.Clock)
			var casts [2]crew
			for i := range casts {
				opts := session.Options{RenewInterval: time.Millisecond, IdleTimeout: time.Hour, EncryptAtRest: i == 1}
				casts[i] = newCrew(t, store, 5, opts).by(clock)
			}
			return func(ctx context.Context, seed uint64) error {
				r := interleave.New(seed)
				r.Faults = r.Random.IntN(3) == 0
				r.Clock = clock
				clock.Start()
				if err := fixationRace(ctx, r, casts[r.Random.IntN(len(casts))]); err != nil {
					return fmt.Errorf("%w\n%v", err, r)
				}
				return nil
			}
		})
	})
}

func fixationRace(ctx context.Context, r *interleave.Round, processes crew) error {
	victim := fmt.Sprintf("victim %d", r.Random.Uint64())
	blank := []string{"", client.Native}[r.Random.IntN(2)]
	planted := client.Ask(ctx, processes[0], blank, func(s *session.Session) { s.Set("planted", true) }).Cookie
	pause := func() time.Duration { return pauses[r.Random.IntN(len(pauses))] }
	var login client.Answer
	starts, thinks := pause(), pause()
	him := r.Add("login", func(ctx context.Context) {
		interleave.SleepFor(ctx, starts)
		login = client.Ask(ctx, processes[0], planted, func(s *session.Session) {
			s.Has("planted")
			interleave.SleepFor(ctx, thinks)
			s.SetUser(victim)
			s.Set("private", true)
		})
	})
	known := make([]client.Answer, 1+r.Random.IntN(4))
	var actors []*interleave.Actor
	for i := range known {
		act := []userAct{reads, writes, regenerates, logsIn}[r.Random.IntN(4)]
		starts, thinks := pause(), pause()
		actors = append(actors, r.Add(fmt.Sprintf("attack %d: %s", i, act), func(ctx context.Context) {
			interleave.SleepFor(ctx, starts)
			known[i] = client.Ask(ctx, processes[1+i], planted, func(s *session.Session) {
				s.Has("planted")
				interleave.SleepFor(ctx, thinks)
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
		if a.Cookie != "" && !a.Removed && !actors[i].Died() {
			cookies = append(cookies, a.Cookie)
		}
	}
	if !him.Faulted() && login.Status != http.StatusOK {
		return fmt.Errorf("the victim is locked out: %v", login)
	}
	loggedIn := login.Status == http.StatusOK && login.Cookie != "" && !him.Died()
	for step := range 4 {
		for i, cookie := range cookies {
			a := client.Ask(ctx, processes[1], cookie, func(s *session.Session) {
				if s.User() == victim || s.Has("private") {
					i = -1
				}
			})
			if i < 0 || a.Status != http.StatusOK {
				return fmt.Errorf("step %d: a cookie of the attacker's leads to who logged in; the answer is %v", step, a)
			}
			if a.Cookie != "" {
				cookies = append(cookies, a.Cookie)
			}
		}
		r.Clock.Pass([]time.Duration{0, 6 * time.Second, time.Minute, 4 * time.Minute}[step])
		if !loggedIn {
			continue
		}
		found := false
		a := client.Ask(ctx, processes[0], login.Cookie, func(s *session.Session) {
			found = s.User() == victim && s.Has("private")
			s.Set("private", step)
		})
		if a.Status != http.StatusOK || !found {
			return fmt.Errorf("step %d: who logged in is not any more: %v", step, a)
		}
		if a.Cookie != "" {
			login.Cookie = a.Cookie
		}
	}
	return nil
}
