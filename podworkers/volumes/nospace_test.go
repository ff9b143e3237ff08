package volumes

import (
	"testing"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: a volume that is written again has all files as they were before, or all as they are meant to be.
func TestNoSpace(t *testing.T) {
	write := func(text string) func(dir string) error {
		return func(dir string) error {
			return writeAtomic(dir, map[string]file{"a": {data: []byte(text), mode: 0o644}, "b/c": {data: []byte(text), mode: 0o644}}, nil)
		}
	}
	fulldisk.Each(t, "", write("before"), write("after"))
}
