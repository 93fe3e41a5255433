package servertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// findRedis finds Redis, or Valkey in its place.
func findRedis(durable bool) (*software, error) {
	bin, name, err := lookRedis()
	if err != nil {
		return nil, err
	}
	return &software{
		name:  name,
		nodes: 1,
		command: func(dir string, n *node) []string {
			return redisCommand(bin, dir, n, durable)
		},
		ping: pingRedis,
		url:  func(addrs []string) string { return "redis://" + addrs[0] + "/0" },
	}, nil
}

func lookRedis() (bin, name string, err error) {
	if bin, err = look("redis-server"); err == nil {
		// Redis server v=7.0.15 sha=00000000:0 …
		name, err = version(bin, "--version", "Redis", `v=([0-9.]+)`)
		return bin, name, err
	}
	if bin, err = look("valkey-server"); err == nil {
		name, err = version(bin, "--version", "Valkey", `v=([0-9.]+)`)
		return bin, name, err
	}
	return "", "", fmt.Errorf("%w: redis-server (Debian's package redis-server)", errMissing)
}

func redisCommand(bin, dir string, n *node, durable bool) []string {
	argv := []string{
		bin, "--bind", "127.0.0.1", "--port", strconv.Itoa(n.port), "--dir", dir,
		"--daemonize", "no", "--save", "",
	}
	if durable {
		argv = append(argv, "--appendonly", "yes", "--appendfsync", "always")
	}
	return argv
}

func pingRedis(conn net.Conn) error {
	_, err := redisDo(conn, "PING")
	return err
}

// redisDo sends a command and returns its reply, which must be a single string or number.
func redisDo(conn io.ReadWriter, args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	switch {
	case strings.HasPrefix(line, "+"), strings.HasPrefix(line, ":"):
		return line[1:], nil
	case line == "$-1":
		return "", os.ErrNotExist
	case strings.HasPrefix(line, "$"):
		size, err := strconv.Atoi(line[1:])
		if err != nil {
			return "", err
		}
		text := make([]byte, size+2)
		_, err = io.ReadFull(r, text)
		return string(text[:size]), err
	}
	return "", fmt.Errorf("unexpected reply %q", line)
}
