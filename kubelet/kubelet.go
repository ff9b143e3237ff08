// Package kubelet puts the parts together. It has no logic of its own: what happens to
// a pod is in syncloop, podworkers and runtime.
package kubelet

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/config"
	"minikubelet/kubelet/identity"
	"minikubelet/kubelet/metrics"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/stats"
	"minikubelet/kubelet/tracing"
	"minikubelet/kubelet/watchdog"
	"minikubelet/podworkers"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/criserver/measure"
	"minikubelet/runtime/pleg"
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
	events   *events
	cri      *cri.Client
	embedded *embedded // nil with a runtime of its own process
	cgroups  *cgroups.Manager
	setup    *cgroupSetup
	config   *config.Config
	pleg     *pleg.PLEG
	node     *node.Node
	objects  *objects.Manager
	status   *status.Manager
	csi      *csi.Manager // nil without an apiserver
	loop     *syncloop.Loop
	watchdog *watchdog.Watchdog
	stats    *stats.Provider
	tracing  *tracing.Tracing // nil if it is not configured
	disk     *measure.Disk    // what eviction and statistics know of directories
	metrics  registries
	runs     []func(context.Context) // of all parts
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
	k := &Kubelet{settings: s, metrics: registries{opts.Registry, prometheus.NewRegistry(), prometheus.NewRegistry()}}
	if err := prepareProcess(ctx, s); err != nil {
		return nil, err
	}
	k.disk = measure.NewDisk(ctx)
	if err := makeDirectories(ctx, s); err != nil {
		return nil, err
	}
	var err error
	if k.watchdog, err = watchdog.New(); err != nil {
		return nil, err
	}
	if k.tracing, err = tracing.New(ctx, s.Tracing, s.NodeName); err != nil {
		return nil, err
	}
	if k.api, err = newAPIClients(ctx, s, opts.Registry, k.tracing); err != nil {
		return nil, err
	}
	k.events = newEvents(s.NodeName)
	if s.IsEmbedded() {
		if k.embedded, err = startEmbedded(ctx, s.Embedded, s.RuntimeSocket()); err != nil {
			return nil, err
		}
	}
	if k.cri, err = cri.Dial(cri.Options{
		Endpoint: s.RuntimeSocket(), ImageEndpoint: s.ImageServiceEndpoint,
		Timeout: s.RuntimeRequestTimeout.Duration, Registerer: opts.Registry, Calls: k.tracing.Calls(),
	}); err != nil {
		return nil, errors.Join(err, k.embedded.stop())
	}
	if k.config, err = config.New(config.Options{
		Pods: k.api.nodePods(s.NodeName), NodeName: types.NodeName(s.NodeName),
		ManifestPath: s.StaticPodPath, FileCheckFrequency: s.FileCheckFrequency.Duration,
		ManifestURL: s.StaticPodURL, ManifestURLHeader: s.StaticPodURLHeader, HTTPCheckFrequency: s.HTTPCheckFrequency.Duration,
		Events: k.events,
	}); err == nil {
		err = k.connect(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, k.cri.Close(), k.embedded.stop())
	}
	return k, nil
}

// connect makes the parts that act on pods, from the runtime up.
func (k *Kubelet) connect(ctx context.Context) error {
	s, r, events := k.settings, k.metrics.main, k.events
	cache := pleg.NewCache(k.cri)
	k.pleg = pleg.New(pleg.Options{CRI: k.cri, Cache: cache, Registerer: r})
	pulled := make(chan struct{}, 1)
	puller, err := newImages(k, events, pulled)
	if err != nil {
		return err
	}
	if k.node, err = node.New(node.Options{
		Watch: k.api.nodeObject(s.NodeName), Nodes: k.api.nodes(), Leases: k.api.leases(), Known: k.api.known(), Settings: s, CRI: k.cri, Events: events,
		Images:         func(ctx context.Context) ([]corev1.ContainerImage, error) { return puller.List(ctx) },
		RuntimeHealthy: func() error { _, err := k.pleg.Healthy(); return err },
		RuntimeSynced:  k.pleg.Synced(), Registerer: r,
		LoopHealthy:  func() error { return k.loop.Healthy() },
		PodsStart:    func() error { return k.setup.why() },
		VolumesInUse: k.volumesInUse,
	}); err != nil {
		return err
	}
	if k.cgroups, k.setup, err = newCgroups(ctx, k); err != nil {
		return err
	}
	// Written by the watches of objects, read by the sync loop. When it is full, a watch waits, and holds no lock.
	resync := make(chan types.UID, 100)
	k.objects = objects.New(k.api.objects(k.node, s.NodeName, events, func(uid types.UID) {
		select {
		case resync <- uid:
		case <-ctx.Done():
		}
	}))
	k.connectPlugins()
	rt, err := newRuntime(ctx, k, puller, cache, events)
	if err != nil {
		return err
	}
	k.status = status.New(status.Options{Pods: k.api.podClient(), Registerer: r})
	vols := volumes.New(volumes.Options{
		PodsDir: filepath.Join(s.RootDir, "pods"), Objects: k.objects, HostIPs: k.node.HostIPs, Allocatable: k.node.Allocatable,
		Node: k.node.Node, Claims: k.api.claims(), CSI: k.csi, RecursiveReadOnly: rt.RecursiveReadOnly, Events: events, Registerer: r,
	})
	prober := probes.New(probes.Options{
		Exec: rt.ExecInContainer, Observed: cache.Get, HostIPs: k.node.HostIPs, Events: events, Registerer: k.metrics.probes,
	})
	pods := syncloop.NewPods()
	mirror := k.mirror(pods)
	workers := podworkers.New(podworkers.Options{
		Runtime: rt, Cache: cache, Objects: k.objects, Probes: prober, Status: k.status, Mirror: mirror, Events: events, Node: k.node,
		Volumes: vols, Registerer: r, RuntimeName: k.node.RuntimeName,
	})
	collector := newCollector(k, pulled, events)
	evictions := newEviction(k, pods, workers, rt, collector, events, r)
	k.runs = append(k.runs, collector.Run, evictions.Run)
	if rotator := newRotator(k); rotator != nil {
		k.runs = append(k.runs, rotator.Run)
	}
	var shuttingDown func() bool
	if ends := newShutdown(k, pods, workers, events, r); ends != nil {
		k.runs, shuttingDown = append(k.runs, ends.Run), ends.ShuttingDown
	}
	k.loop = syncloop.New(syncloop.Options{
		Config: k.config, PLEG: k.pleg, Cache: cache, Probes: prober, Resync: resync, Workers: workers, Pods: pods, Status: k.status, Mirror: mirror,
		Events: events, Node: k.node, Allocation: rt.Allocation, UpdateQOS: k.cgroups.UpdateQOS, Ready: k.setup.ready, MaxPods: int(s.MaxPods), Registerer: r,
		Clean: newCleaner(k, rt, vols, events), Pressure: evictions.Pressure, ShuttingDown: shuttingDown,
		CheckSysctls: func(pod *corev1.Pod) error { return runtime.CheckSysctls(pod, s.AllowedUnsafeSysctls) },
		AppArmor:     syncloop.AppArmor(),
		Ping:         k.watchdog.Pings(),
	})
	k.runs = append(k.runs, k.setup.run, k.pleg.Run, k.node.Run, k.objects.Run, k.status.Run, k.config.Run, k.loop.Run, k.followNode(resync),
		func(ctx context.Context) { k.watchdog.Run(ctx, k.loop.Healthy) })
	if err := k.measure(); err != nil {
		return err
	}
	return k.listen(ctx, cache)
}

// mirror keeps the API objects of static pods; nil without an apiserver.
func (k *Kubelet) mirror(pods *syncloop.Pods) *status.Mirror {
	if k.api.pods == nil {
		return nil
	}
	return status.NewMirror(status.MirrorOptions{Pods: k.api.podClient(), Node: k.node.Node, Existing: pods.MirrorOf})
}

// followNode has static pods looked at when the node is another one than before, so that their mirrors belong to it, and
// all pods when it has other addresses, which are in their statuses.
func (k *Kubelet) followNode(resync chan<- types.UID) func(context.Context) {
	last, changed := k.node.Current() // before anything runs: a node that registers is another one
	return func(ctx context.Context) {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			var now *corev1.Node
			now, changed = k.node.Current()
			moved := !slices.Equal(now.Status.Addresses, last.Status.Addresses)
			another := now.UID != last.UID
			last = now
			for _, pod := range k.loop.Pods.All() {
				if !moved && (!another || !config.IsStatic(pod)) {
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

// listen opens the kubelet's ports, so that one that is taken is found out at once.
func (k *Kubelet) listen(ctx context.Context, cache *pleg.Cache) error {
	slis := metrics.NewSLIs(k.metrics.slis)
	syncLoop := server.Check{Name: "syncloop", Check: k.loop.Healthy}
	if port := *k.settings.HealthzPort; port != 0 {
		checks := []server.Check{{Name: "ping", Check: func() error { return nil }}, syncLoop}
		healthz, err := server.ListenHealthz(net.JoinHostPort(k.settings.HealthzBindAddress, strconv.Itoa(int(port))), server.Observed(checks, slis.Observe))
		if err != nil {
			return err
		}
		k.runs = append(k.runs, healthz.Run)
	}
	if !*k.settings.EnableServer {
		return nil
	}
	certificate, err := k.servingCertificate(ctx)
	if err != nil {
		return err
	}
	https, err := server.Listen(server.Options{
		GetCertificate: certificate,
		Settings:       k.settings, CRI: k.cri, Pods: k.pods, Observed: cache.Get, Checks: []server.Check{syncLoop},
		Tokens: k.api.tokens(), Access: k.api.access(), Addresses: k.node.HostIPs,
		Metrics: k.metrics.handler(), Probes: metrics.Plain(k.metrics.probes), Instrument: k.instrument(),
		Resource: k.stats.Resource(), Cadvisor: k.stats.Cadvisor(), Summary: k.stats.Summary(),
		SLIs: metrics.Plain(k.metrics.slis), ObserveCheck: slis.Observe,
	})
	if err != nil {
		return err
	}
	k.runs = append(k.runs, https.Run)
	return nil
}

// instrument goes around the handlers of the server.
func (k *Kubelet) instrument() func(port string, handler http.Handler) http.Handler {
	counts := metrics.NewHTTP(k.metrics.main)
	return func(port string, handler http.Handler) http.Handler {
		return k.tracing.Handler(counts.Wrap(port, handler))
	}
}

// pods returns the pods that should run, with the newest status that is known of each.
func (k *Kubelet) pods() []*corev1.Pod {
	pods := k.loop.Pods.All()
	for i, pod := range pods {
		if status, ok := k.status.Get(pod.UID); ok {
			pods[i] = &corev1.Pod{TypeMeta: pod.TypeMeta, ObjectMeta: pod.ObjectMeta, Spec: pod.Spec, Status: status}
		}
	}
	return pods
}

// Run runs every part until ctx ends, and returns when all have stopped. Pods go on running.
//
// Upstream: pkg/kubelet/kubelet.go Run.
func (k *Kubelet) Run(ctx context.Context) error {
	k.events.start(ctx, k.api.events)
	var parts sync.WaitGroup
	ctx, expired := context.WithCancelCause(ctx)
	defer expired(nil)
	if r := k.api.rotation; r != nil {
		parts.Go(func() {
			if err := r.Run(ctx); err != nil {
				expired(err)
			}
		})
	}
	for _, run := range k.runs {
		parts.Go(func() { run(ctx) })
	}
	k.embedded.onEnd(expired)
	parts.Go(func() { releaseMemory(ctx) })
	klog.FromContext(ctx).Info("Kubelet runs", "version", k.settings.Version, "node", k.settings.NodeName, "standalone", k.settings.Standalone())
	parts.Wait()
	k.tracing.Stop()
	err := errors.Join(k.cri.Close(), k.embedded.stop())
	if cause := context.Cause(ctx); errors.Is(cause, identity.ErrExpired) || errors.Is(cause, errEmbeddedEnded) {
		return cause // for whoever started the kubelet to start it again, with new credentials perhaps
	}
	return err
}
