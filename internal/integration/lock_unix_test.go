//go:build unix

package integration_test

import (
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/storetest"
)

// A holder that stands still for longer than its lease, and wakes while another one holds the lock, or has held it,
// cannot save.
func TestLockHolderPaused(t *testing.T) {
	storetest.EachShared(t, storetest.Processes, func(t *testing.T, kind storetest.Kind) {
		place := kind.Place(t)
		m := newCrew(t, kind.OpenAt(t, place), 1, session.Options{LockWait: 10 * time.Minute})[0]
		cookies := []string{beginCount(t, m), beginCount(t, m)}
		holder := startHolder(t, kind, place, cookies...)
		if err := holder.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if a := countLocked(t.Context(), m, cookies[0], nil); a.Status != http.StatusOK {
			t.Errorf("the next holder: %v", a)
		}
		a := countLocked(t.Context(), m, cookies[1], func() {
			if err := holder.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Error(err)
			}
			holder.input.Close()
			answers, err := io.ReadAll(holder.output)
			if string(answers) != "409\n409\n" || err != nil {
				t.Errorf("the holder that wakes is told %q, %v", answers, err)
			}
		})
		if a.Status != http.StatusOK {
			t.Errorf("the next holder: %v", a)
		}
		for _, cookie := range cookies {
			wantCount(t, m, cookie, 1)
		}
	})
}
