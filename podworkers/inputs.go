package podworkers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/env"
	"minikubelet/podworkers/probes"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/plan"
	"minikubelet/status"
)

// podInputs is what the runtime asks about the containers of a pod (runtime.Inputs).
type podInputs struct{ *worker }

// Env returns the container's environment.
func (in podInputs) Env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	// A static pod may be the apiserver that the services are read from, so it does not wait for them.
	services, err := in.opts.Objects.Services(ctx, !podinfo.IsStatic(pod))
	if err != nil {
		return nil, err
	}
	hostIPs := in.opts.Node.HostIPs()
	if pod.Spec.HostNetwork {
		podIPs = hostIPs
	}
	return env.Container(env.Inputs{ // part: environment, podworkers/env
		Pod: pod, Container: c, PodIPs: podinfo.SortIPs(podIPs, hostIPs), HostIPs: hostIPs, Allocatable: in.opts.Node.Allocatable(), Services: services,
		Secret: func(name string) (*corev1.Secret, error) { return in.opts.Objects.Secret(ctx, pod.Namespace, name) },
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			return in.opts.Objects.ConfigMap(ctx, pod.Namespace, name)
		},
		File: func(volume, path string) ([]byte, error) {
			return in.opts.Volumes.ReadFile(pod, volume, path, env.FileLimit)
		},
	})
}

// Command returns the container's command and arguments, with $(VAR) references replaced.
//
// Upstream: pkg/kubelet/container/helpers.go ExpandContainerCommandAndArgs.
func (in podInputs) Command(c *corev1.Container, envs []*runtimeapi.KeyValue) (command, args []string) {
	vars := variables(envs)
	return env.ExpandAll(c.Command, vars), env.ExpandAll(c.Args, vars)
}

func variables(envs []*runtimeapi.KeyValue) map[string]string {
	vars := map[string]string{}
	for _, e := range envs {
		vars[e.GetKey()] = string(e.GetValue())
	}
	return vars
}

// Mounts returns the container's volume mounts.
func (in podInputs) Mounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.Mount, error) {
	var vars map[string]string
	if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.SubPathExpr != "" }) {
		envs, err := in.Env(ctx, pod, c, podIPs)
		if err != nil {
			return nil, err
		}
		vars = variables(envs)
	}
	return in.opts.Volumes.ContainerMounts(ctx, pod, c, vars)
}

// PullSecrets returns the pod's image pull secrets. A secret that cannot be read is left out, since the image may be public.
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

// Verdict tells what the probes say of a running container.
func (in podInputs) Verdict(containerID string) plan.Verdict {
	alive, probed := in.opts.Probes.Get(containerID, probes.Liveness)
	started, ended := in.opts.Probes.Get(containerID, probes.Startup)
	switch {
	case probed && !alive:
		return plan.Verdict{Restart: plan.RestartLiveness, Started: ended && started}
	case ended && !started:
		return plan.Verdict{Restart: plan.RestartStartup}
	}
	return plan.Verdict{Started: ended && started}
}

// statusInputs collects what the pod's status is computed from.
func (w *worker) statusInputs(pod *corev1.Pod, observed *cri.PodStatus) status.Inputs {
	in := status.Inputs{
		Pod: pod, Observed: observed, Old: &pod.Status, HostIPs: w.opts.Node.HostIPs(), Now: time.Now(), RuntimeName: w.opts.Node.RuntimeName(),
		Terminating: w.phase >= Terminating, Terminated: w.phase >= Terminated, Override: w.override,
		Waiting: map[string]status.Waiting{}, Messages: map[string]string{}, Unready: map[string]bool{}, Unstarted: map[string]bool{},
		PodResources: w.opts.Runtime.PodResources(pod), Resize: w.opts.Runtime.Allocation().Conditions(w.uid),
	}
	for _, c := range observed.Containers {
		switch spec := podinfo.Container(pod, c.Name); c.State {
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			in.Messages[c.ID] = w.opts.Runtime.TerminationMessage(c)
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			if spec != nil {
				in.Unstarted[c.ID] = w.opts.Runtime.Starting(c.ID) || spec.StartupProbe != nil && !w.passed(c, probes.Startup)
				in.Unready[c.ID] = spec.ReadinessProbe != nil && !w.passed(c, probes.Readiness)
			}
		}
	}
	for name, f := range w.failed {
		in.Waiting[name] = status.Waiting{Reason: f.Reason, Message: f.Message}
	}
	if lagging, some := w.opts.Runtime.Allocation().Actuated(w.uid); some {
		in.Lagging = lagging.Containers
	}
	in.RecursiveReadOnly = status.AsksRecursiveReadOnly(pod) && w.opts.Runtime.RecursiveReadOnly(pod)
	in.DeviceHealth = w.deviceHealth(pod)
	if last, ok := w.opts.Status.Get(w.uid); ok {
		// Conditions that others write, such as readiness gates, are newest in the pod that the apiserver sent.
		last.Conditions = status.WithForeign(last.Conditions, pod.Status.Conditions)
		in.Old = &last
	}
	return in
}

// passed tells whether the newest verdict of a container's probe is good. Before the first one it is not. While a step goes on that
// has started the container anew, its status is still that of the instance before, but what is probed is the new one.
func (w *worker) passed(c *cri.ContainerStatus, kind probes.Kind) bool {
	if now, _ := w.opts.Cache.Get(w.uid); now.Container(c.Name) != nil {
		c = now.Container(c.Name)
	}
	ok, known := w.opts.Probes.Get(c.ID, kind)
	return known && ok
}
