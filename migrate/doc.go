// Package migrate has the session.Migration for two session libraries, so that an application can change over from
// them with nobody logged out. See MIGRATING.md at the top of the repository for what else is different.
//
// It is a module of its own, as it needs both libraries, and an application needs it for a while only: once the
// longest-lived old session has ended, remove Options.Migration, the old store and this import.
package migrate

import "example.com/session"

// An Adapt function makes of an old session what the application wants to keep: it sets User, and AuthenticatedAt if
// that is known, and may rename, convert and delete Values. Without Values and User, the session is not moved. It is
// called by several goroutines.
type Adapt func(old *session.OldSession)

func (a Adapt) apply(old *session.OldSession) *session.OldSession {
	if a != nil {
		a(old)
	}
	return old
}
