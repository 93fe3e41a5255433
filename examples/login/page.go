package main

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"example.com/session"
)

// A page is what the templates get.
type page struct {
	User   string
	Notice *notice
	Data   any

	session *session.Session
	token   template.HTML
}

// A notice is shown once, on the next page.
type notice struct {
	Bad  bool
	Text string
}

// FormToken returns the hidden field that every form has. The forms of a page share one token: only one of them is
// going to be sent.
func (p *page) FormToken() template.HTML {
	if p.token == "" {
		p.token = p.session.FormTokenInput()
	}
	return p.token
}

// render answers with a page for whoever the session belongs to.
func (a *app) render(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	s := session.FromContext(r.Context())
	p := &page{User: s.User(), Data: data, session: s}
	if n, ok := flash.Pop(s); ok {
		p.Notice = &n
	}
	a.renderPage(w, status, name, p)
}

// renderPage makes the whole page before it sends any of it: form tokens need the header, and a fault in a template
// is no half page.
func (a *app) renderPage(w http.ResponseWriter, status int, name string, p *page) {
	var b bytes.Buffer
	if err := templates[name].ExecuteTemplate(&b, "base", p); err != nil {
		slog.Error("template failed", "page", name, "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store") // after a logout, "back" must not show it
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

//go:embed pages static
var files embed.FS

var static = http.FileServerFS(files)

var templates = parse("home", "login", "devices", "confirm", "data", "password", "ended", "unavailable")

func parse(names ...string) map[string]*template.Template {
	functions := template.FuncMap{"relative": relative, "device": device}
	pages := make(map[string]*template.Template)
	for _, name := range names {
		t := template.New(name).Funcs(functions)
		pages[name] = template.Must(t.ParseFS(files, "pages/base.html", path.Join("pages", name+".html")))
	}
	return pages
}

// securityHeaders sets what the pages allow browsers to do: little.
func securityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "+
			"base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// relative says how far away a time is: the server does not know what the user's clock shows.
func relative(t time.Time) string {
	d := time.Until(t).Round(time.Second)
	text := span(d.Abs())
	switch {
	case text == "":
		return "just now"
	case d < 0:
		return text + " ago"
	}
	return "in " + text
}

func span(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		switch n := int((d + unit.length/2) / unit.length); {
		case d < unit.length:
		case n == 1:
			return "1 " + unit.name
		default:
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return ""
}

// device makes what a user recognizes out of a User-Agent header. The order matters: most browsers name others too.
func device(userAgent string) string {
	find := func(names ...string) string {
		for _, name := range names {
			mark, name, _ := strings.Cut(name, "=")
			if strings.Contains(userAgent, mark) {
				return name
			}
		}
		return ""
	}
	browser := find("Edg=Edge", "OPR/=Opera", "Firefox/=Firefox", "Chrom=Chrome", "Safari/=Safari", "curl/=curl")
	system := find("Android=Android", "iPhone=iPhone", "iPad=iPad", "Windows=Windows", "Mac OS X=Mac", "Linux=Linux")
	switch {
	case browser == "":
		return "Unknown browser"
	case system == "":
		return browser
	}
	return browser + " on " + system
}
