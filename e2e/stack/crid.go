package stack

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// This project's own CRI server: as a program, cmd/crid, and in the kubelet's process. Of the latter no component is
// to be started, and there is no other kubelet to take its place.
const (
	Crid     = "crid"
	Embedded = "embedded"
)

// CridEnv names this project's CRI server when Options.CridBinary is empty, as KubeletEnv does the kubelet.
const CridEnv = "E2E_CRID"

// registriesConfig sends the pulls from any registry to the stack's own.
const registriesConfig = `"*":
  mirrors: ["http://%[1]s"]
%[1]s: {insecure: true}
`

// startCrid configures and starts crid and waits until it can run pods.
func (s *Stack) startCrid(ctx context.Context) error {
	options, err := s.criOptions()
	if err != nil {
		return fmt.Errorf("start crid: %w", err)
	}
	binary := cmp.Or(s.options.CridBinary, os.Getenv(CridEnv))
	if binary == "" {
		root, err := moduleRoot()
		if err != nil {
			return err
		}
		binary = filepath.Join(root, "bin", "crid")
	}
	args := []string{
		binary, "--listen=unix://" + s.RuntimeSocket, "--root=" + filepath.Join(s.Dir, "crid"), "--state=" + filepath.Join(s.Dir, "run", "crid"),
		"--cgroup-parent=/" + s.Name + "/pods", "--v=2",
	}
	s.addComponent(Crid, s.runtimeReady, slices.Concat(args, options, s.options.CridArgs)...)
	return s.StartComponent(ctx, Crid)
}

// criOptions writes the configuration of this project's CRI server and returns the flags that cmd/crid and the kubelet
// have in common.
func (s *Stack) criOptions() ([]string, error) {
	if _, err := exec.LookPath("conmon"); err != nil {
		return nil, fmt.Errorf("find conmon (make deps installs it): %w", err)
	}
	registries := filepath.Join(s.Dir, "registries.yaml")
	for path, text := range map[string]string{
		registries: fmt.Sprintf(registriesConfig, registryAddress),
		filepath.Join(s.Dir, "cni", "10-stack.conflist"): fmt.Sprintf(cniConfig, s.Dir, s.Name),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	args := []string{
		"--cni-conf-dir=" + filepath.Join(s.Dir, "cni"), "--cni-bin-dir=" + s.BinDir, "--oci-runtime=runc=" + s.Program("runc"),
		"--cdi-spec-dir=" + s.CDIDir() + ",/var/run/cdi",
	}
	if s.options.OwnMachine {
		args = append(args, "--oci-runtime="+suiteHandler+"="+s.Program("runc"))
	}
	if s.options.NoRegistry {
		return append(args, "--image-archive-dir="+s.archiveDir()), nil
	}
	return append(args, "--registry-config="+registries), nil
}

// prepareEmbedded has kubelets serve the CRI themselves.
func (s *Stack) prepareEmbedded(context.Context) (err error) {
	options, err := s.criOptions()
	if err != nil {
		return fmt.Errorf("prepare the embedded runtime: %w", err)
	}
	s.runtimeArgs = append([]string{"--container-runtime-endpoint=embedded", "--runtime-state-dir=" + filepath.Dir(s.RuntimeSocket)}, options...)
	return nil
}
