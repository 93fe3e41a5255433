package session

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Cookie says how the session cookie looks (RFC 6265bis section 4.1). Its zero value is a cookie named
// "session_id" with Path=/, Secure, HttpOnly and SameSite=Lax, which the browser forgets when it is closed.
type Cookie struct {
	// Name is the cookie's name; empty means "session_id". "__Host-session_id" is the better choice wherever
	// Domain is not needed: browsers then let no other host and no unencrypted answer set it. Managers that
	// meet in one request, or share a store, need different names.
	Name string
	// Path limits the cookie to a part of the site; empty means "/".
	Path string
	// Domain extends the cookie to all hosts below it; empty means the host that sets it, alone.
	Domain string
	// SameSite is the attribute of that name; zero means http.SameSiteLaxMode.
	SameSite http.SameSite
	// Persistent cookies survive the end of the browser and carry an expiry that slides with the session's;
	// false means a cookie that ends with the browser. A session can choose for itself, see
	// Session.SetPersistent.
	Persistent bool
	// InsecureHTTP leaves out the Secure attribute, so that the cookie also travels unencrypted. It is meant
	// for development without TLS.
	InsecureHTTP bool
	// InsecureScriptAccess leaves out the HttpOnly attribute, so that scripts, an attacker's too, can read
	// the cookie.
	InsecureScriptAccess bool
}

const (
	tokenSize = 32 // 256 bits, four times what OWASP asks for
	macSize   = sha256.Size
	// maxCookieSize bounds name, value and attributes: user agents need not keep more (RFC 6265bis section 5.6).
	maxCookieSize = 4096
	// maxAttribute is the longest attribute that user agents look at (RFC 6265bis section 5.6).
	maxAttribute = 1024
	// maxCookieAge is the longest life that user agents grant a cookie (RFC 6265bis section 5.5).
	maxCookieAge = 400 * 24 * time.Hour
	// maxCookies bounds how many cookies of the session's name are checked in one request: browsers keep less than 200 for
	// a site, so that no others can push the genuine one out of sight.
	maxCookies = 200
	// maxCandidates bounds how many genuine ones are looked for in the store.
	maxCandidates = 8
	// minSecret is the least length of a secret in bytes: that of the MAC's output (RFC 2104 section 3).
	minSecret = 32
)

var (
	cookieEncoding = base64.RawURLEncoding.Strict()
	encodedSize    = cookieEncoding.EncodedLen(tokenSize + macSize)
)

// A token is what a client holds to prove that a session is its own. Nothing but the cookie carries it.
type token [tokenSize]byte

// newToken returns 256 random bits.
func newToken() token {
	var t token
	rand.Read(t[:]) // never fails: the program ends instead
	return t
}

// id returns the name of the record that belongs to the token.
func (t *token) id() ID { return sha256.Sum256(t[:]) }

// A signer makes and checks the values of one cookie. It is immutable and safe for concurrent use.
type signer struct {
	name string
	keys []*macKey // the first one signs, all verify
}

// A macKey is a secret with its HMAC states, which are costly to set up.
type macKey struct{ pool sync.Pool }

// A macState is an HMAC with room for what goes in and comes out of it: passed to the hash.Hash interface, a
// local array would be allocated each time.
type macState struct {
	hash.Hash
	buf [128]byte
}

func newSigner(name string, secrets [][]byte) *signer {
	s := &signer{name: name}
	for _, secret := range secrets {
		secret := append([]byte(nil), secret...) // the caller may wipe its own
		s.keys = append(s.keys, &macKey{sync.Pool{New: func() any { return &macState{Hash: hmac.New(sha256.New, secret)} }}})
	}
	return s
}

// sum returns HMAC-SHA256(secret, first ‖ second).
func (k *macKey) sum(first string, second []byte) [macSize]byte {
	h := k.pool.Get().(*macState)
	defer k.pool.Put(h)
	h.Reset()
	h.Write(append(append(h.buf[:0], first...), second...))
	return [macSize]byte(h.Sum(h.buf[:0]))
}

// sign returns the cookie's value for the token.
func (s *signer) sign(t *token) string {
	sum := s.keys[0].sum(s.name, t[:])
	return cookieEncoding.EncodeToString(slices.Concat(t[:], sum[:]))
}

// verify checks a cookie's value, and sets l's token if it passes. Only the one canonical form of a value does.
func (s *signer) verify(value string, l *link) bool {
	if len(value) != encodedSize {
		return false
	}
	var text [(tokenSize+macSize)*4/3 + 2]byte
	var raw [tokenSize + macSize]byte
	if n, err := cookieEncoding.Decode(raw[:], text[:copy(text[:], value)]); err != nil || n != len(raw) {
		return false
	}
	t := token(raw[:tokenSize])
	for i, k := range s.keys {
		if sum := k.sum(s.name, t[:]); hmac.Equal(sum[:], raw[tokenSize:]) {
			*l = link{token: t, key: i}
			return true
		}
	}
	return false
}

// refusal says why a signer refuses a value.
func refusal(value string) string {
	if raw, err := cookieEncoding.DecodeString(value); err != nil || len(raw) != tokenSize+macSize {
		return "malformed"
	}
	return "not signed with a known secret"
}

// successor derives the token that follows t when its record is sealed with the nonce: whoever holds t can
// find it with the server's help, and nobody else can, not with a copy of the store either.
func (s *signer) successor(key int, t *token, nonce []byte) token {
	return s.keys[key].sum(string(t[:]), nonce)
}

// A cookiePos is how far a request's cookies have been gone through.
type cookiePos struct {
	lines, bytes     int // whole Cookie lines, and bytes of the next one
	checked, genuine int // cookies of the name
}

// next returns the value of the next cookie of the name in the header's Cookie lines, and moves pos on. It is
// http.Request.CookiesNamed without the garbage.
func (s *signer) next(header http.Header, pos *cookiePos) (string, bool) {
	for lines := header["Cookie"]; pos.lines < len(lines); {
		rest := lines[pos.lines][pos.bytes:]
		if rest == "" {
			pos.lines, pos.bytes = pos.lines+1, 0
			continue
		}
		part, _, more := strings.Cut(rest, ";")
		if pos.bytes += len(part); more {
			pos.bytes++
		}
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		if !ok || name != s.name {
			continue
		}
		if end := len(value) - 1; end > 0 && value[0] == '"' && value[end] == '"' {
			value = value[1:end]
		}
		return value, true
	}
	return "", false
}

// check returns the cookie with its defaults filled in, or all that is wrong with it.
func (c Cookie) check() (Cookie, error) {
	if c.Name == "" {
		c.Name = "session_id"
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("session: Options.Cookie: "+format, args...))
	}
	for _, field := range [...]http.Cookie{{Name: c.Name}, {Name: "x", Path: c.Path}, {Name: "x", Domain: c.Domain}} {
		if err := field.Valid(); err != nil { // it stops at the first fault
			fault("%s", strings.TrimPrefix(err.Error(), "http: "))
		}
	}
	if c.Path[0] != '/' {
		fault("Path %q does not start with a slash", c.Path)
	}
	if n := max(len(c.Path), len(c.Domain)); n > maxAttribute {
		fault("Path or Domain has %d bytes; browsers ignore more than %d", n, maxAttribute)
	}
	if len(errs) == 0 { // String logs what it does not like
		sample := c.cookie(strings.Repeat("A", encodedSize), maxCookieAge)
		if n := len(sample.String()); n > maxCookieSize {
			fault("name and attributes are too long: the cookie has %d bytes, browsers keep %d", n, maxCookieSize)
		}
	}
	lower := strings.ToLower(c.Name) // browsers compare the prefixes without regard to case
	switch {
	case strings.HasPrefix(lower, "__host-"):
		if c.Domain != "" || c.Path != "/" || c.InsecureHTTP {
			fault("the name %q asks for Path=/, no Domain, and Secure", c.Name)
		}
	case strings.HasPrefix(lower, "__secure-"):
		if c.InsecureHTTP {
			fault("the name %q asks for Secure", c.Name)
		}
	}
	if strings.HasPrefix(lower, "__http-") || strings.HasPrefix(lower, "__host-http-") {
		if c.InsecureScriptAccess || c.InsecureHTTP {
			fault("the name %q asks for Secure and HttpOnly", c.Name)
		}
	}
	if c.SameSite == http.SameSiteNoneMode && c.InsecureHTTP {
		fault("SameSite=None asks for Secure")
	}
	if c.SameSite < http.SameSiteDefaultMode || c.SameSite > http.SameSiteNoneMode {
		fault("SameSite %d is unknown", c.SameSite)
	}
	return c, errors.Join(errs...)
}

// cookie returns the cookie for a value. It ends with the browser if maxAge is 0, and at once if it is
// negative.
func (c Cookie) cookie(value string, maxAge time.Duration) *http.Cookie {
	cookie := &http.Cookie{
		Name:     c.Name,
		Value:    value,
		Path:     c.Path,
		Domain:   c.Domain,
		SameSite: c.SameSite,
		Secure:   !c.InsecureHTTP,
		HttpOnly: !c.InsecureScriptAccess,
	}
	switch {
	case maxAge < 0:
		cookie.MaxAge = -1
		cookie.Expires = time.Unix(1, 0) // for clients that know no Max-Age
	case maxAge > 0:
		maxAge = min(maxAge, maxCookieAge)
		cookie.MaxAge = max(1, int(maxAge/time.Second))
		cookie.Expires = time.Now().Add(maxAge)
	}
	return cookie
}

// set puts the cookie into the header of a response, in place of any of the same name, of which there is to be one
// at most (RFC 6265 section 4.1.1), and keeps the response out of shared caches.
func (c Cookie) set(header http.Header, cookie *http.Cookie) {
	c.unset(header)
	header["Set-Cookie"] = append(header["Set-Cookie"], cookie.String())
	notShared(header)
}

// notShared keeps a response out of shared caches.
func notShared(header http.Header) {
	for _, name := range [...]string{"Cache-Control", "Cdn-Cache-Control", "Surrogate-Control"} {
		if lines, ok := header[name]; ok || name == "Cache-Control" {
			header[name] = []string{private(lines)}
		}
	}
}

// unset removes the cookie from the header of a response.
func (c Cookie) unset(header http.Header) {
	lines := slices.DeleteFunc(slices.Clone(header["Set-Cookie"]), func(line string) bool {
		return strings.HasPrefix(line, c.Name+"=")
	})
	if header["Set-Cookie"] = lines; len(lines) == 0 {
		delete(header, "Set-Cookie")
	}
}

// private returns the Cache-Control directives (RFC 9111 section 5.2.2) with shared caches shut out. A
// directive that is at least as strict stays as it is.
func private(lines []string) string {
	var kept []string
	isPrivate, noStore, mustUnderstand := false, false, false
	for directive := range splitDirectives(strings.Join(lines, ",")) {
		name, _, hasValue := strings.Cut(directive, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "":
			continue
		case "public", "s-maxage":
			continue
		case "no-store":
			noStore = true
		case "must-understand": // caches that know it pass over no-store (RFC 9111 section 5.2.2.3)
			mustUnderstand = true
		case "private":
			if hasValue { // names header fields, and leaves the rest to shared caches
				continue
			}
			isPrivate = true
		}
		kept = append(kept, directive)
	}
	if !isPrivate && (!noStore || mustUnderstand) {
		kept = append(kept, "private")
	}
	return strings.Join(kept, ", ")
}

// splitDirectives goes through a comma-separated list in which quoted strings may hold commas.
func splitDirectives(list string) func(func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i <= len(list); i++ {
			switch {
			case i == len(list) || list[i] == ',' && !quoted:
				if !yield(strings.TrimSpace(list[start:i])) {
					return
				}
				start = i + 1
			case list[i] == '"':
				quoted = !quoted
			case list[i] == '\\' && quoted:
				i++
			}
		}
	}
}

// varyCookie says that the response depends on the request's cookies (RFC 9110 section 12.5.5).
func varyCookie(header http.Header) {
	for _, line := range header["Vary"] {
		for field := range strings.SplitSeq(line, ",") {
			field = strings.TrimSpace(field)
			if field == "*" || strings.EqualFold(field, "Cookie") {
				return
			}
		}
	}
	header["Vary"] = append(header["Vary"], "Cookie")
}
