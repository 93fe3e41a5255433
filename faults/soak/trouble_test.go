//go:build unix

package soak

import (
	"context"
	"strings"
	"time"

	"example.com/session/internal/servertest"
	"github.com/redis/go-redis/v9"
)

// troubles has servers and processes die, each at its part of the run.
func (r *run) troubles(cluster, postgres *servertest.Server) {
	settle := min(30*time.Second, r.length/8)
	part := func(share float64) time.Duration { return time.Duration(share * float64(r.length)) }

	// A store that does not answer for longer than StoreTimeout, and a process that stands still for as long.
	pause := min(7*time.Second, r.length/12)
	r.until(part(.1))
	r.trouble("pause of PostgreSQL", "postgres", settle, func() {
		postgres.Pause()
		time.Sleep(pause)
		postgres.Resume()
	})
	r.until(part(.25))
	r.trouble("kill of PostgreSQL", "postgres", settle, func() {
		postgres.Kill()
		time.Sleep(min(3*time.Second, r.length/20))
		postgres.Restart(false)
	})
	r.until(part(.45))
	r.trouble("kill of a master", "redis", settle, func() { r.failover(cluster, settle) })
	r.until(part(.6))
	r.trouble("pause of a process", "", settle, func() {
		r.processes[1].Pause()
		time.Sleep(pause)
		r.processes[1].Resume()
	})
	r.until(part(.72))
	r.trouble("kill of a process", "", settle, func() {
		r.look()
		r.ended(0)
		r.processes[0].Kill()
		time.Sleep(min(2*time.Second, r.length/20))
		r.launch(0)
	})
	r.until(part(.87))
	r.trouble("deploy", "", settle, r.deploy)
}

// trouble has a fault happen, and waits until its time is over.
func (r *run) trouble(name, store string, settle time.Duration, happen func()) {
	f := fault{name: name, store: store, from: r.now()}
	r.say("%8v %s", f.from.Round(time.Second), name)
	happen()
	r.say("%8v it is over", r.now().Round(time.Second))
	f.to = r.now() + settle
	r.faults = append(r.faults, f)
}

// failover kills a master, and has it come back as the replica of what was its own.
func (r *run) failover(cluster *servertest.Server, settle time.Duration) {
	k := r.parts[0].checker
	from := r.now()
	k.loses(from, from)
	cluster.KillNode(0)
	k.loses(from, r.now())
	const replica = 3 // the first master's
	client := redis.NewClient(&redis.Options{Addr: cluster.Addrs[replica]})
	defer client.Close()
	if !r.long() {
		if err := client.Do(r.t.Context(), "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
			r.t.Error(err)
		}
	}
	r.becomes(client, "master")
	r.epoch = "" // it has changed
	r.say("%8v the replica has taken over", r.now().Round(time.Second/10))
	r.until(r.now() + settle/2)
	cluster.RestartNode(0)
	old := redis.NewClient(&redis.Options{Addr: cluster.Addrs[0]})
	defer old.Close()
	r.becomes(old, "slave")
}

// becomes waits until a node of the cluster has that role.
func (r *run) becomes(client *redis.Client, role string) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for {
		if reply, err := client.Do(ctx, "ROLE").Slice(); err == nil && len(reply) > 0 && reply[0] == role {
			return
		}
		if ctx.Err() != nil {
			r.t.Fatalf("%v does not become a %s", client, role)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// watch notices when the cluster has changed its masters by itself, as it does if the machine stands still for long.
func (r *run) watch() {
	info, err := r.observer.ClusterInfo(r.t.Context()).Result()
	_, after, ok := strings.Cut(info, "cluster_current_epoch:")
	if err != nil || !ok {
		return
	}
	epoch, _, _ := strings.Cut(after, "\r")
	if r.epoch != "" && epoch != r.epoch {
		r.say("%8v the cluster has chosen other masters: epoch %s", r.now().Round(time.Second), epoch)
		r.parts[0].checker.loses(r.looked-30*time.Second, r.now())
	}
	r.epoch, r.looked = epoch, r.now()
}

// deploy replaces each process by another one, as a load balancer sees it: it gets no more requests, answers those that it
// has, and ends.
func (r *run) deploy() {
	for i := range r.processes {
		r.bases[i].Store(nil)
		time.Sleep(min(time.Second, r.length/40))
		base := r.processes[i].Base
		r.bases[i].Store(&base)
		st := r.read().stats[i]
		r.bases[i].Store(nil)
		if st != nil {
			r.latest[i] = st
		}
		r.ended(i)
		r.processes[i].Stop()
		r.launch(i)
	}
}
