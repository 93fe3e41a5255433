package bench

import (
	"net/http"
	"sync/atomic"

	ginsessions "github.com/gin-contrib/sessions"
	"github.com/gin-gonic/gin"
	"github.com/gorilla/sessions"
)

// newGorilla is github.com/gorilla/sessions on a store. It has no way to change a session's ID or cookie.
func newGorilla(name string, store sessions.Store) library {
	return library{name, func(w work, p payload) http.Handler {
		if w == regenerate || w == renew {
			return nil
		}
		return gorillaHandler(store, w, p)
	}}
}

func gorillaHandler(store sessions.Store, kind work, p payload) http.HandlerFunc {
	var last atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if kind == unused {
			answer(w, true)
			return
		}
		s, err := store.Get(r, cookieName)
		if err != nil {
			answer(w, false)
			return
		}
		switch kind {
		case read:
			_, ok := s.Values[nameKey].(string)
			answer(w, ok)
			return
		case total:
			n, _ := s.Values[countKey].(int)
			answerNumber(w, n)
			return
		case write:
			s.Values[seenKey] = int(last.Add(1))
		case create:
			for key, v := range p.values {
				s.Values[key] = v
			}
		case count:
			n, _ := s.Values[countKey].(int)
			s.Values[countKey] = n + 1
		}
		answer(w, s.Save(r, w) == nil)
	}
}

// newGin is github.com/gin-contrib/sessions on a store, with gin's router around it. It has no way to change a
// session's ID or cookie.
func newGin(name string, store ginsessions.Store) library {
	return library{name, func(w work, p payload) http.Handler {
		if w == regenerate || w == renew {
			return nil
		}
		router := gin.New()
		router.Use(ginsessions.Sessions(cookieName, store))
		router.NoRoute(ginHandler(w, p)) // whatever the path
		return router
	}}
}

func ginHandler(kind work, p payload) gin.HandlerFunc {
	var last atomic.Int64
	return func(c *gin.Context) {
		c.Status(http.StatusOK)
		if kind == unused {
			answer(c.Writer, true)
			return
		}
		s := ginsessions.Default(c)
		switch kind {
		case read:
			_, ok := s.Get(nameKey).(string)
			answer(c.Writer, ok)
			return
		case total:
			n, _ := s.Get(countKey).(int)
			answerNumber(c.Writer, n)
			return
		case write:
			s.Set(seenKey, int(last.Add(1)))
		case create:
			for key, v := range p.values {
				s.Set(key, v)
			}
		case count:
			n, _ := s.Get(countKey).(int)
			s.Set(countKey, n+1)
		}
		answer(c.Writer, s.Save() == nil)
	}
}
