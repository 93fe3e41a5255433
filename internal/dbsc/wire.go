package dbsc

import (
	"encoding/json"
	"iter"
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

// Skips goes through what the header Skipped says, and yields the identifier of each key that the browser could not prove
// possession of, or "" where it names none.
func Skips(header http.Header) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range header[Skipped] {
			for reason := range strings.SplitSeq(line, ",") {
				_, identifier, _ := strings.Cut(reason, `session_identifier=`)
				if quoted, ok := strings.CutPrefix(identifier, `"`); ok {
					identifier, _, _ = strings.Cut(quoted, `"`)
				}
				if !yield(identifier) {
					return
				}
			}
		}
	}
}
