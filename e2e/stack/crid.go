package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Crid is this project's own CRI server, cmd/crid.
const Crid = "crid"

// registriesConfig sends the pulls from any registry to the stack's own.
const registriesConfig = `"*":
  mirrors: ["http://%[1]s"]
%[1]s: {insecure: true}
`

// startCrid configures and starts crid and waits until it can run pods.
func (s *Stack) startCrid(ctx context.Context) error {
	if _, err := exec.LookPath("conmon"); err != nil {
		return fmt.Errorf("start crid (make deps installs conmon): %w", err)
	}
	binary := s.options.CridBinary
	if binary == "" {
		root, err := moduleRoot()
		if err != nil {
			return err
		}
		binary = filepath.Join(root, "bin", "crid")
	}
	registries := filepath.Join(s.Dir, "registries.yaml")
	for path, text := range map[string]string{
		registries: fmt.Sprintf(registriesConfig, registryAddress),
		filepath.Join(s.Dir, "cni", "10-stack.conflist"): fmt.Sprintf(cniConfig, s.Dir, s.Name),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	args := []string{
		binary, "--listen=unix://" + s.RuntimeSocket, "--root=" + filepath.Join(s.Dir, "crid"), "--state=" + filepath.Join(s.Dir, "run", "crid"),
		"--cni-conf-dir=" + filepath.Join(s.Dir, "cni"), "--cni-bin-dir=" + s.BinDir, "--oci-runtime=runc=" + s.Program("runc"),
		"--pause-image=" + PauseImage, "--registry-config=" + registries,
		"--cgroup-parent=/" + s.Name + "/pods", "--v=2",
	}
	s.addComponent(Crid, s.runtimeReady, append(args, s.options.CridArgs...)...)
	return s.StartComponent(ctx, Crid)
}
