package criserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEveryMethod: all of the CRI is answered here, and not by the generated code, which would
// say no more than that it is not implemented.
func TestEveryMethod(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv != nil && receiver(fn) == "Server" {
				own = append(own, fn.Name.Name)
			}
		}
	}
	for _, service := range []reflect.Type{reflect.TypeFor[runtimeapi.RuntimeServiceServer](), reflect.TypeFor[runtimeapi.ImageServiceServer]()} {
		for method := range service.Methods() {
			if !strings.HasPrefix(method.Name, "mustEmbed") && !slices.Contains(own, method.Name) {
				t.Errorf("%s is not answered", method.Name)
			}
		}
	}
}

func receiver(fn *ast.FuncDecl) string {
	star, ok := fn.Recv.List[0].Type.(*ast.StarExpr)
	if !ok {
		return ""
	}
	name, _ := star.X.(*ast.Ident)
	return name.Name
}
