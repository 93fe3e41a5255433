package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"example.com/session"
	"example.com/session/internal/client"
)

// RunSessions checks, each in a subtest of its own and on a store of its own, that sessions in that store keep
// what package session promises for requests that meet: no change is lost, nothing that has ended comes back, and
// no late response replaces a newer cookie. Requests go through [session.Manager.Handler], without a network.
// [Run] names the rule that a store breaks; RunSessions shows what comes of it. It takes seconds.
//
// Stores.Place may return the same place again, or one that others use at the same time: all sessions
// are new ones. They stay there until they expire, most within minutes, the marks of those that were ended for an
// hour. Subtests are not allowed in a bubble of testing/synctest. A cache must
// know of all that goes through it, as one within a process can.
//
// A rule does less on a store that is slow. Those named interleaved play 300 rounds at most. A failure tells
// the seed of its round, which leads to much the same order of calls in each run, and all calls to the store.
func RunSessions(t *testing.T, stores Stores) {
	t.Helper()
	if isSecondProcess() {
		return
	}
	for _, r := range sessionRules() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t.Context(), stores.open(t, stores.place(t))); err != nil {
				t.Error(err)
			}
		})
	}
}

// CheckSessions checks the rules that RunSessions checks, one after the other on the same store, and returns all
// broken ones joined, or nil. Soon after ctx ends it returns an error for which errors.Is(err, ctx.Err()) holds,
// besides the rules found broken until then.
func CheckSessions(ctx context.Context, store session.Store) error {
	var broken []error
	for _, r := range sessionRules() {
		if err := ctx.Err(); err != nil {
			broken = append(broken, fmt.Errorf("sessiontest: ended before rule %s: %w", r.name, err))
			break
		}
		broken = append(broken, r.run(ctx, store))
	}
	return errors.Join(broken...)
}

// updateTime is how long checkParallelUpdates goes on; a slow store gets through fewer updates.
const updateTime = time.Minute

// A sessionRule is one promise of package session.
type sessionRule struct {
	name  string
	says  string
	check func(ctx context.Context, s *site) error
}

func sessionRules() []sessionRule {
	return []sessionRule{
		{"parallel-changes", "changes of different keys all survive", checkParallelChanges},
		{"parallel-updates", "Update loses no change, across processes", checkParallelUpdates},
		{"parallel-renewals", "requests that renew a session at the same time converge: one session, one record, one new cookie; " +
			"the old one is accepted until the new one was shown, and for a window after that", checkParallelRenewals},
		{"ended-in-flight", "a request in flight brings no session back that has ended, and touches no cookie; " +
			"after Regenerate the old cookie is worth nothing", checkEndedInFlight},
		{"expired", "an expired session reads as new; a request in flight begins a new one with its own changes alone", checkExpired},
		{"foreign", "an ID that the store does not know is never adopted", checkForeign},
		{"interleaved", "in whatever order requests meet, nothing acknowledged is lost and nothing ended comes back",
			mode{}.check},
		{"interleaved-renewal", "the same while cookies are renewed",
			mode{renew: true}.check},
		{"interleaved-faults", "the same while cookies are renewed, calls to the store fail or come late, replies and responses " +
			"get lost, and processes die", mode{renew: true, faults: true}.check},
	}
}

func (r sessionRule) run(ctx context.Context, store session.Store) error {
	if store == nil {
		return errors.New("sessiontest: the store is nil")
	}
	s := newSite(store)
	err := r.check(ctx, s)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("sessiontest: ended during rule %s: %w", r.name, ctx.Err())
	}
	if storeErr := s.store.Err(); storeErr != nil {
		err = fmt.Errorf("%w\n\tthe store's first error: %w", err, storeErr)
	}
	return fmt.Errorf("sessiontest: rule %s: %w\n\tthe promise: %s", r.name, err, r.says)
}

func checkParallelChanges(ctx context.Context, s *site) error {
	const n = 64
	m, cookie, err := s.begin(ctx, s.options())
	if err != nil {
		return err
	}
	replies := make([]client.Answer, n)
	meet := newMeeting(n)
	meet.run(func(i int) {
		replies[i] = client.Ask(ctx, m, cookie, func(s *session.Session) {
			s.Len()
			meet.wait() // so that all start from the same record
			written(i).Set(s, true)
		})
	})
	for i, r := range replies {
		if err := r.Expect(http.StatusOK); err != nil {
			return fmt.Errorf("request %d of %d, each of which sets a key of its own: %w", i, n, err)
		}
	}
	v, err := look(ctx, m, cookie)
	if err != nil {
		return err
	}
	return v.holds(n)
}

func checkParallelUpdates(ctx context.Context, s *site) error {
	const n, each = 64, 25
	first, cookie, err := s.begin(ctx, s.options())
	if err != nil {
		return err
	}
	second, err := s.manager(s.options())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(updateTime)
	var made atomic.Int64
	newMeeting(n).run(func(i int) {
		m := first
		if i%2 == 1 {
			m = second
		}
		for try := 0; try < each && ctx.Err() == nil && time.Now().Before(end); try++ {
			err := client.Ask(ctx, m, cookie, func(s *session.Session) {
				count.Update(s, func(n int) int { return n + 1 })
			}).Expect(http.StatusOK)
			if err != nil {
				cancel(fmt.Errorf("one of %d requests at a time that add one: %w", n, err))
				return
			}
			made.Add(1)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	v, err := look(ctx, first, cookie)
	if err == nil && int64(v.count) != made.Load() {
		err = fmt.Errorf("%d requests that add one have led to %d", made.Load(), v.count)
	}
	return err
}

// checkParallelRenewals has requests meet at the moment of renewal, and then looks at what becomes of both cookies.
func checkParallelRenewals(ctx context.Context, s *site) error {
	const n = 32
	const interval = 20 * time.Millisecond
	opts := s.options()
	opts.RenewInterval = interval
	first, cookie, err := s.begin(ctx, opts)
	if err != nil {
		return err
	}
	opts.RenewGrace = time.Millisecond // of a renewal that nobody has shown, nothing is ever over
	second, err := s.manager(opts)
	if err != nil {
		return err
	}
	reader, err := s.manager(s.options())
	if err != nil {
		return err
	}
	before, err := look(ctx, reader, cookie)
	if err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(interval)); err != nil {
		return err
	}
	replies := make([]client.Answer, n)
	meet := newMeeting(n)
	meet.run(func(i int) {
		m := first
		if i%2 == 1 {
			m = second
		}
		replies[i] = client.Ask(ctx, m, cookie, func(s *session.Session) {
			s.Len()
			meet.wait()
			if i < n/2 {
				written(i).Set(s, true)
			}
		})
	})
	renewed := replies[0].Cookie
	if renewed == "" || renewed == cookie {
		return fmt.Errorf("want a new cookie when renewal is due, got the answer %v", replies[0])
	}
	for i, r := range replies {
		if want := (client.Answer{Status: http.StatusOK, Cookie: renewed}); r != want {
			return fmt.Errorf("request %d of %d at the moment of renewal: want the answer %v, the same for all, got %v", i, n, want, r)
		}
	}
	// leads checks where both cookies lead, and that no cookie but the renewed one is ever sent.
	leads := func(when string, writes int) error {
		for _, c := range []string{renewed, cookie} {
			v, err := look(ctx, reader, c)
			if err != nil {
				return err
			}
			if v.id != before.id {
				return fmt.Errorf("%s, the cookies of the session %v lead to %v", when, before.id, v.id)
			}
			if err := v.holds(writes); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
			for _, m := range []*session.Manager{first, second} {
				if r := client.Ask(ctx, m, c, func(s *session.Session) { s.Len() }); r.Status != http.StatusOK || r.Removed ||
					r.Cookie != renewed && (r.Cookie != "" || c == cookie) {
					return fmt.Errorf("%s, a request gets the answer %v, want the renewed cookie if it has another", when, r)
				}
			}
		}
		return nil
	}
	if err := leads("after a renewal", n/2); err != nil {
		return err
	}
	// By then the next renewal would be due, if the cookie before were accepted no longer.
	if err := sleepUntil(ctx, time.Now().Add(interval)); err != nil {
		return err
	}
	if err := leads("before anybody has saved with the renewed cookie", n/2); err != nil {
		return err
	}
	r := client.Ask(ctx, first, renewed, func(s *session.Session) { written(n/2).Set(s, true) })
	if r.Status != http.StatusOK || r.Removed || r.Cookie != "" && r.Cookie != renewed {
		return fmt.Errorf("the first that saves with the renewed cookie got the answer %v", r)
	}
	if err := sleepUntil(ctx, time.Now().Add(interval)); err != nil {
		return err
	}
	return leads("within the window", n/2+1)
}

// checkEndedInFlight has a request load the session, then has another one end it and get its answer, and then lets
// the first one go on. A request that comes right after that with the old cookie fares no better.
func checkEndedInFlight(ctx context.Context, s *site) error {
	for _, tt := range []struct {
		end, late act
		status    int // of the late one
	}{
		{destroys, reads, http.StatusOK},
		{destroys, writes, http.StatusConflict},
		{destroys, regenerates, http.StatusConflict},
		{destroys, destroys, http.StatusOK},
		{regenerates, reads, http.StatusOK},
		{regenerates, writes, http.StatusConflict},
		{regenerates, regenerates, http.StatusConflict},
		{regenerates, destroys, http.StatusConflict}, // 200 would say that the session has ended
	} {
		for _, processes := range []int{1, 2} {
			for _, renew := range []bool{false, true} {
				err := s.endInFlight(ctx, processes, renew, tt.end, tt.late, tt.status)
				if err != nil {
					return fmt.Errorf("a %v loads the session, a %v ends it, the %v goes on (processes: %d, renewal due: %t): %w",
						tt.late, tt.end, tt.late, processes, renew, err)
				}
			}
		}
	}
	return nil
}

func (s *site) endInFlight(ctx context.Context, processes int, renew bool, end, late act, status int) error {
	opts := s.options()
	if renew {
		opts.RenewInterval = time.Millisecond
	}
	m, cookie, err := s.begin(ctx, opts)
	if err != nil {
		return err
	}
	other := m
	if processes > 1 {
		if other, err = s.manager(opts); err != nil {
			return err
		}
	}
	if err := sleepUntil(ctx, time.Now().Add(2*time.Millisecond)); err != nil {
		return err
	}
	var ender client.Answer
	var before session.ID
	began := time.Now()
	straggler := client.Ask(ctx, m, cookie, func(s *session.Session) {
		before = s.ID()
		ender = client.Ask(ctx, other, cookie, func(s *session.Session) { end.do(s, 0) })
		late.do(s, 1)
	})
	if ender.Status != http.StatusOK || ender.Removed != (end == destroys) || (ender.Cookie != "") != (end == regenerates) ||
		ender.Cookie == cookie {
		return fmt.Errorf("the %v got the answer %v", end, ender)
	}
	if err := straggler.Expect(status); err != nil {
		return fmt.Errorf("the %v that goes on: %w", late, err)
	}
	found := session.ID{}
	afterwards := client.Ask(ctx, m, cookie, func(s *session.Session) {
		found = s.ID()
		late.do(s, 2)
	})
	switch err := afterwards.Expect(status); {
	case found != session.ID{}:
		return errors.New("the cookie still leads to a session")
	case err != nil && time.Since(began) < straggling:
		return fmt.Errorf("a %v that begins after that: %w", late, err)
	}
	v, err := look(ctx, other, cookie)
	switch {
	case err != nil:
		return err
	case v.id != session.ID{}:
		return errors.New("the cookie still leads to a session")
	case end == destroys:
		return nil
	}
	if v, err = look(ctx, other, ender.Cookie); err != nil {
		return err
	}
	switch {
	case v.id != before:
		return fmt.Errorf("the session had the ID %v, and after Regenerate it has %v", before, v.id)
	case v.written[1] || v.written[2]:
		return errors.New("what was refused is in the session")
	}
	return v.holds(1)
}

// checkExpired has a request load the session, and go on when it has expired.
func checkExpired(ctx context.Context, s *site) error {
	for _, late := range []act{reads, writes, regenerates, destroys} {
		if err := s.expireInFlight(ctx, late); err != nil {
			return fmt.Errorf("a %v goes on when the session has expired: %w", late, err)
		}
	}
	return nil
}

func (s *site) expireInFlight(ctx context.Context, late act) error {
	opts := s.options()
	for idle := 50 * time.Millisecond; ; idle *= 4 {
		opts.IdleTimeout = idle
		m, cookie, err := s.begin(ctx, opts)
		if err != nil {
			return err
		}
		var id session.ID
		straggler := client.Ask(ctx, m, cookie, func(s *session.Session) {
			if id = s.ID(); id != (session.ID{}) {
				sleepUntil(ctx, s.Expires())
				if late.do(s, 0); late == writes || late == regenerates {
					s.SetIdleTimeout(time.Minute) // of what it begins, see below
				}
			}
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case id == session.ID{} && idle < time.Minute:
			continue // it had expired before the store found it
		case id == session.ID{}:
			return errors.New("a session cannot be loaded once it is saved")
		}
		// A session that begins now must not be over before it is looked at.
		reader, err := s.manager(s.options())
		if err != nil {
			return err
		}
		if err := beginsAnew(ctx, reader, id, cookie, straggler, late); err != nil {
			return err
		}
		return s.startsAnew(ctx, reader, cookie, id)
	}
}

// beginsAnew checks the answer to a request whose session was there no more: a change has begun a new one, and is all that
// is in it.
func beginsAnew(ctx context.Context, reader *session.Manager, id session.ID, cookie string, r client.Answer, late act) error {
	if late != writes && late != regenerates {
		return r.Expect(http.StatusOK)
	}
	if r.Status != http.StatusOK || r.Cookie == "" || r.Removed || r.Cookie == cookie {
		return fmt.Errorf("want a new session with a cookie of its own, got the answer %v", r)
	}
	v, err := look(ctx, reader, r.Cookie)
	switch {
	case err != nil:
		return err
	case v.id == id:
		return fmt.Errorf("the session %v is there again", id)
	case v.id == session.ID{}:
		return errors.New("the new cookie leads to no session")
	case v.planted != "":
		return errors.New("the new session has what the old one had")
	case len(v.written) != 1 || v.count != 1:
		return fmt.Errorf("the new session has the changes of %d requests, want those of the one that began it", len(v.written))
	}
	return nil
}

func checkForeign(ctx context.Context, s *site) error {
	elsewhere := newSite(session.NewMemoryStore())
	elsewhere.secret = s.secret
	m, cookie, err := elsewhere.begin(ctx, s.options())
	if err != nil {
		return err
	}
	v, err := look(ctx, m, cookie)
	if err != nil {
		return err
	}
	if m, err = s.manager(s.options()); err != nil {
		return err
	}
	return s.startsAnew(ctx, m, cookie, v.id)
}

// startsAnew checks that a genuine cookie without a session behind it leads to a new one, with another ID.
func (s *site) startsAnew(ctx context.Context, m *session.Manager, cookie string, id session.ID) error {
	v, err := look(ctx, m, cookie)
	if err != nil {
		return err
	}
	if !v.isNew || !v.unknown || v.id != (session.ID{}) || v.planted != "" {
		return errors.New("the cookie does not read as that of a new session")
	}
	r := client.Ask(ctx, m, cookie, plant)
	if r.Status != http.StatusOK || r.Cookie == "" || r.Cookie == cookie {
		return fmt.Errorf("want a new session to come with a new cookie, got the answer %v", r)
	}
	if v, err = look(ctx, m, r.Cookie); err != nil {
		return err
	}
	if v.id == id {
		return fmt.Errorf("the new session has the client's ID %v", id)
	}
	if err := v.holds(0); err != nil {
		return err
	}
	if _, err := s.store.Load(ctx, id); !errors.Is(err, session.ErrNotFound) {
		return fmt.Errorf("load of the client's ID %v: want session.ErrNotFound, got %v", id, err)
	}
	return nil
}
