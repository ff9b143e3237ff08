package matrix

import (
	"io"
	"regexp"
	"testing"

	"minikubelet/e2e/stack"
)

// TestPlan: the rows are counted before any fault is injected, those that were not asked for aside.
func TestPlan(t *testing.T) {
	all := 13
	if stack.CanSetClock {
		all += 4
	}
	for only, want := range map[string]int{"": all, "apiserver": 7, "apiserver: away": 2} {
		r := &run{s: &stack.Stack{}, Options: Options{Progress: io.Discard, Only: regexp.MustCompile(only)}} // of the embedded runtime: no cells of calls
		if err := r.plan(t.Context()); err != nil || r.count != want || r.counting {
			t.Errorf("%q: %d rows, want %d; %v", only, r.count, want, err)
		}
	}
}
