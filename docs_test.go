package session_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The documents name tests as their witnesses. All of them exist.
func TestNamedTestsExist(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source bytes.Buffer
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for _, document := range []string{"README.md", "SECURITY.md"} {
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
