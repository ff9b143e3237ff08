package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
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

// TestCommands: every make target that README.md and the documents name exists, and the first is the one to try.
func TestCommands(t *testing.T) {
	help, err := exec.Command("make", "-C", "..", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	first := ""
	for _, file := range append([]string{"../README.md"}, documents...) {
		for _, match := range regexp.MustCompile("(?:[`$]|sudo) ?make ([a-z0-9-]+)").FindAllStringSubmatch(read(t, file), -1) {
			if first == "" {
				first = match[1]
			}
			if !regexp.MustCompile(`(?m)^  ` + match[1] + ` `).Match(help) {
				t.Errorf("%s names make %s, which make help does not", file, match[1])
			}
		}
	}
	if first != "run" {
		t.Errorf("the README's first command is make %s", first)
	}
}

// TestRun does what make run does once all is built: the examples become Ready, and everything is taken down again.
func TestRun(t *testing.T) {
	ctx := onStack(t)
	program := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, program, "-standalone", "-once", "-examples=../examples")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	manifests, err := filepath.Glob("../examples/static/*.yaml")
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	if got := strings.Count(string(out), " Ready at "); got < len(manifests) || !strings.Contains(string(out), "everything is Ready") {
		t.Errorf("%d of %d pods are Ready:\n%s", got, len(manifests), out)
	}
	_, log, _ := strings.Cut(string(out), "kubelet log")
	if fields := strings.Fields(log); len(fields) == 0 {
		t.Errorf("no log is named:\n%s", out)
	} else if dir := filepath.Dir(filepath.Dir(fields[0])); !strings.HasPrefix(filepath.Base(dir), "mk-") {
		t.Errorf("the log is %s", fields[0])
	} else if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	} else if mounts := read(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
		t.Errorf("mounts below %s are left", dir)
	}
}
