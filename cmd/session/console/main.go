// Package console is the command session, which looks after the sessions in a store. A program of a few lines builds it
// with kinds of stores of one's own:
//
//	package main
//
//	import (
//		"example.com/app/natsstore"
//		"example.com/session/cmd/session/console"
//	)
//
//	func main() {
//		console.Main(console.Scheme{Name: "nats", URL: "nats://host:port", Open: natsstore.Open})
//	}
package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"example.com/session"
	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/pflag"
)

// A Scheme is a kind of store that the command knows beside those of session.Open.
type Scheme struct {
	// Name is what its URLs begin with, as for session.RegisterScheme, which Main calls.
	Name string
	// URL is the form of its URLs, for the help. Empty means the name and a colon.
	URL string
	// Open opens the store that a URL names. All commands call it alike, those that only read as well: if it makes what
	// is missing, they do.
	Open session.OpenFunc
}

// Main runs the command with the arguments of the program, and ends the process with the exit code that the help tells.
func Main(schemes ...Scheme) {
	logging.Disable() // go-redis tells of each connection that it cannot make
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	c := &console{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, schemes: schemes}
	os.Exit(c.main(ctx, os.Args[1:]))
}

// A command is one of those that follow "session".
type command struct {
	name    string
	args    string // what follows the name, for the help
	summary string // one line
	help    string // the rest, with examples
	flags   func(*pflag.FlagSet, *settings)
	run     func(ctx context.Context, c *console, s *settings, args []string) error
}

func commands() []*command {
	return []*command{
		listCommand(), showCommand(), endCommand(), sweepCommand(), statsCommand(), copyCommand(), checkCommand(), secretCommand(),
	}
}

// main runs the command that the arguments name and returns the exit code.
func (c *console) main(ctx context.Context, args []string) int {
	for _, scheme := range c.schemes {
		if err := session.RegisterScheme(scheme.Name, scheme.Open); err != nil {
			c.note("%v", err)
			return exitFailed
		}
	}
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "help":
		if len(args) == 0 {
			return c.mainHelp()
		}
		name, args = args[0], []string{"--help"}
	case "-h", "--help":
		return c.mainHelp()
	case "--version":
		fmt.Fprintln(c.stdout, version())
		return exitOK
	case "":
		fmt.Fprint(c.stderr, c.helpText())
		return exitUsage
	}
	for _, cmd := range commands() {
		if cmd.name == name {
			return c.run(ctx, cmd, args)
		}
	}
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	fmt.Fprintf(c.stderr, "session: the first argument is a command: %s\n", strings.Join(names, ", "))
	return exitUsage
}

// run runs a command and returns the exit code.
func (c *console) run(ctx context.Context, cmd *command, args []string) int {
	s := new(settings)
	flags := cmd.flagSet(s)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(c.stdout, cmd.text())
		return exitOK
	case err != nil:
		err = flagError(err)
	case s.timeout < 0:
		err = usage("--timeout is not negative")
	default:
		if s.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.timeout)
			defer cancel()
		}
		s.changed = flags.Changed
		err = cmd.run(ctx, c, s, flags.Args())
	}
	return c.tell(ctx, cmd, s, err)
}

// flagSet returns the flags of a command, which set s.
func (cmd *command) flagSet(s *settings) *pflag.FlagSet {
	flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {} // run prints it
	cmd.flags(flags, s)
	return flags
}

// flagError tells what is wrong without a word of what was given.
func flagError(err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && len(e.GetSpecifiedName()) > 1 &&
		strings.Trim(e.GetSpecifiedName(), "abcdefghijklmnopqrstuvwxyz-") == "" {
		return usage("there is no flag --%s", e.GetSpecifiedName())
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usage("--%s needs a value", e.GetFlag().Name)
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usage("the value of --%s is no %s", e.GetFlag().Name, e.GetFlag().Value.Type())
	}
	return usage("there is no such flag")
}

func (c *console) mainHelp() int {
	fmt.Fprint(c.stdout, c.helpText())
	return exitOK
}

// helpText is what session --help prints.
func (c *console) helpText() string {
	var b strings.Builder
	b.WriteString(`Session looks after the sessions in a store of example.com/session.

Usage:
  session COMMAND [ARGUMENT…] [FLAG…]
  session --version

Commands:
`)
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-12s%s\n", cmd.name, cmd.summary)
	}
	b.WriteString(`
The store is that of --store, or of the variable SESSION_STORE. A URL that holds a password is best kept in a variable,
as other users of the machine can see a program's arguments: wherever a URL is due, env:NAME stands for the value of
the variable NAME. No password is ever printed. These are the URLs, as the application has them:

`)
	for _, k := range kindsOfStores {
		fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(fmt.Sprintf("%-47s %s", k.url, k.note)))
	}
	for _, own := range c.schemes {
		fmt.Fprintf(&b, "  %s\n", cmp.Or(own.URL, own.Name+":"))
	}
	b.WriteString(`
A path may have the form file:name as well. memory: and the empty URL name what no other process can see. Only copy
makes the store that is missing, its second one. Run commands that write to a dir: as the application's user, who has to
be able to read and write the files they leave.

Commands that go by a user (list --user, show --user, end --user) need --namespace, if it is not session_id, the name
of the cookie; and, if the application sets EncryptAtRest, its secret in the variable SESSION_SECRET (former ones in
SESSION_PREVIOUS_SECRETS, separated by white space). No other command needs a secret.

Exit codes: 0 done; 1 failed; 2 called in a wrong way; 3 what was named is not there: no record with that ID, no session
of that user; 4 the server cannot be reached, or does not answer in time.

Examples:
  export SESSION_STORE='postgres://app:password@db.example/app'
  session list --user ann
  session end --user ann
  session stats --json
  session copy env:SESSION_STORE env:NEXT_STORE

session COMMAND --help tells more.
`)
	return b.String()
}

// text is what session COMMAND --help prints.
func (cmd *command) text() string {
	return fmt.Sprintf("%s.\n\nUsage:\n  session %s%s [FLAG…]\n\n%s\nFlags:\n%s",
		strings.ToUpper(cmd.summary[:1])+cmd.summary[1:], cmd.name, cmd.args, strings.TrimPrefix(cmd.help, "\n"),
		cmd.flagSet(new(settings)).FlagUsages())
}
