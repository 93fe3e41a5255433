package migrate_test

import (
	"log"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/gorilla/sessions"

	"example.com/session"
	"example.com/session/migrate"
)

func ExampleSCS() {
	var mux *http.ServeMux
	var store session.Store
	var secret []byte

	old := scs.New() // as it was, with its Store; without LoadAndSave
	m, err := session.New(store, secret, &session.Options{
		Migration: migrate.SCS(old, func(s *session.OldSession) {
			s.User, _ = s.Values["user_id"].(string) // who is logged in, wherever the application kept that
			s.AuthenticatedAt, _ = s.Values["login_time"].(time.Time)
		}),
		// As scs does by default, and session does not.
		IdleTimeout: session.Never,
		Cookie:      session.Cookie{Persistent: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	http.ListenAndServe(":8080", m.Handler(mux))
}

func ExampleGorilla() {
	var mux *http.ServeMux
	var store session.Store
	var secret, oldKey []byte

	old := sessions.NewCookieStore(oldKey) // as it was
	m, err := session.New(store, secret, &session.Options{
		Migration: migrate.Gorilla(old, "session-name", old.Options, func(s *session.OldSession) {
			s.User, _ = s.Values["user_id"].(string)
		}),
		// As gorilla/sessions does by default, and session does not: thirty days after the last use.
		IdleTimeout:     30 * 24 * time.Hour,
		AbsoluteTimeout: session.Never,
		Cookie:          session.Cookie{Persistent: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	http.ListenAndServe(":8080", m.Handler(mux))
}
