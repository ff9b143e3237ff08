package timeline

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"embed"
	"io"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// archive holds the source of what is on the way of a pod, if the program was built with `make build`.
//
//go:embed source
var archive embed.FS

const (
	module    = "minikubelet/"
	criserver = module + "runtime/criserver"
)

// source is a function's text.
type source struct {
	Function string `json:"function"`
	File     string `json:"file"`
	First    int    `json:"first,omitempty"` // line of the file that the text begins with
	Line     int    `json:"line,omitempty"`  // of the step
	Text     string `json:"text,omitempty"`
	Upstream string `json:"upstream,omitempty"`
}

// locate finds the function that does a step, its own, the runtime's method that answers a call, or that of the step which it is part
// of, and the one that plays the step's part upstream.
func locate(step *Step, steps []Step) *source {
	code, of := &source{Upstream: upstream(step)}, step
	for of.Function == "" && (!of.Runtime || of.Method == "") {
		at := slices.IndexFunc(steps, func(s Step) bool { return s.ID == of.Parent })
		if at < 0 {
			return code
		}
		of = &steps[at]
	}
	if code.Function, code.File, code.Line = of.Function, of.File, of.Line; of.Function == "" {
		code.Function = criserver + ".(*Server)." + of.Method
	}
	head := "func (s *Server) " + of.Method + "("
	for file, text := range files(criserver, of.File) {
		lines := strings.SplitAfter(text, "\n")
		first := of.Line - 1
		if of.File == "" {
			first = slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, head) })
		}
		for first > 0 && first < len(lines) && !strings.HasPrefix(lines[first], "func ") {
			first--
		}
		if first < 0 || first >= len(lines) {
			continue // of another file, or of a program that was built anew since
		}
		last := first + slices.Index(lines[first:], "}\n")
		for first > 0 && strings.HasPrefix(lines[first-1], "//") {
			first--
		}
		code.File, code.First, code.Text = file, first+1, strings.TrimSuffix(strings.Join(lines[first:last+1], ""), "\n")
	}
	return code
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (\\S+): `([^`]+)` \\|$")

// table is the workshop's of steps, by name: what each does, and the function that plays its part in Kubernetes' kubelet or containerd.
var table = sync.OnceValue(func() map[string][2]string {
	all := map[string][2]string{}
	for _, text := range files("", module+"docs/workshop/upstream.md") {
		for _, match := range row.FindAllStringSubmatch(text, -1) {
			all[match[1]] = [2]string{match[2], match[3] + "." + match[4]}
		}
	}
	return all
})

// upstream is the function that plays a step's part there.
func upstream(step *Step) string {
	name := strings.TrimPrefix(step.Name, "runtime.v1.")
	if step.Method != "" && !step.Runtime {
		name = "call " + name
	}
	return cmp.Or(table()[name][1], strings.ReplaceAll(table()[path.Dir(name)+"/METHOD"][1], "METHOD", step.Method))
}

// files are the texts, by path, of the files that a function may be in: the one that is known, or those of its package. They are
// unpacked each time, in some ten milliseconds. A program without the archive finds the file where it was built, if that is here.
func files(dir, file string) map[string]string {
	found := map[string]string{}
	packed, err := archive.Open("source/source.tar.gz")
	if err != nil {
		_, here, _, _ := runtime.Caller(0) // kubelet/timeline/source.go, where it was when this was built, if that was left in
		if text, err := os.ReadFile(path.Join(here, "../../..", strings.TrimPrefix(file, module))); err == nil && path.IsAbs(here) {
			found[file] = string(text)
		}
		return found
	}
	unzipped, err := gzip.NewReader(packed)
	for files := tar.NewReader(unzipped); err == nil; {
		var header *tar.Header
		if header, err = files.Next(); err != nil {
			break
		}
		if name := module + header.Name; name == file || file == "" && path.Dir(name) == dir {
			text, _ := io.ReadAll(files)
			found[name] = string(text)
		}
	}
	return found
}
