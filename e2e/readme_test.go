package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReadingTheSource: every file and function of the README's walk exists, and the walk is whole.
func TestReadingTheSource(t *testing.T) {
	data, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walk, ok := strings.Cut(string(data), "<!-- walk:begin -->")
	if !ok {
		t.Fatal("README.md has no walk")
	}
	walk, _, ok = strings.Cut(walk, "<!-- walk:end -->")
	if !ok {
		t.Fatal("the walk of README.md has no end")
	}
	hops := 0
	for line := range strings.Lines(walk) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasSuffix(strings.TrimSpace(cells[2]), ".go") {
			continue
		}
		hops++
		file, function := strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])
		if !declares(t, filepath.Join("..", file), function) {
			t.Errorf("%s does not declare %s", file, function)
		}
	}
	if hops < 10 {
		t.Errorf("the walk has %d hops", hops)
	}
	for word := range strings.FieldsSeq(string(data)) {
		word = strings.Trim(word, "`:,.()")
		if path := filepath.Join("..", word); strings.HasSuffix(word, ".go") && !strings.HasPrefix(word, "http") {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("README.md names %s: %v", word, err)
			}
		}
	}
}

// declares tells whether a Go file declares a function, method or type of that name.
func declares(t *testing.T, file, name string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
			return true
		}
		if g, ok := d.(*ast.GenDecl); ok && slices.ContainsFunc(g.Specs, func(spec ast.Spec) bool {
			declared, ok := spec.(*ast.TypeSpec)
			return ok && declared.Name.Name == name
		}) {
			return true
		}
	}
	return false
}
