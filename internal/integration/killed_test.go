package integration_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/double"
	"example.com/session/internal/storetest"
)

// A process is killed between any two of the calls that it makes to the store, before the first, or after the last with no
// answer sent: the client's cookie works as long as nobody moved or ended the session, nothing that was acknowledged is lost,
// nothing that was ended comes back, the user's list and the records agree, whoever lost the answer to a login can log in,
// and whoever comes next finishes what is left to do.
func TestKilledBetweenSteps(t *testing.T) {
	storetest.EachShared(t, storetest.OneProcess, func(t *testing.T, kind storetest.Kind) {
		place := kind.Place(t)
		casualties := plantCasualties(t, kind, place)
		killCasualties(t, kind, place, casualties)
		store := kind.OpenAt(t, place)
		plain := newCrew(t, store, 2, casualtyOptions(false))
		encrypted := newCrew(t, store, 2, casualtyOptions(true))
		for i, opts := range []session.Options{casualtyOptions(false), casualtyOptions(true)} {
			opts.RenewInterval = time.Millisecond
			renewing := newCrew(t, store, 1, opts)[0]
			if i == 0 {
				plain = append(plain, renewing)
			} else {
				encrypted = append(encrypted, renewing)
			}
		}
		var all sync.WaitGroup
		for _, v := range casualties {
			all.Go(func() {
				processes := plain
				if v.Encrypted {
					processes = encrypted
				}
				if err := v.judge(t.Context(), processes); err != nil {
					t.Errorf("%s, killed before call %d, encrypted %v, answer %d: %v", v.Act, v.Calls+1, v.Encrypted, v.Status, err)
				}
			})
		}
		all.Wait()
	})
}

// maxCalls is more than any of the acts needs.
const maxCalls = 8

// A casualty is a request to a process that is killed, with a session of its own.
type casualty struct {
	N         int
	Act       userAct
	Calls     int // before the process is killed
	Encrypted bool
	User      string // who is logged in, or is to be
	Cookie    string
	Status    int    // of the answer; 0 if there was none
	Next      string // the cookie that the answer sets
}

func casualtyOptions(encrypted bool) session.Options {
	return session.Options{EncryptAtRest: encrypted, RenewInterval: session.Never, RenewGrace: 10 * time.Minute, TokenHeader: client.Header}
}

// plantCasualties makes a session for each act and each number of calls.
func plantCasualties(t *testing.T, kind storetest.Kind, place string) (casualties []*casualty) {
	t.Helper()
	store, err := kind.Open(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	plain := newCrew(t, store, 1, casualtyOptions(false))[0]
	encrypted := newCrew(t, store, 1, casualtyOptions(true))[0]
	for i, act := range []userAct{reads, writes, regenerates, logsIn, logsInAgain, destroys, endsAll} {
		for calls := range maxCalls + 1 {
			v := &casualty{N: len(casualties), Act: act, Calls: calls, Encrypted: (i+calls)%2 == 0}
			v.User = fmt.Sprintf("user %d", v.N)
			m := plain
			if v.Encrypted {
				m = encrypted
			}
			blank := []string{"", client.Native}[v.N%3%2] // a third have their token in the header
			v.Cookie = client.Ask(t.Context(), m, blank, func(s *session.Session) {
				s.Set("planted", true)
				if act != logsIn {
					s.SetUser(v.User)
				}
			}).Cookie
			casualties = append(casualties, v)
		}
	}
	return casualties
}

// killCasualties has a process of its own make the casualties' requests, and kills it when each of them has come as far as
// it is to come. The casualties learn what they were told.
func killCasualties(t *testing.T, kind storetest.Kind, place string, casualties []*casualty) {
	t.Helper()
	cmd := storetest.Child(t, "casualties", "SESSION_TEST_KIND="+kind.Name, "SESSION_TEST_STORE="+place)
	input, err1 := cmd.StdinPipe()
	output, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(input).Encode(casualties); err != nil {
		t.Error(err)
	}
	lines := bufio.NewScanner(output)
	for range casualties {
		var v casualty
		if !lines.Scan() {
			t.Fatal("the process ended too early")
		}
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("the process says: %s", lines.Bytes())
		}
		*casualties[v.N] = v
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for _, v := range casualties {
		if v.Calls == 0 && v.Status != 0 || v.Calls == maxCalls && v.Status == 0 {
			t.Errorf("%s has answered %d before call %d", v.Act, v.Status, v.Calls+1)
		}
	}
}

// childCasualties makes the casualties' requests, all at once, and says of each how far it has come.
func childCasualties() {
	ctx := context.Background()
	var casualties []*casualty
	if err := json.NewDecoder(os.Stdin).Decode(&casualties); err != nil {
		fmt.Println(err)
		return
	}
	store, err := openKind(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	var mu sync.Mutex
	report := func(v *casualty) {
		mu.Lock()
		defer mu.Unlock()
		json.NewEncoder(os.Stdout).Encode(v)
	}
	for _, v := range casualties {
		opts := casualtyOptions(v.Encrypted)
		opts.RenewInterval = time.Millisecond // it is due
		opts.SweepInterval = session.Never
		opts.StoreTimeout = time.Minute
		m, err := session.New(double.New(store, double.Stop(v.Calls, func() { report(v) })), secretOf('s'), &opts)
		if err != nil {
			fmt.Println(err)
			return
		}
		go func() {
			v.act(ctx, m)
			report(v)
		}()
	}
	io.Copy(io.Discard, os.Stdin) // until it is killed, or alone
}

// openKind opens the store that the environment names.
func openKind(ctx context.Context) (session.StoreCloser, error) {
	name := os.Getenv("SESSION_TEST_KIND")
	kind, ok := storetest.Named(name)
	if !ok {
		return nil, fmt.Errorf("there is no kind of store %q", name)
	}
	return kind.Open(ctx, os.Getenv("SESSION_TEST_STORE"))
}

// act is the casualty's request.
func (v *casualty) act(ctx context.Context, m *session.Manager) {
	if v.Act == endsAll {
		if _, err := m.EndSessions(ctx, session.OfUser(v.User)); err != nil {
			v.Status = http.StatusServiceUnavailable
			return
		}
		v.Status = http.StatusOK
		return
	}
	a := client.Ask(ctx, m, v.Cookie, func(s *session.Session) {
		switch v.Act {
		case reads:
			s.Has("planted")
		case writes:
			s.Set("written", true)
		case regenerates:
			s.Regenerate()
		case logsIn, logsInAgain:
			s.SetUser(v.User)
		case destroys:
			s.Destroy()
		}
	})
	v.Status = a.Status
	if !a.Removed {
		v.Next = a.Cookie
	}
}

// judge returns what is wrong with what the casualty left behind.
func (v *casualty) judge(ctx context.Context, processes crew) error {
	if v.Status != 0 && v.Status != http.StatusOK {
		return errors.New("the answer is an error")
	}
	before, err := v.visit(ctx, processes, v.Cookie)
	if err != nil {
		return err
	}
	after := before
	if v.Next != "" {
		if after, err = v.visit(ctx, processes, v.Next); err != nil {
			return err
		}
	}
	answered := v.Status == http.StatusOK
	switch v.Act {
	case reads, writes: // and renews
		if !before.lives || before.id != after.id || before.user != v.User || v.Act == writes && answered && !before.written {
			return fmt.Errorf("the cookie before leads to %+v, the one after to %+v", before, after)
		}
		if err := v.renew(ctx, processes[2], before.id); err != nil {
			return err
		}
	case regenerates, logsIn, logsInAgain:
		if answered && (before.lives || !after.lives || after.user != v.User) {
			return fmt.Errorf("the cookie before leads to %+v, the one after to %+v", before, after)
		}
		if before.lives && (before.user == v.User) != (v.Act != logsIn) {
			return fmt.Errorf("the cookie before leads to a session of %q", before.user)
		}
		if !answered && !before.lives { // the client does not have the new key
			a := client.Ask(ctx, processes[0], v.Cookie, func(s *session.Session) { s.SetUser(v.User); s.Set("planted", true) })
			if a.Status != http.StatusOK || a.Cookie == "" {
				return fmt.Errorf("after a login without an answer, the next one: %v", a)
			}
			v.Next, after = a.Cookie, casualtyView{lives: true, id: client.Parse(a.Cookie).ID(), user: v.User}
		}
	default:
		if answered && before.lives {
			return errors.New("the session that was ended lives")
		}
	}
	return v.judgeUser(ctx, processes, after)
}

// judgeUser looks at the list of the user's sessions, and has all of them ended.
func (v *casualty) judgeUser(ctx context.Context, processes crew, now casualtyView) error {
	list, err := processes[0].Sessions(ctx, session.OfUser(v.User))
	if err != nil {
		return err
	}
	lives := now.lives && now.user == v.User
	switch {
	case len(list) > 1 && !v.orphan(list), len(list) > 2:
		return fmt.Errorf("the user's sessions are %v", list)
	case v.Act == endsAll && len(list) == 0 && lives:
		return fmt.Errorf("%v lives, and is not listed", now.id)
	case v.Act == endsAll && len(list) == 1 && lives && v.Calls >= 2:
		// It was noted that they are to end, and the next login sees to that, or the next renewal.
		if v.N%2 == 0 {
			client.Ask(ctx, processes[0], "", func(s *session.Session) { s.SetUser(v.User) })
		} else if a := client.Ask(ctx, processes[2], v.Cookie, func(s *session.Session) { s.Has("planted") }); a.Status != http.StatusOK {
			return fmt.Errorf("a renewal: %v", a)
		}
		if now, err := v.visit(ctx, processes, v.Cookie); err != nil || now.lives {
			return fmt.Errorf("all were to be ended, and %+v lives after a login, %w", now, cmp.Or(err, errors.New("no error")))
		}
	case lives && len(list) == 0:
		return fmt.Errorf("%v is not among the user's sessions", now.id)
	}
	if _, err := processes[1].EndSessions(ctx, session.OfUser(v.User)); err != nil {
		return err
	}
	if list, err := processes[0].Sessions(ctx, session.OfUser(v.User)); err != nil || len(list) > 0 {
		return fmt.Errorf("after all were ended, the user's sessions are %v, %w", list, cmp.Or(err, errors.New("no error")))
	}
	for _, cookie := range []string{v.Cookie, v.Next} {
		if now, err := v.visit(ctx, processes, cookie); err != nil || now.user == v.User {
			return fmt.Errorf("after all were ended, a cookie leads to %+v, %w", now, cmp.Or(err, errors.New("no error")))
		}
	}
	return nil
}

// orphan reports whether one of the sessions is that of the first cookie, which somebody moved and never told of.
func (v *casualty) orphan(list []session.SessionInfo) bool {
	return v.Status == 0 && v.Act != endsAll && slices.ContainsFunc(list, func(s session.SessionInfo) bool {
		return s.ID == client.Parse(v.Cookie).ID()
	})
}

// renew has the client show the cookie that it had before, as the answer may not have reached it, and then the one that it
// gets for that, until it gets no other: that is the renewal.
func (v *casualty) renew(ctx context.Context, m *session.Manager, id session.ID) error {
	cookie := v.Cookie
	for i := 0; ; i++ {
		found := session.ID{}
		a := client.Ask(ctx, m, cookie, func(s *session.Session) { found = s.ID() })
		switch next := client.Parse(a.Next(cookie)); {
		case a.Status != http.StatusOK || a.Removed || found != id:
			return fmt.Errorf("with cookie %v, a request that renews: %v, session %v", client.Parse(cookie), a, found)
		case a.Cookie == "" && next.Count == 2:
			return nil
		case next.Count != 2 || i > 2:
			return fmt.Errorf("the cookie is %v, %d renewals from %v", next, i, client.Parse(v.Cookie))
		}
		cookie = a.Cookie
	}
}

// A casualtyView is what a cookie leads to.
type casualtyView struct {
	lives, written bool
	id             session.ID
	user           string
}

// visit has several requests meet with one cookie, in two processes, some of which write if there is a session.
func (v *casualty) visit(ctx context.Context, processes crew, cookie string) (casualtyView, error) {
	var views [4]casualtyView
	var answers [4]client.Answer
	var all sync.WaitGroup
	for i := range views {
		all.Go(func() {
			answers[i] = client.Ask(ctx, processes[i%2], cookie, func(s *session.Session) {
				views[i] = casualtyView{lives: s.Has("planted"), written: s.Has("written"), user: s.User()}
				if views[i].lives {
					views[i].id = s.ID()
					if i < 2 {
						s.Set(fmt.Sprint("visit ", i), true)
					}
				}
			})
		})
	}
	all.Wait()
	for i := range views {
		if answers[i].Status != http.StatusOK || views[i] != views[0] {
			return casualtyView{}, fmt.Errorf("%v finds %+v, %v finds %+v", answers[0], views[0], answers[i], views[i])
		}
	}
	return views[0], nil
}
