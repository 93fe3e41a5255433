package session

import (
	"bytes"
	"fmt"
	"slices"
)

// A change is one thing that the handler did to the content. It can be done again to another state of it.
type change struct {
	kind   changeKind
	key    string
	data   []byte                                             // changeSet
	update func(old []byte, ok bool) (data []byte, err error) // changeUpdate
	meta   func(*content)                                     // changeMeta; its key is a name of its own
	vain   bool                                               // it has made no difference, and alone is not worth a save
}

type changeKind byte

const (
	changeSet changeKind = iota
	changeDelete
	changeUpdate
	changeClear
	changeMeta
)

// apply makes the change to the content.
func (ch *change) apply(c *content) error {
	switch ch.kind {
	case changeSet:
		c.values.set(ch.key, ch.data)
	case changeDelete:
		c.values.delete(ch.key)
	case changeClear:
		c.values = values{}
	case changeMeta:
		ch.meta(c)
	case changeUpdate:
		old, ok := c.values.get(ch.key)
		data, err := ch.update(old, ok)
		if err != nil {
			return unencodable(ch.key, err)
		}
		c.values.set(ch.key, data)
	}
	return nil
}

// update is Update for encoded values.
func (s *Session) update(key string, fn func(old []byte, ok bool) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
	s.change(change{kind: changeUpdate, key: key, update: fn})
}

// try is apply, and reports whether that left the values as they were.
func (ch *change) try(c *content) (same bool, err error) {
	old, had := c.values.get(ch.key)
	before := c.values.len
	if err := ch.apply(c); err != nil {
		return false, err
	}
	if ch.kind == changeClear {
		return before == 0, nil
	}
	data, has := c.values.get(ch.key)
	return had == has && bytes.Equal(old, data), nil
}

// change applies what the handler does and takes note of it. s.mu is held.
func (s *Session) change(ch change) {
	same, err := ch.try(&s.content)
	if err != nil {
		s.fail(err)
		return
	}
	if ch.kind != changeMeta {
		// It may make a difference to what others have saved since.
		ch.vain = same && !slices.ContainsFunc(s.changes, func(earlier change) bool {
			return !earlier.vain && earlier.touches(&ch)
		})
	}
	if ch.kind == changeUpdate && s.decided(ch.key) {
		data, _ := s.content.values.get(ch.key)
		ch = change{kind: changeSet, key: ch.key, data: data, vain: ch.vain}
	}
	s.note(ch)
	if ch.vain {
		s.forgetVain()
	}
}

// maxVain bounds how many changes are kept that made no difference: a handler may make them in an endless loop.
const maxVain = 32

// forgetVain drops the oldest of them, if there are too many.
func (s *Session) forgetVain() {
	oldest, n := -1, 0
	for i := range s.changes {
		if s.changes[i].vain {
			if n++; oldest < 0 {
				oldest = i
			}
		}
	}
	if n > maxVain {
		s.changes = slices.Delete(s.changes, oldest, oldest+1)
	}
}

// note adds ch to the list of changes, and drops those from it that no longer matter.
func (s *Session) note(ch change) {
	if ch.kind != changeUpdate {
		s.changes = slices.DeleteFunc(s.changes, func(earlier change) bool {
			return ch.touches(&earlier) && (earlier.kind != changeClear || ch.kind == changeClear)
		})
	}
	s.changes = append(s.changes, ch)
}

// touches reports whether the effects of two changes overlap.
func (ch *change) touches(other *change) bool {
	if (ch.kind == changeMeta) != (other.kind == changeMeta) {
		return false
	}
	return ch.kind == changeClear || other.kind == changeClear || ch.key == other.key
}

// decided reports whether the value under the key no longer depends on what is in the store.
func (s *Session) decided(key string) bool {
	for _, ch := range slices.Backward(s.changes) {
		switch {
		case ch.kind == changeClear:
			return true
		case ch.kind == changeMeta || ch.key != key:
		default:
			return ch.kind != changeUpdate
		}
	}
	return false
}

// rebase makes the handler's changes to another state of the session. s.mu is held.
func (s *Session) rebase(c content) error {
	s.content = c
	for i := range s.changes {
		ch := &s.changes[i]
		same, err := ch.try(&s.content)
		if err != nil {
			return err
		}
		ch.vain = ch.vain && same
	}
	return nil
}

// changed reports whether there is a change that made a difference. s.mu is held.
func (s *Session) changed() bool {
	return slices.ContainsFunc(s.changes, func(ch change) bool { return !ch.vain })
}

// wants reports whether the handler did something that has to reach the store. s.mu is held.
func (s *Session) wants() bool { return s.changed() || s.todo&(regenerate|endReplaced) != 0 }

func unencodable(key string, err error) error {
	return fmt.Errorf("%w: the value of %q cannot be encoded: %w", errProgram, key, err)
}
