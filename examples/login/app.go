package main

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"example.com/session"
)

// An app is the application: its handlers, in the order in which a user meets them.
type app struct {
	http.Handler
	sessions *session.Manager
	people   *accounts
	cookie   string        // its name
	tls      bool          // or plain HTTP
	fresh    time.Duration // how recent a login must be for what is sensitive
}

const (
	// rememberFor is how long "stay logged in" lasts after the last use. It is the absolute timeout as well.
	rememberFor = 30 * 24 * time.Hour
	// workday ends the sessions of those who did not ask for that.
	workday = 12 * time.Hour
)

const (
	remembered session.Key[bool]   = "remembered"
	flash      session.Key[notice] = "flash"
)

func newApp(store session.Store, secret []byte, people *accounts, tls bool, renew, fresh time.Duration) (*app, error) {
	a := &app{people: people, cookie: "__Host-session", tls: tls, fresh: fresh}
	if !tls {
		a.cookie = "session" // browsers take a __Host- cookie over TLS alone
	}
	var err error
	a.sessions, err = session.New(store, secret, &session.Options{
		Cookie:          session.Cookie{Name: a.cookie, InsecureHTTP: !tls},
		AbsoluteTimeout: rememberFor,
		RenewInterval:   renew,
		ErrorHandler:    a.sessionFailed,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.member(a.home))
	mux.HandleFunc("GET /login", a.loginPage)
	mux.HandleFunc("POST /login", a.form("/login", a.login))
	mux.HandleFunc("POST /logout", a.form("/", a.logout))
	mux.HandleFunc("GET /devices", a.member(a.devices))
	mux.HandleFunc("POST /devices/end", a.form("/devices", a.member(a.endDevice)))
	mux.HandleFunc("POST /devices/end-others", a.form("/devices", a.member(a.endOthers)))
	mux.HandleFunc("GET /confirm", a.member(a.confirmPage))
	mux.HandleFunc("POST /confirm", a.form("/confirm", a.member(a.confirm)))
	mux.HandleFunc("GET /password", a.member(a.freshly(a.passwordPage)))
	mux.HandleFunc("POST /password", a.form("/password", a.member(a.freshly(a.changePassword))))
	mux.HandleFunc("POST /start-over", a.startOver)
	mux.Handle("GET /static/", static)
	sameOrigin := http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(mux, 16<<10))
	a.Handler = securityHeaders(a.sessions.Handler(sameOrigin))
	return a, nil
}

// member is for pages of those who are logged in.
func (a *app) member(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if s.User() != "" && !remembered.GetOr(s, false) && time.Since(s.AuthenticatedAt()) > workday {
			s.Destroy()
		}
		if s.User() == "" {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

// freshly is for what an open browser that somebody left alone must not allow: whoever logged in a while ago is
// asked for the password again.
func (a *app) freshly(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if time.Since(session.FromContext(r.Context()).AuthenticatedAt()) > a.fresh {
			http.Redirect(w, r, "/confirm", http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

// form is for what a form sends: each has a token, good for one time and for the session it was made for. Who comes
// without a valid one is sent to the page, where the form is.
func (a *app) form(page string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if !s.UseFormToken(r.Context(), r.PostFormValue(session.FormTokenField)) {
			flash.Set(s, notice{Bad: true, Text: "That form was sent before, or was open for too long. Please try again."})
			http.Redirect(w, r, page, http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

func (a *app) home(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	a.render(w, r, http.StatusOK, "home", map[string]any{
		"Since":      s.AuthenticatedAt(),
		"Expires":    s.Expires(),
		"Remembered": remembered.GetOr(s, false),
	})
}

func (a *app) loginPage(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if s.User() != "" {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	a.render(w, r, http.StatusOK, "login", map[string]any{"Ended": s.WasUnknown()})
}

func (a *app) login(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	user := r.PostFormValue("user")
	if !a.people.check(user, r.PostFormValue("password")) {
		slog.WarnContext(r.Context(), "login refused", "from", r.RemoteAddr)
		a.render(w, r, http.StatusForbidden, "login", map[string]any{"Refused": true, "User": user})
		return
	}
	if s.User() != "" {
		s.Destroy() // what it holds may be another user's
	}
	s.SetUser(user) // a new ID: whoever knew the old one does not come along
	if r.PostFormValue("remember") != "" {
		remembered.Set(s, true)
		s.Remember(rememberFor)
	}
	flash.Set(s, notice{Text: "Welcome, " + user + "."})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	s.Destroy()
	flash.Set(s, notice{Text: "You are logged out."}) // of the next session, which begins here
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (a *app) devices(w http.ResponseWriter, r *http.Request) {
	list, err := a.sessions.UserSessions(r.Context(), session.FromContext(r.Context()).User())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	slices.SortStableFunc(list, func(x, y session.UserSession) int {
		switch { // this one first, the rest as they are
		case x.Current:
			return -1
		case y.Current:
			return 1
		}
		return 0
	})
	a.render(w, r, http.StatusOK, "devices", list)
}

func (a *app) endDevice(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	err := a.sessions.EndSession(r.Context(), s.User(), r.PostFormValue("handle"))
	if err != nil && !errors.Is(err, session.ErrNotFound) { // it may have ended by itself
		a.fail(w, r, err)
		return
	}
	flash.Set(s, notice{Text: "That device is logged out."})
	http.Redirect(w, r, "/devices", http.StatusSeeOther)
}

func (a *app) endOthers(w http.ResponseWriter, r *http.Request) {
	if _, err := a.sessions.EndOtherSessions(r.Context()); err != nil {
		a.fail(w, r, err)
		return
	}
	flash.Set(session.FromContext(r.Context()), notice{Text: "All your other devices are logged out."})
	http.Redirect(w, r, "/devices", http.StatusSeeOther)
}

func (a *app) confirmPage(w http.ResponseWriter, r *http.Request) {
	a.render(w, r, http.StatusOK, "confirm", nil)
}

func (a *app) confirm(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if !a.people.check(s.User(), r.PostFormValue("password")) {
		slog.WarnContext(r.Context(), "password refused", "from", r.RemoteAddr)
		a.render(w, r, http.StatusForbidden, "confirm", map[string]any{"Refused": true})
		return
	}
	s.SetUser(s.User())
	http.Redirect(w, r, "/password", http.StatusSeeOther)
}

func (a *app) passwordPage(w http.ResponseWriter, r *http.Request) {
	a.render(w, r, http.StatusOK, "password", nil)
}

func (a *app) changePassword(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	password := r.PostFormValue("password")
	err := errPasswordsDiffer
	if password == r.PostFormValue("again") {
		err = a.people.setPassword(s.User(), password)
	}
	if err != nil {
		a.render(w, r, http.StatusUnprocessableEntity, "password", map[string]any{"Err": err})
		return
	}
	// Whoever logged in with the old password is out, and so is whoever has a copy of this session's cookie.
	if _, err := a.sessions.EndOtherSessions(r.Context()); err != nil {
		a.fail(w, r, err)
		return
	}
	s.Regenerate()
	flash.Set(s, notice{Text: "The password is changed, and all your other devices are logged out."})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

var errPasswordsDiffer = errors.New("the two are not the same")

// sessionFailed is the Options.ErrorHandler.
func (a *app) sessionFailed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, session.ErrGone) {
		// It was logged out from elsewhere, a moment ago. The library leaves the cookie alone, as this request may
		// have been under way while its browser logged in again. So whoever sits there decides.
		a.renderPage(w, http.StatusConflict, "ended", &page{})
		return
	}
	a.fail(w, r, err)
}

// fail answers that the store is down. It does not use the session.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "err", err)
	a.renderPage(w, http.StatusServiceUnavailable, "unavailable", &page{})
}

// startOver forgets the cookie of a session that has ended. There is no token for it, and it changes nothing else.
func (a *app) startOver(w http.ResponseWriter, r *http.Request) {
	if session.FromContext(r.Context()).User() == "" {
		http.SetCookie(w, &http.Cookie{
			Name: a.cookie, Path: "/", MaxAge: -1, Secure: a.tls, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
