package console

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The help is as testdata/help has it; go test -run TestHelp -update writes that anew.
func TestHelp(t *testing.T) {
	golden := func(name, text string) {
		t.Helper()
		path := filepath.Join("testdata", "help", name+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(want) {
			t.Errorf("the help of %s is not that of %s:\n%s", name, path, text)
		}
		for line := range strings.Lines(text) {
			if len(line) > 121 {
				t.Errorf("%s: a line of %d characters: %s", name, len(line)-1, line)
			}
		}
	}
	golden("session", runOK(t, "--help"))
	for _, cmd := range commands() {
		text := runOK(t, cmd.name, "--help")
		golden(cmd.name, text)
		for _, args := range [][]string{{cmd.name, "-h"}, {"help", cmd.name}} {
			if runOK(t, args...) != text {
				t.Errorf("session %q prints another help", args)
			}
		}
		if !strings.Contains(text, "\nExamples:\n") || !strings.Contains(runOK(t, "help"), "  "+cmd.name+" ") {
			t.Errorf("%s: no examples, or not in the list of commands", cmd.name)
		}
	}
}
