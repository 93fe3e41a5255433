// Package session gives net/http handlers sessions that do not lose changes, do not come back from the dead, and
// do not pretend to be saved.
//
// A [Manager] wraps any handler. It finds the session that a signed cookie names, when the handler first asks for
// it; it saves what the handler changed before the response begins; and it answers with an error if that fails.
//
//	store, err := session.Open(ctx, os.Getenv("SESSION_STORE")) // "": a temporary file
//	m, err := session.New(store, secret, nil)
//	http.ListenAndServe(":8080", m.Handler(mux))
//
// # In a handler
//
// [FromContext] returns the session of the request. Values are read and set through typed keys, which are
// constants, or by the methods of [Session], as with a map:
//
//	const visits session.Key[int] = "visits"
//
//	func home(w http.ResponseWriter, r *http.Request) {
//		s := session.FromContext(r.Context())
//		n := visits.Update(s, func(n int) int { return n + 1 })
//		fmt.Fprintf(w, "visit %d\n", n)
//	}
//
// A request that uses no session costs the store nothing, and one that only reads writes nothing. An empty session
// is neither stored nor given a cookie.
//
// A handler's changes are kept as a list, and applied to what others saved meanwhile: parallel requests
// of one session, in whatever processes, lose nothing, and [Key.Update] is atomic. Two requests that set the same
// key overwrite each other; where that matters and Update cannot help, [Session.Lock] does.
//
// Call [Session.SetUser] when somebody has logged in, [Session.Regenerate] whenever else privileges change, and
// [Session.Destroy] at logout.
//
// # When something fails
//
// The methods of Session return no errors, so that handlers stay readable. A failure sticks: [Session.Err] returns
// it, and [Options.ErrorHandler] answers the request in place of the handler, whose header and body are dropped.
// It can do so until the first byte has left; a handler that streams calls [Session.Save] to know where it
// stands. A panic drops the changes of its request.
//
// # The life of a session
//
// A session ends at [Session.Destroy], after [Options.IdleTimeout] without use, or [Options.AbsoluteTimeout] after
// its beginning or the last login. It has one ID all that time. Every [Options.RenewInterval] its cookie is renewed; the
// one before leads to it until the client has shown the new one, and for [Options.RenewGrace] and a minute after that,
// so that no answer that gets lost logs anybody out. An ended session stays ended, whatever is still in flight.
//
// [Manager.Sessions] lists the sessions of a user, or of a label that logins gave them, [Manager.EndSessions] ends them, all
// or all others ("log out my other devices"), and [Options.MaxSessionsPerUser] limits them. [Session.FormToken] makes tokens
// for forms that may be sent once. [Options.Bind] ties a session to a network or a browser, and [Options.Device] to a key in
// the hardware of the user's device, so that a copied cookie is worth minutes. [Options.EncryptAtRest] makes a store
// unreadable for its operator.
//
// # Stores
//
// Sessions live in a [Store]: in memory, in one file, in a directory, on a database or cache server, or wherever
// else three methods can reach. All that is promised here rests on one rule that every store keeps: a record is
// saved only if nobody else saved it first. [Open] takes a URL, a constructor such as [NewRedisStore] a client
// that the application already has, and package sessiontest checks a store of your own. It also helps to test
// handlers.
//
// # In production
//
// Keep the secret out of the program, the same for all its processes, and change it by way of [Options.PreviousSecrets]. Give
// [Options.Observer] a function that counts events, and see EVENTS.md for what deserves an alarm; module sessionotel makes metrics
// and traces of them. Close the Manager after the server has shut down, and the store after that.
//
// An application that comes from another library takes its users' sessions along with [Options.Migration].
package session
