package console

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/session"
)

// What copy can do, one by one, on each backend as TO that can list what it holds.
func TestCopySteps(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		if b.name == "memcached" {
			return
		}
		from, to := dirBackend.newURL(t), b.newURL(t)
		source := openTest(t, from)
		hour, later := time.Now().Add(time.Hour).Truncate(time.Millisecond), time.Now().Add(2*time.Hour).Truncate(time.Millisecond)
		save := func(store session.Store, id byte, version uint64, expires time.Time, data string) {
			t.Helper()
			rec, err := store.Load(t.Context(), session.ID{id})
			if err != nil || version != rec.Version {
				rec = session.Record{Version: version}
			}
			rec.Expires, rec.Data = expires, []byte(data)
			if err := store.Save(t.Context(), session.ID{id}, rec); err != nil {
				t.Fatal(err)
			}
		}
		// in opens TO for a moment, since only one process can have a file open.
		in := func(fn func(session.Store)) {
			t.Helper()
			store := openTest(t, to)
			defer store.Close()
			fn(store)
		}
		want := func(what string, args []string, want copied) {
			t.Helper()
			got := runCopyCommand(t, append([]string{"copy", from, to}, args...)...)
			got.Seconds, got.TooLarge, want.TooLarge = 0, nil, nil
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		}

		for id := range byte(5) {
			save(source, id, 0, hour, "a")
		}
		save(source, 5, 0, time.Time{}, "for ever")
		save(source, 6, 0, hour, "")
		want("into an empty store", nil, copied{Records: 7, Created: 7})
		want("nothing to do", nil, copied{Records: 7, Same: 7})

		save(source, 0, 1, hour, "b")
		save(source, 0, 2, later, "c")
		save(source, 1, 1, time.Time{}, "b")
		save(source, 6, 1, hour, "d")
		rec, _ := source.Load(t.Context(), session.ID{2})
		rec.Expires = later
		if err := session.Touch(t.Context(), source, session.ID{2}, rec); err != nil {
			t.Fatal(err)
		}
		if err := source.Delete(t.Context(), session.ID{3}); err != nil {
			t.Fatal(err)
		}
		in(func(s session.Store) { // a bit further than FROM, as after a Touch there
			rec, err := s.Load(t.Context(), session.ID{4})
			if err != nil {
				t.Fatal(err)
			}
			rec.Expires = later
			if err := session.Touch(t.Context(), s, session.ID{4}, rec); err != nil {
				t.Fatal(err)
			}
		})
		want("changes", nil, copied{Records: 6, Changed: 3, Prolonged: 1, Same: 2, Surplus: 1})
		want("final", []string{"--final"}, copied{Records: 6, Same: 6, Removed: 1, Compared: true})
		in(func(s session.Store) {
			for id, data := range map[byte]string{0: "c", 1: "b", 2: "a", 5: "for ever", 6: "d"} {
				rec, err := s.Load(t.Context(), session.ID{id})
				if err != nil || string(rec.Data) != data || rec.Version != 1 {
					t.Errorf("record %d is %q, version %d, %v", id, rec.Data, rec.Version, err)
				}
			}
			if _, err := s.Load(t.Context(), session.ID{3}); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("what is gone from FROM: %v", err)
			}
		})

		// A record that an application on TO has saved.
		in(func(s session.Store) { save(s, 0, 1, hour, "by the application") })
		save(source, 1, 2, hour, "not to be copied")
		r := run(t, "copy", from, to, "--json")
		if got := decode[copied](t, r.stdout); r.code != exitFailed || got.InUse != 1 || got.Changed != 0 {
			t.Errorf("into a store that is in use: %+v", r)
		}
		in(func(s session.Store) {
			if rec, err := s.Load(t.Context(), session.ID{0}); err != nil || string(rec.Data) != "by the application" {
				t.Errorf("what the application saved is %q, %v", rec.Data, err)
			}
		})
	})
}

// A mistake must not empty a store.
func TestCopyRemovesWithCare(t *testing.T) {
	from, to := dirBackend.newURL(t), redisBackend.newURL(t)
	openTest(t, from)
	target := openTest(t, to)
	for id := range byte(3) {
		if err := target.Save(t.Context(), session.ID{id}, session.Record{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if r := run(t, "copy", from, to, "--final"); r.code != exitUsage || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("FROM is empty: %+v", r)
	}
	if n, err := session.CountRecords(t.Context(), target); n != 3 || err != nil {
		t.Errorf("%d records are left, %v", n, err)
	}
	if got := runCopyCommand(t, "copy", from, to, "--final", "--yes"); got.Removed != 3 || !got.Compared {
		t.Errorf("with --yes: %+v", got)
	}
}

// Memcached cannot list what it holds. From a file, to have that as well.
func TestCopyMemcached(t *testing.T) {
	from, to := fileBackend.newURL(t), memcachedBackend.newURL(t)
	hour, large := time.Now().Add(time.Hour), session.ID{9}
	source := openTest(t, from)
	for _, id := range []session.ID{{1}, {2}, large} {
		if err := source.Save(t.Context(), id, session.Record{Expires: hour, Data: []byte("a")}); err != nil {
			t.Fatal(err)
		}
	}
	source.Close()
	failing := func(what, stderr string, args ...string) copied {
		t.Helper()
		r := run(t, append(args, "--json")...)
		if r.code != exitFailed || !strings.Contains(r.stderr, stderr) {
			t.Errorf("%s: %+v", what, r)
		}
		return decode[copied](t, r.stdout)
	}

	failing("from Memcached", "FROM cannot list", "copy", to, from)
	if got := failing("while the application works", "--final", "copy", from, to); got.Created != 0 {
		t.Errorf("while the application works: %+v", got)
	}
	if got := runCopyCommand(t, "copy", from, to, "--final"); got.Created != 3 || !got.Compared {
		t.Errorf("into an empty place: %+v", got)
	}
	if got := runCopyCommand(t, "copy", from, to, "--final"); got.Same != 3 || !got.Compared {
		t.Errorf("nothing to do: %+v", got)
	}
	wantSame(t, from, to)

	source = openTest(t, from)
	for id, data := range map[session.ID][]byte{{1}: []byte("b"), large: make([]byte, 5<<20)} {
		rec := session.Record{Version: 1, Expires: hour, Data: data}
		if err := source.Save(t.Context(), id, rec); err != nil {
			t.Fatal(err)
		}
	}
	source.Close()
	target := openTest(t, to)
	rec, err := target.Load(t.Context(), session.ID{2})
	if err == nil {
		rec.Data = []byte("by the application")
		err = target.Save(t.Context(), session.ID{2}, rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	got := failing("what does not fit, or is in use", "is in use", "copy", from, to, "--final")
	if got.Changed != 1 || got.InUse != 1 || !slices.Equal(got.TooLarge, []session.ID{large}) {
		t.Errorf("what does not fit, or is in use: %+v", got)
	}
	if rec, err := target.Load(t.Context(), session.ID{2}); err != nil || string(rec.Data) != "by the application" {
		t.Errorf("what the application saved is %q, %v", rec.Data, err)
	}
}

// In the end, a FROM that is still in use is found out.
func TestCopyFromInUse(t *testing.T) {
	from, to := redisBackend.newURL(t), redisBackend.newURL(t)
	a := newMovingApp(t, from, false)
	a.seed(100)
	stop := a.work()
	defer stop()
	a.await(a.busy())
	r := run(t, "copy", from, to, "--final", "--rate", "100", "--json")
	if got := decode[copied](t, r.stdout); r.code != exitFailed || got.Compared || !strings.Contains(r.stderr, "FROM") {
		t.Errorf("%+v", r)
	}
}
