package bench

import (
	"net/http"
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
	with := func(renewInterval time.Duration) *session.Manager {
		return must(session.New(store, secret, &session.Options{
			RenewInterval: renewInterval,
			SweepInterval: session.Never,
		}))
	}
	usual, renewing := with(session.Never), with(time.Millisecond)
	return library{name, func(w work, p payload) http.Handler {
		if w == renew {
			return renewing.Handler(oursHandler(read, p))
		}
		return usual.Handler(oursHandler(w, p))
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
