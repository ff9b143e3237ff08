package images

import (
	"path/filepath"
	"testing"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: a record is as it was before, or as it is meant to be.
func TestNoSpace(t *testing.T) {
	for _, durable := range []bool{true, false} {
		write := func(text string) func(dir string) error {
			return func(dir string) error { return writeFile(filepath.Join(dir, "record"), []byte(text), durable) }
		}
		fulldisk.Each(t, "", write("before"), write("after"))
	}
}
