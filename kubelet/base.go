package kubelet

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/local"
	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/tracing"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/criserver/diskusage"
)

// base is what the core and all parts stand on: the settings, the connections, and what is measured and recorded.
type base struct {
	settings *settings.Settings
	metrics  registries
	tracing  *tracing.Tracing // nil if it is not configured
	timeline *timelinePart
	machine  *measure.Machine
	disk     *diskusage.Disk // what eviction and statistics know of directories
	api      *apiClients
	events   *events
	embedded *embedded // nil with a runtime of its own process
	cri      *cri.Client
	local    *local.Local // part: local socket, kubelet/local
}

// newBase prepares the process and its directories, and connects to the apiserver and the runtime.
func newBase(ctx context.Context, opts Options) (*base, error) {
	s := opts.Settings
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
	}
	b := &base{settings: s, metrics: newRegistries(opts.Registry, s), disk: diskusage.NewDisk(ctx), events: newEvents(s.NodeName)}
	var err error
	if b.timeline, err = newTimeline(ctx, s); err != nil { // before anything is changed on the machine
		return nil, err
	}
	if err := prepareProcess(ctx, s); err != nil {
		return nil, err
	}
	if err := makeDirectories(ctx, s); err != nil {
		return nil, err
	}
	if b.machine, err = measure.Open("/"); err != nil {
		return nil, err
	}
	if fields := idleOnCgroupV1(s); len(fields) > 0 && !b.machine.Unified() {
		klog.FromContext(ctx).Info("Settings have no effect on a machine with cgroup v1", "fields", fields)
	}
	if b.tracing, err = tracing.New(ctx, s.Tracing, s.NodeName, b.timeline.watcher); err != nil {
		return nil, err
	}
	if b.api, err = newAPIClients(ctx, s, opts.Registry, b.tracing); err != nil {
		return nil, err
	}
	if err := shareMounts(ctx, s.RootDir); err != nil { // a mount that stays: not before wrong files are found
		return nil, fmt.Errorf("share the mounts below --root-dir: %w", err)
	}
	b.local = newLocal(b) // part: local socket, kubelet/local
	if s.IsEmbedded() {
		if b.embedded, err = startEmbedded(ctx, s.Embedded, s.RuntimeSocket()); err != nil {
			return nil, err
		}
	}
	b.cri, err = cri.Dial(cri.Options{
		Endpoint: s.RuntimeSocket(), ImageEndpoint: s.ImageServiceEndpoint,
		Timeout: s.RuntimeRequestTimeout.Duration, Registerer: opts.Registry, Calls: append(b.tracing.Calls(), b.timeline.calls...), First: b.timeline.first,
	})
	if err != nil {
		return nil, errors.Join(err, b.embedded.stop())
	}
	return b, nil
}

// close ends the connections, after everything that uses them.
func (b *base) close() error {
	b.tracing.Stop()
	return errors.Join(b.cri.Close(), b.embedded.stop())
}
