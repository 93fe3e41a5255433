package console

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/spf13/pflag"
)

func secretCommand() *command {
	return &command{
		name:    "new-secret",
		summary: "make a secret for session.New",
		help: `
Prints a secret of 256 random bits as 43 letters, digits, "-" and "_", whose bytes, as they are, are what session.New
takes, with or without the line end that follows. Keep it like a password: whoever has it and a session's token can
sign its cookie. To replace one that is in use, give the application the new one, and the old one in
Options.PreviousSecrets until the sessions of its time have ended.

JSON is an object with secret.

Examples:
  umask 077; session new-secret > /etc/app/session-secret
  SESSION_SECRET=$(session new-secret) app
`,
		flags: func(flags *pflag.FlagSet, s *settings) { flags.BoolVar(&s.json, "json", false, "print JSON") },
		run: func(_ context.Context, c *console, s *settings, args []string) error {
			if len(args) > 0 {
				return usage("it takes no arguments")
			}
			secret := make([]byte, 32)
			rand.Read(secret)
			text := base64.RawURLEncoding.EncodeToString(secret)
			if s.json {
				return c.printJSON(map[string]string{"secret": text})
			}
			_, err := fmt.Fprintln(c.stdout, text)
			return err
		},
	}
}
