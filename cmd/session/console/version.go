package console

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is what session --version prints: the versions of this command and of the library that it was built with.
func version() string {
	command, library := "(unknown)", "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			switch m.Path {
			case "example.com/session/cmd/session":
				command = m.Version
			case "example.com/session":
				library = m.Version
				if m.Replace != nil {
					library = "from " + m.Replace.Path
				}
			}
		}
	}
	return fmt.Sprintf("session %s (library %s, %s %s/%s)", command, library, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
