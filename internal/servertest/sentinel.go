package servertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// sentinelMaster is the name under which Sentinel watches the primary.
const sentinelMaster = "main"

// findRedisSentinel finds a Redis that runs as a primary, as its replica, and as the Sentinel that watches the two.
func findRedisSentinel(durable bool) (*software, error) {
	bin, name, err := lookRedis()
	if err != nil {
		return nil, err
	}
	return &software{
		name:  name + " with a replica and Sentinel",
		nodes: 3,
		command: func(dir string, n *node) []string {
			if n.index < 2 {
				return append(redisCommand(bin, dir, n, durable), "--repl-diskless-sync-delay", "0")
			}
			conf := filepath.Join(dir, "sentinel.conf") // Sentinel keeps its state in it
			return []string{bin, conf, "--sentinel", "--bind", "127.0.0.1", "--port", strconv.Itoa(n.port), "--dir", dir}
		},
		prepare: func(dir string) error { return os.WriteFile(filepath.Join(dir, "sentinel.conf"), nil, 0o600) },
		ping:    pingRedis,
		join:    joinSentinel,
		url:     func(addrs []string) string { return "redis://" + addrs[2] + "/0?master_name=" + sentinelMaster },
	}, nil
}

// joinSentinel makes the second node the replica of the first, lets the third watch them, and returns when it knows
// both.
func joinSentinel(ctx context.Context, g *group) error {
	primary, replica, sentinel := g.nodes[0], g.nodes[1], g.nodes[2]
	port := strconv.Itoa(primary.port)
	info, err := askRedis(sentinel.addr(), "INFO", "sentinel")
	if err != nil {
		return err
	}
	if strings.Contains(info, "sentinel_masters:0\r") { // else a restart with the old data
		if _, err := askRedis(replica.addr(), "REPLICAOF", "127.0.0.1", port); err != nil {
			return err
		}
		if err := waitRedis(ctx, primary, "INFO replication", "state=online"); err != nil {
			return err // asked for at the start, the list of replicas is not asked for again for ten seconds
		}
		for _, command := range [][]string{
			{"SENTINEL", "MONITOR", sentinelMaster, "127.0.0.1", port, "1"},
			{"SENTINEL", "SET", sentinelMaster, "down-after-milliseconds", "1000"},
			{"SENTINEL", "SET", sentinelMaster, "failover-timeout", "5000"},
		} {
			if _, err := askRedis(sentinel.addr(), command...); err != nil {
				return fmt.Errorf("%q: %w", command, err)
			}
		}
	}
	return waitRedis(ctx, sentinel, "INFO sentinel", "status=ok", "slaves=1")
}
