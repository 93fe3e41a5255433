package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"
)

// An index is what the record of a user holds: it names all sessions of the user. It is written before what it names
// takes effect: a session's ID is in the index before a client learns it, and a successor before the record that
// leads to it is sealed. So whoever ends what the index names misses nothing that is alive; that it may name what is
// dead does no harm, and heals with the next write.
type index struct {
	writes    []byte
	encrypted bool // its record was
	entries   []indexEntry
	damaged   bool // there is one that cannot be read: it names sessions that are not in entries
}

// errIndexDamaged keeps who ends or lists all sessions of a user from taking an index that cannot be read for an empty
// one. Logins and renewals begin a new one.
var errIndexDamaged = fmt.Errorf("session: the list of the user's sessions cannot be read: %w", errDamaged)

// An indexEntry is one of a user's sessions.
type indexEntry struct {
	lineage    lineage
	ending     bool  // it is to be ended, and no longer counts
	created    int64 // Unix milliseconds
	used       int64 // of the last change to the entry
	idle       int64 // as in content
	remoteAddr []byte
	userAgent  []byte
	ids        []indexID // all that may be alive, the newest last
}

type indexID struct {
	id    ID
	since int64
}

// announce makes ids, the last of which is about to come into use, part of the user's sessions. Without login, the
// first one is the session's present ID; a session that is logged in already is not refused.
func (m *Manager) announce(ctx context.Context, c *content, login bool, ids ...ID) error {
	if len(c.user) == 0 {
		return nil
	}
	ctx = uncached(ctx)
	now := time.Now().UnixMilli()
	return m.updateIndex(ctx, string(c.user), "too many sessions of the user", func(ix *index) error {
		i := slices.IndexFunc(ix.entries, func(e indexEntry) bool { return e.lineage == c.lineage })
		isNew := i < 0
		if isNew && !login {
			// The index was lost, or the session has ended: then it must not come back to cost another one its place.
			if ended, err := m.hasEnded(ctx, ids[0]); err != nil || ended {
				return cmp.Or(err, ErrGone)
			}
		}
		if isNew {
			i = len(ix.entries)
			ix.entries = append(ix.entries, indexEntry{lineage: c.lineage})
		}
		e := &ix.entries[i]
		if e.ending {
			return ErrGone
		}
		e.created, e.used, e.idle, e.remoteAddr, e.userAgent = c.created, now, c.idle, c.remoteAddr, c.userAgent
		// What parallel requests announced may be about to come into use as well.
		e.ids = slices.DeleteFunc(e.ids, func(have indexID) bool {
			return slices.Contains(ids, have.id) || now-have.since > m.rememberFor().Milliseconds()
		})
		for _, id := range ids {
			e.ids = append(e.ids, indexID{id, now})
		}
		if isNew {
			return m.makeRoom(ctx, ix, c.lineage, login && m.refuseNew)
		}
		return nil
	})
}

// hasEnded reports whether an ID leads to no session any more.
func (m *Manager) hasEnded(ctx context.Context, id ID) (bool, error) {
	for hop := range maxHops {
		rec, err := m.load(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return hop == 0, nil // or there is a successor to come
		}
		if err != nil {
			return false, err
		}
		d, err := m.decode(&link{id: id}, rec.Data)
		if err != nil || d.kind != kindSealed {
			return err != nil || d.kind == kindRetired, nil
		}
		id = d.successor
	}
	return false, nil
}

// maxLooks bounds how many of a user's sessions are looked at, at each login, for whether they are still alive.
const maxLooks = 8

// makeRoom drops dead entries, and sees to Options.MaxSessionsPerUser and MaxSize: the newcomer is in the index already.
func (m *Manager) makeRoom(ctx context.Context, ix *index, newcomer lineage, refuse bool) error {
	var others []indexEntry // that count
	for _, e := range ix.entries {
		if e.lineage != newcomer && !e.ending {
			others = append(others, e)
		}
	}
	limit := m.maxPerUser
	if len(ix.encode()) > m.maxSize*3/4 { // leave room for renewals, and do not come here at each login
		if room := max(1, len(ix.entries)*9/10); limit == 0 || room < limit {
			limit = room
		}
	}
	tooMany := func() bool { return limit > 0 && 1+len(others) > limit }
	// First the dead ones, or one that is alive would have to make room for them. Those that are looked at are
	// drawn, so that none stays for good behind some that live long.
	mathrand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for i, looks := 0, 0; i < len(others) && (tooMany() || looks < maxLooks); looks++ {
		step := newStoreContext(ctx, &m.storeLimit)
		dead, err := m.isDead(step, &others[i])
		step.cancel()
		if err != nil {
			return err
		}
		if !dead {
			i++
			continue
		}
		ix.entries = slices.DeleteFunc(ix.entries, func(e indexEntry) bool { return e.lineage == others[i].lineage })
		others = slices.Delete(others, i, i+1)
	}
	if tooMany() && refuse {
		return ErrTooManySessions
	}
	slices.SortStableFunc(others, func(a, b indexEntry) int { return cmp.Compare(a.created, b.created) })
	for tooMany() && len(others) > 0 {
		i := slices.IndexFunc(ix.entries, func(e indexEntry) bool { return e.lineage == others[0].lineage })
		ix.entries[i].ending = true
		others = others[1:]
	}
	return nil
}

// isDead reports whether none of the entry's IDs leads to a live session, nor may yet come to.
func (m *Manager) isDead(ctx context.Context, e *indexEntry) (bool, error) {
	id, _, ended, err := m.liveRecord(ctx, e)
	return id == ID{} && (ended || !m.mayComeAlive(e)), err
}

// mayComeAlive reports whether one of the entry's IDs was announced so recently that it may come into use yet.
func (m *Manager) mayComeAlive(e *indexEntry) bool {
	now := time.Now().UnixMilli()
	return slices.ContainsFunc(e.ids, func(have indexID) bool { return now-have.since <= m.rememberFor().Milliseconds() })
}

// forget takes a session that has ended out of the index. It need not succeed: dead entries do no harm.
func (m *Manager) forget(ctx context.Context, c *content) {
	if len(c.user) == 0 {
		return
	}
	err := m.updateIndex(ctx, string(c.user), endedOnDemand, func(ix *index) error {
		ix.entries = slices.DeleteFunc(ix.entries, func(e indexEntry) bool { return e.lineage == c.lineage && !e.ending })
		return nil
	})
	if err != nil {
		m.observe(ctx, Event{Kind: EventLost, Op: "index", Err: err})
	}
}

// forgetRecord is forget for the session in the record that l was last seen with.
func (m *Manager) forgetRecord(ctx context.Context, l *link) {
	if d, err := m.decode(l, l.data); err == nil {
		m.forget(ctx, &d.content)
	}
}

// liveRecord returns the record that one of the entry's IDs leads to, and its ID, or the zero ID. In that case ended
// reports whether there is a mark that the session has ended.
func (m *Manager) liveRecord(ctx context.Context, e *indexEntry) (_ ID, _ Record, ended bool, _ error) {
	for _, have := range slices.Backward(e.ids) {
		id := have.id
		for range maxHops {
			rec, err := m.load(ctx, id)
			if errors.Is(err, ErrNotFound) {
				break
			}
			if err != nil {
				return ID{}, Record{}, false, err
			}
			d, err := m.decode(&link{id: id}, rec.Data)
			if err != nil {
				break
			}
			if d.kind == kindRetired {
				ended = ended || !d.regenerated
				break
			}
			if d.kind == kindLive {
				return id, rec, false, nil
			}
			id = d.successor
		}
	}
	return ID{}, Record{}, ended, nil
}

// endedOnDemand is the reason of an EventEnded.
const endedOnDemand = "ended by the user or the application"

// endEntry ends whatever the entry's IDs lead to, or may yet come to lead to.
func (m *Manager) endEntry(ctx context.Context, e *indexEntry, reason string) error {
	now := time.Now().UnixMilli()
	for _, have := range e.ids {
		if err := m.endID(ctx, have.id, reason, now-have.since <= m.rememberFor().Milliseconds()); err != nil {
			return err
		}
	}
	return nil
}

// endID retires the live record that an ID leads to. If announced is set, or a sealed record leads to it, an ID
// with no record is retired too, so that none can be created there.
func (m *Manager) endID(ctx context.Context, id ID, reason string, announced bool) error {
	sealed := false // what led here is
	for try := 1; try <= maxTries; try++ {
		rec, err := m.load(ctx, id)
		l := link{id: id, version: rec.Version, cas: rec.cas, expires: rec.Expires, data: rec.Data}
		switch {
		case errors.Is(err, ErrNotFound):
			if !announced {
				return nil
			}
		case err != nil:
			return err
		default:
			d, err := m.decode(&l, rec.Data)
			if err != nil || d.kind == kindRetired {
				return nil
			}
			if d.kind == kindSealed {
				id, announced, sealed = d.successor, true, true
				continue
			}
		}
		err = m.retire(ctx, &l, false)
		if err == nil {
			if l.version > 0 || sealed { // else there was only an ID that may have come into use
				m.observe(ctx, Event{Kind: EventEnded, ID: id, Reason: reason})
			}
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if !pause(ctx, try) {
			return err
		}
	}
	return fmt.Errorf("session: %v could not be ended: %w", id, ErrConflict)
}

// indexID returns where a user's index is. Managers with different cookie names keep apart.
func (m *Manager) indexID(user string) ID {
	return sha256.Sum256([]byte(strings.Join([]string{"session index", m.namespace, user}, "\x00")))
}

// loadIndex returns a user's index, and the link to its record.
func (m *Manager) loadIndex(ctx context.Context, user string) (link, index, error) {
	l := link{id: m.indexID(user)}
	rec, err := m.load(ctx, l.id)
	ix, err := m.readIndex(ctx, &l, rec, err)
	return l, ix, err
}

// readIndex is loadIndex for a record that was loaded already.
func (m *Manager) readIndex(ctx context.Context, l *link, rec Record, err error) (index, error) {
	*l = link{id: l.id}
	if errors.Is(err, ErrNotFound) {
		return index{}, nil
	}
	if err != nil {
		return index{}, err
	}
	l.version, l.cas, l.expires = rec.Version, rec.cas, rec.Expires
	ix, err := m.decodeIndex(l.id, rec.Data)
	if err != nil { // what it named can no longer be listed; their renewals bring them back
		m.observe(ctx, Event{Kind: EventDamaged, ID: l.id, Err: err})
		ix = index{damaged: true}
	}
	return ix, nil
}

// updateIndex changes a user's index by compare-and-swap; fn may be called again. Then it ends what the index says
// is to be ended, and has the index forget that, as far as it got. Since a user may have any number of sessions, each
// of them has all of Options.StoreTimeout.
func (m *Manager) updateIndex(ctx context.Context, user, reason string, fn func(*index) error) error {
	ctx = uncached(ctx)
	ix, err := m.changeIndex(ctx, user, fn)
	if err != nil {
		return err
	}
	done := make(map[lineage]bool)
	for i := range ix.entries {
		if e := &ix.entries[i]; e.ending {
			step := newStoreContext(ctx, &m.storeLimit)
			err = m.endEntry(step, e, reason)
			step.cancel()
			if err != nil {
				break
			}
			done[e.lineage] = true
		}
	}
	if len(done) == 0 {
		return err
	}
	step := newStoreContext(ctx, &m.storeLimit)
	defer step.cancel()
	_, forgetErr := m.changeIndex(step, user, func(ix *index) error {
		ix.entries = slices.DeleteFunc(ix.entries, func(e indexEntry) bool { return e.ending && done[e.lineage] })
		return nil
	})
	if forgetErr != nil { // they have ended; that the index does not know heals with its next change
		m.observe(ctx, Event{Kind: EventLost, Op: "index", Err: forgetErr})
	}
	return err
}

func (m *Manager) changeIndex(ctx context.Context, user string, fn func(*index) error) (index, error) {
	place := m.indexID(user)
	if _, err := m.queues.enter(ctx, place); err != nil {
		return index{}, err
	}
	defer m.queues.leave(place, handover{})
	l, ix, err := m.loadIndex(ctx, user)
	for try := 1; ; try++ {
		if err != nil {
			return index{}, err
		}
		before := ix.encode()
		if err := fn(&ix); err != nil {
			return index{}, err
		}
		if slices.Equal(before, ix.encode()) {
			return ix, nil
		}
		ctx, done := m.inTime(ctx)
		defer done()
		err = m.saveIndex(ctx, &l, &ix)
		if _, ok := errors.AsType[*conflictError](err); !ok {
			return ix, err
		}
		if try >= maxTries || !pause(ctx, try) {
			return index{}, err
		}
		l, ix, err = m.loadIndex(ctx, user) // what was found before the pause is history
	}
}

// inTime returns a context for what follows a look at the sessions of a user, which may have taken all of ctx's time.
func (m *Manager) inTime(ctx context.Context) (context.Context, func()) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	step := newStoreContext(ctx, &m.storeLimit)
	return step, step.cancel
}

// saveIndex stores the index. Its record outlives every session that it names, and late writes to it.
func (m *Manager) saveIndex(ctx context.Context, l *link, ix *index) error {
	now := time.Now()
	write := newMark()
	c := content{writes: ix.writes, saved: now.UnixMilli()}
	c.remember(write, now.UnixMilli(), m.rememberFor())
	ix.writes = c.writes
	var expires time.Time
	switch {
	case len(ix.entries) == 0:
		expires = now.Add(lateWrites)
	case m.absoluteTimeout > 0:
		expires = now.Add(max(m.absoluteTimeout, lateWrites))
		if l.version > 0 && (l.expires.IsZero() || l.expires.After(expires)) {
			expires = l.expires // of a manager whose sessions live longer
		}
	}
	rec := Record{Version: l.version, Expires: expires, cas: l.cas, Data: m.encodeIndex(l.id, ix)}
	return m.put(ctx, l, rec, write)
}

func (m *Manager) encodeIndex(id ID, ix *index) []byte {
	payload := ix.encode()
	b := appendWrites(newData(kindIndex, 1+len(ix.writes)+len(payload)+encryptionOverhead), ix.writes)
	if m.encrypt || ix.encrypted {
		b[checksumSize] = formatEncrypted
		b = m.indexCiphers[0].Seal(b, nil, payload, additionalData(id, b))
	} else {
		b = append(b, payload...)
	}
	return checksummed(id, b)
}

func (m *Manager) decodeIndex(id ID, data []byte) (index, error) {
	d, err := m.decode(&link{id: id}, data)
	if err != nil || d.kind != kindIndex {
		return index{}, errDamaged
	}
	payload := d.payload
	if data[checksumSize] == formatEncrypted {
		clear := data[:len(data)-len(payload)]
		for _, aead := range m.indexCiphers {
			if payload, err = aead.Open(nil, nil, d.payload, additionalData(id, clear)); err == nil {
				break
			}
		}
	}
	ix := index{writes: d.content.writes, encrypted: data[checksumSize] == formatEncrypted}
	if err != nil || !ix.decode(payload) {
		return index{}, errDamaged
	}
	return ix, nil
}

func (ix *index) encode() []byte {
	var b []byte
	for _, e := range ix.entries {
		b = append(b, e.lineage[:]...)
		ending := byte(0)
		if e.ending {
			ending = 1
		}
		b = append(b, ending)
		b = appendNumbers(b, uint64(e.created), uint64(e.used), uint64(e.idle), uint64(len(e.ids)))
		for _, id := range e.ids {
			b = appendNumbers(append(b, id.id[:]...), uint64(id.since))
		}
		b = appendBytes(appendBytes(b, e.remoteAddr), e.userAgent)
	}
	return b
}

func (ix *index) decode(payload []byte) bool {
	r := reader{rest: payload}
	for len(r.rest) > 0 && !r.bad {
		e := indexEntry{lineage: lineage(r.take(16)), ending: r.take(1)[0] == 1}
		e.created, e.used, e.idle = r.time(), r.time(), int64(r.uvarint())
		for n := r.uvarint(); n > 0 && !r.bad; n-- {
			e.ids = append(e.ids, indexID{ID(r.take(32)), r.time()})
		}
		e.remoteAddr, e.userAgent = r.bytes(), r.bytes()
		ix.entries = append(ix.entries, e)
	}
	return !r.bad
}
