package servertest

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// external returns the server whose URL an environment variable holds. Errors do not show the URL, which may
// hold a password.
func external(env, rawURL string) (*Server, error) {
	s := &Server{Name: "the server of " + env, URL: rawURL}
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return nil, fmt.Errorf("servertest: %s holds no URL", env)
	}
	// By hand, because package net/url knows one host only.
	hosts, query := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		hosts = rest[:i]
		_, query, _ = strings.Cut(rest[i:], "?")
	}
	hosts = hosts[strings.LastIndexByte(hosts, '@')+1:]
	for host := range strings.SplitSeq(hosts, ",") {
		s.Addrs = append(s.Addrs, withPort(scheme, host))
	}
	for param := range strings.SplitSeq(query, "&") {
		if addr, ok := strings.CutPrefix(param, "addr="); ok {
			s.Addrs = append(s.Addrs, withPort(scheme, addr))
		}
	}
	for _, addr := range s.Addrs {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return nil, fmt.Errorf("servertest: %s: %w", env, err)
		}
		conn.Close()
	}
	return s, nil
}

func withPort(scheme, addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	ports := map[string]string{
		"redis": "6379", "rediss": "6379", "memcached": "11211", "mysql": "3306", "mariadb": "3306",
		"postgres": "5432", "postgresql": "5432", "mongodb": "27017",
	}
	host := strings.Trim(addr, "[]")
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, ports[scheme])
}
