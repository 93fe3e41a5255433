package session_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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
