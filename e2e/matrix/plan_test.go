package matrix

import (
	"io"
	"regexp"
	"testing"

	"minikubelet/e2e/stack"
)

// TestPlan: the rows are counted before any fault is injected, those that were not asked for aside.
func TestPlan(t *testing.T) {
	for only, want := range map[string]int{"": 13, "apiserver": 10, "apiserver: away": 5} {
		r := &run{s: &stack.Stack{}, Options: Options{Progress: io.Discard, Only: regexp.MustCompile(only)}} // of the embedded runtime: no cells of calls
		if err := r.plan(t.Context()); err != nil || r.count != want || r.counting {
			t.Errorf("%q: %d rows, want %d; %v", only, r.count, want, err)
		}
	}
}
