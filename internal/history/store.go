package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"example.com/session"
)

// A Store is the world's store as one process has it.
type Store struct {
	World *World
	// Frozen makes the calls fail that no actor makes: those of timers, in a process that stands still.
	Frozen atomic.Bool
}

var (
	errFailed = errors.New("it did not get through")
	errLost   = errors.New("the reply was lost")
	errDead   = errors.New("the process died")
)

type actorKey struct{}

// A call is one to the store.
type call struct {
	actor   *Actor
	op      string
	id      session.ID
	rec     session.Record
	cached  bool // a cache may answer
	done    chan struct{}
	fate    string
	err     error
	name    string
	version uint64
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, id session.ID) (session.Record, error) {
	c := s.call(ctx, call{op: "load", id: id, cached: session.CacheAllowed(ctx)})
	if c.err != nil {
		return session.Record{}, c.err
	}
	return c.rec, nil
}

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return s.call(ctx, call{op: "save", id: id, rec: rec}).err
}

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	return s.call(ctx, call{op: "touch", id: id, rec: rec}).err
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id session.ID) error {
	return s.call(ctx, call{op: "delete", id: id}).err
}

// call waits for the actor's turn. Calls that no actor makes go through.
func (s *Store) call(ctx context.Context, c call) *call {
	w := s.World
	c.done, c.version = make(chan struct{}), c.rec.Version
	c.actor, _ = ctx.Value(actorKey{}).(*Actor)
	w.mu.Lock()
	if c.actor == nil || w.direct[c.id] {
		defer w.mu.Unlock()
		switch {
		case c.actor == nil && s.Frozen.Load():
			c.err = errFailed
		case c.actor != nil && c.actor.dead.Load():
			c.err = errDead
		default:
			w.ledger.make(&c)
		}
		return &c
	}
	w.pending = append(w.pending, &c)
	w.mu.Unlock()
	w.stir()
	<-c.done
	return &c
}

// decide makes the call, or draws what happens instead.
func (w *World) decide(c *call) {
	a := c.actor
	if a.dead.Load() {
		c.err = errDead
		return
	}
	looks := a.looks
	a.looks = false
	switch c.op {
	case "load":
		if looks && w.Chance(w.Flaky) {
			c.fate, c.err = " fails", errFailed
			return
		}
		if c.cached && w.Stale > 0 && w.old(c) {
			return
		}
	case "save":
		w.save(c)
		return
	}
	w.make(c)
}

func (w *World) make(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ledger.make(c)
	if c.op == "load" {
		c.version = c.rec.Version
	}
}

// save makes a save, and draws what becomes of its reply: none comes, and it was not made, or was; or it says that there
// is a conflict, as where a client library sends again by itself.
func (w *World) save(c *call) {
	luck := 0
	if w.Chance(w.Flaky) {
		luck = 1 + w.Int(3)
	}
	if luck == 1 {
		c.fate, c.err = " does not get through", errFailed
		c.actor.looks = true
		return
	}
	rec := c.rec
	w.make(c)
	if c.err == nil {
		if w.Chance(w.Twice) {
			w.ledger.late = append(w.ledger.late, late{time.Now(), c.id, rec})
		}
		if w.Saved != nil {
			w.Saved(Write{c.actor, c.id, rec.Data})
		}
	}
	if luck != 0 && (c.err == nil || errors.Is(c.err, session.ErrConflict)) {
		c.fate = " (" + outcome(c.err) + "), reply lost"
		c.err = errLost
		if luck == 3 {
			c.err = session.ErrConflict
		}
	}
	c.actor.looks = c.err != nil
}

// old answers a Load from a cache that has what was there some time ago.
func (w *World) old(c *call) bool {
	if !w.Chance(w.Stale) {
		return false
	}
	var candidates []session.Record
	for _, f := range w.ledger.past[c.id] {
		if time.Since(f.until) <= w.MaxAge && f.rec.Live(time.Now()) {
			candidates = append(candidates, f.rec)
		}
	}
	if len(candidates) == 0 {
		w.make(c)
	} else {
		c.rec = candidates[w.Int(len(candidates))]
	}
	if c.err == nil {
		c.rec.Cached, c.version, c.fate = true, c.rec.Version, " from a cache"
	}
	return true
}

// Again delivers a save for the second time.
func (w *World) Again() {
	l := &w.ledger
	if len(l.late) == 0 {
		return
	}
	i := w.Int(len(l.late))
	again := l.late[i]
	l.late = slices.Delete(l.late, i, i+1)
	if time.Since(again.since) >= w.Late {
		return
	}
	c := call{op: "save", id: again.id, rec: again.rec, version: again.rec.Version, fate: " a second time"}
	w.make(&c)
	c.name = w.Called(c.id)
	w.note("%s", &c)
}

// A Snapshot is what a store had.
type Snapshot map[session.ID]session.Record

// Snapshot returns what the store has.
func (w *World) Snapshot() Snapshot {
	s := make(Snapshot)
	for id := range w.ledger.known {
		c := call{op: "load", id: id}
		if w.make(&c); c.err == nil {
			s[id] = c.rec
		}
	}
	return s
}

// FallBack makes the store what it was.
func (w *World) FallBack(s Snapshot) {
	w.note("the store goes back")
	for id := range w.ledger.known {
		c := call{op: "load", id: id}
		w.make(&c)
		was, had := s[id]
		if c.err == nil && had && c.rec.Version == was.Version && string(c.rec.Data) == string(was.Data) {
			continue
		}
		w.make(&call{op: "delete", id: id})
		for v := uint64(0); had && v < was.Version; v++ {
			w.make(&call{op: "save", id: id, rec: session.Record{Version: v, Expires: was.Expires, Data: was.Data}})
		}
	}
}

// Lose removes a record, as a store that evicts it does.
func (w *World) Lose(id session.ID) {
	w.note("the store loses %s", w.Called(id))
	w.make(&call{op: "delete", id: id})
}

// Records returns the IDs of all records that there ever were.
func (w *World) Records() []session.ID {
	var ids []session.ID
	for id := range w.ledger.known {
		ids = append(ids, id)
	}
	return ids
}

// A ledger is the store itself, in the time of the bubble.
type ledger struct {
	store   session.Store
	outside *Outside
	shift   time.Duration // from the bubble's time to the store's
	known   map[session.ID]bool
	records map[session.ID]session.Record // as the last writes left them
	past    map[session.ID][]formerly
	late    []late
	err     error
}

// A formerly is what the store had until then.
type formerly struct {
	until time.Time
	rec   session.Record
}

// A late is a save that will arrive once more.
type late struct {
	since time.Time
	id    session.ID
	rec   session.Record
}

// make makes the call. A record that has expired in the bubble's time is gone, though a server may not know yet.
func (l *ledger) make(c *call) {
	before, had := l.records[c.id]
	expired := had && !before.Live(time.Now())
	l.outside.do(func() {
		ctx := session.WithoutCache(context.Background())
		if expired {
			_ = l.store.Delete(ctx, c.id)
		}
		switch c.op {
		case "load":
			c.rec, c.err = l.store.Load(ctx, c.id)
			c.rec.Expires = moved(c.rec.Expires, -l.shift)
		case "save":
			c.err = l.store.Save(ctx, c.id, l.moved(c.rec))
		case "touch":
			c.err = session.Touch(ctx, l.store, c.id, l.moved(c.rec))
		case "delete":
			c.err = l.store.Delete(ctx, c.id)
		}
	})
	if expired {
		delete(l.records, c.id)
	}
	if c.err != nil && l.err == nil && !errors.Is(c.err, session.ErrNotFound) && !errors.Is(c.err, session.ErrConflict) &&
		!errors.Is(c.err, errors.ErrUnsupported) {
		l.err = fmt.Errorf("the store: %w", c.err)
	}
	if c.err != nil || c.op == "load" {
		return
	}
	now := c.rec
	switch c.op {
	case "save":
		now.Version++
	case "touch":
		now.Data = before.Data
	case "delete":
		now = session.Record{}
	}
	if had {
		l.past[c.id] = append(l.past[c.id], formerly{time.Now(), before})
	}
	l.records[c.id] = now
	if now.Version == 0 {
		delete(l.records, c.id)
	}
	l.known[c.id] = true
}

func (l *ledger) moved(rec session.Record) session.Record {
	rec.Expires = moved(rec.Expires, l.shift)
	return rec
}

func moved(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(by)
}

func outcome(err error) string {
	if err == nil {
		return "made"
	}
	return err.Error()
}

func (c *call) String() string {
	who := "nobody"
	if c.actor != nil {
		who = c.actor.Name
	}
	text := fmt.Sprintf("%s: %s %s", who, c.op, c.name)
	if c.op != "delete" {
		text += fmt.Sprintf(" version %d", c.version)
	}
	text += c.fate
	if c.err != nil {
		text += ": " + c.err.Error()
	}
	return text
}
