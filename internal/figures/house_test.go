// Package figures holds a test that measures the source: make figures prints what it finds.
package figures

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits.
const (
	maxLines   = 60 // of a function
	maxSources = 45 // in the root
)

var (
	// longer may be longer: a function that is a table.
	longer = []string{"writer"}
	// impure is what plan.go must do without: it depends on nothing but the situation that it is given.
	impure = []string{"context", "net/http", "sync"}
	// reserved is what no comment says: that a mutex is locked, the types should say.
	reserved = "is " + "held"
	// helpers are root tests that belong to no source.
	helpers = []string{"api", "docs", "encrypted", "example", "example_features", "helpers", "main", "stores"}
	// core are the files, and the directory, that every change of a session goes through.
	core = []string{"session.go", "key.go", "change.go", "core.go", "commit.go", "plan.go", "slot.go", "queue.go", "regenerate.go",
		"expiry.go", "index.go", "user.go", "lock.go", "internal/codec"}
)

// A source is a file that was parsed.
type source struct {
	path  string // from the root, with slashes
	ast   *ast.File
	lines int
}

func (s *source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s *source) inRoot() bool { return !strings.Contains(s.path, "/") }

// The house rules of CONTRIBUTING.md that can be counted.
func TestHouse(t *testing.T) {
	fset := token.NewFileSet()
	sources := parse(t, fset)
	t.Run("functions", func(t *testing.T) {
		for _, s := range sources {
			if s.inRoot() && !s.isTest() {
				checkFunctions(t, fset, s)
			}
		}
	})
	t.Run("plan", func(t *testing.T) {
		for _, s := range sources {
			if s.path == "plan.go" {
				checkImports(t, s)
			}
		}
	})
	t.Run("comments", func(t *testing.T) {
		for _, s := range sources {
			checkComments(t, fset, s)
		}
	})
	t.Run("files", func(t *testing.T) { checkFiles(t, sources) })
	t.Run("links", func(t *testing.T) { checkLinks(t, sources) })
	t.Run("core", func(t *testing.T) { countCore(t, sources) })
}

// parse returns the module's sources, but not those of the modules below it.
func parse(t *testing.T, fset *token.FileSet) []*source {
	t.Helper()
	root := os.DirFS(filepath.Join("..", ".."))
	var sources []*source
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".":
			if _, err := fs.Stat(root, path+"/go.mod"); err == nil || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go"):
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		sources = append(sources, &source{path, file, strings.Count(string(text), "\n")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func checkFunctions(t *testing.T, fset *token.FileSet, s *source) {
	for _, d := range s.ast.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || slices.Contains(longer, f.Name.Name) {
			continue
		}
		if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxLines {
			t.Errorf("%v: %s has %d lines, more than %d", fset.Position(f.Pos()), f.Name.Name, n, maxLines)
		}
	}
}

func checkImports(t *testing.T, s *source) {
	var paths []string
	for _, i := range s.ast.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		paths = append(paths, path)
		if slices.Contains(impure, path) {
			t.Errorf("%s imports %s", s.path, path)
		}
	}
	t.Logf("%s imports %s", s.path, strings.Join(paths, ", "))
}

func checkComments(t *testing.T, fset *token.FileSet, s *source) {
	for _, group := range s.ast.Comments {
		if strings.Contains(strings.Join(strings.Fields(group.Text()), " "), reserved) {
			t.Errorf("%v: a comment says %q", fset.Position(group.Pos()), reserved)
		}
	}
}

// checkFiles counts the root's sources, and wants each test beside its source.
func checkFiles(t *testing.T, sources []*source) {
	var names, tests []string
	for _, s := range sources {
		switch name, isTest := strings.CutSuffix(s.path, "_test.go"); {
		case !s.inRoot():
		case isTest:
			tests = append(tests, name)
		default:
			names = append(names, strings.TrimSuffix(s.path, ".go"))
		}
	}
	t.Logf("%d sources in the root, at most %d", len(names), maxSources)
	if len(names) > maxSources {
		t.Errorf("the root has %d sources, more than %d", len(names), maxSources)
	}
	for _, test := range tests {
		if !slices.Contains(names, test) && !slices.Contains(helpers, test) && !strings.HasPrefix(test, "export") {
			t.Errorf("%s_test.go is beside no %s.go", test, test)
		}
	}
	untested := slices.DeleteFunc(names, func(name string) bool { return slices.Contains(tests, name) })
	t.Logf("%d sources without a test beside them: %s", len(untested), strings.Join(untested, ", "))
}

// checkLinks wants the tests that cross features and stores in the module that has drivers for SQLite, too.
func checkLinks(t *testing.T, sources []*source) {
	for _, s := range sources {
		name, found := strings.CutPrefix(s.path, "internal/integration/")
		if !found || !s.isTest() {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", "sqlite", "integration", name)); err != nil {
			t.Errorf("%s is not linked in internal/sqlite/integration: run go generate there", s.path)
		}
	}
}

func countCore(t *testing.T, sources []*source) {
	lines := make(map[string]int)
	total := 0
	for _, s := range sources {
		if i := slices.IndexFunc(core, func(c string) bool { return s.path == c || strings.HasPrefix(s.path, c+"/") }); i >= 0 && !s.isTest() {
			lines[core[i]] += s.lines
			total += s.lines
		}
	}
	names := slices.SortedFunc(slices.Values(core), func(a, b string) int { return cmp.Compare(lines[b], lines[a]) })
	for _, name := range names {
		t.Logf("%5d lines in %s", lines[name], name)
		if lines[name] == 0 {
			t.Errorf("there is no %s", name)
		}
	}
	t.Logf("%5d lines together", total)
}
