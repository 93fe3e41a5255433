package sessiontest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/session/sessiontest"
)

// Each sentence of the contract has its rules, and each rule its sentence: whoever writes a sentence says here which rules
// check it, or why none can.
func TestContract(t *testing.T) {
	sentences := contract(t)
	checked := make(map[string]bool)
	used := make(map[string]bool)
	for _, sentence := range sentences {
		found := false
		for begin, of := range sentenceRules {
			if strings.HasPrefix(sentence, begin) {
				found = true
				used[begin] = true
				for _, name := range strings.Fields(of) {
					if strings.HasPrefix(of, "-") {
						break
					}
					checked[name] = true
					if !slices.Contains(sessiontest.RuleNames(), name) {
						t.Errorf("there is no rule %q, which checks %q", name, sentence)
					}
				}
			}
		}
		if !found {
			t.Errorf("nothing checks the sentence %q", sentence)
		}
	}
	for begin := range sentenceRules {
		if !used[begin] {
			t.Errorf("no sentence of the contract begins with %q", begin)
		}
	}
	for _, name := range sessiontest.RuleNames() {
		if !checked[name] {
			t.Errorf("no sentence of the contract asks for the rule %s", name)
		}
	}
}

// contract returns the sentences of the documentation of what a store has to be.
func contract(t *testing.T) (sentences []string) {
	t.Helper()
	end := regexp.MustCompile(`[.:] +([A-Z\[]|It )`)
	add := func(docs ...*ast.CommentGroup) {
		for _, doc := range docs {
			for paragraph := range strings.SplitSeq(doc.Text(), "\n\n") {
				text := strings.Join(strings.Fields(paragraph), " ")
				for text != "" {
					at := end.FindStringIndex(text)
					if at == nil {
						sentences = append(sentences, text)
						break
					}
					sentences = append(sentences, text[:at[0]+1])
					text = strings.TrimSpace(text[at[0]+1:])
				}
			}
		}
	}
	types := []string{"Store", "Record", "Toucher", "Sweeper", "Lister", "Counter", "StoreCloser"}
	for _, file := range []string{"../store.go", "../open.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				continue
			}
			spec := decl.Specs[0].(*ast.TypeSpec)
			if !slices.Contains(types, spec.Name.Name) {
				continue
			}
			add(decl.Doc)
			switch of := spec.Type.(type) {
			case *ast.InterfaceType:
				for _, method := range of.Methods.List {
					add(method.Doc)
				}
			case *ast.StructType:
				for _, field := range of.Fields.List {
					if field.Names[0].IsExported() {
						add(field.Doc)
					}
				}
			}
		}
	}
	return sentences
}

// sentenceRules has the rules that check the sentences which begin so, or a dash and why none does.
var sentenceRules = map[string]string{
	"A Store keeps opaque records":      "id-bits id-bytes data",
	"Saving is a compare-and-swap":      "race-create race-expired race-increment",
	"Everything else that this package": "- of what this package builds on it, RunSessions checks",
	"Every other store at the same":     "handles race-readers",
	"All methods are safe":              "race-mixed race-readers",
	"They return when ctx is done":      "context-done context-cancelled",
	"A ctx that was done before":        "context-done",
	"A method that returns no error":    "context-cut context-done",
	"A ctx goes on":                     "- of callers",
	"Any other error than those":        "close context-done",
	"An error must name neither":        "errors-quiet",
	"Data is shared":                    "data-saved data-loaded",
	"Time is the caller's":              "expired-load expired-save touch-expired",
	"A store with a cache":              "cached handles",
	"[CacheStore]":                      "- an example",
	"Package [":                         "- a reference",

	"Load returns the live record":     "load-unknown expired-load",
	"Save stores rec as version":       "versions save-over-live save-stale save-ahead save-absent save-copy delete-stale expired-save",
	"Otherwise it changes nothing":     "conflict-keeps",
	"Save returns an error that wraps": "data-large refused-keeps",
	"A rec that has expired already":   "expires-past",
	"Delete removes the record":        "delete race-delete",
	"It is no error if":                "delete-absent",
	"A Record is what":                 "- a definition",
	"Version counts the saves":         "versions versions-many",
	"In a Record passed to Save":       "save-over-live save-copy",
	"A record that is created under":   "delete-create expired-save",
	"Expires is the time from which":   "expired-load expires-replaced list-live",
	"The zero time means never":        "expires-never",
	"Its resolution is":                "expires-resolution",
	"It is exact up to":                "expires-far",
	"Any time before now":              "expires-past",
	"Data is opaque to the store":      "data",
	"It may be empty":                  "data",
	"Cached is set by":                 "cached handles",
	"Save and Touch ignore it":         "cached",
	"A Toucher is a Store":             "touch-moves touch-helper",
	"Touch sets the expiry of":         "touch-moves touch-keeps touch-save race-touch",
	"It returns an error that wraps":   "touch-absent touch-expired touch-conflict",
	"A Sweeper is a Store":             "- a definition",
	"DeleteExpired removes at most":    "sweep-count sweep-keeps",
	"A limit of 0":                     "sweep-zero",
	"It counts by the present":         "sweep-moved sweep-early race-sweep",
	"One call is one short":            "- of how long a call takes, and holds up others, each server and size has its own",
	"It returns errors.ErrUnsupported": "- it is for wrappers: such rules are skipped then, as TestRunSkips shows",
	"It yields errors.ErrUnsupported":  "- it is for wrappers: such rules are skipped then, as TestRunSkips shows",
	"A Lister is a Store":              "list-open",
	"List goes through":                "list list-live",
	"A record that is saved, created or deleted meanwhile may be seen": "list-changes list-many list-touched",
	"After the first error":        "context-done context-cancelled",
	"A sequence that ends without": "list-cut close",
	"One that is left early":       "list-left list-stop",
	"A Counter is a Store":         "- of what it costs, each server has its own",
	"Count returns how many":       "count",
	"A negative at counts all":     "count",
	"A count that does not come":   "list-cut",
	"A record that is saved, created or deleted meanwhile may be counted": "count",
	"A StoreCloser is a Store":    "- a definition",
	"Every store of this package": "- of this package",
	"Close gives back":            "- what that is, the kit cannot know",
	"A client that the":           "- of clients, the kit knows nothing",
	"Calls that come after Close": "close",
	"A second Close":              "close",
}
