package servertest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// The first nodes of a cluster are its masters, and the others their replicas, in the same order.
const clusterMasters, clusterNodes = 3, 6

// findRedisCluster finds a Redis that can choose the port of the cluster's bus, as 7.0 and Valkey can.
func findRedisCluster(durable bool) (*software, error) {
	bin, name, err := lookRedis()
	if err != nil {
		return nil, err
	}
	product, release, _ := strings.Cut(name, " ")
	major, _, _ := strings.Cut(release, ".")
	if v, _ := strconv.Atoi(major); v < 7 {
		return nil, fmt.Errorf("%w: Redis 7.0 or newer for a cluster; this is %s", errMissing, name)
	}
	return &software{
		name:  fmt.Sprintf("%s Cluster %s (%d masters, each with a replica)", product, release, clusterMasters),
		nodes: clusterNodes,
		command: func(dir string, n *node) []string {
			return append(redisCommand(bin, dir, n, durable),
				"--cluster-enabled", "yes",
				"--cluster-port", strconv.Itoa(n.busPort),
				"--cluster-node-timeout", "60000", // a pause is no failure
				"--repl-diskless-sync-delay", "0",
			)
		},
		ping: pingRedis,
		join: joinCluster,
		url: func(addrs []string) string {
			return "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:clusterMasters], "&addr=")
		},
	}, nil
}

// joinCluster introduces nodes that know no others to each other, deals the slots out to the masters, gives each of them
// its replica, and returns when all agree that the cluster works. Redis needs a few seconds for that.
func joinCluster(ctx context.Context, g *group) error {
	known := "cluster_known_nodes:" + strconv.Itoa(clusterNodes) + "\r"
	restarted := false // with the old data
	for i, n := range g.nodes {
		info, err := askRedis(n.addr(), "CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if restarted = strings.Contains(info, known); restarted {
			break
		}
		if err := introduce(i, n, g.nodes[:i]); err != nil {
			return err
		}
	}
	for _, n := range g.nodes {
		if err := waitRedis(ctx, n, "CLUSTER INFO", "cluster_state:ok\r", known); err != nil {
			return err
		}
	}
	if restarted {
		return nil
	}
	for i, n := range g.nodes[clusterMasters:] {
		id, err := askRedis(g.nodes[i].addr(), "CLUSTER", "MYID")
		if err != nil {
			return err
		}
		if _, err := askRedis(n.addr(), "CLUSTER", "REPLICATE", id); err != nil {
			return err
		}
		if err := waitRedis(ctx, n, "INFO replication", "master_link_status:up\r"); err != nil {
			return err
		}
	}
	return nil
}

// introduce tells a node of the others, and of the slots that are its own.
func introduce(i int, n *node, others []*node) error {
	commands := [][]string{{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)}}
	if i < clusterMasters {
		commands = append(commands, []string{"CLUSTER", "ADDSLOTSRANGE",
			strconv.Itoa(16384 * i / clusterMasters), strconv.Itoa(16384*(i+1)/clusterMasters - 1)})
	}
	for _, other := range others {
		commands = append(commands, []string{
			"CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port), strconv.Itoa(other.busPort)})
	}
	for _, command := range commands {
		if _, err := askRedis(n.addr(), command...); err != nil {
			return fmt.Errorf("%q: %w", command, err)
		}
	}
	return nil
}
