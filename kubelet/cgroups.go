package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/kubelet/node"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
)

const (
	driverTimeout = 2 * time.Second // of one question for the driver
	driverPeriod  = time.Second     // between two
	limitPeriod   = time.Minute     // between two attempts to limit the pods
)

const (
	eventEnforced    = "NodeAllocatableEnforced"
	eventNotEnforced = "FailedNodeAllocatableEnforcement"
)

// podGroups are the cgroups above those of pods.
type podGroups interface {
	SetDriver(driver string) error
	Setup() error
	LimitPods() error
}

// cgroupSetup makes the cgroups of all pods as soon as the runtime has told its cgroup driver. The driver is not guessed: another one than
// the runtime's would put a pod's processes where the kubelet does not look. Until then no pod starts, and the node is not ready.
type cgroupSetup struct {
	cri          *cri.Client
	settings     *settings.Settings
	groups       podGroups
	reservations []cgroups.Reservation
	tell         func(kind, reason, message string) // an event of the node
	ready        chan struct{}                      // closed when pods can have cgroups
	unlimited    error                              // why the pods are not limited; of make, then of run

	mu  sync.Mutex
	err error // why they cannot
}

// newCgroups makes the cgroups above those of pods, now or, where the runtime does not answer yet, when it does. It fails on settings that
// do not fit this machine if the runtime answers at once.
func newCgroups(ctx context.Context, b *base, n *node.Node) (*cgroups.Manager, *cgroupSetup, error) {
	s := b.settings
	reservations, err := reservations(s)
	if err != nil {
		return nil, nil, err
	}
	capacity, unreserved := n.Enforceable()
	m, err := cgroups.New(cgroups.Options{
		Driver: cgroups.DriverLater, Root: s.CgroupRoot, PerQOS: *s.CgroupsPerQOS,
		Capacity: capacity, Allocatable: unreserved, LimitPods: slices.Contains(s.EnforceNodeAllocatable, "pods"), Reservations: reservations,
		PodPidsLimit: *s.PodPidsLimit, CPUCFSQuota: *s.CPUCFSQuota, CPUCFSQuotaPeriod: s.CPUCFSQuotaPeriod.Duration, Registerer: b.metrics.main,
		ReserveMemory: s.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("prepare cgroups: %w", err)
	}
	setup := &cgroupSetup{
		cri: b.cri, settings: s, groups: m, reservations: reservations, ready: make(chan struct{}),
		tell: func(kind, reason, message string) { b.events.Event(n.Ref(), kind, reason, message) },
	}
	if err := setup.try(ctx); err != nil && !errors.Is(err, errDriverUnknown) {
		return nil, nil, err
	}
	return m, setup, nil
}

// run tries until it succeeds, or ctx ends, and tells of the limits.
func (c *cgroupSetup) run(ctx context.Context) {
	tick := time.NewTicker(driverPeriod)
	defer tick.Stop()
	for c.why() != nil {
		select {
		case <-tick.C:
			_ = c.try(ctx) // it is logged, and in the node's status
		case <-ctx.Done():
			return
		}
	}
	for _, r := range c.reservations {
		c.tell(corev1.EventTypeNormal, eventEnforced, fmt.Sprintf("Updated limits on %s reserved cgroup %s", strings.TrimSuffix(r.Field, "ReservedCgroup"), r.Cgroup))
	}
	if *c.settings.CgroupsPerQOS {
		c.limitPods(ctx)
	}
}

// limitPods tries until the pods are limited: while they use more than they may, evictions have to make room first.
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go enforceNodeAllocatableCgroups.
func (c *cgroupSetup) limitPods(ctx context.Context) {
	for ; c.unlimited != nil; c.unlimited = c.groups.LimitPods() {
		klog.FromContext(ctx).Error(c.unlimited, "The pods are not limited together, will be retried", "after", limitPeriod)
		c.tell(corev1.EventTypeWarning, eventNotEnforced, fmt.Sprintf("Failed to update Node Allocatable Limits: %v", c.unlimited))
		select {
		case <-time.After(limitPeriod):
		case <-ctx.Done():
			return
		}
	}
	c.tell(corev1.EventTypeNormal, eventEnforced, "Updated Node Allocatable limit across pods")
}

// why is what keeps pods from having cgroups; nil for nothing.
func (c *cgroupSetup) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *cgroupSetup) try(ctx context.Context) error {
	err := c.make(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		close(c.ready)
	case c.err == nil || c.err.Error() != err.Error():
		klog.FromContext(ctx).Error(err, "No pod is started until its cgroup can be made, will be retried")
	}
	c.err = err
	return err
}

func (c *cgroupSetup) make(ctx context.Context) error {
	driver, err := cgroupDriver(ctx, c.cri, c.settings)
	if err != nil {
		return err
	}
	if err := c.groups.SetDriver(driver); err != nil {
		return fmt.Errorf("prepare cgroups: %w", err)
	}
	switch err := c.groups.Setup(); {
	case errors.Is(err, cgroups.ErrLimitPods):
		c.unlimited = err
	case err != nil:
		return fmt.Errorf("make the pods' cgroups (cgroupRoot %q) and limit those of reservations: %w", c.settings.CgroupRoot, err)
	}
	return nil
}

var errDriverUnknown = errors.New("the container runtime has not told its cgroup driver")

// cgroupDriver is the runtime's. The setting counts for a runtime that does not know the question, or has no answer for Linux.
//
// Upstream: cmd/kubelet/app/server.go getCgroupDriverFromCRI.
func cgroupDriver(ctx context.Context, c *cri.Client, s *settings.Settings) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	logger := klog.FromContext(ctx)
	answer, err := c.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil && !cri.IsUnimplemented(err) {
		return "", fmt.Errorf("%w: %w", errDriverUnknown, err)
	}
	if err != nil || answer.GetLinux() == nil {
		logger.Info("The runtime does not tell its cgroup driver, the setting counts", "cgroupDriver", s.CgroupDriver, "err", err)
		return s.CgroupDriver, nil
	}
	driver := cgroups.DriverSystemd
	if answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_CGROUPFS {
		driver = cgroups.DriverCgroupfs
	}
	if driver != s.CgroupDriver {
		logger.Info("The runtime uses another cgroup driver than the settings, the runtime's counts", "runtime", driver, "setting", s.CgroupDriver)
	}
	return driver, nil
}

// reservations are the cgroups that enforceNodeAllocatable names besides that of the pods.
func reservations(s *settings.Settings) (list []cgroups.Reservation, err error) {
	for _, what := range s.EnforceNodeAllocatable {
		which, compressible := strings.CutSuffix(what, settings.Compressible)
		r := cgroups.Reservation{CPUOnly: compressible}
		var amounts map[string]string
		switch which {
		case settings.KubeReserved:
			r.Field, r.Cgroup, amounts = "kubeReservedCgroup", s.KubeReservedCgroup, s.KubeReserved
		case settings.SystemReserved:
			r.Field, r.Cgroup, amounts = "systemReservedCgroup", s.SystemReservedCgroup, s.SystemReserved
		default:
			continue
		}
		r.Resources = corev1.ResourceList{}
		for name, text := range amounts {
			if r.Resources[corev1.ResourceName(name)], err = resource.ParseQuantity(text); err != nil {
				return nil, fmt.Errorf("%s[%s]: %w", which, name, err)
			}
		}
		list = append(list, r)
	}
	return list, nil
}
