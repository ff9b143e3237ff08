package kubelet

import (
	"context"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/devices"
	"minikubelet/kubelet/node"
	"minikubelet/podworkers"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/images"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
	"minikubelet/status"
	"minikubelet/syncloop"
)

// core is what is on the way of every pod, from its source to its first process and back to its status, but for the
// loop: that asks parts which stand on the rest of the core.
type core struct {
	config     *config.Config
	pleg       *pleg.PLEG
	cache      *pleg.Cache
	node       *node.Node
	cgroups    *cgroups.Manager
	podCgroups *cgroupSetup
	objects    *objects.Manager
	csi        *csi.Manager // nil without an apiserver
	devices    *devices.Manager
	classes    *runtimeclass.Lookup
	runtime    *runtime.Runtime
	images     *images.Manager
	status     *status.Manager
	volumes    *volumes.Manager
	probes     *probes.Manager
	pods       *syncloop.Pods
	mirror     *status.Mirror // nil without an apiserver
	workers    *podworkers.Workers
	pulled     <-chan struct{}  // an image was pulled; capacity 1
	resync     <-chan types.UID // pods that something changed for which is not in their objects
	followNode func(context.Context)
}

// newCore makes the core, from the runtime up.
func newCore(ctx context.Context, b *base) (*core, error) {
	s, r := b.settings, b.metrics.main
	statuses := status.New(status.Options{Pods: b.api.podClient, Registerer: r})
	cache := pleg.NewCache(b.cri)
	relist := pleg.New(pleg.Options{CRI: b.cri, Cache: cache, Registerer: r})
	pulled := make(chan struct{}, 1)
	puller, err := newImages(b, statuses, pulled)
	if err != nil {
		return nil, err
	}
	n, err := node.New(node.Options{
		Watch: b.api.nodeObject, Nodes: b.api.nodes, Leases: b.api.leases, Known: b.api.known, Settings: s, CRI: b.cri, Machine: b.machine, Events: b.events,
		Images:         puller.List,
		RuntimeHealthy: func() error { _, err := relist.Healthy(); return err },
		RuntimeSynced:  relist.Synced(),
	})
	if err != nil {
		return nil, err
	}
	sources, err := config.New(config.Options{
		Pods: b.api.nodePods, NodeSynced: n.Synced(), NodeName: types.NodeName(s.NodeName),
		ManifestPath: s.StaticPodPath, FileCheckFrequency: s.FileCheckFrequency.Duration,
		ManifestURL: s.StaticPodURL, ManifestURLHeader: s.StaticPodURLHeader, HTTPCheckFrequency: s.HTTPCheckFrequency.Duration,
		Events: b.events, Node: n.Ref,
	})
	if err != nil {
		return nil, err
	}
	groups, podCgroups, err := newCgroups(ctx, b, n)
	if err != nil {
		return nil, err
	}
	// Written by the watches of objects, read by the sync loop. When it is full, a watch waits, and holds no lock.
	resync := make(chan types.UID, 100)
	known := objects.New(b.api.objects(n, s.NodeName, b.events, func(uid types.UID) {
		select {
		case resync <- uid:
		case <-ctx.Done():
		}
	}))
	drivers := newCSI(b, n, known) // part: CSI volumes, podworkers/csi
	classes := runtimeclass.New(b.api.runtimeClasses)
	rt, err := newRuntime(ctx, b, n, puller, classes, groups, cache)
	if err != nil {
		return nil, err
	}
	assigned := newDevices(ctx, b, n, rt.Allocation(), resync) // part: devices, kubelet/devices
	vols := volumes.New(volumes.Options{
		PodsDir: filepath.Join(s.RootDir, "pods"), Objects: known, HostIPs: n.HostIPs, Allocatable: n.Allocatable,
		Node: n.Node, Claims: b.api.claims, CSI: drivers, RecursiveReadOnly: rt.RecursiveReadOnly, Events: b.events, Registerer: r,
	})
	prober := probes.New(probes.Options{
		Exec: rt.ExecInContainer, Observed: cache.Get, Starting: rt.Starting, HostIPs: n.HostIPs, Events: b.events, Registerer: b.metrics.probes,
	})
	pods := syncloop.NewPods()
	mirror := newMirror(b, n, pods)
	workers := podworkers.New(podworkers.Options{
		Runtime: rt, Cache: cache, Objects: known, Probes: prober, Status: statuses, Mirror: mirror, Events: b.events, Node: n,
		Volumes: vols, Devices: assigned, Registerer: r,
	})
	return &core{
		config: sources, pleg: relist, cache: cache, node: n, cgroups: groups, podCgroups: podCgroups, objects: known, csi: drivers, devices: assigned,
		classes: classes, runtime: rt, images: puller, status: statuses, volumes: vols, probes: prober, pods: pods, mirror: mirror, workers: workers,
		pulled: pulled, resync: resync, followNode: followNode(n, pods, resync),
	}, nil
}

// hooks are what parts tell the loop.
type hooks struct {
	pressure     func() []corev1.NodeConditionType
	shuttingDown func() bool
	ping         <-chan struct{}
}

// newLoop makes the sync loop.
func newLoop(b *base, c *core, h hooks) *syncloop.Loop {
	s, allocatable := b.settings, c.node.Allocatable()
	return syncloop.New(syncloop.Options{
		Config: c.config, PLEG: c.pleg, Probes: c.probes, Resync: c.resync, Workers: c.workers, Pods: c.pods, Status: c.status, Mirror: c.mirror,
		Events: b.events, Node: c.node, Allocation: c.runtime.Allocation(), UpdateQOS: c.cgroups.UpdateQOS, Ready: c.podCgroups.ready, MaxPods: int(allocatable.Pods().Value()),
		Registerer: b.metrics.main, Clean: newCleaner(b, c), Pressure: h.pressure, ShuttingDown: h.shuttingDown,
		CheckSysctls: func(pod *corev1.Pod) error { return spec.CheckSysctls(pod, s.AllowedUnsafeSysctls) },
		Infeasible:   c.runtime.Infeasible,
		AppArmor:     syncloop.AppArmor(),
		Ping:         h.ping,
		Allocatable:  c.devices.Allocatable, // part: devices, kubelet/devices
	})
}

// newMirror makes what keeps the API objects of static pods; nil without an apiserver.
func newMirror(b *base, n *node.Node, pods *syncloop.Pods) *status.Mirror {
	if b.api.pods == nil {
		return nil
	}
	return status.NewMirror(status.MirrorOptions{Pods: b.api.podClient, Node: n.Node, Existing: pods.MirrorOf})
}

// followNode returns what asks for another step of static pods when the node has another UID, so that their mirrors
// belong to it, and of all pods when it has other addresses, which are in their statuses.
func followNode(n *node.Node, pods *syncloop.Pods, resync chan<- types.UID) func(context.Context) {
	last, changed := n.Current() // before anything runs: registering the node changes its UID
	return func(ctx context.Context) {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			var now *corev1.Node
			now, changed = n.Current()
			moved := !slices.Equal(now.Status.Addresses, last.Status.Addresses)
			another := now.UID != last.UID
			last = now
			for _, pod := range pods.All() {
				if !moved && (!another || !podinfo.IsStatic(pod)) {
					continue
				}
				select {
				case resync <- pod.UID:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// podsWithStatus returns the pods that should run, with the newest status that is known of each. What a static pod was
// given before its first status is computed is since when its conditions held, which says nothing of its containers.
func (c *core) podsWithStatus() []*corev1.Pod {
	pods := c.pods.All()
	for i, pod := range pods {
		status, known := c.status.Get(pod.UID)
		if !known && podinfo.IsStatic(pod) {
			status, known = corev1.PodStatus{Phase: corev1.PodPending, StartTime: pod.Status.StartTime}, true
		}
		if known {
			pods[i] = &corev1.Pod{TypeMeta: pod.TypeMeta, ObjectMeta: pod.ObjectMeta, Spec: pod.Spec, Status: status}
		}
	}
	return pods
}
