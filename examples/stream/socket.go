package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"example.com/session"
	"github.com/coder/websocket"
)

const (
	// statusLoggedOut is the code that closes a websocket whose session has ended. 4000 to 4999 are the
	// application's (RFC 6455 section 7.4.2).
	statusLoggedOut websocket.StatusCode = 4001
	// writeTimeout is how long a client may take to receive a message.
	writeTimeout = 10 * time.Second
)

// socket saves the text of each message as the draft, and answers with the number of saves.
func (a *app) socket(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if s.User() == "" {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	a.sockets.Add(1)
	defer a.sockets.Done()
	conn, err := websocket.Accept(w, r, nil) // it refuses other origins: their pages' requests carry the cookie, too
	if err != nil {
		return
	}
	defer conn.CloseNow()
	// The connection is no longer the server's, so the request's context does not tell when the client is gone.
	ctx := context.WithoutCancel(r.Context())
	texts, stop := receive(ctx, conn)
	defer stop()
	ticker := time.NewTicker(a.every)
	defer ticker.Stop()
	for {
		var err error
		select {
		case text, ok := <-texts:
			if !ok {
				return
			}
			draft.Set(s, text)
			saves.Update(s, func(n int) int { return n + 1 })
			if err = s.Save(ctx); err == nil {
				err = write(ctx, conn, strconv.Itoa(saves.GetOr(s, 0)))
			}
		case <-ticker.C:
			err = s.Reload(ctx)
		case <-a.quit:
			conn.Close(websocket.StatusGoingAway, "the server stops")
			return
		}
		if errors.Is(err, session.ErrGone) {
			conn.Close(statusLoggedOut, "logged out")
			return
		}
		if err != nil { // a session's first error stays with it: the page connects again
			slog.WarnContext(ctx, "socket closed", "err", err)
			conn.Close(websocket.StatusTryAgainLater, "not saved")
			return
		}
	}
}

// receive returns what the client sends, until it is gone or stop is called.
func receive(ctx context.Context, conn *websocket.Conn) (texts <-chan string, stop func()) {
	received, done := make(chan string), make(chan struct{})
	go func() {
		defer close(received)
		for {
			_, text, err := conn.Read(ctx)
			if err != nil {
				return
			}
			select {
			case received <- string(text):
			case <-done:
				return
			}
		}
	}()
	return received, func() { close(done) }
}

func write(ctx context.Context, conn *websocket.Conn, text string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, []byte(text))
}
