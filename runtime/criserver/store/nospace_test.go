package store

import (
	"testing"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: an object is made with both files or not at all, and a state that cannot be written leaves the one before.
func TestNoSpace(t *testing.T) {
	id := NewID()
	fulldisk.Each(t, "", func(string) error { return nil }, func(dir string) error {
		_, err := Create(dir, id, "config", "state")
		return err
	})
	fulldisk.Each(t, ".tmp", func(dir string) error {
		_, err := Create(dir, id, "config", "state")
		return err
	}, func(dir string) error {
		found, err := Load[string, string](dir)
		if err != nil {
			return err
		}
		return found[0].Update(func(s *string) { *s = "next" })
	})
}
