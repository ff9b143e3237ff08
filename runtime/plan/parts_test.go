package plan

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/allocation"
	"minikubelet/runtime/resize"
)

// planned writes the resize of a plan as "memory a b, cpu b", and whatever else is planned.
func planned(a Actions) string {
	if a.Resize == nil {
		return write(a)
	}
	names := func(list []resize.Container) (out string) {
		for _, c := range list {
			out += " " + c.Spec.Name
		}
		return out
	}
	out := "memory" + names(a.Resize.Memory) + ", cpu" + names(a.Resize.CPU)
	if rest := write(a); rest != "" {
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
					list[i].Resources = podtest.Resources(tc.wants[list[i].Name])
					if tc.restart != "" {
						list[i].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: tc.restart, RestartPolicy: corev1.RestartContainer}}
					}
				}
			}
			if line, ok := tc.wants[""]; ok {
				pod.Spec.Resources = new(podtest.Resources(line))
			}
			in := Input{Pod: pod, Observed: observe(tc.observed)}
			if tc.had != nil {
				actuated := &allocation.Resources{Containers: map[string]corev1.ResourceRequirements{}}
				for name, line := range tc.had {
					if name == "" {
						actuated.Pod = new(podtest.Resources(line))
					} else {
						actuated.Containers[name] = podtest.Resources(line)
					}
				}
				in.Resize = resize.Plan(pod, in.Observed, actuated)
			}
			if got := planned(ComputePodActions(in)); got != tc.want {
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
		actions := ComputePodActions(Input{Pod: pod, Observed: observe(tc.observed)})
		var words []string
		for _, r := range actions.Reset {
			words = append(words, strings.TrimSpace(map[bool]string{true: "kill "}[r.Kill]+r.ID))
		}
		if rest := write(actions); rest != "" {
			words = append(words, rest)
		}
		if got := strings.Join(words, ", "); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
