package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"example.com/session"
	"example.com/session/internal/interleave"
	"example.com/session/internal/storetest"
)

// The bytes in each store, read by the server's own client or from the file system, holds nothing of a session with
// EncryptAtRest, and all of it without; but in neither case what a cookie is made of.
func TestEncryptAtRestRawBytes(t *testing.T) {
	storetest.EachShared(t, storetest.OneProcess, func(t *testing.T, kind storetest.Kind) {
		for _, encrypted := range []bool{true, false} {
			place := kind.Place(t)
			clock := new(interleave.Clock)
			clock.Start()
			m := newCrew(t, kind.OpenAt(t, place), 1, session.Options{EncryptAtRest: encrypted}).by(clock)[0]
			content, cookies := liveLife(t, m, clock)
			raw := rawContent(t, place)
			for _, text := range content {
				if bytes.Contains(raw, []byte(text)) == encrypted {
					t.Errorf("encrypted %v: among %d bytes, %q is there: %v", encrypted, len(raw), text, encrypted)
				}
			}
			for i, part := range cookies {
				if bytes.Contains(raw, part) {
					t.Errorf("encrypted %v: part %d of the cookies is there", encrypted, i)
				}
			}
		}
	})
}

// liveLife leaves records of every kind in the store, and returns what they were given, and what cookies
// are made of.
func liveLife(t *testing.T, m *session.Manager, clock *interleave.Clock) (content []string, cookies [][]byte) {
	t.Helper()
	content = []string{"key-of-a-value", "value-of-a-key", "name-of-a-user", "192.0.2.1", "agent-of-a-user", "text-of-a-flash"}
	cookie := ""
	visit := func(fn func(s *session.Session)) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("User-Agent", "agent-of-a-user")
		if cookie != "" {
			r.AddCookie(&http.Cookie{Name: "session_id", Value: cookie})
		}
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { fn(session.FromContext(r.Context())) })).ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Errorf("the status is %d", w.Code)
		}
		for _, c := range w.Result().Cookies() {
			cookie = c.Value // empty if it is removed
		}
	}
	visit(func(s *session.Session) { s.Set("key-of-a-value", "value-of-a-key") })
	begun := cookie
	visit(func(s *session.Session) {
		s.SetUser("name-of-a-user")
		token, err := base64.RawURLEncoding.DecodeString(s.FormToken())
		if err != nil {
			t.Error(err)
		}
		content = append(content, string(token))
	})
	visit(func(s *session.Session) { s.Set("flash", "text-of-a-flash") })
	before := cookie
	clock.Pass(4 * time.Minute)
	visit(func(s *session.Session) { // a renewal, a lock
		if err := s.Lock(t.Context()); err != nil {
			t.Error(err)
		}
		s.Set("key-of-a-value", "value-of-a-key")
	})
	if cookie == before {
		t.Error("the session was not renewed")
	}
	renewed := cookie
	visit(func(s *session.Session) { s.Regenerate() })
	regenerated := cookie
	cookie = ""
	visit(func(s *session.Session) { s.SetUser("name-of-a-user") })
	visit(func(s *session.Session) { s.Destroy() }) // a tombstone
	for _, cookie := range []string{begun, before, renewed, regenerated} {
		value, err := base64.RawURLEncoding.DecodeString(cookie)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]byte{value[:16], value[16:32], value[:32]} { // name, key, both
			cookies = append(cookies, part, []byte(hex.EncodeToString(part)))
		}
		cookies = append(cookies, []byte(cookie[:32/3*4]), []byte(base64.RawURLEncoding.EncodeToString(value[16:32])))
	}
	return content, append(cookies, secretOf('s'))
}

// rawContent returns all that is stored at a place: keys, file names, values.
func rawContent(t *testing.T, place string) []byte {
	t.Helper()
	u, err := url.Parse(place)
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]func(t *testing.T, u *url.URL) []byte{
		"": rawFiles, "redis": rawRedis, "memcached": rawMemcached, "mysql": rawMySQL, "mariadb": rawMySQL,
		"postgres": rawPostgres, "mongodb": rawMongo,
	}[u.Scheme]
	if read == nil {
		t.Fatalf("who reads %q?", u.Scheme)
	}
	raw := read(t, u)
	if len(raw) < 500 {
		t.Fatalf("there are only %d bytes", len(raw))
	}
	return raw
}

func rawFiles(t *testing.T, u *url.URL) (raw []byte) {
	err := filepath.WalkDir(u.Path, func(path string, d fs.DirEntry, err error) error {
		raw = append(raw, path...)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		raw = append(raw, data...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func rawRedis(t *testing.T, u *url.URL) (raw []byte) {
	pattern := u.Query().Get("prefix") + "*"
	read := func(ctx context.Context, client *redis.Client) error {
		keys, err := client.Keys(ctx, pattern).Result()
		if err != nil {
			return err
		}
		for _, key := range keys {
			value, err := client.Get(ctx, key).Bytes()
			if err != nil {
				return err
			}
			raw = append(append(raw, key...), value...)
		}
		return nil
	}
	for _, addr := range append(u.Query()["addr"], u.Host) { // of a cluster, each master
		client := redis.NewClient(&redis.Options{Addr: addr})
		err := read(t.Context(), client)
		client.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

func rawMemcached(t *testing.T, u *url.URL) (raw []byte) {
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	line := func() string {
		text, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(text, "\r\n")
	}
	fmt.Fprint(conn, "lru_crawler metadump all\r\n")
	var keys []string
	for text := line(); text != "END"; text = line() {
		key, _, _ := strings.Cut(strings.TrimPrefix(text, "key="), " ")
		if key, err := url.PathUnescape(key); err == nil && strings.HasPrefix(key, u.Query().Get("prefix")) {
			keys = append(keys, key)
		}
	}
	client := memcache.New(u.Host)
	defer client.Close()
	client.Timeout = 10 * time.Second // for slow machines
	for _, key := range keys {
		item, err := client.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(append(raw, key...), item.Value...)
	}
	return raw
}

func rawMySQL(t *testing.T, u *url.URL) (raw []byte) {
	table := u.Query().Get("table")
	u.RawQuery = ""
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.DBName = u.User.Username(), "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	cfg.Passwd, _ = u.User.Password()
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT * FROM "+table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		columns := make([][]byte, len(names))
		into := make([]any, len(names))
		for i := range columns {
			into[i] = &columns[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		raw = append(raw, bytes.Join(columns, nil)...)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return raw
}

func rawPostgres(t *testing.T, u *url.URL) []byte {
	query := u.Query()
	table := query.Get("table")
	query.Del("table")
	u.RawQuery = query.Encode()
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var content bytes.Buffer
	if _, err = conn.PgConn().CopyTo(t.Context(), &content, "COPY "+table+" TO STDOUT (FORMAT binary)"); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

func rawMongo(t *testing.T, u *url.URL) (raw []byte) {
	collection := u.Query().Get("collection")
	u.RawQuery = ""
	client, err := mongo.Connect(options.Client().ApplyURI(u.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(context.WithoutCancel(t.Context()))
	cursor, err := client.Database(strings.Trim(u.Path, "/")).Collection(collection).Find(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	defer cursor.Close(t.Context())
	for cursor.Next(t.Context()) {
		raw = append(raw, cursor.Current...)
	}
	if err := cursor.Err(); err != nil {
		t.Fatal(err)
	}
	return raw
}
