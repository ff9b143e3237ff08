package matrix

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// podCalls are the calls that a kubelet makes for one pod. Their cells have a pod each, all at the same time, and the fault
// meets each cell's pod alone: once when it starts, once when its container is started again, once when it ends.
var podCalls = []podCall{
	{method: "RunPodSandbox"},
	{method: "CreateContainer"},
	{method: "StartContainer"},
	{method: "ContainerStatus"},
	{method: "PodSandboxStatus"},
	{method: "ImageStatus", prepare: ownImage},
	{method: "PullImage", prepare: ownImage},
	{method: "ExecSync", prepare: execProbe},
	{method: "StopContainer"},
	{method: "RemoveContainer"},
	{method: "StopPodSandbox"},
	{method: "RemovePodSandbox"},
	{method: "UpdateContainerResources", prepare: resources, poke: resize},
	{method: "UpdatePodSandboxResources", prepare: resources, poke: resize},
	{method: "ReopenContainerLog", poke: fillLog},
	{method: "Exec", poke: execStream},
	{method: "Attach", poke: attachStream},
	{method: "PortForward", poke: forwardStream},
	{method: "CheckpointContainer", poke: checkpoint},
}

// podCall is such a call, with what has the kubelet make it if a pod's life does not.
type podCall struct {
	method  string
	prepare func(ctx context.Context, r *run, pod *corev1.Pod) error
	poke    func(ctx context.Context, r *run, pod *corev1.Pod) error // while it runs
}

// nodeCalls are the calls that concern the node or all pods: their cells follow each other.
var nodeCalls = []string{
	"Version", "Status", "RuntimeConfig", "GetContainerEvents", "ListPodSandbox", "ListContainers", "ListImages", "ImageFsInfo",
	"ListPodSandboxStats", "ListContainerStats", "ContainerStats",
}

// ownImage gives the pod an image that nothing else pulls.
func ownImage(ctx context.Context, r *run, pod *corev1.Pod) error {
	image, err := stack.BuildImage(r.testapp, r.testappConfig)
	if err != nil {
		return err
	}
	pod.Spec.Containers[0].Image = pod.Name + ":1"
	return r.s.Publish(ctx, pod.Spec.Containers[0].Image, image)
}

func execProbe(_ context.Context, _ *run, pod *corev1.Pod) error {
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{
		PeriodSeconds: 1, TimeoutSeconds: 2, FailureThreshold: 100,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
	}
	return nil
}

func resources(_ context.Context, _ *run, pod *corev1.Pod) error {
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *milli(10)}
	return nil
}

// resize changes what the pod asks for and waits until it has it.
func resize(ctx context.Context, r *run, pod *corev1.Pod) error {
	patch := `{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"20m"}}}]}}`
	pods := r.s.Client.CoreV1().Pods(pod.Namespace)
	if _, err := pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		return fmt.Errorf("resize %s: %w", pod.Name, err)
	}
	_, err := waitPod(ctx, r.s, pod, "resized", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].Resources != nil && s[0].Resources.Requests.Cpu().MilliValue() == 20
	})
	return err
}

// fillLog has the pod write more than a log may have, and waits until it is rotated.
func fillLog(ctx context.Context, r *run, pod *corev1.Pod) error {
	if err := post(ctx, r.s, pod, "/log", strings.Repeat(strings.Repeat("x", 99)+"\n", 2*logLimitKiB*10)); err != nil {
		return fmt.Errorf("write to the log of %s: %w", pod.Name, err)
	}
	return r.eventually(ctx, "the log of "+pod.Name+" is rotated", func() bool { return r.rotated(pod) })
}

// podCell takes one pod through its life while the fault meets it. armed is told when a step's fault is in force and
// what will meet it is under way.
func (r *run) podCell(ctx context.Context, call podCall, kind Kind, name string, armed func(step string, i *Injection)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*r.bound, fmt.Errorf("not done after %v", 2*r.bound))
	defer cancel()
	pod := newPod(r.s, touched, name)
	if call.prepare != nil {
		if err := call.prepare(ctx, r, pod); err != nil {
			return err
		}
	}
	subject, hits := NewSubject(name), 0
	step := func(step string, do func() error) error {
		injected := r.cri.Inject(Fault{Kind: kind, Method: call.method, Subject: subject, Times: 1, Delay: faultDelay})
		ended := make(chan struct{})
		go injected.healAfter(3*requestTimeout, ended) // a pull has no time limit, and so may hang until then
		defer func() { close(ended); hits += injected.Hits(); injected.Heal() }()
		armed(step, injected)
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		return nil
	}
	pods := r.s.Client.CoreV1().Pods(pod.Namespace)
	err := step("start", func() (err error) {
		if _, err = pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		pod, err = waitPod(ctx, r.s, pod, "ready", stack.PodReady)
		return err
	})
	if err == nil {
		err = step("restart", func() error { return r.crash(ctx, pod) })
	}
	if err == nil && call.poke != nil {
		err = step("poke", func() error { return call.poke(ctx, r, pod) })
	}
	if err == nil {
		err = step("end", func() error { return remove(ctx, r.s, pod, r.bound) })
	}
	if err == nil && hits == 0 {
		err = fmt.Errorf("%s was never called for the pod", call.method)
	}
	if err == nil {
		err = r.eventually(ctx, "the runtime has nothing of the pod any more", func() bool { return !r.inRuntime(ctx, pod) })
		if err != nil && r.irremovable(context.WithoutCancel(ctx), pod) {
			err = nil
		}
	}
	return err
}

// crash has the pod's container end and waits until it runs again.
func (r *run) crash(ctx context.Context, pod *corev1.Pod) error {
	before := restarts(pod)
	r.o.allow(pod.UID)
	exit := r.s.Exit(ctx, pod.Status.PodIP, 3)
	last, err := waitPod(ctx, r.s, pod, "restarted and ready", func(p *corev1.Pod) bool {
		return restarts(p) > before && stack.PodReady(p)
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%w; restarts: %d, before: %d", err, restarts(last), before)
	if exit != nil {
		err = fmt.Errorf("%w; that it ends was asked in vain: %w", err, exit)
	}
	return err
}

// inRuntime tells whether the runtime still knows of the pod.
func (r *run) inRuntime(ctx context.Context, pod *corev1.Pod) bool {
	list, err := runtimeapi.NewRuntimeServiceClient(r.s.CRI).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}},
	})
	return err != nil || len(list.GetItems()) > 0
}

// irremovable tells whether the runtime refuses to remove the pod's sandboxes to the test as well.
func (r *run) irremovable(ctx context.Context, pod *corev1.Pod) bool {
	return r.refuses(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}})
}

// refuses tells whether there are such sandboxes, and the runtime removes none of them. containerd does not when a start was cancelled
// at the wrong moment: it says that the container has exited, and that its task cannot be deleted while it runs. No other call of the
// CRI ends that task.
func (r *run) refuses(ctx context.Context, which *runtimeapi.PodSandboxFilter) bool {
	client := runtimeapi.NewRuntimeServiceClient(r.s.CRI)
	list, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: which})
	for _, sandbox := range list.GetItems() {
		_, removeErr := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id})
		if removeErr == nil || !strings.Contains(removeErr.Error(), "cannot delete running task") {
			return false
		}
	}
	return err == nil && len(list.GetItems()) > 0
}

// faultDelay is how long what comes late takes, and how long a call runs before its connection is cut.
const faultDelay = time.Second
