// Package faults shows, on every server backend, what package session does when the server or the way to it
// fails. It has tests only, which run against real servers (see internal/servertest) and through proxies that
// break connections: Toxiproxy, and a smaller one that loses exactly the replies it is told to.
//
//   - TestFaults: refused, reset, cut, slow and silent connections; a server that stands still, dies, comes back
//     with its data or without, closes its connections, takes no writes. A request that uses a session gets 503
//     in time, never an empty session, a feigned save or another cookie. Requests that use none are served. The
//     first request after the fault works, on whatever connections the pool still holds, and nothing stays behind
//     when the store is closed.
//   - TestRedisFailover: a replica takes the primary's place while connections to that one live on. The first requests
//     find it.
//   - TestLostReply, TestLostReplyAndAnother and TestRandomResets: a save whose reply was lost counts exactly once.
//   - TestProcesses: what two processes do to one session at the same time is all there.
//
// A limit in seconds is measured by a clock that stands still while the process is held
// up, and a call that is to succeed has a minute for it. So the tests do not need a machine of their own.
//
// It is a module of its own so that Toxiproxy is no requirement of whoever uses package session.
package faults
