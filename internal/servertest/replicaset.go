package servertest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// mongoReplicaSet is the name of the replica set.
const mongoReplicaSet = "rs"

// findMongoReplicaSet finds mongod for three that keep the same data. mongo-java-server cannot take its place.
func findMongoReplicaSet() (*software, error) {
	bin, name, err := lookMongod()
	if err != nil {
		return nil, err
	}
	return &software{
		name:  name + " (replica set of 3)",
		nodes: 3,
		command: func(dir string, n *node) []string {
			return append(mongodCommand(bin, dir, n), "--replSet", mongoReplicaSet, "--oplogSize", "50")
		},
		ping: pingMongoDB,
		join: joinReplicaSet,
		url: func(addrs []string) string {
			return "mongodb://" + strings.Join(addrs, ",") + "/test?replicaSet=" + mongoReplicaSet
		},
	}, nil
}

// joinReplicaSet makes a replica set of the nodes, and returns when one of them is the primary.
func joinReplicaSet(ctx context.Context, g *group) error {
	members := ""
	for i, n := range g.nodes {
		members += "\x03" + strconv.Itoa(i) + "\x00" + mongoDoc(mongoInt("_id", uint32(i))+mongoString("host", n.addr()))
	}
	config := mongoString("_id", mongoReplicaSet) + "\x04members\x00" + mongoDoc(members) +
		"\x03settings\x00" + mongoDoc(mongoInt("electionTimeoutMillis", 2000))
	_, err := askMongo(g.nodes[0].addr(), "\x03replSetInitiate\x00"+mongoDoc(config))
	if err != nil && !strings.Contains(err.Error(), "AlreadyInitialized") { // a restart with the old data
		return err
	}
	for {
		for _, n := range g.nodes {
			var reply string
			reply, err = askMongo(n.addr(), mongoInt("hello", 1))
			if strings.Contains(reply, "\x08isWritablePrimary\x00\x01") {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("none becomes the primary: %w, %v", ctx.Err(), err)
		}
		pause(ctx)
	}
}

// askMongo sends a command to the database admin, on a connection of its own.
func askMongo(addr, elements string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return mongoDo(conn, "admin", elements)
}
