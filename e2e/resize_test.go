package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// resources are requests that equal limits.
func resources(cpu, memory string) corev1.ResourceRequirements {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	return corev1.ResourceRequirements{Requests: list, Limits: list}
}

// resize asks the apiserver for other resources of the pod's container, or of the pod.
func resize(ctx testContext, t *testing.T, pod *corev1.Pod, own, container *corev1.ResourceRequirements) {
	t.Helper()
	spec := map[string]any{}
	if container != nil {
		spec["containers"] = []any{map[string]any{"name": "app", "resources": container}}
	}
	if own != nil {
		spec["resources"] = own
	}
	patch, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "resize")
	if err != nil {
		t.Fatal(err)
	}
}

func hasCondition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// hasResources tells whether the status says that the container has these, and that no resize is open.
func hasResources(want corev1.ResourceRequirements) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].Resources == nil || p.Status.ContainerStatuses[0].State.Running == nil {
			return false
		}
		got := p.Status.ContainerStatuses[0].Resources
		return got.Limits.Cpu().Equal(*want.Limits.Cpu()) && got.Limits.Memory().Equal(*want.Limits.Memory()) &&
			got.Requests.Cpu().Equal(*want.Requests.Cpu()) && got.Requests.Memory().Equal(*want.Requests.Memory()) &&
			hasCondition(p, corev1.PodResizePending) == nil && hasCondition(p, corev1.PodResizeInProgress) == nil
	}
}

// memoryLimit is what the kernel holds the pod's container to.
func memoryLimit(ctx testContext, t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	get(ctx, t, "http://"+pod.Status.PodIP+":8080/") // it listens
	for _, path := range []string{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"} {
		if body, err := shared.Get(ctx, "http://"+pod.Status.PodIP+":8080/file?path="+path); err == nil {
			return strings.TrimSpace(body)
		}
	}
	t.Fatal("the container has no memory cgroup")
	return ""
}

// TestResize: more and less without a restart, more than the node has, and a restart where the container asks for it.
func TestResize(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0].Resources = resources("100m", "64Mi")
	pod = ready(ctx, t, pod)
	if limit := memoryLimit(ctx, t, pod); limit != "67108864" {
		t.Errorf("memory limit %s", limit)
	}
	for _, want := range []corev1.ResourceRequirements{resources("200m", "96Mi"), resources("50m", "80Mi")} {
		resize(ctx, t, pod, nil, &want)
		pod = until(ctx, t, pod, "the new size", hasResources(want))
		if got := memoryLimit(ctx, t, pod); got != strconv.FormatInt(want.Limits.Memory().Value(), 10) {
			t.Errorf("memory limit %s, want %s", got, want.Limits.Memory())
		}
		if !pod.Status.AllocatedResources.Cpu().Equal(*want.Requests.Cpu()) || !pod.Status.Resources.Limits.Memory().Equal(*want.Limits.Memory()) {
			t.Errorf("the pod was given %v and has %v", pod.Status.AllocatedResources, pod.Status.Resources)
		}
	}
	if restarts(pod) != 0 {
		t.Errorf("the container restarted %d times", restarts(pod))
	}
	event(ctx, t, pod.Name, "ResizeStarted")
	event(ctx, t, pod.Name, "ResizeCompleted")

	// More than is left, though no more than the node has: that the apiserver refuses.
	list, err := s.Client.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := list.Status.Allocatable.Cpu().MilliValue()
	big := newPod(t)
	big.Name += "-big"
	big.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(all/2, resource.DecimalSI)}
	big = ready(ctx, t, big)
	much := resources(fmt.Sprintf("%dm", all*3/4), "80Mi")
	resize(ctx, t, pod, nil, &much)
	pod = until(ctx, t, pod, "the resize that waits", func(p *corev1.Pod) bool { return hasCondition(p, corev1.PodResizePending) != nil })
	if c := hasCondition(pod, corev1.PodResizePending); c.Reason != corev1.PodReasonDeferred || !strings.Contains(c.Message, "Node didn't have enough resource: cpu") || c.ObservedGeneration != pod.Generation {
		t.Errorf("condition %+v of generation %d", c, pod.Generation)
	}
	event(ctx, t, pod.Name, "ResizeDeferred")
	remove(ctx, t, big)
	pod = until(ctx, t, pod, "the size that waited for room", hasResources(much))
	if restarts(pod) != 0 {
		t.Errorf("the container restarted %d times", restarts(pod))
	}
}

// TestResizeWithoutKubelet: what is asked for while no kubelet runs is done by the next one.
func TestResizeWithoutKubelet(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0].Resources = resources("100m", "64Mi")
	pod = ready(ctx, t, pod)
	stopKubelet(t)
	resize(ctx, t, pod, nil, new(resources("60m", "80Mi")))
	ctx, _ = node(t)
	pod = until(ctx, t, pod, "the size asked for while no kubelet ran", hasResources(resources("60m", "80Mi")))
	if limit := memoryLimit(ctx, t, pod); limit != "83886080" || restarts(pod) != 0 {
		t.Errorf("memory limit %s after %d restarts", limit, restarts(pod))
	}
}

// TestResizeByRestart: a container that asks for it starts anew to get its resources.
func TestResizeByRestart(t *testing.T) {
	ctx, _ := node(t)
	other := newPod(t)
	other.Spec.Containers[0].Resources = resources("100m", "64Mi")
	other.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	other = ready(ctx, t, other)
	resize(ctx, t, other, nil, new(resources("100m", "70Mi")))
	other = until(ctx, t, other, "the new size", hasResources(resources("100m", "70Mi")))
	if restarts(other) != 1 {
		t.Errorf("the container restarted %d times, want once", restarts(other))
	}
}

// TestPodLevelResize: resources of the pod as a whole, which its container has no more than, and their change.
func TestPodLevelResize(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Resources = new(resources("100m", "64Mi"))
	pod = ready(ctx, t, pod)
	if limit := memoryLimit(ctx, t, pod); limit != "67108864" {
		t.Errorf("memory limit %s", limit)
	}
	want := resources("200m", "96Mi")
	resize(ctx, t, pod, &want, nil)
	pod = until(ctx, t, pod, "the new size", func(p *corev1.Pod) bool {
		r := p.Status.Resources
		return r != nil && r.Limits.Memory().Equal(*want.Limits.Memory()) && r.Requests.Cpu().Equal(*want.Requests.Cpu()) &&
			hasCondition(p, corev1.PodResizeInProgress) == nil
	})
	if limit := memoryLimit(ctx, t, pod); limit != "100663296" || restarts(pod) != 0 {
		t.Errorf("memory limit %s after %d restarts", limit, restarts(pod))
	}
}

// TestRestartAllContainers: an end that a rule names starts all containers anew, init containers too, in the same sandbox.
func TestRestartAllContainers(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	app := &pod.Spec.Containers[0]
	app.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	app.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
	pod.Spec.InitContainers = []corev1.Container{shell("init", "true")}
	pod.Spec.Containers = append(pod.Spec.Containers, shell("other", "trap exit TERM; sleep 3600 & wait"))
	pod = ready(ctx, t, pod)
	before := pod.Status.PodIP
	end(ctx, t, pod, 42)
	pod = until(ctx, t, pod, "all containers again", func(p *corev1.Pod) bool {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.State.Waiting != nil {
				return false
			}
		}
		return p.Status.Phase == corev1.PodRunning
	})
	if pod.Status.PodIP != before {
		t.Errorf("the pod had the address %s and has %s", before, pod.Status.PodIP)
	}
}

// TestUserNamespace: root in the pod is nobody on the node, its files in volumes are its own, and the IDs go with the pod.
func TestUserNamespace(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.HostUsers = new(false)
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.InitContainers = []corev1.Container{shell("init", "cat /proc/self/uid_map && touch /scratch/file && stat -c 'owner %u' /scratch/file")}
	pod.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod = ready(ctx, t, pod)
	var inside, first, length int64
	log := logs(t, pod, "init", 0)
	if _, err := fmt.Sscan(log, &inside, &first, &length); err != nil || inside != 0 || first < 65536 || length != 65536 {
		t.Errorf("uid_map %d %d %d, %v, in %q", inside, first, length, err, log)
	}
	if !strings.Contains(log, "owner 0") {
		t.Errorf("root does not own what it made: %q", log)
	}
	file := s.RootDir() + "/pods/" + string(pod.UID) + "/userns"
	var record struct {
		UIDs []struct {
			Host int64 `json:"hostId"`
		} `json:"uidMappings"`
	}
	if err := json.Unmarshal([]byte(read(t, file)), &record); err != nil || len(record.UIDs) != 1 || record.UIDs[0].Host != first {
		t.Errorf("%s: %+v, %v", file, record, err)
	}
	remove(ctx, t, pod)
	eventually(ctx, t, "the directory of the pod goes", func() bool {
		_, err := os.Stat(s.RootDir() + "/pods/" + string(pod.UID))
		return os.IsNotExist(err)
	})
}

// TestRecursiveReadOnly: the runtime can, so what is possible is done, and the status says so.
func TestRecursiveReadOnly(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{
		Name: "scratch", MountPath: "/scratch", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyIfPossible),
	}}
	pod = ready(ctx, t, pod)
	for _, m := range pod.Status.ContainerStatuses[0].VolumeMounts {
		if m.Name == "scratch" && (m.RecursiveReadOnly == nil || *m.RecursiveReadOnly != corev1.RecursiveReadOnlyEnabled) {
			t.Errorf("recursiveReadOnly of the mount: %v", m.RecursiveReadOnly)
		}
	}
}
