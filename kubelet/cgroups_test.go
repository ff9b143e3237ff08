package kubelet

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/e2e/crifake"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cgroups"
)

// full are cgroups whose pods use more than they may, for as many attempts to limit them.
type full struct{ attempts int }

func (f *full) SetDriver(string) error { return nil }

func (f *full) Setup() error {
	if err := f.LimitPods(); err != nil {
		return fmt.Errorf("%w: %w", cgroups.ErrLimitPods, err)
	}
	return nil
}

func (f *full) LimitPods() error {
	if f.attempts--; f.attempts >= 0 {
		return errors.New("device or resource busy")
	}
	return nil
}

// TestNodeAllocatableEvents: events tell which limits are in force. Pods that use more than they may are no reason not to run; they
// are limited when they use less.
func TestNodeAllocatableEvents(t *testing.T) {
	const enforced, failed = "Normal NodeAllocatableEnforced Updated ", "Warning FailedNodeAllocatableEnforcement Failed to update Node Allocatable Limits: "
	for name, tt := range map[string]struct {
		attempts int
		perQOS   bool
		reserved []cgroups.Reservation
		want     []string
	}{
		"at once":         {perQOS: true, want: []string{enforced + "Node Allocatable limit across pods"}},
		"no pods' cgroup": {},
		"later":           {attempts: 2, perQOS: true, want: []string{failed + "limit all pods together: device or resource busy", failed + "device or resource busy", enforced + "Node Allocatable limit across pods"}},
		"reservations": {
			reserved: []cgroups.Reservation{{Field: "systemReservedCgroup", Cgroup: "/sys"}, {Field: "kubeReservedCgroup", Cgroup: "/kube"}},
			want:     []string{enforced + "limits on system reserved cgroup /sys", enforced + "limits on kube reserved cgroup /kube"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []string
				c := &cgroupSetup{
					cri: crifake.New().Direct(), settings: &settings.Settings{KubeletConfiguration: kubeletconfig.KubeletConfiguration{CgroupsPerQOS: &tt.perQOS}},
					groups: &full{attempts: tt.attempts}, reservations: tt.reserved, ready: make(chan struct{}),
					tell: func(kind, reason, message string) { told = append(told, kind+" "+reason+" "+message) },
				}
				if err := c.try(t.Context()); err != nil {
					t.Fatal(err)
				}
				<-c.ready
				start := time.Now()
				c.run(t.Context())
				if took := time.Since(start); took != time.Duration(tt.attempts)*limitPeriod {
					t.Errorf("it took %v", took)
				}
				if !slices.Equal(told, tt.want) {
					t.Errorf("told %q\nwant %q", told, tt.want)
				}
			})
		})
	}
}
