package allocation

import (
	"context"
	"testing"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: a pod's file has what it was given before, or all of what it is given now.
func TestNoSpace(t *testing.T) {
	give := func(cpu string) func(dir string) error {
		return func(dir string) error {
			s := New(dir)
			if _, err := s.Recall(podOf("1", "2")); err != nil {
				return err
			}
			if err := s.Allocate(podOf("1", cpu)); err != nil {
				return err
			}
			return s.Save(context.Background(), "u")
		}
	}
	fulldisk.Each(t, "", give("2"), give("3"))
	fulldisk.Each(t, "", func(string) error { return nil }, give("2"))
}
