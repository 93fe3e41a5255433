package session_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

func TestSweepInBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		var seen events
		m := newManager(t, store, &session.Options{Observer: seen.observe, IdleTimeout: time.Minute})
		for range 10 {
			(&visitor{t: t, m: m}).visit(func(s *session.Session) { s.Set("k", 1) })
		}
		stays := &visitor{t: t, m: m}
		stays.visit(func(s *session.Session) { s.Set("k", 1); s.SetIdleTimeout(time.Hour) })
		time.Sleep(6 * time.Minute) // five, and the jitter
		synctest.Wait()
		if n := seen.ops["sweep"]; n != 1 {
			t.Errorf("swept %d times in six minutes", n)
		}
		if n, err := m.DeleteExpired(t.Context()); n != 0 || err != nil {
			t.Errorf("the sweep left %d expired records, %v", n, err)
		}
		if !stays.alive() {
			t.Error("a live session was removed")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if n := seen.ops["sweep"]; n != 2 { // the one by hand
			t.Errorf("swept %d times after Close", n-2)
		}
	})
}

func TestSweepCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		v := newVisitor(t, session.NewMemoryStore(), &session.Options{Observer: seen.observe, SweepInterval: session.Never})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if seen.ops["sweep"] != 0 {
			t.Error("swept")
		}
		if n, err := v.m.DeleteExpired(t.Context()); n != 1 || err != nil {
			t.Errorf("by hand: %d, %v", n, err)
		}
	})
}

// A store that is down for a while is swept when it is back.
func TestSweepGoesOnAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		store := double.New(session.NewMemoryStore(), double.Fail(errDown, double.Sweep))
		m := newManager(t, store, &session.Options{Observer: seen.observe, Logger: slog.New(slog.DiscardHandler)})
		time.Sleep(time.Hour)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if n := seen.ops["sweep"]; n < 10 {
			t.Errorf("%d sweeps in an hour", n)
		}
	})
}
