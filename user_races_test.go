package session_test

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
	"example.com/session/internal/interleave"
)

// Everything that can happen to a user's sessions, in whatever order the calls to the store come: nothing that was
// ended is ever alive again by any cookie, the limit holds once things are quiet, no session is lost that nobody ended,
// and no change that was acknowledged. The same while calls fail, replies get lost and processes die, for all that
// was acknowledged.
func TestUserRaces(t *testing.T) {
	eachStore(t, func(t *testing.T, newStore func(*testing.T) session.Store) {
		store := &interleave.Store{Store: newStore(t)}
		playRounds(t, func() func(context.Context, uint64) error {
			var casts [4]userCast
			for i, opts := range []session.Options{
				{},
				{EncryptAtRest: true},
				{MaxSessionsPerUser: devices},
				{MaxSessionsPerUser: devices, RefuseNewSessions: true, EncryptAtRest: true},
			} {
				opts.RenewGrace = 10 * time.Minute
				casts[i].options = opts
				opts.RenewInterval = session.Never
				casts[i].judge = newCrew(t, store, 1, opts)[0]
				opts.RenewInterval = time.Millisecond // it is always due
				casts[i].processes = newCrew(t, store, 6, opts)
			}
			return func(ctx context.Context, seed uint64) error {
				r := userRound{Round: interleave.New(seed), user: fmt.Sprintf("user %d", seed)}
				r.userCast = casts[r.Random.IntN(len(casts))]
				switch r.Random.IntN(4) {
				case 0:
					r.Free = true
				case 1:
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
	processes crew // one for each actor
	judge     *session.Manager
}

// A userRound is a round in which requests and calls meet that concern the sessions of one user.
type userRound struct {
	*interleave.Round
	userCast
	user    string
	devices []*device
	players []*userPlayer
}

// A device is a client, with all cookies that it ever had.
type device struct {
	name    string
	handle  string
	cookies []string
}

// A userPlayer is an actor of a round.
type userPlayer struct {
	*interleave.Actor
	act    userAct
	device *device // on whose behalf it acts, or that it concerns
	key    string  // that it sets
	answer answer  // of a request
	acted  bool    // somebody was logged in
	err    error   // of a call
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
var userActs = []userAct{reads, writes, writes, writes, regenerates, regenerates, logsInAgain, switches, destroys,
	logsIn, logsIn, endsOne, endsOne, endsOthers, endsAll}

func (r *userRound) play(ctx context.Context) error {
	for i := range devices {
		d := &device{name: fmt.Sprintf("device %d", i)}
		a := ask(ctx, r.judge, "", func(s *session.Session) { s.SetUser(r.user); s.Set("planted", true) })
		if a.status != http.StatusOK || a.cookie == "" {
			return fmt.Errorf("login of %s: %v", d.name, a)
		}
		d.cookies = []string{a.cookie}
		list, err := r.judge.UserSessions(ctx, r.user)
		if err != nil || len(list) != i+1 {
			return fmt.Errorf("after %d logins: %v, %v", i+1, list, err)
		}
		for _, s := range list {
			if !slices.ContainsFunc(r.devices, func(d *device) bool { return d.handle == s.Handle }) {
				d.handle = s.Handle
			}
		}
		r.devices = append(r.devices, d)
	}
	for i := range 3 + r.Random.IntN(len(r.processes)-2) {
		p := &userPlayer{act: userActs[r.Random.IntN(len(userActs))], device: r.devices[r.Random.IntN(devices)], key: fmt.Sprint("key ", i)}
		if p.act == logsIn {
			p.device = &device{name: fmt.Sprintf("newcomer %d", i)}
			r.devices = append(r.devices, p.device)
		}
		m := r.processes[i]
		if r.Free {
			m = r.processes[i%2]
		}
		p.Actor = r.Add(p.String(), func(ctx context.Context) { r.run(ctx, m, p) })
		r.players = append(r.players, p)
	}
	r.Play(ctx)
	for _, p := range r.players {
		if c := p.answer.cookie; c != "" && !p.answer.removed && !p.Died() {
			p.device.cookies = append(p.device.cookies, c)
		}
	}
	return r.verdict(ctx)
}

// run is what a player does.
func (r *userRound) run(ctx context.Context, m *session.Manager, p *userPlayer) {
	switch p.act {
	case endsOne:
		p.err = m.EndSession(ctx, r.user, p.device.handle)
		return
	case endsAll:
		_, p.err = m.EndUserSessions(ctx, r.user)
		return
	}
	cookie := ""
	if p.act != logsIn {
		cookie = p.device.cookies[0]
	}
	p.answer = send(ctx, m, cookie, func(_ http.ResponseWriter, req *http.Request) {
		s := session.FromContext(req.Context())
		p.acted = s.User() == r.user
		switch p.act {
		case regenerates:
			s.Regenerate()
		case logsIn, logsInAgain:
			s.SetUser(r.user)
		case switches:
			s.SetUser("not " + r.user)
		case destroys:
			s.Destroy()
			return
		case endsOthers:
			_, p.err = m.EndOtherSessions(req.Context())
			return
		case reads:
			return
		}
		s.Set(p.key, true)
	})
}

// verdict returns what is wrong with the answers, and with the sessions that the cookies lead to.
func (r *userRound) verdict(ctx context.Context) error {
	for _, p := range r.players {
		if err := r.judgeAnswer(p); err != nil {
			return err
		}
	}
	alive := map[session.ID]*device{}
	for _, d := range r.devices {
		id, err := r.judgeDevice(ctx, d)
		if err != nil {
			return err
		}
		if id != (session.ID{}) {
			alive[id] = d
		}
	}
	limit := r.options.MaxSessionsPerUser
	if limit > 0 && len(alive) > limit {
		return fmt.Errorf("%d sessions are alive, and %d allowed", len(alive), limit)
	}
	list, err := r.judge.UserSessions(ctx, r.user)
	if err != nil {
		return err
	}
	for id, d := range alive {
		// A record that a regeneration could not remove has the session's handle, and nobody has its token.
		mayLeave := r.of(d, func(p *userPlayer) bool { return p.moves() && p.Faulted() }) != nil
		listed := slices.ContainsFunc(list, func(s session.UserSession) bool {
			return s.ID == id || mayLeave && s.Handle == d.handle
		})
		if !listed && !r.any(func(p *userPlayer) bool { return p.unknown() }) { // that is to end is not listed
			return fmt.Errorf("%v is alive, and not in the list", id)
		}
	}
	if !r.Faults && len(list) != len(alive) {
		return fmt.Errorf("%d sessions are alive, and %d in the list", len(alive), len(list))
	}
	if _, err := r.judge.EndUserSessions(ctx, r.user); err != nil {
		return err
	}
	for _, d := range r.devices {
		for _, cookie := range d.cookies {
			if v, err := r.look(ctx, cookie); err != nil || v.user == r.user {
				return fmt.Errorf("after all were ended, a cookie of %s leads to %v, %v", d.name, v.id, err)
			}
		}
	}
	return nil
}

// judgeAnswer looks for what a player must not be told.
func (r *userRound) judgeAnswer(p *userPlayer) error {
	if p.Died() {
		return nil
	}
	fault := func() error {
		return fmt.Errorf("%v got the answer %v, %w", p, p.answer, cmp.Or(p.err, errors.New("no error")))
	}
	if p.err != nil && !p.Faulted() && !errors.Is(p.err, session.ErrNotFound) {
		return fault()
	}
	switch p.answer.status {
	case 0: // no request
	case http.StatusOK:
		if p.answer.removed && p.act != destroys {
			return fault()
		}
	case http.StatusConflict:
		if p.answer.cookie != "" || p.act == reads || p.act == logsIn {
			return fault()
		}
	case http.StatusForbidden:
		if p.act != logsIn || !r.options.RefuseNewSessions {
			return fault()
		}
	case http.StatusServiceUnavailable:
		if !p.Faulted() {
			return fault()
		}
	default:
		return fault()
	}
	return nil
}

// judgeDevice looks at what the cookies of a device lead to. It returns the ID of the user's session there, zero if
// there is none.
func (r *userRound) judgeDevice(ctx context.Context, d *device) (none session.ID, _ error) {
	views := map[string]userView{} // of the cookies that lead to a live session
	var v userView
	for _, cookie := range d.cookies {
		got, err := r.look(ctx, cookie)
		switch {
		case err != nil:
			return none, err
		case got.id == none:
			continue
		case len(views) > 0 && got.id != v.id:
			return none, fmt.Errorf("the cookies of %s lead to %v and %v", d.name, v.id, got.id)
		}
		views[cookie], v = got, got
	}
	lives := len(views) > 0
	moved := r.of(d, func(p *userPlayer) bool { return p.moves() && p.succeeded() })
	mayHaveMoved := r.of(d, func(p *userPlayer) bool { return p.moves() && p.unknown() })
	switch {
	case len(moved) > 1:
		return none, fmt.Errorf("%v and %v both succeeded", moved[0], moved[1])
	case lives && len(moved) == 1 && (len(views) > 1 || views[moved[0].answer.cookie].id == none):
		return none, fmt.Errorf("%v has succeeded, and another cookie of %s leads to a session", moved[0], d.name)
	}
	switched := len(moved) == 1 && moved[0].act == switches
	if lives && (v.user != r.user) != switched && len(mayHaveMoved) == 0 {
		return none, fmt.Errorf("%s has a session of %q", d.name, v.user)
	}
	ended := r.players[:0:0]
	mayHaveEnded := len(mayHaveMoved) > 0
	for _, p := range r.players {
		switch {
		case !r.ends(p, d):
		case !p.succeeded() && !p.unknown():
		case p.unknown(), d.handle == "": // who logs in at the same time may be in time, or late
			mayHaveEnded = true
		case p.act == destroys, !switched && len(mayHaveMoved) == 0:
			ended = append(ended, p)
		default:
			mayHaveEnded = true
		}
	}
	if lives && len(ended) > 0 {
		return none, fmt.Errorf("%v ended the session of %s, which is alive", ended[0], d.name)
	}
	evicts := r.options.MaxSessionsPerUser > 0 && !r.options.RefuseNewSessions &&
		r.any(func(p *userPlayer) bool { return p.act == logsIn })
	if !lives && len(d.cookies) > 0 && len(ended) == 0 && !mayHaveEnded && !evicts {
		return none, fmt.Errorf("nobody ended the session of %s, and it is lost", d.name)
	}
	if !lives {
		return none, nil
	}
	for _, p := range r.of(d, func(p *userPlayer) bool { return p.sets() && !p.unknown() }) {
		if saved := p.answer.status == http.StatusOK; saved != v.keys[p.key] {
			return none, fmt.Errorf("%v got the answer %v; what it set is there: %v", p, p.answer, v.keys[p.key])
		}
	}
	if d.handle != "" && !v.keys["planted"] {
		return none, fmt.Errorf("%s has lost what its session began with", d.name)
	}
	if v.user != r.user {
		return none, nil
	}
	return v.id, nil
}

// A userView is what a cookie leads to.
type userView struct {
	id   session.ID // zero if that is no live session
	user string
	keys map[string]bool
}

func (r *userRound) look(ctx context.Context, cookie string) (userView, error) {
	v := userView{keys: map[string]bool{}}
	a := ask(ctx, r.judge, cookie, func(s *session.Session) {
		v.id, v.user = s.ID(), s.User()
		for _, key := range s.Keys() {
			v.keys[key] = true
		}
	})
	if a.status != http.StatusOK {
		return v, fmt.Errorf("a request that looks: %v", a)
	}
	return v, nil
}

// ends reports whether the player ends the session of d, if it succeeds.
func (r *userRound) ends(p *userPlayer, d *device) bool {
	switch p.act {
	case destroys, endsOne:
		return p.device == d
	case endsOthers:
		return p.device != d && p.acted
	}
	return p.act == endsAll
}

// of returns the players on d for which ok holds.
func (r *userRound) of(d *device, ok func(*userPlayer) bool) (found []*userPlayer) {
	for _, p := range r.players {
		if p.device == d && ok(p) {
			found = append(found, p)
		}
	}
	return found
}

func (r *userRound) any(ok func(*userPlayer) bool) bool { return slices.ContainsFunc(r.players, ok) }

// moves reports whether the player gives the session of its device another ID.
func (p *userPlayer) moves() bool {
	return p.act == regenerates || p.act == logsInAgain || p.act == switches
}

// sets reports whether the player sets its key.
func (p *userPlayer) sets() bool { return p.moves() || p.act == writes || p.act == logsIn }

// succeeded reports whether the player was told so.
func (p *userPlayer) succeeded() bool {
	switch {
	case p.unknown():
		return false
	case p.act == endsOne:
		return true // no session with that handle is as good
	case p.act == endsOthers:
		return p.acted
	}
	return p.answer.status == http.StatusOK || p.act == endsAll
}

// unknown reports whether nobody was told what became of it.
func (p *userPlayer) unknown() bool {
	return p.Died() || p.answer.status == http.StatusServiceUnavailable ||
		p.err != nil && !errors.Is(p.err, session.ErrNotFound)
}

func (p *userPlayer) String() string { return fmt.Sprintf("%s: %s (%s)", p.device.name, p.act, p.key) }

// String tells the story of the round.
func (r *userRound) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %d, refuse %v, encrypt %v, free %v\n%v", r.options.MaxSessionsPerUser,
		r.options.RefuseNewSessions, r.options.EncryptAtRest, r.Free, r.Round)
	for _, p := range r.players {
		fmt.Fprintf(&b, "\n\t%v got the answer %v, error %v", p, p.answer, p.err)
	}
	return b.String()
}
