package settings

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// readHere are the supported fields that this package reads itself, and hands on in another form.
var readHere = map[string]string{
	"evictionHard": "EvictionThresholds", "evictionSoft": "EvictionThresholds", "evictionSoftGracePeriod": "EvictionThresholds",
	"evictionMinimumReclaim": "EvictionThresholds", "mergeDefaultEvictionSettings": "EvictionThresholds",
	"containerRuntimeEndpoint": "RuntimeSocket", "containerLogMaxSize": "ContainerLogMaxSize",
	"logging.verbosity": "SetVerbosity", "logging.vmodule": "SetVerbosity", "logging.format": "Load",
}

// TestEveryField: each field of the configuration's type, however deep, is one of three. What is supported is read by the kubelet's code,
// what is accepted is warned of, and what is refused is an error: none is taken in silence.
func TestEveryField(t *testing.T) {
	read := selectors(t, "..", "../../cmd")
	for _, at := range leaves("", reflect.TypeFor[kubeletconfig.KubeletConfiguration]()) {
		field, ok := rowOf(at.path)
		if !ok {
			t.Errorf("%s is not in the table", at.path)
			continue
		}
		if field.Support == Supported {
			name := at.name
			if with := readHere[field.Path]; with != "" {
				name = with
			}
			if !read[name] {
				t.Errorf("%s is supported, and nothing outside of this package reads %s", at.path, name)
			}
			continue
		}
		if len(field.Also) > 0 {
			continue // a bool, and neither of its values asks for what is missing
		}
		document := map[string]any{}
		put(document, at.path, another(t, field, at.typ))
		lines, err := yaml.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		s, err := load(t, string(lines))
		switch {
		case field.Support == Refused && (err == nil || !strings.Contains(err.Error(), field.Path)):
			t.Errorf("%s: the error is %v", lines, err)
		case field.Support == Accepted && (err != nil || !strings.Contains(fmt.Sprint(warnings(s)), field.Path+" has no effect: ")):
			t.Errorf("%s: %v; the warnings are %q", lines, err, warnings(s))
		}
	}
}

// leaf is a field that is no object of others, or whose object is a pointer.
type leaf struct {
	path, name string // in a file, in Go
	typ        reflect.Type
}

func leaves(above string, typ reflect.Type) (all []leaf) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta]():
		case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() != reflect.TypeFor[metav1.Duration]().PkgPath() && above+name != "logging.options" && above+name != "logging.flushFrequency":
			all = append(all, leaves(above+name+".", f.Type)...)
		default:
			all = append(all, leaf{above + name, f.Name, f.Type})
		}
	}
	return all
}

// rowOf is the row of the table that covers a path.
func rowOf(path string) (Field, bool) {
	for _, f := range table {
		if path == f.Path || strings.HasPrefix(path, f.Path+".") {
			return f, true
		}
	}
	return Field{}, false
}

// another is a value that is not the field's default, as a file has it.
func another(t *testing.T, f Field, typ reflect.Type) any {
	t.Helper()
	if value, ok := map[string]any{
		"reservedMemory":  []any{map[string]any{"numaNode": 0, "limits": map[string]any{"memory": "1Gi"}}},
		"logging.options": map[string]any{"json": map[string]any{"splitStream": true}}, "logging.flushFrequency": "7s",
	}[f.Path]; ok {
		return value
	}
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch kind := typ.Kind(); {
	case typ == reflect.TypeFor[metav1.Duration]():
		return "7s"
	case kind == reflect.String:
		return "another"
	case kind == reflect.Bool:
		return f.Default != true
	case kind == reflect.Int32:
		return 7
	case kind == reflect.Map:
		return map[string]any{"another": "value"}
	}
	t.Fatalf("%s has a type without a value here: %v", f.Path, typ)
	return nil
}

// selectors are the names behind dots in the Go files below these directories, tests and this package aside.
func selectors(t *testing.T, dirs ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "settings" {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					names[s.Sel.Name] = true
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
