package servertest

import (
	"context"
	"testing"
	"time"
)

// Pause stops the server's processes as SIGSTOP does: its connections stay open, and nobody answers. It returns
// when they have stopped.
func (s *Server) Pause() {
	s.own("Pause").Helper()
	s.control("Pause", (*process).pause)
}

// Resume lets a paused server go on. It does nothing to one that runs.
func (s *Server) Resume() {
	s.own("Resume").Helper()
	s.control("Resume", (*process).resume)
}

// Kill ends the server, paused or not, as SIGKILL does, and returns when it is gone: its connections are closed,
// new ones are refused. It does nothing to one that was killed before.
func (s *Server) Kill() {
	s.own("Kill").Helper()
	s.control("Kill", (*process).kill)
}

// Restart starts the server again at the same address, after Kill if it still runs, and returns when it
// answers. If empty is true it has lost all data. Otherwise it has what it had; Memcached and mongo-java-server
// have nothing on disk and are always empty.
func (s *Server) Restart(empty bool) {
	s.own("Restart").Helper()
	s.control("Restart", (*process).kill)
	if empty {
		for _, n := range s.group.nodes {
			n.generation++
		}
	}
	if err := s.group.run(); err != nil {
		s.tb.Fatalf("servertest: Restart: %v", err)
	}
}

// KillNode ends one of the server's processes, that of Addrs[i], as Kill does. Start the server with what it needs to
// go on without: a Redis Cluster has a -cluster-node-timeout of a minute.
func (s *Server) KillNode(i int) {
	s.own("KillNode").Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.group.nodes[i].process.kill(ctx); err != nil {
		s.tb.Fatalf("servertest: KillNode of %s: %v", s.Name, err)
	}
}

// RestartNode starts the process of Addrs[i] again, after KillNode, with what it had, and returns when it answers.
func (s *Server) RestartNode(i int) {
	s.own("RestartNode").Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.group.runNode(ctx, s.group.nodes[i]); err != nil {
		s.tb.Fatalf("servertest: RestartNode: %v", s.group.explain(err))
	}
}

// CPU returns the processor time that the server's processes took since they were started. It is zero where there is no
// Linux /proc.
func (s *Server) CPU() (d time.Duration) {
	s.own("CPU").Helper()
	for _, n := range s.group.nodes {
		d += n.process.cpu()
	}
	return d
}

func (s *Server) control(name string, do func(*process, context.Context) error) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, n := range s.group.nodes {
		if err := do(n.process, ctx); err != nil {
			s.tb.Fatalf("servertest: %s of %s: %v", name, s.Name, err)
		}
	}
}

// own returns the test that the server belongs to.
func (s *Server) own(method string) testing.TB {
	if s.tb == nil {
		panic("servertest: " + method + " of a server that all tests share; use Start")
	}
	return s.tb
}
