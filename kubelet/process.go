package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/kubelet/settings"
)

// prepareProcess sets what the settings say of the kubelet's own process and of the kernel. It fails only for a kernel setting that
// protectKernelDefaults wants to be right.
//
// Upstream: cmd/kubelet/app/server.go marshalKubeletConfigForLog, for the log of the settings.
func prepareProcess(ctx context.Context, s *settings.Settings) error {
	if user := os.Geteuid(); user != 0 {
		return fmt.Errorf("running pods needs root, and this is user %d", user)
	}
	for _, warning := range s.Warnings {
		klog.FromContext(ctx).Info("A setting is not what its name promises", "warning", warning)
	}
	if log := klog.FromContext(ctx).V(2); log.Enabled() {
		log.Info("Effective KubeletConfiguration", "config", s.YAML())
	}
	applyOOMScoreAdj(ctx, *s.OOMScoreAdj)
	applyMaxOpenFiles(ctx, uint64(s.MaxOpenFiles))
	return applyKernelSettings(ctx, "/proc/sys", s.ProtectKernelDefaults)
}

// idleOnCgroupV1 are the settings that are given and have no effect on a machine with cgroup v1.
func idleOnCgroupV1(s *settings.Settings) (fields []string) {
	for field, given := range map[string]bool{
		"memorySwap.swapBehavior": s.MemorySwap.SwapBehavior == settings.LimitedSwap,
		"memoryThrottlingFactor":  s.MemoryThrottlingFactor != nil,
		"memoryReservationPolicy": s.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy,
		"singleProcessOOMKill":    s.SingleProcessOOMKill != nil && !*s.SingleProcessOOMKill,
	} {
		if given {
			fields = append(fields, field)
		}
	}
	slices.Sort(fields)
	return fields
}

// applyOOMScoreAdj tells the kernel how ready it should be to kill the kubelet when memory runs out. Without the
// capability to lower the score the kubelet runs with the one it has.
//
// Upstream: pkg/util/oom/oom_linux.go applyOOMScoreAdj.
func applyOOMScoreAdj(ctx context.Context, score int32) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(score))), 0o644); err != nil {
		klog.FromContext(ctx).Info("Setting the kubelet's OOM score failed, it keeps the one it has", "oomScoreAdj", score, "err", err)
	}
}

// applyMaxOpenFiles sets how many files the kubelet may have open. Without the capability to raise the hard limit the kubelet has as many
// as that allows.
func applyMaxOpenFiles(ctx context.Context, files uint64) {
	wanted := unix.Rlimit{Cur: files, Max: files}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &wanted)
	if err == nil {
		return
	}
	var has unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &has) == nil && has.Max < files {
		wanted = unix.Rlimit{Cur: has.Max, Max: has.Max}
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &wanted)
	}
	klog.FromContext(ctx).Info("Setting the limit of open files failed, the hard limit holds", "maxOpenFiles", files, "hardLimit", has.Max, "err", err)
}

// kernelSettings are those that Kubernetes relies on: memory may be overcommitted, a container that runs out of memory ends and
// not the machine, a kernel that has panicked boots again, and root has keys for the containers of all pods.
var kernelSettings = []struct {
	file  string
	value string
}{
	{"vm/overcommit_memory", "1"},
	{"vm/panic_on_oom", "0"},
	{"kernel/panic", "10"},
	{"kernel/panic_on_oops", "1"},
	{"kernel/keys/root_maxkeys", "1000000"},
	{"kernel/keys/root_maxbytes", "25000000"},
}

// applyKernelSettings sets kernelSettings below dir, or, if protect is set, checks them and fails naming all that differ. One that cannot be
// read or set, as in a container, is logged.
func applyKernelSettings(ctx context.Context, dir string, protect bool) error {
	logger := klog.FromContext(ctx)
	var differ []string
	for _, k := range kernelSettings {
		path := filepath.Join(dir, k.file)
		data, err := os.ReadFile(path)
		has := strings.TrimSpace(string(data))
		switch {
		case err == nil && has == k.value:
			continue
		case protect && err != nil:
			differ = append(differ, err.Error())
			continue
		case protect:
			differ = append(differ, fmt.Sprintf("invalid kernel flag: %s, expected value: %s, actual value: %s", k.file, k.value, has))
			continue
		case err == nil:
			err = os.WriteFile(path, []byte(k.value), 0o644)
		}
		if err != nil {
			logger.Info("A kernel setting cannot be set, the kernel's holds", "setting", k.file, "wanted", k.value, "err", err)
			continue
		}
		logger.V(2).Info("Updated a kernel setting", "setting", k.file, "value", k.value, "before", has)
	}
	if len(differ) > 0 {
		return fmt.Errorf("protectKernelDefaults: %s", strings.Join(differ, "; "))
	}
	return nil
}
