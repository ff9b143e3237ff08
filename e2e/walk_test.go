package e2e

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link      = regexp.MustCompile(`\[([^\]]+)\]\(([^)#]+)\)`)
	walkStep  = regexp.MustCompile(`(?m)^### (\d+)\. (\w+)\n\[([^\]]+)\]\(\.\./([^)]+)\)(?:, stop ` + "`(\\w+)`" + `)?$`)
	walkBreak = regexp.MustCompile(`^break (\w+) minikubelet/(\S+?)\.(?:\(\*\w+\)\.)?(\w+)(?: if .+)?$`)
)

// stop is a step of the walk at which a debugger stops.
type stop struct{ name, dir, function string }

// TestWalkNames: every function that docs/walk.md names is declared in the file that it links to.
func TestWalkNames(t *testing.T) {
	text := read(t, "../docs/walk.md")
	links := link.FindAllStringSubmatch(text, -1)
	if len(links) < 50 {
		t.Errorf("docs/walk.md has %d links", len(links))
	}
	for _, match := range links {
		label, file := match[1], filepath.Join("../docs", match[2])
		switch {
		case strings.HasSuffix(label, ".go") && !strings.HasSuffix(match[2], "/"+label):
			t.Errorf("docs/walk.md calls %s %s", match[2], label)
		case strings.HasSuffix(file, ".go") && !strings.HasSuffix(label, ".go"):
			if !declares(t, file, label) {
				t.Errorf("%s does not declare %s", match[2], label)
			}
		default:
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
		}
	}
	steps := walkStep.FindAllStringSubmatch(text, -1)
	if want := strings.Count(text, "\n### "); len(steps) != want {
		t.Errorf("%d of the %d steps of docs/walk.md name their file as the others do", len(steps), want)
	}
	for _, step := range steps {
		if !declares(t, filepath.Join("..", step[4]), step[2]) {
			t.Errorf("step %s: %s does not declare %s", step[1], step[4], step[2])
		}
	}
}

// TestWalkScript: docs/walk.dlv stops where docs/walk.md says so, in its order, once each, and does nothing else.
func TestWalkScript(t *testing.T) {
	var want, got []stop
	for _, step := range walkStep.FindAllStringSubmatch(read(t, "../docs/walk.md"), -1) {
		if step[5] != "" {
			want = append(want, stop{step[5], path.Dir(step[4]), step[2]})
		}
	}
	script := read(t, "../docs/walk.dlv")
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		name := ""
		if len(got) > 0 {
			name = got[len(got)-1].name
		}
		match := walkBreak.FindStringSubmatch(line)
		switch {
		case match != nil:
			got = append(got, stop{match[1], match[2], match[3]})
			if !strings.Contains(script, "\ncondition -hitcount "+match[1]+" == 1\n") {
				t.Errorf("%s stops more than once", match[1])
			}
		case line == "", line == "continue", strings.HasPrefix(line, "#"), line == "condition -hitcount "+name+" == 1":
		case strings.HasPrefix(line, "on "+name+" print "):
		default:
			t.Errorf("docs/walk.dlv: %s: %q does not belong there", name, line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/walk.dlv stops at\n%v\ndocs/walk.md at\n%v", got, want)
	}
	if !strings.HasSuffix(script, "\ncontinue\n") {
		t.Error("docs/walk.dlv does not start the kubelet")
	}
}
