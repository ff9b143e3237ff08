package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// upstreamDirs finds packages in the modules that a part of the stack is built from.
func upstreamDirs(t *testing.T, part string, packages ...string) map[string]string {
	t.Helper()
	list := exec.Command("go", append([]string{"list", "-find", "-f", "{{.ImportPath}} {{.Dir}}"}, packages...)...)
	list.Dir, list.Env = "stack/"+part, append(os.Environ(), "GOPROXY=off")
	out, err := list.Output()
	if err != nil {
		t.Skipf("the modules of stack/%s are not in the module cache; make stack brings them there: %v", part, err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		dirs[name] = dir
	}
	return dirs
}

// TestUpstreamTable: both sides of the first table of docs/workshop/upstream.md exist, upstream's in the module that the stack is
// built from.
func TestUpstreamTable(t *testing.T) {
	const kubelet = "k8s.io/kubernetes/pkg/kubelet"
	upstream := upstreamDirs(t, "kubernetes", kubelet)[kubelet]
	text, _, _ := strings.Cut(read(t, "../docs/workshop/upstream.md"), "\n## ")
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

// TestUpstreamSteps: each step that the source records stands in the second table of docs/workshop/upstream.md and no other does, and
// the functions that play their parts exist in the modules that the stack is built from.
func TestUpstreamSteps(t *testing.T) {
	_, text, _ := strings.Cut(read(t, "../docs/workshop/upstream.md"), "\n## ")
	table, does := map[string][2]string{}, map[string]string{} // package and function, and what it does, by step
	for _, r := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (\\S+): `([^`]+)` \\|$").FindAllStringSubmatch(text, -1) {
		table[r[1]], does[r[1]] = [2]string{r[3], r[4]}, r[2]
	}
	if want := strings.Count(text, "\n| ") - 1; len(table) != want {
		t.Errorf("%d rows of %d are whole and are another step's", len(table), want)
	}

	steps := map[string]bool{} // that the source records; calls have their rows for METHOD
	begins := regexp.MustCompile(`(?:cri\.(?:Step|Since|Mark)|s\.step)\(\w+, "([^"]+)"|\w+: "(\w+Pod)"[,}]`)
	for _, dir := range []string{"config", "podworkers", "podworkers/*", "runtime", "runtime/*", "status", "syncloop"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source := read(t, file)
			for _, begin := range begins.FindAllStringSubmatchIndex(source, -1) {
				name := source[max(begin[2], begin[4]):max(begin[3], begin[5])]
				if strings.HasSuffix(name, " end") {
					continue
				}
				steps[name] = true
				// A numbered step is told in the words of the comment above it that has the number.
				_, number, _ := strings.Cut(name, " ")
				if at := strings.LastIndex(source[:begin[0]], "// "+number+". "); number != "" && at >= 0 {
					if comment, _, _ := strings.Cut(source[at:], "\n"); !strings.HasPrefix(strings.TrimPrefix(comment, "// "+number+". ")+".", does[name]+".") {
						t.Errorf("the step %q does %q, and its source says %q", name, does[name], comment)
					}
				}
			}
		}
	}
	for name := range steps {
		if _, told := table[name]; !told {
			t.Errorf("the step %q has no row", name)
		}
	}
	methods := map[string][]grpc.MethodDesc{"RuntimeService": runtimeapi.RuntimeService_ServiceDesc.Methods, "ImageService": runtimeapi.ImageService_ServiceDesc.Methods}
	packages := map[string]map[string]string{}
	for name, to := range table {
		part := "kubernetes"
		if strings.HasPrefix(to[0], "github.com/containerd/") {
			part = "containerd"
		}
		if packages[part] == nil {
			packages[part] = map[string]string{}
		}
		packages[part][to[0]] = ""
		if service := path.Dir(strings.TrimPrefix(name, "call ")); methods[service] == nil && !steps[name] {
			t.Errorf("no source records the step %q", name)
		}
	}
	for part, wanted := range packages {
		dirs := upstreamDirs(t, part, slices.Collect(maps.Keys(wanted))...)
		for name, to := range table {
			if dirs[to[0]] == "" {
				continue
			}
			have, service, generic := functions(t, dirs[to[0]]), path.Dir(strings.TrimPrefix(name, "call ")), strings.HasSuffix(name, "/METHOD")
			if !generic && !have[to[1]] {
				t.Errorf("the step %q: %s has no %s", name, to[0], to[1])
			}
			for _, method := range methods[service] {
				_, own := table[path.Join(path.Dir(name), method.MethodName)]
				if function := strings.ReplaceAll(to[1], "METHOD", method.MethodName); generic && !own && !have[function] {
					t.Errorf("calls of %s: %s has no %s", method.MethodName, to[0], function)
				}
			}
		}
	}
}
