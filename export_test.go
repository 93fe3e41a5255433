package session

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"example.com/session/internal/codec"
	"github.com/go-sql-driver/mysql"
)

// MemcacheExpiration is what a MemcacheStore tells the server.
var MemcacheExpiration = memcacheExpiration

// SetClock makes the manager go by another clock.
func (m *Manager) SetClock(now func() time.Time) { m.clock = now }

// Age makes the cookie of a session older, so that a test of renewal need not wait.
func (m *Manager) Age(ctx context.Context, cookie string, by time.Duration) error {
	t, ok := m.verify(cookie)
	if !ok {
		return errors.New("the cookie is refused")
	}
	c := core{m: m, reading: reading{token: t, hash: t.keyHash()}, slot: slot{m: m, id: t.id()}}
	if err := c.slot.look(ctx); err != nil {
		return err
	}
	if err := c.read(context.Background(), true); err != nil {
		return err
	}
	c.env.Credential.Issued -= by.Milliseconds()
	data := codec.EncodeSession(c.slot.id, &c.env, writeID{}, &c.body, &codec.Changes{}, m.sealer(&t))
	return m.store.Save(ctx, c.slot.id, Record{Version: c.slot.rec.Version, Expires: c.slot.rec.Expires, Data: data})
}

// The inside of the SQL stores, for their tests.
var (
	ParseMySQLURL     = parseMySQLURL
	NewMySQLConnector = newMySQLConnector
	ParsePostgresURL  = parsePostgresURL
)

// SetConnAge sets for how long a store that Open returned uses a connection.
func (s *MemcacheStore) SetConnAge(age time.Duration) { s.opened.dialer.age = age }

// AddressOfURL returns where the first server of a URL is.
func AddressOfURL(rawURL string) (string, error) {
	switch scheme, _, _ := strings.Cut(rawURL, ":"); scheme {
	case "mysql", "mariadb":
		cfg, _, _, err := parseMySQLURL(rawURL)
		if err != nil {
			return "", err
		}
		return cfg.Addr, nil
	case "mongodb":
		m, err := parseMongoURL(rawURL)
		if err != nil {
			return "", err
		}
		opts := options.Client().ApplyURI(m.uri)
		return opts.Hosts[0], opts.Validate()
	case "memcached":
		servers, _, err := parseMemcacheURL(rawURL)
		if err != nil {
			return "", err
		}
		return servers.list[0].address, nil
	default:
		u, _, err := parseRedisURL(rawURL)
		if err != nil {
			return "", err
		}
		return u.Host, nil
	}
}

// A Glimpse is what a cookie leads to.
type Glimpse struct {
	ID     ID
	Kind   codec.Kind // zero: there is no record
	Served bool
	Reused bool
	codec.Credential
	Version uint64
	User    string            // this and the rest are known of what is served
	Values  map[string][]byte // encoded
}

// Glimpse looks where a cookie leads that is shown now, and touches nothing.
func (m *Manager) Glimpse(ctx context.Context, cookie string) (g Glimpse, err error) {
	t, ok := m.verify(cookie)
	if !ok {
		return g, nil
	}
	c := core{m: m, reading: reading{token: t, hash: t.keyHash()}, slot: slot{m: m, id: t.id()}, began: m.millis()}
	g.ID = c.slot.id
	if err := c.slot.look(ctx); err != nil || c.slot.rec.Version == 0 {
		return g, err
	}
	err = c.read(context.Background(), false)
	g.Kind, g.Credential, g.Version = c.env.Kind, c.env.Credential, c.slot.rec.Version
	if g.Served, g.Reused = c.standing.served(), c.standing == reused; !g.Served || err != nil {
		return g, err
	}
	g.User, g.Values = string(c.body.User), make(map[string][]byte)
	for key, data := range c.body.Values.All() {
		g.Values[string(key)] = data
	}
	return g, nil
}

// An IndexEntry is one in the index of a user.
type IndexEntry struct {
	ID     ID
	Login  codec.Login
	Ending bool
}

// IndexID returns where the index of a user is.
func (m *Manager) IndexID(g Group) ID { return m.indexID(g) }

// LockID returns where the lock of a session is.
func (m *Manager) LockID(id ID) ID { return m.lockID(id) }

// IndexEntries returns what the bytes under an ID name, if they are an index.
func (m *Manager) IndexEntries(id ID, data []byte) (list []IndexEntry, ok bool) {
	ix, err := m.decodeIndex(id, data)
	for i := range ix.entries {
		e := &ix.entries[i]
		list = append(list, IndexEntry{e.id, e.login, e.ending})
	}
	return list, err == nil
}

// The rest is how tests see the pure functions of plan.go and regenerate.go: by names instead of numbers.

var (
	standings = []string{"unknown", "reused", "rekeyed", "ended", "current", "previous", "ahead", "admitted"}
	phases    = []string{"unloaded", "visitor", "served", "unmoved", "closed", "replaced", "revoked", "locked", "failed"}
	steps     = []string{"none", "look", "touch", "save", "renew", "login", "destroy", "empty", "create", "move", "give up"}
	headers   = []string{"open", "lost", "sent"}
)

// Judge is timing.judge.
func (m *Manager) Judge(e codec.Envelope, key codec.KeyHash, count uint32, began int64, letIn bool) string {
	return standings[m.judge(&e, &token{count: count}, key, began, letIn)]
}

// Stand is timing.stand: the phase, and whether the request is a straggler.
func (m *Manager) Stand(st string, e codec.Envelope, began int64, letIn bool) (string, bool) {
	p := m.stand(standing(slices.Index(standings, st)), &e, began, letIn)
	return phases[p.phase], p.straggler
}

// A Situation is what a plan depends on.
type Situation struct {
	Phase     string
	Straggler bool
	Standing  string
	Count     uint32
	Cred      codec.Credential
	User      string
	Wants     string // of end, change, key, user, login, empty
	Header    string // empty: open
	Device    codec.Device
	Cookie    bool
	Lost      bool
	Call      bool
	Quiet     bool
	Unused    time.Duration // since the last use that the record knows of
	Now       int64
}

// Plan is timing.plan.
func (m *Manager) Plan(s Situation) (step string, cred codec.Credential, err error) {
	in := situation{
		place:    place{phase(slices.Index(phases, s.Phase)), s.Straggler},
		standing: standing(slices.Index(standings, s.Standing)),
		count:    s.Count, cred: &s.Cred, header: header(max(0, slices.Index(headers, s.Header))),
		device: s.Device, cookie: s.Cookie, lost: s.Lost, call: s.Call, quiet: s.Quiet, now: s.Now,
		body: &codec.Body{User: []byte(s.User), Created: s.Now - s.Unused.Milliseconds(), Saved: s.Now - s.Unused.Milliseconds()},
		wants: wants{
			end: strings.Contains(s.Wants, "end"), change: strings.Contains(s.Wants, "change"),
			key: strings.Contains(s.Wants, "key"), user: strings.Contains(s.Wants, "user"), empty: strings.Contains(s.Wants, "empty"),
			login: strings.Contains(s.Wants, "login"),
		},
	}
	in.expires = m.expiry(in.body, s.Now-s.Unused.Milliseconds())
	p := m.plan(&in)
	return steps[p.step], p.cred, p.err
}

// verify returns the token of whatever transport.
func (m *Manager) verify(text string) (token, bool) {
	if t, ok := m.signer.verify(text); ok {
		return t, true
	}
	return m.bearer.verify(text)
}

// NewAgingConnector returns a connector of connections that become out of date whenever one goes back to the others.
func NewAgingConnector(cfg *mysql.Config) (driver.Connector, error) {
	c, err := newMySQLConnector(cfg)
	return agingConnector{c}, err
}

type agingConnector struct{ *mysqlConnector }

func (c agingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.mysqlConnector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return agingConn{conn.(mysqlDriverConn), c.mysqlConnector}, nil
}

type agingConn struct {
	mysqlDriverConn
	connector *mysqlConnector
}

func (c agingConn) IsValid() bool {
	defer c.connector.renew()
	return c.mysqlDriverConn.IsValid()
}
