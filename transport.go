package session

import (
	"context"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// A token travels in a cookie or, from clients that send the header of Options.TokenHeader, in that header. The signature
// covers the transport, so that what one carried is worth nothing in another: no script of a page can make a token to be
// copied of a cookie that it can only send, or the other way round.

// HasToken reports whether the request carries a session cookie, or a token in the header of Options.TokenHeader, that
// this manager signed, without a look at the store: the session may have ended. It is there if Session.ID is not the zero
// ID. A token that is refused is no Event here, but when the session is loaded.
func (m *Manager) HasToken(r *http.Request) bool {
	_, ok, _ := m.tokens(r, m.inHeader(r), false)
	return ok
}

// inHeader reports whether the request is of a client that has its token in a header: it sends that, empty if need be.
func (m *Manager) inHeader(r *http.Request) bool {
	if m.tokenHeader == "" {
		return false
	}
	_, ok := r.Header[m.tokenHeader]
	return ok
}

// tokens returns those of the request that pass the check: the first one, and the others. Of several with one name and
// key, the one with the highest count is there. A client that sends the header has no other token, whatever that is worth.
// The caller says which client it is, as the request came: a handler may have changed the header since, and the session of
// one transport's token must not be answered in the other.
func (m *Manager) tokens(r *http.Request, inHeader, observe bool) (first token, ok bool, others []token) {
	if inHeader {
		if value := strings.Join(r.Header[m.tokenHeader], ", "); value != "" { // of two, neither is to be trusted
			first, ok = m.checkToken(r.Context(), &m.bearer, value, observe)
		}
		return first, ok, nil
	}
	var pos cookiePos
	for len(others) < maxCandidates-1 {
		value, more := pos.next(r.Header, m.signer.name)
		if !more {
			break
		}
		t, genuine := m.checkToken(r.Context(), &m.signer.signer, value, observe)
		switch {
		case !genuine:
		case !ok:
			first, ok = t, true
		case first.supersedes(&t) || slices.ContainsFunc(others, func(o token) bool { return o.supersedes(&t) }):
		case t.supersedes(&first):
			first = t
		default:
			others = slices.DeleteFunc(others, func(o token) bool { return t.supersedes(&o) })
			others = append(others, t)
		}
	}
	return first, ok, others
}

// checkToken returns the token in a text that passes the check of the transport.
func (m *Manager) checkToken(ctx context.Context, s *signer, text string, observe bool) (token, bool) {
	t, genuine := s.verify(text)
	switch {
	case !observe || m.observer == nil:
	case !genuine:
		m.observe(ctx, Event{Kind: EventCookieRefused, Reason: refusal(text)})
	case t.secret > 0:
		by := ReasonCookie
		if s == &m.bearer {
			by = ReasonHeader
		}
		m.observe(ctx, Event{Kind: EventOldSecret, ID: t.id(), Reason: by})
	}
	return t, genuine
}

// setToken puts the session's token where the client looks for it, if it needs one, and reports whether it did.
func (x *exchange) setToken(c *core) bool {
	action, t := c.cookie()
	x.tellDevice(c, action)
	if c.logout && x.m.clearData != "" && !x.inHeader {
		if !slices.Contains(x.w.Header()[clearSiteData], x.m.clearData) {
			x.w.Header().Add(clearSiteData, x.m.clearData)
		}
		x.tellOuter(headerField + clearSiteData)
	}
	switch {
	case action == keepCookie:
		return false
	case x.inHeader:
		x.w.Header()[x.m.tokenHeader] = []string{x.m.bearerText(action, &t)}
		notStored(x.w.Header())
		x.tellOuter(headerField + x.m.tokenHeader)
	case action == setCookie:
		x.setCookie(x.m.signer.setCookie(&t, c.cookieExpires(), x.m.now()))
	default:
		x.setCookie(x.m.cookie.cookie("", -1).String())
	}
	return true
}

// bearerText returns what a client that keeps its token by hand is to send from now on: the token, or nothing.
func (m *Manager) bearerText(action cookieAction, t *token) string {
	if action == removeCookie {
		return ""
	}
	return string(m.bearer.appendText(nil, t))
}

const clearSiteData = "Clear-Site-Data"

// headerField begins the name of a header's field among those of cookies, where no cookie's does.
const headerField = ":"

// setCookie puts the line of the session's cookie into the header. Whichever it is, it takes the place of the old system's.
func (x *exchange) setCookie(line string) {
	name := x.m.signer.name
	setCookieLine(x.w.Header(), name, line, x.m.signer.removes...)
	x.tellOuter(name)
	if x.oldCookie() != "" {
		old := &x.m.migration.Cookie
		setCookieLine(x.w.Header(), old.Name, old.String())
		x.tellOuter(old.Name)
	}
}

// unsetToken takes the token out of the header again. Cache-Control stays as setToken left it.
func (x *exchange) unsetToken() {
	if x.inHeader {
		delete(x.w.Header(), x.m.tokenHeader)
		return
	}
	unsetCookie(x.w.Header(), x.m.signer.name)
	if x.oldCookie() != "" {
		unsetCookie(x.w.Header(), x.m.migration.Cookie.Name)
	}
	if b := x.m.binder; b.on {
		unsetCookie(x.w.Header(), b.cookie.Name)
		b.withdraw(x.w.Header())
	}
}

// vary says by what the response was chosen.
func (x *exchange) vary() {
	vary(x.w.Header(), "Cookie")
	if x.m.tokenHeader != "" {
		vary(x.w.Header(), x.m.tokenHeader)
	}
}

// tokenHeader checks the name of the header, and returns it as it is in an http.Header.
func (f *faults) tokenHeader(name string) string {
	if name == "" {
		return ""
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	valid := &http.Cookie{Name: name} // of the same letters
	switch {
	case valid.Valid() != nil:
		f.add("Options.TokenHeader %q is invalid: it takes letters, digits and !#$%%&'*+-.^_`|~ in ASCII", name)
	case slices.Contains(takenHeaders, canonical) || strings.HasPrefix(canonical, "Sec-") || strings.HasPrefix(canonical, "Proxy-"):
		f.add("Options.TokenHeader %q has a meaning of its own: choose another, such as Session-Token", name)
	}
	return canonical
}

// takenHeaders are those that others read or write on the way of a token.
var takenHeaders = []string{
	"Accept", "Authorization", "Cache-Control", "Connection", "Content-Length", "Content-Type", "Cookie", "Date", "Expect", "Host",
	"Keep-Alive", "Location", "Origin", "Referer", "Server", "Set-Cookie", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"User-Agent", "Vary", "Via", "Www-Authenticate",
}
