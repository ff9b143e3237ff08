package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// races returns what the race detector said in the programs of this project that were built with it.
func (s *Stack) races() error {
	for _, name := range []string{"kubelet", Crid} {
		data, err := os.ReadFile(filepath.Join(s.Dir, "log", name+".log"))
		if err != nil {
			continue // it never ran
		}
		if _, report, found := strings.Cut(string(data), "WARNING: DATA RACE"); found {
			lines := strings.SplitN(report, "\n", 60)
			return fmt.Errorf("%s has a data race:%s", name, strings.Join(lines[:min(len(lines), 59)], "\n"))
		}
	}
	return nil
}
