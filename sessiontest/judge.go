package sessiontest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/session"
)

// A family are the cookies of one session between two of its regenerations. All of them are accepted, or none.
type family struct {
	id      session.ID // of the session; zero if it is not known
	parent  *family    // whose regeneration began this one
	by      *request   // that began it; nil for the first one
	cookies []string
	alive   bool
	view    view // what they lead to, if that is alive
}

// root returns the family that the session began with.
func (f *family) root() *family {
	for f.parent != nil {
		f = f.parent
	}
	return f
}

func (f *family) String() string {
	if f.by == nil {
		return "the beginning"
	}
	return f.by.String()
}

const (
	// straggling is for how long a change gets no new session where the client's own has just ended.
	straggling = 5 * time.Second
	// window is for how long a cookie is accepted at least that was current once, see site.options.
	window = time.Minute
)

// judge returns what is wrong with the replies of a round, and with the sessions that its cookies lead to.
func (r *round) judge(look func(cookie string) (view, error)) error {
	families, err := r.families()
	if err != nil {
		return err
	}
	for _, q := range r.requests() {
		if q.Died() {
			continue
		}
		if err := r.judgeReply(q, families); err != nil {
			return err
		}
	}
	for _, f := range families {
		for i, cookie := range f.cookies {
			v, err := look(cookie)
			if err != nil {
				return err
			}
			switch alive := v.id != (session.ID{}); {
			case i > 0 && alive != f.alive:
				return fmt.Errorf("one cookie that came of %v leads to a session: %t, another one: %t", f, alive, f.alive)
			case alive && f.id != (session.ID{}) && v.id != f.id:
				return fmt.Errorf("a cookie that came of %v leads to the ID %v, and the session had %v", f, v.id, f.id)
			case alive:
				f.id, f.alive, f.view = v.id, true, v
			}
		}
	}
	for _, f := range families {
		if err := r.judgeEnd(f); err != nil {
			return err
		}
		if !f.alive {
			continue
		}
		if err := r.judgeContent(f); err != nil {
			return err
		}
	}
	return r.judgeJar(families)
}

// families tells which cookies are of one family.
func (r *round) families() ([]*family, error) {
	first := &family{id: r.id, cookies: []string{r.cookie}}
	all := []*family{first}
	of := map[string]*family{"": nil, r.cookie: first}
	byEnd := r.requests()
	slices.SortFunc(byEnd, func(a, b *request) int { return int(a.end - b.end) })
	for _, q := range byEnd {
		q.family = of[q.sent]
		if q.seen != (session.ID{}) {
			switch f := q.family; {
			case f == nil:
				return nil, fmt.Errorf("%v sent no cookie, and found the session %v", q, q.seen)
			case f.id == session.ID{}:
				f.id = q.seen
			case f.id != q.seen:
				return nil, fmt.Errorf("%v found the session %v, and its cookie was of %v", q, q.seen, f.id)
			}
		}
		cookie := q.reply.Cookie
		if cookie == "" || q.Died() {
			continue
		}
		f := q.family
		switch {
		case q.seen == session.ID{}:
			f = &family{by: q}
		case q.act == regenerates:
			f = &family{by: q, id: q.seen, parent: q.family}
		}
		switch known, ok := of[cookie]; {
		case ok && known != f:
			return nil, fmt.Errorf("%v got a cookie that came of %v before", q, known)
		case ok:
			continue
		}
		if len(f.cookies) == 0 {
			all = append(all, f)
		}
		of[cookie], f.cookies = f, append(f.cookies, cookie)
		// The next renewal comes when the cookie before is accepted no longer.
		if len(f.cookies) > 2 || len(f.cookies) > 1 && !r.mode.renew {
			if time.Since(r.began) < window {
				return nil, fmt.Errorf("%v got a cookie that is number %d of those that came of %v", q, len(f.cookies), f)
			}
		}
	}
	return all, nil
}

// judgeReply looks for what a request must not be told.
func (r *round) judgeReply(q *request, families []*family) error {
	served, touched := q.seen != session.ID{}, q.reply.Cookie != "" || q.reply.Removed
	rivals := r.enders(func(p *request) bool { return p != q && q.family != nil && p.family.root() == q.family.root() })
	changes := q.act == writes || q.act == regenerates
	wrong := false
	switch q.reply.Status {
	case http.StatusOK:
		switch {
		case q.act == destroys:
			wrong = q.reply.Cookie != "" || served && !q.reply.Removed && len(rivals) == 0
		case q.act == regenerates, !served && changes:
			wrong = q.reply.Cookie == ""
		case !served:
			wrong = touched
		}
		wrong = wrong || q.reply.Removed && q.act != destroys
	case http.StatusConflict:
		wrong = touched || q.act == reads || len(rivals) == 0
	case http.StatusServiceUnavailable:
		wrong = touched || !q.Faulted()
	default:
		wrong = true
	}
	switch {
	case wrong:
		return fmt.Errorf("%v got the answer %v", q, q.reply)
	case !served && q.family != nil && !q.unknown() && len(rivals) == 0:
		return fmt.Errorf("%v found no session, and nobody has ended it", q)
	case served && q.found != (q.family.root().by == nil):
		return fmt.Errorf("%v found what the first session began with: %t", q, q.found)
	case served:
		return r.judgeServed(q, rivals)
	case changes && q.family != nil && q.reply.Status == http.StatusOK && !r.outdated(q, families, func(*request) bool { return true }) &&
		q.sentAt.Sub(r.began) < straggling:
		return fmt.Errorf("%v got the answer %v, in the place of a session that had just ended or been regenerated", q, q.reply)
	case changes && q.reply.Status == http.StatusConflict &&
		r.outdated(q, families, func(p *request) bool { return !p.unknown() && p.end < q.start }) &&
		!slices.ContainsFunc(rivals, func(p *request) bool { return p.act == destroys }):
		return fmt.Errorf("%v got the answer %v, though its cookie's key had been replaced twice", q, q.reply)
	}
	return nil
}

// judgeServed looks for requests that a session served that had ended before, or their cookie's key had.
func (r *round) judgeServed(q *request, rivals []*request) error {
	for _, p := range rivals {
		if p.reply.Status != http.StatusOK || p.Died() || p.act == regenerates && p.family != q.family {
			continue
		}
		switch {
		case p.end < q.start:
			return fmt.Errorf("%v was served, though %v had ended that before it began", q, p)
		case (q.reply.Cookie != "" || q.reply.Removed) && p.SavedBefore(q.Actor):
			return fmt.Errorf("%v got the answer %v, after %v had ended the session", q, q.reply, p)
		}
	}
	return nil
}

// outdated reports whether the key of the cookie that a request sent was replaced twice, the second time by a request that
// matches. The request is a visitor's then.
func (r *round) outdated(q *request, families []*family, match func(*request) bool) bool {
	return slices.ContainsFunc(families, func(f *family) bool {
		return f.parent != nil && f.parent == q.family &&
			r.enders(func(p *request) bool { return p.family == f && p.act == regenerates && match(p) }) != nil
	})
}

// judgeEnd looks for sessions that should not be alive, and for those that should.
func (r *round) judgeEnd(f *family) error {
	var ended *request // by whom
	mayHaveEnded, regenerators := false, 0
	for _, p := range r.enders(func(p *request) bool { return p.family.root() == f.root() }) {
		switch {
		case p.unknown():
			mayHaveEnded = mayHaveEnded || p.family == f
		case p.act == destroys && f.alive: // whichever cookie it had
			return fmt.Errorf("%v has destroyed the session, and what came of %v leads to it", p, f)
		case p.family == f:
			ended = p
			if p.act == regenerates {
				regenerators++
			}
		}
	}
	switch {
	case regenerators > 1:
		return fmt.Errorf("%d requests have regenerated what came of %v", regenerators, f)
	case ended != nil && f.alive:
		return fmt.Errorf("%v has regenerated the session, and what came of %v leads to it", ended, f)
	case ended == nil && !mayHaveEnded && !f.alive:
		return fmt.Errorf("what came of %v leads to no session, and nobody has ended it", f)
	}
	return nil
}

// judgeContent checks that acknowledged changes are in a session, once, and that refused ones and those of others are not.
func (r *round) judgeContent(f *family) error {
	v, root := f.view, f.root()
	if (v.planted == plantedValue) != (root.by == nil) {
		return fmt.Errorf("what the first session began with is in that of %v: %q", root, v.planted)
	}
	for _, q := range r.requests() {
		if q.act != writes && q.act != regenerates {
			continue
		}
		mine := q == root.by || q.seen == f.id
		if mine && q.unknown() {
			continue
		}
		if saved := mine && q.reply.Status == http.StatusOK; saved != v.written[q.index] {
			return fmt.Errorf("%v got the answer %v, and what it set is in the session of %v: %t", q, q.reply, root, v.written[q.index])
		}
	}
	if v.count != len(v.written) {
		return fmt.Errorf("what %d requests set is in the session; adding one each, they have come to %d", len(v.written), v.count)
	}
	return nil
}

// judgeJar checks that no late response has taken a newer cookie from the browser. judgeEnd has found that its cookie leads
// to a session, unless that has ended.
func (r *round) judgeJar(families []*family) error {
	if r.Free {
		return nil // which response came first, nobody knows
	}
	for _, f := range families {
		if !slices.Contains(f.cookies, r.jar) {
			continue
		}
		for _, next := range families {
			if next.parent == f && !next.by.lost {
				return fmt.Errorf("the browser has a cookie that came of %v, and had got that of %v", f, next)
			}
		}
		return nil
	}
	if r.jar != "" {
		return errors.New("the browser has a cookie that nobody sent")
	}
	return nil
}

// enders returns those of the requests that have ended the session that served them, or have given it another key, as
// far as their clients know, or may have.
func (r *round) enders(match func(*request) bool) (found []*request) {
	for _, p := range r.requests() {
		ends := p.act == regenerates || p.act == destroys
		if ends && p.seen != (session.ID{}) && (p.unknown() || p.reply.Status == http.StatusOK) && match(p) {
			found = append(found, p)
		}
	}
	return found
}

// unknown reports whether a client cannot know what became of its request.
func (q *request) unknown() bool { return q.Died() || q.reply.Status == http.StatusServiceUnavailable }

func (q *request) String() string { return fmt.Sprintf("%v %d", q.act, q.index) }

// String tells the story of the round.
func (r *round) String() string {
	var b strings.Builder
	b.WriteString(r.Round.String())
	for _, q := range r.requests() {
		from := "a later cookie"
		switch {
		case q.sent == "":
			from = "no cookie"
		case q.sent == r.cookie:
			from = "the first cookie"
		}
		fmt.Fprintf(&b, "\n\t%v sent %s", q, from)
		if !q.Died() {
			fmt.Fprintf(&b, " and got the answer %v", q.reply)
		}
		if q.lost {
			b.WriteString(", which got lost")
		}
	}
	return b.String()
}
