package console

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/codec"
)

// Sessions are listed, shown and ended by a label, whoever their users are, on each backend, the one that cannot list included.
func TestLabel(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		for name, encrypt := range map[string]bool{"plain": false, "encrypted": true} {
			t.Run(name, func(t *testing.T) { testLabel(t, b, encrypt) })
		}
	})
}

func testLabel(t *testing.T, b backend, encrypt bool) {
	rawURL := b.newURL(t)
	store := openTest(t, rawURL)
	opts := session.Options{EncryptAtRest: encrypt}
	m := newApp(t, store, opts)
	begin := func(user string, labels ...session.Label) session.ID {
		_, id := visit(t, m, nil, func(s *session.Session) { s.SetUser(user, labels...) })
		time.Sleep(2 * time.Millisecond) // the times of sessions are in milliseconds
		return id
	}
	acme, sid := session.Label{Name: "tenant", Value: "acme"}, session.Label{Name: "sid of https://op.example", Value: "a=b\x1b[2J"}
	ann, bob := begin("ann", acme, sid), begin("bob", acme)
	eve, none := begin("eve", session.Label{Name: "tenant", Value: "other"}), begin("ann")
	lists := canList(store)
	if b.name == "file" { // one process can have it
		store.Close()
	}
	do := func(args ...string) result {
		t.Helper()
		return run(t, append([]string{"SESSION_STORE=" + rawURL, "SESSION_SECRET=" + secret}, args...)...)
	}
	ids := func(args ...string) (found []session.ID) {
		t.Helper()
		for _, s := range decode[[]listed](t, do(append(args, "--json")...).stdout) {
			found = append(found, s.ID)
			if s.User == "" || s.Created.IsZero() {
				t.Errorf("%q lists %+v", args, s)
			}
		}
		return found
	}
	if got := ids("list", "--label", "tenant=acme"); !slices.Equal(got, []session.ID{ann, bob}) {
		t.Errorf("with the label: %v, want %v", got, []session.ID{ann, bob})
	}
	if got := ids("list", "--label", sid.Name+"="+sid.Value); !slices.Equal(got, []session.ID{ann}) {
		t.Errorf("with a value that has a sign of equality: %v", got)
	}
	if lists && !encrypt {
		for _, s := range decode[[]listed](t, do("list", "--json").stdout) {
			if want := map[session.ID]int{ann: 2, bob: 1, eve: 1, none: 0}[s.ID]; len(s.Labels) != want {
				t.Errorf("%s has the labels %v", s.User, s.Labels)
			}
		}
	}
	if got := decode[shown](t, do("show", "--label", "tenant=acme", "--json").stdout); got.Kind != session.RecordIndex || !slices.Equal(got.Sessions, []session.ID{ann, bob}) {
		t.Errorf("the label's record: %+v", got)
	}
	text := do("show", ann.String()).stdout
	if strings.Contains(text, "tenant=acme") == encrypt || strings.Contains(text, `op.example="a=b`) == encrypt || strings.Contains(text, "\x1b") {
		t.Errorf("ann's session is shown as\n%s", text)
	}
	if got := decode[shown](t, do("show", ann.String(), "--json").stdout); !encrypt && !slices.Contains(got.Labels, label(acme)) {
		t.Errorf("ann's session is shown as %+v", got)
	}

	if r := do("end", "--label", "tenant=acme"); r.code != exitOK || r.stdout != "ended 2 sessions\n" {
		t.Errorf("end --label: %+v", r)
	}
	for _, args := range [][]string{{"end", "--label", "tenant=acme"}, {"list", "--label", "tenant=acme"}, {"list", "--label", "tenant=none"}, {"show", "--label", "acme=tenant"}} {
		if r := do(args...); r.code != exitNone || !strings.Contains(r.stderr, "with the label") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for user, want := range map[string][]session.ID{"ann": {none}, "bob": nil, "eve": {eve}} {
		if got := ids("list", "--user", user); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", user, got, want)
		}
	}
}

// Lists and show say since when a session has been bound to a device.
func TestBound(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		rawURL := b.newURL(t)
		store := openTest(t, rawURL)
		p := populate(t, store, session.Options{})
		since := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
		bind(t, store, p.anns, since)
		lists := canList(store)
		if b.name == "file" { // one process can have it
			store.Close()
		}
		do := func(args ...string) string {
			t.Helper()
			return runOK(t, append([]string{"SESSION_STORE=" + rawURL}, args...)...)
		}
		for _, args := range [][]string{{"list", "--json"}, {"list", "--user", "ann", "--json"}} {
			if len(args) == 2 && !lists {
				continue
			}
			for _, s := range decode[[]listed](t, do(args...)) {
				if isAnns := s.ID == p.anns; s.Bound.Equal(since) != isAnns || s.Bound.IsZero() == isAnns {
					t.Errorf("%q: %v is bound since %v", args, s.ID, s.Bound)
				}
			}
		}
		if text := do("list", "--user", "ann"); strings.Count(text, " 3h ") != 1 {
			t.Errorf("the list:\n%s", text)
		}
		if got := decode[shown](t, do("show", p.anns.String(), "--json")); !got.Bound.Equal(since) {
			t.Errorf("shown: bound since %v", got.Bound)
		}
		if text := do("show", p.anns.String()); !strings.Contains(text, "(3 hours ago)") {
			t.Errorf("shown:\n%s", text)
		}
		if text := do("show", p.bobs.String()); !strings.Contains(text, "to no device") {
			t.Errorf("shown:\n%s", text)
		}
	})
}

// bind writes a device into the record of a session, as its browser would have a manager do.
func bind(t *testing.T, store session.Store, id session.ID, since time.Time) {
	t.Helper()
	rec, err := store.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	e, err := codec.Open(id, rec.Data)
	if err != nil {
		t.Fatal(err)
	}
	e.Credential.Device, e.Credential.Bound = codec.Device{1}, since.UnixMilli()
	var b codec.Body
	if err := e.OpenBody(&b, id, nil); err != nil {
		t.Fatal(err)
	}
	rec.Data = codec.EncodeSession(id, &e, [codec.WriteIDSize]byte{1}, &b, new(codec.Changes), nil)
	if err := store.Save(t.Context(), id, rec); err != nil {
		t.Fatal(err)
	}
}
