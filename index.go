package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"example.com/session/internal/codec"
)

// An index is what the record of a user, or of a label, holds: it names all sessions that have it. A login is in it before
// the session's record has it; a new session is stored before, and nobody has its cookie until both is done. So whoever ends
// what the index names misses nothing that is alive. An entry of a dead session does no harm, and heals.
type index struct {
	entries   []indexEntry
	ended     int64 // when all of the user's sessions were ended, in Unix milliseconds; 0: never
	encrypted bool  // its record was
	secret    int   // by which of the secrets
	again     bool  // it is to be saved as it is, so that whoever looked before conflicts
	damaged   bool  // there is one that cannot be read: it names sessions that are not in entries
}

// An indexEntry is one login of the user's.
type indexEntry struct {
	id         ID
	login      codec.Login
	ending     bool  // it is to be ended, and no longer counts
	since      int64 // when it was announced; Unix milliseconds, as all times here
	created    int64
	idle       int64 // as in codec.Body
	remoteAddr []byte
	userAgent  []byte
	user       []byte // empty in the user's own index
}

// errIndexDamaged reports an unreadable index, lest it be mistaken for an empty one. Logins begin a new one.
var errIndexDamaged = fmt.Errorf("session: the list of the sessions cannot be read, as it is damaged, or encrypted under a secret that is not known here: %w", codec.ErrDamaged)

// errEnding says that the index has it that a login is to end.
var errEnding = errors.New("session: it is to end")

// An announcement makes a session one of a user's.
type announcement struct {
	id       ID
	login    codec.Login
	body     *codec.Body
	newcomer bool        // the user has just logged in
	requires codec.Login // that was announced before for the same request, and must be there still; or zero
	forgot   bool        // its session is another's by now, or its client has ended it, and the index may have forgotten it
	since    int64       // when the user logged in
	own      ID          // of the client's former session, which makes room first; or zero
}

// announce has the indexes of the user and of the labels name the session. It returns errEnding if that is to end, and
// ErrTooManySessions if the user has too many. An index that is out of reach keeps no renewal from the others.
func (m *Manager) announce(ctx context.Context, a *announcement) error {
	var errs []error
	for g := range groupsOf(a.body) {
		ctx, done := m.inTime(ctx)
		err := m.updateIndex(ctx, g, ReasonLimit, func(ix *index) error { return m.admit(ctx, g, ix, a) })
		done()
		if err != nil && (a.newcomer || errors.Is(err, errEnding)) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// admit is announce for an index that was loaded.
func (m *Manager) admit(ctx context.Context, g Group, ix *index, a *announcement) error {
	mine := ix.find(func(e *indexEntry) bool { return e.login == a.login && e.id == a.id })
	former := ix.find(func(e *indexEntry) bool { return e.login == a.requires })
	switch {
	case mine != nil && mine.ending, former != nil && former.ending,
		a.requires != (codec.Login{}) && former == nil && !(a.forgot && ix.ended < a.since):
		return errEnding
	case mine != nil && !a.newcomer:
		return nil
	case mine != nil:
		// Somebody may have found the entry dead, and seen to it that the save of the record conflicted, but not have
		// taken the entry out yet.
		ix.again = a.requires != (codec.Login{})
		mine.describe(a.body)
		return nil
	case !a.newcomer && ix.ended != 0 && a.since <= ix.ended:
		return errEnding
	case !a.newcomer:
		// The index was lost, or the session has ended: then it must not cost another one its place.
		if lives, err := m.lives(ctx, a); err != nil || !lives {
			return cmp.Or(err, errEnding)
		}
	}
	e := indexEntry{id: a.id, login: a.login, since: m.millis()}
	if e.describe(a.body); g.label != "" {
		e.user = a.body.User
	}
	// Former logins with the same record stay: this one may come to nothing, and then one of them lives on.
	if former != nil && a.requires == a.login { // it was new, and came to nothing; another one is that of a session that lives
		before := *former
		ix.remove(before.same)
	}
	ix.entries = append(ix.entries, e)
	return m.makeRoom(ctx, g, ix, a)
}

// lives reports whether the announced login is in its record.
func (m *Manager) lives(ctx context.Context, a *announcement) (bool, error) {
	sl := slot{m: m, id: a.id}
	if err := sl.look(ctx); err != nil {
		return false, err
	}
	r, err := sl.open()
	return err == nil && r.Kind == codec.Session && r.Credential.Login == a.login, nil
}

func (e *indexEntry) describe(b *codec.Body) {
	e.created, e.idle, e.remoteAddr, e.userAgent = b.Created, b.Idle, b.RemoteAddr, b.UserAgent
}

// same reports whether two entries are of the same session.
func (e *indexEntry) same(other *indexEntry) bool { return e.key() == other.key() }

// An entryKey tells an entry from others. There can be thousands, so that what concerns many goes by a set of them.
type entryKey struct {
	login codec.Login
	id    ID
}

func (e *indexEntry) key() entryKey { return entryKey{e.login, e.id} }

// find returns the last entry that is meant, nil if there is none.
func (ix *index) find(meant func(*indexEntry) bool) *indexEntry {
	for i := range slices.Backward(ix.entries) {
		if e := &ix.entries[i]; meant(e) {
			return e
		}
	}
	return nil
}

// remove takes entries out.
func (ix *index) remove(gone func(*indexEntry) bool) {
	ix.entries = slices.DeleteFunc(ix.entries, func(e indexEntry) bool { return gone(&e) })
}

// maxLooks bounds how many of a user's sessions are looked at, at each login, for whether they are still alive.
const maxLooks = 8

// makeRoom drops dead entries, and sees to Options.MaxSessionsPerUser and MaxSize: the newcomer is in the index already.
func (m *Manager) makeRoom(ctx context.Context, g Group, ix *index, a *announcement) error {
	var others []indexEntry // that count
	for _, e := range ix.entries {
		if e.login != a.login && e.id != a.id && !e.ending { // a session that moves has one login with several IDs
			others = append(others, e)
		}
	}
	limit := 0
	if g.label == "" {
		limit = m.maxPerUser
	}
	if len(ix.encode()) > m.maxSize*3/4 { // do not come here at each login
		if room := max(1, len(ix.entries)*9/10); limit == 0 || room < limit {
			limit = room
		}
	}
	// First the dead ones, or one that is alive would have to make room for them. Those that are looked at are
	// drawn, so that none stays for good behind some that live long.
	mathrand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	dead := make(map[entryKey]bool)
	tooMany := func(alive int) bool { return limit > 0 && 1+alive > limit }
	for i := 0; i < len(others) && (tooMany(len(others)-len(dead)) || i < maxLooks); i++ {
		isDead, err := m.isDead(ctx, &others[i])
		if err != nil { // one that is out of reach counts as alive, and a login waits for one alone
			m.observe(ctx, Event{Kind: EventLost, Op: "load", ID: others[i].id, User: g.user(&others[i]), Err: err})
			break
		}
		if isDead {
			dead[others[i].key()] = true
		}
	}
	ix.remove(func(e *indexEntry) bool { return dead[e.key()] })
	others = slices.DeleteFunc(others, func(e indexEntry) bool { return dead[e.key()] })
	if !tooMany(len(others)) {
		return nil
	}
	slices.SortFunc(others, func(x, y indexEntry) int {
		if own := a.own != (ID{}); own && (x.id == a.own) != (y.id == a.own) {
			if x.id == a.own {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.created, y.created)
	})
	oldest := make(map[entryKey]bool)
	for ; len(others) > 0 && tooMany(len(others)); others = others[1:] {
		if a.newcomer && m.refuseNew && others[0].id != a.own {
			return ErrTooManySessions
		}
		oldest[others[0].key()] = true
	}
	for i := range ix.entries {
		if e := &ix.entries[i]; oldest[e.key()] {
			e.ending = true
		}
	}
	return nil
}

// isDead reports whether an entry names nothing that lives, nor will. One that is young may be that of a login under way.
func (m *Manager) isDead(parent context.Context, e *indexEntry) (bool, error) {
	if m.millis()-e.since < m.rememberFor().Milliseconds() {
		return false, nil
	}
	ctx := newStoreContext(parent, &m.storeLimit)
	defer ctx.cancel()
	sl := slot{m: m, id: e.id}
	if err := sl.look(ctx); err != nil {
		return false, err
	}
	dead := true
	_, err := sl.retry(ctx, newWriteID(), func(int) error {
		r, err := sl.open()
		switch dead = true; {
		case err != nil || r.Kind != codec.Session:
			return nil
		case r.Credential.Login == e.login:
			dead = false
			return nil
		}
		return sl.fence(ctx) // a login under way has to look at the index again
	})
	return dead, err
}

// forget takes a login that has ended out of the indexes of the body. It need not succeed: dead entries do no harm.
func (m *Manager) forget(ctx context.Context, b *codec.Body, login codec.Login, id ID) {
	gone := indexEntry{login: login, id: id}
	for g := range groupsOf(b) {
		ctx, done := m.inTime(ctx)
		err := m.updateIndex(ctx, g, ReasonRevoked, func(ix *index) error {
			ix.remove(func(e *indexEntry) bool { return e.same(&gone) && !e.ending })
			return nil
		})
		done()
		if err != nil {
			m.observe(ctx, Event{Kind: EventLost, Op: "index", ID: id, User: string(b.User), Err: err})
		}
	}
}

// indexID returns where the index of a group is. Managers with different namespaces keep apart.
func (m *Manager) indexID(g Group) ID {
	if g.label == "" {
		return sha256.Sum256(codec.Joined("session index", m.namespace, g.value))
	}
	return sha256.Sum256(codec.Joined("session label index", m.namespace, g.label, g.value))
}

// loadIndex returns a group's index, and the slot with its record.
func (m *Manager) loadIndex(ctx context.Context, g Group) (slot, index, error) {
	sl := slot{m: m, id: m.indexID(g)}
	if err := sl.look(ctx); err != nil {
		return sl, index{}, err
	}
	return sl, m.readIndex(ctx, &sl), nil
}

// readIndex returns the index that the slot has.
func (m *Manager) readIndex(ctx context.Context, sl *slot) index {
	if sl.rec.Version == 0 {
		return index{}
	}
	ix, err := m.decodeIndex(sl.id, sl.rec.Data)
	if err != nil { // the sessions that it named come back with their renewals
		m.observe(ctx, Event{Kind: EventDamaged, ID: sl.id, Err: err})
		return index{damaged: true}
	}
	if ix.secret > 0 {
		m.observe(ctx, Event{Kind: EventOldSecret, ID: sl.id, Reason: ReasonEncrypted})
	}
	return ix
}

// updateIndex changes a group's index by compare-and-swap; fn may be called again. Then it ends what the index says
// is to be ended.
func (m *Manager) updateIndex(ctx context.Context, g Group, reason Reason, fn func(*index) error) error {
	ix, err := m.changeIndex(ctx, g, fn)
	if err != nil {
		return err
	}
	return m.endMarked(ctx, g, &ix, reason)
}

// endMarked ends what the index says is to be ended, and has it forget that, as far as it got: a shard of the store
// that is out of reach does not shield the others. Each of the sessions has all of Options.StoreTimeout.
func (m *Manager) endMarked(ctx context.Context, g Group, ix *index, reason Reason) error {
	var errs []error
	done := make(map[entryKey]bool)
	for i := range ix.entries {
		e := &ix.entries[i]
		if !e.ending {
			continue
		}
		step := newStoreContext(ctx, &m.storeLimit)
		first, err := m.end(step, e.id, true, func(r *codec.Envelope) bool { return r.Credential.Login == e.login })
		step.cancel()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if done[e.key()] = true; first {
			m.tellEnd(ctx, e.id, g.user(e), reason)
		}
	}
	if len(done) > 0 {
		step := newStoreContext(ctx, &m.storeLimit)
		defer step.cancel()
		_, err := m.changeIndex(step, g, func(ix *index) error {
			ix.remove(func(e *indexEntry) bool { return e.ending && done[e.key()] })
			return nil
		})
		if err != nil { // they have ended; that the index does not know heals with its next change
			m.observe(ctx, Event{Kind: EventLost, Op: "index", User: g.user(&indexEntry{}), Err: err})
		}
	}
	return errors.Join(errs...)
}

// changeIndex saves what fn makes of the index, if that is another one.
func (m *Manager) changeIndex(ctx context.Context, g Group, fn func(*index) error) (ix index, err error) {
	place := m.indexID(g)
	if _, err := m.queues.enter(ctx, place); err != nil {
		return index{}, err
	}
	defer m.queues.leave(place, handover{})
	sl := slot{m: m, id: place}
	if err := sl.look(ctx); err != nil {
		return index{}, err
	}
	write := newWriteID()
	found, err := sl.retry(ctx, write, func(int) error {
		ix = m.readIndex(ctx, &sl)
		before := ix.encode()
		if err := fn(&ix); err != nil {
			return err
		}
		after := ix.encode()
		if slices.Equal(before, after) && ix.secret == 0 && !ix.again { // else it is encrypted anew, before the secret is forgotten
			return nil
		}
		ctx, done := m.inTime(ctx)
		defer done()
		return m.saveIndex(ctx, &sl, &ix, after, write)
	})
	if found { // what others have made of it since is theirs to end
		ix = m.readIndex(ctx, &sl)
	}
	if _, ok := errors.AsType[*conflictError](err); ok { // it is not one of whoever asks
		err = fmt.Errorf("session: the list of the sessions is changed all the time")
	}
	if err != nil {
		return index{}, err
	}
	return ix, nil
}

// inTime returns a context for what follows a look at the sessions of a user, which may have taken all of ctx's time.
func (m *Manager) inTime(ctx context.Context) (context.Context, func()) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	step := newStoreContext(ctx, &m.storeLimit)
	return step, step.cancel
}

// saveIndex stores the index. Its record outlives every session that it names or remembers the end of, and late writes
// to it.
func (m *Manager) saveIndex(ctx context.Context, sl *slot, ix *index, payload []byte, write writeID) error {
	now := time.Now()
	var expires time.Time
	switch {
	case len(ix.entries) == 0 && ix.ended == 0:
		expires = now.Add(lateWrites)
	case m.absoluteTimeout > 0:
		expires = now.Add(max(m.absoluteTimeout, lateWrites))
		if sl.rec.Version > 0 && (sl.rec.Expires.IsZero() || sl.rec.Expires.After(expires)) {
			expires = sl.rec.Expires // of a manager whose sessions live longer
		}
	}
	var writes []byte
	if e, err := sl.open(); err == nil {
		writes = e.Writes
	}
	var c *codec.Cipher
	if m.encrypt || ix.encrypted {
		c = m.indexCiphers[0]
	}
	data := codec.EncodeIndex(sl.id, payload, codec.Writes{Before: writes, This: write}, c)
	_, err := sl.save(ctx, data, expires, write)
	return err
}

func (m *Manager) decodeIndex(id ID, data []byte) (index, error) {
	e, err := codec.Open(id, data)
	if err != nil || e.Kind != codec.Index || m.encrypt && !e.Encrypted {
		return index{}, codec.ErrDamaged
	}
	ix := index{encrypted: e.Encrypted}
	payload, err := e.OpenIndex(id, func(i int) *codec.Cipher {
		if i >= len(m.indexCiphers) {
			return nil
		}
		ix.secret = i
		return m.indexCiphers[i]
	})
	if err != nil || !ix.decode(payload) {
		return index{}, codec.ErrDamaged
	}
	return ix, nil
}

// roomToEnd is what an entry gives back when it is marked, so that a server which is full takes the mark: as much as
// the index grows by when it remembers the end of all sessions, and one more write.
var roomToEnd [binary.MaxVarintLen64 + codec.WriteIDSize]byte

func (ix *index) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(ix.ended))
	for i := range ix.entries {
		e := &ix.entries[i]
		ending := byte(0)
		if e.ending {
			ending = 1
		}
		b = append(append(append(b, e.id[:]...), e.login[:]...), ending)
		if !e.ending {
			b = append(b, roomToEnd[:]...)
		}
		b = binary.AppendUvarint(b, uint64(e.since))
		b = binary.AppendUvarint(b, uint64(e.created))
		b = binary.AppendVarint(b, e.idle)
		b = codec.AppendBytes(codec.AppendBytes(codec.AppendBytes(b, e.remoteAddr), e.userAgent), e.user)
	}
	return b
}

func (ix *index) decode(payload []byte) bool {
	r := codec.NewReader(payload)
	ix.ended = r.Time()
	for r.More() {
		e := indexEntry{id: ID(r.Take(32)), login: codec.Login(r.Take(16)), ending: r.Take(1)[0] == 1}
		if !e.ending {
			r.Take(len(roomToEnd))
		}
		e.since, e.created, e.idle = r.Time(), r.Time(), r.Varint()
		e.remoteAddr, e.userAgent, e.user = r.Bytes(), r.Bytes(), r.Bytes()
		ix.entries = append(ix.entries, e)
	}
	return r.Good()
}
