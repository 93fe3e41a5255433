//go:build !encrypted

package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
	"example.com/session/internal/codec"
	"example.com/session/internal/history"
	"example.com/session/internal/storetest"
)

// Histories are what the invariants of sessions are checked with: browsers, processes and a store, where requests meet in
// any order, at any pace, and whatever can go wrong does. All of it follows from a seed, but for what is drawn from
// crypto/rand and for the pauses between tries.

// The protocol's times in histories.
const (
	beat     = 5 * time.Second // for how long a change is refused after a login; the unit of pauses
	grace    = 30 * time.Second
	slack    = time.Minute // by how much clocks differ
	interval = 4 * time.Minute
	lateness = time.Hour // a save may come so late, and no later
)

// A story is one history of a case.
type story struct {
	*history.World
	opts      session.Options
	caches    bool // processes have
	namespace string
	lost      float64 // how likely an answer does not reach its client
	native    bool    // clients send a header instead of the cookie
	labels    bool    // each user's sessions have a label of theirs, by which they are ended

	ps        []*process
	acks      []ack
	issued    []string                        // cookies that responses set
	announced map[codec.Login]map[string]bool // by which requests
	marked    map[codec.Login]bool            // to be ended, by somebody other than a login
	fresh     int

	mu     sync.Mutex
	reused []session.ID
}

// A process is a manager of its own, with a clock of its own.
type process struct {
	m     *session.Manager
	store *history.Store
	name  string // of the cookie
}

// An ack is what somebody was told.
type ack struct{ what, who, detail string }

func (a ack) String() string { return strings.TrimSpace(a.who + " " + a.what + " " + a.detail) }

// A jar is a browser's, with one cookie. others are of the same name, and sent first.
type jar struct {
	cookie string
	others []string
	keeps  float64 // how likely it takes up what it is sent; 0: it does
	got    []string
	old    string // cookie of an old system
}

// A request is one by a browser, and what its handler does.
type request struct {
	name    string
	change  string                                  // a key to be set
	drop    string                                  // a key to be removed
	add     int                                     // to the counter
	login   *string                                 // SetUser
	labels  []session.Label                         // likewise
	destroy bool                                    // Destroy
	think   [2]time.Duration                        // until the handler uses the session, and then until it is done
	handler func(context.Context, *session.Session) // instead of all that
	from    *jar                                    // whose cookies are sent instead
	p       *process
	began   time.Time
	after   func(*request)

	sent    []string
	found   session.ID
	header  http.Header
	status  int
	err     error
	cookie  string
	removed bool
}

func as(user string) *string { return &user }

func (q *request) wants() bool {
	return q.change != "" || q.drop != "" || q.add != 0 || q.login != nil || q.destroy
}

// named returns what nothing else in this history is called.
func (h *story) named(what string) string {
	h.fresh++
	return what + strconv.Itoa(h.fresh)
}

// process starts a process whose clock is ahead by that.
func (h *story) process(ahead time.Duration) *process {
	return h.processWith(ahead, h.opts)
}

func (h *story) processWith(ahead time.Duration, opts session.Options) *process {
	p := &process{store: &history.Store{World: h.World}, name: "session_id"}
	if opts.Cookie.Name != "" {
		p.name = opts.Cookie.Name
	}
	if opts.Namespace == "" {
		opts.Namespace = h.namespace
	}
	if h.native {
		opts.TokenHeader = tokenHeader
	}
	opts.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		if q, ok := r.Context().Value(requestKey{}).(*request); ok {
			q.err = err
		}
		w.WriteHeader(http.StatusConflict)
	}
	opts.Observer = func(_ context.Context, e session.Event) {
		if e.Kind == session.EventReused {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reused = append(h.reused, e.ID)
		}
	}
	var store session.Store = p.store
	if h.caches {
		store = session.NewCacheStore(store, &session.CacheOptions{MaxAge: 2 * beat})
	}
	m, err := session.New(store, secretOf('s'), &opts)
	if err != nil {
		panic(err)
	}
	m.SetClock(func() time.Time { return time.Now().Add(ahead) })
	p.m = m
	h.ps = append(h.ps, p)
	return p
}

// processes starts one to three with the right time.
func (h *story) processes() []*process {
	n := 1 + h.Int(3)
	if h.opts.Locking { // waiting for another process is by looking again and again
		n = 1
	}
	for range n {
		h.process(0)
	}
	return h.ps
}

func (h *story) any() *process { return h.ps[h.Int(len(h.ps))] }

type requestKey struct{}

// by has a browser send a request to any process.
func (h *story) by(b *jar, q request) *history.Actor {
	if q.name == "" {
		q.name = h.named("q")
	}
	if q.p == nil {
		q.p = h.any()
	}
	if h.labels && q.login != nil && *q.login != "" {
		q.labels = []session.Label{labelOf(*q.login)}
	}
	a := &history.Actor{Name: q.name}
	a.Before = func() {
		from := b
		if q.from != nil {
			from = q.from
		}
		q.sent = append(slices.Clone(from.others), from.cookie)
		q.sent = slices.DeleteFunc(q.sent, func(c string) bool { return c == "" })
		q.header = http.Header{}
		for _, c := range q.sent {
			q.header.Add("Cookie", q.p.name+"="+c)
		}
		if h.native {
			q.header = http.Header{tokenHeader: {from.cookie}}
		}
		if from.old != "" {
			q.header.Add("Cookie", "old="+from.old)
		}
		q.began = time.Now()
		h.Note("%s: %s", q.name, q.String())
	}
	a.Act = func(ctx context.Context) { q.send(ctx) }
	a.After = func() {
		h.answer(&q)
		if q.after != nil {
			q.after(&q)
		}
		if b != nil && !h.Chance(h.lost) {
			b.take(h, &q)
		}
	}
	return a
}

func (q *request) String() string {
	text := "sends"
	for _, c := range q.sent {
		text += " " + inShort(c)
	}
	if q.change != "" {
		text += " sets " + q.change
	}
	if q.drop != "" {
		text += " drops " + q.drop
	}
	if q.add != 0 {
		text += " adds"
	}
	if q.login != nil {
		text += fmt.Sprintf(" login %q", *q.login)
	}
	if q.destroy {
		text += " destroys"
	}
	if q.think[0]+q.think[1] > 0 {
		text += fmt.Sprintf(" thinks %v", q.think)
	}
	return text
}

func (q *request) send(ctx context.Context) {
	r := httptest.NewRequestWithContext(context.WithValue(ctx, requestKey{}, q), http.MethodGet, "/", nil)
	r.Header = q.header
	w := httptest.NewRecorder()
	q.p.m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		time.Sleep(q.think[0])
		s := q.p.m.FromContext(r.Context())
		q.found = s.ID()
		time.Sleep(q.think[1])
		if q.handler != nil {
			q.handler(r.Context(), s)
			return
		}
		q.handle(s)
	})).ServeHTTP(w, r)
	q.status = w.Code
	for _, c := range w.Result().Cookies() {
		if c.Name == q.p.name {
			q.cookie, q.removed = c.Value, c.MaxAge < 0
		}
	}
	if lines, ok := w.Result().Header[tokenHeader]; ok {
		q.cookie, q.removed = lines[0], lines[0] == ""
	}
}

func (q *request) handle(s *session.Session) {
	if q.destroy {
		s.Destroy()
	}
	if q.change != "" {
		s.Set(q.change, true)
	}
	if q.drop != "" {
		s.Delete(q.drop)
	}
	if q.add != 0 {
		hitCounter.Update(s, func(n int) int { return n + q.add })
	}
	if q.login != nil {
		s.SetUser(*q.login, q.labels...)
	}
}

// answer takes note of what a request was told.
func (h *story) answer(q *request) {
	what := ""
	switch anew := q.cookie != "" && !q.removed && client.Parse(q.cookie).ID() != q.found; {
	case errors.Is(q.err, session.ErrGone):
		what = "gone"
	case errors.Is(q.err, session.ErrTooManySessions):
		what = "refused"
	case errors.Is(q.err, session.ErrLockLost):
		what = "lock lost"
	case q.err != nil:
		what = "unknown"
	case q.destroy, q.drop != "" && q.removed:
		what = "ended"
	case q.removed:
		what = "removed"
	case q.handler != nil:
		what = "done"
	case !q.wants() && q.found == (session.ID{}):
		what = "nothing"
	case !q.wants():
		what = "read"
	case anew || q.found == (session.ID{}):
		what = "visitor"
	default:
		what = "saved"
	}
	if q.cookie != "" && !q.removed {
		h.issued = append(h.issued, q.cookie)
		h.Call(client.Parse(q.cookie).ID(), fmt.Sprintf("%.8x", client.Parse(q.cookie).Name))
	}
	h.acks = append(h.acks, ack{what, q.name, q.change})
	if q.login != nil && (what == "saved" || what == "visitor") {
		h.acks = append(h.acks, ack{"login", q.name, *q.login})
	}
	text := ""
	if q.removed {
		text = ", cookie removed"
	} else if q.cookie != "" {
		text = ", cookie " + inShort(q.cookie)
	}
	h.Note("%s is told: %s%s %v", q.name, what, text, q.err)
}

func inShort(cookie string) string {
	c := client.Parse(cookie)
	return fmt.Sprintf("%.8x/%.4x/%d", c.Name, c.Key, c.Count)
}

func (b *jar) take(h *story, q *request) {
	if q.cookie == "" && !q.removed || b.keeps != 0 && !h.Chance(b.keeps) {
		return
	}
	b.cookie = ""
	if !q.removed {
		b.cookie = q.cookie
		b.old = ""
	}
	b.got = append(b.got, b.cookie)
}

// told returns who was told that.
func (h *story) told(what string) (list []ack) {
	for _, a := range h.acks {
		if a.what == what {
			list = append(list, a)
		}
	}
	return list
}

// play is World.Play with these likelihoods.
func (h *story) play(crash, lost float64, until history.Until, these ...*history.Actor) {
	h.Crash, h.lost = crash, lost
	h.Play(until, these...)
}

// calmly does something while nothing goes wrong.
func (h *story) calmly(f func()) {
	flaky, twice, stale, pace, crash, lost := h.Flaky, h.Twice, h.Stale, h.Pace, h.Crash, h.lost
	h.Flaky, h.Twice, h.Stale, h.Pace, h.Crash, h.lost = 0, 0, 0, nil, 0, 0
	f()
	h.Flaky, h.Twice, h.Stale, h.Pace, h.Crash, h.lost = flaky, twice, stale, pace, crash, lost
}

// begin returns a browser that has a session, with one value.
func (h *story) begin(user string) *jar {
	b := &jar{}
	q := request{name: "begin", change: "begun"}
	if user != "" {
		q.login = &user
	}
	h.calmly(func() { h.Play(history.TheseEnd, h.by(b, q)) })
	h.acks = nil
	return b
}

// peek returns what a cookie leads to.
func (h *story) peek(cookie string) session.Glimpse {
	if cookie == "" {
		return session.Glimpse{}
	}
	g, err := h.ps[0].m.Glimpse(context.Background(), cookie)
	if err != nil {
		h.Note("a glimpse: %v", err)
	}
	return g
}

// sessions returns the user's sessions that somebody has a cookie of.
func (h *story) sessions(user string) map[session.ID]session.Glimpse {
	found := make(map[session.ID]session.Glimpse)
	for _, c := range h.issued {
		if g := h.peek(c); g.Served && g.User == user {
			found[g.ID] = g
		}
	}
	return found
}

// refused tells what an honest browser must never meet.
func (h *story) refused(b *jar) error {
	for _, a := range h.acks {
		if a.what != "saved" && a.what != "read" && a.what != "login" {
			return fmt.Errorf("a request was refused: %v", a)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.reused) > 0 {
		return errors.New("the browser was taken for a thief")
	}
	if !h.peek(b.cookie).Served {
		return errors.New("the browser was logged out")
	}
	return nil
}

// lostChanges tells what was saved and is not there.
func (h *story) lostChanges(g session.Glimpse) error {
	for _, a := range h.told("saved") {
		if _, ok := g.Values[a.detail]; a.detail != "" && !ok {
			return fmt.Errorf("lost: %v", a)
		}
	}
	return nil
}

// browse has a browser send n requests at the same time, to any of the processes.
func (h *story) browse(b *jar, n int, crash, lost float64, think time.Duration, until history.Until) {
	var these []*history.Actor
	beats := int(think / beat)
	for range n {
		first := time.Duration(history.Pick(h.Tape, 0, h.Int(beats+1), beats)) * beat
		q := request{think: [2]time.Duration{first, history.Pick(h.Tape, 0, think-first)}}
		if h.Chance(.5) {
			q.change = h.named("v")
		}
		these = append(these, h.by(b, q))
	}
	h.play(crash, lost, until, these...)
}

// crowd is slow requests of a browser, and quick ones that begin and end meanwhile.
func (h *story) crowd(b *jar, crash, lost float64, longest time.Duration, between func()) {
	h.Pace = nil
	h.browse(b, 1+h.Int(3), crash, lost, longest, history.TheseBegin)
	for range 1 + h.Int(5) {
		h.browse(b, 1+h.Int(2), crash, lost, 0, history.TheseEnd)
		h.Wait()
		if between != nil {
			between()
		}
	}
	h.play(crash, lost, history.AllEnd)
}

func (h *story) rest() {
	time.Sleep(history.Pick(h.Tape, 0, beat, 2*beat, grace, grace+slack, interval, interval, 10*interval))
}

// labelOf returns the label that the user's sessions have, and no others.
func labelOf(user string) session.Label { return session.Label{Name: "user", Value: user} }

// endUser ends all sessions of a user.
func (h *story) endUser(p *process, name, user string) *history.Actor {
	marks := make(map[codec.Login]bool)
	var err error
	a := &history.Actor{Name: name}
	group := session.OfUser(user)
	if h.labels {
		group = session.Labelled(labelOf(user))
	}
	a.Act = func(ctx context.Context) { _, err = p.m.EndSessions(ctx, group) }
	saved := h.Saved
	h.Saved = func(w history.Write) {
		saved(w)
		if list, ok := p.m.IndexEntries(w.ID, w.Data); ok && w.Actor == a {
			for _, e := range list {
				if e.Ending {
					marks[e.Login] = true
				}
			}
		}
	}
	a.After = func() {
		h.Note("%s is told: %v", name, err)
		if err == nil {
			h.acks = append(h.acks, ack{"ended-user", name, ""})
			for login := range marks {
				h.marked[login] = true
			}
		}
	}
	return a
}

// A historyCase is what is checked, in histories of one kind.
type historyCase struct {
	name    string
	play    func(h *story, crash, lost float64) error
	trouble [][2]float64 // how likely a kill and the loss of an answer are, besides never
	locking bool         // some of the histories are with Options.Locking
}

var historyCases = []historyCase{
	{"renewals lose nobody", renewalsLoseNobody, [][2]float64{{.05, .5}}, true},
	{"slow requests stay in", slowRequestsStayIn, [][2]float64{{.02, .3}}, false},
	{"clocks differ", clocksDiffer, [][2]float64{{.02, .3}}, false},
	{"a failover logs nobody out", aFailoverLogsNobodyOut, [][2]float64{{.02, .3}}, false},
	{"caches decide nothing", cachesDecideNothing, nil, false},
	{"a stale copy beside the cookie", aStaleCopyBesideTheCookie, [][2]float64{{.02, .3}}, true},
	{"theft shows", theftShows, nil, true},
	{"login leaves old cookies dead", loginLeavesOldCookiesDead, [][2]float64{{.05, .3}}, true},
	{"a planted cookie is worth nothing", aPlantedCookieIsWorthNothing, [][2]float64{{.02, .3}}, false},
	{"a planted cookie locks nobody out", aPlantedCookieLocksNobodyOut, nil, false},
	{"stragglers leave a login alone", stragglersLeaveALoginAlone, [][2]float64{{.02, 0}}, false},
	{"ended stays ended", endedStaysEnded, [][2]float64{{.05, .3}}, false},
	{"emptied or kept", emptiedOrKept, [][2]float64{{.05, 0}}, true},
	{"the end of a user reaches logins under way", endOfAUserReachesLoginsUnderWay, [][2]float64{{.02, 0}}, false},
	{"two users take turns", twoUsersTakeTurns, [][2]float64{{.1, 0}}, true},
	{"no more sessions than the limit", noMoreSessionsThanTheLimit, [][2]float64{{.02, .3}}, false},
	{"a lost login locks nobody out", aLostLoginLocksNobodyOut, nil, false},
	{"a lost index comes back", aLostIndexComesBack, [][2]float64{{.02, 0}}, false},
	{"managers keep apart", managersKeepApart, nil, false},
	{"locks are exclusive", locksAreExclusive, [][2]float64{{.02, 0}}, false},
	{"updates count once", updatesCountOnce, [][2]float64{{.02, 0}}, false},
	{"an old system's session moves once", anOldSessionMovesOnce, [][2]float64{{.02, .3}}, false},
}

// The promises of the protocol hold in random histories: 25 of each case on the store in memory, and 33 in all on each
// other store, or as
// many for each 100 that storetest.Rounds says: what takes the time is the way out of the bubble.
func TestHistories(t *testing.T) {
	rounds, first := storetest.Rounds()
	storetest.EachShared(t, storetest.Private, func(t *testing.T, kind storetest.Kind) {
		t.Parallel()
		store := kind.New(t)
		for i, c := range historyCases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				n, shrinks := (rounds+3)/4, 400
				var outside *history.Outside
				if kind.Name != "memory" {
					n, shrinks = (rounds/3+i)/len(historyCases), 60
					outside = history.NewOutside()
					t.Cleanup(outside.Close)
				}
				for round := range n {
					c.run(t, store, outside, first+uint64(round), round, shrinks)
					if t.Failed() {
						return
					}
				}
			})
		}
	})
}

// run plays one history, and shrinks it if it fails.
func (c *historyCase) run(t *testing.T, store session.Store, outside *history.Outside, seed uint64, round, shrinks int) {
	tape, story, err := history.NewTape(seed), "", error(nil)
	play := func(tape *history.Tape) (err error) {
		synctest.Test(t, func(*testing.T) { story, err = c.tell(tape, store, outside) })
		return err
	}
	if err = play(tape); err == nil {
		return
	}
	whole := tape.Len()
	told := story
	shorter, shorterErr := history.Shrink(tape, err, shrinks, func(tape *history.Tape) error {
		err := play(tape)
		if err != nil {
			told = story
		}
		return err
	})
	t.Errorf("history %d, SESSION_TEST_SEED=%d: %v\nwith %d of %d draws: %v\n%s", round, seed, err, shorter.Len(), whole, shorterErr, told)
}

// tell plays a history, in a bubble.
func (c *historyCase) tell(tape *history.Tape, store session.Store, outside *history.Outside) (text string, err error) {
	h := &story{
		World:     history.NewWorld(tape, store, outside),
		namespace: fmt.Sprintf("history %x", rand.Uint64()),
		announced: make(map[codec.Login]map[string]bool),
		marked:    make(map[codec.Login]bool),
		opts: session.Options{
			IdleTimeout: 10_000 * time.Hour, AbsoluteTimeout: 10_000 * time.Hour, TouchInterval: 18 * beat,
			StoreTimeout: 10 * time.Minute, SweepInterval: session.Never, LockWait: 1000 * time.Hour, Logger: quiet,
		},
	}
	h.Pace = []time.Duration{0, 0, beat}
	h.MaxAge = 2 * beat
	h.Saved = func(w history.Write) {
		h.Direct(h.ps[0].m.LockID(w.ID))
		list, ok := h.ps[0].m.IndexEntries(w.ID, w.Data)
		if !ok || w.Actor == nil {
			return
		}
		h.Call(w.ID, "index")
		for _, e := range list {
			h.Note("%s: the index names %s with login %.4x, ending %t", w.Actor.Name, h.Called(e.ID), e.Login, e.Ending)
			if h.announced[e.Login] == nil {
				h.announced[e.Login] = map[string]bool{w.Actor.Name: true}
			}
		}
	}
	h.opts.EncryptAtRest = h.Chance(.3)
	h.opts.EndOnReuse = h.Chance(.5)
	crash, lost := 0., 0.
	if len(c.trouble) > 0 && h.Chance(.5) {
		crash, lost = c.trouble[0][0], c.trouble[0][1]
	}
	h.native, h.labels = h.Chance(.3), h.Chance(.3)
	h.opts.Locking = c.locking && crash == 0 && h.Chance(.2)
	h.Note("native %t, labels %t, encrypted %t, EndOnReuse %t, Locking %t, kills %v, losses %v", h.native, h.labels, h.opts.EncryptAtRest, h.opts.EndOnReuse, h.opts.Locking, crash, lost)
	err = c.play(h, crash, lost)
	h.End()
	if err == nil {
		err = h.World.Err()
	}
	if err == nil {
		return "", nil
	}
	return h.World.String(), err
}

// Rounds of parallel requests of one browser, or of a client that seldom takes a cookie up. Any of the responses may get
// lost, with any pause between them.
func renewalsLoseNobody(h *story, crash, lost float64) error {
	h.opts.RenewInterval = history.Pick(h.Tape, interval, 2*beat)
	h.processes()
	b := h.begin("")
	b.keeps = history.Pick(h.Tape, 1, 1, .5, .1)
	for range 2 + h.Int(5) {
		h.browse(b, 1+h.Int(4), crash, lost, 0, history.AllEnd)
		h.rest()
	}
	return cmpError(h.refused(b), h.lostChanges(h.peek(b.cookie)))
}

// cmpError returns the first error.
func cmpError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Requests that use the session long after they began, an upload for example: within the grace, or within the interval
// of renewals if that is longer and no answer to a renewal was lost before.
func slowRequestsStayIn(h *story, crash, lost float64) error {
	h.opts.RenewInterval = history.Pick(h.Tape, interval, 2*beat)
	h.processes()
	longest := grace + slack
	if crash == 0 && lost == 0 {
		longest = max(longest, h.opts.RenewInterval)
	}
	b := h.begin("")
	for range 2 + h.Int(4) {
		time.Sleep(history.Pick(h.Tape, beat, interval, 2*interval))
		h.crowd(b, crash, lost, longest-8*beat, nil)
	}
	return cmpError(h.refused(b), h.lostChanges(h.peek(b.cookie)))
}

func clocksDiffer(h *story, crash, lost float64) error {
	h.opts.RenewInterval = history.Pick(h.Tape, interval, 2*beat)
	h.process(0)
	h.process(time.Duration(h.Int(13)) * beat)
	h.process(slack)
	b := h.begin("")
	for range 2 + h.Int(4) {
		time.Sleep(history.Pick(h.Tape, beat, interval, 2*interval))
		h.crowd(b, crash, lost, 2*beat, nil)
	}
	return cmpError(h.refused(b), h.lostChanges(h.peek(b.cookie)))
}

// The store goes back to what it had some writes ago, in the middle of requests. Logins that it loses are lost.
func aFailoverLogsNobodyOut(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	snapshot := h.Snapshot()
	for range 2 + h.Int(4) {
		if h.Chance(.8) {
			snapshot = h.Snapshot()
		}
		time.Sleep(history.Pick(h.Tape, beat, interval, 2*interval))
		h.crowd(b, crash, lost, grace+slack-6*beat, func() {
			if h.Chance(.4) {
				h.FallBack(snapshot)
			}
		})
	}
	return h.refused(b)
}

// A browser whose requests meet other processes each time, each with a cache; logins and renewals among them.
func cachesDecideNothing(h *story, crash, lost float64) error {
	if h.caches = h.Chance(.5); !h.caches {
		h.Stale = .5
	}
	h.processes()
	b := h.begin("")
	for range 3 + h.Int(6) {
		q := request{}
		if h.Chance(.5) {
			q.change = h.named("v")
		}
		if h.Chance(.3) {
			q.login = as("ann")
		}
		h.play(crash, lost, history.AllEnd, h.by(b, q))
		h.rest()
	}
	return cmpError(h.refused(b), h.lostChanges(h.peek(b.cookie)))
}

// A second cookie of the name, of another path or domain, stays as it was, and is sent first.
func aStaleCopyBesideTheCookie(h *story, crash, lost float64) error {
	h.native = false // it takes more than one cookie
	h.processes()
	b := h.begin("")
	stale := b.cookie
	for range 4 + h.Int(6) {
		if b.others = nil; h.Chance(.5) {
			b.others = []string{stale}
		}
		h.browse(b, 1+h.Int(2), crash, lost, 0, history.AllEnd)
		h.rest()
	}
	b.others = []string{stale}
	before := h.peek(b.cookie).Count
	for range 6 {
		h.browse(b, 1, 0, 0, 0, history.AllEnd)
		time.Sleep(interval)
	}
	if h.peek(b.cookie).Count == before {
		return errors.New("it is no longer renewed")
	}
	return h.refused(b)
}

// A thief copies the browser's cookie. Either goes on alone for a while, taking up what it is sent; when the other comes
// back, it is refused, the server knows that there are two, and ends the session for both if it is to.
func theftShows(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	first := b.cookie
	thief := &jar{cookie: b.cookie}
	come := func(who *jar) {
		h.play(0, 0, history.AllEnd, h.by(who, request{change: h.named("v")}))
	}
	for range h.Int(7) { // in step with each other: nobody can tell them apart
		come(history.Pick(h.Tape, b, thief))
	}
	ahead, behind := b, thief
	if h.Chance(.5) {
		ahead, behind = thief, b
	}
	for n := 0; len(h.reused) == 0 && (ahead.cookie == behind.cookie || client.Parse(behind.cookie).Count == h.peek(b.cookie).Count); n++ {
		if n > 100 {
			return errors.New("nobody is ahead")
		}
		time.Sleep(grace + time.Duration(h.Int(42))*beat)
		come(ahead)
	}
	for range 3 {
		time.Sleep(grace + slack)
		come(ahead)
	}
	seen := len(h.reused)
	come(behind)
	if len(h.reused) == 0 {
		return errors.New("nobody noticed")
	}
	if last := h.acks[len(h.acks)-1]; seen == 0 && last.what != "visitor" {
		return fmt.Errorf("who fell behind: %v", last)
	}
	if g := h.peek(ahead.cookie); seen == 0 && g.Served == h.opts.EndOnReuse {
		return fmt.Errorf("that it lives on is %t", g.Served)
	}
	if g := h.peek(b.cookie); h.opts.EndOnReuse && g.Served && g.ID == client.Parse(first).ID() {
		return errors.New("it lives on")
	}
	return nil
}

func loginLeavesOldCookiesDead(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	h.browse(b, 2, 0, 0, 0, history.AllEnd)
	before := slices.Clone(h.issued)
	users := history.Pick(h.Tape, []string{"ann"}, []string{"ann", "ann"}, []string{"ann", "bob"})
	var these []*history.Actor
	for _, u := range users {
		these = append(these, h.by(b, request{name: h.named("login"), change: h.named("v"), login: as(u)}))
	}
	old := &jar{cookie: before[h.Int(len(before))]}
	for range 2 {
		these = append(these, h.by(old, request{name: h.named("r"), change: h.named("w")}))
	}
	h.play(crash, lost, history.AllEnd, these...)
	for _, c := range before {
		if h.peek(c).Served && len(h.told("login")) > 0 {
			return errors.New("a cookie from before the login reaches it")
		}
	}
	if crash == 0 && lost == 0 && !h.peek(b.cookie).Served {
		return errors.New("the browser can no longer get in")
	}
	if n := len(h.sessions("ann")); len(users) == 1 && crash == 0 && n != 1 {
		return fmt.Errorf("%d sessions", n)
	}
	return nil
}

// An attacker knows the cookie before the login, and can log in as the same user: a guest, nobody, a shared account.
func aPlantedCookieIsWorthNothing(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	planted, user := &jar{cookie: b.cookie}, history.Pick(h.Tape, "", "guest")
	attacks := []request{{login: &user}, {change: "x"}, {}, {login: as("mallory")}}
	attack := func(i int) *history.Actor {
		q := attacks[i]
		q.name = h.named("a")
		return h.by(planted, q)
	}
	i := h.Int(4)
	h.play(crash, lost, history.AllEnd, attack(i), attack((i+1+h.Int(3))%4),
		h.by(b, request{name: "login", change: "secret", login: &user}))
	victim := h.peek(b.cookie)
	h.play(crash, 0, history.AllEnd, attack(h.Int(4)), attack(h.Int(4)), attack(h.Int(4)))
	for _, c := range planted.got {
		if _, ok := h.peek(c).Values["secret"]; ok {
			return errors.New("the attacker has the secret")
		}
	}
	if _, ok := victim.Values["secret"]; ok && !h.peek(b.cookie).Served {
		return errors.New("the attacker logged the victim out")
	}
	return nil
}

// The attacker gives the session that it belongs to new keys all the time. A visitor who has it can begin a session.
func aPlantedCookieLocksNobodyOut(h *story, crash, lost float64) error {
	h.processes()
	attacker := h.begin("mallory")
	visitor := &jar{cookie: attacker.cookie}
	for range 2 + h.Int(3) {
		h.play(0, 0, history.AllEnd, h.by(attacker, request{login: as("mallory")}))
		time.Sleep(history.Pick(h.Tape, grace-2*beat, 0))
	}
	h.play(0, 0, history.AllEnd, h.by(visitor, request{name: "visit", change: "v"}))
	if len(h.told("visitor")) == 0 {
		return errors.New("the visitor cannot get in")
	}
	return nil
}

// Slow requests from before a login, some of them with the previous cookie, that end after it. A change that begins later
// than is refused may begin a session of its own.
func stragglersLeaveALoginAlone(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	if old := b.cookie; h.Chance(.7) {
		time.Sleep(interval)
		h.calmly(func() { h.Play(history.AllEnd, h.by(b, request{name: "renewed"})) })
		if h.Chance(.7) {
			b.cookie = old
		}
	}
	h.acks = nil
	pauses := func() [2]time.Duration {
		return [2]time.Duration{time.Duration(h.Int(4)) * beat, time.Duration(h.Int(4)) * beat}
	}
	straggler := func(name string) request {
		q := request{name: name, think: pauses()}
		if h.Chance(.5) {
			q.change = h.named("v")
		}
		return q
	}
	h.Pace = []time.Duration{0, 0, 0, 0, beat}
	h.play(0, 0, history.TheseBegin, h.by(b, straggler("q0")), h.by(b, straggler("q1"))) // before there is an answer
	sent, got := &jar{cookie: b.cookie}, ""
	exempt := false
	login := request{name: "login", login: as("ann"), after: func(q *request) { got = q.cookie }}
	late := straggler("late")
	late.after = func(q *request) {
		g := h.peek(cmpString(got, b.cookie))
		exempt = q.change != "" && !q.began.Before(time.UnixMilli(g.Keyed).Add(beat)) ||
			!q.began.Before(time.UnixMilli(g.Keyed).Add(grace))
		if !exempt {
			b.take(h, q)
		}
	}
	h.play(crash, 0, history.AllEnd, h.by(b, login), h.by(sent, late))
	if got != "" && h.peek(got).Served && b.cookie != got {
		return errors.New("a straggler took its place")
	}
	return nil
}

func cmpString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// A logout with requests in flight, and saves that arrive a second time. The browser begins anew at once: nothing that is
// in flight takes the cookie of the new session away.
func endedStaysEnded(h *story, crash, lost float64) error {
	h.Twice = .5
	h.processes()
	b := &jar{}
	q := request{name: "first", change: "v"}
	if h.Chance(.5) {
		q.login = as("ann")
	}
	h.play(0, 0, history.AllEnd, h.by(b, q))
	old, anew := b.cookie, ""
	time.Sleep(history.Pick(h.Tape, 0, beat, interval))
	flying := &jar{cookie: old}
	var these []*history.Actor
	for i := range 2 {
		these = append(these, h.by(b, request{from: flying, name: fmt.Sprint("q", i), change: fmt.Sprint("v", i), think: [2]time.Duration{2 * beat, 2 * beat}}))
	}
	h.play(0, 0, history.TheseBegin, these...)
	bye := request{name: "bye", destroy: true, from: flying}
	bye.after = func(*request) {
		b.cookie = ""
		next := request{name: "anew", change: "anew", from: &jar{}}
		next.after = func(q *request) { b.cookie, anew = q.cookie, q.cookie }
		h.Begin(h.by(&jar{}, next))
	}
	h.play(crash, lost, history.AllEnd, h.by(&jar{}, bye))
	for range 3 {
		time.Sleep(history.Pick(h.Tape, 0, grace, grace+slack, interval))
		h.Again()
		if g := h.peek(old); len(h.told("ended")) > 0 && g.Served {
			return errors.New("an ended session is alive")
		}
	}
	if anew != "" && b.cookie != anew {
		return errors.New("a straggler took the new cookie's place")
	}
	return nil
}

// The last value is removed while others are set: a change is kept, or its request is told.
func emptiedOrKept(h *story, crash, lost float64) error {
	h.processes()
	b := h.begin("")
	sent := &jar{cookie: b.cookie}
	h.play(crash, 0, history.AllEnd, h.by(&jar{}, request{name: "drop", drop: "begun", from: sent}),
		h.by(&jar{}, request{name: "q0", change: "v0", from: sent}), h.by(&jar{}, request{name: "q1", change: "v1", from: sent}))
	return h.lostChanges(h.peek(sent.cookie))
}

// Logins of all kinds, in any state, of which entries that look dead may be forgotten. Whoever is marked is not alive;
// whoever is not gets in.
func endOfAUserReachesLoginsUnderWay(h *story, crash, lost float64) error {
	forgetful := h.Chance(.5) // steps take so long that entries of logins under way are forgotten
	if forgetful {
		h.opts.StoreTimeout = 1 * time.Second
		h.Pace = []time.Duration{0, 0, 0, slack + beat}
	}
	h.Flaky = history.Pick(h.Tape, 0, .2)
	h.processes()
	b := h.begin("")
	already := h.Chance(.3)
	if already {
		h.play(0, 0, history.AllEnd, h.by(b, request{name: "before", login: as("ann")}))
	}
	these := []*history.Actor{h.by(b, request{name: "login", login: as("ann")}), h.by(b, request{name: "q", change: "v"})}
	for range h.Int(3) {
		c := &jar{cookie: history.Pick(h.Tape, "", b.cookie)}
		these = append(these, h.by(c, request{name: h.named("other"), login: as("ann")}))
	}
	these = append(these, h.endUser(h.any(), "end", "ann"))
	h.play(crash, 0, history.AllEnd, these...)
	names := make(map[string]bool)
	for login := range h.marked {
		for name := range h.announced[login] {
			names[name] = true
		}
	}
	alive := h.sessions("ann")
	for id, g := range alive {
		if h.marked[g.Login] {
			return fmt.Errorf("a session that was to end is alive: %s", h.Called(id))
		}
		for name := range h.announced[g.Login] {
			if names[name] {
				return fmt.Errorf("%s was to end, and is alive: %s", name, h.Called(id))
			}
		}
	}
	if crash > 0 || h.Flaky > 0 || forgetful {
		return nil
	}
	if err := h.listed("ann", alive); err != nil {
		return err
	}
	for _, a := range h.told("gone") {
		if a.who != "q" && len(h.marked) == 0 {
			return fmt.Errorf("a login was refused: %v", a)
		}
	}
	return nil
}

// listed tells which of the sessions the user's index does not name.
func (h *story) listed(user string, alive map[session.ID]session.Glimpse) error {
	ctx := context.Background()
	list, err := h.ps[0].m.Sessions(ctx, session.OfUser(user))
	if err != nil {
		return err
	}
	for id := range alive {
		if !slices.ContainsFunc(list, func(u session.SessionInfo) bool { return u.ID == id }) {
			return fmt.Errorf("the index does not name %s", h.Called(id))
		}
	}
	return nil
}

// Two users on one record. Each ends what is theirs, and nothing else.
func twoUsersTakeTurns(h *story, crash, lost float64) error {
	if h.Chance(.5) {
		h.opts.StoreTimeout = time.Second
	}
	h.processes()
	b := h.begin("")
	for range 2 + h.Int(3) {
		h.play(crash, 0, history.AllEnd, h.by(b, request{name: h.named("login"), login: as(history.Pick(h.Tape, "ann", "bob"))}))
	}
	before := h.peek(b.cookie)
	h.play(0, 0, history.AllEnd, h.endUser(h.any(), "end", "ann"))
	after := h.peek(b.cookie)
	if before.Served && before.User == "bob" && !after.Served {
		return errors.New("bob was logged out")
	}
	if before.Served && before.User == "ann" && after.Served {
		return errors.New("ann was not logged out")
	}
	return nil
}

func noMoreSessionsThanTheLimit(h *story, crash, lost float64) error {
	h.opts.MaxSessionsPerUser = 1 + h.Int(2)
	h.opts.RefuseNewSessions = h.Chance(.5)
	forgetful := h.Chance(.5)
	if forgetful {
		h.opts.StoreTimeout = time.Second
		h.Pace = []time.Duration{0, 0, 0, slack + beat}
	}
	h.Flaky = history.Pick(h.Tape, 0, .2)
	h.processes()
	clients := []*jar{h.begin("")}
	for range 1 + h.Int(3) {
		clients = append(clients, &jar{})
	}
	logins := func(of []*jar) (these []*history.Actor) {
		for _, c := range of {
			these = append(these, h.by(c, request{login: as("ann")}))
		}
		return these
	}
	h.play(crash, lost, history.AllEnd, logins(clients)...)
	first := h.sessions("ann")
	if n := len(first); n > h.opts.MaxSessionsPerUser {
		return fmt.Errorf("%d sessions", n)
	}
	i := h.Int(len(clients))
	h.play(crash, lost, history.AllEnd, logins([]*jar{clients[i], clients[(i+1+h.Int(len(clients)-1))%len(clients)]})...)
	later := h.sessions("ann")
	if n := len(later); n > h.opts.MaxSessionsPerUser {
		return fmt.Errorf("%d sessions later", n)
	}
	if h.opts.RefuseNewSessions && crash == 0 && lost == 0 && h.Flaky == 0 && !forgetful {
		for id := range first {
			if _, ok := later[id]; !ok {
				return errors.New("who was there had to go")
			}
		}
	}
	return nil
}

// The answer to a login gets lost. The next one gets in, whatever the limit says.
func aLostLoginLocksNobodyOut(h *story, crash, lost float64) error {
	h.opts.MaxSessionsPerUser, h.opts.RefuseNewSessions = 1, h.Chance(.5)
	h.processes()
	b := h.begin("")
	for _, lost := range []float64{1, 0} {
		h.play(0, lost, history.AllEnd, h.by(b, request{name: h.named("login"), login: as("ann")}))
		time.Sleep(history.Pick(h.Tape, 0, grace, interval))
	}
	if g := h.peek(b.cookie); !g.Served || g.User != "ann" {
		return errors.New("the browser does not get in")
	}
	return nil
}

// The server evicts an index. Each session is in it again after its next renewal, or ends then if all were to end.
func aLostIndexComesBack(h *story, crash, lost float64) error {
	h.processes()
	var clients []*jar
	var these []*history.Actor
	for range 1 + h.Int(3) {
		c := &jar{}
		clients = append(clients, c)
		these = append(these, h.by(c, request{login: as("ann")}))
	}
	h.play(crash, 0, history.AllEnd, these...)
	h.Lose(h.ps[0].m.IndexID(session.OfUser("ann")))
	time.Sleep(beat)
	end := h.Chance(.5)
	if end {
		h.play(0, 0, history.AllEnd, h.endUser(h.any(), "end", "ann"))
	}
	for range 4 {
		time.Sleep(interval)
		these = nil
		for _, c := range clients {
			these = append(these, h.by(c, request{}))
		}
		h.play(0, 0, history.AllEnd, these...)
	}
	alive := make(map[session.ID]session.Glimpse)
	for _, c := range clients {
		if g := h.peek(c.cookie); g.Served {
			alive[g.ID] = g
		}
	}
	if end && len(alive) > 0 {
		return errors.New("a session lives on")
	}
	if !end && len(h.told("login")) != len(alive) {
		return fmt.Errorf("%d sessions live", len(alive))
	}
	return h.listed("ann", alive)
}

// Two managers on one store, users with names of their own choice, and a cookie that is pasted from one to the other.
func managersKeepApart(h *story, crash, lost float64) error {
	shopOpts, adminOpts := h.opts, h.opts
	shopOpts.Cookie.Name, shopOpts.Namespace = "shop", h.namespace
	joint := history.Pick(h.Tape, ":", "\x00", "/", "")
	adminOpts.Cookie.Name, adminOpts.Namespace = "shop_admin", h.namespace+joint+"admin"
	shop, admin := h.processWith(0, shopOpts), h.processWith(0, adminOpts)
	user := "admin" + joint + "ann"
	b, c := &jar{}, &jar{}
	h.play(0, 0, history.AllEnd, h.by(b, request{p: shop, change: "x", login: &user}), h.by(c, request{p: admin, change: "secret", login: as("ann")}))
	pasted := &jar{cookie: c.cookie}
	h.play(0, 0, history.AllEnd, h.by(pasted, request{p: shop, change: "p"}), h.endUser(shop, "end", user))
	g, err := admin.m.Glimpse(context.Background(), c.cookie)
	if _, ok := g.Values["p"]; err != nil || !g.Served || ok {
		return fmt.Errorf("one reached the other's: %v", err)
	}
	if g, err := shop.m.Glimpse(context.Background(), b.cookie); err != nil || g.Served {
		return fmt.Errorf("its own it did not reach: %v", err)
	}
	return nil
}

// Handlers that read, think and write back, under a lock whose lease may run out; others write without one.
func locksAreExclusive(h *story, crash, lost float64) error {
	// Whoever waits for another process looks again every few milliseconds: a short lease, and short pauses, or it takes
	// thousands of calls.
	const lease, beat, slack = time.Second, time.Second / 6, 2 * time.Second
	h.opts.LockLease = lease
	h.Pace = []time.Duration{0, 0, 0, beat}
	h.process(0)
	h.process(slack)
	h.process(history.Pick(h.Tape, 0, slack))
	b := h.begin("")
	sent := &jar{cookie: b.cookie}
	for _, p := range h.ps {
		p.store.Frozen.Store(h.Chance(.7)) // it stands still, now and then: no lease is prolonged
	}
	var these []*history.Actor
	for i, p := range h.ps {
		pause := time.Duration(h.Int(10)) * beat
		q := request{name: fmt.Sprint("l", i), p: p, from: sent}
		q.handler = func(ctx context.Context, s *session.Session) {
			if s.Lock(ctx) != nil {
				return
			}
			n, _ := hitCounter.Get(s)
			time.Sleep(pause)
			hitCounter.Set(s, n+1)
		}
		these = append(these, h.by(&jar{}, q))
	}
	for i := range 2 {
		these = append(these, h.by(&jar{}, request{name: fmt.Sprint("w", i), change: h.named("v"), from: sent, p: h.ps[i]}))
	}
	h.play(crash, 0, history.AllEnd, these...)
	for _, p := range h.ps {
		p.store.Frozen.Store(false)
	}
	n, added := hits(h.peek(b.cookie)), len(h.told("done"))
	if most := added + map[bool]int{true: 3}[crash > 0]; n < added || n > most {
		return fmt.Errorf("the counter is %d, and %d added one", n, added)
	}
	for _, a := range h.acks {
		if a.what != "done" && a.what != "lock lost" && a.what != "saved" {
			return fmt.Errorf("%v", a)
		}
	}
	return nil
}

func hits(g session.Glimpse) (n int) {
	if data, ok := g.Values["hits"]; ok {
		if err := codec.DecodeValue(data, &n); err != nil {
			return -1
		}
	}
	return n
}

// Replies of saves get lost, or tell of a conflict with the save itself; looks at what became of it fail.
func updatesCountOnce(h *story, crash, lost float64) error {
	h.Flaky = .3
	h.processes()
	b := h.begin("")
	var these []*history.Actor
	for range 4 {
		these = append(these, h.by(&jar{}, request{from: b, add: 1}))
	}
	h.play(crash, 0, history.AllEnd, these...)
	n, sure, perhaps := hits(h.peek(b.cookie)), len(h.told("saved")), len(h.told("unknown"))
	if crash > 0 {
		perhaps += 4
	}
	if n < sure || n > sure+perhaps {
		return fmt.Errorf("the counter is %d, though %d were saved and %d perhaps", n, sure, perhaps)
	}
	return nil
}

// An old system's cookie leads to the new session for the grace, and is worth nothing after the logout, though the old
// system still knows it: it could not be told.
func anOldSessionMovesOnce(h *story, crash, lost float64) error {
	h.native = false // it takes more than one cookie
	value := h.namespace
	user := history.Pick(h.Tape, "", "ann")
	h.opts.Migration = &session.Migration{
		Cookie: http.Cookie{Name: "old"},
		Load: func(r *http.Request) (*session.OldSession, error) {
			if c, err := r.Cookie("old"); err != nil || c.Value != strings.ReplaceAll(value, " ", "_") {
				return nil, session.ErrNotFound
			}
			return &session.OldSession{Values: map[string]any{"mine": true}, User: user}, nil
		},
		End: func(*http.Request) error { return errors.New("it is out of reach") },
	}
	h.processes()
	old := strings.ReplaceAll(value, " ", "_")
	b := &jar{old: old}
	var these []*history.Actor
	for range 3 {
		q := request{}
		if h.Chance(.5) {
			q.change = h.named("v")
		}
		q.from = &jar{old: old}
		q.after = func(q *request) { // whoever comes later than the grace is a visitor
			if _, ok := h.peek(q.cookie).Values["mine"]; ok && !h.Chance(lost) {
				b.take(h, q)
			}
		}
		these = append(these, h.by(nil, q))
	}
	h.play(crash, 0, history.AllEnd, these...)
	places := make(map[session.ID]bool)
	for _, c := range h.issued {
		if _, ok := h.peek(c).Values["mine"]; ok {
			places[client.Parse(c).ID()] = true
		}
	}
	if len(places) > 1 {
		return fmt.Errorf("it moved to %d places", len(places))
	}
	if b.cookie == "" {
		return nil
	}
	if g := h.peek(b.cookie); g.Served {
		if _, ok := g.Values["mine"]; !ok {
			return errors.New("what was in it is not there")
		}
		if err := h.lostChanges(g); err != nil {
			return err
		}
	}
	byes := len(h.told("ended"))
	h.play(0, 0, history.AllEnd, h.by(b, request{name: "bye", destroy: true}))
	if len(h.told("ended")) == byes {
		return fmt.Errorf("the logout: %v", h.acks)
	}
	time.Sleep(history.Pick(h.Tape, 0, grace, interval, lateness, 2*lateness))
	found := false
	again := request{name: "again", from: &jar{old: old}, handler: func(_ context.Context, s *session.Session) { found = s.Has("mine") }}
	h.play(0, 0, history.AllEnd, h.by(&jar{}, again))
	if found {
		return errors.New("it came back")
	}
	return nil
}
