// Command minimal is the core of the kubelet alone: it runs the pods of a directory of manifests with a container runtime,
// without apiserver, server, eviction and CSI. Read it first; docs/reading.md goes on with what it is made of.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config"
	"minikubelet/podworkers"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
	"minikubelet/status"
	"minikubelet/syncloop"
)

// machine is what pods are told of the machine they run on.
type machine struct {
	node    corev1.Node
	runtime *runtimeapi.VersionResponse
}

func (m *machine) Node() *corev1.Node               { return &m.node }
func (m *machine) HostIPs() []string                { return []string{"127.0.0.1"} }
func (m *machine) Allocatable() corev1.ResourceList { return m.node.Status.Allocatable }
func (m *machine) NetworkReady() error              { return nil }
func (m *machine) RuntimeName() string              { return m.runtime.GetRuntimeName() }

// must ends the program when something could not be made.
func must[T any](made T, err error) T {
	if err != nil {
		log.Fatal("minimal: ", err)
	}
	return made
}

func main() {
	manifests := flag.String("manifests", "manifests", "directory of the pods' manifests")
	endpoint := flag.String("runtime", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	root := flag.String("root", "/var/lib/minimal", "directory of the pods' volumes and logs")
	parent := flag.String("cgroup-root", "/", "cgroup that the pods' cgroups are made in")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client := must(cri.Dial(cri.Options{Endpoint: *endpoint}))
	node := &machine{runtime: must(client.Runtime.Version(ctx, &runtimeapi.VersionRequest{}))}
	node.node.Name = "minimal"
	node.node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi")}
	driver := must(client.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})).GetLinux().GetCgroupDriver().String()
	groups := must(cgroups.New(cgroups.Options{Driver: strings.ToLower(driver), Root: *parent, PerQOS: true, Capacity: node.Allocatable(), Allocatable: node.Allocatable()}))
	must(groups, groups.Setup())
	broadcaster := record.NewBroadcaster()
	broadcaster.StartStructuredLogging(0)
	events := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "minimal"})

	source := must(config.New(config.Options{NodeName: "minimal", ManifestPath: *manifests, Events: events}))
	cache := pleg.NewCache(client)
	watch := pleg.New(pleg.Options{CRI: client, Cache: cache})
	rt := runtime.New(runtime.Options{
		CRI: client, Cache: cache, Images: images.New(images.Options{CRI: client, Events: events}), Classes: runtimeclass.New(nil), Cgroups: groups, Events: events,
		RootDir: *root, ContainerLogsDir: filepath.Join(*root, "links"), Node: spec.Node{PodLogsDir: filepath.Join(*root, "logs"), SeccompDefault: true},
	})
	object := objects.New(objects.Options{})
	mounter := volumes.New(volumes.Options{PodsDir: filepath.Join(*root, "pods"), Objects: object, HostIPs: node.HostIPs, Allocatable: node.Allocatable, Events: events})
	prober := probes.New(probes.Options{Exec: rt.ExecInContainer, Observed: cache.Get, Starting: rt.Starting, HostIPs: node.HostIPs, Events: events})
	statuses := status.New(status.Options{})
	workers := podworkers.New(podworkers.Options{Runtime: rt, Cache: cache, Volumes: mounter, Objects: object, Probes: prober, Status: statuses, Events: events, Node: node})
	loop := syncloop.New(syncloop.Options{
		Config: source, PLEG: watch, Probes: prober, Workers: workers, Pods: syncloop.NewPods(), Status: statuses, Events: events, Node: node,
		Allocation: rt.Allocation(), Clean: rt.GarbageCollect, MaxPods: 110,
	})

	var running sync.WaitGroup
	for _, run := range []func(context.Context){watch.Run, object.Run, statuses.Run, source.Run, loop.Run} {
		running.Go(func() { run(ctx) })
	}
	running.Wait() // until a signal ends ctx; the pods go on running
}
