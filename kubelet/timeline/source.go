package timeline

import (
	"archive/tar"
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

// sourceRoot is where the program was built, "" if that was left out of it.
var sourceRoot = func() string {
	_, file, _, _ := runtime.Caller(0)
	if !path.IsAbs(file) {
		return ""
	}
	return path.Join(path.Dir(file), "../..")
}()

// locate finds the function that does a step: its own, the runtime's method that answers a call, or that of the step which it is
// part of.
func locate(step *Step, steps []Step) *source {
	of := step
	for of.Function == "" && (!of.Runtime || of.Method == "") {
		at := slices.IndexFunc(steps, func(s Step) bool { return s.ID == of.Parent })
		if at < 0 {
			return &source{}
		}
		of = &steps[at]
	}
	code := &source{Function: of.Function, File: of.File, Line: of.Line}
	if of.Function == "" {
		code.Function = criserver + ".(*Server)." + of.Method
	}
	code.read()
	if step.Method != "" && !step.Runtime { // upstream's client
		code.Upstream = "staging/src/k8s.io/cri-client/pkg/remote_runtime.go " + step.Method
		if strings.Contains(step.Name, "ImageService") {
			code.Upstream = strings.Replace(code.Upstream, "runtime.go", "image.go", 1)
		}
	}
	return code
}

var numbered = regexp.MustCompile(`s\.step\(ctx, "([^"]+ (\d+))"\)`)

// titles are what the runtime's numbered steps do: the first sentence of the comment with the number above each.
var titles = sync.OnceValue(func() map[string]string {
	all := map[string]string{}
	for _, text := range files(criserver, "") {
		for _, match := range numbered.FindAllStringSubmatchIndex(text, -1) {
			name, mark := text[match[2]:match[3]], "// "+text[match[4]:match[5]]+". "
			if at := strings.LastIndex(text[:match[0]], mark); at >= 0 {
				line, _, _ := strings.Cut(text[at+len(mark):], "\n")
				what, _, _ := strings.Cut(line, ". ")
				all[name] = strings.TrimSuffix(what, ".")
			}
		}
	}
	return all
})

var closure = regexp.MustCompile(`(\.func\d+|\.gowrap\d+|-range\d+|\.\d+|-fm)+$`)

// read finds the function's text and what its comment says of upstream.
func (c *source) read() {
	dir, name := path.Split(closure.ReplaceAllString(c.Function, ""))
	pkg, name, _ := strings.Cut(name, ".")
	receiver, method, is := strings.Cut(name, ".")
	head := `func ` + regexp.QuoteMeta(name)
	if is {
		head = `func \(\w+ ` + regexp.QuoteMeta(strings.Trim(receiver, "()")) + `(\[.*\])?\) ` + regexp.QuoteMeta(method)
	}
	begins, err := regexp.Compile(`(?m)(^//.*\n)*^` + head + `[\[(]`)
	if err != nil {
		return
	}
	for file, text := range files(dir+pkg, c.File) {
		if at := begins.FindStringIndex(text); at != nil {
			function, _, _ := strings.Cut(text[at[0]:], "\n}\n")
			c.File, c.First, c.Text = file, strings.Count(text[:at[0]], "\n")+1, function+"\n}"
			c.Upstream = upstream(c.Text[:at[1]-at[0]], text[:at[0]], text)
			return
		}
	}
}

// upstream is the note of where upstream does the same: of the function, of what is above it in its file, or of its file.
func upstream(comment, above, file string) string {
	const mark = "// Upstream: "
	for _, text := range []string{comment, above, file} {
		if at := strings.LastIndex(text, mark); at >= 0 {
			line, _, _ := strings.Cut(text[at+len(mark):], "\n")
			return strings.TrimSuffix(line, ".")
		}
	}
	return ""
}

// files are the texts, by path, of the files that a function may be in: the one that is known, or those of its package. They are
// unpacked each time, which takes some ten milliseconds, and not kept. A program without the archive that was built where its
// source is finds the file there.
func files(dir, file string) map[string]string {
	found := map[string]string{}
	packed, err := archive.Open("source/source.tar.gz")
	if err != nil {
		if text, err := os.ReadFile(path.Join(sourceRoot, strings.TrimPrefix(file, module))); err == nil && sourceRoot != "" && file != "" {
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
