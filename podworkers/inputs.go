package podworkers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/podworkers/probes"
	"minikubelet/runtime"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// podInputs is what the runtime asks about the containers of one pod (runtime.Inputs).
type podInputs struct{ *worker }

// Env returns the container's environment.
func (in podInputs) Env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	return nil, nil
}

// Command returns the container's command and arguments, with $(VAR) references replaced.
func (in podInputs) Command(_ context.Context, _ *corev1.Pod, c *corev1.Container, _ []string, envs []*runtimeapi.KeyValue) (command, args []string) {
	return c.Command, c.Args
}

// Mounts returns the container's volume mounts.
func (in podInputs) Mounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.Mount, error) {
	return in.opts.Volumes.ContainerMounts(ctx, pod, c, podIPs)
}

// PullSecrets returns the pod's image pull secrets; one that cannot be had is passed over,
// since the image may be public.
func (in podInputs) PullSecrets(ctx context.Context, pod *corev1.Pod) []corev1.Secret {
	var secrets []corev1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := in.opts.Objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Image pull secret cannot be read", "secret", klog.KRef(pod.Namespace, ref.Name))
			in.opts.Events.Eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		secrets = append(secrets, *s)
	}
	return secrets
}

// Restart tells which probe, if any, wants the container restarted.
func (in podInputs) Restart(containerID string) string {
	if ok, known := in.opts.Probes.Get(containerID, probes.Liveness); known && !ok {
		return runtime.RestartLiveness
	}
	if ok, known := in.opts.Probes.Get(containerID, probes.Startup); known && !ok {
		return runtime.RestartStartup
	}
	return ""
}

// Started tells whether the container's startup probe, if it has one, has passed.
func (in podInputs) Started(containerID string) bool {
	c := in.containerOf(containerID)
	return c == nil || in.started(containerID, c)
}

// containerOf finds the spec of a running container.
func (w *worker) containerOf(containerID string) *corev1.Container {
	if w.seen == nil {
		return nil
	}
	s := w.seen.ContainerByID(containerID)
	if s == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == s.Name {
				return &list[i]
			}
		}
	}
	return nil
}

func (w *worker) started(containerID string, c *corev1.Container) bool {
	if c.StartupProbe == nil {
		return true
	}
	ok, known := w.opts.Probes.Get(containerID, probes.Startup)
	return known && ok
}

// statusInputs collects what the pod's status follows from.
func (w *worker) statusInputs(pod *corev1.Pod, observed *cri.PodStatus) status.Inputs {
	in := status.Inputs{
		Pod: pod, Observed: observed, Old: &pod.Status, HostIPs: hostIPs(w.opts.Node.Node()), Now: time.Now(),
		Waiting:     map[string]status.Waiting{},
		Terminating: w.phase >= Terminating, Terminated: w.phase >= Terminated,
		Override: w.override,
		Ready:    w.ready, Started: w.hasStarted,
	}
	if last, ok := w.opts.Status.Get(w.uid); ok {
		in.Old = &last
	}
	for name, f := range w.failed {
		in.Waiting[name] = status.Waiting{Reason: f.Reason, Message: f.Message}
	}
	if w.sandbox != nil {
		in.Sandbox = &status.Waiting{Reason: w.sandbox.Reason, Message: w.sandbox.Message}
	}
	return in
}

// ready tells whether a running container takes requests: by its readiness probe, if it has one.
func (w *worker) ready(containerID, _ string) bool {
	c := w.containerOf(containerID)
	if c == nil || !w.started(containerID, c) {
		return c == nil
	}
	if c.ReadinessProbe == nil {
		return true
	}
	ok, known := w.opts.Probes.Get(containerID, probes.Readiness)
	return known && ok
}

func (w *worker) hasStarted(containerID, _ string) bool {
	c := w.containerOf(containerID)
	return c == nil || w.started(containerID, c)
}

// hostIPs are the node's internal addresses.
func hostIPs(node *corev1.Node) []string {
	var ips []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ips = append(ips, a.Address)
		}
	}
	return ips
}
