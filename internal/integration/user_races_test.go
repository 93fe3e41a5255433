package integration_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/interleave"
	"example.com/session/internal/storetest"
)

// Everything that can happen to a user's sessions, in whatever order the calls to the store come: nothing that was
// ended is ever alive again by any cookie, the limit holds once things are quiet, no session is lost that nobody ended,
// and no change that was acknowledged. Whoever keeps what cookie the answers bring stays logged in, though handlers take
// longer than a renewal and its window, and answers get lost or come in another order. The same while calls fail, replies
// get lost and processes die, for all that was acknowledged. Some clients have their token in the header, and some players
// name the sessions by a label that the user's have.
func TestUserRaces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := interleave.NewStore(newStore(t))
		playRounds(t, func() func(context.Context, uint64) error {
			clock := new(interleave.Clock)
			var casts []userCast
			for _, opts := range []session.Options{
				{},
				{EncryptAtRest: true},
				{MaxSessionsPerUser: devices},
				{MaxSessionsPerUser: devices, RefuseNewSessions: true, EncryptAtRest: true},
			} {
				opts.IdleTimeout, opts.TouchInterval = 24*time.Hour, time.Minute
				for _, opts.RenewInterval = range []time.Duration{0, time.Millisecond} { // which is always due
					c := userCast{options: opts, clock: clock, processes: newCrew(t, store, 6, opts).by(clock)}
					opts.RenewInterval = session.Never
					c.judge = newCrew(t, store, 1, opts).by(clock)[0]
					casts = append(casts, c)
				}
			}
			return func(ctx context.Context, seed uint64) error {
				r := userRound{Round: interleave.New(seed), user: fmt.Sprintf("user %d", seed)}
				r.userCast = casts[r.Random.IntN(len(casts))]
				r.Clock = clock
				switch r.Random.IntN(4) {
				case 0:
					r.Free = true
				case 1, 2:
					r.Faults = true
				}
				if err := r.play(ctx); err != nil {
					return fmt.Errorf("%w\n%v", err, &r)
				}
				return nil
			}
		})
	})
}

// devices is how many of a user's sessions a round begins with.
const devices = 3

// A userCast is the managers of a round.
type userCast struct {
	options   session.Options
	clock     *interleave.Clock
	processes crew             // one for each actor
	judge     *session.Manager // renews nothing
}

// A userRound is a round in which requests and calls meet that concern the sessions of one user.
type userRound struct {
	*interleave.Round
	userCast
	user    string
	devices []*device
	players []*userPlayer
	views   map[string]userView // what the cookies lead to in the end
}

// A device is a client.
type device struct {
	name   string
	blank  string // the cookie of a client of its kind that has no session
	handle string // of the session that it begins with, and its cookie; a newcomer has none
	first  string
	jar    string   // the cookie that it has now
	known  []string // all that it was ever sent, also in answers that got lost
}

// A userPlayer is an actor of a round.
type userPlayer struct {
	*interleave.Actor
	act    userAct
	device *device // on whose behalf it acts, or that it concerns
	label  bool    // it names the user's sessions by their label
	key    string  // that it sets

	starts, thinks, returns time.Duration // how long it waits before the request, in the handler, and for the answer
	eager                   bool          // it acts before it thinks
	deaf                    bool          // the answer does not reach the client

	sent         string        // the cookie
	found        session.ID    // where the request was let in
	acted        bool          // as the user
	answer       client.Answer // of a request
	id           session.ID    // of the session that the request had in the end
	err          error         // of a call
	began, ended int64
}

type userAct string

const (
	reads       userAct = "read"
	writes      userAct = "write"
	regenerates userAct = "regenerate"
	logsInAgain userAct = "log in again"
	switches    userAct = "become another user"
	destroys    userAct = "destroy"
	logsIn      userAct = "log in"
	endsOne     userAct = "end one"
	endsOthers  userAct = "end others"
	endsAll     userAct = "end all"
)

// userActs are drawn from.
var userActs = []userAct{reads, reads, writes, writes, writes, regenerates, regenerates, logsInAgain, logsInAgain, switches,
	destroys, logsIn, logsIn, endsOne, endsOne, endsOthers, endsAll}

// pauses are drawn from: within the five seconds in which a straggler is told so, within the grace, beyond it, beyond the
// window, beyond a renewal.
var pauses = []time.Duration{0, 0, 0, time.Second, 6 * time.Second, 40 * time.Second, 3 * time.Minute, 5 * time.Minute}

func (r *userRound) play(ctx context.Context) error {
	r.clock.Start()
	for i := range devices {
		d := r.device(fmt.Sprintf("device %d", i))
		a := client.Ask(ctx, r.judge, d.blank, func(s *session.Session) { s.SetUser(r.user, r.label()); s.Set("planted", true) })
		if a.Status != http.StatusOK || a.Cookie == "" {
			return fmt.Errorf("login of %s: %v", d.name, a)
		}
		d.first, d.jar, d.known = a.Cookie, a.Cookie, []string{a.Cookie}
		list, err := r.judge.Sessions(ctx, session.OfUser(r.user))
		if err != nil || len(list) != i+1 {
			return fmt.Errorf("after %d logins: %v, %v", i+1, list, err)
		}
		for _, s := range list {
			if s.ID == client.Parse(d.first).ID() {
				d.handle = s.Handle
			}
		}
		r.devices = append(r.devices, d)
		r.clock.Pass(time.Second)
	}
	r.clock.Pass(5 * time.Minute) // a renewal is due
	quietly := r.Random.IntN(4) == 0
	n := 3 + r.Random.IntN(len(r.processes)-2)
	if quietly {
		n = len(r.processes)
	}
	for i := range n {
		r.cast(i, quietly)
	}
	r.Play(ctx)
	for _, p := range r.players {
		if p.answer.Cookie != "" && !p.answer.Removed && !p.Died() {
			p.device.known = append(p.device.known, p.answer.Cookie)
		}
	}
	if err := r.verdict(ctx); err != nil {
		return err
	}
	if err := r.later(ctx); err != nil {
		return err
	}
	return r.end(ctx)
}

// device returns a client of either kind.
func (r *userRound) device(name string) *device {
	return &device{name: name, blank: []string{"", "", client.Native}[r.Random.IntN(3)]}
}

// label is what all sessions of the user have, and no others.
func (r *userRound) label() session.Label { return session.Label{Name: "tenant", Value: r.user} }

// group returns the user's sessions, as the player names them.
func (r *userRound) group(p *userPlayer) session.Group {
	if p.label {
		return session.Labelled(r.label())
	}
	return session.OfUser(r.user)
}

// cast adds the i-th player. If all goes on quietly, nobody ends anything, nor logs in.
func (r *userRound) cast(i int, quietly bool) {
	draw := func() time.Duration { return pauses[r.Random.IntN(len(pauses))] }
	p := &userPlayer{
		act: userActs[r.Random.IntN(len(userActs))], device: r.devices[r.Random.IntN(devices)], key: fmt.Sprint("key ", i),
		label:  r.Random.IntN(2) == 0,
		starts: draw(), thinks: draw(), eager: r.Random.IntN(2) == 0, deaf: r.Random.IntN(4) == 0,
		returns: time.Duration(r.Random.IntN(20)) * time.Second, // less than the grace
	}
	if quietly {
		p.act, p.device = []userAct{reads, writes}[r.Random.IntN(2)], r.devices[0]
		if i == 0 { // it takes longer than several renewals of the others
			p.act, p.starts, p.thinks = writes, 0, 20*time.Minute
		} else {
			p.starts = time.Duration(r.Random.IntN(15)) * time.Minute
		}
	}
	if p.act == logsIn {
		p.device = r.device(fmt.Sprintf("newcomer %d", i))
		r.devices = append(r.devices, p.device)
	}
	m := r.processes[i]
	if r.Free {
		m = r.processes[i%2]
	}
	p.Actor = r.Add(p.name(), func(ctx context.Context) { r.run(ctx, m, p) })
	r.players = append(r.players, p)
}

// run is what a player does.
func (r *userRound) run(ctx context.Context, m *session.Manager, p *userPlayer) {
	interleave.SleepFor(ctx, p.starts)
	p.began = r.Tick()
	switch p.act {
	case endsOne:
		_, p.err = m.EndSessions(ctx, r.group(p).One(p.device.handle))
	case endsAll:
		_, p.err = m.EndSessions(ctx, r.group(p))
	default:
		r.request(ctx, m, p)
	}
	p.ended = max(p.ended, r.Tick())
}

func (r *userRound) request(ctx context.Context, m *session.Manager, p *userPlayer) {
	p.sent = p.device.blank
	if !r.Free { // where all begin at once
		p.sent = cmp.Or(p.device.jar, p.device.blank)
	} else if p.act != logsIn {
		p.sent = p.device.first
	}
	var s *session.Session
	p.answer = client.Send(ctx, m, p.sent, func(_ http.ResponseWriter, req *http.Request) {
		s = session.FromContext(req.Context())
		p.found, p.acted = s.ID(), s.User() == r.user
		if !p.eager {
			interleave.SleepFor(ctx, p.thinks)
		}
		switch p.act {
		case regenerates:
			s.Regenerate()
		case logsIn, logsInAgain:
			s.SetUser(r.user, r.label())
		case switches:
			s.SetUser("not " + r.user)
		case destroys:
			s.Destroy()
		case endsOthers:
			others := session.OfUser(s.User())
			if p.label && p.acted { // to one that lacks the label, all are others
				others = session.Labelled(r.label())
			}
			_, p.err = m.EndSessions(req.Context(), others.Others())
		}
		if p.sets() {
			s.Set(p.key, true)
		}
		if p.eager {
			interleave.SleepFor(ctx, p.thinks)
		}
	})
	p.id, p.ended = s.ID(), r.Tick()
	interleave.SleepFor(ctx, p.returns)
	if !p.deaf && !p.Died() && !r.Free {
		p.device.jar = p.answer.Next(p.device.jar)
	}
}

// A story is what must have become of a session, as far as the answers tell.
type story struct {
	id      session.ID
	begun   bool     // somebody was sent its cookie
	key     [16]byte // of the cookie that it accepts
	user    string
	since   int64  // the user's login, in ticks
	handle  string // of that, if it is known
	unsure  bool   // somebody may have moved it, and not been told
	planted bool   // it has what the devices begin with
}

// tell returns the story of a session.
func (r *userRound) tell(id session.ID) (s story, err error) {
	s.id = id
	for _, d := range r.devices {
		if d.first != "" && client.Parse(d.first).ID() == id {
			s.begun, s.key, s.user, s.handle, s.planted = true, client.Parse(d.first).Key, r.user, d.handle, true
		}
	}
	for _, p := range r.players {
		if got := client.Parse(p.answer.Cookie); !p.Died() && got.ID() == id && client.Parse(p.sent).ID() != id {
			if s.begun {
				return s, fmt.Errorf("%v was sent the cookie of a session that is not its own", p)
			}
			s.begun, s.key = true, got.Key
			s.login(r, p)
		}
	}
	for {
		next := r.of(func(p *userPlayer) bool { return p.moved() && p.id == id && client.Parse(p.sent).Key == s.key })
		if len(next) > 1 {
			return s, fmt.Errorf("%v and %v both succeeded", next[0], next[1])
		}
		if len(next) == 0 {
			break
		}
		if s.key = client.Parse(next[0].answer.Cookie).Key; s.key == client.Parse(next[0].sent).Key {
			return s, fmt.Errorf("%v succeeded, and the cookie has the same key", next[0])
		}
		s.login(r, next[0])
	}
	s.unsure = r.any(func(p *userPlayer) bool { return p.moves() && p.unknown() && client.Parse(p.sent).ID() == id })
	return s, nil
}

// login has the story go on with what the player did.
func (s *story) login(r *userRound, p *userPlayer) {
	user := s.user
	switch p.act {
	case logsIn, logsInAgain:
		user = r.user
	case switches:
		user = "not " + r.user
	}
	if user != s.user {
		s.user, s.since, s.handle = user, p.ended, ""
	}
}

// mayEnd reports whether somebody ends the session, or may.
func (r *userRound) mayEnd(s *story) bool {
	limited := r.options.MaxSessionsPerUser > 0
	return r.any(func(p *userPlayer) bool {
		switch p.act {
		case destroys:
			return p.found == s.id || p.unknown() && client.Parse(p.sent).ID() == s.id
		case endsOne:
			return client.Parse(p.device.first).ID() == s.id
		case endsOthers:
			theirs := p.acted || s.user != r.user // the other user may end others, too
			return theirs && (p.found != s.id || s.since > 0)
		case endsAll:
			return true
		case logsIn, logsInAgain, switches: // and others have to make room
			return limited && (!r.options.RefuseNewSessions || client.Parse(p.sent).ID() == s.id && p.id != s.id)
		}
		return false
	})
}

// hasEnded returns who has ended the session, nil if nobody has for sure.
func (r *userRound) hasEnded(s *story) *userPlayer {
	for _, p := range r.players {
		if p.unknown() {
			continue
		}
		ended := false
		switch theirs := !s.unsure && s.user == r.user && s.since < p.began; p.act {
		case destroys:
			ended = p.found == s.id && p.answer.Status == http.StatusOK
		case endsOne: // no session with that handle is as good
			ended = theirs && s.handle != "" && s.handle == p.device.handle
		case endsOthers:
			ended = theirs && p.acted && p.found != s.id
		case endsAll:
			ended = theirs
		}
		if ended {
			return p
		}
	}
	return nil
}

// verdict returns what is wrong with the answers, and with the sessions that the cookies lead to.
func (r *userRound) verdict(ctx context.Context) error {
	for _, p := range r.players {
		if err := r.judgeAnswer(p); err != nil {
			return err
		}
	}
	r.views = make(map[string]userView)
	alive := make(map[session.ID]userView)
	for _, d := range r.devices {
		for _, cookie := range d.known {
			v, err := r.look(ctx, cookie)
			if err != nil {
				return err
			}
			if v.id != (session.ID{}) && v.id != client.Parse(cookie).ID() {
				return fmt.Errorf("the cookie %v leads to %v", client.Parse(cookie), v.id)
			}
			if r.views[cookie] = v; v.id != (session.ID{}) {
				alive[v.id] = v
			}
		}
	}
	for _, d := range r.devices {
		for _, cookie := range d.known {
			if err := r.judgeSession(client.Parse(cookie).ID(), alive); err != nil {
				return err
			}
		}
		if err := r.judgeJar(d); err != nil {
			return err
		}
	}
	for _, p := range r.players {
		if err := judgeChanges(p, alive); err != nil {
			return err
		}
	}
	return r.judgeLists(ctx, alive)
}

// judgeAnswer looks for what a player must not be told.
func (r *userRound) judgeAnswer(p *userPlayer) error {
	if p.Died() {
		return nil
	}
	fault := func(text string) error {
		return fmt.Errorf("%v got the answer %v, %w: %s", p, p.answer, cmp.Or(p.err, errors.New("no error")), text)
	}
	if p.err != nil && !p.Faulted() && !errors.Is(p.err, session.ErrNotFound) && p.answer.Status != http.StatusConflict {
		return fault("the call failed")
	}
	mine := client.Parse(p.sent).ID()
	others := func(acts ...userAct) bool {
		return r.any(func(q *userPlayer) bool {
			return q != p && client.Parse(q.sent).ID() == mine && slices.Contains(acts, q.act)
		})
	}
	// The user's sessions are ended, or some of them have to make room for others.
	listed := r.any(func(q *userPlayer) bool { return q.act == endsOne || q.act == endsOthers || q.act == endsAll }) ||
		r.options.MaxSessionsPerUser > 0 && r.any(func(q *userPlayer) bool { return q.setsUser() })
	moved := others(regenerates, logsInAgain, switches)
	switch p.answer.Status {
	case 0: // no request
	case http.StatusOK:
		if p.answer.Removed && p.act != destroys && !listed {
			return fault("nobody ended it")
		}
		switch alone := mine != (session.ID{}) && !moved && !listed && !others(destroys) && p.act != destroys; {
		case p.sets() && p.id == (session.ID{}) && !listed && !others(destroys): // after the save
			return fault("it has no session")
		case alone && (p.found != mine || p.id != mine):
			return fault("nobody moved or ended its session")
		}
	case http.StatusConflict:
		switch {
		case p.act == reads, p.act == logsIn && !listed:
			return fault("it has nothing to lose")
		case p.setsUser() && !listed:
			return fault("nobody is locked out")
		case p.act == destroys && !moved:
			return fault("nobody has moved it")
		case !moved && !listed && !others(destroys):
			return fault("nobody moved or ended it")
		}
	case http.StatusForbidden:
		if !p.setsUser() || !r.options.RefuseNewSessions {
			return fault("there is room")
		}
	case http.StatusServiceUnavailable:
		if !p.Faulted() {
			return fault("the store works")
		}
	default:
		return fault("a bug")
	}
	return nil
}

// judgeSession compares a session with its story.
func (r *userRound) judgeSession(id session.ID, alive map[session.ID]userView) error {
	s, err := r.tell(id)
	if err != nil {
		return err
	}
	v, lives := alive[id]
	if p := r.hasEnded(&s); p != nil && lives {
		return fmt.Errorf("%v ended session %v, which is alive", p, id)
	}
	for cookie, v := range r.views {
		if c := client.Parse(cookie); v.id == id && c.Key != s.key {
			return fmt.Errorf("the cookie %v still leads to its session, which was moved", c)
		}
	}
	switch {
	case !lives && !s.unsure && !r.mayEnd(&s):
		return fmt.Errorf("nobody ended session %v, and it is lost", id)
	case lives && v.user != s.user && !s.unsure:
		return fmt.Errorf("session %v is one of %q, not of %q", id, v.user, s.user)
	case lives && s.planted && !v.keys["planted"]:
		return fmt.Errorf("session %v has lost what it began with", id)
	}
	return nil
}

// judgeJar looks whether the client stays where it was: it may have missed a login, but no renewal.
func (r *userRound) judgeJar(d *device) error {
	jar := client.Parse(d.jar)
	if jar.ID() == (session.ID{}) {
		return nil
	}
	s, err := r.tell(jar.ID())
	if err != nil {
		return err
	}
	if !s.unsure && jar.Key == s.key && !r.mayEnd(&s) && r.views[d.jar].id != jar.ID() {
		return fmt.Errorf("%s has lost its session, by the cookie %v", d.name, jar)
	}
	return nil
}

// judgeChanges looks whether what was acknowledged is there, and nothing else.
func judgeChanges(p *userPlayer, alive map[session.ID]userView) error {
	if !p.sets() || p.unknown() {
		return nil
	}
	for id, v := range alive {
		if saved := p.answer.Status == http.StatusOK && p.id == id; saved != v.keys[p.key] {
			return fmt.Errorf("%v got the answer %v for session %v; what it set is in session %v: %v", p, p.answer, p.id, id, v.keys[p.key])
		}
	}
	return nil
}

// judgeLists compares the lists of the user's sessions with those that live.
func (r *userRound) judgeLists(ctx context.Context, alive map[session.ID]userView) error {
	for _, group := range []session.Group{session.OfUser(r.user), session.Labelled(r.label())} {
		list, err := r.judge.Sessions(ctx, group)
		if err == nil {
			err = r.judgeList(list, alive)
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", group, err)
		}
	}
	return nil
}

func (r *userRound) judgeList(list []session.SessionInfo, alive map[session.ID]userView) error {
	n := 0
	for id, v := range alive {
		if v.user != r.user {
			continue
		}
		n++
		if !slices.ContainsFunc(list, func(s session.SessionInfo) bool { return s.ID == id }) {
			return fmt.Errorf("%v is alive, and not in the list", id)
		}
	}
	if limit := r.options.MaxSessionsPerUser; limit > 0 && n > limit {
		return fmt.Errorf("%d sessions are alive, and %d allowed", n, limit)
	}
	if !r.Faults && len(list) != n {
		return fmt.Errorf("%d sessions are alive, and %d in the list", n, len(list))
	}
	return nil
}

// later has the clients come back a few times, each after a renewal is due.
func (r *userRound) later(ctx context.Context) error {
	for visit := range 4 {
		for _, d := range r.devices {
			v := r.views[d.jar]
			if v.id == (session.ID{}) {
				continue
			}
			a := client.Ask(ctx, r.processes[visit], d.jar, func(s *session.Session) { s.Set("visit", visit) })
			d.jar = a.Next(d.jar)
			d.known = append(d.known, d.jar)
			now, err := r.look(ctx, d.jar)
			if err != nil {
				return err
			}
			if a.Status != http.StatusOK || now.id != v.id || now.user != v.user {
				// One that was to end, by somebody who failed at it, is ended by whoever comes to know.
				if s, err := r.tell(v.id); err == nil && r.mayEnd(&s) && r.any((*userPlayer).unknown) {
					continue
				}
				return fmt.Errorf("visit %d of %s to session %v of %q: %v, then it has session %v of %q", visit, d.name, v.id, v.user, a, now.id, now.user)
			}
			r.views[d.jar] = now
		}
		r.clock.Pass(5 * time.Minute)
	}
	return nil
}

// end ends all of the user's sessions. Then everybody can log in.
func (r *userRound) end(ctx context.Context) error {
	group := []session.Group{session.OfUser(r.user), session.Labelled(r.label())}[r.Random.IntN(2)]
	if _, err := r.judge.EndSessions(ctx, group); err != nil {
		return err
	}
	for range 2 {
		for _, d := range r.devices {
			for _, cookie := range d.known {
				if v, err := r.look(ctx, cookie); err != nil || v.user == r.user {
					return fmt.Errorf("after all were ended, a cookie of %s leads to %v, %v", d.name, v.id, err)
				}
			}
		}
		r.clock.Pass(5 * time.Minute)
	}
	// A process that died within a login may have left a session that the user's list names, the label's does not, and nobody has.
	if _, err := r.judge.EndSessions(ctx, session.OfUser(r.user)); err != nil {
		return err
	}
	limit := r.options.MaxSessionsPerUser
	for i, d := range r.devices {
		a := client.Ask(ctx, r.judge, cmp.Or(d.jar, d.blank), func(s *session.Session) { s.SetUser(r.user, r.label()) })
		full := r.options.RefuseNewSessions && i >= limit
		if !full && a.Status != http.StatusOK || full && a.Status != http.StatusForbidden {
			return fmt.Errorf("%s is locked out: %v", d.name, a)
		}
	}
	list, err := r.judge.Sessions(ctx, session.OfUser(r.user))
	want := len(r.devices)
	if limit > 0 {
		want = min(want, limit)
	}
	if err != nil || len(list) != want {
		return fmt.Errorf("after all have logged in, there are %d sessions, %v, want %d", len(list), err, want)
	}
	return nil
}

// A userView is what a cookie leads to.
type userView struct {
	id   session.ID // zero if that is no live session
	user string
	keys map[string]bool
}

func (r *userRound) look(ctx context.Context, cookie string) (userView, error) {
	v := userView{keys: map[string]bool{}}
	a := client.Ask(ctx, r.judge, cookie, func(s *session.Session) {
		v.id, v.user = s.ID(), s.User()
		for _, key := range s.Keys() {
			v.keys[key] = true
		}
	})
	if a.Status != http.StatusOK {
		return v, fmt.Errorf("a request that looks: %v", a)
	}
	return v, nil
}

// of returns the players for which ok holds.
func (r *userRound) of(ok func(*userPlayer) bool) (found []*userPlayer) {
	for _, p := range r.players {
		if ok(p) {
			found = append(found, p)
		}
	}
	return found
}

func (r *userRound) any(ok func(*userPlayer) bool) bool { return slices.ContainsFunc(r.players, ok) }

// moves reports whether the player gives the session another key.
func (p *userPlayer) moves() bool {
	return p.act == regenerates || p.act == logsInAgain || p.act == switches
}

// moved reports whether it did, for the session that it was let into.
func (p *userPlayer) moved() bool {
	return p.moves() && !p.unknown() && p.answer.Status == http.StatusOK && p.id == p.found && p.id != (session.ID{})
}

// setsUser reports whether the player logs somebody in.
func (p *userPlayer) setsUser() bool {
	return p.act == logsIn || p.act == logsInAgain || p.act == switches
}

// sets reports whether the player sets its key.
func (p *userPlayer) sets() bool { return p.moves() || p.act == writes || p.act == logsIn }

// unknown reports whether nobody was told what became of it.
func (p *userPlayer) unknown() bool {
	return p.Died() || p.answer.Status == http.StatusServiceUnavailable ||
		p.err != nil && !errors.Is(p.err, session.ErrNotFound)
}

func (p *userPlayer) name() string { return fmt.Sprintf("%s: %s (%s)", p.device.name, p.act, p.key) }

func (p *userPlayer) String() string {
	return fmt.Sprintf("%s (by label %v), with cookie %v, after %v, thinking for %v (eager %v), answered after %v (deaf %v)",
		p.name(), p.label, client.Parse(p.sent), p.starts, p.thinks, p.eager, p.returns, p.deaf)
}

// String tells the story of the round.
func (r *userRound) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %d, refuse %v, encrypt %v, renewal %v, free %v\n%v", r.options.MaxSessionsPerUser,
		r.options.RefuseNewSessions, r.options.EncryptAtRest, r.options.RenewInterval, r.Free, r.Round)
	for _, p := range r.players {
		fmt.Fprintf(&b, "\n\t%v: let into %.6v…, got the answer %v for %.6v…, error %v", p, p.found, p.answer, p.id, p.err)
	}
	for _, d := range r.devices {
		fmt.Fprintf(&b, "\n\t%s began with %v (%.6s…) and has %v", d.name, client.Parse(d.first), d.handle, client.Parse(d.jar))
	}
	return b.String()
}
