package runtime

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/crifake"
	"minikubelet/runtime/resize"
)

func updates(b *bench) string {
	var out []string
	for _, r := range crifake.Requests[*runtimeapi.UpdateContainerResourcesRequest](b.fake) {
		out = append(out, fmt.Sprintf("%d/%d/%d", r.Linux.CpuShares, r.Linux.CpuQuota, r.Linux.MemoryLimitInBytes>>20))
	}
	return strings.Join(out, " ")
}

// TestResize: memory first with CPU as it was, then CPU; after it nothing lags, and nothing is done twice.
func TestResize(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].Resources = podtest.Resources("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	if got := updates(b); got != "" {
		t.Errorf("a new container is updated: %s", got)
	}
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = podtest.Resources("1-2 20Mi-40Mi")
	allocate(t, b, pod)
	for range 2 {
		b.mustSync(t, pod)
		if got, want := updates(b), "102/20000/40 1024/200000/40"; got != want {
			t.Errorf("updates %q, want %q", got, want)
		}
		if shares := b.seen(pod).Container("a").Resources.GetLinux().GetCpuShares(); shares != 1024 {
			t.Errorf("the result's reading has %d shares, what was before", shares)
		}
	}
	if _, lags := b.opts.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
	b.want(t, pod, "box0 a/0:run")
}

func TestResizeRestarts(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	pod.Spec.Containers[0].Resources = podtest.Resources("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = podtest.Resources("100m-200m 10Mi-30Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:exit143 a/1:run b/0:run")
	wantEvents(t, b, "Normal Killing spec.containers{a}: Container a resize requires restart")
	if got := updates(b); got != "" {
		t.Errorf("updates %q of a container that starts anew", got)
	}
	if _, lags := b.opts.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
}

// TestResizeFails: what could not be done is an error of its own, goes on lagging and is tried again.
func TestResizeFails(t *testing.T) {
	b := newBench(t, nil)
	b.fake.MemoryUsage = 15 << 20
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].Resources = podtest.Resources("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = podtest.Resources("100m-200m 10Mi-12Mi")
	allocate(t, b, pod)
	_, err := b.sync(t, pod, inputs{})
	want := `attempting to set container "a" memory limit (12582912) below current usage (15728640)`
	if _, ok := errors.AsType[*resize.Error](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a resize.Error: %s", err, want)
	}
	b.fake.MemoryUsage = 1 << 20
	b.fake.FailNext("UpdateContainerResources", errors.New("no"))
	if _, err := b.sync(t, pod, inputs{}); err == nil || !strings.Contains(err.Error(), "resize memory of container a: ") {
		t.Errorf("%v", err)
	}
	if _, lags := b.opts.Allocation.Actuated(pod.UID); !lags {
		t.Error("nothing lags after a resize that failed")
	}
	b.mustSync(t, pod)
	if _, lags := b.opts.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
}

func allocate(t *testing.T, b *bench, pod *corev1.Pod) {
	t.Helper()
	if err := b.opts.Allocation.Allocate(pod); err != nil {
		t.Fatal(err)
	}
}

// TestResetInSandbox: after the end that a rule names all containers begin anew in the same sandbox, init containers first.
func TestResetInSandbox(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("i:i c:a c:b", corev1.RestartPolicyNever)
	a := &pod.Spec.Containers[0]
	a.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	a.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{9}},
	}}
	b.mustSync(t, pod)
	b.fake.SetExit(b.fake.ContainerID("i"), 0)
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:run b/0:run i/0:exit0")
	b.fake.SetExit(b.fake.ContainerID("a"), 9)
	result := b.mustSync(t, pod)
	b.want(t, pod, "box0")
	if result.RetryAt.IsZero() {
		t.Error("the sync that removed the containers does not ask for another")
	}
	b.mustSync(t, pod)
	b.want(t, pod, "box0 i/0:run")
	wantEvents(t, b, "Normal Killing spec.containers{b}: killing")
}
