package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/double"
)

// newPlain is newVisitor with a store whose content is readable, in the encrypted run, too.
func newPlain(t *testing.T, store session.Store, opts *session.Options) *visitor {
	t.Helper()
	m, err := session.New(store, bytes.Repeat([]byte("s"), 32), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return &visitor{t: t, store: store, m: m}
}

// id returns the ID of the visitor's session.
func (v *visitor) id() session.ID {
	v.t.Helper()
	var id session.ID
	v.visit(func(s *session.Session) { id = s.ID() })
	if id == (session.ID{}) {
		v.t.Fatal("the visitor has no session")
	}
	return id
}

func inspect(t *testing.T, m *session.Manager, id session.ID) session.RecordInfo {
	t.Helper()
	info, err := m.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != id {
		t.Errorf("the record under %v says that it is under %v", id, info.ID)
	}
	return info
}

// All that a store can hold is told apart and described, without a client's cookie.
func TestInspect(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := newStore(t)
		v := newPlain(t, store, &session.Options{RenewInterval: session.Never, SweepInterval: session.Never})
		want := map[session.ID]session.RecordKind{}

		before := time.Now().Truncate(time.Millisecond)
		v.visit(func(s *session.Session) {
			s.SetUser("ann")
			s.SetAll(map[string]any{"cart": []any{1, "two"}, "a": "line\n\x1b[2J", "raw": []byte{0xff}})
		})
		live := inspect(t, v.m, v.id())
		want[live.ID] = session.RecordSession
		if live.Kind != session.RecordSession || live.Encrypted || !live.Readable || live.User != "ann" || live.Version != 1 ||
			live.RemoteAddr != "192.0.2.1" || !slices.Equal(live.Keys, []string{"a", "cart", "raw"}) || live.Size < 50 ||
			live.Created.Before(before) || live.LastUsed.Before(live.Created) || live.AuthenticatedAt.Before(live.Created) ||
			live.Expires.Before(before.Add(15*time.Minute)) {
			t.Errorf("a session: %+v", live)
		}
		for key, text := range map[string]string{"cart": `[1, "two"]`, "a": `"line\n\u001b[2J"`, "raw": "h'ff'"} {
			if got, ok := live.Value(key); got != text || !ok {
				t.Errorf("the value of %q reads %s, %v, want %s", key, got, ok, text)
			}
		}
		if got, ok := live.Value("b"); got != "" || ok {
			t.Errorf("a value that is not there reads %q, %v", got, ok)
		}

		index, err := v.m.InspectGroup(t.Context(), session.OfUser("ann"))
		if err != nil || index.Kind != session.RecordIndex || !index.Readable || !slices.Equal(index.Sessions, []session.ID{live.ID}) {
			t.Errorf("ann's index: %+v, %v", index, err)
		}
		want[index.ID] = session.RecordIndex
		if _, err := v.m.InspectGroup(t.Context(), session.OfUser("bob")); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("bob's index: %v", err)
		}

		ended := newPlain(t, store, nil)
		ended.visit(func(s *session.Session) { s.Set("k", 1) })
		endedID := ended.id()
		ended.visit(func(s *session.Session) { s.Destroy() })
		want[endedID] = session.RecordTombstone
		if got := inspect(t, v.m, endedID); got.Kind != session.RecordTombstone || !got.ByClient || got.Ended.Before(before) || got.Readable != true {
			t.Errorf("a destroyed session: %+v", got)
		}

		var junk session.ID
		rand.Read(junk[:])
		if _, err := v.m.Inspect(t.Context(), junk); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("where nothing is: %v", err)
		}
		if err := store.Save(t.Context(), junk, session.Record{Data: []byte("what is this")}); err != nil {
			t.Fatal(err)
		}
		want[junk] = session.RecordDamaged
		if got := inspect(t, v.m, junk); got.Kind != session.RecordDamaged || got.Readable || got.Size != 12 || !got.Expires.IsZero() {
			t.Errorf("junk: %+v", got)
		}

		v.visit(func(s *session.Session) {
			if err := s.Lock(t.Context()); err != nil {
				t.Fatal(err)
			}
			for info, err := range v.m.Records(t.Context()) {
				if errors.Is(err, errors.ErrUnsupported) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if info.Kind == session.RecordLock {
					if !info.LockedUntil.After(time.Now()) {
						t.Errorf("the lock: %+v", info)
					}
					continue
				}
				if want[info.ID] != info.Kind {
					t.Errorf("listed as %s, want %s: %+v", info.Kind, want[info.ID], info)
				}
				delete(want, info.ID)
			}
			if len(want) > 0 {
				t.Errorf("not listed: %v", want)
			}
		})
	})
}

// When a cookie was renewed, and when it got its key, is readable even of what is encrypted.
func TestInspectCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPlain(t, session.NewMemoryStore(), &session.Options{SweepInterval: session.Never, EncryptAtRest: true})
		v.visit(func(s *session.Session) { s.Set("k", 1) })
		time.Sleep(time.Minute)
		v.visit(func(s *session.Session) { s.Regenerate() })
		regenerated := time.Now()
		time.Sleep(5 * time.Minute)
		v.visit(func(s *session.Session) { s.Set("k", 2) })
		got := inspect(t, v.m, v.id())
		if got.Kind != session.RecordSession || !got.Renewed.Equal(time.Now()) || !got.Regenerated.Equal(regenerated) {
			t.Errorf("a renewed session: %+v", got)
		}
	})
}

// Of what is encrypted, only what stays readable is told; and what is not, where it should be, is not trusted.
func TestInspectEncrypted(t *testing.T) {
	store := session.NewMemoryStore()
	v := newPlain(t, store, &session.Options{EncryptAtRest: true, Logger: quiet})
	v.visit(func(s *session.Session) { s.SetUser("ann"); s.Set("k", 1) })
	id := v.id()
	operator := newPlain(t, store, nil).m
	for name, m := range map[string]*session.Manager{"its own manager": v.m, "one without EncryptAtRest": operator} {
		got := inspect(t, m, id)
		if got.Kind != session.RecordSession || !got.Encrypted || got.Readable || got.User != "" || got.Keys != nil || !got.Created.IsZero() {
			t.Errorf("%s: a session: %+v", name, got)
		}
		index, err := m.InspectGroup(t.Context(), session.OfUser("ann"))
		if err != nil || !index.Encrypted || !index.Readable || !slices.Equal(index.Sessions, []session.ID{id}) {
			t.Errorf("%s: the index: %+v, %v", name, index, err)
		}
	}
	stranger, err := session.New(store, secretOf('x'), &session.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	index, err := stranger.InspectGroup(t.Context(), session.OfUser("ann"))
	if err != nil || !index.Encrypted || index.Readable || index.Sessions != nil {
		t.Errorf("with another secret, the index: %+v, %v", index, err)
	}

	plain := newPlain(t, store, nil)
	plain.visit(func(s *session.Session) { s.Set("k", 1) })
	if got := inspect(t, v.m, plain.id()); got.Kind != session.RecordDamaged {
		t.Errorf("a record that is not encrypted: %+v", got)
	}
}

func TestInspectFails(t *testing.T) {
	store := double.New(session.NewMemoryStore(), double.Fail(errDown, double.Load))
	m := newPlain(t, store, nil).m
	if _, err := m.Inspect(t.Context(), session.ID{1}); !errors.Is(err, errDown) {
		t.Errorf("Inspect: %v", err)
	}
	if err := m.End(t.Context(), session.ID{1}); !errors.Is(err, errDown) {
		t.Errorf("End: %v", err)
	}
	yields := 0
	m = newManager(t, struct{ session.Store }{store}, nil)
	for info, err := range m.Records(t.Context()) {
		if yields++; !errors.Is(err, errors.ErrUnsupported) || info.ID != (session.ID{}) {
			t.Errorf("Records: %+v, %v", info, err)
		}
	}
	if yields != 1 {
		t.Errorf("Records yields %d times", yields)
	}
}

func TestEnd(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		for _, encrypt := range []bool{false, true} {
			t.Run(fmt.Sprintf("encrypted %v", encrypt), func(t *testing.T) {
				v := newPlain(t, newStore(t), &session.Options{EncryptAtRest: encrypt})
				operator := newPlain(t, v.store, nil).m
				ann, laptop, nobody := v.clone(), v.clone(), v.clone()
				ann.login()
				laptop.login()
				nobody.visit(func(s *session.Session) { s.Set("k", 1) })
				anns, nobodys := ann.id(), nobody.id()

				index, err := operator.InspectGroup(t.Context(), session.OfUser("ann"))
				if err != nil {
					t.Fatal(err)
				}
				for _, id := range []session.ID{{1}, index.ID} {
					if err := operator.End(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
						t.Errorf("the end of what is no session: %v", err)
					}
				}
				inFlight := ann.clone()
				res := inFlight.visit(func(s *session.Session) {
					s.Set("k", 2)
					for _, id := range []session.ID{anns, nobodys} {
						if err := operator.End(t.Context(), id); err != nil {
							t.Errorf("End: %v", err)
						}
					}
				})
				wantStatus(t, res, http.StatusConflict)
				if ann.alive() || nobody.alive() || !laptop.alive() {
					t.Errorf("alive: ann %v, nobody %v, laptop %v", ann.alive(), nobody.alive(), laptop.alive())
				}
				if list := userSessions(t, v.m); len(list) != 1 || list[0].ID != laptop.id() {
					t.Errorf("ann has %v", list)
				}
				if index, err := operator.InspectGroup(t.Context(), session.OfUser("ann")); err != nil || !encrypt && len(index.Sessions) != 1 {
					t.Errorf("the index names %d sessions, %v", len(index.Sessions), err)
				}
				if err := operator.End(t.Context(), anns); !errors.Is(err, session.ErrNotFound) {
					t.Errorf("ended twice: %v", err)
				}

				laptop.visit(func(s *session.Session) { s.Regenerate() })
				if err := operator.End(t.Context(), laptop.id()); err != nil {
					t.Errorf("an ID that was regenerated: %v", err)
				}
				if laptop.alive() {
					t.Error("it lives on")
				}
			})
		}
	})
}

// Between any two steps of a request that changes the ID, End either ends the session or says that it did not.
func TestEndRaces(t *testing.T) {
	requests := map[string]func(*session.Session){
		"save":       func(s *session.Session) { s.Set("more", 1) },
		"regenerate": func(s *session.Session) { s.Regenerate() },
		"login":      func(s *session.Session) { s.SetUser("bob") },
		"logout":     func(s *session.Session) { s.Destroy() },
	}
	for name, request := range requests {
		for _, user := range []string{"", "ann"} {
			for _, idle := range []time.Duration{time.Minute, 5 * time.Minute} { // in the latter, it is renewed as well
				for _, encrypt := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, user %q, after %v, encrypted %v", name, user, idle, encrypt), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							for at, ran := 1, true; ran; at++ {
								ran = endBefore(t, at, user, idle, encrypt, request)
								if at == 1 && !ran {
									t.Fatal("the request saved nothing")
								}
							}
						})
					})
				}
			}
		}
	}
}

// endBefore ends a session before the given Save of a request, and reports whether it came to that.
func endBefore(t *testing.T, at int, user string, idle time.Duration, encrypt bool, request func(*session.Session)) bool {
	store := double.New(session.NewMemoryStore())
	v := newPlain(t, store, &session.Options{EncryptAtRest: encrypt, SweepInterval: session.Never, Logger: quiet})
	operator := newPlain(t, store.Store, &session.Options{SweepInterval: session.Never, Logger: quiet}).m
	v.visit(func(s *session.Session) {
		s.Set("k", 1)
		if user != "" {
			s.SetUser(user)
		}
	})
	id, old := v.id(), v.clone()
	time.Sleep(idle)
	ran := false
	var ended error
	store.Hook(double.Nth(at, double.Before(func(context.Context, *double.Call) error {
		ran = true
		ended = operator.End(t.Context(), id)
		return nil
	}), double.Save))
	v.visit(request)
	store.Hook()
	switch {
	case old.alive() && (ended == nil || !ran):
		if ran {
			t.Errorf("ended before save %d, the cookie of before leads to the session", at)
		}
	case ran && !errors.Is(ended, session.ErrGone) && v.alive():
		t.Errorf("before save %d, End returned %v, and the session is alive", at, ended)
	case ended != nil && !errors.Is(ended, session.ErrGone) && !errors.Is(ended, session.ErrNotFound):
		t.Errorf("before save %d: %v", at, ended)
	}
	return ran
}

// An operator's manager knows little of the application's options. Its writes are as good.
func TestIndexKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const month = 30 * 24 * time.Hour
		store := session.NewMemoryStore()
		v := newPlain(t, store, &session.Options{
			EncryptAtRest: true, AbsoluteTimeout: month, IdleTimeout: month, SweepInterval: session.Never,
		})
		operator := newPlain(t, store, &session.Options{SweepInterval: session.Never}).m
		phone, laptop := v.clone().login(), v.clone().login()
		list := userSessions(t, operator)
		if len(list) != 2 {
			t.Fatalf("ann has %v", list)
		}
		if _, err := operator.EndSessions(t.Context(), session.OfUser("ann").One(list[0].Handle)); err != nil {
			t.Fatal(err)
		}
		if index, err := operator.InspectGroup(t.Context(), session.OfUser("ann")); err != nil || !index.Encrypted || len(index.Sessions) != 1 {
			t.Errorf("the index: %+v, %v", index, err)
		}
		if phone.alive() == laptop.alive() {
			t.Errorf("phone %v, laptop %v", phone.alive(), laptop.alive())
		}
		time.Sleep(month - time.Minute)
		if list := userSessions(t, v.m); len(list) != 1 {
			t.Errorf("a month later, ann has %v", list)
		}
	})
}
