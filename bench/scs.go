package bench

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/v2"
)

// scsWithoutIdle is scs as it comes: sessions end a day after they began, and however long nobody has used them.
const scsWithoutIdle = "scs without an idle timeout"

// newSCS is github.com/alexedwards/scs on a store, with the idle timeout that ours has. It saves the session on each
// request for that.
func newSCS(store scs.Store) library { return newSCSWithIdle("scs", store, 15*time.Minute) }

func newSCSWithIdle(name string, store scs.Store, idle time.Duration) library {
	m := scs.New()
	m.Store = store
	m.Cookie.Name = cookieName
	m.IdleTimeout = idle
	return library{name, func(w work, p payload) http.Handler {
		if w == renew { // it does that on demand only
			return nil
		}
		return m.LoadAndSave(scsHandler(m, w, p))
	}}
}

func scsHandler(m *scs.SessionManager, kind work, p payload) http.HandlerFunc {
	var last atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		switch kind {
		case unused:
			answer(w, true)
		case read:
			answer(w, m.GetString(ctx, nameKey) != "")
		case write:
			m.Put(ctx, seenKey, int(last.Add(1)))
			answer(w, true)
		case create:
			for key, v := range p.values {
				m.Put(ctx, key, v)
			}
			answer(w, true)
		case regenerate:
			err := m.RenewToken(ctx)
			answer(w, err == nil && m.Exists(ctx, nameKey))
		case count:
			m.Put(ctx, countKey, m.GetInt(ctx, countKey)+1)
			answer(w, true)
		case total:
			answerNumber(w, m.GetInt(ctx, countKey))
		}
	}
}
