package console

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"example.com/session"
	"github.com/spf13/pflag"
)

// settings are the flags of all commands; each has those that concern it.
type settings struct {
	changed func(flag string) bool // whether the flag was given

	store     string
	namespace string
	idle      time.Duration
	timeout   time.Duration
	json      bool

	user     string
	label    string
	all      bool
	yes      bool
	values   bool
	final    bool
	inPlace  bool
	parallel int
	rate     float64
}

func (s *settings) addStore(flags *pflag.FlagSet) {
	flags.StringVar(&s.store, "store", "", "`URL` of the store, or env:NAME (default: the variable SESSION_STORE)")
}

func (s *settings) addNamespace(flags *pflag.FlagSet) {
	flags.StringVar(&s.namespace, "namespace", "session_id", "the application's Namespace, or its cookie's `NAME`")
}

func (s *settings) addIdle(flags *pflag.FlagSet) {
	flags.DurationVar(&s.idle, "idle-timeout", 15*time.Minute, "the application's IdleTimeout, from which the last use is derived")
}

func (s *settings) addCommon(flags *pflag.FlagSet) {
	flags.BoolVar(&s.json, "json", false, "print JSON")
	flags.DurationVar(&s.timeout, "timeout", 0, "give up after this long, such as 30s (default: never)")
}

// openStore opens the store of --store or SESSION_STORE, which must be there.
func (s *settings) openStore(ctx context.Context, c *console) (session.StoreCloser, error) {
	rawURL, err := s.storeURL()
	if err != nil {
		return nil, err
	}
	return c.openURL(ctx, rawURL, false)
}

// openManager opens the store, which is to be closed after use, and returns a manager of it.
func (s *settings) openManager(ctx context.Context, c *console) (session.StoreCloser, *session.Manager, error) {
	store, err := s.openStore(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.manager(c, store)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return store, m, nil
}

// storeURL returns the URL of --store or SESSION_STORE.
func (s *settings) storeURL() (string, error) {
	if s.changed("store") {
		return resolve(s.store)
	}
	if _, ok := os.LookupEnv("SESSION_STORE"); !ok {
		return "", usage("there is no store: give --store, or set the variable SESSION_STORE")
	}
	return resolve("env:SESSION_STORE")
}

// resolve returns the URL that an argument is, or names as env:NAME, without the line ends that are no part of it.
func resolve(arg string) (string, error) {
	name, ok := strings.CutPrefix(arg, "env:")
	arg = strings.TrimRight(arg, "\r\n")
	if !ok {
		if arg == "" {
			return "", usage("the URL of a store is empty")
		}
		return arg, nil
	}
	rawURL := strings.TrimRight(os.Getenv(name), "\r\n")
	if rawURL == "" {
		return "", usage("the variable after env: is not set, or empty")
	}
	return rawURL, nil
}

// manager returns a manager that looks at the store as the application's does, as far as the command knows, and that
// never gives out a session. It needs no Close.
func (s *settings) manager(c *console, store session.Store) (*session.Manager, error) {
	opts := &session.Options{
		Namespace:       s.namespace,
		IdleTimeout:     s.idle,
		AbsoluteTimeout: max(s.idle, 24*time.Hour), // no shorter one is accepted
		SweepInterval:   session.Never,
		Device:          &session.DeviceBinding{}, // or it would not say which sessions are bound
		Logger:          slog.New(slog.NewTextHandler(c.stderr, nil)),
	}
	secret := []byte(os.Getenv("SESSION_SECRET"))
	if len(secret) == 0 {
		secret = make([]byte, 32)
		rand.Read(secret)
	}
	for _, previous := range strings.Fields(os.Getenv("SESSION_PREVIOUS_SECRETS")) {
		opts.PreviousSecrets = append(opts.PreviousSecrets, []byte(previous))
	}
	return session.New(store, secret, opts)
}

// addGroup adds the flags that name a group of sessions, and says what becomes of them.
func (s *settings) addGroup(flags *pflag.FlagSet, what string) {
	flags.StringVar(&s.user, "user", "", what+" of this `NAME`")
	flags.StringVar(&s.label, "label", "", what+" with this label, as `NAME=VALUE`")
}

// ofGroup reports whether the flags name a group.
func (s *settings) ofGroup() bool { return s.changed("user") || s.changed("label") }

// group returns the group that the flags name.
func (s *settings) group() (session.Group, error) {
	if !s.changed("label") {
		return session.OfUser(s.user), nil
	}
	name, value, ok := strings.Cut(s.label, "=")
	if !ok || name == "" || value == "" || s.changed("user") {
		return session.Group{}, usage("it takes --user, or --label with NAME=VALUE")
	}
	return session.Labelled(session.Label{Name: name, Value: value}), nil
}

// index looks at the record of a group's sessions, without which they cannot be found.
func (s *settings) index(ctx context.Context, m *session.Manager, g session.Group) (session.RecordInfo, error) {
	info, err := m.InspectGroup(ctx, g)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return info, errNoGroup(s)
	case err != nil:
		return info, err
	case info.Encrypted && !info.Readable && os.Getenv("SESSION_SECRET") != "":
		return info, errors.New("the secret in SESSION_SECRET does not fit this store: the record of these sessions " +
			"is encrypted under another one")
	case info.Encrypted && !info.Readable:
		return info, errors.New("the record of these sessions is encrypted: set SESSION_SECRET to the application's secret")
	case !info.Readable:
		return info, errors.New("the record of these sessions is damaged")
	}
	return info, nil
}

func errNoGroup(s *settings) error {
	if s.changed("label") {
		return none("no sessions with the label %s are known in the namespace %s", quoted(s.label), quoted(s.namespace))
	}
	return none("no sessions of user %s are known in the namespace %s", quoted(s.user), quoted(s.namespace))
}
