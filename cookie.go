package session

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/session/internal/codec"
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
	// Former are scopes that the cookie had before a change of Path or Domain. Browsers take a cookie of another scope for
	// another cookie: without this, the one from before stays, and comes along with each request. The cookies named here are
	// removed with the answer that sets the cookie next, or removes it. Empty means that there are none.
	Former []CookieScope
	// SameSite is the attribute of that name; zero means http.SameSiteLaxMode.
	SameSite http.SameSite
	// Partitioned keeps the cookie apart for each site that embeds this one (CHIPS, draft-cutler-httpbis-partitioned-cookies):
	// a session within a frame then is another one on every site around it. It needs Secure, and SameSite to be
	// http.SameSiteNoneMode to be of use. Without it, browsers block such cookies more and more. After a change, name the
	// scope before in Former. A session can be found by either cookie meanwhile.
	Partitioned bool
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

// A CookieScope says where a browser sends a cookie. Its fields are those of Cookie.
type CookieScope struct {
	Path, Domain string
	Partitioned  bool
}

const (
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

const (
	nameSize  = 16
	keySize   = 16
	countSize = 4
	macSize   = sha256.Size
	tokenSize = nameSize + keySize + countSize + macSize
)

var (
	cookieEncoding = base64.RawURLEncoding.Strict()
	encodedSize    = cookieEncoding.EncodedLen(tokenSize)
)

// A token is what a client holds to prove that a session is its own.
type token struct {
	name   [nameSize]byte // of the session, from its first save to its end: 128 random bits
	key    [keySize]byte  // the secret part, which each login replaces: 128 random bits
	count  uint32         // of the renewals
	secret int32          // which of the manager's secrets signed it
}

// newToken returns the token of a new session.
func newToken() token {
	t := token{count: 1}
	rand.Read(t.name[:]) // never fails: the program ends instead
	rand.Read(t.key[:])
	return t
}

// id returns where the session's record is.
func (t *token) id() ID { return sha256.Sum256(t.name[:]) }

// keyHash returns what the record has of the token's key.
func (t *token) keyHash() codec.KeyHash {
	const purpose = "session key:" // no other hash is made of what begins like this
	var b [len(purpose) + keySize]byte
	copy(b[copy(b[:], purpose):], t.key[:])
	sum := sha256.Sum256(b[:])
	return codec.KeyHash(sum[:len(codec.KeyHash{})])
}

// same reports whether two tokens are the same to their client, whichever secret signed them.
func (t *token) same(other *token) bool {
	return t.name == other.name && t.key == other.key && t.count == other.count
}

// supersedes reports whether t is a newer cookie of the same session as other, or the same one.
func (t *token) supersedes(other *token) bool {
	return t.name == other.name && t.key == other.key && t.count >= other.count
}

// A signer makes and checks tokens as text, for one cookie or other transport. It is immutable and safe for concurrent use.
type signer struct {
	purpose []byte    // what each MAC begins with
	keys    []*macKey // the first one signs, all verify
}

// A cookieSigner makes and checks the values of one cookie.
type cookieSigner struct {
	signer
	name    string
	scope   string   // the attributes before the lifetime,
	flags   string   // and those behind it
	removes []string // lines that remove the cookie where it was before
}

// A macKey is a secret with its HMAC states, which are costly to set up.
type macKey struct {
	secret []byte
	pool   sync.Pool
}

// A macState is an HMAC with room for what goes in and comes out of it: passed to the hash.Hash interface, a
// local array would be allocated each time.
type macState struct {
	hash.Hash
	buf [96]byte // what is signed has less, but for what is signed rarely
}

// newSigner returns the signer of a transport. Its signatures are good for no other transport, and for
// no manager whose cookie has another name.
func newSigner(transport, name string, keys []*macKey) signer {
	return signer{codec.Joined("session token", transport, name), keys}
}

func newCookieSigner(c Cookie, keys []*macKey) *cookieSigner {
	s := &cookieSigner{signer: newSigner("cookie", c.Name, keys), name: c.Name, removes: c.removals()}
	sample := c.cookie("", 0)
	sample.MaxAge = 1
	before, after, _ := strings.Cut(sample.String(), "; Max-Age=1")
	s.scope, s.flags = strings.TrimPrefix(before, c.Name+"="), after
	return s
}

func newMacKey(secret []byte) *macKey {
	secret = append([]byte(nil), secret...) // the caller may wipe its own
	return &macKey{secret, sync.Pool{New: func() any { return &macState{Hash: hmac.New(sha256.New, secret)} }}}
}

// sum returns HMAC-SHA256(secret, purpose ‖ data), where purpose says how long it is itself, and of data always has the
// same length.
func (k *macKey) sum(purpose, data []byte) [macSize]byte {
	h := k.pool.Get().(*macState)
	defer k.pool.Put(h)
	h.Reset()
	h.Write(purpose)
	h.Write(append(h.buf[:0], data...))
	return [macSize]byte(h.Sum(h.buf[:0]))
}

// signed appends the parts of the token that the MAC covers.
func (t *token) signed(b []byte) []byte {
	b = append(append(b, t.name[:]...), t.key[:]...)
	return binary.BigEndian.AppendUint32(b, t.count)
}

// appendText appends the token as text.
func (s *signer) appendText(b []byte, t *token) []byte {
	raw := t.signed(make([]byte, 0, tokenSize))
	sum := s.keys[0].sum(s.purpose, raw)
	return cookieEncoding.AppendEncode(b, append(raw, sum[:]...))
}

// setCookie returns the line that sets the cookie to the token, until a time in Unix milliseconds, or until the browser is
// closed if that is 0. It is http.Cookie.String without the garbage.
func (s *cookieSigner) setCookie(t *token, expires int64, now time.Time) string {
	b := append(append(make([]byte, 0, 256), s.name...), '=')
	b = append(s.appendText(b, t), s.scope...)
	if expires != 0 {
		left := min(expires-now.UnixMilli(), maxCookieAge.Milliseconds())
		age := max(time.Duration(left)*time.Millisecond, time.Second)
		b = now.Add(age).UTC().AppendFormat(append(b, "; Expires="...), http.TimeFormat)
		b = strconv.AppendInt(append(b, "; Max-Age="...), int64(age/time.Second), 10)
	}
	return string(append(b, s.flags...))
}

// verify returns the token in a text, if that passes the check. Only the one canonical form does.
func (s *signer) verify(value string) (token, bool) {
	if len(value) != encodedSize {
		return token{}, false
	}
	var text [tokenSize*4/3 + 2]byte
	var raw [tokenSize]byte
	if n, err := cookieEncoding.Decode(raw[:], text[:copy(text[:], value)]); err != nil || n != len(raw) {
		return token{}, false
	}
	for i, k := range s.keys {
		if sum := k.sum(s.purpose, raw[:tokenSize-macSize]); hmac.Equal(sum[:], raw[tokenSize-macSize:]) {
			t := token{secret: int32(i), count: binary.BigEndian.Uint32(raw[nameSize+keySize:])}
			copy(t.name[:], raw[:])
			copy(t.key[:], raw[nameSize:])
			return t, true
		}
	}
	return token{}, false
}

// refusal says why a signer refuses a value.
func refusal(value string) Reason {
	if raw, err := cookieEncoding.DecodeString(value); err != nil || len(raw) != tokenSize {
		return ReasonMalformed
	}
	return ReasonBadSignature
}

// derived returns the token of the session that an old system's session became: whoever has its cookie finds it with
// the server's help, and nobody else can, not with a copy of the store either.
func (s *cookieSigner) derived(secret int, old ID, nonce []byte) token {
	purpose := codec.Joined("session migration", s.name, string(old[:]))
	sum := s.keys[secret].sum(purpose, nonce)
	t := token{count: 1, secret: int32(secret)}
	copy(t.name[:], sum[:])
	copy(t.key[:], sum[nameSize:])
	return t
}

// sessionCipher returns the cipher of a session's payload by one of the secrets, nil after the last of them.
func (m *Manager) sessionCipher(secret int, t *token) *codec.Cipher {
	if secret >= len(m.signer.keys) {
		return nil
	}
	return codec.NewSessionCipher(m.signer.keys[secret].secret, &t.name, &t.key)
}

// sealer returns the cipher for what is to be saved, nil if it is not to be encrypted.
func (m *Manager) sealer(t *token) *codec.Cipher {
	if !m.encrypt {
		return nil
	}
	return m.sessionCipher(0, t)
}

// A cookiePos is how far a request's cookies have been gone through.
type cookiePos struct {
	lines, bytes int // whole Cookie lines, and bytes of the next one
	found        int // cookies of the name
}

// next returns the value of the next cookie of the name in the header's Cookie lines, of which the first maxCookies count,
// and moves pos on. It is http.Request.CookiesNamed without the garbage.
func (pos *cookiePos) next(header http.Header, name string) (string, bool) {
	for lines := header["Cookie"]; pos.lines < len(lines) && pos.found < maxCookies; {
		rest := lines[pos.lines][pos.bytes:]
		if rest == "" {
			pos.lines, pos.bytes = pos.lines+1, 0
			continue
		}
		part, _, more := strings.Cut(rest, ";")
		if pos.bytes += len(part); more {
			pos.bytes++
		}
		value, ok := strings.CutPrefix(strings.Trim(part, " \t"), name)
		if !ok || value == "" || value[0] != '=' {
			continue
		}
		value = value[1:]
		if end := len(value) - 1; end > 0 && value[0] == '"' && value[end] == '"' {
			value = value[1:end]
		}
		pos.found++
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
	for _, text := range cookieFaults(c.Name, c.Path, c.Domain) {
		fault("%s", text)
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
	for i := range c.Former {
		for _, text := range c.formerFaults(i) {
			fault("Former[%d]: %s", i, text)
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
	if c.InsecureHTTP && (c.SameSite == http.SameSiteNoneMode || c.Partitioned) {
		fault("SameSite=None and Partitioned ask for Secure")
	}
	if c.SameSite < http.SameSiteDefaultMode || c.SameSite > http.SameSiteNoneMode {
		fault("SameSite %d is unknown", c.SameSite)
	}
	return c, errors.Join(errs...)
}

// cookieFaults says what is wrong with a cookie. net/http stops at the first fault, and quotes nothing.
func cookieFaults(name, path, domain string) (faults []string) {
	for _, field := range [...]struct {
		name, value, takes string
		sample             http.Cookie
	}{
		{"Name", name, "letters, digits and !#$%&'*+-.^_`|~ in ASCII", http.Cookie{Name: name}},
		{"Path", path, "no semicolon, and printable ASCII alone", http.Cookie{Name: "x", Path: path}},
		{"Domain", domain, "a host name in ASCII, such as example.com, without scheme, port or wildcard", http.Cookie{Name: "x", Domain: domain}},
	} {
		if field.sample.Valid() != nil {
			faults = append(faults, fmt.Sprintf("%s %q is invalid: it takes %s", field.name, field.value, field.takes))
		}
	}
	return faults
}

// formerFaults says what is wrong with a former scope.
func (c *Cookie) formerFaults(i int) []string {
	scope := c.Former[i]
	faults := cookieFaults("x", scope.Path, scope.Domain)
	if scope.Path != "" && scope.Path[0] != '/' {
		faults = append(faults, fmt.Sprintf("Path %q does not start with a slash", scope.Path))
	}
	same := func(a, b string) bool {
		return strings.EqualFold(strings.TrimPrefix(a, "."), strings.TrimPrefix(b, "."))
	}
	switch {
	case cmp.Or(scope.Path, "/") == c.Path && same(scope.Domain, c.Domain) && scope.Partitioned == c.Partitioned:
		faults = append(faults, "it is the present scope, the cookie would be removed as it is set")
	case strings.HasPrefix(strings.ToLower(c.Name), "__host-") && (cmp.Or(scope.Path, "/") != "/" || scope.Domain != ""):
		faults = append(faults, fmt.Sprintf("the name %q has had no other scope", c.Name))
	}
	return faults
}

// removals returns the lines that remove the cookie where it was before.
func (c Cookie) removals() (lines []string) {
	for _, scope := range c.Former {
		c.Path, c.Domain, c.Partitioned = cmp.Or(scope.Path, "/"), scope.Domain, scope.Partitioned
		lines = append(lines, c.cookie("", -1).String())
	}
	return lines
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

		Partitioned: c.Partitioned,
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

// setCookieLine puts the cookie into the header of a response, in place of any of the same name, of which there is to be one
// at most (RFC 6265 section 4.1.1) but for those that remove it elsewhere, and keeps the response out of shared caches.
func setCookieLine(header http.Header, name, line string, removals ...string) {
	unsetCookie(header, name)
	header["Set-Cookie"] = append(append(header["Set-Cookie"], removals...), line)
	notShared(header)
}

// notShared keeps a response out of shared caches, and notStored out of all.
func notShared(header http.Header) { restrict(header, "private") }
func notStored(header http.Header) { restrict(header, "no-store") }

// restrict puts the directive into all that caches obey, which is more than Cache-Control: targeted fields (RFC 9213
// section 2) go before it, and so do Surrogate-Control (Varnish, Fastly, Squid), Edge-Control (Akamai) and X-Accel-Expires
// (nginx), which have no word for private. A handler may have written their names in another case than Set would.
func restrict(header http.Header, directive string) {
	if _, ok := header["Cache-Control"]; !ok {
		header["Cache-Control"] = nil
	}
	for name, lines := range header {
		const targeted = "Cache-Control"
		switch at := len(name) - len(targeted); {
		case at >= 0 && strings.EqualFold(name[at:], targeted):
			header[name] = []string{restricted(lines, directive)}
		case strings.EqualFold(name, "Surrogate-Control"), strings.EqualFold(name, "Edge-Control"):
			header[name] = []string{restricted(lines, "no-store")}
		case strings.EqualFold(name, "X-Accel-Expires"):
			header[name] = []string{"0"}
		}
	}
}

// unsetCookie removes the cookie from the header of a response.
func unsetCookie(header http.Header, name string) {
	if len(header["Set-Cookie"]) == 0 {
		return
	}
	lines := slices.DeleteFunc(slices.Clone(header["Set-Cookie"]), func(line string) bool {
		return strings.HasPrefix(line, name+"=")
	})
	if header["Set-Cookie"] = lines; len(lines) == 0 {
		delete(header, "Set-Cookie")
	}
}

// restricted returns the directives of Cache-Control (RFC 9111 section 5.2.2) and its like with one more: private, or
// no-store. One that is at least as strict stays as it is, and those that it contradicts go.
func restricted(lines []string, directive string) string {
	if len(lines) == 0 {
		return directive
	}
	var kept []string
	isPrivate, noStore, mustUnderstand := false, false, false
	for d := range splitDirectives(strings.Join(lines, ",")) {
		end := strings.IndexAny(d, "=;") // in Surrogate-Control, a semicolon names the cache that is meant
		bare := end < 0
		if bare {
			end = len(d)
		}
		switch strings.ToLower(strings.TrimSpace(d[:end])) {
		case "", "public", "s-maxage", "shared": // the last one is LiteSpeed's
			continue
		case "max-age", "cache-maxage", "!no-store": // the others are Akamai's
			if directive == "no-store" {
				continue
			}
		case "no-store":
			noStore = noStore || bare
		case "must-understand": // caches that know it pass over no-store (RFC 9111 section 5.2.2.3)
			mustUnderstand = true
		case "private":
			isPrivate = isPrivate || bare
			if !bare || directive == "no-store" { // with a value, it leaves all but the fields that it names to shared caches
				continue
			}
		}
		kept = append(kept, d)
	}
	if !(noStore && !mustUnderstand || isPrivate && directive == "private") {
		kept = append(kept, directive)
	}
	return strings.Join(kept, ", ")
}

// splitDirectives goes through a comma-separated list in which quoted strings may hold commas. A string that does not end
// is left out: caches differ in how they read it.
func splitDirectives(list string) func(func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i <= len(list); i++ {
			switch {
			case quoted && i == len(list):
				return
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

// vary says that the response depends on a field of the request's header (RFC 9110 section 12.5.5).
func vary(header http.Header, name string) {
	for _, line := range header["Vary"] {
		for field := range strings.SplitSeq(line, ",") {
			field = strings.TrimSpace(field)
			if field == "*" || strings.EqualFold(field, name) {
				return
			}
		}
	}
	header["Vary"] = append(header["Vary"], name)
}
