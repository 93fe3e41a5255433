package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// Commits of one session in one process pass one after the other, in the order in which they came, each with what the one
// before saved: none of them conflicts, and none loads again.
func TestCommitsQueueUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 7 // fewer than after which others get a go
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		store.Calls()
		gate := make(chan struct{})
		store.Hook(double.Gate(gate, double.Save))
		done := make(chan string, n)
		for i := range n {
			go func() {
				v.clone().visit(func(s *session.Session) { s.Set(fmt.Sprint(i), i) })
				done <- fmt.Sprint(i)
			}()
			synctest.Wait() // until it is in the queue
		}
		for i := range n {
			gate <- struct{}{} // for one save
			if got := <-done; got != fmt.Sprint(i) {
				t.Errorf("request %s was number %d", got, i)
			}
		}
		close(gate)
		if calls := store.Calls(); calls != [4]int{n, n, 0, 0} {
			t.Errorf("loads, saves, touches, deletes: %v, want %d of the first two", calls, n)
		}
		v.visit(func(s *session.Session) {
			if s.Len() != 1+n {
				t.Errorf("the session holds %v", s.Keys())
			}
		})
	})
}

// After eight commits in a row other processes get a go, for three times as long as a commit takes: they have to load and
// save what this process hands over.
func TestQueueMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, save = 17, time.Millisecond
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		var began []time.Time
		store.Hook(double.Before(func(context.Context, *double.Call) error {
			began = append(began, time.Now()) // one at a time: they queue up
			time.Sleep(save)
			return nil
		}, double.Save))
		var requests sync.WaitGroup
		for i := range n {
			requests.Go(func() { v.clone().visit(func(s *session.Session) { s.Set(fmt.Sprint(i), i) }) })
		}
		requests.Wait()
		for i := 1; i < len(began); i++ {
			want := save
			if i%8 == 0 {
				want += 3 * save
			}
			if gap := began[i].Sub(began[i-1]); gap != want {
				t.Errorf("commit %d came %v after the one before, want %v", i+1, gap, want)
			}
		}
		if len(began) != n {
			t.Errorf("%d saves, want %d", len(began), n)
		}
	})
}

// A commit whose time is up leaves the queue, and those behind it go on.
func TestCommitLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		gate := make(chan struct{})
		store.Hook(double.Gate(gate, double.Save))
		statuses := make(chan int, 2)
		for range 2 { // the first waits for the store, the second for the first
			go func() {
				statuses <- v.clone().visit(func(s *session.Session) { s.Set("k", 2) }).StatusCode
			}()
			synctest.Wait()
		}
		if first, second := <-statuses, <-statuses; first != 503 || second != 503 {
			t.Errorf("the answers are %d and %d, want 503", first, second)
		}
		close(gate)
		wantStatus(t, v.visit(func(s *session.Session) { s.Set("k", 3) }), 200)
	})
}

// A commit whose time is up while it waits saves nothing, however long the one before takes.
func TestCommitOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		store.Calls()
		store.Hook(double.Before(func(context.Context, *double.Call) error {
			time.Sleep(time.Minute) // a store that does not look at its context
			return nil
		}, double.Save))
		first := make(chan bool)
		go func() {
			defer close(first)
			v.clone().visit(func(s *session.Session) { s.Set("k", 2) })
		}()
		synctest.Wait()
		wantStatus(t, v.clone().visit(func(s *session.Session) { s.Set("k", 3) }), 503)
		<-first
		if calls := store.Calls(); calls[1] != 1 {
			t.Errorf("%d saves, want the first one's alone", calls[1])
		}
	})
}

// A panic of an Update's function, as it meets what the commit before has saved, leaves the queue to those behind.
func TestPanicLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		store := double.New(session.NewMemoryStore())
		v := newVisitor(t, store, &session.Options{SweepInterval: session.Never, Logger: quiet})
		v.visit(func(s *session.Session) { hitCounter.Set(s, 1) })
		store.Hook(double.Gate(open, double.Save))
		done := make(chan any, 2)
		go func() {
			v.clone().visit(func(s *session.Session) { hitCounter.Set(s, 2) })
			done <- nil
		}()
		synctest.Wait()
		go func() {
			defer func() { done <- recover() }()
			v.clone().visit(func(s *session.Session) {
				hitCounter.Update(s, func(n int) int {
					if n == 2 {
						panic("boom")
					}
					return n
				})
				s.Set("k", 1)
			})
		}()
		synctest.Wait()
		close(open)
		if first, second := <-done, <-done; first == second {
			t.Error("nothing has panicked")
		}
		wantStatus(t, v.visit(func(s *session.Session) { hitCounter.Set(s, 3) }), 200)
	})
}

// A request that gives up waiting at the very moment at which its turn comes passes that on.
func TestTurnComesAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{
			Locking: true, LockWait: time.Second, SweepInterval: session.Never, Logger: quiet,
		})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		for range 3000 {
			var all sync.WaitGroup
			all.Go(func() {
				v.clone().visit(func(s *session.Session) {
					s.Has("k")
					time.Sleep(time.Second)
				})
			})
			synctest.Wait()
			all.Go(func() { v.clone().visit(func(s *session.Session) { s.Has("k") }) }) // it may come in time, or not
			synctest.Wait()
			time.Sleep(time.Millisecond)
			wantStatus(t, v.clone().visit(func(s *session.Session) { s.Has("k") }), 200)
			all.Wait()
		}
	})
}
