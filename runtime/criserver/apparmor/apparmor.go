// Package apparmor finds the AppArmor profile that a container is to be confined by, and loads the default one. The package of
// the same name of moby/profiles makes its profile with text/template, which makes every program with it a fifth larger: the
// linker then keeps all methods.
package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/oci"
)

// Default is the name of the default profile.
const Default = "minikubelet-default"

// Host is a machine's AppArmor.
type Host struct {
	Enabled  bool
	Loaded   string // file that lists the profiles the kernel has
	Policies string // directory of what profiles include
	Parser   string // program that loads profiles
	Confined string // the profile of this process

	mu     sync.Mutex // held while the default profile is loaded
	warned sync.Once
}

// Read finds out what this machine has.
func Read() *Host {
	h := &Host{Loaded: "/sys/kernel/security/apparmor/profiles", Policies: "/etc/apparmor.d", Parser: "apparmor_parser", Confined: "unconfined"}
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, err := os.Stat(h.Loaded)
	h.Enabled = bytes.HasPrefix(enabled, []byte("Y")) && err == nil
	if !h.Enabled {
		return h
	}
	if _, err := exec.LookPath(h.Parser); err != nil {
		h.Parser = "/sbin/apparmor_parser" // which a service's PATH may lack
	}
	current, _ := os.ReadFile("/proc/self/attr/current")
	if name, _, _ := strings.Cut(string(current), " ("); strings.TrimSpace(name) != "" {
		h.Confined = strings.TrimSpace(name)
	}
	return h
}

// Profile is the name of a loaded profile, or "" for none. As everywhere, a container that says nothing gets the default
// one if the machine has AppArmor, and a privileged one only a profile that it names.
func (h *Host) Profile(ctx context.Context, asked *runtimeapi.SecurityProfile, privileged bool) (string, error) {
	name := asked.GetLocalhostRef()
	switch kind := asked.GetProfileType(); kind {
	case runtimeapi.SecurityProfile_Unconfined:
		return "", nil
	case runtimeapi.SecurityProfile_RuntimeDefault: // which is that of nil, too
		if !h.Enabled || privileged {
			return "", nil
		}
		err := h.loadDefault(ctx)
		if err != nil && asked == nil {
			h.warned.Do(func() {
				klog.FromContext(ctx).Error(err, "Containers that ask for no AppArmor profile have none")
			})
			return "", nil
		}
		return Default, err
	case runtimeapi.SecurityProfile_Localhost:
		if !h.Enabled {
			return "", fmt.Errorf("%w: AppArmor profile %q is asked for but the machine has no AppArmor", oci.ErrInvalid, name)
		}
	default:
		return "", fmt.Errorf("%w: unknown type %d of AppArmor profile", oci.ErrInvalid, kind)
	}
	name = strings.TrimPrefix(name, "localhost/")
	loaded, err := h.isLoaded(name)
	if err == nil && !loaded {
		err = fmt.Errorf("%w: AppArmor profile %q is not loaded", oci.ErrInvalid, name)
	}
	return name, err
}

// isLoaded tells whether the kernel has a profile of that name.
func (h *Host) isLoaded(name string) (bool, error) {
	if name == "" {
		return false, fmt.Errorf("%w: an AppArmor profile without a name is asked for", oci.ErrInvalid)
	}
	file, err := os.Open(h.Loaded)
	if err != nil {
		return false, fmt.Errorf("list AppArmor profiles: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() { // as in: docker-default (enforce)
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok && strings.HasPrefix(rest, " (") {
			return true, nil
		}
	}
	return false, lines.Err()
}

// loadDefault loads the default profile unless the kernel has it. A reload of all profiles removes it, so the
// kernel is asked each time.
func (h *Host) loadDefault(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if loaded, err := h.isLoaded(Default); loaded || err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, h.Parser, "--replace", "--skip-cache")
	cmd.Stdin = strings.NewReader(h.profile())
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("load the default AppArmor profile (install the package apparmor): %w", err)
	} else if err != nil {
		return fmt.Errorf("load the default AppArmor profile: %w: %s", err, bytes.TrimSpace(out[:min(len(out), 4096)]))
	}
	klog.FromContext(ctx).Info("Loaded the default AppArmor profile", "profile", Default)
	return nil
}

// profile is the default profile: all that a container needs, no mounts, no changes of the node through /proc and /sys, and
// signals and traces among containers only.
func (h *Host) profile() string {
	var text strings.Builder
	line := func(s string) { text.WriteString(s + "\n") }
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(h.Policies, name))
		return err == nil
	}
	if has("abi/3.0") {
		line("abi <abi/3.0>,")
	}
	if has("tunables/global") {
		line("#include <tunables/global>")
	} else {
		line("@{PROC}=/proc/")
	}
	line("profile " + Default + " flags=(attach_disconnected,mediate_deleted) {")
	if has("abstractions/base") {
		line("  #include <abstractions/base>")
	}
	line("  network,\n  capability,\n  file,\n  umount,\n  deny mount,")
	for _, peer := range []string{"unconfined", "runc", "crun", h.Confined} {
		line("  signal (receive) peer=\"" + peer + "\",")
	}
	line("  signal (send, receive) peer=" + Default + ",")
	line("  ptrace (trace, tracedby, read, readby) peer=" + Default + ",")
	line(denied)
	line("}")
	return text.String()
}

// denied leaves a container's processes their own files in /proc, the settings of the pod's IPC namespace and cgroups.
const denied = `  deny @{PROC}/* w,
  deny @{PROC}/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wkl,
  deny @{PROC}/{kcore,sysrq-trigger} rwkl,
  deny @{PROC}/sys/[^k]** wkl,
  deny @{PROC}/sys/kernel/[^ms]** wkl,
  deny @{PROC}/sys/kernel/m[^s]** wkl,
  deny @{PROC}/sys/kernel/s[^eh]** wkl,
  deny @{PROC}/sys/kernel/sec** wkl,
  deny /sys/[^f]** wkl,
  deny /sys/f[^s]** wkl,
  deny /sys/fs/[^c]** wkl,
  deny /sys/fs/c[^g]** wkl,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwkl,`
