package runtime

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/allocation"
	"minikubelet/runtime/cri/crifake"
)

// sized is resources from a line such as "100m-200m 1Mi-2Mi": requests and limits of CPU and memory; "" is none.
func sized(line string) corev1.ResourceRequirements {
	var out corev1.ResourceRequirements
	for i, pair := range strings.Fields(line) {
		name := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]
		request, limit, _ := strings.Cut(pair, "-")
		set := func(list *corev1.ResourceList, amount string) {
			if amount == "" {
				return
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = resource.MustParse(amount)
		}
		set(&out.Requests, request)
		set(&out.Limits, limit)
	}
	return out
}

// planned writes the resize of a plan as "memory a b, cpu b", and whatever else is planned.
func planned(a podActions) string {
	if a.Resize == nil {
		return plan(a)
	}
	names := func(list []containerResize) (out string) {
		for _, c := range list {
			out += " " + c.Container.Name
		}
		return out
	}
	out := "memory" + names(a.Resize.Memory) + ", cpu" + names(a.Resize.CPU)
	if rest := plan(a); rest != "" {
		out = rest + "; " + out
	}
	return out
}

func TestPlanResize(t *testing.T) {
	const small, large = "100m-200m 10Mi-20Mi", "200m-300m 20Mi-30Mi"
	for _, tc := range []struct {
		name, pod, observed string
		had, wants          map[string]string // "" is the pod
		restart             corev1.ResourceName
		want                string
	}{
		{name: "nothing lags", pod: "c:a", observed: "box0 a:run", wants: map[string]string{"a": large}},
		{name: "more", pod: "c:a", observed: "box0 a:run", had: map[string]string{"a": small}, wants: map[string]string{"a": large}, want: "memory a, cpu a"},
		{name: "memory request alone", pod: "c:a", observed: "box0 a:run", had: map[string]string{"a": "100m-200m 5Mi-20Mi"}, wants: map[string]string{"a": small}, want: "memory a, cpu"},
		{name: "who gets less comes first", pod: "c:a c:b c:c", observed: "box0 a:run b:run c:run",
			had: map[string]string{"a": small, "b": large, "c": small}, wants: map[string]string{"a": large, "b": small, "c": large}, want: "memory b a c, cpu b a c"},
		{name: "what does not run gets it with its start", pod: "c:a c:b", observed: "box0 a:exit1 b:run",
			had: map[string]string{"a": small}, wants: map[string]string{"a": large}, want: "start a/1; memory, cpu"},
		{name: "restart for memory", pod: "c:a c:b", observed: "box0 a:run b:run", restart: corev1.ResourceMemory,
			had: map[string]string{"a": small, "b": "100m-200m 20Mi-30Mi"}, wants: map[string]string{"a": large, "b": large}, want: "kill a.0, start a/1; memory, cpu b"},
		{name: "restart of a sidecar", pod: "s:s c:a", observed: "box0 a:run s:run", restart: corev1.ResourceCPU,
			had: map[string]string{"s": small}, wants: map[string]string{"s": large}, want: "kill s.0, start s/1; memory, cpu"},
		{name: "the pod's limit is the container's where it has none", pod: "c:a c:b", observed: "box0 a:run b:run",
			had: map[string]string{"": small}, wants: map[string]string{"": large, "b": "100m-150m 10Mi-15Mi"}, want: "memory a, cpu a"},
		{name: "taken back before it was done", pod: "c:a", observed: "box0 a:run", had: map[string]string{"a": large}, wants: map[string]string{"a": large}, want: "memory, cpu"},
		{name: "no sandbox", pod: "c:a", observed: "box0- a:run", had: map[string]string{"a": small}, wants: map[string]string{"a": large}, want: "killpod, sandbox 1, start a/1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := podtest.Pod(tc.pod, corev1.RestartPolicyAlways)
			lists := [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers}
			for _, list := range lists {
				for i := range list {
					list[i].Resources = sized(tc.wants[list[i].Name])
					if tc.restart != "" {
						list[i].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: tc.restart, RestartPolicy: corev1.RestartContainer}}
					}
				}
			}
			if line, ok := tc.wants[""]; ok {
				pod.Spec.Resources = new(sized(line))
			}
			in := actionInput{Pod: pod, Observed: observe(tc.observed), Verdicts: verdicts{}}
			if tc.had != nil {
				in.Actuated = &allocation.Resources{Containers: map[string]corev1.ResourceRequirements{}}
				for name, line := range tc.had {
					if name == "" {
						in.Actuated.Pod = new(sized(line))
					} else {
						in.Actuated.Containers[name] = sized(line)
					}
				}
			}
			if got := planned(computePodActions(in)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPlanReset(t *testing.T) {
	for _, tc := range []struct{ name, observed, want string }{
		{"a rule for another code", "box0 a:exit1 b:run i:exit0", "start a/1"},
		{"all begin anew, the cause goes last", "box0 a:exit9 b:run b:exit1 i:exit0", "kill b.0, b.0, i.0, a.0"},
		{"of the cause's instances the newest goes last", "box0 a:exit9/1 a:exit9 b:new i:exit0", "b.0, i.0, a.0, a.1"},
		{"an earlier instance is no cause", "box0 a:run/1 a:exit9 b:run i:exit0", ""},
		{"all gone", "box0", "start i/0"},
	} {
		pod := podtest.Pod("i:i c:a c:b", corev1.RestartPolicyNever)
		a := &pod.Spec.Containers[0]
		a.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		a.RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{9}},
		}}
		actions := computePodActions(actionInput{Pod: pod, Observed: observe(tc.observed), Verdicts: verdicts{}})
		var words []string
		for _, r := range actions.Reset {
			words = append(words, strings.TrimSpace(map[bool]string{true: "kill "}[r.Kill]+r.ID))
		}
		if rest := plan(actions); rest != "" {
			words = append(words, rest)
		}
		if got := strings.Join(words, ", "); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

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
	pod.Spec.Containers[0].Resources = sized("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	if got := updates(b); got != "" {
		t.Errorf("a new container is updated: %s", got)
	}
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = sized("1-2 20Mi-40Mi")
	allocate(t, b, pod)
	for range 2 {
		result := b.mustSync(t, pod)
		if got, want := updates(b), "102/20000/40 1024/200000/40"; got != want {
			t.Errorf("updates %q, want %q", got, want)
		}
		if shares := result.Observed.Container("a").Resources.GetLinux().GetCpuShares(); shares != 1024 {
			t.Errorf("the result's reading has %d shares, what was before", shares)
		}
	}
	if _, lags := b.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
	b.want(t, pod, "box0 a/0:run")
}

func TestResizeRestarts(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	pod.Spec.Containers[0].Resources = sized("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = sized("100m-200m 10Mi-30Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:exit143 a/1:run b/0:run")
	wantEvents(t, b, "Normal Killing spec.containers{a}: Container a resize requires restart")
	if got := updates(b); got != "" {
		t.Errorf("updates %q of a container that starts anew", got)
	}
	if _, lags := b.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
}

// TestResizeFails: what could not be done is an error of its own, goes on lagging and is tried again.
func TestResizeFails(t *testing.T) {
	b := newBench(t, nil)
	b.fake.MemoryUsage = 15 << 20
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].Resources = sized("100m-200m 10Mi-20Mi")
	allocate(t, b, pod)
	b.mustSync(t, pod)
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources = sized("100m-200m 10Mi-12Mi")
	allocate(t, b, pod)
	_, err := b.sync(t, pod, inputs{})
	want := `attempting to set container "a" memory limit (12582912) below current usage (15728640)`
	if _, ok := errors.AsType[*ResizeError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a ResizeError: %s", err, want)
	}
	b.fake.MemoryUsage = 1 << 20
	b.fake.FailNext("UpdateContainerResources", errors.New("no"))
	if _, err := b.sync(t, pod, inputs{}); err == nil || !strings.Contains(err.Error(), "resize memory of container a: ") {
		t.Errorf("%v", err)
	}
	if _, lags := b.Allocation.Actuated(pod.UID); !lags {
		t.Error("nothing lags after a resize that failed")
	}
	b.mustSync(t, pod)
	if _, lags := b.Allocation.Actuated(pod.UID); lags {
		t.Error("something lags after the resize")
	}
}

func allocate(t *testing.T, b *bench, pod *corev1.Pod) {
	t.Helper()
	if err := b.Allocation.Allocate(pod); err != nil {
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

func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		before, after *int64
		want          int
	}{
		{nil, nil, 0}, {new(int64(1)), nil, 0}, {nil, new(int64(1)), 0},
		{new(int64(1)), new(int64(2)), 1}, {new(int64(2)), new(int64(1)), -1}, {new(int64(2)), new(int64(2)), 0},
		{new(int64(-1)), new(int64(2)), -1}, {new(int64(2)), new(int64(-1)), 1}, {new(int64(-1)), new(int64(-1)), 0},
	} {
		if got := compare(tc.before, tc.after); got != tc.want {
			t.Errorf("compare(%v, %v) = %d, want %d", tc.before, tc.after, got, tc.want)
		}
	}
}
