package servertest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func findPostgreSQL() (*software, error) {
	bin, name, err := lookPostgreSQL()
	if err != nil {
		return nil, err
	}
	// It refuses to run as root. Debian's package makes the first of these.
	as, err := unprivileged("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	server := filepath.Join(bin, "postgres")
	tmpl := &template{name: name, as: as, build: func(ctx context.Context, g *guard, dir string) error {
		err := g.run(ctx, dir, as, "", filepath.Join(bin, "initdb"), "--pgdata="+dir, "--username=postgres",
			"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1")
		if err != nil {
			return err
		}
		return g.run(ctx, dir, as, "CREATE DATABASE test;\n", server, "--single", "-F", "-D", dir, "postgres")
	}}
	return &software{
		name:    name,
		nodes:   1,
		account: as,
		prepare: tmpl.copyTo,
		command: func(dir string, n *node) []string {
			return []string{
				server, "-D", dir, "-p", strconv.Itoa(n.port),
				"-c", "listen_addresses=127.0.0.1",
				"-c", "unix_socket_directories=",
				"-c", "max_connections=300",
				"-c", "shared_buffers=32MB",
				"-c", "dynamic_shared_memory_type=mmap", // the default outlives a killed server
				"-c", "fsync=off", // SIGKILL loses nothing that was handed to the system
			}
		},
		ping: pingPostgreSQL,
		url: func(addrs []string) string {
			return "postgres://postgres@" + addrs[0] + "/test?sslmode=disable"
		},
	}, nil
}

// lookPostgreSQL returns the directory of the newest PostgreSQL whose server and initdb both run.
func lookPostgreSQL() (dir, name string, err error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian's, kept off PATH
	slices.SortFunc(dirs, func(a, b string) int { return postgresMajor(b) - postgresMajor(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		// A link may lead to where initdb is, too.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			if path, err = filepath.Abs(path); err == nil {
				dirs = slices.Insert(dirs, 0, filepath.Dir(path))
			}
		}
	}
	err = fmt.Errorf("%w: postgres and initdb (Debian's package postgresql)", errMissing)
	for _, dir := range dirs {
		// postgres (PostgreSQL) 15.18 (Debian …)
		const pattern = `\(PostgreSQL\) ([0-9.]+)`
		name, err1 := version(filepath.Join(dir, "postgres"), "--version", "PostgreSQL", pattern)
		initdb, err2 := version(filepath.Join(dir, "initdb"), "--version", "PostgreSQL", pattern)
		if err1 == nil && err2 == nil && name == initdb {
			return dir, name, nil
		}
		err = errors.Join(err, err1, err2)
	}
	return "", "", err
}

func postgresMajor(bin string) int {
	major, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return major
}

func pingPostgreSQL(conn net.Conn) error {
	_, err := postgresDo(conn, "SELECT 1")
	return err
}

// postgresDo logs in on a fresh connection, executes one statement, and returns the first column of its rows.
func postgresDo(conn io.ReadWriter, sql string) ([]string, error) {
	body := binary.BigEndian.AppendUint32(nil, 3<<16) // version 3.0 of the protocol
	body = append(body, "user\x00postgres\x00database\x00test\x00\x00"...)
	if _, err := conn.Write(postgresMessage("", body)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	if _, err := postgresReplies(r); err != nil {
		return nil, err
	}
	if _, err := conn.Write(postgresMessage("Q", append([]byte(sql), 0))); err != nil {
		return nil, err
	}
	rows, err := postgresReplies(r)
	if err == nil {
		_, err = conn.Write(postgresMessage("X", nil))
	}
	return rows, err
}

func postgresMessage(kind string, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte(kind), uint32(len(body)+4)), body...)
}

// postgresReplies reads messages up to ReadyForQuery and returns the first column of the rows among them.
func postgresReplies(r *bufio.Reader) (rows []string, err error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size < 4 || size > 1<<20 {
			return nil, fmt.Errorf("unexpected message %q", head)
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		switch head[0] {
		case 'E':
			return nil, errors.New(strings.ReplaceAll(string(body), "\x00", " "))
		case 'D':
			if len(body) >= 6 {
				size := min(int(int32(binary.BigEndian.Uint32(body[2:6]))), len(body)-6)
				rows = append(rows, string(body[6:6+max(0, size)]))
			}
		case 'Z':
			return rows, nil
		}
	}
}
