package main

import (
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"example.com/session"
)

// newChi is the application with chi. Its middleware is that of net/http, so m.Handler can stand anywhere among it, and
// be left out for a part of the routes.
func newChi(m *session.Manager) http.Handler {
	router := chi.NewRouter()
	router.Use(middleware.Recoverer) // outside the session's: a panic drops what its request did to the session
	router.Use(m.Handler)
	router.Get("/", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		fmt.Fprint(w, greeting(s.User(), visits.Update(s, increment)))
	})
	router.Post("/login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser(r.FormValue("user"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	router.Post("/logout", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).Destroy()
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	return router
}
