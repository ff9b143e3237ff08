package kubelet

import (
	"context"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/devices"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/podresources"
	"minikubelet/podworkers"
	"minikubelet/runtime/allocation"
)

// newDevices makes what assigns devices. A record that is lost costs no more than devices that are assigned anew.
func newDevices(ctx context.Context, b *base, n *node.Node, records *allocation.Store, resync chan<- types.UID) *devices.Manager {
	m, err := devices.New(devices.Options{
		Dir: filepath.Join(b.settings.RootDir, "device-plugins"), Records: records, Changed: n.CheckStatus, Registerer: b.metrics.main,
		HealthChanged: func(uid types.UID) {
			select {
			case resync <- uid:
			case <-ctx.Done():
			}
		},
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "What is recorded of devices is not all known")
	}
	return m
}

// mayHaveDevices tells whether a pod's containers may still use devices. Until all sources have sent their pods that is so for
// every pod.
func (c *core) mayHaveDevices(uid types.UID) bool {
	phase, known := c.workers.Phase(uid)
	return known && phase < podworkers.Terminated || !c.config.AllReady()
}

// newPodResources makes what tells programs of the node of the pods' devices.
func newPodResources(b *base, c *core) *podresources.Server {
	return podresources.New(podresources.Options{
		Dir: filepath.Join(b.settings.RootDir, "pod-resources"), Devices: c.devices, Registerer: b.metrics.main,
		Active: c.activePods, Pods: c.pods.All, Known: c.config.AllReady,
	})
}
