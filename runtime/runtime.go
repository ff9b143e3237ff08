// Package runtime turns pods into CRI calls. What has to be done is decided by package plan, which compares the pod with
// what the runtime says of it; what the runtime is told is decided by package spec. Both are pure. This package looks up
// what they need, and does it.
//
// Reading order: sync.go, round.go, sandbox.go, container.go, kill.go, gc.go.
package runtime

import (
	"cmp"
	"context"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/allocation"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/resize"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
	"minikubelet/runtime/userns"
)

// Options is everything a Runtime needs. CRI, Images, Classes, Cgroups, Events and RootDir are required.
type Options struct {
	CRI     *cri.Client
	Images  *images.Manager      // part: images, runtime/images
	Classes *runtimeclass.Lookup // part: runtime classes, runtime/runtimeclass
	Cgroups *cgroups.Manager     // part: cgroups, runtime/cgroups
	Events  record.EventRecorder
	// Allocation knows what pods were given; one of its own by default.
	Allocation *allocation.Store
	// UserNamespaces gives out user and group IDs; nil refuses pods that ask for some.
	UserNamespaces *userns.Manager
	// Handler tells what a runtime handler can do; by default nothing.
	Handler func(name string) corev1.NodeRuntimeHandlerFeatures
	Cache   *pleg.Cache // holds what the runtime says of pods; one of its own by default

	RootDir          string    // --root-dir: pods/<uid> below it holds etc-hosts, containers/ and plugins/
	ContainerLogsDir string    // the links for log collectors, /var/log/containers by default
	ResolvConf       string    // resolvConf: path of the host's file; "" gives pods of policy Default no DNS
	Node             spec.Node // what all pods are told alike; New fills in the machine

	CrashLoopMax time.Duration         // longest back-off of a crashing container; 5 min by default
	Registerer   prometheus.Registerer // may be nil
}

// Runtime starts, restarts and ends the containers of pods. Calls for different pods may run at the same time, those
// for one pod must not: a pod has one worker.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go kubeGenericRuntimeManager
type Runtime struct {
	opts       Options
	metrics    *metrics
	resizer    *resize.Resizer
	crash      *crashLoops
	starts     gate     // new pods
	ends       gate     // sandboxes
	imageUsers sync.Map // image ID -> spec.ImageUser; an image never changes its user
	killing    sync.Map // container ID: its preStop hook was started and its Killing event sent
	stopped    sync.Map // sandbox ID: the runtime said that it has stopped
	starting   sync.Map // container ID: its postStart hook has not succeeded yet, or has failed
}

// ContainerInputs is what only the node knows of a container. A returned error becomes CreateContainerConfigError.
type ContainerInputs interface {
	// Env returns the whole environment, expanded.
	Env(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error)
	// Command returns command and args with $(VAR) references replaced.
	Command(container *corev1.Container, envs []*runtimeapi.KeyValue) (command, args []string)
	// Mounts returns the volume mounts, of images only with the reference in the pod; /etc/hosts and the termination log are this package's.
	Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIPs []string) ([]*runtimeapi.Mount, error)
	// Assigned returns what device plugins give the container: variables, mounts, devices, CDI devices, annotations.
	Assigned(ctx context.Context, pod *corev1.Pod, container *corev1.Container) (*runtimeapi.ContainerConfig, error)
	// PullSecrets returns the secrets images may be pulled with.
	PullSecrets(ctx context.Context, pod *corev1.Pod) []corev1.Secret
}

// Inputs is declared here and implemented by podworkers, for one pod.
type Inputs interface {
	ContainerInputs
	// Verdict returns what the probes say of a running container.
	Verdict(containerID string) plan.Verdict
}

// verdicts asks about all containers that run. One that should have been ended since its postStart hook failed may run on.
func (r *Runtime) verdicts(in Inputs, observed *cri.PodStatus) map[string]plan.Verdict {
	out := map[string]plan.Verdict{}
	for _, container := range observed.Running() {
		if out[container.ID] = in.Verdict(container.ID); r.Starting(container.ID) {
			out[container.ID] = plan.Verdict{Restart: plan.RestartHook}
		}
	}
	return out
}

// Failure is why a container is not there: the waiting state's reason and message.
type Failure struct{ Reason, Message string }

// Reasons of Failure; those of image pulls come from package images.
const (
	ReasonCrashLoopBackOff      = "CrashLoopBackOff"
	ReasonCreateContainerConfig = "CreateContainerConfigError"
	ReasonCreateContainer       = "CreateContainerError"
	ReasonRunContainer          = "RunContainerError"
	ReasonPostStartHook         = "PostStartHookError"
	ReasonKillContainer         = "KillContainerError"
)

// SyncResult is what a sync left behind. It is complete even when SyncPod returns an error.
type SyncResult struct {
	Containers map[string]Failure // why containers wait, by name
	RetryAt    time.Time          // when a back-off ends; zero for none
}

func (r *SyncResult) fail(container string, f Failure, retryAt time.Time) {
	r.Containers[container] = f
	r.retry(retryAt)
}

// waits tells whether the container waits for a back-off, or something of it failed.
func (r *SyncResult) waits(container string) bool {
	_, ok := r.Containers[container]
	return ok
}

func (r *SyncResult) retry(at time.Time) {
	if !at.IsZero() && (r.RetryAt.IsZero() || at.Before(r.RetryAt)) {
		r.RetryAt = at
	}
}

// New fills in the defaults. It asks the runtime nothing yet.
func New(options Options) *Runtime {
	options.ContainerLogsDir = cmp.Or(options.ContainerLogsDir, "/var/log/containers")
	node := &options.Node
	node.PodLogsDir = cmp.Or(node.PodLogsDir, "/var/log/pods")
	node.SeccompDir = cmp.Or(node.SeccompDir, filepath.Join(options.RootDir, "seccomp"))
	node.CPUCFSQuotaPeriod = cmp.Or(node.CPUCFSQuotaPeriod, 100*time.Millisecond)
	node.Kernel = readKernel()
	if options.Handler == nil {
		options.Handler = func(string) (none corev1.NodeRuntimeHandlerFeatures) { return none }
	}
	if options.Cache == nil {
		options.Cache = pleg.NewCache(options.CRI)
	}
	if options.Allocation == nil {
		options.Allocation = allocation.New(filepath.Join(options.RootDir, "pods"))
	}
	atOnce := max(4, 8*goruntime.NumCPU())
	r := &Runtime{
		opts:    options,
		metrics: newMetrics(options.Registerer),
		crash:   newCrashLoops(cmp.Or(options.CrashLoopMax, crashLoopMax)),
		starts:  newGate(atOnce),
		ends:    newGate(atOnce),
	}
	r.resizer = &resize.Resizer{CRI: options.CRI, Cgroups: options.Cgroups, Allocation: options.Allocation, Node: &r.opts.Node}
	return r
}

// Allocation knows what pods were given.
func (r *Runtime) Allocation() *allocation.Store { return r.opts.Allocation }

// actuated returns what of the pod does not have its allocation yet, nil if all of it has.
func (r *Runtime) actuated(pod *corev1.Pod) *allocation.Resources {
	if lagging, some := r.opts.Allocation.Actuated(pod.UID); some {
		return &lagging
	}
	return nil
}

// PodResources are what the pod's cgroup gives it now: while a resize is under way, what it had before.
func (r *Runtime) PodResources(pod *corev1.Pod) *corev1.ResourceRequirements {
	return r.resizer.PodResources(pod)
}
