package servertest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

func findMemcached() (*software, error) {
	bin, err := look("memcached")
	if err != nil {
		return nil, fmt.Errorf("%w: memcached (Debian's package memcached)", errMissing)
	}
	name, err := version(bin, "-V", "Memcached", `([0-9.]+)`)
	if err != nil {
		return nil, err
	}
	return &software{
		name:  name,
		nodes: 1,
		command: func(_ string, n *node) []string {
			argv := []string{bin, "-l", "127.0.0.1", "-p", strconv.Itoa(n.port), "-U", "0"}
			if os.Geteuid() == 0 {
				argv = append(argv, "-u", "root") // it asks for a decision
			}
			return argv
		},
		ping: pingMemcached,
		url:  func(addrs []string) string { return "memcached://" + addrs[0] },
	}, nil
}

func pingMemcached(conn net.Conn) error {
	if _, err := fmt.Fprint(conn, "version\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "VERSION ") {
		err = fmt.Errorf("unexpected reply %q", line)
	}
	return err
}
