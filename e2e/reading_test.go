package e2e

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What the core may have, comments included.
const (
	coreLines = 6000
	coreFiles = 40
)

// part is a row of the table of parts, or a mark in a source file.
type part struct{ name, place, namedIn string }

// reading is docs/reading.md.
type reading struct {
	files     []string // of the core, in reading order
	parts     []part
	questions [][3]string // question, file, function
}

func readReading(t *testing.T) reading {
	t.Helper()
	var out reading
	text := read(t, "../docs/reading.md")
	for line := range strings.Lines(section(t, text, "files")) {
		if file := regexp.MustCompile(`^1\. \[([^]]*)\]`).FindStringSubmatch(line); file != nil {
			out.files = append(out.files, file[1])
		}
	}
	for _, row := range tableOf(t, text, "parts") {
		out.parts = append(out.parts, part{row[0], row[1], row[2]})
	}
	for _, row := range tableOf(t, text, "questions") {
		out.questions = append(out.questions, [3]string{row[0], row[1], row[2]})
	}
	return out
}

// section is what stands between <!-- NAME:begin --> and <!-- NAME:end -->.
func section(t *testing.T, text, name string) string {
	t.Helper()
	_, text, begun := strings.Cut(text, "<!-- "+name+":begin -->")
	text, _, ended := strings.Cut(text, "<!-- "+name+":end -->")
	if !begun || !ended {
		t.Fatalf("docs/reading.md has no %s", name)
	}
	return text
}

// tableOf returns the rows of a section's table, without head, links and quotes.
func tableOf(t *testing.T, text, name string) (rows [][]string) {
	t.Helper()
	link := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
	for line := range strings.Lines(section(t, text, name)) {
		line = strings.ReplaceAll(link.ReplaceAllString(strings.TrimSpace(line), "$1"), "`", "")
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) < 3 || strings.HasPrefix(strings.TrimSpace(cells[0]), "--") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows[min(1, len(rows)):] // without the head
}

// TestReading: the core is no more than one reads in an afternoon, and its files are in the order that the list says.
func TestReading(t *testing.T) {
	list := readReading(t)
	lines := 0
	for _, file := range list.files {
		lines += strings.Count(read(t, filepath.Join("..", file)), "\n")
	}
	t.Logf("the core has %d lines in %d files", lines, len(list.files))
	if lines > coreLines || len(list.files) > coreFiles {
		t.Errorf("the core has %d lines in %d files, and may have %d in %d", lines, len(list.files), coreLines, coreFiles)
	}
	if sorted := slices.Sorted(slices.Values(list.files)); len(slices.Compact(sorted)) != len(list.files) {
		t.Error("a file is listed twice")
	}
	if len(list.files) < 20 {
		t.Errorf("the list has %d files", len(list.files))
	}
	if n := strings.Count(read(t, "../examples/minimal/main.go"), "\n"); n >= 100 {
		t.Errorf("examples/minimal has %d lines", n)
	}
}

var partMark = regexp.MustCompile(`// part: ([^,\n]+), (\S+)`)

// marksOf returns the parts that a file names.
func marksOf(t *testing.T, file string) (marks []part) {
	t.Helper()
	for _, match := range partMark.FindAllStringSubmatch(read(t, filepath.Join("..", file)), -1) {
		place := match[2]
		if _, err := os.Stat(filepath.Join("..", place)); err != nil {
			place = filepath.Join(filepath.Dir(file), place) // a file beside the one that names it
		}
		marks = append(marks, part{match[1], place, file})
	}
	return marks
}

// TestParts: a part is named in the core at one place, exists, and stands in the table; the table names no other.
func TestParts(t *testing.T) {
	list := readReading(t)
	inTable := map[string]part{}
	for _, p := range list.parts {
		if _, twice := inTable[p.name]; twice {
			t.Errorf("the part %s is in the table twice", p.name)
		}
		inTable[p.name] = p
		if _, err := os.Stat(filepath.Join("..", p.place)); err != nil {
			t.Errorf("the part %s: %v", p.name, err)
		}
		if !slices.Contains(marksOf(t, p.namedIn), p) {
			t.Errorf("%s has no mark // part: %s, %s", p.namedIn, p.name, p.place)
		}
		if slices.Contains(list.files, p.place) {
			t.Errorf("%s is a part, %s, and a file of the core", p.place, p.name)
		}
	}
	named := map[string]string{}
	for _, file := range list.files {
		for _, mark := range marksOf(t, file) {
			if other, twice := named[mark.name]; twice {
				t.Errorf("the part %s is named in %s and in %s", mark.name, other, file)
			}
			named[mark.name] = file
			if inTable[mark.name] != mark {
				t.Errorf("%s names the part %s, %s; the table has %+v", file, mark.name, mark.place, inTable[mark.name])
			}
		}
	}
}

// TestCoreImports: the core imports its own packages and, of this module, those of parts.
func TestCoreImports(t *testing.T) {
	list := readReading(t)
	packages := map[string]bool{}
	for _, file := range list.files {
		packages[filepath.Dir(file)] = true
	}
	for _, p := range list.parts {
		if strings.HasSuffix(p.place, ".go") {
			p.place = filepath.Dir(p.place)
		}
		packages[p.place] = true
	}
	for _, file := range list.files {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if ours, ok := strings.CutPrefix(path, module); ok && !packages[ours] {
				t.Errorf("%s imports %s, which is neither the core's nor a part", file, ours)
			}
		}
	}
}

// TestQuestions: the answers to a newcomer's questions are functions that exist.
func TestQuestions(t *testing.T) {
	list := readReading(t)
	if len(list.questions) < 10 {
		t.Errorf("%d questions, want 10", len(list.questions))
	}
	for _, q := range list.questions {
		if !declares(t, filepath.Join("..", q[1]), q[2]) {
			t.Errorf("%s: %s does not declare %s", q[0], q[1], q[2])
		}
	}
}
