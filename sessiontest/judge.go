package sessiontest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"example.com/session"
)

// judge returns what is wrong with the replies of a round, and with the sessions that its cookies lead to.
func (r *round) judge(look func(cookie string) (view, error)) error {
	for _, p := range r.players {
		if p.Died() {
			continue
		}
		if err := r.judgeReply(p); err != nil {
			return err
		}
	}
	alive := map[session.ID]view{}
	holders := map[*player]bool{} // who was given a cookie that leads to a live session; nil for the first one
	for _, p := range append(r.players, nil) {
		cookie := r.cookie
		if p != nil {
			cookie = p.reply.cookie
		}
		if cookie == "" || p != nil && p.Died() {
			continue
		}
		v, err := look(cookie)
		if err != nil {
			return err
		}
		if v.id != (session.ID{}) {
			alive[v.id], holders[p] = v, true
		}
	}
	if err := r.judgeEnd(alive, holders); err != nil {
		return err
	}
	for _, v := range alive {
		return r.judgeContent(v)
	}
	return nil
}

// judgeReply looks for what a player must not be told.
func (r *round) judgeReply(p *player) error {
	rivals := slices.ContainsFunc(r.players, func(q *player) bool {
		return q != p && q.ends() && (q.unknown() || q.reply.status == http.StatusOK)
	})
	touched := p.reply.cookie != "" || p.reply.removed
	wrong := false
	switch p.reply.status {
	case http.StatusOK:
		wrong = p.reply.removed && p.act != destroys || p.reply.cookie != "" && p.act == destroys
	case http.StatusConflict:
		wrong = touched || p.act == reads || !rivals
	case http.StatusServiceUnavailable:
		wrong = touched || !p.Faulted()
	default:
		wrong = true
	}
	if wrong {
		return fmt.Errorf("%v got the answer %v", p, p.reply)
	}
	if !p.found && !rivals && !p.unknown() {
		return fmt.Errorf("%v found nothing in the session, and nobody has ended it", p)
	}
	for _, q := range r.players {
		if touched && q != p && q.ends() && q.reply.status == http.StatusOK && q.SavedBefore(p.Actor) {
			return fmt.Errorf("%v got the answer %v, after %v had ended the session", p, p.reply, q)
		}
	}
	return nil
}

// judgeEnd looks for sessions that should not be alive, and for one that should.
func (r *round) judgeEnd(alive map[session.ID]view, holders map[*player]bool) error {
	var destroyer, regenerator *player
	mayHaveEnded := false
	for _, p := range r.players {
		switch {
		case !p.ends():
		case p.unknown():
			mayHaveEnded = true
		case p.reply.status != http.StatusOK:
		case p.act == destroys:
			destroyer = p
		default:
			regenerator = p
		}
	}
	switch {
	case destroyer != nil && len(alive) > 0:
		return fmt.Errorf("%v has destroyed the session, which is alive", destroyer)
	case destroyer != nil:
		return nil
	case regenerator != nil:
		for p := range holders {
			if p != regenerator {
				return fmt.Errorf("%v has regenerated the session, and the cookie of %v leads to it", regenerator, p)
			}
		}
		if !holders[regenerator] {
			return fmt.Errorf("the cookie that %v got leads to no live session", regenerator)
		}
	case !mayHaveEnded && !holders[nil]:
		return errors.New("the session has ended, and nobody has ended it")
	case len(alive) > 1:
		return fmt.Errorf("the cookies of one session lead to %d", len(alive))
	}
	return nil
}

// judgeContent checks that acknowledged changes are in the session, once, and that refused ones are not.
func (r *round) judgeContent(v view) error {
	if v.planted != plantedValue {
		return errors.New("the session has lost what it began with")
	}
	for _, p := range r.players {
		if p.act != writes && p.act != regenerates || p.unknown() {
			continue
		}
		if saved := p.reply.status == http.StatusOK; saved != v.written[p.index] {
			return fmt.Errorf("%v got the answer %v, and what it set is in the session: %t", p, p.reply, v.written[p.index])
		}
	}
	if v.count != len(v.written) {
		return fmt.Errorf("what %d requests set is in the session; adding one each, they have come to %d", len(v.written), v.count)
	}
	return nil
}

// ends reports whether the player's cookie is worth nothing once it has succeeded.
func (p *player) ends() bool { return p.act == regenerates || p.act == destroys }

// unknown reports whether a client cannot know what became of its request.
func (p *player) unknown() bool { return p.Died() || p.reply.status == http.StatusServiceUnavailable }

func (p *player) String() string {
	if p == nil {
		return "the beginning"
	}
	return fmt.Sprintf("%v %d", p.act, p.index)
}

// String tells the story of the round.
func (r *round) String() string {
	var b strings.Builder
	b.WriteString(r.Round.String())
	for _, p := range r.players {
		if !p.Died() {
			fmt.Fprintf(&b, "\n\t%v got the answer %v", p, p.reply)
		}
	}
	return b.String()
}
