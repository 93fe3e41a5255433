// Package session gives net/http handlers sessions that do not lose changes, do not come back from the dead, and do
// not pretend to be saved.
//
// A Manager wraps any handler. It finds the session that a signed cookie names, when the handler first asks for
// it; it saves what the handler changed before the response begins; and it answers with an error if that fails.
//
//	store, err := session.Open(ctx, os.Getenv("SESSION_STORE")) // "": a temporary file
//	m, err := session.New(store, secret, nil)
//	http.ListenAndServe(":8080", m.Handler(mux))
//
// A handler uses the session of its request, best through typed keys:
//
//	const visits session.Key[int] = "visits"
//
//	func home(w http.ResponseWriter, r *http.Request) {
//		s := session.FromContext(r.Context())
//		n := visits.Update(s, func(n int) int { return n + 1 })
//		fmt.Fprintf(w, "visit %d\n", n)
//	}
//
// Call Session.Regenerate at login and whenever else privileges change, and Session.Destroy at logout.
//
// Sessions live in a Store: in memory, in one file, in a directory, on a database or cache server, or wherever else
// three methods can reach. All that is promised here rests on one rule that every store keeps: a record is saved
// only if nobody else saved it first. Package sessiontest checks a store against it, and helps to test handlers.
package session
