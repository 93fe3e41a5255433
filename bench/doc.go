// Package bench compares sessions of example.com/session with other libraries for Go, and with the bare client of
// each backend, on the same machine, with the same data, in one run.
//
//	make bench          everything, about ten minutes on two cores
//	make bench-quick    what runs inside one process, and Redis, in less than two minutes
//
// A case is one kind of request on one backend. All contestants of a case take turns, round after round, so that
// whatever else the machine does meets all of them; what is reported is the median of the rounds, and of the
// ratios within each round. Each line has, separated by tabs: the case, our figure, the other's name, its figure, the
// unit, and the ratio, which is above 1 where this library is better. What "make bench" finds goes to results/ as well,
// as JSON and as the charts of the README.
//
// Requests to sessions in memory are measured in processor time, the garbage collector's included; those to files by
// the clock, as they wait for the disk. Backends on a server are measured through a real HTTP server on the loopback
// interface with 8 connections: client, HTTP server and the backend's server share the machine. "CPU" is then the
// processor time of client and HTTP server, the figure that varies least.
//
// The contestants serve the same requests with the same handlers, each in its library's own idiom, with its default
// options, apart from what follows. No contestant removes expired sessions meanwhile, or changes IDs by the clock,
// which only this library does: "renew" is a request that has to do that, while "regenerate" is a new ID on demand, as
// at login. Ours has an idle timeout of 15 minutes; scs has none, as it would save the session on each request, apart
// from "scs with an idle timeout".
//
// "bare" is no session library. In memory it is the handler alone with one value put into the request's
// context. On a server it is a handler that takes a key from a cookie, gets the value with the same client, from the
// same pool of connections, in as many round trips, and sets it where the case writes: an upper bound, not something
// to use.
//
// Memory and Redis have all contestants, files scs and its boltstore, directories gorilla's FilesystemStore, MariaDB,
// PostgreSQL and MongoDB scs, Memcached gin. MongoDB is mongo-java-server unless a real one is on the PATH; it looks
// through all documents where a real one looks into an index, so its figures say nothing about MongoDB, and are not
// in results/.
package bench
