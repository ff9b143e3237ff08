package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// results are the specs that were chosen, by how they ended.
type results struct {
	specs []spec
	took  time.Duration
}

// spec is what became of one spec.
type spec struct {
	name, state string // passed, skipped or anything else, which is a failure
	why         string // the first line of what it says of its failure, or of what it needs
	labels      []string
	chosen      bool   // it is to run
	before      string // why it failed the first time, if it ran twice
}

// ginkgoReport is what of ginkgo's JSON report is read.
type ginkgoReport struct {
	RunTime     time.Duration
	SpecReports []ginkgoSpec
}

type ginkgoSpec struct {
	ContainerHierarchyTexts  []string
	ContainerHierarchyLabels [][]string
	LeafNodeType             string
	LeafNodeText             string
	LeafNodeLabels           []string
	State                    string
	NumAttempts              int
	Failure                  struct{ Message string }
}

func readReport(path string) (*results, error) {
	suites, err := readGinkgo(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	for _, suite := range suites {
		r.took += suite.RunTime
		for _, s := range suite.SpecReports {
			if s.NumAttempts == 0 && s.State != "failed" || s.LeafNodeType != "It" && s.State == "passed" {
				continue // not chosen, or the suite's own preparations
			}
			r.specs = append(r.specs, s.spec())
		}
	}
	slices.SortFunc(r.specs, func(a, b spec) int { return strings.Compare(a.name, b.name) })
	return r, nil
}

// readSpecs reads the report of a dry run, in which the specs that are chosen pass.
func readSpecs(path string) (specs []spec, err error) {
	suites, err := readGinkgo(path)
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.LeafNodeType == "It" {
				one := s.spec()
				one.chosen = s.State == "passed"
				specs = append(specs, one)
			}
		}
	}
	return specs, err
}

func readGinkgo(path string) (suites []ginkgoReport, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &suites)
	}
	if err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	return suites, nil
}

func (s ginkgoSpec) spec() spec {
	why, _, _ := strings.Cut(s.Failure.Message, "\n")
	// Ginkgo's own name of a spec, which it is chosen by, has nothing of containers without a text.
	texts := slices.DeleteFunc(append(s.ContainerHierarchyTexts, s.LeafNodeText), func(text string) bool { return text == "" })
	return spec{
		name: strings.Join(texts, " "), state: s.State, why: why,
		labels: slices.Concat(append(s.ContainerHierarchyLabels, s.LeafNodeLabels)...),
	}
}

func (s spec) failed() bool { return s.state != "passed" && s.state != "skipped" }

// replace puts the specs of a second run in the place of their first.
func (r *results) replace(second *results) {
	r.took += second.took
	for i, first := range r.specs {
		for _, s := range second.specs {
			if s.name == first.name {
				s.before = cmp.Or(first.why, "it did not say why")
				r.specs[i] = s
			}
		}
	}
}

// readKnown reads specs that are known to fail here, with the reason: NAME # REASON.
func readKnown(path string) (map[string]string, error) {
	known := map[string]string{}
	err := readLines(path, func(line string) error {
		name, reason, found := strings.Cut(line, " # ")
		if !found || reason == "" {
			return fmt.Errorf("%s: no reason, after #, why this fails: %s", path, name)
		}
		known[strings.TrimSpace(name)] = reason
		return nil
	})
	return known, err
}

// readLines hands over the lines of a file that are neither empty nor comments.
func readLines(path string, line func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if err := line(text); err != nil {
			return err
		}
	}
	return lines.Err()
}

// tally counts what became of specs.
type tally struct{ passed, again, failed, known, skipped int }

func (t *tally) add(s spec, known map[string]string) {
	switch {
	case s.state == "passed":
		t.passed++
		if s.before != "" {
			t.again++
		}
	case s.state == "skipped":
		t.skipped++
	case known[s.name] != "":
		t.known++
	default:
		t.failed++
	}
}

func (t tally) String() string {
	return fmt.Sprintf("%d passed (%d at the second attempt), %d failed, %d known to fail, %d skipped", t.passed, t.again, t.failed, t.known, t.skipped)
}

// print lists what did not pass, with the reasons, and counts.
func (r *results) print(w io.Writer, kubelet string, known map[string]string) {
	var all tally
	byLabel := map[string]*tally{"NodeConformance": {}, "Conformance": {}}
	for _, s := range r.specs {
		reason := known[s.name]
		switch {
		case s.failed() && reason == "":
			fmt.Fprintf(w, "FAILED %s\n       %s\n", s.name, s.why)
		case s.failed():
			fmt.Fprintf(w, "KNOWN  %s\n       %s\n", s.name, reason)
		case s.state == "skipped":
			fmt.Fprintf(w, "SKIP   %s\n       %s\n", s.name, s.why)
		case s.before != "":
			fmt.Fprintf(w, "AGAIN  %s\n       %s\n", s.name, s.before)
		case reason != "":
			fmt.Fprintf(w, "PASSED, though it is known to fail: %s\n", s.name)
		}
		all.add(s, known)
		for label, t := range byLabel {
			if slices.Contains(s.labels, label) {
				t.add(s, known)
			}
		}
	}
	for _, label := range slices.Sorted(maps.Keys(byLabel)) {
		fmt.Fprintf(w, "%s, label %s: %v\n", kubelet, label, *byLabel[label])
	}
	fmt.Fprintf(w, "%s: %v, in %v\n", kubelet, all, r.took.Round(time.Second))
}

// verdict is an error when a spec failed that works elsewhere, or nothing ran.
func (r *results) verdict(known map[string]string) error {
	var all tally
	for _, s := range r.specs {
		all.add(s, known)
	}
	if all.passed+all.failed+all.known == 0 {
		return errors.New("no spec ran")
	}
	if all.failed > 0 {
		return fmt.Errorf("%d specs failed", all.failed)
	}
	return nil
}
