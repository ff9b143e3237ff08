package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"minikubelet/e2e/stack"
)

// runNode runs the node suite, which starts etcd, an apiserver and the kubelet itself, with flags and a configuration of
// its own, on the machine that it runs on. The stack gives it one.
func runNode(ctx context.Context, f flags) (err error) {
	program := filepath.Join(f.suite, "e2e_node.test")
	specs, err := listSpecs(ctx, program, f.choice()...)
	if err != nil {
		return err
	}
	p, err := planRun(specs, f.subset, f.knownLists()...)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "starting a machine for %d specs\n", len(p.names))
	s, err := stack.Start(ctx, stack.Options{BinDir: f.bin, Runtime: f.runtime, NoControlPlane: true, OwnMachine: true, KeepDir: f.keep})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if f.keep {
		fmt.Println("logs and report:", s.Dir)
	}
	if err := pushImages(ctx, s, f.suite, filepath.Base(program)); err != nil {
		return err
	}
	// Upstream's kubelet asks containerd itself for statistics, and looks for it here.
	if _, err := s.Exec(ctx, "sh", "-c", "mkdir -p /run/containerd && ln -sf "+s.RuntimeSocket+" /run/containerd/containerd.sock"); err != nil {
		return err
	}
	t, err := nodeSuite(s, f, program)
	if err != nil {
		return err
	}
	results, err := t.run(ctx, s, f, p)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.Dir, "log", "kubelet.log"))
		return fmt.Errorf("%w; the kubelet's log ends:\n%s", err, log[max(0, len(log)-4000):])
	}
	results.print(os.Stdout, f.kubelet, p.known)
	return errors.Join(results.verdict(p.known), p.missing(results))
}

// nodeSuite prepares what the suite looks for around it: the kubelet, a configuration, the programs of the machine.
func nodeSuite(s *stack.Stack, f flags, program string) (suite, error) {
	dir := filepath.Join(s.Dir, "node")
	t := suite{program: filepath.Join(dir, filepath.Base(program))} // it writes beside itself, and looks there for the kubelet
	kubelet := s.KubeletBinary
	if f.kubelet == "upstream" {
		kubelet = s.Program("kubelet")
	}
	tools := filepath.Join(dir, "tools")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(kubelet, filepath.Join(dir, "kubelet")), os.Symlink(program, t.program), linkTools(tools)); err != nil {
		return t, err
	}
	config, validation := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "system.yaml")
	if err := writeYAML(config, nodeConfig(s)); err != nil {
		return t, err
	}
	// What the kernel must have been built with is not the question here.
	if err := writeYAML(validation, map[string]any{"os": "Linux"}); err != nil {
		return t, err
	}
	t.command = []string{"env", "PATH=" + tools}
	t.args = []string{
		"--kubelet-config-file=" + config, "--system-spec-file=" + validation, "--node-name=" + s.NodeName,
		"--container-runtime-endpoint=unix://" + s.RuntimeSocket, "--report-dir=" + filepath.Join(s.Dir, "log"), "--prepull-images=false",
	}
	return t, nil
}

// nodeConfig is what the suite's own configuration is laid over. It is the suite's default, but for what this machine may
// lack: version 2 of cgroups, an empty disk, no swap.
func nodeConfig(s *stack.Stack) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"cgroupDriver": "cgroupfs", "cgroupRoot": "/", "failCgroupV1": false, "failSwapOn": false,
		"volumeStatsAggPeriod": "10s", "fileCheckFrequency": "10s", "evictionPressureTransitionPeriod": "30s",
		"serializeImagePulls": false, "podCIDR": "10.100.0.0/24", "resolvConf": filepath.Join(s.Dir, "resolv.conf"),
		"evictionHard":                map[string]string{"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100,
	}
}

func writeYAML(path string, value any) error {
	data, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// standIn is systemd-run and systemctl, by which name it is called: the suite has systemd start the kubelet, and start it
// again where a spec asks for that. The machine's own would start it outside of the stack.
//
//go:embed systemd.sh
var standIn []byte

// linkTools makes a directory with the machine's programs, but for systemd's, and what stands in for those. What stands in
// for sudo runs its arguments.
func linkTools(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for path := range strings.SplitSeq(os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin", ":") {
		entries, err := os.ReadDir(path)
		if err != nil {
			continue // a PATH may name what is not there
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "systemd-") || e.Name() == "systemctl" || e.Name() == "journalctl" || e.Name() == "sudo" {
				continue
			}
			if err := os.Symlink(filepath.Join(path, e.Name()), filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "systemd-run"), standIn, 0o755), os.WriteFile(filepath.Join(dir, "systemctl"), standIn, 0o755),
		os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755))
}
