package servertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

func findMySQL() (*software, error) {
	bin, name, err := lookMySQL()
	if err != nil {
		return nil, err
	}
	// For the template and the server alike. The first must be the first; it keeps the machine's files out.
	common := func(dir string) []string {
		argv := []string{
			bin, "--no-defaults", "--datadir=" + dir,
			"--loose-innodb-redo-log-capacity=8M", "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=0",
			"--loose-innodb-doublewrite=0", // which is for a loss of power
			"--character-set-server=utf8mb4", "--skip-name-resolve", "--skip-log-bin", "--tls-version=",
		}
		if os.Geteuid() == 0 {
			argv = append(argv, "--user=root") // it asks for a decision
		}
		return argv
	}
	tmpl := &template{name: name, build: func(ctx context.Context, g *guard, dir string) error {
		// Without names the account that comes with it, root@localhost, is for the socket alone.
		const statements = "CREATE DATABASE test CHARACTER SET utf8mb4;\n" +
			"CREATE USER root@'127.0.0.1';\n" +
			"GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
		file := filepath.Join(g.dir, "init.sql")
		if err := os.WriteFile(file, []byte(statements), 0o600); err != nil {
			return err
		}
		argv := append(common(dir), "--initialize-insecure", "--init-file="+file)
		return g.run(ctx, dir, nil, "", argv...)
	}}
	return &software{
		name:    name,
		nodes:   1,
		prepare: tmpl.copyTo,
		command: func(dir string, n *node) []string {
			return append(common(dir),
				"--bind-address=127.0.0.1", "--port="+strconv.Itoa(n.port), "--loose-mysqlx=0",
				"--socket=mysql.sock", // in the data directory, whose path can be too long to be part of it
				"--pid-file=mysql.pid",
				"--max-connections=300", "--max-allowed-packet=16M", "--performance-schema=0",
				"--innodb-flush-log-at-trx-commit=2", // SIGKILL loses nothing that was handed to the system
			)
		},
		ping: pingMariaDB, // it has the same protocol
		url:  func(addrs []string) string { return "mysql://root@" + addrs[0] + "/test" },
	}, nil
}

// lookMySQL returns the path and the name of MySQL's server. MariaDB's can go by the same file name.
func lookMySQL() (bin, name string, err error) {
	var found []string
	if path, err := exec.LookPath("mysqld"); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			found = append(found, path)
		}
	}
	if cache, err := os.UserCacheDir(); err == nil { // where install.sh puts it
		fetched, _ := filepath.Glob(filepath.Join(cache, "session-servertest", "mysql-*", "bin", "mysqld"))
		found = append(found, fetched...)
	}
	err = fmt.Errorf("%w: MySQL's mysqld, which internal/servertest/install.sh fetches", errMissing)
	for _, bin := range found {
		// mysqld  Ver 8.0.33 for Linux on x86_64 (MySQL Community Server - GPL)
		name, err2 := version(bin, "--version", "MySQL", `Ver ([0-9.]+)(?:-[^M ][^ ]*)? for `)
		if err2 == nil {
			return bin, name, nil
		}
		err = errors.Join(err, err2)
	}
	return "", "", err
}
