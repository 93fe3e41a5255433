package servertest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

const clusterNodes = 3

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
		name:  fmt.Sprintf("%s Cluster %s (%d masters)", product, release, clusterNodes),
		nodes: clusterNodes,
		command: func(dir string, n *node) []string {
			return append(redisCommand(bin, dir, n, durable),
				"--cluster-enabled", "yes",
				"--cluster-port", strconv.Itoa(n.busPort),
				"--cluster-node-timeout", "60000", // a pause is no failure
			)
		},
		ping: pingRedis,
		join: joinCluster,
		url: func(addrs []string) string {
			return "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:], "&addr=")
		},
	}, nil
}

// joinCluster deals the slots out to nodes that know no others, introduces them to each other, and returns when
// all agree that the cluster works. Redis needs two seconds for that.
func joinCluster(ctx context.Context, g *group) error {
	for i, n := range g.nodes {
		info, err := askRedis(n.addr(), "CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "cluster_slots_assigned:0\r") {
			continue // a restart with the old data
		}
		slots := []string{"CLUSTER", "ADDSLOTSRANGE",
			strconv.Itoa(16384 * i / clusterNodes), strconv.Itoa(16384*(i+1)/clusterNodes - 1)}
		commands := [][]string{slots, {"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)}}
		for _, other := range g.nodes[:i] {
			commands = append(commands, []string{
				"CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port), strconv.Itoa(other.busPort)})
		}
		for _, command := range commands {
			if _, err := askRedis(n.addr(), command...); err != nil {
				return fmt.Errorf("%q: %w", command, err)
			}
		}
	}
	for _, n := range g.nodes {
		known := "cluster_known_nodes:" + strconv.Itoa(clusterNodes) + "\r"
		if err := waitRedis(ctx, n, "CLUSTER INFO", "cluster_state:ok\r", known); err != nil {
			return err
		}
	}
	return nil
}
