package bench

import (
	"net/http"
	"strconv"
)

// A library is a contestant: a session library on a store, or what stands in for one.
type library struct {
	name string
	// handler returns the handler for a kind of request, nil if the library has no such thing. The payload is what
	// a new session holds.
	handler func(w work, p payload) http.Handler
}

// secret signs the cookies of all libraries that sign them.
var secret = []byte("0123456789abcdef0123456789abcdef")

const cookieName = "session_id"

var okBody = []byte("ok\n")

// answer ends every handler: the same few bytes, or an error that makes the run fail.
func answer(w http.ResponseWriter, ok bool) {
	if !ok {
		http.Error(w, "the session is not as it should be", http.StatusInternalServerError)
		return
	}
	w.Write(okBody)
}

func answerNumber(w http.ResponseWriter, n int) { w.Write(strconv.AppendInt(nil, int64(n), 10)) }

// mux serves all kinds of requests of all sizes, for a server.
func (l library) mux() http.Handler {
	mux := http.NewServeMux()
	for _, w := range []work{unused, read, write, create, regenerate, renew, count, total} {
		for i, p := range payloads {
			if h := l.handler(w, p); h != nil {
				mux.Handle(path(w, i), h)
			}
		}
	}
	return mux
}

func path(w work, payload int) string { return "/" + string(w) + "/" + strconv.Itoa(payload) }
