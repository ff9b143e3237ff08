package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/pleg"
)

// newImages makes the puller of images from the settings.
func newImages(k *Kubelet, events record.EventRecorder) *images.Manager {
	s := k.settings
	parallel := 0
	if s.MaxParallelImagePulls != nil {
		parallel = int(*s.MaxParallelImagePulls)
	}
	return images.New(images.Options{
		CRI: k.cri, Events: events, Serialize: *s.SerializeImagePulls, MaxParallel: parallel,
		QPS: float32(*s.RegistryPullQPS), Burst: int(s.RegistryBurst),
		Registerer: k.metrics.main, Pulled: k.status.Pulled, RecordsDir: filepath.Join(s.RootDir, "image_manager"),
	})
}

// newCgroups makes the cgroups above those of pods.
func newCgroups(ctx context.Context, k *Kubelet) (*cgroups.Manager, error) {
	s := k.settings
	enforce := s.EnforceNodeAllocatable
	if slices.Contains(enforce, "none") {
		enforce = nil
	}
	m, err := cgroups.New(cgroups.Options{
		Driver: cgroupDriver(ctx, k.cri, s), Root: s.CgroupRoot, PerQOS: *s.CgroupsPerQOS,
		Capacity: k.node.Capacity(), Allocatable: k.node.Allocatable(), EnforceAllocatable: enforce,
		PodPidsLimit: *s.PodPidsLimit, CPUCFSQuota: *s.CPUCFSQuota, CPUCFSQuotaPeriod: s.CPUCFSQuotaPeriod.Duration, Registerer: k.metrics.main,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare cgroups: %w", err)
	}
	if err := m.Setup(); err != nil {
		return nil, fmt.Errorf("make the pods' cgroups (cgroupRoot %q): %w", s.CgroupRoot, err)
	}
	return m, nil
}

// cgroupDriver is the runtime's, if it tells: two that differ would put a pod's processes where nobody looks.
//
// Upstream: cmd/kubelet/app/server.go getCgroupDriverFromCRI.
func cgroupDriver(ctx context.Context, c *cri.Client, s *settings.Settings) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := c.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil || answer.GetLinux() == nil {
		klog.FromContext(ctx).V(2).Info("The runtime does not tell its cgroup driver, the setting counts", "cgroupDriver", s.CgroupDriver, "err", err)
		return s.CgroupDriver
	}
	driver := "systemd"
	if answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_CGROUPFS {
		driver = "cgroupfs"
	}
	if driver != s.CgroupDriver {
		klog.FromContext(ctx).Info("The runtime uses another cgroup driver than the settings, the runtime's counts", "runtime", driver, "setting", s.CgroupDriver)
	}
	return driver
}

// newRuntime makes what turns pods into CRI calls.
func newRuntime(k *Kubelet, puller *images.Manager, cache *pleg.Cache, events record.EventRecorder) *runtime.Runtime {
	s := k.settings
	o := runtime.Options{
		CRI: k.cri, Images: puller, Classes: k.classes, Cgroups: k.cgroups, Events: events, Cache: cache,
		RootDir: s.RootDir, PodLogsDir: s.PodLogsDir, NodeName: s.NodeName,
		ClusterDNS: s.ClusterDNS, ClusterDomain: s.ClusterDomain, ResolvConf: *s.ResolverConfig,
		SeccompDefault: *s.SeccompDefault, AllowedUnsafeSysctls: s.AllowedUnsafeSysctls,
		CPUCFSQuota: *s.CPUCFSQuota, CPUCFSQuotaPeriod: s.CPUCFSQuotaPeriod.Duration,
		SingleProcessOOMKill: s.SingleProcessOOMKill, Registerer: k.metrics.main,
	}
	if p := s.CrashLoopBackOff.MaxContainerRestartPeriod; p != nil {
		o.CrashLoopMax = p.Duration
	}
	return runtime.New(o)
}
