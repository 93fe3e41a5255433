package session_test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/session/internal/servertest"
)

// The documents name tests as their witnesses. All of them exist.
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
	for _, document := range []string{"README.md", "SECURITY.md", "MIGRATING.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllSubmatch(text, -1)
		if len(names) == 0 {
			t.Errorf("%s names no test", document)
		}
		for _, name := range names {
			if !bytes.Contains(source.Bytes(), []byte("func "+string(name[1])+"(")) {
				t.Errorf("%s names %s, which does not exist", document, name[1])
			}
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
	"net/http"
	"os"
	"time"

	"example.com/session"
)

const (
	userID session.Key[int64]  = "user_id"
	flash  session.Key[string] = "flash"
)

var _ = []any{context.Background, fmt.Sprint, os.Getenv, time.Second, http.NotFound}

`

// TestReadmeProgram does what the README tells those who have a checkout: it makes a module of the README's
// program, builds it and uses it. The program also runs every other piece of Go that the README has.
func TestReadmeProgram(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	write := func(name string, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	var program string
	fragments := readmePrelude
	paths := []string{}
	for _, block := range readmeBlocks(t, "go") {
		if strings.HasPrefix(block, "package main") {
			program = block
			continue
		}
		name := fmt.Sprint("fragment", len(paths)+1)
		paths = append(paths, "/"+name)
		fragments += usingAll(t, fmt.Sprintf("func %s(w http.ResponseWriter, r *http.Request) {\n%s\n}\n\n", name, block))
	}
	// The listener on a fixed port gives way to one on a free port; the rest stays as it is.
	const listen = `http.ListenAndServe("127.0.0.1:8080", `
	if strings.Count(program, listen) != 1 {
		t.Fatalf("the README's program does not listen with %s", listen)
	}
	write("main.go", strings.Replace(program, listen, "serve(mux, ", 1))
	write("fragments.go", fragments)
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
	run("go", "mod", "init", "example.com/readme")
	run("sh", "-c", strings.ReplaceAll(readmeInstall(t), "/path/to/checkout", root))
	run("go", "build", "-o", "readme", ".")

	cmd := exec.Command(filepath.Join(dir, "readme"))
	cmd.Env = append(os.Environ(), "SESSION_STORE=memory:", "SESSION_SECRET="+strings.Repeat("s", 32))
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
	for i := range 3 {
		if got, want := get("/"), fmt.Sprintf("visit %d\n", i+1); got != want {
			t.Errorf("the program answered %q, want %q", got, want)
		}
	}
	for _, path := range paths {
		get(path)
	}
}

// TestReadmeCommands runs what the README's section "Try it" shows, on a free port.
func TestReadmeCommands(t *testing.T) {
	servertest.Program(t, "curl")
	dir := t.TempDir()
	bin := filepath.Join(dir, "quickstart")
	var base string
	for line := range strings.Lines(readmeBlocks(t, "sh")[0]) {
		command, comment, _ := strings.Cut(strings.TrimSpace(line), "#")
		if program, ok := strings.CutPrefix(strings.TrimSpace(command), "go run "); ok {
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
			base = strings.TrimSpace(strings.TrimPrefix(said, "listening on "))
			continue
		}
		command = strings.ReplaceAll(command, "http://127.0.0.1:8080", base)
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if want := strings.TrimSpace(comment); want != strings.TrimSpace(string(out)) {
			t.Errorf("%s\nprinted %q, the README says %q", command, out, want)
		}
	}
	if base == "" {
		t.Error("the README runs no program")
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

// readmeInstall returns the command by which a module uses a checkout.
func readmeInstall(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("`(go mod edit [^`]*)`").FindSubmatch(text)
	if command == nil {
		t.Fatal("the README does not tell how to use a checkout")
	}
	return string(command[1])
}

// usingAll returns the function with a use of each variable that it declares and does not use, which Go would
// refuse and a reader of a fragment does not miss.
func usingAll(t *testing.T, function string) string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "README.md", readmePrelude+function, 0)
	if err != nil {
		t.Fatalf("%v in\n%s", err, function)
	}
	exports, err := exec.Command("go", "list", "-deps", "-export", "-f", "{{.ImportPath}} {{.Export}}", ".").Output()
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
