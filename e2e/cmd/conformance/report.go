package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// results are the names of specs by how they ended.
type results struct {
	passed, failed []string
	skipped        int
	why            map[string]string // the first line of a failure's message
	took           time.Duration
}

// ginkgoReport is what of ginkgo's JSON report is read.
type ginkgoReport struct {
	RunTime     time.Duration
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		Failure                 struct{ Message string }
	}
}

func readReport(path string) (*results, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	var suites []ginkgoReport
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	r := &results{why: map[string]string{}}
	for _, suite := range suites {
		r.took += suite.RunTime
		for _, spec := range suite.SpecReports {
			name := strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")
			switch {
			case spec.LeafNodeType != "It" && spec.State != "failed":
			case spec.State == "passed":
				r.passed = append(r.passed, name)
			case spec.State == "skipped" || spec.State == "pending":
				r.skipped++
			default:
				r.failed = append(r.failed, name)
				r.why[name], _, _ = strings.Cut(spec.Failure.Message, "\n")
			}
		}
	}
	slices.Sort(r.failed)
	return r, nil
}

// readKnown reads the specs that fail here whatever the kubelet: a name a line, # before a reason. No file is no spec.
func readKnown(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	known := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			known[line] = true
		}
	}
	return known, nil
}

func (r *results) print(w io.Writer, kubelet string, known map[string]bool) {
	for _, name := range r.failed {
		note := ""
		if known[name] {
			note = " (known)"
		}
		fmt.Fprintf(w, "FAILED%s %s\n       %s\n", note, name, r.why[name])
	}
	fmt.Fprintf(w, "%s: %d passed, %d failed, %d skipped in %v\n", kubelet, len(r.passed), len(r.failed), r.skipped, r.took.Round(time.Second))
}

// verdict is an error when a spec failed that works elsewhere, or nothing ran.
func (r *results) verdict(known map[string]bool) error {
	if len(r.passed)+len(r.failed) == 0 {
		return errors.New("no spec ran")
	}
	n := 0
	for _, name := range r.failed {
		if !known[name] {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d specs failed", n)
	}
	return nil
}
