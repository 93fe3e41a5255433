package servertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// findRedis finds Redis, or Valkey in its place.
func findRedis(durable bool) (*software, error) {
	bin, name, err := lookRedis()
	if err != nil {
		return nil, err
	}
	return oneRedis(bin, name, "redis", durable), nil
}

// findValkey finds Valkey alone. Without it, nothing is missing but a second opinion.
func findValkey(durable bool) (*software, error) {
	bin, name, err := lookValkey()
	if err != nil {
		return nil, fmt.Errorf("%w: valkey-server, which internal/servertest/install.sh fetches", errOptional)
	}
	return oneRedis(bin, name, "valkey", durable), nil
}

func oneRedis(bin, name, scheme string, durable bool) *software {
	return &software{
		name:  name,
		nodes: 1,
		command: func(dir string, n *node) []string {
			return redisCommand(bin, dir, n, durable)
		},
		ping: pingRedis,
		url:  func(addrs []string) string { return scheme + "://" + addrs[0] + "/0" },
	}
}

func lookRedis() (bin, name string, err error) {
	if bin, err = look("redis-server"); err == nil {
		// Redis server v=7.0.15 sha=00000000:0 …
		name, err = version(bin, "--version", "Redis", `v=([0-9.]+)`)
		return bin, name, err
	}
	if bin, name, err = lookValkey(); err != nil {
		err = fmt.Errorf("%w: redis-server (Debian's package redis-server)", errMissing)
	}
	return bin, name, err
}

func lookValkey() (bin, name string, err error) {
	cache, _ := os.UserCacheDir() // where install.sh puts it
	if bin, err = look("valkey-server", filepath.Join(cache, "session-servertest", "valkey", "usr", "bin")); err == nil {
		name, err = version(bin, "--version", "Valkey", `v=([0-9.]+)`)
	}
	return bin, name, err
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

// askRedis sends a command on a connection of its own.
func askRedis(addr string, command ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	return redisDo(conn, command...)
}

// waitRedis sends a command until the reply has all the texts.
func waitRedis(ctx context.Context, n *node, command string, texts ...string) error {
	for {
		reply, err := askRedis(n.addr(), strings.Fields(command)...)
		lacks := func(text string) bool { return !strings.Contains(reply, text) }
		if err == nil && !slices.ContainsFunc(texts, lacks) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s does not say %q: %w, %v, %q", n.addr(), command, texts, ctx.Err(), err, reply)
		}
		pause(ctx)
	}
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
