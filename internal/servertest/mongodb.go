package servertest

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// findMongoDB finds mongod, or what it takes to run mongo-java-server in its place.
func findMongoDB() (*software, error) {
	bin, name, err := lookMongod()
	switch {
	case errors.Is(err, errOptional):
		return findMongoJava()
	case err != nil:
		return nil, err
	}
	return &software{
		name:    name,
		nodes:   1,
		command: func(dir string, n *node) []string { return mongodCommand(bin, dir, n) },
		ping:    pingMongoDB,
		url:     mongoURL,
	}, nil
}

// lookMongod finds mongod alone.
func lookMongod() (bin, name string, err error) {
	if bin, err = look("mongod"); err != nil {
		return "", "", fmt.Errorf("%w: mongod, which is not among Debian's packages", errOptional)
	}
	// db version v7.0.14
	name, err = version(bin, "--version", "MongoDB", `db version v([0-9.]+)`)
	return bin, name, err
}

func mongodCommand(bin, dir string, n *node) []string {
	return []string{
		bin, "--dbpath", dir, "--bind_ip", "127.0.0.1", "--port", strconv.Itoa(n.port),
		"--nounixsocket", "--wiredTigerCacheSizeGB", "0.25",
	}
}

var (
	//go:embed mongo/pom.xml
	mongoPOM string
	//go:embed mongo/Mongo.java
	mongoMain string
)

// The goal that fetches the jars, with its version: Maven would ask for the newest otherwise.
const mavenCopy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

// Without it, Java keeps a file in /tmp that a killed one leaves there.
const noPerfData = "-XX:-UsePerfData"

func findMongoJava() (*software, error) {
	var tools [3]string
	for i, program := range []string{"java", "javac", "mvn"} {
		path, err := look(program)
		if err != nil {
			return nil, fmt.Errorf("%w: %s (mongod is not there either; in its place mongo-java-server needs "+
				"Debian's packages default-jdk-headless and maven)", errMissing, program)
		}
		tools[i] = path
	}
	java, javac, mvn := tools[0], tools[1], tools[2]
	release := regexp.MustCompile(`mongo-java-server</artifactId>\s*<version>([^<]*)`).FindStringSubmatch(mongoPOM)
	name := "mongo-java-server " + release[1]
	tmpl := &template{name: name, build: func(ctx context.Context, g *guard, dir string) error {
		pom, source := filepath.Join(g.dir, "pom.xml"), filepath.Join(g.dir, "Mongo.java")
		err := errors.Join(
			os.WriteFile(pom, []byte(mongoPOM), 0o600),
			os.WriteFile(source, []byte(mongoMain), 0o600),
		)
		if err != nil {
			return err
		}
		err = g.run(ctx, g.dir, nil, "", "env", "MAVEN_OPTS="+os.Getenv("MAVEN_OPTS")+" "+noPerfData,
			mvn, "-B", "-f", pom, mavenCopy, "-DoutputDirectory="+dir)
		if err != nil {
			return fmt.Errorf("%w: mongo-java-server, which Maven could not fetch: %w", errMissing, err)
		}
		return g.run(ctx, g.dir, nil, "", javac, "-J"+noPerfData, "-cp", filepath.Join(dir, "*"), "-d", dir, source)
	}}
	jars, err := tmpl.path()
	if err != nil {
		return nil, err
	}
	return &software{
		name:  name + " (memory backend)",
		nodes: 1,
		command: func(dir string, n *node) []string {
			return []string{
				java, "-XX:+UseSerialGC", "-Xmx1g",
				noPerfData,
				"-Djava.io.tmpdir=" + dir, "-Dfile.encoding=UTF-8", "-Djava.net.preferIPv4Stack=true",
				"-cp", jars + ":" + filepath.Join(jars, "*"), "Mongo", strconv.Itoa(n.port),
			}
		},
		ping: pingMongoDB,
		url:  mongoURL,
	}, nil
}

func mongoURL(addrs []string) string { return "mongodb://" + addrs[0] + "/test" }

func pingMongoDB(conn net.Conn) error {
	_, err := mongoDo(conn, "test", mongoInt("ping", 1))
	return err
}

// mongoDo sends a command to a database, as BSON elements, and returns the reply, a BSON document that says that it
// succeeded.
func mongoDo(conn io.ReadWriter, database, elements string) (reply string, err error) {
	doc := mongoDoc(elements + mongoString("$db", database))
	var msg []byte
	for _, v := range []int{16 + 4 + 1 + len(doc), 1, 0, 2013, 0} { // length, request, response to, OP_MSG, flags
		msg = binary.LittleEndian.AppendUint32(msg, uint32(v))
	}
	msg = append(append(msg, 0), doc...)
	if _, err := conn.Write(msg); err != nil {
		return "", err
	}
	var head [21]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return "", err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size < 21 || size > 1<<20 {
		return "", fmt.Errorf("unexpected reply %q", head)
	}
	body := make([]byte, size-21)
	if _, err := io.ReadFull(conn, body); err != nil {
		return "", err
	}
	if ok := "\x01ok\x00\x00\x00\x00\x00\x00\x00\xf0\x3f"; !strings.Contains(string(body), ok) {
		return "", fmt.Errorf("the command failed: %q", body)
	}
	return string(body), nil
}

func mongoDoc(elements string) string {
	size := binary.LittleEndian.AppendUint32(nil, uint32(4+len(elements)+1))
	return string(size) + elements + "\x00"
}

func mongoInt(name string, v uint32) string {
	return "\x10" + name + "\x00" + string(binary.LittleEndian.AppendUint32(nil, v))
}

func mongoString(name, v string) string {
	return "\x02" + name + "\x00" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(v)+1))) + v + "\x00"
}
