package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
	"example.com/session/internal/storetest"
)

// 32 requests with one cookie, at the moment of renewal, in up to four processes, half of them writing: one renewal, every
// write kept, all answers valid, and the next request is at home with either cookie, until one has shown the new one, and a
// window after that. Whoever has only the old one by then has a copy that fell behind. Half of the clients have their token in
// the header.
func TestRenewalRaces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		playRounds(t, func() func(context.Context, uint64) error {
			clock := new(interleave.Clock)
			plain := newCrew(t, store, 4, session.Options{}).by(clock)
			encrypted := newCrew(t, store, 4, session.Options{EncryptAtRest: true}).by(clock)
			return func(ctx context.Context, seed uint64) error {
				random := rand.New(rand.NewPCG(seed, 0))
				all := plain
				if random.IntN(2) == 0 {
					all = encrypted
				}
				clock.Start()
				return renewalRace(ctx, all[:1+random.IntN(4)], clock, random)
			}
		})
	})
}

func renewalRace(ctx context.Context, all crew, clock *interleave.Clock, random *rand.Rand) error {
	const n = 32
	user := ""
	if random.IntN(4) == 0 {
		user = fmt.Sprintf("user %d", random.Uint64())
	}
	blank := []string{"", client.Native}[random.IntN(2)]
	label := session.Label{Name: "tenant", Value: user}
	begun := client.Ask(ctx, all[0], blank, func(s *session.Session) {
		if s.Set("planted", true); user != "" {
			s.SetUser(user, label)
		}
	})
	if begun.Cookie == "" {
		return fmt.Errorf("a new session: %v", begun)
	}
	cookie := begun.Cookie
	clock.Pass(4 * time.Minute)
	var loaded sync.WaitGroup
	together := random.IntN(2) == 0 // all have loaded the session before the first one commits
	if together {
		loaded.Add(n)
	}
	var requests sync.WaitGroup
	var answers [n]client.Answer
	var lost atomic.Int32
	for i := range n {
		requests.Go(func() {
			answers[i] = client.Ask(ctx, all[i%len(all)], cookie, func(s *session.Session) {
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
		if a != answers[0] || a.Status != http.StatusOK || a.Cookie == "" || a.Removed {
			return fmt.Errorf("the answers to requests 0 and %d: %v; %v", i, answers[0], a)
		}
	}
	renewed := answers[0].Cookie
	if before, after := client.Parse(cookie), client.Parse(renewed); after != (client.Cookie{Name: before.Name, Key: before.Key, Count: before.Count + 1}) {
		return fmt.Errorf("the cookie is %v, and was %v", after, before)
	}
	last := all[len(all)-1]
	look := func(cookie string) error {
		var id session.ID
		var keys, hits int
		a := client.Ask(ctx, last, cookie, func(s *session.Session) {
			id, keys = s.ID(), s.Len()
			hits, _ = hitCounter.Get(s)
		})
		if a.Status != http.StatusOK || a.Removed || id != client.Parse(cookie).ID() || keys != 2+n/2 || hits != n/2 {
			return fmt.Errorf("the next request, with cookie %v: %v, session %v, %d keys, %d hits", client.Parse(cookie), a, id, keys, hits)
		}
		return nil
	}
	// Answers get lost: with no request that shows the new cookie, the old one is good for ever.
	clock.Pass(time.Duration(random.IntN(14)) * time.Minute)
	for range 2 {
		if err := errors.Join(look(renewed), look(cookie)); err != nil {
			return err
		}
	}
	a := client.Ask(ctx, last, renewed, func(s *session.Session) { s.Set("planted", false) })
	if a != (client.Answer{Status: http.StatusOK}) {
		return fmt.Errorf("the confirmation: %v", a)
	}
	clock.Pass(time.Minute + 29*time.Second)
	if err := errors.Join(look(renewed), look(cookie)); err != nil {
		return fmt.Errorf("in the window: %w", err)
	}
	clock.Pass(2 * time.Second)
	found := true
	a = client.Ask(ctx, last, cookie, func(s *session.Session) { found = s.Has("planted") })
	if err := look(renewed); err != nil || found || a != (client.Answer{Status: http.StatusOK}) {
		return fmt.Errorf("after the window, the old cookie leads to a session: %v, %v, %w", found, a, err)
	}
	if user == "" {
		return nil
	}
	for _, group := range []session.Group{session.OfUser(user), session.Labelled(label)} {
		list, err := all[0].Sessions(ctx, group)
		if err != nil || len(list) != 1 || list[0].ID != client.Parse(cookie).ID() {
			return fmt.Errorf("the sessions of %v: %v, %v; want %v", group, list, err, client.Parse(cookie).ID())
		}
	}
	return nil
}
