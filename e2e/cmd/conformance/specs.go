package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// tag is a remark in a spec's name, such as [Conformance] or [sig-node]. Kubernetes moves, adds and drops them from
// release to release.
var tag = regexp.MustCompile(`\[[^\]]*\]`)

// split tells a name's words from its tags.
func split(name string) (words string, tags []string) {
	return strings.Join(strings.Fields(tag.ReplaceAllString(name, " ")), " "), tag.FindAllString(name, -1)
}

// find returns the spec that a list's entry means: the one whose words are the entry's, and that has the entry's tags,
// wherever they stand, in its name or as labels.
func find(entry string, suite []spec) (spec, error) {
	words, tags := split(entry)
	var found []spec
	for _, s := range suite {
		theirs, has := split(s.name)
		if theirs != words {
			continue
		}
		for _, label := range s.labels {
			has = append(has, "["+label+"]")
		}
		if !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(has, t) }) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return spec{}, fmt.Errorf("the suite has no spec %q", entry)
	case 1:
		return found[0], nil
	}
	return spec{}, fmt.Errorf("%q is the name of %d specs: %q, %q: add a tag that only one has", entry, len(found), found[0].name, found[1].name)
}

// listSpecs asks the suite for all its specs, and which of them the arguments choose.
func listSpecs(ctx context.Context, program string, choose ...string) ([]spec, error) {
	dir, err := os.MkdirTemp("", "specs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "specs.json")
	args := []string{"--ginkgo.dry-run", "--ginkgo.succinct", "--ginkgo.no-color", "--ginkgo.json-report=" + report}
	for _, one := range choose {
		args = append(args, "--ginkgo."+strings.TrimLeft(one, "-"))
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ask the suite for its specs: %w: %s", err, out)
	}
	return readSpecs(report)
}

// plan says which specs are to run, and which of them are known to fail.
type plan struct {
	names  []string          // of the specs to run
	subset []string          // those that must have run in the end
	known  map[string]string // reasons, by the spec's name
}

// planRun reads the lists and looks their entries up among the suite's specs. Every entry that is none, or not among
// those that the label chooses, is named in the error.
func planRun(suite []spec, subset string, known ...string) (p plan, err error) {
	p.known = map[string]string{}
	var errs []error
	for _, list := range known {
		reasons, err := readKnown(list)
		if err != nil {
			return p, fmt.Errorf("read the specs that are known to fail: %w", err)
		}
		for _, entry := range slices.Sorted(maps.Keys(reasons)) {
			s, err := find(entry, suite)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", list, err))
				continue
			}
			p.known[s.name] = reasons[entry]
		}
	}
	for _, s := range suite {
		if s.chosen {
			p.names = append(p.names, s.name)
		}
	}
	if len(p.names) == 0 {
		errs = append(errs, errors.New("label, focus and skip leave out every spec"))
	}
	if subset == "" {
		return p, errors.Join(errs...)
	}
	err = readLines(subset, func(entry string) error {
		s, err := find(entry, suite)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", subset, err))
		case !s.chosen:
			errs = append(errs, fmt.Errorf("%s: label, focus and skip leave out %q", subset, s.name))
		default:
			p.subset = append(p.subset, s.name)
		}
		return nil
	})
	if err == nil && len(p.subset)+len(errs) == 0 {
		err = fmt.Errorf("%s names no spec", subset)
	}
	p.names = p.subset
	return p, errors.Join(append(errs, err)...)
}

// missing is an error that names the specs of the subset that did not run, or left themselves out.
func (p plan) missing(r *results) error {
	ran := map[string]spec{}
	for _, s := range r.specs {
		ran[s.name] = s
	}
	var errs []error
	for _, name := range p.subset {
		if s, ok := ran[name]; !ok {
			errs = append(errs, fmt.Errorf("did not run: %s", name))
		} else if s.state == "skipped" {
			errs = append(errs, fmt.Errorf("left itself out: %s: %s", name, s.why))
		}
	}
	return errors.Join(errs...)
}
