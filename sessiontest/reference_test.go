package sessiontest_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"example.com/session"
)

// reference is the simplest store that keeps the contract. Its expired records stay until they are swept.
type reference struct {
	mu   sync.Mutex
	recs map[session.ID]session.Record

	before sync.Map // for a fault
}

func newReference() *reference { return &reference{recs: make(map[session.ID]session.Record)} }

// live returns the live record under id, or a zero one, whose version is 0.
func (s *reference) live(id session.ID) session.Record {
	rec := s.recs[id]
	if !rec.Live(time.Now()) {
		return session.Record{}
	}
	return rec
}

func (s *reference) Load(ctx context.Context, id session.ID) (session.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.live(id)
	if rec.Version == 0 {
		return session.Record{}, session.ErrNotFound
	}
	return rec, nil
}

func (s *reference) Save(ctx context.Context, id session.ID, rec session.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live(id).Version != rec.Version {
		return session.ErrConflict
	}
	rec.Version++
	rec.Cached = false
	s.recs[id] = rec
	return nil
}

func (s *reference) Delete(ctx context.Context, id session.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recs, id)
	return nil
}

func (s *reference) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.live(id)
	switch old.Version {
	case 0:
		return session.ErrNotFound
	case rec.Version:
		old.Expires = rec.Expires
		s.recs[id] = old
		return nil
	}
	return session.ErrConflict
}

func (s *reference) DeleteExpired(ctx context.Context, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for id, rec := range s.recs {
		if n < limit && !rec.Live(time.Now()) {
			delete(s.recs, id)
			n++
		}
	}
	return n, nil
}

func (s *reference) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) {
		s.mu.Lock()
		ids := slices.Collect(maps.Keys(s.recs))
		s.mu.Unlock()
		for _, id := range ids {
			s.mu.Lock()
			rec := s.live(id)
			s.mu.Unlock()
			if rec.Version > 0 && !yield(session.Entry{ID: id, Record: rec}, nil) {
				return
			}
		}
	}
}

func (s *reference) Count(ctx context.Context, at int, b byte) (int, error) {
	n := 0
	for e := range s.List(ctx) {
		if data := e.Record.Data; at < 0 || at < len(data) && data[at] == b {
			n++
		}
	}
	return n, nil
}

// faulty is a reference, some of whose methods are replaced by others. The fields may be nil.
type faulty struct {
	*reference
	load   func(ctx context.Context, id session.ID) (session.Record, error)
	save   func(ctx context.Context, id session.ID, rec session.Record) error
	delete func(ctx context.Context, id session.ID) error
	touch  func(ctx context.Context, id session.ID, rec session.Record) error
	sweep  func(ctx context.Context, limit int) (int, error)
	list   func(ctx context.Context) iter.Seq2[session.Entry, error]
	count  func(ctx context.Context, at int, b byte) (int, error)
}

func (s *faulty) Load(ctx context.Context, id session.ID) (session.Record, error) {
	if s.load != nil {
		return s.load(ctx, id)
	}
	return s.reference.Load(ctx, id)
}

func (s *faulty) Save(ctx context.Context, id session.ID, rec session.Record) error {
	if s.save != nil {
		return s.save(ctx, id, rec)
	}
	return s.reference.Save(ctx, id, rec)
}

func (s *faulty) Delete(ctx context.Context, id session.ID) error {
	if s.delete != nil {
		return s.delete(ctx, id)
	}
	return s.reference.Delete(ctx, id)
}

func (s *faulty) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	if s.touch != nil {
		return s.touch(ctx, id, rec)
	}
	return s.reference.Touch(ctx, id, rec)
}

func (s *faulty) DeleteExpired(ctx context.Context, limit int) (int, error) {
	if s.sweep != nil {
		return s.sweep(ctx, limit)
	}
	return s.reference.DeleteExpired(ctx, limit)
}

func (s *faulty) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	if s.list != nil {
		return s.list(ctx)
	}
	return s.reference.List(ctx)
}

func (s *faulty) Count(ctx context.Context, at int, b byte) (int, error) {
	if s.count != nil {
		return s.count(ctx, at, b)
	}
	return s.reference.Count(ctx, at, b)
}

// peek returns the record under id, expired or not.
func (s *reference) peek(id session.ID) session.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recs[id]
}

// put sets the record under id, whatever was there.
func (s *reference) put(id session.ID, rec session.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recs[id] = rec
}
