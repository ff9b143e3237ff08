// Package blocking reads a program's source and tells where a goroutine that must not wait may wait: in an operation of its own,
// or for a lock that others hold while they wait.
package blocking

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is the functions of some packages, by their full names.
type Program struct {
	fset  *token.FileSet
	dir   string
	funcs map[string]*function
	ours  func(path string) bool // tells the packages whose functions are in funcs
}

// Load reads the packages that the patterns name, in a directory of a module. Of other packages it reads what the compiler wrote.
func Load(dir string, patterns ...string) (*Program, error) {
	list := exec.Command("go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly"}, patterns...)...)
	list.Dir = dir
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		DepOnly                 bool
	}
	exports, own := map[string]string{}, []listed{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the answer of go list: %w", err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			own = append(own, p)
		}
	}
	p := &Program{fset: token.NewFileSet(), funcs: map[string]*function{}}
	if p.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	p.ours = func(path string) bool { return known[path] }
	for _, pkg := range own {
		known[pkg.ImportPath] = true
	}
	lookup := p.importer(exports)
	for _, pkg := range own {
		var files []*ast.File
		for _, name := range pkg.GoFiles {
			file, err := parser.ParseFile(p.fset, filepath.Join(pkg.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		}
		if err := p.add(pkg.ImportPath, files, lookup); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Program) importer(exports map[string]string) types.Importer {
	return importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})
}

// add takes in a package's functions.
func (p *Program) add(path string, files []*ast.File, from types.Importer) error {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	config := types.Config{Importer: from}
	if _, err := config.Check(path, p.fset, files, info); err != nil {
		return err
	}
	for _, file := range files {
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			object, ok := info.Defs[fn.Name].(*types.Func)
			if !ok {
				continue
			}
			r := &reader{p: p, info: info, path: path, fn: &function{name: object.FullName()}}
			r.block(fn.Body.List, map[string]bool{})
			p.funcs[r.fn.name] = r.fn
		}
	}
	return nil
}

func (p *Program) place(pos token.Pos) string {
	at := p.fset.Position(pos)
	if name, err := filepath.Rel(p.dir, at.Filename); err == nil {
		at.Filename = name
	}
	return fmt.Sprintf("%s:%d", at.Filename, at.Line)
}
