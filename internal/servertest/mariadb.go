package servertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

func findMariaDB() (*software, error) {
	missing := fmt.Errorf("%w: mariadbd and mariadb-install-db (Debian's package mariadb-server)", errMissing)
	bin, err := look("mariadbd", "/usr/libexec", "/usr/local/libexec", "/opt/homebrew/bin")
	if err != nil {
		return nil, missing
	}
	install, err := look("mariadb-install-db", "/opt/homebrew/bin")
	if err != nil {
		return nil, missing
	}
	// mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)
	name, err := version(bin, "--version", "MariaDB", `Ver ([0-9.]+)-MariaDB`)
	if err != nil {
		return nil, err
	}
	// For the template and the server alike. The first must be the first; it keeps the machine's files out.
	common := func(dir string) []string {
		argv := []string{
			"--no-defaults", "--datadir=" + dir,
			"--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=0",
			"--character-set-server=utf8mb4", "--skip-name-resolve",
		}
		if os.Geteuid() == 0 {
			argv = append(argv, "--user=root") // it asks for a decision
		}
		return argv
	}
	tmpl := &template{name: name, build: func(ctx context.Context, g *guard, dir string) error {
		argv := append([]string{install}, common(dir)...)
		argv = append(argv, "--auth-root-authentication-method=normal", "--skip-test-db")
		if err := g.run(ctx, dir, nil, "", argv...); err != nil {
			return err
		}
		argv = append(append([]string{bin}, common(dir)...), "--bootstrap")
		return g.run(ctx, dir, nil, "CREATE DATABASE test CHARACTER SET utf8mb4;\n", argv...)
	}}
	return &software{
		name:    name,
		nodes:   1,
		prepare: tmpl.copyTo,
		command: func(dir string, n *node) []string {
			return append(append([]string{bin}, common(dir)...),
				"--bind-address=127.0.0.1", "--port="+strconv.Itoa(n.port),
				"--socket=mysql.sock", // in the data directory, whose path can be too long to be part of it
				"--pid-file=mysql.pid",
				"--max-connections=300",
				"--innodb-flush-log-at-trx-commit=2", // SIGKILL loses nothing that was handed to the system
			)
		},
		ping: pingMariaDB,
		url:  func(addrs []string) string { return "mysql://root@" + addrs[0] + "/test" },
	}, nil
}

func pingMariaDB(conn net.Conn) error {
	_, err := mariaDo(conn, "SELECT 1")
	return err
}

// mariaDo logs in on a fresh connection, executes one statement, and returns the first column of its rows.
func mariaDo(conn io.ReadWriter, sql string) ([]string, error) {
	r := bufio.NewReader(conn)
	greeting, err := mariaPacket(r)
	if err != nil {
		return nil, err
	}
	if greeting[0] != 10 {
		return nil, fmt.Errorf("unexpected greeting %q", greeting)
	}
	// Protocol 4.1, long flags, with a database, plugin and "secure" authentication; 16 MiB packets; utf8mb4.
	login := []byte{0x0d, 0x82, 0x08, 0, 0, 0, 0, 1, 45}
	login = append(login, make([]byte, 23)...)
	login = append(login, "root\x00\x00test\x00mysql_native_password\x00"...) // no password
	if err := mariaSend(conn, 1, login); err != nil {
		return nil, err
	}
	reply, err := mariaPacket(r)
	if err == nil && reply[0] == 0xfe { // MySQL asks for another plugin; no password is the same in each
		if err = mariaSend(conn, 3, nil); err == nil {
			_, err = mariaPacket(r)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := mariaSend(conn, 0, append([]byte{3}, sql...)); err != nil {
		return nil, err
	}
	head, err := mariaPacket(r)
	if err != nil || head[0] == 0 { // no rows
		return nil, err
	}
	var rows []string
	for ends := 0; ends < 2; { // one after the columns' names, one after the rows
		p, err := mariaPacket(r)
		switch {
		case err != nil:
			return nil, err
		case p[0] == 0xfe && len(p) < 9:
			ends++
		case ends == 1 && p[0] < 0xfb && len(p) > int(p[0]):
			rows = append(rows, string(p[1:1+p[0]]))
		}
	}
	return rows, mariaSend(conn, 0, []byte{1})
}

func mariaSend(w io.Writer, sequence byte, body []byte) error {
	head := []byte{byte(len(body)), byte(len(body) >> 8), byte(len(body) >> 16), sequence}
	_, err := w.Write(append(head, body...))
	return err
}

// mariaPacket returns a packet of at least one byte that is not an error's.
func mariaPacket(r *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if size == 0 {
		return nil, errors.New("empty packet")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if body[0] == 0xff {
		return nil, fmt.Errorf("%q", body[min(3, len(body)):])
	}
	return body, nil
}
