package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
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

// TestUpstreamTable: both sides of docs/workshop/upstream.md exist, upstream's in the module that the stack is built from.
func TestUpstreamTable(t *testing.T) {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	list.Dir = "stack/kubernetes"
	dir, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	upstream := filepath.Join(strings.TrimSpace(string(dir)), "pkg", "kubelet")
	if _, err := os.Stat(upstream); err != nil {
		t.Skip("the module k8s.io/kubernetes is not in the module cache; make stack brings it there")
	}
	text := read(t, "../docs/workshop/upstream.md")
	rows := regexp.MustCompile("(?m)^\\|[^|]+\\| ([a-z/]+): `([^`]+)` \\| ([a-z/.]+): `([^`]+)` \\|$").FindAllStringSubmatch(text, -1)
	if want := strings.Count(text, "\n| ") - 1; len(rows) != want || want < 25 {
		t.Errorf("%d rows of %d are whole", len(rows), want)
	}
	for _, r := range rows {
		if !functions(t, filepath.Join("..", r[1]))[r[2]] {
			t.Errorf("%s has no %s", r[1], r[2])
		}
		if !functions(t, filepath.Join(upstream, r[3]))[r[4]] {
			t.Errorf("upstream's %s has no %s", r[3], r[4])
		}
	}
}
