package storetest

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
)

// SmallDisk returns a file system of that size, such as 1m. It skips the test where none can be mounted.
func SmallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	return mount(t, "-t", "tmpfs", "-o", "size="+size+",mode=700", "tmpfs")
}

// mount mounts a file system for as long as the test takes, and returns where. It skips the test where that cannot be done.
func mount(t *testing.T, what ...string) string {
	t.Helper()
	dir := t.TempDir()
	if output, err := exec.Command("mount", append(what, dir)...).CombinedOutput(); err != nil {
		t.Skipf("a file system cannot be mounted: %v: %s", err, output)
	}
	t.Cleanup(func() {
		if output, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, output)
		}
	})
	return dir
}

// FillDisk takes all room that a file system has, by a file named filler.
func FillDisk(t *testing.T, disk string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(disk, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 4096; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// PowerLoss checks that what has returned outlives a loss of power: a copy of the device has it, of which the file system has
// not written back anything that nobody asked for. open opens a store at a path, by which it makes what is not there.
func PowerLoss(t *testing.T, open func(path string) (session.StoreCloser, error)) {
	t.Helper()
	device := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(device, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mkfs.ext4", "-q", "-F", device).CombinedOutput(); err != nil {
		t.Skipf("there is no file system to lose power: %v: %s", err, output)
	}
	disk := mountDevice(t, device)
	store := Closed(t)(open(filepath.Join(disk, "sessions")))
	afterLoss := func(check func(session.Store)) {
		t.Helper()
		data, err := os.ReadFile(device)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(copied, data, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := open(filepath.Join(mountDevice(t, copied), "sessions"))
		if err != nil {
			t.Fatal(err)
		}
		check(again)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	id, removed := session.ID{1}, session.ID{2}
	rec := session.Record{Expires: time.Now().Add(time.Hour), Data: []byte("first")}
	for _, id := range []session.ID{id, removed} {
		if err := store.Save(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
	}
	want := func(store session.Store, version uint64, text string) {
		t.Helper()
		if rec, err := store.Load(t.Context(), id); err != nil || rec.Version != version || string(rec.Data) != text {
			t.Errorf("after a loss of power: %q of version %d, %v; want %q of version %d", rec.Data, rec.Version, err, text, version)
		}
	}
	afterLoss(func(again session.Store) { want(again, 1, "first") })
	rec.Version, rec.Data = 1, []byte("second")
	if err := store.Save(t.Context(), id, rec); err != nil {
		t.Fatal(err)
	}
	afterLoss(func(again session.Store) { want(again, 2, "second") })
	if err := store.Delete(t.Context(), removed); err != nil {
		t.Fatal(err)
	}
	afterLoss(func(again session.Store) {
		want(again, 2, "second")
		if _, err := again.Load(t.Context(), removed); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("what was deleted is back after a loss of power: %v", err)
		}
	})
	FillDisk(t, disk)
	rec.Version, rec.Data = 2, []byte("third")
	if err := store.Save(t.Context(), id, rec); err != nil {
		t.Fatal(err)
	}
	afterLoss(func(again session.Store) { want(again, 3, "third") })
}

// mountDevice mounts the file system in a file, which writes nothing back by itself for as long as the test takes, nor what is
// in a file that is renamed.
func mountDevice(t *testing.T, device string) string {
	t.Helper()
	return mount(t, "-o", "loop,commit=3600,data=writeback,noauto_da_alloc", device)
}

// LogoutsOnFullDisk checks that, on a disk where others take what becomes free, each of a user's sessions can be logged out,
// and the rest be ended. The cookies are those of all the sessions, more than ten.
func LogoutsOnFullDisk(t *testing.T, disk string, m *session.Manager, user string, cookies []string) {
	t.Helper()
	for _, cookie := range cookies[:10] {
		if a := client.Ask(t.Context(), m, cookie, (*session.Session).Destroy); a.Status != http.StatusOK || !a.Removed {
			t.Errorf("a logout gets %+v", a)
		}
		FillDisk(t, disk)
	}
	if n, err := m.EndSessions(t.Context(), session.OfUser(user)); n < len(cookies)-10 || err != nil { // a login that failed may have left one
		t.Errorf("%d of %d sessions have ended, %v", n, len(cookies)-10, err)
	}
	for _, cookie := range cookies {
		client.Ask(t.Context(), m, cookie, func(s *session.Session) {
			if s.User() != "" {
				t.Error("a session lives on")
			}
		})
	}
}
