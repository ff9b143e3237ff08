package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"minikubelet/kubelet/settings"
)

// TestWrongLessons: wrong values of --step and --chaos are told together, before anything is changed on the machine.
func TestWrongLessons(t *testing.T) {
	root := filepath.Join(t.TempDir(), "kubelet")
	s, err := settings.Load([]string{"--root-dir=" + root, "--timeline", "--step=CreateContainer,None", "--chaos=RunPodSandbox=error:2"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(t.Context(), Options{Settings: s})
	if err == nil || !strings.Contains(err.Error(), `--step: "None"`) || !strings.Contains(err.Error(), `--chaos: "RunPodSandbox=error:2"`) {
		t.Error(err)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("the root directory is there: %v", err)
	}
}
