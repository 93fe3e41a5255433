package session

import (
	"context"
	"errors"
	"time"
)

// MemcacheExpiration is what a MemcacheStore tells the server.
var MemcacheExpiration = memcacheExpiration

// Age makes the ID of the session behind a cookie older, so that a test of renewal need not wait.
func (m *Manager) Age(ctx context.Context, cookie string, by time.Duration) error {
	var l link
	if !m.signer.verify(cookie, &l) {
		return errors.New("the cookie is refused")
	}
	l.id = l.token.id()
	rec, err := m.load(ctx, l.id)
	if err != nil {
		return err
	}
	d, err := m.decode(&l, rec.Data)
	if err != nil {
		return err
	}
	d.content.issued -= by.Milliseconds()
	rec.Data = m.encodeLive(&l, &d.content)
	return m.store.Save(ctx, l.id, rec)
}
