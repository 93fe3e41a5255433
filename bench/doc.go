// Package bench compares sessions of example.com/session with other libraries for Go, and with the bare client of
// each backend, on the same machine, with the same data, in one run.
//
//	make bench          everything, about 30 minutes on two cores
//	make bench-quick    what runs inside one process, and Redis, in less than two minutes
//
// A case is one kind of request on one backend. All contestants of a case take turns, round after round, so that
// whatever else the machine does meets all of them; what is reported is the median of the rounds, and of the
// ratios within each round. Each line has, separated by tabs: the case, our figure, the other's name, its figure, the
// unit, and the ratio, which is above 1 where this library is better. The results of "make bench" go to results/ as well,
// as JSON and as the charts of the README.
//
// Requests to sessions in memory are measured in processor time, the garbage collector's included; those to files by
// the clock, as they wait for the disk. Backends on a server are measured through a real HTTP server on the loopback
// interface with 8 connections: client, HTTP server and the backend's server share the machine. "CPU" is then the
// processor time of client and HTTP server, the figure that varies least.
//
// The contestants serve the same requests with the same handlers, each in its library's own idiom, with its default
// options, apart from what follows. No contestant removes expired sessions meanwhile, or changes cookies by the clock,
// which only this library does: "renew" is a request that has to do that, while "regenerate" is a new cookie on demand,
// as at login. scs has the idle timeout that ours has, 15 minutes, since sessions that end without use are what the two
// have in common; it saves the session on each request for that. "scs without an idle timeout" does not.
//
// The "hand-written handler" is what a session on a server costs whoever writes it by hand: it verifies one HMAC, makes
// one SHA-256, gets the record with the same client, from the same pool of connections, in as many round trips, decodes
// one value, sets one header, and sets the record where the case writes. "bare" is no session library. In memory it is
// the handler alone with one value put into the request's context; on a server the hand-written handler without all
// that, with the cookie's value for a key: an upper bound, not something to use.
//
// Some lines set this library beside itself: with a CacheStore in front of the store, which a login and a renewal look past; a renewal and a regeneration beside a write, one value of 64 beside one of
// 3, and what each key costs of SetAll at 10,000 keys beside 1,000.
//
// TestSizes fills each kind of store with a hundred thousand sessions, and tells what one takes, and what processor time the
// server takes for an operation. The model in bench/scaling rests on that.
//
// Memory and Redis have all contestants, files scs and its boltstore, directories gorilla's FilesystemStore, SQLite, MariaDB,
// PostgreSQL and MongoDB scs, Memcached gin. MongoDB is mongo-java-server unless a real one is on the PATH; it looks
// through all documents where a real one looks into an index, so its figures say nothing about MongoDB, and are not
// in results/.
package bench
