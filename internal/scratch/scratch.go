// Package scratch removes the tables and collections that were made for a test, which is no business of a store: nobody
// is to drop a table of sessions by accident.
package scratch

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// Drop removes the table or collection that a URL names, one with which session.Open has opened a store and that has
// the parameter table or collection, and all that is in it. It is no error if there is none. Other kinds of stores have
// neither, and Drop does nothing for their URLs.
func Drop(ctx context.Context, rawURL string) error {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	base, query, _ := cutLast(rest, "?") // a password may have one, too
	params, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("scratch: the parameters of the URL are malformed")
	}
	drop, parameter := dropTableOfMySQL, "table"
	switch strings.ToLower(scheme) {
	case "mysql", "mariadb":
	case "postgres", "postgresql":
		drop = dropTableOfPostgres
	case "mongodb", "mongodb+srv":
		drop, parameter = dropCollection, "collection"
	default:
		return nil
	}
	name := params.Get(parameter)
	if name == "" {
		return fmt.Errorf("scratch: the URL has no parameter %s", parameter)
	}
	params.Del(parameter)
	params.Del("create")
	if err := drop(ctx, scheme, base, params, name); err != nil {
		return fmt.Errorf("scratch: drop the %s %s: %w", parameter, name, err)
	}
	return nil
}

func dropTableOfMySQL(ctx context.Context, scheme, base string, params url.Values, table string) error {
	u, err := url.Parse(scheme + "://" + base)
	if err != nil {
		return errors.New("the URL is malformed")
	}
	socket := params.Get("socket")
	params.Del("socket")
	addr := net.JoinHostPort(cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "3306"))
	cfg, err := mysql.ParseDSN("tcp(" + addr + ")/?" + params.Encode())
	if err != nil {
		return err
	}
	if socket != "" {
		cfg.Net, cfg.Addr = "unix", socket
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.DBName = strings.TrimPrefix(u.Path, "/")
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	_, err = db.ExecContext(ctx, "DROP TABLE IF EXISTS "+quote(table, "`"))
	return err
}

func dropTableOfPostgres(ctx context.Context, scheme, base string, params url.Values, table string) error {
	cfg, err := pgxpool.ParseConfig(scheme + "://" + base + "?" + params.Encode()) // which knows the pool's parameters
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "DROP TABLE IF EXISTS "+quote(table, `"`))
	return err
}

func dropCollection(ctx context.Context, scheme, base string, params url.Values, collection string) error {
	at := strings.LastIndexByte(base, '@') + 1
	user, place := base[:at], base[at:]
	if place == "" || strings.ContainsAny(place[:1], ":/") {
		place = "127.0.0.1" + place
	}
	hosts, database, _ := strings.Cut(place, "/")
	opts := options.Client().ApplyURI(scheme + "://" + user + hosts + "/" + database + "?" + params.Encode())
	client, err := mongo.Connect(opts)
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	if database, err = url.PathUnescape(database); err != nil {
		return err
	}
	return client.Database(cmp.Or(database, "session")).Collection(collection).Drop(ctx)
}

// quote returns a table's name, with or without a schema's before it, as SQL has it.
func quote(table, mark string) string {
	return mark + strings.ReplaceAll(table, ".", mark+"."+mark) + mark
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
