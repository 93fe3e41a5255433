package dbsc

import (
	"encoding/json"
	"net/http"
	"strings"
)

// The headers of the protocol.
const (
	Registration = "Secure-Session-Registration"
	Challenge    = "Secure-Session-Challenge"
	Response     = "Secure-Session-Response"
	Identifier   = "Sec-Secure-Session-Id"
	Skipped      = "Secure-Session-Skipped"
)

// Instructions are what a browser is told of its key.
type Instructions struct {
	Identifier string   `json:"session_identifier"`
	Continue   *bool    `json:"continue,omitempty"`
	RefreshURL string   `json:"refresh_url,omitempty"`
	Scope      *Scope   `json:"scope,omitempty"`
	Cookies    []Cookie `json:"credentials,omitempty"`
	Initiators []string `json:"allowed_refresh_initiators,omitempty"`
}

// A Scope says which requests have to carry the cookie. Without an origin, it is that of the browser's request.
type Scope struct {
	Origin      string `json:"origin,omitempty"`
	IncludeSite bool   `json:"include_site"`
	Rules       []Rule `json:"scope_specification,omitempty"`
}

// A Rule is an exception.
type Rule struct {
	Type   string `json:"type"`
	Domain string `json:"domain"`
	Path   string `json:"path"`
}

// A Cookie is what the browser has to have for its requests.
type Cookie struct {
	Type       string `json:"type"`
	Name       string `json:"name"`
	Attributes string `json:"attributes"`
}

// Send answers a browser's request with the instructions.
func (i *Instructions) Send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(i)
}

// String returns a header that is a string (RFC 9651 section 3.3.3). Chromium sends it without the quotes.
func String(header http.Header, name string) string {
	value := header.Get(name)
	if quoted, ok := strings.CutPrefix(value, `"`); ok {
		value, _, _ = strings.Cut(quoted, `"`)
	}
	return value
}
