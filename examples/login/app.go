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
	wanted     session.Key[string] = "wanted" // the page that the password was asked for
)

func newApp(store session.Store, secret []byte, people *accounts, tls bool, renew, fresh time.Duration) (*app, error) {
	a := &app{people: people, fresh: fresh}
	cookie, device := session.Cookie{Name: "__Host-session"}, &session.DeviceBinding{Exclude: []string{"/static/"}}
	if !tls {
		device = nil
		cookie = session.Cookie{Name: "session", InsecureHTTP: true} // browsers take a __Host- cookie over TLS alone
	}
	var err error
	a.sessions, err = session.New(store, secret, &session.Options{
		Cookie:          cookie,
		AbsoluteTimeout: rememberFor,
		RenewInterval:   renew,
		Device:          device, // where the browser can, a copied cookie is worth minutes
		ErrorHandler:    a.sessionFailed,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.member(a.home))
	mux.HandleFunc("GET /login", a.loginPage)
	mux.HandleFunc("POST /login", a.login) // with no form token: CrossOriginProtection is enough, and nobody is kept out
	mux.HandleFunc("POST /logout", a.member(a.form("/", a.logout)))
	mux.HandleFunc("GET /devices", a.member(a.devices))
	mux.HandleFunc("POST /devices/end", a.member(a.form("/devices", a.endDevice)))
	mux.HandleFunc("POST /devices/end-others", a.member(a.form("/devices", a.endOthers)))
	mux.HandleFunc("GET /confirm", a.member(a.confirmPage))
	mux.HandleFunc("POST /confirm", a.member(a.form("/confirm", a.confirm)))
	// A thief with a copy of the cookie is to see nothing here: the browser proves which device it is on, or asks for the password.
	mux.Handle("GET /data", a.sessions.RequireDevice(fresh, a.member(a.data), a.member(a.freshly(a.data))))
	mux.HandleFunc("GET /password", a.member(a.freshly(a.passwordPage)))
	mux.HandleFunc("POST /password", a.member(a.form("/password", a.freshly(a.changePassword))))
	mux.Handle("GET /static/", static)
	sameOrigin := http.NewCrossOriginProtection().Handler(mux)
	// The limit is outside the sessions, or the server could not close the connection of a client that goes on sending.
	a.Handler = securityHeaders(http.MaxBytesHandler(a.sessions.Handler(sameOrigin), 16<<10))
	return a, nil
}

// member is for those who are logged in. Others are sent to the login, and nothing is stored of them: a late request of
// somebody who has just logged out must not set a cookie.
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
			wanted.Set(session.FromContext(r.Context()), r.URL.Path)
			http.Redirect(w, r, "/confirm", http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

// form is for what a form of a member's sends: each has a token, good for one time and for the session it was made for. A request
// without a valid one is sent to the page of the form.
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
	a.render(w, r, http.StatusOK, "login", map[string]any{"Ended": s.WasUnknown(), "Locked": s.Device().Locked})
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
	s.SetUser(user) // another cookie: whoever knew the old one does not come along
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
	list, err := a.sessions.Sessions(r.Context(), session.OfUser(session.FromContext(r.Context()).User()))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	slices.SortStableFunc(list, func(x, y session.SessionInfo) int {
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
	_, err := a.sessions.EndSessions(r.Context(), session.OfUser(s.User()).One(r.PostFormValue("handle")))
	if err != nil && !errors.Is(err, session.ErrNotFound) { // it may have ended by itself
		a.fail(w, r, err)
		return
	}
	flash.Set(s, notice{Text: "That device is logged out."})
	http.Redirect(w, r, "/devices", http.StatusSeeOther)
}

func (a *app) endOthers(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if _, err := a.sessions.EndSessions(r.Context(), session.OfUser(s.User()).Others()); err != nil {
		a.fail(w, r, err)
		return
	}
	flash.Set(s, notice{Text: "All your other devices are logged out."})
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
	page, ok := wanted.Pop(s)
	if !ok {
		page = "/"
	}
	http.Redirect(w, r, page, http.StatusSeeOther)
}

func (a *app) data(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	list, err := a.sessions.Sessions(r.Context(), session.OfUser(s.User()))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.render(w, r, http.StatusOK, "data", map[string]any{"Sessions": list, "Proven": s.Device().Proven})
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
	if _, err := a.sessions.EndSessions(r.Context(), session.OfUser(s.User()).Others()); err != nil {
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
		// It was logged out a moment ago, or has just logged in: this request came too late, and changes nothing.
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
