package session

import (
	"crypto/sha256"
	"net/http"
	"net/netip"

	"example.com/session/internal/codec"
)

// A bound session is good for those requests alone that show the same features as the one that created it. It makes
// a stolen cookie harder to use, at the price of logging out people whose features change: a User-Agent changes
// with an update, an address when a phone leaves the house (OWASP Session Management Cheat Sheet, "Binding the
// Session ID to Other User Properties").

// bindingSize is how many bytes of the hash of a binding a session keeps.
const bindingSize = 16

// BindUserAgent is for Options.Bind: a session is good for one User-Agent.
func BindUserAgent(r *http.Request) string { return r.UserAgent() }

// BindNetwork returns a function for Options.Bind that makes a session good for one network: the first v4 bits of
// an IPv4 address, or the first v6 bits of an IPv6 address, of which 24 and 56 are usual. A nil clientAddr means
// Options.ClientAddr. It panics if a number of bits is impossible.
func BindNetwork(v4, v6 int, clientAddr func(*http.Request) netip.Addr) func(*http.Request) string {
	if v4 < 0 || v4 > 32 || v6 < 0 || v6 > 128 {
		panic("session: BindNetwork: an address has 32 or 128 bits")
	}
	return func(r *http.Request) string {
		find := clientAddr
		if find == nil {
			find, _ = r.Context().Value(clientAddrKey{}).(func(*http.Request) netip.Addr)
		}
		if find == nil { // no manager asks
			find = connectionAddr
		}
		addr := find(r).Unmap()
		bits := v6
		if addr.Is4() {
			bits = v4
		}
		network, err := addr.WithZone("").Prefix(bits)
		if err != nil {
			return "no address"
		}
		return network.String()
	}
}

// clientAddrKey is where Options.Bind finds Options.ClientAddr in the request's context.
type clientAddrKey struct{}

// BindAll returns a function for Options.Bind that binds a session to all that the given ones compute.
func BindAll(bind ...func(*http.Request) string) func(*http.Request) string {
	return func(r *http.Request) string {
		var all []byte
		for _, b := range bind {
			all = codec.AppendBytes(all, []byte(b(r)))
		}
		return string(all)
	}
}

// hashBinding returns what a session keeps of a binding.
func hashBinding(binding string) []byte {
	sum := sha256.Sum256([]byte(binding))
	return sum[:bindingSize]
}
