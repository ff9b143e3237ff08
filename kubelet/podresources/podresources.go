// Package podresources tells programs of the node, monitoring for one, which devices the containers of the node have: the
// gRPC service PodResourcesLister on a socket.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	alpha "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"

	podinfo "minikubelet/config/pod"
)

// Devices are asked what containers have.
type Devices interface {
	// Devices returns a container's devices.
	Devices(pod types.UID, container string) []*api.ContainerDevices
	// All returns all devices that containers can have.
	All() []*api.ContainerDevices
}

// Options are what a Server is made of.
type Options struct {
	Dir        string               // where its socket kubelet.sock is: ROOT/pod-resources
	Active     func() []*corev1.Pod // the pods that may use the node's resources
	Pods       func() []*corev1.Pod // all that should run, for v1alpha1
	Known      func() bool          // whether these are all pods yet
	Devices    Devices
	Registerer prometheus.Registerer // may be nil
}

// How many requests there may be in a second, and at once.
//
// Upstream: pkg/kubelet/apis/podresources/constants.go.
const (
	qps   = 100
	burst = 10
)

// Server serves versions v1 and v1alpha1. With the managers' policy None, the only one here, no container has CPUs or
// memory of its own, so as with upstream's kubelet nothing is said of them.
//
// Upstream: pkg/kubelet/apis/podresources/server_v1.go v1PodResourcesServer.
type Server struct {
	api.UnimplementedPodResourcesListerServer
	opts    Options
	total   *prometheus.CounterVec
	counts  map[string]*prometheus.CounterVec
	limiter *rate.Limiter
}

// New returns a Server; Run has it serve.
func New(opts Options) *Server {
	f := promauto.With(opts.Registerer)
	counter := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_pod_resources_endpoint_" + name, Help: help}, []string{"server_api_version"})
	}
	return &Server{
		opts: opts, limiter: rate.NewLimiter(qps, burst), total: counter("requests_total", "Requests to the PodResources socket."),
		counts: map[string]*prometheus.CounterVec{
			"list":                   counter("requests_list", "Calls of List."),
			"get":                    counter("requests_get", "Calls of Get."),
			"get_allocatable":        counter("requests_get_allocatable", "Calls of GetAllocatableResources."),
			"errors_list":            counter("errors_list", "Calls of List that failed."),
			"errors_get":             counter("errors_get", "Calls of Get that failed."),
			"errors_get_allocatable": counter("errors_get_allocatable", "Calls of GetAllocatableResources that failed."),
		},
	}
}

// Run serves until ctx ends.
//
// Upstream: pkg/kubelet/server/server.go ListenAndServePodResources.
func (s *Server) Run(ctx context.Context) {
	log := klog.FromContext(ctx)
	socket := filepath.Join(s.opts.Dir, "kubelet.sock")
	listener, err := listen(ctx, socket)
	if err != nil {
		log.Error(err, "PodResources cannot be served")
		return
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(s.limit))
	api.RegisterPodResourcesListerServer(server, s)
	alpha.RegisterPodResourcesListerServer(server, &alphaServer{s: s})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		log.Error(err, "PodResources are no longer served")
	}
}

func listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a kubelet that was killed
		return nil, err
	}
	return new(net.ListenConfig).Listen(ctx, "unix", socket)
}

// limit refuses requests that come too fast.
//
// Upstream: pkg/kubelet/apis/grpc/ratelimit.go LimiterUnaryServerInterceptor.
func (s *Server) limit(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !s.limiter.Allow() {
		return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
	}
	return handler(ctx, request)
}

func (s *Server) count(call string) {
	s.total.WithLabelValues("v1").Inc()
	s.counts[call].WithLabelValues("v1").Inc()
}

// known keeps callers from taking the pods that a kubelet which has just started knows for all there are. Upstream's tells of those.
func (s *Server) known(errors string) error {
	if s.opts.Known() {
		return nil
	}
	s.counts[errors].WithLabelValues("v1").Inc()
	return errUnknown
}

var errUnknown = status.Error(codes.Unavailable, "the kubelet does not know all its pods yet")

// List tells of all pods that may use the node's resources.
func (s *Server) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	s.count("list")
	if err := s.known("errors_list"); err != nil {
		return nil, err
	}
	response := &api.ListPodResourcesResponse{}
	for _, pod := range s.opts.Active() {
		response.PodResources = append(response.PodResources, s.resources(pod))
	}
	return response, nil
}

// Get tells of one such pod.
func (s *Server) Get(_ context.Context, r *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	s.count("get")
	if err := s.known("errors_get"); err != nil {
		return nil, err
	}
	for _, pod := range s.opts.Active() {
		if pod.Namespace == r.GetPodNamespace() && pod.Name == r.GetPodName() {
			return &api.GetPodResourcesResponse{PodResources: s.resources(pod)}, nil
		}
	}
	s.counts["errors_get"].WithLabelValues("v1").Inc()
	return nil, fmt.Errorf("pod %s in namespace %s not found", r.GetPodName(), r.GetPodNamespace())
}

// GetAllocatableResources tells of all devices that containers can have, whether they have them or not.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	s.count("get_allocatable")
	return &api.AllocatableResourcesResponse{Devices: s.opts.Devices.All()}, nil
}

// resources are those of a pod's sidecars and regular containers.
func (s *Server) resources(pod *corev1.Pod) *api.PodResources {
	out := &api.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	add := func(c *corev1.Container) {
		out.Containers = append(out.Containers, &api.ContainerResources{Name: c.Name, Devices: s.opts.Devices.Devices(pod.UID, c.Name)})
	}
	for i := range pod.Spec.InitContainers {
		if podinfo.IsSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// alphaServer serves the first version of the service, which some programs still speak.
//
// Upstream: pkg/kubelet/apis/podresources/server_v1alpha1.go.
type alphaServer struct {
	alpha.UnimplementedPodResourcesListerServer
	s *Server
}

// List tells of all pods, and of their regular containers.
func (a *alphaServer) List(context.Context, *alpha.ListPodResourcesRequest) (*alpha.ListPodResourcesResponse, error) {
	a.s.total.WithLabelValues("v1alpha1").Inc()
	if !a.s.opts.Known() {
		return nil, errUnknown
	}
	response := &alpha.ListPodResourcesResponse{}
	for _, pod := range a.s.opts.Pods() {
		of := &alpha.PodResources{Name: pod.Name, Namespace: pod.Namespace}
		for i := range pod.Spec.Containers {
			c := &alpha.ContainerResources{Name: pod.Spec.Containers[i].Name}
			for _, d := range a.s.opts.Devices.Devices(pod.UID, c.Name) {
				c.Devices = append(c.Devices, &alpha.ContainerDevices{ResourceName: d.GetResourceName(), DeviceIds: d.GetDeviceIds()})
			}
			of.Containers = append(of.Containers, c)
		}
		response.PodResources = append(response.PodResources, of)
	}
	return response, nil
}
