// Package vm boots virtual machines, for tests that need a kernel set up otherwise than the machine's own: with
// cgroup v2 alone, for one. They are emulated, so that no /dev/kvm is needed, and 10 to 20 times slower than the
// machine: tests in them may measure nothing.
package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// DirEnv names the directory that fetch.sh made.
const DirEnv = "E2E_VM"

// Machine is a virtual machine without disks or network: all it has is its initramfs.
type Machine struct {
	Dir       string // where fetch.sh put qemu and the kernel
	Initramfs string // file
	MemoryMB  int
	CPUs      int
	Console   string    // file that gets the kernel's messages
	Report    io.Writer // gets what the machine writes to /dev/ttyS1
	Arguments []string  // for the kernel; what it does not know is for init
}

// Run boots the machine and waits until it powers off. When ctx ends the machine does, too, and that is an error.
func (m Machine) Run(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("boot a virtual machine: qemu is fetched for amd64 only, not for %s", runtime.GOARCH)
	}
	root := filepath.Join(m.Dir, "root")
	kernel := append([]string{
		"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "oops=panic", "mitigations=off", "rdinit=/init",
	}, m.Arguments...)
	// To emulate a newer processor takes longer: programs then use wide vectors.
	cmd := exec.CommandContext(ctx, filepath.Join(root, "usr/bin/qemu-system-x86_64"),
		"-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "Nehalem", "-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprint(m.MemoryMB),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none", "-nic", "none",
		"-serial", "file:"+m.Console, "-serial", "stdio", "-L", filepath.Join(root, "usr/share/qemu"), "-L", filepath.Join(root, "usr/share/seabios"),
		"-kernel", filepath.Join(m.Dir, "vmlinuz"), "-initrd", m.Initramfs, "-append", strings.Join(kernel, " "))
	// qemu's libraries come first; those the machine has already were not fetched again.
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(root, "usr/lib/x86_64-linux-gnu")+":"+filepath.Join(root, "lib/x86_64-linux-gnu"))
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = m.Report, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	runtime.LockOSThread() // Pdeathsig is the thread's death
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run a virtual machine: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	return nil
}
