package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"example.com/session"
	"example.com/session/sessiontest"
	"github.com/chromedp/chromedp"
)

// A page's own script can make a token of no cookie, and a cookie of no token, and not have the server fall back from one to
// the other.
func TestTokenHeaderAndScripts(t *testing.T) {
	m := sessiontest.NewManager(t, &session.Options{TokenHeader: "Session-Token", Cookie: session.Cookie{Name: "__Host-session"}})
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		session.FromContext(r.Context()).SetUser("ann")
		fmt.Fprint(w, "<!doctype html><title>in</title>in")
	})
	mux.HandleFunc("/begin", func(_ http.ResponseWriter, r *http.Request) { session.FromContext(r.Context()).SetUser("eve") })
	mux.HandleFunc("/me", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", session.FromContext(r.Context()).User())
	})
	b := newProfile(t, serve(t, m.Handler(mux)))
	b.open("/login")
	// ask fetches a page with the header, unless that is null, and returns the body and the token that came.
	const ask = `window.ask = async (path, header) => {
		const res = await fetch(path, header === null ? {} : {headers: {"Session-Token": header}})
		return [await res.text(), res.headers.get("Session-Token"), res.headers.get("Set-Cookie")]
	}; `
	run := func(script string) string {
		t.Helper()
		return get(b, chromedp.Evaluate[string](ask+"(async () => String("+script+"))()", chromedp.EvalAwaitPromise))
	}
	before := b.cookieValue()
	for _, test := range []struct{ name, script, want string }{
		{"the cookie alone", `await ask("/me", null)`, `"ann",,`},
		{"an empty header beside it", `await ask("/me", "")`, `"",,`},
		{"a bad header beside it", `await ask("/me", "x")`, `"",,`},
		{"the cookie's value, had it leaked", `await ask("/me", "` + before + `")`, `"",,`},
		{"what a script sees of the cookie", `document.cookie`, ""},
		{"a session of the script's own, and whose it is", `await ask("/me", (await ask("/begin", ""))[1])`, `"eve",,`},
		{"its token as a cookie", `(document.cookie = "__Host-session=" + (await ask("/begin", ""))[1] + "; Path=/; Secure", await ask("/me", null))`, `"ann",,`},
		{"the same at another path", `(document.cookie = "session_id=" + (await ask("/begin", ""))[1] + "; Path=/me; Secure", await ask("/me", null))`, `"ann",,`},
		{"the cookie alone, afterwards", `await ask("/me", null)`, `"ann",,`},
	} {
		if got := run(test.script); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	if after := b.cookieValue(); after != before {
		t.Error("the cookie has changed")
	}
}
