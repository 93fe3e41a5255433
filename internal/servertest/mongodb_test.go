package servertest

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A reply shows a document as it was at one moment, however many connections replace it meanwhile.
func TestMongoDBTearsNoReply(t *testing.T) {
	s := MongoDB(t)
	command := func(conn net.Conn, elements string) string {
		conn.SetDeadline(time.Now().Add(time.Minute))
		reply, err := mongoDo(conn, "test", elements)
		if err != nil {
			t.Error(err)
		}
		return reply
	}
	key := mongoString("_id", t.Name())
	replace := func(n int) string {
		doc := key + mongoInt("first", uint32(n))
		for field := range 50 { // so that there is something between the first and the last
			doc += mongoString(string(rune('A'+field)), strings.Repeat("x", n%50))
		}
		doc += mongoInt("last", uint32(n))
		update := "\x03q\x00" + mongoDoc(key) + "\x03u\x00" + mongoDoc(doc) + "\x08upsert\x00\x01"
		return mongoString("update", "torn") + "\x04updates\x00" + mongoDoc("\x030\x00"+mongoDoc(update))
	}
	field := func(reply, name string) uint32 {
		_, value, ok := strings.Cut(reply, "\x10"+name+"\x00")
		if !ok || len(value) < 4 {
			return 0 // there is none
		}
		return binary.LittleEndian.Uint32([]byte(value))
	}

	command(dial(t, s.Addrs[0]), replace(1))
	var clients sync.WaitGroup
	for client := range 4 {
		writer, reader := dial(t, s.Addrs[0]), dial(t, s.Addrs[0])
		clients.Go(func() {
			for i := 1; i <= 500 && !t.Failed(); i++ {
				command(writer, replace(10_000*client+i))
			}
		})
		clients.Go(func() {
			for i := 1; i <= 500 && !t.Failed(); i++ {
				reply := command(reader, mongoString("find", "torn")+"\x03filter\x00"+mongoDoc(key))
				if first, last := field(reply, "first"), field(reply, "last"); first != last || first == 0 {
					t.Errorf("find %d: the document begins with %d and ends with %d", i, first, last)
				}
			}
		})
	}
	clients.Wait()
}
