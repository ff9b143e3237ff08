package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// functions are those of the packages in a directory, methods as (*T).F or T.F.
func functions(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				found[functionName(f)] = true
			}
		}
	}
	return found
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	star, pointer := of.(*ast.StarExpr)
	if pointer {
		of = star.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	name, ok := of.(*ast.Ident)
	if !ok {
		return f.Name.Name
	}
	if pointer {
		return "(*" + name.Name + ")." + f.Name.Name
	}
	return name.Name + "." + f.Name.Name
}

// TestDebuggingDocument: a breakpoint that the document names is a function.
func TestDebuggingDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/debugging.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`minikubelet/([a-z/]+)\.((?:\(\*\w+\)\.)?\w+)`).FindAllStringSubmatch(string(text), -1)
	if len(named) < 8 {
		t.Errorf("it names %d breakpoints", len(named))
	}
	for _, n := range named {
		if !functions(t, filepath.Join("..", n[1]))[strings.TrimSpace(n[2])] {
			t.Errorf("there is no %s in %s", n[2], n[1])
		}
	}
}
