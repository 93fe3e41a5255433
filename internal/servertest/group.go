package servertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A group is the processes that make up one Server, with the guard that ends them.
type group struct {
	*software
	args  []string
	guard *guard
	nodes []*node
}

// A node is one process of a group, through all its restarts.
type node struct {
	index      int
	port       int // for clients; 0 until one was found
	busPort    int // for the other nodes of a Redis Cluster
	generation int // of the data; each has its own directory
	process    *process
	logFrom    int64 // where the process's part of the log begins
}

// software is a server as it is installed here, and how to run it.
type software struct {
	name    string
	nodes   int
	account *account                                  // to run as; nil: this process's
	prepare func(dir string) error                    // fills an empty data directory; nil: it stays empty
	command func(dir string, n *node) []string        // program and arguments
	ping    func(conn net.Conn) error                 // returns nil if the server is ready
	join    func(ctx context.Context, g *group) error // makes a cluster of the nodes; nil: there is none
	url     func(addrs []string) string
}

const startTimeout = 60 * time.Second

// find returns how to run a server of that kind. durable says that its data has to survive SIGKILL.
func find(kind Kind, durable bool) (*software, error) {
	if os.Getenv("SESSION_TEST_REQUIRE") == "0" {
		return nil, errUnwanted
	}
	switch kind {
	case KindRedis:
		return findRedis(durable)
	case KindRedisTLS:
		return findRedisTLS(durable)
	case KindRedisCluster:
		return findRedisCluster(durable)
	case KindRedisSentinel:
		return findRedisSentinel(durable)
	case KindValkey:
		return findValkey(durable)
	case KindMemcached:
		return findMemcached()
	case KindMySQL:
		return findMySQL()
	case KindMariaDB:
		return findMariaDB()
	case KindPostgreSQL:
		return findPostgreSQL()
	case KindMongoDB:
		return findMongoDB()
	case KindMongoReplicaSet:
		return findMongoReplicaSet()
	}
	return nil, fmt.Errorf("servertest: unknown kind of server %q", kind)
}

func start(kind Kind, durable bool, args []string) (*Server, error) {
	sw, err := find(kind, durable)
	if err != nil {
		return nil, err
	}
	base, err := tempBase(sw.account)
	if err != nil {
		return nil, err
	}
	guard, err := newGuard(base, string(kind))
	if err != nil {
		return nil, err
	}
	g := &group{software: sw, args: args, guard: guard}
	for i := range sw.nodes {
		g.nodes = append(g.nodes, &node{index: i})
	}
	if err := g.run(); err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return &Server{Name: sw.name, URL: sw.url(g.addrs()), Addrs: g.addrs(), group: g}, nil
}

// run starts all nodes, none of which may be running, and returns when the server answers.
func (g *group) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, n := range g.nodes {
		if err := g.runNode(ctx, n); err != nil {
			return g.explain(err)
		}
	}
	if g.join != nil {
		if err := g.join(ctx, g); err != nil {
			return g.explain(err)
		}
	}
	return nil
}

// runNode starts n. A port that another program took between being found and being bound is replaced; one that
// is fixed, because clients know it, is tried again.
func (g *group) runNode(ctx context.Context, n *node) error {
	dir := filepath.Join(g.guard.dir, fmt.Sprintf("data-%d-%d", n.index, n.generation))
	if err := g.makeData(dir); err != nil {
		return err
	}
	fixed := n.port != 0
	for {
		if !fixed {
			var err error
			if n.port, err = freePort(); err != nil {
				return err
			}
			if n.busPort, err = freePort(); err != nil {
				return err
			}
		}
		var err error
		n.logFrom = g.logSize(n)
		n.process, err = g.guard.start(dir, g.logFile(n), g.account, append(g.command(dir, n), g.args...))
		if err != nil {
			return err
		}
		err = g.waitReady(ctx, n)
		if err == nil || !errors.Is(err, errPortTaken) || ctx.Err() != nil {
			return err
		}
		if err := n.process.kill(ctx); err != nil {
			return err
		}
		if fixed {
			pause(ctx)
		}
	}
}

func (g *group) makeData(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil // a restart with the old data
	}
	if err == nil && g.prepare != nil {
		err = g.prepare(dir)
	}
	if err == nil && g.account != nil {
		err = g.account.own(dir)
	}
	return err
}

var errPortTaken = errors.New("servertest: another program took the port")

// waitReady polls until the server on n answers, and makes sure that it is n's.
func (g *group) waitReady(ctx context.Context, n *node) error {
	for {
		exited := n.process.exited() // asked before the log is read, so that the log is complete
		err := g.ask(ctx, n)
		switch {
		case exited:
			if strings.Contains(strings.ToLower(g.log(n, n.logFrom)), "address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("it ended: %v", n.process.state())
		case err == nil:
			if !n.process.listens(n.port) {
				return errPortTaken
			}
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("it does not answer: %w", cmp.Or(err, ctx.Err()))
		}
		pause(ctx)
	}
}

// ask pings the server on n. It gives up when n's process ends: somebody else may sit on the port and be silent.
func (g *group) ask(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ended := n.process.done // a restart replaces the process
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	return g.ping(conn)
}

// stop ends all processes and removes all files.
func (g *group) stop() error { return g.guard.stop() }

func (g *group) addrs() []string {
	var addrs []string
	for _, n := range g.nodes {
		addrs = append(addrs, n.addr())
	}
	return addrs
}

func (n *node) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }

func (g *group) logFile(n *node) string {
	return filepath.Join(g.guard.dir, fmt.Sprintf("log-%d", n.index))
}

func (g *group) logSize(n *node) int64 {
	info, err := os.Stat(g.logFile(n))
	if err != nil {
		return 0
	}
	return info.Size()
}

// log returns the end of a node's log, but nothing before the offset from.
func (g *group) log(n *node, from int64) string {
	f, err := os.Open(g.logFile(n))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	f.Seek(max(from, g.logSize(n)-8192), io.SeekStart)
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}

func (g *group) logs() string {
	var b strings.Builder
	for _, n := range g.nodes {
		fmt.Fprintf(&b, "--- %s\n%s\n", n.addr(), g.log(n, 0))
	}
	return b.String()
}

func (g *group) explain(err error) error {
	return fmt.Errorf("servertest: %s: %w\n%s", g.name, err, g.logs())
}

// freePort returns a port that nothing listens on. It is one that the system does not hand out to outgoing
// connections: those could take it while the server is being restarted, and a client that dials a port in that
// range where nobody listens can even be connected to itself.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 15000 + rand.IntN(32768-15000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("servertest: no free port: %w", err)
}

// pause is how long every poll in this package waits between two tries.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}
