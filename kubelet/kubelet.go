// Package kubelet puts the parts together. It has no logic of its own: what happens to
// a pod is in syncloop, podworkers and runtime.
package kubelet

import (
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/identity"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/watchdog"
)

// Options are what a kubelet is made of.
type Options struct {
	Settings *settings.Settings
	// Registry collects the kubelet's metrics; nil for a new one.
	Registry *prometheus.Registry
}

// Kubelet is a node agent, put together by New and started by Run.
//
// Upstream: pkg/kubelet/kubelet.go Kubelet.
type Kubelet struct {
	base *base
	core *core
	runs []func(context.Context) // of the core and of all parts
}

// New makes the core and the parts and connects them; nothing runs yet. It fails on settings that do not fit this
// machine, naming the setting.
//
// The order is the compiler's to check: each constructor is given what it needs, complete. What a part needs from one
// that is made later, it is given when it runs (node.Reports).
func New(ctx context.Context, opts Options) (_ *Kubelet, err error) {
	b, err := newBase(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	c, err := newCore(ctx, b)
	if err != nil {
		return nil, err
	}

	// The parts that the loop asks before it admits a pod.
	images := newImageCollector(b, c)      // part: image garbage collection, runtime/images
	evictions := newEviction(b, c, images) // part: eviction, kubelet/eviction
	shutdowns := newShutdown(b, c)         // part: graceful shutdown, kubelet/shutdown
	supervisor, err := watchdog.New()      // part: watchdog, kubelet/watchdog
	if err != nil {
		return nil, err
	}
	loop := newLoop(b, c, hooks{
		pressure: evictions.Pressure, shuttingDown: shutdowns.ShuttingDown, ping: supervisor.Pings(),
	})
	reports := node.Reports{LoopHealthy: loop.Healthy, PodsStart: c.podCgroups.why, VolumesInUse: c.csi.VolumesInUse}
	reports.Devices, reports.Recreated = c.devices.Capacity, c.devices.Recreated // part: devices, kubelet/devices

	// The parts that ask, and are not asked.
	statistics, err := newStatistics(b, c) // part: statistics, kubelet/stats
	if err != nil {
		return nil, err
	}
	rotator, err := newRotator(b) // part: log rotation, runtime/logs
	if err != nil {
		return nil, err
	}
	reloader := newReloader(b, c, evictions, images, rotator, shutdowns) // part: live settings, kubelet/live
	servers, err := newServers(ctx, b, c, loop, statistics, reloader)    // part: server, kubelet/server
	if err != nil {
		return nil, err
	}
	k := &Kubelet{base: b, core: c}
	k.run(c.podCgroups.run, c.pleg.Run, c.classes.Run, c.objects.Run, c.status.Run, c.config.Run, loop.Run, c.followNode)
	k.run(func(ctx context.Context) { c.node.Run(ctx, reports) })
	k.run(images.Run, evictions.Run, shutdowns.Run, statistics.Run)
	k.run(func(ctx context.Context) { supervisor.Run(ctx, loop.Healthy) })
	k.run(c.csi.Run, newPluginWatcher(b, c).Run) // part: plugins, kubelet/plugins
	k.run(func(ctx context.Context) { c.devices.Run(ctx, c.mayHaveDevices) })
	k.run(newPodResources(b, c).Run) // part: PodResources, kubelet/podresources
	k.run(newOOMWatcher(b, c).Run)   // part: OOM watch, kubelet/oom
	k.run(rotator.Run, reloader.Run, checkResolvConf(b, c))
	k.run(servers...)
	k.run(b.timeline.run(b, c))    // part: timeline, kubelet/timeline
	k.run(releaseMemory)           // part: memory, memory.go
	k.run(holdLease(ctx, b)...)    // part: debug hold, kubelet/hold
	k.run(openLocal(ctx, b, c)...) // part: local socket, kubelet/local
	return k, nil
}

// run adds what Run runs until the kubelet ends.
func (k *Kubelet) run(parts ...func(context.Context)) { k.runs = append(k.runs, parts...) }

// Run runs every part until ctx ends, and returns when all have stopped. Pods go on running. It also ends when the client
// certificate has expired or the embedded runtime has ended: what starts the kubelet again can help, the kubelet cannot.
func (k *Kubelet) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	b := k.base
	b.events.start(ctx, b.api.events)
	var parts sync.WaitGroup
	for _, run := range k.runs {
		parts.Go(func() { run(ctx) })
	}
	parts.Go(func() { b.api.rotate(ctx, fail) }) // part: certificates, kubelet/identity
	b.embedded.onEnd(fail)
	klog.FromContext(ctx).Info("Kubelet runs", "version", b.settings.Version, "node", b.settings.NodeName, "standalone", b.settings.Standalone())
	parts.Wait()
	// Nothing changes any more. Kubernetes' kubelet, if it is started next, reads these files instead of this one's records.
	if err := errors.Join(k.core.runtime.Allocation().WriteUpstream(), k.core.devices.WriteUpstream()); err != nil {
		klog.FromContext(ctx).Error(err, "Recording for Kubernetes' kubelet what pods have failed")
	}
	err := b.close()
	if cause := context.Cause(ctx); errors.Is(cause, identity.ErrExpired) || errors.Is(cause, errEmbeddedEnded) {
		return cause
	}
	return err
}
