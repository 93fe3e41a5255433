package bench

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"example.com/session"
)

const (
	name    session.Key[string] = nameKey
	seen    session.Key[int]    = seenKey
	counter session.Key[int]    = countKey
)

// ours is this library on a store.
func ours(store session.Store) library { return oursNamed("session", store) }

func oursNamed(name string, store session.Store) library {
	with := func(store session.Store, renewInterval time.Duration) *session.Manager {
		return must(session.New(store, secret, &session.Options{
			RenewInterval: renewInterval,
			SweepInterval: session.Never,
		}))
	}
	usual, renewing := with(store, session.Never), with(&due{Store: store, first: make(map[session.ID][]byte)}, time.Millisecond)
	return library{name, func(w work, p payload) http.Handler {
		if w == renew {
			return renewing.Handler(oursHandler(read, p))
		}
		return usual.Handler(oursHandler(w, p))
	}}
}

// cached is this library with a cache in front of the store. A login or a renewal looks past it.
func cached(store session.Store) library {
	l := oursNamed("session with a cache", session.NewCacheStore(store, nil))
	return library{l.name, func(w work, p payload) http.Handler {
		switch w {
		case read, write, create:
			return l.handler(w, p)
		}
		return nil
	}}
}

func oursHandler(kind work, p payload) http.HandlerFunc {
	var last atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if kind == unused {
			answer(w, true)
			return
		}
		s := session.FromContext(r.Context())
		switch kind {
		case read:
			_, ok := name.Get(s)
			answer(w, ok)
		case write:
			seen.Set(s, int(last.Add(1)))
			answer(w, true)
		case create:
			s.SetAll(p.values)
			answer(w, true)
		case regenerate:
			s.Regenerate()
			answer(w, name.Has(s))
		case count:
			counter.Update(s, func(n int) int { return n + 1 })
			answer(w, true)
		case total:
			answerNumber(w, counter.GetOr(s, 0))
		}
	}
}

// Due is a store whose sessions are as they were when somebody loaded them first, so that a cookie that is due for renewal
// stays so. Otherwise one request in many would renew it: there is no renewal while the client may have two cookies.
type due struct {
	session.Store
	mu    sync.RWMutex
	first map[session.ID][]byte
}

func (d *due) Load(ctx context.Context, id session.ID) (session.Record, error) {
	rec, err := d.Store.Load(ctx, id)
	if err != nil {
		return rec, err
	}
	d.mu.RLock()
	data, ok := d.first[id]
	d.mu.RUnlock()
	if ok {
		rec.Data = data
		return rec, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.first[id] = rec.Data
	return rec, nil
}
