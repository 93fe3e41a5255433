//go:build !encrypted

package session_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/importer"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/internal/servertest"
)

var updateAPI = flag.Bool("update-api", false, "write testdata/api.txt, the list of all that is exported")

// TestAPI holds what the module exports against testdata/api.txt, so that a review sees each change to it. After a
// change that is wanted: go test -run TestAPI -update-api .
func TestAPI(t *testing.T) {
	exported := append(exports(t, "."), exports(t, "sessiontest")...)
	const file, separator = "testdata/api.txt", "\n\n"
	if *updateAPI {
		if err := os.WriteFile(file, []byte(strings.Join(exported, separator)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Split(strings.TrimSpace(string(want)), separator)
	for _, declaration := range exported {
		if !slices.Contains(listed, declaration) {
			t.Errorf("exported, and not in %s:\n%s", file, declaration)
		}
	}
	for _, declaration := range listed {
		if !slices.Contains(exported, declaration) {
			t.Errorf("in %s, and not exported:\n%s", file, declaration)
		}
	}
	if t.Failed() {
		t.Log("if all of that is wanted: go test -run TestAPI -update-api .")
	}
}

// TestEverythingIsDocumented finds exported names without a comment.
func TestEverythingIsDocumented(t *testing.T) {
	for _, dir := range []string{".", "sessiontest"} {
		fset, pkg := parsePackage(t, dir)
		check := func(name, comment string, node ast.Node) {
			if ast.IsExported(name) && strings.TrimSpace(comment) == "" {
				t.Errorf("%s: %s has no comment", fset.Position(node.Pos()), name)
			}
		}
		// The fields of Options and its like; other types speak for theirs.
		fields := func(decl *ast.GenDecl) {
			ast.Inspect(decl, func(n ast.Node) bool {
				if field, ok := n.(*ast.Field); ok {
					check(field.Names[0].Name, field.Doc.Text()+field.Comment.Text(), field)
				}
				_, ok := n.(*ast.FuncType)
				return !ok
			})
		}
		values := func(all []*doc.Value) {
			for _, value := range all {
				for _, spec := range value.Decl.Specs {
					if spec := spec.(*ast.ValueSpec); ast.IsExported(spec.Names[0].Name) {
						check(spec.Names[0].Name, value.Doc+spec.Doc.Text()+spec.Comment.Text(), spec)
					}
				}
			}
		}
		functions := func(all []*doc.Func) {
			for _, f := range all {
				check(f.Name, f.Doc, f.Decl)
			}
		}
		if pkg.Doc == "" {
			t.Errorf("package %s has no comment", pkg.Name)
		}
		values(pkg.Consts)
		values(pkg.Vars)
		functions(pkg.Funcs)
		for _, typ := range pkg.Types {
			check(typ.Name, typ.Doc, typ.Decl)
			if strings.HasSuffix(typ.Name, "Options") {
				fields(typ.Decl)
			}
			values(typ.Consts)
			values(typ.Vars)
			functions(typ.Funcs)
			functions(typ.Methods)
		}
	}
}

// exports returns the exported declarations of the package in dir, without comments and empty lines.
func exports(t *testing.T, dir string) (all []string) {
	t.Helper()
	fset, pkg := parsePackage(t, dir)
	add := func(prefix string, node any) {
		var b bytes.Buffer
		config := printer.Config{Mode: printer.UseSpaces, Tabwidth: 4}
		if err := config.Fprint(&b, fset, node); err != nil {
			t.Fatal(err)
		}
		all = append(all, prefix+regexp.MustCompile(`\n\s*\n`).ReplaceAllString(b.String(), "\n"))
	}
	values := func(groups []*doc.Value) {
		for _, group := range groups {
			for _, spec := range group.Decl.Specs {
				if spec := spec.(*ast.ValueSpec); ast.IsExported(spec.Names[0].Name) {
					spec.Doc, spec.Comment = nil, nil
					add(group.Decl.Tok.String()+" ", spec)
				}
			}
		}
	}
	functions := func(group []*doc.Func) {
		for _, f := range group {
			f.Decl.Doc, f.Decl.Body = nil, nil
			add("", f.Decl)
		}
	}
	all = append(all, "package "+pkg.Name)
	values(pkg.Consts)
	values(pkg.Vars)
	functions(pkg.Funcs)
	for _, typ := range pkg.Types {
		ast.Inspect(typ.Decl, func(n ast.Node) bool {
			if field, ok := n.(*ast.Field); ok {
				field.Doc, field.Comment = nil, nil
			}
			return true
		})
		typ.Decl.Doc = nil
		add("", typ.Decl)
		values(typ.Consts)
		values(typ.Vars)
		functions(typ.Funcs)
		functions(typ.Methods)
	}
	return all
}

// parsePackage returns what the package in dir exports.
func parsePackage(t *testing.T, dir string) (*token.FileSet, *doc.Package) {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	pkg, err := doc.NewFromFiles(fset, files, "example.com/session")
	if err != nil {
		t.Fatal(err)
	}
	return fset, pkg
}

// The documents name tests and examples as their witnesses. All of them exist.
func TestNamedTestsExist(t *testing.T) {
	var source bytes.Buffer
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{"README.md", "SECURITY.md", "MIGRATING.md", "CLIENTS.md", "EVENTS.md", "SCALING.md", "STORES.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile("`((?:Test|Example)[A-Za-z_]+)`").FindAllSubmatch(text, -1)
		if len(names) == 0 {
			t.Errorf("%s names no test or example", document)
		}
		for _, name := range names {
			if !bytes.Contains(source.Bytes(), []byte("func "+string(name[1])+"(")) {
				t.Errorf("%s names %s, which does not exist", document, name[1])
			}
		}
	}
}

// EVENTS.md has a row for each kind of event, and names each reason and field.
func TestEventsDocument(t *testing.T) {
	text, err := os.ReadFile("EVENTS.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|.*").FindAllSubmatch(text, -1) {
		rows = append(rows, string(row[1]))
	}
	source, err := os.ReadFile("event.go")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, c := range regexp.MustCompile(`(?m)^\t(Event|Reason)\w+ +(?:EventKind|Reason) = "([a-z_]+)"`).FindAllSubmatch(source, -1) {
		if string(c[1]) == "Event" {
			kinds = append(kinds, string(c[2]))
		} else if !bytes.Contains(text, []byte("`"+string(c[2])+"`")) {
			t.Errorf("EVENTS.md does not name the reason %s", c[2])
		}
	}
	slices.Sort(rows)
	slices.Sort(kinds)
	if len(kinds) < 20 || !slices.Equal(rows, kinds) {
		t.Errorf("EVENTS.md has rows for %q, and there are the kinds %q", rows, kinds)
	}
	event := reflect.TypeFor[session.Event]()
	for i := range event.NumField() {
		if name := event.Field(i).Name; !bytes.Contains(text, []byte("`"+name+"`")) {
			t.Errorf("EVENTS.md does not name the field %s", name)
		}
	}
}

// Links between the documents lead somewhere.
func TestDocumentLinks(t *testing.T) {
	documents, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`(?:\]\(|src="|srcset=")([^)"#:]+)[)"#]`).FindAllSubmatch(text, -1) {
			if _, err := os.Stat(string(link[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}

// readmePrelude declares what the README's fragments take for granted.
const readmePrelude = `package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"example.com/session"
)

const (
	userID session.Key[int64]  = "user_id"
	flash  session.Key[string] = "flash"
)

var _ = []any{context.Background, fmt.Sprint, slog.Info, os.Getenv, time.Second, http.NotFound}

`

// testPrelude declares what the README's test takes for granted.
const testPrelude = `package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/session"
	"example.com/session/sessiontest"
)

var mux = http.NotFoundHandler()

`

// TestReadmeProgram does what the README says: it makes a module for the README's program and a secret by the commands before
// it, builds and uses it. The program also runs every other piece of Go that the README has.
func TestReadmeProgram(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	var program string
	fragments := ""
	paths := []string{}
	for _, block := range readmeBlocks(t, "go") {
		switch {
		case strings.HasPrefix(block, "package main"):
			program = block
			continue
		case strings.Contains(block, "sessiontest."):
			write("fragment_test.go", testPrelude+usingAll(t, testPrelude, "func TestFragment(t *testing.T) {\n"+block+"\n}\n"))
			continue
		}
		name := fmt.Sprint("fragment", len(paths)+1)
		paths = append(paths, "/"+name)
		fragments += usingAll(t, readmePrelude, fmt.Sprintf("func %s(w http.ResponseWriter, r *http.Request) {\n%s\n}\n\n", name, block))
	}
	// The listener on a fixed port gives way to one on a free port; the rest stays as it is.
	const listen = `http.ListenAndServe("127.0.0.1:8080", `
	if strings.Count(program, listen) != 1 {
		t.Fatalf("the README's program does not listen with %s", listen)
	}
	write("main.go", strings.Replace(program, listen, "serve(mux, ", 1))
	write("fragments.go", readmePrelude+fragments)
	serve := "package main\n\nimport (\n\t\"fmt\"\n\t\"net\"\n\t\"net/http\"\n)\n\n" +
		"func serve(mux *http.ServeMux, h http.Handler) error {\n"
	for _, path := range paths {
		serve += fmt.Sprintf("\tmux.HandleFunc(%q, %s)\n", path, path[1:])
	}
	serve += "\tl, err := net.Listen(\"tcp\", \"127.0.0.1:0\")\n\tfmt.Println(l.Addr())\n\t_ = err\n\treturn http.Serve(l, h)\n}\n"
	write("serve.go", serve)

	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	write("go.sum", string(sums)) // so that nothing but the checkout is needed
	commands := readmeBlocks(t, "sh")
	setup := commands[0]
	rest, ok := strings.CutPrefix(commands[1], "go run .\n")
	if !ok || !strings.Contains(setup, "SESSION_SECRET=") {
		t.Fatalf("the README's first commands do not make a secret and run the program: %s", setup)
	}
	setup = strings.ReplaceAll(setup, "/path/to/checkout", root)

	cmd := exec.Command("sh", "-c", "set -e\n"+setup+"go test . >&2\ngo build -o readme .\nexec ./readme")
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SESSION_SECRET=") })
	cmd.Env = append(cmd.Env, "SESSION_STORE=memory:")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startProgram(t, cmd)
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	base := "http://" + strings.TrimSpace(address)
	var cookies []*http.Cookie // the cookie is Secure: no jar returns it without TLS
	get := func(path string) string {
		r, err := http.NewRequestWithContext(t.Context(), "GET", base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, cookie := range cookies {
			r.AddCookie(cookie)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, &stderr)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %q, %v\n%s", path, res.Status, body, err, &stderr)
		}
		if set := res.Cookies(); len(set) > 0 {
			cookies = set
		}
		return string(body)
	}
	for _, path := range paths {
		get(path)
	}
	readmeCommands(t, rest, base)
}

// TestReadmeCommands runs what the README says of the quickstart, on a free port.
func TestReadmeCommands(t *testing.T) {
	first, rest, _ := strings.Cut(readmeBlocks(t, "sh")[2], "\n")
	first, _, _ = strings.Cut(first, "#")
	program, ok := strings.CutPrefix(strings.TrimSpace(first), "go run ")
	if !ok {
		t.Fatal("the README runs no program")
	}
	bin := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.Command("go", "build", "-o", bin, program).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", program, err, out)
	}
	cmd := exec.Command(bin, "-addr", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startProgram(t, cmd)
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	readmeCommands(t, rest, strings.TrimSpace(strings.TrimPrefix(said, "listening on ")))
}

// readmeCommands runs lines of the README, at a program that is at base instead of where it says. They print what
// their comments say.
func readmeCommands(t *testing.T, lines, base string) {
	t.Helper()
	servertest.Program(t, "curl")
	dir := t.TempDir()
	for line := range strings.Lines(lines) {
		command, want, _ := strings.Cut(line, "#")
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(command, "http://127.0.0.1:8080", base))
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if want := strings.TrimSpace(want); want != strings.TrimSpace(string(out)) {
			t.Errorf("%s\nprinted %q, the README says %q", command, out, want)
		}
	}
}

// startProgram starts cmd, and kills it when the test ends.
func startProgram(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// readmeBlocks returns the README's code blocks in a language, in their order.
func readmeBlocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, block := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if block[1] == language {
			blocks = append(blocks, block[2])
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("the README has no code in %s", language)
	}
	return blocks
}

// usingAll returns the function with a use of each variable that it declares and does not use, which Go would
// refuse and a reader of a fragment does not miss.
func usingAll(t *testing.T, prelude, function string) string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "README.md", prelude+function, 0)
	if err != nil {
		t.Fatalf("%v in\n%s", err, function)
	}
	exports, err := exec.Command("go", "list", "-deps", "-export", "-f", "{{.ImportPath}} {{.Export}}", ".", "./sessiontest").Output()
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(path string) (io.ReadCloser, error) {
		_, rest, ok := strings.Cut("\n"+string(exports), "\n"+path+" ")
		if !ok {
			return nil, fmt.Errorf("no export data of %q", path)
		}
		name, _, _ := strings.Cut(rest, "\n")
		return os.Open(name)
	}
	uses := ""
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup), Error: func(err error) {
		if name, ok := strings.CutPrefix(err.(types.Error).Msg, "declared and not used: "); ok {
			uses += "\t_ = " + name + "\n"
		} else {
			t.Errorf("%v in\n%s", err, function)
		}
	}}
	conf.Check("main", fset, []*ast.File{file}, nil)
	return strings.TrimSuffix(strings.TrimSpace(function), "}") + uses + "}\n\n"
}
