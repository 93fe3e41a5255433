package session

import (
	"time"

	"example.com/session/internal/codec"
)

// A plan is what a commit does: the steps that lead from what is there to what is wanted. After each of its steps the
// commit looks where it stands and asks for another plan, until there is nothing left to do.
type plan struct {
	step step
	cred codec.Credential // that a save or a touch leaves behind
	err  error            // of what cannot be done
}

// A step is one thing that a commit does.
type step byte

const (
	stepNone    step = iota
	stepLook         // load the record past all caches, and see whether the client's cookie is still out of date
	stepTouch        // move the expiry
	stepSave         // compare-and-swap, with the changes and the credential
	stepRenew        // stepSave, after a look whether the user's index names the session
	stepLogin        // stepSave, after the new user's index names the session
	stepDestroy      // put a tombstone in the record's place
	stepEmpty        // stepDestroy, since nothing is left in it
	stepCreate       // store a new session
	stepMove         // store an old system's session
	stepGiveUp       // drop the changes, and return err
)

// A situation is all that a plan depends on.
type situation struct {
	place
	standing standing
	count    uint32            // of the cookie that the request shows
	cred     *codec.Credential // of the record
	body     *codec.Body       // likewise
	expires  time.Time         // likewise
	wants    wants
	header   header
	device   codec.Device // that the session is to be bound to; zero for none
	cookie   bool         // the client is to hold another cookie than it sent, as far as is known without a look
	lost     bool         // the session was served to this request, and is no more
	call     bool         // the request is a call of Manager.Do
	quiet    bool         // what nobody asked for has been done, or has failed once
	now      int64
}

// A place is where a request stands.
type place struct {
	phase phase
	// straggler says of a request whose session has been closed or replaced that it was sent before that, or so shortly
	// after that its client may not have known; of one whose session is locked, that its client may yet prove what it is.
	straggler bool
}

// A phase says what there is for a request.
type phase byte

const (
	unloaded phase = iota // nobody has asked
	visitor               // no session, nor has the client just had one
	served                // the client's session
	unmoved               // a session of an old system that is still to move
	closed                // it has just been ended, by its client
	replaced              // it has just been given a new key
	revoked               // it has been ended from elsewhere while the request ran
	locked                // it is bound to a device, of which the request shows no proof
	failed                // the store did not answer
)

// wants is what a request's handler asked for.
type wants struct {
	end    bool // of the session; what else is wanted is then for the one after it
	change bool // in what the record holds
	key    bool // a new one
	save   bool // whatever the changes are
	user   bool // another user, or nobody; key is set too
	login  bool // it is somebody; user is set too
	empty  bool // nothing would be left
}

// any reports whether there is anything that has to reach the store.
func (w wants) any() bool { return w.end || w.change || w.key || w.save }

// A header says whether the response can set a cookie.
type header byte

const (
	headerOpen header = iota
	headerLost        // it can, but the client will hardly get it
	headerSent        // it cannot
)

// straggling is for how long a change is refused to a client whose session was closed or replaced: a login page that
// makes a form token is a change, too, so it must not be longer than requests of one page can be apart.
const straggling = 5 * time.Second

// stand is the table of what a request stands before whose cookie no record serves; letIn says that one did before.
func (t *timing) stand(st standing, e *codec.Envelope, began int64, letIn bool) place {
	recent := func(since int64) bool {
		return letIn || began < since+min(straggling, t.renewGrace).Milliseconds()
	}
	switch st {
	case ended:
		switch {
		case !e.End.Elsewhere:
			return place{closed, recent(e.End.At)}
		case letIn:
			return place{phase: revoked}
		case began < e.End.At:
			return place{closed, true}
		}
	case rekeyed:
		return place{replaced, recent(e.Credential.Keyed)}
	}
	return place{phase: visitor}
}

// plan returns the next step. It depends on nothing but the situation.
func (t *timing) plan(s *situation) plan {
	switch s.phase {
	case served:
		return t.planServed(s)
	case unmoved:
		return planUnmoved(s)
	case visitor:
		if s.wants.change && !s.wants.empty {
			return planCreate(s)
		}
	case closed, replaced:
		return planStraggler(s)
	case locked:
		return planLocked(s)
	case revoked:
		if s.wants.change || s.wants.key || s.wants.save {
			return plan{step: stepGiveUp, err: ErrGone}
		}
	}
	return plan{}
}

func planCreate(s *situation) plan {
	switch {
	case s.lost && s.call && !s.wants.login && !s.wants.end: // it may have gone on for hours: what it saw is no visitor's
		return plan{step: stepGiveUp, err: ErrGone}
	case s.header != headerSent:
		return plan{step: stepCreate}
	case s.lost:
		return plan{step: stepGiveUp, err: ErrGone}
	}
	return plan{step: stepGiveUp, err: ErrHeaderSent}
}

// planStraggler lets nobody be locked out, and no cookie of a login that just happened be overwritten.
func planStraggler(s *situation) plan {
	switch w := s.wants; {
	case w.login:
		return planCreate(s)
	case w.end && s.phase == replaced, (w.change || w.key || w.save) && s.straggler:
		return plan{step: stepGiveUp, err: ErrGone}
	case w.change && !w.empty:
		return planCreate(s)
	}
	return plan{}
}

// planLocked keeps the owner's cookie from being overwritten in a browser that has but to ask for another proof.
func planLocked(s *situation) plan {
	switch w := s.wants; {
	case w.login:
		return planCreate(s)
	case s.straggler && (w.any() || s.header == headerOpen):
		return plan{step: stepGiveUp, err: ErrUnproven}
	case w.change && !w.empty:
		return planCreate(s)
	}
	return plan{}
}

func planUnmoved(s *situation) plan {
	switch {
	case s.wants.end:
		return plan{step: stepDestroy}
	case s.header == headerSent && s.wants.any():
		return plan{step: stepGiveUp, err: ErrHeaderSent}
	case s.header == headerOpen, s.header == headerLost && s.wants.any():
		return plan{step: stepMove}
	}
	return plan{}
}

func (t *timing) planServed(s *situation) plan {
	cred, worth := t.next(s)
	switch w := s.wants; {
	case w.end:
		return plan{step: stepDestroy}
	case w.key && s.header == headerSent:
		return plan{step: stepGiveUp, err: ErrHeaderSent}
	case w.change && w.empty && s.header != headerSent: // when the cookie has to stay, so may the session
		return plan{step: stepEmpty}
	case w.user:
		return plan{step: stepLogin, cred: cred}
	case cred.Count > s.cred.Count && len(s.body.User) > 0:
		return plan{step: stepRenew, cred: cred}
	case w.change, w.key, w.save, worth:
		return plan{step: stepSave, cred: cred}
	case s.quiet:
		return plan{}
	case t.touchDue(s.body, s.expires, s.now):
		return plan{step: stepTouch}
	case s.cookie && s.header != headerSent:
		return plan{step: stepLook}
	}
	return plan{}
}

// next returns the credential after a save by this request, and whether it is worth a save by itself.
func (t *timing) next(s *situation) (cred codec.Credential, worth bool) {
	if cred = *s.cred; s.quiet {
		return cred, false
	}
	if s.device != (codec.Device{}) {
		cred.Device, cred.Bound, worth = s.device, s.now, true
	}
	touchDue := t.touchDue(s.body, s.expires, s.now)
	window := s.now + (t.renewGrace + clockSlack).Milliseconds()
	switch s.standing {
	case ahead: // the store has lost writes
		cred.Floor, cred.Count, cred.Until, cred.Issued = cred.Count, s.count, window, s.now
		worth = worth || touchDue
	case current:
		due := s.header == headerOpen && t.renewalDue(s)
		settled := cred.Floor == cred.Count || cred.Until != 0 && s.now >= cred.Until
		switch {
		case due && settled:
			cred.Floor, cred.Count, cred.Until, cred.Issued = cred.Count, cred.Count+1, 0, s.now
			worth = true
		case cred.Floor < cred.Count && cred.Until == 0 && (s.wants.any() || touchDue || due): // confirmed
			cred.Until = window
			worth = true
		}
	}
	return cred, worth
}

func (t *timing) renewalDue(s *situation) bool {
	return t.renewEvery > 0 && s.now-s.cred.Issued >= t.renewEvery.Milliseconds()
}
