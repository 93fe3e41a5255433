// Package soak is a run that lasts: "make soak". Four processes serve hundreds of browsers, which read, write, log in and
// out, end their other devices and show cookies of sessions that have ended, on a Redis Cluster and on PostgreSQL.
// Meanwhile responses get lost, PostgreSQL stands still, is killed and comes back, a master of the cluster is killed and its
// replica takes its place, a process stands still and another is killed, and all are deployed anew, one after the other.
//
// A checker knows what each browser was told, and wants:
//
//   - no acknowledged write is lost, none is applied twice, none that was refused is applied;
//   - no session comes back that has ended, none is shown to another browser;
//   - nobody is logged out, and no change is refused, without a reason: an end that somebody asked for, the limit of
//     sessions for each user, a timeout;
//   - in the end, the users' lists name the sessions that live, and no others;
//   - nothing errs but for the time of a fault, and heap and goroutines stay as they are.
//
// Redis replicates after it has answered. So what a master acknowledged in the last second before it was killed may be
// lost; it is counted apart.
//
// Each request is drawn from a seed, which the run prints. The order in which requests meet is the machine's.
package soak
