package main

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"example.com/session"
)

// An app is the application.
type app struct {
	http.Handler
	sessions *session.Manager
	every    time.Duration

	quit    chan struct{} // closed when the streams are to end
	sockets sync.WaitGroup
}

const (
	draft    session.Key[string] = "draft"
	saves    session.Key[int]    = "saves"
	messages session.Key[int]    = "messages" // how many server-sent events were sent, over all tabs
)

func newApp(store session.Store, secret []byte, tls bool, renew, every time.Duration) (*app, error) {
	a := &app{every: every, quit: make(chan struct{})}
	cookie := session.Cookie{Name: "__Host-session"}
	if !tls {
		cookie = session.Cookie{Name: "session", InsecureHTTP: true}
	}
	var err error
	a.sessions, err = session.New(store, secret, &session.Options{Cookie: cookie, RenewInterval: renew})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("POST /logout-others", a.logoutOthers)
	mux.HandleFunc("GET /events", a.events)
	mux.HandleFunc("GET /socket", a.socket)
	mux.Handle("GET /static/", http.FileServerFS(files))
	a.Handler = securityHeaders(a.sessions.Handler(http.NewCrossOriginProtection().Handler(mux)))
	return a, nil
}

// endStreams has all streams end soon.
func (a *app) endStreams() { close(a.quit) }

// events sends what is saved, at the start and whenever it has changed.
func (a *app) events(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if s.User() == "" {
		http.Error(w, "log in first", http.StatusUnauthorized) // the browser does not try again
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	stream := http.NewResponseController(w)
	if stream.Flush() != nil { // from here on no cookie can be set: renewal is for other requests
		return
	}
	send := func(event string, data any) error {
		text, err := json.Marshal(data)
		if err == nil {
			_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		}
		return errors.Join(err, stream.Flush())
	}
	ticker := time.NewTicker(a.every)
	defer ticker.Stop()
	for sent := -1; ; {
		// Reload is to see what others have saved, and whether the session has ended; a stream that only saves needs none.
		// It does not count as use: an open page alone keeps nobody logged in.
		err := s.Reload(r.Context())
		if err == nil && saves.GetOr(s, 0) != sent {
			messages.Update(s, func(n int) int { return n + 1 })
			if err = s.Save(r.Context()); err == nil { // it has brought in what others saved meanwhile
				sent = saves.GetOr(s, 0)
				err = send("draft", map[string]any{
					"text": draft.GetOr(s, ""), "saves": sent, "messages": messages.GetOr(s, 0),
				})
			}
		}
		if errors.Is(err, session.ErrGone) {
			send("ended", nil)
			return
		}
		if err != nil { // a session's first error stays with it: the browser comes again
			slog.WarnContext(r.Context(), "events ended", "err", err)
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-a.quit:
			return
		}
	}
}

func (a *app) home(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	page := map[string]any{"User": s.User(), "Draft": draft.GetOr(s, "")}
	if err := home.Execute(w, page); err != nil {
		slog.WarnContext(r.Context(), "page not sent", "err", err)
	}
}

// login believes everybody; examples/login shows how it is done.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if user := strings.TrimSpace(r.PostFormValue("user")); user != "" && s.User() == "" {
		s.SetUser(user)
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	session.FromContext(r.Context()).Destroy()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *app) logoutOthers(w http.ResponseWriter, r *http.Request) {
	if _, err := a.sessions.EndSessions(r.Context(), session.OfUser(session.FromContext(r.Context()).User()).Others()); err != nil {
		slog.ErrorContext(r.Context(), "not logged out elsewhere", "err", err)
		http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

//go:embed static home.html
var files embed.FS

var home = template.Must(template.ParseFS(files, "home.html"))

// securityHeaders sets what the pages allow browsers to do.
func securityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
			"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
