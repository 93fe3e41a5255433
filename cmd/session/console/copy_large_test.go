//go:build !race

package console

import "testing"

// A hundred thousand sessions are moved from one server to the next and back to the first, as TestCopy does it.
// The race detector would make that take a quarter of an hour; make copy, a part of make test, runs it without.
func TestCopyLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes more than a minute")
	}
	from := redisBackend.newURL(t)
	a := newMovingApp(t, from, false)
	a.seed(100_000)
	stop := a.work()
	for _, b := range []backend{postgresBackend, mysqlBackend, redisBackend} {
		to := b.newURL(t)
		t.Logf("to %s", b.name)
		a.move(from, to)
		from = to
	}
	a.await(a.busy())
	stop()
	a.verify()
}
