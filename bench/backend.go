package bench

import (
	"testing"

	"example.com/session"
)

// A backend is where sessions are, with all contestants that can keep them there.
type backend struct {
	name      string    // "redis"
	server    string    // "Redis 7.0.15"; empty if there is none
	libraries []library // ours is the first
	// remote backends are measured over a loopback server, the others in the process.
	remote bool
	disk   bool // the others wait for a disk
	// standIn servers are slower than what they stand in for: their figures are printed, and not kept.
	standIn bool
	// crowd returns another store of ours there, in a table or whatever of that name, which holds so many sessions
	// beside those that are measured, of which a part has expired. Nil if that would take for ever.
	crowd func(tb testing.TB, name string, sessions, expired int) session.Store
	// sweeps is what part of a crowd expires, 2 for half of it; 0 if the store is no Sweeper.
	sweeps int
}

// A namedBackend can be started.
type namedBackend struct {
	name  string
	start func(testing.TB) backend
}

var allBackends = []namedBackend{
	{"memory", memoryBackend}, {"file", fileBackend}, {"dir", dirBackend}, {"sqlite", sqliteBackend},
	{"redis", redisBackend}, {"mariadb", mysqlBackend}, {"postgresql", postgresBackend},
	{"memcached", memcachedBackend}, {"mongodb", mongoBackend},
}

// handles reports whether the library does the work with sessions of that size.
func (l library) handles(w work, p payload) bool {
	if l.name == cookieStore && p.size() > 3<<10 {
		return false // a cookie has 4 KiB at most
	}
	return l.handler(w, p) != nil
}

// having returns the libraries that do the work.
func having(libraries []library, w work, p payload) []library {
	var some []library
	for _, l := range libraries {
		if l.handles(w, p) {
			some = append(some, l)
		}
	}
	return some
}
