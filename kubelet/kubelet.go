// Package kubelet puts the parts together. It has no logic of its own: what happens to
// a pod is in syncloop, podworkers and runtime.
package kubelet

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"minikubelet/config"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/settings"
	"minikubelet/podworkers"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/status"
	"minikubelet/syncloop"
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
	settings *settings.Settings
	api      *apiClients
	cri      *cri.Client
	cgroups  *cgroups.Manager
	config   *config.Config
	pleg     *pleg.PLEG
	node     *node.Node
	objects  *objects.Manager
	classes  *runtimeclass.Lookup
	status   *status.Manager
	loop     *syncloop.Loop
	healthz  *server.Healthz
	upkeep   []func(context.Context) // what keeps disk and memory from filling up
}

// New makes every part and connects them; nothing runs yet. It fails on settings that do
// not fit this machine, naming the setting.
//
// Upstream: pkg/kubelet/kubelet.go NewMainKubelet.
func New(ctx context.Context, opts Options) (*Kubelet, error) {
	s := opts.Settings
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
	}
	k := &Kubelet{settings: s}
	if err := makeDirectories(s); err != nil {
		return nil, err
	}
	var err error
	if k.api, err = newAPIClients(s); err != nil {
		return nil, err
	}
	events := k.api.recorder(s.NodeName)
	if k.cri, err = cri.Dial(cri.Options{
		Endpoint: s.ContainerRuntimeEndpoint, ImageEndpoint: s.ImageServiceEndpoint,
		Timeout: s.RuntimeRequestTimeout.Duration, Registerer: opts.Registry,
	}); err != nil {
		return nil, err
	}
	if k.config, err = config.New(config.Options{
		Pods: k.api.nodePods(s.NodeName), NodeName: types.NodeName(s.NodeName),
		ManifestPath: s.StaticPodPath, FileCheckFrequency: s.FileCheckFrequency.Duration,
		ManifestURL: s.StaticPodURL, ManifestURLHeader: s.StaticPodURLHeader, HTTPCheckFrequency: s.HTTPCheckFrequency.Duration,
		Events: events,
	}); err != nil {
		return nil, err
	}
	return k, k.connect(ctx, opts, events)
}

// connect makes the parts that act on pods, from the runtime up.
func (k *Kubelet) connect(ctx context.Context, opts Options, events record.EventRecorder) error {
	s := k.settings
	var err error
	cache := pleg.NewCache()
	k.pleg = pleg.New(pleg.Options{CRI: k.cri, Cache: cache, Registerer: opts.Registry})
	pulled := make(chan struct{}, 1)
	puller := newImages(k.cri, s, events, pulled)
	if k.node, err = node.New(node.Options{
		Watch: k.api.nodeObject(s.NodeName), Nodes: k.api.nodes(), Leases: k.api.leases(), Settings: s, CRI: k.cri, Events: events,
		Images:         func(ctx context.Context) ([]corev1.ContainerImage, error) { return puller.List(ctx) },
		RuntimeHealthy: func() error { _, err := k.pleg.Healthy(); return err },
		RuntimeSynced:  k.pleg.Synced(),
	}); err != nil {
		return err
	}
	if k.cgroups, err = newCgroups(ctx, k.cri, s, k.node); err != nil {
		return err
	}
	k.classes = runtimeclass.New(k.api.runtimeClasses())
	k.status = status.New(status.Options{Pods: k.api.podClient()})
	resync := make(chan types.UID, 100)
	k.objects = objects.New(k.api.objects(func(uid types.UID) {
		select {
		case resync <- uid:
		case <-ctx.Done():
		}
	}))
	rt := newRuntime(k, s, puller, cache, events)
	prober := probes.New(probes.Options{
		Exec: rt.ExecInContainer, Observed: cache.Get, HostIPs: k.node.HostIPs, Events: events,
	})
	pods := syncloop.NewPods()
	mirror := k.mirror(pods)
	vols := volumes.New(volumes.Options{
		PodsDir: filepath.Join(s.RootDir, "pods"), Objects: k.objects, HostIPs: k.node.HostIPs, Allocatable: k.node.Allocatable,
	})
	workers := podworkers.New(podworkers.Options{
		Runtime: rt, Cache: cache, Objects: k.objects, Probes: prober, Status: k.status, Mirror: mirror, Events: events, Node: k.node,
		Volumes:     vols,
		RuntimeName: k.node.RuntimeName,
	})
	collector := newCollector(k, pulled, events)
	evictions := newEviction(k, pods, workers, rt, collector, events, opts.Registry)
	k.upkeep = []func(context.Context){collector.Run, evictions.Run}
	if rotator := newRotator(k); rotator != nil {
		k.upkeep = append(k.upkeep, rotator.Run)
	}
	var shuttingDown func() bool
	if ends := newShutdown(k, pods, workers, events, opts.Registry); ends != nil {
		k.upkeep, shuttingDown = append(k.upkeep, ends.Run), ends.ShuttingDown
	}
	k.loop = syncloop.New(syncloop.Options{
		Config: k.config, PLEG: k.pleg, Cache: cache, Probes: prober, Resync: resync, Workers: workers, Pods: pods, Status: k.status, Mirror: mirror,
		Events: events, Node: k.node, Clean: newCleaner(k, rt, vols, events), MaxPods: int(s.MaxPods),
		Pressure: evictions.Pressure, ShuttingDown: shuttingDown,
		CheckSysctls: func(pod *corev1.Pod) error { return runtime.CheckSysctls(pod, s.AllowedUnsafeSysctls) },
	})
	return k.listen()
}

// mirror keeps the API objects of static pods; nil without an apiserver.
func (k *Kubelet) mirror(pods *syncloop.Pods) *status.Mirror {
	if k.api.pods == nil {
		return nil
	}
	return status.NewMirror(status.MirrorOptions{Pods: k.api.podClient(), Node: k.node.Node, Existing: pods.MirrorOf})
}

// listen opens the kubelet's ports, so that one that is taken is found out at once.
func (k *Kubelet) listen() error {
	port := *k.settings.HealthzPort
	if port == 0 {
		return nil
	}
	var err error
	k.healthz, err = server.ListenHealthz(net.JoinHostPort(k.settings.HealthzBindAddress, strconv.Itoa(int(port))), []server.Check{
		{Name: "ping", Check: func() error { return nil }},
		{Name: "syncloop", Check: k.loop.Healthy},
	})
	return err
}

// makeDirectories makes the directories that the kubelet owns.
func makeDirectories(s *settings.Settings) error {
	for _, dir := range []string{s.RootDir, filepath.Join(s.RootDir, "pods"), s.PodLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the kubelet's directories: %w", err)
		}
	}
	return nil
}

// Run runs every part until ctx ends, and returns when all have stopped. Pods go on running.
//
// Upstream: pkg/kubelet/kubelet.go Run.
func (k *Kubelet) Run(ctx context.Context) error {
	applyOOMScoreAdj(ctx, *k.settings.OOMScoreAdj)
	k.api.startEvents(ctx)
	var parts sync.WaitGroup
	runs := []func(context.Context){k.pleg.Run, k.node.Run, k.objects.Run, k.classes.Run, k.status.Run, k.config.Run, k.loop.Run}
	runs = append(runs, k.upkeep...)
	if k.healthz != nil {
		runs = append(runs, k.healthz.Run)
	}
	for _, run := range runs {
		parts.Go(func() { run(ctx) })
	}
	klog.FromContext(ctx).Info("Kubelet runs", "version", k.settings.Version, "node", k.settings.NodeName, "standalone", k.settings.Standalone())
	parts.Wait()
	return k.cri.Close()
}
