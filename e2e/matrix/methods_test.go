package matrix

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// without are the methods that no cell is meant for, and why.
var without = map[string]string{
	"UpdateRuntimeConfig": "the kubelet calls it when the node gets another pod CIDR, which does not happen in a cell; package node tests what it does when that fails",
	"RemoveImage":         "the kubelet collects images every five minutes, which no cell can wait for; package images tests what it does when that fails",
}

// TestEveryMethodHasACell: each call that the kubelet makes to its runtime meets faults in the matrix, or the list above says
// why it does not.
func TestEveryMethodHasACell(t *testing.T) {
	cells := map[string]bool{}
	for _, call := range podCalls {
		cells[call.method] = true
	}
	for _, method := range nodeCalls {
		cells[method] = true
	}
	called := calledMethods(t)
	if len(called) < 25 || !called["RunPodSandbox"] || !called["GetContainerEvents"] {
		t.Fatalf("only these calls were found in the source: %v", slices.Sorted(maps.Keys(called)))
	}
	for method := range called {
		if _, excused := without[method]; cells[method] == excused {
			t.Errorf("%s: has a cell: %v, is said to have none: %v", method, cells[method], excused)
		}
	}
	for method := range cells {
		if !called[method] {
			t.Errorf("%s has a cell, and the kubelet never calls it", method)
		}
	}
}

// calledMethods are the methods of the CRI that the kubelet's source calls: those that are given the literal of a request.
func calledMethods(t *testing.T) map[string]bool {
	t.Helper()
	methods := map[string]bool{}
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, method := range service.Methods {
			methods[method.MethodName] = true
		}
		for _, stream := range service.Streams {
			methods[stream.StreamName] = true
		}
	}
	called := map[string]bool{}
	for _, dir := range []string{"kubelet", "syncloop", "podworkers", "status", "config", "runtime"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && slices.Contains([]string{"criserver", "crifake"}, d.Name()) { // runtimes themselves
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if f, ok := call.Fun.(*ast.SelectorExpr); ok && methods[f.Sel.Name] && slices.ContainsFunc(call.Args, isRequest) {
						called[f.Sel.Name] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return called
}

// isRequest tells whether an argument is &runtimeapi.SomethingRequest{...}.
func isRequest(argument ast.Expr) bool {
	address, ok := argument.(*ast.UnaryExpr)
	if !ok {
		return false
	}
	literal, ok := address.X.(*ast.CompositeLit)
	if !ok {
		return false
	}
	name, ok := literal.Type.(*ast.SelectorExpr)
	return ok && strings.HasSuffix(name.Sel.Name, "Request") && name.X.(*ast.Ident).Name == "runtimeapi"
}
