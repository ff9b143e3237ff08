package userns

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: a pod whose IDs cannot be written down gets none, and the pods before keep theirs.
func TestNoSpace(t *testing.T) {
	fulldisk.Each(t, "", func(dir string) error { return mapped(dir, "before") }, func(dir string) error { return mapped(dir, "u") })
}

func mapped(dir string, uid types.UID) error {
	m, err := New(Options{PodsDir: dir, MaxPods: 10})
	if err == nil {
		_, err = m.Mapping(uid)
	}
	return err
}
