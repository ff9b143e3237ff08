package vm

import (
	"bytes"
	"context"
	_ "embed"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"minikubelet/e2e/stack"
)

//go:embed guest/systemd.sh
var systemdScript []byte

// testsUnit runs the tests as a service would run, and ends the machine.
const testsUnit = `[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PATH=/bin HOME=/root CGROUP_DRIVER=systemd
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 -onlcr; echo "=== PROGRAM cgroups.test"; /tests/cgroups.test -test.v -test.run=SystemdOnThisMachine; echo "=== END $?"; sync; poweroff -f'
`

// TestSystemdDriver runs the tests of the systemd cgroup driver where systemd is the first process.
func TestSystemdDriver(t *testing.T) {
	bin, dir := os.Getenv(stack.BinEnv), os.Getenv(DirEnv)
	requireMachine(t, bin, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	files, err := stack.BusyboxFiles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	test := filepath.Join(work, "cgroups.test")
	command(ctx, t, "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", test, "minikubelet/runtime/cgroups")
	for path, from := range map[string]string{"/tests/cgroups.test": test, "/lib/systemd/systemd": filepath.Join(dir, "root/lib/systemd/systemd")} {
		of, err := Program(path, from, filepath.Join(dir, "root"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, of...)
	}
	files = append(files, stack.File{Path: "/init", Data: systemdScript, Mode: 0o755},
		stack.File{Path: "/etc/systemd/system/tests.service", Data: []byte(testsUnit), Mode: 0o644},
		stack.File{Path: "/etc/machine-id", Data: []byte("0123456789abcdef0123456789abcdef\n"), Mode: 0o644})
	initramfs, console := filepath.Join(work, "initramfs"), filepath.Join(work, "console")
	if err := WriteInitramfs(initramfs, files); err != nil {
		t.Fatal(err)
	}
	var report bytes.Buffer
	err = Machine{
		Dir: dir, Initramfs: initramfs, MemoryMB: 768, CPUs: 1, Console: console, Report: io.MultiWriter(&report, &lines{start: time.Now(), to: t.Output()}),
	}.Run(ctx)
	if err != nil {
		t.Error(err)
	}
	results(t, report.String())
	if t.Failed() {
		text, _ := os.ReadFile(console)
		t.Logf("the kernel's messages:\n%s", text)
	}
}
